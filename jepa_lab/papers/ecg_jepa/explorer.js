// The ECG viewer: one 12-lead record on paper, hidden time, latent errors, neighbours. In the page, without a kernel or a network.
// The data are checked and packed by viewer_data in jepa_lab/explorers/ecg.py.

// ---- what is shown, without the page ----------------------------------------------------------------

const MM_PER_S = 25, MM_PER_MV = 10, BOX = 5; // the paper speed and gain of every print-out; bold lines each 5 mm
const PRINTOUT = [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11], [1]]; // four leads in turn; lead II all through below
const VIEWS = [["printout", 1], ["all", 1], ["half", 2], ["quarter", 4]]; // and the part of the time that is in the window
const NARROW = 520; // px below which there is no print-out, only leads below one another

/** Millivolts of the 12 leads from the packed 16-bit integers. */
export function decode(record, step) {
  const bytes = Uint8Array.from(atob(record.leads), (c) => c.charCodeAt(0)), view = new DataView(bytes.buffer);
  return Array.from({ length: 12 }, (_, lead) => Float32Array.from({ length: record.samples }, (_, i) => step * view.getInt16(2 * (lead * record.samples + i), true)));
}

/** Neighbouring indices as half-open runs: [0, 1, 4] gives [[0, 2], [4, 5]]. */
export function runs(hidden) {
  const found = [];
  for (const i of hidden) if (found.length && found.at(-1)[1] === i) found.at(-1)[1] = i + 1; else found.push([i, i + 1]);
  return found;
}

/** Rows of the paper from the height of the leads: {pieces: [{lead, from, to}], top, zero, bottom} in mm and shares of the time. */
export function rows(extents, printout) {
  const leads = printout ? PRINTOUT : extents.map((_, i) => [i]);
  let top = 0;
  return leads.map((row) => {
    const high = Math.max(printout ? 1.2 : 0.4, ...row.map((lead) => extents[lead][1])), low = Math.min(-0.3, ...row.map((lead) => extents[lead][0]));
    const zero = top + BOX * Math.ceil((high * MM_PER_MV + 2) / BOX), bottom = zero + BOX * Math.ceil((1 - low * MM_PER_MV) / BOX);
    const made = { top, zero, bottom, pieces: row.map((lead, k) => ({ lead, from: k / row.length, to: (k + 1) / row.length })) };
    top = bottom;
    return made;
  });
}

/** Lowest and highest value of each lead over all records, so that the paper keeps its height; beyond 1.8 mV rows overlap, as on paper. */
function extentsOf(signals) {
  const low = (values) => values.reduce((a, b) => Math.min(a, b)), high = (values) => values.reduce((a, b) => Math.max(a, b));
  return signals[0].map((_, lead) => [Math.max(-1.8, low(signals.map((s) => low(s[lead])))), Math.min(1.8, high(signals.map((s) => high(s[lead]))))]);
}

const range = (values) => [Math.min(...values), Math.max(...values)];
const short = (v) => (v === 0 ? "0" : Math.abs(v) >= 1e4 || Math.abs(v) < 1e-3 ? v.toExponential(1) : String(+v.toPrecision(3)));
const signed = (v) => (v < 0 ? `−${short(-v)}` : v > 0 ? `+${short(v)}` : "0");
const share = (v, [low, high]) => (high > low ? (v - low) / (high - low) : 1);
const secondsOf = (record) => record.samples / record.rate;
const span = (record, a, b, digits = 2) => { const d = secondsOf(record) / record.patches; return `${(a * d).toFixed(digits)}–${(b * d).toFixed(digits)} s`; };

/** One patch in words: its time, whether it was hidden and how well it was predicted, its part in the chosen diagnosis. */
export function patchText(record, mask, diagnosis, patch) {
  const place = mask ? mask.hidden.indexOf(patch) : -1, said = [`patch ${patch + 1} of ${record.patches} (${span(record, patch, patch + 1)})`];
  if (mask) said.push(place < 0 ? "seen by the model" : `hidden, latent error ${short(mask.error[place])}`);
  if (diagnosis && record.saliency[diagnosis]) said.push(`weight for ${diagnosis} ${signed(record.saliency[diagnosis][patch])}`);
  return said.join(", ");
}

