// The drawing of the ECG viewer: paper, traces, hidden time, and strips of errors and weights below them.

import { extent, linear, shape } from "../../widgets/kit.js";
import { maskOf, runs, secondsOf, summary } from "./explorer_text.js";

const MM_PER_S = 25; // paper speed and gain of every print-out; bold lines each 5 mm
const MM_PER_MV = 10;
const BOX = 5;
const FINE_MM = 2; // px per mm from which fine lines can be told apart
const PRINTOUT = [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11], [1]]; // four leads in turn; lead II all through below
const MOST_MV = 1.8; // beyond that rows overlap, as on paper
const NAMES_PX = 34; // room for lead names beside the paper
const STEPS_S = [0.25, 0.5, 1, 2, 5, 10, 30, 60];

export const isFine = (mm) => mm >= FINE_MM;

/** Lowest and highest value of each lead over all records, so that the paper keeps its height. */
export function extentsOf(signals) {
  return signals[0].map((_, lead) => {
    const [low, high] = extent(signals.flatMap((leads) => extent(leads[lead])));
    return [Math.max(-MOST_MV, low), Math.min(MOST_MV, high)];
  });
}

/** Rows of the paper from the height of the leads: {pieces: [{lead, from, to}], top, zero, bottom}, in mm and shares of the time. */
export function rows(extents, printout) {
  const leads = printout ? PRINTOUT : extents.map((_, i) => [i]);
  let top = 0;
  return leads.map((row) => {
    const high = Math.max(printout ? 1.2 : 0.4, ...row.map((lead) => extents[lead][1]));
    const low = Math.min(-0.3, ...row.map((lead) => extents[lead][0]));
    const zero = top + BOX * Math.ceil((high * MM_PER_MV + 2) / BOX);
    const bottom = zero + BOX * Math.ceil((1 - low * MM_PER_MV) / BOX);
    const pieces = row.map((lead, k) => ({ lead, from: k / row.length, to: (k + 1) / row.length }));
    const made = { top, zero, bottom, pieces };
    top = bottom;
    return made;
  });
}

/** Where things stand on a drawing `width` px wide: window of time, px per mm, and the maps between seconds and px. */
function geometry(width, record, { key, parts }, from) {
  const printout = key === "printout";
  const seconds = secondsOf(record) / parts;
  const start = Math.min(from, secondsOf(record) - seconds);
  const end = start + seconds;
  const pulse = 10; // mm, room for the calibration pulse
  const mm = printout ? width / (pulse + MM_PER_S * seconds) : (width - NAMES_PX) / (MM_PER_S * seconds);
  const left = printout ? pulse * mm : NAMES_PX;
  const right = left + mm * MM_PER_S * seconds;
  const px = linear([start, end], [left, right]);
  return { mm, left, right, start, seconds, end, width, printout, px, toTime: linear([left, right], [start, end]) };
}

// ---- paper and traces -------------------------------------------------------------------------------

function ruling(id, mm, x) {
  const line = shape("path", { d: `M${mm} 0H0V${mm}`, class: `jl-e-${id.split("-").at(-1)}` });
  return shape("pattern", { id, x, width: mm, height: mm, patternUnits: "userSpaceOnUse" }, line);
}

