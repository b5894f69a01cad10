// The ECG viewer without the page: reading the packed record, and saying in words what is drawn.

import { extent, short } from "../../widgets/kit.js";

/** Millivolts of the 12 leads from the packed 16-bit integers. */
export function decode(record, step) {
  const bytes = Uint8Array.from(atob(record.leads), (c) => c.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  const value = (lead, i) => step * view.getInt16(2 * (lead * record.samples + i), true);
  return Array.from({ length: 12 }, (_, lead) =>
    Float32Array.from({ length: record.samples }, (_, i) => value(lead, i)),
  );
}

/** Neighbouring indices as half-open runs: [0, 1, 4] gives [[0, 2], [4, 5]]. */
export function runs(hidden) {
  const found = [];
  for (const i of hidden) {
    if (found.length && found.at(-1)[1] === i) found.at(-1)[1] = i + 1;
    else found.push([i, i + 1]);
  }
  return found;
}

export const secondsOf = (record) => record.samples / record.rate;

/** A number with its sign. */
export function signed(v) {
  if (v === 0) return "0";
  return v < 0 ? `−${short(-v)}` : `+${short(v)}`;
}

/** The time from patch a to patch b. */
function span(record, a, b, digits = 2) {
  const length = secondsOf(record) / record.patches;
  return `${(a * length).toFixed(digits)}–${(b * length).toFixed(digits)} s`;
}

/** The record's mask of that name; "" is none; a name that this record lacks gives its first. */
export function maskOf(record, name) {
  if (name === "") return null;
  return record.masks.find((mask) => mask.name === name) || record.masks[0] || null;
}

/** One patch in words: its time, whether it was hidden and how well it was predicted, its part in the diagnosis. */
export function patchText(record, mask, diagnosis, patch) {
  const parts = [`patch ${patch + 1} of ${record.patches} (${span(record, patch, patch + 1)})`];
  if (mask) {
    const place = mask.hidden.indexOf(patch);
    parts.push(place < 0 ? "seen by the model" : `hidden, latent error ${short(mask.error[place])}`);
  }
  const weights = diagnosis && record.saliency[diagnosis];
  if (weights) parts.push(`weight for ${diagnosis} ${signed(weights[patch])}`);
  return parts.join(", ");
}

/** What a mask hides and how well it was predicted, in words. */
function maskText(record, mask) {
  const [low, high] = extent(mask.error);
  const hardest = mask.hidden[mask.error.indexOf(high)];
  const mean = mask.error.reduce((a, b) => a + b) / mask.error.length;
  const times = runs(mask.hidden).map(([a, b]) => span(record, a, b, 1));
  const where = times.length > 6 ? `${times.length} stretches` : times.join(", ");
  const hides = `Hidden by “${mask.name}”: ${mask.hidden.length} of ${record.patches} patches (${where}).`;
  const largest = `largest at ${span(record, hardest, hardest + 1)}`;
  return `${hides} Latent error ${short(low)} to ${short(high)}, mean ${short(mean)}; ${largest}.`;
}

/** The whole view in words; also the picture's text alternative. */
export function summary(record, mask, diagnosis) {
  const parts = [`${record.name}: ${record.diagnoses.join(", ") || "no diagnosis"}.`];
  parts.push(mask ? maskText(record, mask) : "Nothing is hidden.");
  const weights = diagnosis && record.saliency[diagnosis];
  if (weights) {
    const best = weights.indexOf(Math.max(...weights));
    parts.push(`${diagnosis} rests most on ${span(record, best, best + 1)} (${signed(weights[best])}).`);
  }
  return parts.join(" ");
}

/** Scales shared by all records, so that colours can be compared: error [low, high], saliency {diagnosis: largest}. */
export function scalesOf(records) {
  const errors = records.flatMap((record) => record.masks.flatMap((mask) => mask.error));
  const saliency = {};
  for (const record of records) {
    for (const [name, weights] of Object.entries(record.saliency)) {
      saliency[name] = Math.max(saliency[name] || 0, ...weights.map(Math.abs));
    }
  }
  return { error: errors.length ? extent(errors) : [0, 1], saliency };
}