/** The whole view in words; also the picture's text alternative. */
export function summary(record, mask, diagnosis) {
  const said = [`${record.name}: ${record.diagnoses.length ? record.diagnoses.join(", ") : "no diagnosis"}.`];
  if (mask) {
    const [low, high] = range(mask.error), hardest = mask.hidden[mask.error.indexOf(high)], mean = mask.error.reduce((a, b) => a + b) / mask.error.length;
    const times = runs(mask.hidden).map(([a, b]) => span(record, a, b, 1));
    said.push(`Hidden by “${mask.name}”: ${mask.hidden.length} of ${record.patches} patches (${times.length > 6 ? `${times.length} stretches` : times.join(", ")}).`);
    said.push(`Latent error ${short(low)} to ${short(high)}, mean ${short(mean)}; largest at ${span(record, hardest, hardest + 1)}.`);
  } else said.push("Nothing is hidden.");
  const weights = diagnosis && record.saliency[diagnosis];
  if (weights) { const best = weights.indexOf(Math.max(...weights)); said.push(`${diagnosis} rests most on ${span(record, best, best + 1)} (${signed(weights[best])}).`); }
  return said.join(" ");
}

// ---- the page ---------------------------------------------------------------------------------------

const SVG = "http://www.w3.org/2000/svg";

function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function shape(tag, attributes = {}, text = "") {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, typeof value === "number" ? +value.toFixed(2) : value);
  if (text) node.textContent = text;
  return node;
}