function hatching(id) {
  const line = shape("line", { x1: 0, x2: 0, y1: 0, y2: 9, class: "jl-e-hatch" });
  const turned = { patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" };
  return shape("pattern", { id, width: 9, height: 9, ...turned }, line);
}

/** Points of one lead between two times (s), as an SVG path; every sample is kept. */
function trace(values, rate, from, to, px, zero, mm) {
  const first = Math.max(0, Math.ceil(from * rate - 1e-6));
  const last = Math.min(values.length - 1, Math.floor(to * rate + 1e-6));
  const points = [];
  for (let i = first; i <= last; i++) {
    points.push(`${px(i / rate).toFixed(1)} ${(zero - values[i] * MM_PER_MV * mm).toFixed(1)}`);
  }
  return `M${points.join("L")}`;
}

/** One row of the paper: the calibration pulse, the traces of its leads with cuts between them, and their names. */
function drawRow(g, signals, record, row, ink, names) {
  const { mm, px } = g;
  const zero = row.zero * mm;
  const up = MM_PER_MV * mm;
  if (g.printout) ink.append(shape("path", { d: `M${2 * mm} ${zero}h${mm}v${-up}h${BOX * mm}v${up}h${mm}` }));
  for (const { lead, from, to } of row.pieces) {
    const [a, b] = [g.start + from * g.seconds, g.start + to * g.seconds];
    ink.append(shape("path", { d: trace(signals[lead], record.rate, a, b, px, zero, mm) }));
    const cut = `M${px(a)} ${zero - BOX * mm}v${2 * mm}M${px(a)} ${zero + 3 * mm}v${2 * mm}`;
    if (from > 0) ink.append(shape("path", { class: "jl-e-cut", d: cut }));
    const place = g.printout ? { x: px(a) + 3, y: row.top * mm + 13 } : { x: 3, y: zero + 4 };
    names.append(shape("text", place, g.names[lead]));
  }
}

/** Paper, traces and calibration pulses: {bottom, names}; `names` go above what hides the paper. */
function drawPaper(svg, id, g, signals, record, lines) {
  const bottom = lines.at(-1).bottom * g.mm;
  const paper = { x: 0, y: 0, width: g.width, height: bottom };
  const sizes = isFine(g.mm) ? { fine: g.mm, bold: BOX * g.mm } : { bold: BOX * g.mm };
  const rulings = Object.entries(sizes).map(([name, size]) => ruling(`${id}-${name}`, size, g.left));
  svg.append(shape("defs", {}, ...rulings, hatching(`${id}-hatch`)));
  svg.append(shape("rect", { ...paper, class: "jl-e-paper" }));
  for (const name of Object.keys(sizes)) svg.append(shape("rect", { ...paper, fill: `url(#${id}-${name})` }));
  const ink = shape("g", { class: "jl-e-ink" });
  const names = shape("g", { class: "jl-e-names" });
  for (const row of lines) drawRow(g, signals, record, row, ink, names);
  svg.append(ink);
  return { bottom, names };
}

/** Seconds below the paper; returns the height where the next part begins, as the functions below do. */
function drawTime(svg, g, y) {
  const step = STEPS_S.find((s) => (s * g.width) / g.seconds >= 56) ?? STEPS_S.at(-1);
  for (let t = Math.ceil(g.start / step - 1e-6) * step; t <= g.end + 1e-6; t += step) {
    const x = g.px(t);
    const atEdge = x > g.width - 14;
    const place = { x: atEdge ? g.width : x, y: y + 15, "text-anchor": atEdge ? "end" : "middle" };
    svg.append(shape("line", { class: "jl-e-tick", x1: x, x2: x, y1: y, y2: y + 4 }));
    svg.append(shape("text", place, `${+t.toFixed(2)} s`));
  }
  return y + 22;
}

// ---- patches ----------------------------------------------------------------------------------------

/** Where a patch lies in the window, as {x, width} in px, or null when it is outside. */
export function cell(g, record, patch, count = 1) {
  const size = secondsOf(record) / record.patches;
  const a = Math.max(g.start, patch * size);
  const b = Math.min(g.end, (patch + count) * size);
  return b > a + 1e-9 ? { x: g.px(a), width: g.px(b) - g.px(a) } : null;
}

/** An empty strip below its heading; returns where its inside begins. */
function strip(svg, g, heading, height, y) {
  svg.append(shape("text", { x: 0, y: y + 12, class: "jl-e-head" }, heading));
  const frame = { class: "jl-e-frame", x: g.left, y: y + 18, width: g.right - g.left, height };
  if (height) svg.append(shape("rect", frame));
  return y + 18;
}

/** Latent errors under the hidden patches: the stronger the colour, the larger the error. Seen patches stay empty. */
function drawErrors(svg, g, record, mask, [low, high], y) {
  const height = 22;
  const top = strip(svg, g, "Latent error of each hidden patch", height, y);
  const share = (error) => (high > low ? (error - low) / (high - low) : 1);
  mask.hidden.forEach((patch, i) => {
    const at = cell(g, record, patch);
    const look = { class: "jl-e-error", y: top, height, "fill-opacity": 0.12 + 0.88 * share(mask.error[i]) };
    if (at) svg.append(shape("rect", { ...at, ...look }));
  });
  return top + height + 8;
}

/** Weights of a diagnosis as bars from a middle line: up where hiding the patch lowers the score, down where it raises it. */
function drawSaliency(svg, g, record, diagnosis, largest, y) {
  const weights = record.saliency[diagnosis];
  if (!weights) return 4 + strip(svg, g, `“${diagnosis}” was not explained for this record`, 0, y);
  const height = 44;
  const top = strip(svg, g, `What “${diagnosis}” rests on`, height, y);
  const middle = top + height / 2;
  weights.forEach((weight, patch) => {
    const at = cell(g, record, patch);
    if (!at) return;
    const tall = largest ? (Math.abs(weight) / largest) * (height / 2) : 0;
    const bar = { x: at.x + 0.5, width: Math.max(0.5, at.width - 1), y: weight < 0 ? middle : middle - tall };
    svg.append(shape("rect", { ...bar, height: tall, class: weight < 0 ? "jl-e-against" : "jl-e-for" }));
  });
  svg.append(shape("line", { class: "jl-e-tick", x1: g.left, x2: g.right, y1: middle, y2: middle }));
  return top + height + 8;
}

/** Hidden time as a hatched veil over paper and traces. */
function drawVeil(svg, id, g, record, mask, height) {
  for (const [first, last] of runs(mask.hidden)) {
    const at = cell(g, record, first, last - first);
    if (!at) continue;
    svg.append(shape("rect", { ...at, class: "jl-e-veil", y: 0, height }));
    svg.append(shape("rect", { ...at, y: 0, height, fill: `url(#${id}-hatch)` }));
  }
}

/** The drawing: {svg, g, lines, cursor, record, mask}; lead and time under a point follow from g and lines. */
export function draw(id, width, shown, state, view) {
  const { data, signals, extents, scales } = shown;
  const record = data.records[state.record];
  const mask = maskOf(record, state.mask);
  const g = { ...geometry(width, record, view, state.from), names: data.leads };
  const lines = rows(extents, g.printout);
  const label = `12-lead ECG. ${summary(record, mask, state.diagnosis)}`;
  const look = { class: "jl-e-svg", "data-view": isFine(g.mm) ? "fine" : "coarse" };
  const svg = shape("svg", { role: "img", "aria-label": label, ...look });
  const { bottom, names } = drawPaper(svg, id, g, signals[state.record], record, lines);
  if (mask) drawVeil(svg, id, g, record, mask, bottom);
  svg.append(names);
  let y = drawTime(svg, g, bottom);
  if (mask) y = drawErrors(svg, g, record, mask, scales.error, y);
  if (state.diagnosis) y = drawSaliency(svg, g, record, state.diagnosis, scales.saliency[state.diagnosis], y);
  const cursor = shape("rect", { class: "jl-e-cursor", y: 1, height: y - 2, visibility: "hidden" });
  svg.append(cursor);
  svg.setAttribute("viewBox", `0 0 ${width} ${y}`);
  svg.setAttribute("height", y);
  return { svg, g, lines, cursor, record, mask };
}