/** The patterns of the paper: fine lines each mm where they can be told apart, bold ones each 5 mm. */
function paperPatterns(id, mm, x) {
  const lines = (name, size) => {
    const pattern = shape("pattern", { id: `${id}-${name}`, x, width: size, height: size, patternUnits: "userSpaceOnUse" });
    pattern.append(shape("path", { d: `M${size} 0H0V${size}`, class: `jl-e-${name}` }));
    return pattern;
  };
  const defs = shape("defs"), hatch = shape("pattern", { id: `${id}-hatch`, width: 9, height: 9, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" });
  hatch.append(shape("line", { x1: 0, x2: 0, y1: 0, y2: 9, class: "jl-e-hatch" }));
  defs.append(...(mm >= 2 ? [lines("fine", mm)] : []), lines("bold", BOX * mm), hatch);
  return defs;
}

/** Points of one lead between two times (s), as an SVG path; a long record on a narrow screen keeps every sample. */
function trace(values, rate, from, to, px, zero, mm) {
  const first = Math.max(0, Math.ceil(from * rate - 1e-6)), last = Math.min(values.length - 1, Math.floor(to * rate + 1e-6));
  let d = "";
  for (let i = first; i <= last; i++) d += `${i === first ? "M" : "L"}${px(i / rate).toFixed(1)} ${(zero - values[i] * MM_PER_MV * mm).toFixed(1)}`;
  return d;
}

/** Where things stand on a drawing `width` px wide: the window of time, px per mm, and the two maps between seconds and px. */
function geometry(width, record, [view, parts], from) {
  const printout = view === "printout", seconds = secondsOf(record) / parts, start = Math.min(from, secondsOf(record) - seconds);
  const mm = printout ? width / (10 + MM_PER_S * seconds) : (width - 34) / (MM_PER_S * seconds), left = printout ? 10 * mm : 34; // room for the pulse, or for names
  return { mm, left, start, seconds, end: start + seconds, width, printout, px: (t) => left + mm * MM_PER_S * (t - start), toTime: (x) => start + (x - left) / (mm * MM_PER_S) };
}

/** Paper, traces, lead names, calibration pulses. */
function drawPaper(svg, id, g, signals, record, lines) {
  const { mm, px } = g, bottom = lines.at(-1).bottom * mm;
  svg.append(paperPatterns(id, mm, g.left), shape("rect", { class: "jl-e-paper", x: 0, y: 0, width: g.width, height: bottom }));
  for (const name of mm >= 2 ? ["fine", "bold"] : ["bold"]) svg.append(shape("rect", { x: 0, y: 0, width: g.width, height: bottom, fill: `url(#${id}-${name})` }));
  const ink = shape("g", { class: "jl-e-ink" }), names = shape("g", { class: "jl-e-names" });
  for (const row of lines) {
    const zero = row.zero * mm;
    if (g.printout) ink.append(shape("path", { d: `M${2 * mm} ${zero}h${mm}v${-MM_PER_MV * mm}h${BOX * mm}v${MM_PER_MV * mm}h${mm}` }));
    for (const { lead, from, to } of row.pieces) {
      const a = g.start + from * g.seconds, b = g.start + to * g.seconds;
      ink.append(shape("path", { d: trace(signals[lead], record.rate, a, b, px, zero, mm) }));
      if (from > 0) ink.append(shape("path", { class: "jl-e-cut", d: `M${px(a)} ${zero - BOX * mm}v${2 * mm}M${px(a)} ${zero + 3 * mm}v${2 * mm}` }));
      names.append(shape("text", g.printout ? { x: px(a) + 3, y: row.top * mm + 13 } : { x: 3, y: zero + 4 }, g.names[lead]));
    }
  }
  svg.append(ink);
  return { bottom, names };
}

/** Seconds below the paper. */
function drawTime(svg, g, y) {
  const room = g.width / g.seconds, step = [0.25, 0.5, 1, 2, 5, 10, 30].find((s) => s * room >= 56) || 60;
  for (let t = Math.ceil(g.start / step - 1e-6) * step; t <= g.end + 1e-6; t += step) {
    const edge = g.px(t) > g.width - 14;
    svg.append(shape("line", { class: "jl-e-tick", x1: g.px(t), x2: g.px(t), y1: y, y2: y + 4 }), 
      shape("text", { x: edge ? g.width : g.px(t), y: y + 15, "text-anchor": edge ? "end" : "middle" }, `${+t.toFixed(2)} s`));
  }
  return y + 22;
}

/** Where a patch lies in the window, as {x, width} in px, or null when it is outside. */
function cell(g, record, patch, count = 1) {
  const size = secondsOf(record) / record.patches, a = Math.max(g.start, patch * size), b = Math.min(g.end, (patch + count) * size);
  return b > a + 1e-9 ? { x: g.px(a), width: g.px(b) - g.px(a) } : null;
}

/** An empty strip below its heading; returns where its inside begins. */
function strip(svg, g, heading, height, y) {
  svg.append(shape("text", { x: 0, y: y + 12, class: "jl-e-head" }, heading));
  if (height) svg.append(shape("rect", { class: "jl-e-frame", x: g.px(g.start), y: y + 18, width: g.px(g.end) - g.px(g.start), height }));
  return y + 18;
}

/** Latent errors under the hidden patches: the stronger the colour, the larger the error. Seen patches stay empty. */
function drawErrors(svg, g, record, mask, scale, y) {
  const height = 22, top = strip(svg, g, "Latent error of each hidden patch", height, y);
  mask.hidden.forEach((patch, i) => {
    const at = cell(g, record, patch);
    if (at) svg.append(shape("rect", { ...at, class: "jl-e-error", y: top, height, "fill-opacity": 0.12 + 0.88 * share(mask.error[i], scale) }));
  });
  return top + height + 8;
}

/** Weights of a diagnosis as bars from a middle line: up where hiding the patch lowers the score, down where it raises it. */
function drawSaliency(svg, g, record, diagnosis, largest, y) {
  const weights = record.saliency[diagnosis], height = weights ? 44 : 0;
  const top = strip(svg, g, weights ? `What “${diagnosis}” rests on` : `“${diagnosis}” was not explained for this record`, height, y), middle = top + height / 2;
  if (!weights) return top + 4;
  weights.forEach((weight, patch) => {
    const at = cell(g, record, patch), tall = largest ? (Math.abs(weight) / largest) * (height / 2) : 0;
    const bar = at && { x: at.x + 0.5, width: Math.max(0.5, at.width - 1), y: weight < 0 ? middle : middle - tall, height: tall };
    if (bar) svg.append(shape("rect", { ...bar, class: weight < 0 ? "jl-e-against" : "jl-e-for" }));
  });
  svg.append(shape("line", { class: "jl-e-tick", x1: g.px(g.start), x2: g.px(g.end), y1: middle, y2: middle }));
  return top + height + 8;
}

/** Hidden time as a hatched veil over paper and traces. */
function drawVeil(svg, id, g, record, mask, height) {
  for (const [first, last] of runs(mask.hidden)) {
    const at = cell(g, record, first, last - first);
    if (at) svg.append(shape("rect", { ...at, class: "jl-e-veil", y: 0, height }), shape("rect", { ...at, y: 0, height, fill: `url(#${id}-hatch)` }));
  }
}

/** The record's mask of that name; "" is none; a name that this record lacks gives its first. */
const maskOf = (record, name) => (name === "" ? null : record.masks.find((m) => m.name === name) || record.masks[0] || null);

/** The drawing: {svg, g, lines, bottom, cursor}; `lead` and time under a point follow from g and lines. */
function draw(id, width, data, state, signals, extents, scales) {
  const record = data.records[state.record], mask = maskOf(record, state.mask), view = VIEWS.find(([key]) => key === state.view);
  const g = { ...geometry(width, record, view, state.from), names: data.leads }, lines = rows(extents, g.printout);
  const svg = shape("svg", { role: "img", "data-view": g.mm < 2 ? "coarse" : "fine", "aria-label": `12-lead ECG. ${summary(record, mask, state.diagnosis)}`, class: "jl-e-svg" });
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
  return { svg, g, lines, bottom, cursor, record, mask };
}

function group(label, names, chosen, choose) {
  const bar = element("div", { class: "jl-e-bar", role: "group", "aria-label": label }, element("span", { "aria-hidden": "true" }, label));
  const buttons = names.map((name, i) => element("button", { type: "button", "aria-pressed": `${i === chosen}` }, name));
  buttons.forEach((button, i) => button.addEventListener("click", () => choose(i)));
  bar.append(element("div", {}, ...buttons));
  return bar;
}

function picker(id, label, names, changed) {
  const input = element("select", { id }, ...names.map((name, i) => element("option", { value: i }, name)));
  input.addEventListener("change", () => changed(+input.value));
  return { node: element("div", { class: "jl-e-pick" }, element("label", { for: id }, label), input), set: (i) => { input.value = i; } };
}

function slider(id, label, changed) {
  const input = element("input", { type: "range", id, min: 0 });
  input.addEventListener("input", () => changed(+input.value));
  return { node: element("div", { class: "jl-e-slider" }, element("label", { for: id }, label), input), input };
}

/** Legend of what is on the drawing. */
function legend(scales, mask, diagnosis, mm, rate) {
  const item = (kind, ...text) => element("span", {}, element("i", { class: kind }), ...text), line = element("p", { class: "jl-e-legend" });
  line.append(element("span", {}, `25 mm/s, 10 mm/mV, ${short(rate)} Hz; ${mm >= 2 ? "a small box is 40 ms by 0.1 mV, a bold one" : "a box is"} 0.2 s by 0.5 mV`));
  if (mask) line.append(item("veil", "hidden from the model"), element("span", {}, `error ${short(scales.error[0])}`, element("i", { class: "ramp" }), short(scales.error[1])));
  if (diagnosis) line.append(item("for", `speaks for it (full bar ${short(scales.saliency[diagnosis])})`), item("against", "speaks against it"));
  return line;
}

function nearest(data, record, show) {
  if (!record.neighbours.length) return "";
  const list = element("ol", {}, ...record.neighbours.map(({ record: index, distance }) => {
    const other = data.records[index], button = element("button", { type: "button" }, other.name);
    button.addEventListener("click", () => show(index));
    return element("li", {}, button, element("span", {}, ` distance ${short(distance)}; ${other.diagnoses.join(", ") || "no diagnosis"}`));
  }));
  return element("div", { class: "jl-e-near" }, element("p", {}, "Nearest records by latent (choose one to see it)"), list);
}

/** Scales shared by all records, so that colours can be compared between them: error [low, high], saliency {diagnosis: largest}. */
export function scalesOf(records) {
  const errors = records.flatMap((r) => r.masks.flatMap((m) => m.error)), saliency = {};
  for (const r of records) for (const [name, weights] of Object.entries(r.saliency)) saliency[name] = Math.max(saliency[name] || 0, ...weights.map(Math.abs));
  return { error: errors.length ? range(errors) : [0, 1], saliency };
}

/** Builds the viewer inside `host`; `data` as from viewer_data in ecg.py. Returns a function that takes it down. */
export function mount(host, data) {
  const id = `jl-e-${Math.random().toString(36).slice(2, 9)}`, { records } = data;
  const signals = records.map((r) => decode(r, data.step)), extents = extentsOf(signals), scales = scalesOf(records);
  const diagnoses = Object.keys(scales.saliency);
  const state = { record: 0, mask: null, diagnosis: "", view: "", wanted: "printout", from: 0, patch: -1 }; // no patch is marked before the reader asks
  const stage = element("div", { class: "jl-e-stage" }), masks = element("div"), views = element("div"), legends = element("div"), near = element("div");
  const labels = element("p", { class: "jl-e-labels" }), said = element("p", { class: "jl-e-said", "aria-live": "polite" });
  const readout = element("p", { class: "jl-e-readout" }, "Point at the paper, or move the patch, to read values.");
  let drawn = null;

  const point = (patch, more = "") => { // marks a patch and says what is known of it
    if (patch < 0) return;
    const { g, record, mask, cursor } = drawn;
    state.patch = Math.min(patch, record.patches - 1);
    const at = cell(g, record, state.patch), text = patchText(record, mask, state.diagnosis, state.patch);
    for (const [name, value] of Object.entries({ ...at, visibility: at ? "visible" : "hidden" })) cursor.setAttribute(name, value);
    readout.textContent = more ? `${more}; ${text}` : text[0].toUpperCase() + text.slice(1);
    along.input.value = state.patch;
    along.input.setAttribute("aria-valuetext", text);
  };
  const under = (event) => { // lead, time and voltage under the pointer
    const box = drawn.svg.getBoundingClientRect(), { g, lines, record } = drawn, scale = g.width / box.width;
    const y = (event.clientY - box.top) * scale, t = g.toTime((event.clientX - box.left) * scale);
    if (t < g.start || t >= g.end) return;
    const row = lines.find((r) => y < r.bottom * g.mm), piece = row && row.pieces.find((p) => (t - g.start) / g.seconds < p.to);
    const volts = piece && signals[state.record][piece.lead][Math.min(record.samples - 1, Math.round(t * record.rate))];
    point(Math.floor((t / secondsOf(record)) * record.patches), piece ? `${data.leads[piece.lead]} at ${t.toFixed(2)} s: ${signed(volts)} mV` : `${t.toFixed(2)} s`);
  };
  const redraw = () => {
    const width = Math.max(200, Math.floor(stage.clientWidth)), narrow = width < NARROW, record = records[state.record];
    state.view = narrow && state.wanted === "printout" ? "all" : state.wanted;
    drawn = draw(id, width, data, state, signals, extents, scales);
    drawn.svg.addEventListener("pointermove", under);
    drawn.svg.addEventListener("pointerdown", under);
    stage.replaceChildren(drawn.svg);
    const offered = VIEWS.filter(([key]) => !(narrow && key === "printout"));
    const called = ([key, parts]) => (key === "printout" ? "Print-out" : `${narrow && parts > 1 ? "" : "12 leads, "}${short(secondsOf(record) / parts)} s`);
    swap(views, group("View", offered.map(called), offered.findIndex(([key]) => key === state.view), (i) => { state.wanted = offered[i][0]; redraw(); }));
    const names = record.masks.map((m) => m.name), at = drawn.mask ? names.indexOf(drawn.mask.name) : names.length;
    swap(masks, names.length ? group("Hidden", [...names, "nothing"], at, (i) => { state.mask = names[i] || ""; redraw(); }) : "");
    legends.replaceChildren(legend(scales, drawn.mask, state.diagnosis, drawn.g.mm, record.rate));
    labels.replaceChildren(...(record.diagnoses.length ? record.diagnoses : ["no diagnosis"]).map((d) => element("span", {}, d)));
    const text = summary(record, drawn.mask, state.diagnosis).replaceAll(/(\d) s/g, "$1\u00a0s"); // no line breaks before the unit
    if (said.textContent !== text) said.textContent = text;
    shift.node.hidden = drawn.g.seconds >= secondsOf(record) - 1e-6;
    shift.input.max = record.patches - Math.floor((record.patches * drawn.g.seconds) / secondsOf(record));
    shift.input.value = Math.round((drawn.g.start / secondsOf(record)) * record.patches);
    shift.input.setAttribute("aria-valuetext", `${drawn.g.start.toFixed(2)} to ${drawn.g.end.toFixed(2)} s`);
    along.input.max = record.patches - 1;
    point(state.patch);
  };
  const show = (index) => {
    Object.assign(state, { record: index, from: 0 });
    choice.set(index);
    near.replaceChildren(nearest(data, records[index], show));
    redraw();
  };
  const choice = picker(`${id}-record`, "Record", records.map((r) => r.name), show);
  const why = picker(`${id}-why`, "Explain", ["nothing", ...diagnoses], (i) => { state.diagnosis = i ? diagnoses[i - 1] : ""; redraw(); });
  const along = slider(`${id}-patch`, "Patch", (patch) => {
    const { g, record } = drawn, at = (patch * secondsOf(record)) / record.patches;
    if (at < g.start - 1e-6 || at > g.end - 1e-6) { state.from = Math.max(0, at - g.seconds / 2); redraw(); } // the window follows
    point(patch);
  });
  along.input.value = 0;
  const shift = slider(`${id}-from`, "Start of the window", (i) => { state.from = (i / records[state.record].patches) * secondsOf(records[state.record]); redraw(); });
  const top = element("div", { class: "jl-e-top" }, choice.node, labels, ...(diagnoses.length ? [why.node] : []));
  host.classList.add("jl-ecg");
  host.replaceChildren(...(data.title ? [element("p", { class: "jl-e-title" }, data.title)] : []), top, masks, views, shift.node, stage, along.node, readout, legends, said, near,
    ...(data.caption ? [element("p", { class: "jl-e-caption" }, data.caption)] : []));
  const watch = new ResizeObserver(() => { if (!drawn || Math.floor(stage.clientWidth) !== drawn.g.width) redraw(); });
  show(0);
  watch.observe(stage);
  return () => watch.disconnect();
}

/** Replaces what a box holds and keeps the keyboard on the button that was pressed. */
function swap(box, node) {
  const at = [...box.querySelectorAll("button")].indexOf(document.activeElement);
  box.replaceChildren(node);
  if (at >= 0) box.querySelectorAll("button")[Math.min(at, box.querySelectorAll("button").length - 1)]?.focus();
}

export default { render: ({ model, el }) => mount(el, model.get("data")) };
