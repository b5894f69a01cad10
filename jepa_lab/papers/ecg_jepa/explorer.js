// The ECG viewer: one 12-lead record on paper, hidden time, latent errors, neighbours.
// The data are checked and packed by viewer_data in explorer_data.py.

import { button, element, picker, short, slider, swatch, uniqueId, widget } from "../../widgets/kit.js";
import { cell, draw, extentsOf, isFine } from "./explorer_drawing.js";
import { decode, patchText, scalesOf, secondsOf, signed, summary } from "./explorer_text.js";

const VIEWS = [
  { key: "printout", parts: 1 },
  { key: "all", parts: 1 },
  { key: "half", parts: 2 },
  { key: "quarter", parts: 4 },
]; // the window holds one part of the time
const NARROW = 520; // px below which there is no print-out, only leads below one another

// ---- parts of the page ------------------------------------------------------------------------------

/** A row of buttons, of which the chosen one is pressed. */
function group(label, names, chosen, choose) {
  const buttons = names.map((name, i) => button(name, () => choose(i), { "aria-pressed": `${i === chosen}` }));
  const heading = element("span", { "aria-hidden": "true" }, label);
  return element(
    "div",
    { class: "jl-e-bar", role: "group", "aria-label": label },
    heading,
    element("div", {}, ...buttons),
  );
}

/** Replaces what a box holds and keeps the keyboard on the button that was pressed. */
function swap(box, node) {
  const at = [...box.querySelectorAll("button")].indexOf(document.activeElement);
  box.replaceChildren(node);
  const buttons = box.querySelectorAll("button");
  if (at >= 0) buttons[Math.min(at, buttons.length - 1)]?.focus();
}

/** A slider whose value is told elsewhere: its label stands beside it. */
function plainSlider(id, label, changed) {
  const made = slider(id, label, { min: 0, max: 0, step: 1, value: 0, show: (v) => `${v}` }, changed);
  made.node.classList.add("jl-e-slider");
  return made;
}

/** What the drawing's paper, colours and bars mean. */
function legend(scales, { mask, g, record }, diagnosis) {
  const box = isFine(g.mm) ? "a small box is 40 ms by 0.1 mV, a bold one" : "a box is";
  const paper = `25 mm/s, 10 mm/mV, ${short(record.rate)} Hz; ${box} 0.2 s by 0.5 mV`;
  const entries = [element("span", {}, paper)];
  if (mask) {
    const [low, high] = scales.error.map(short);
    entries.push(swatch("veil", "hidden from the model"));
    entries.push(element("span", {}, `error ${low}`, element("i", { class: "ramp" }), high));
  }
  if (diagnosis) {
    entries.push(swatch("for", `speaks for it (full bar ${short(scales.saliency[diagnosis])})`));
    entries.push(swatch("against", "speaks against it"));
  }
  return element("p", { class: "jl-x-legend" }, ...entries);
}

/** The record's neighbours as buttons that show them. */
function nearest(data, record, show) {
  if (!record.neighbours.length) return "";
  const entries = record.neighbours.map(({ record: index, distance }) => {
    const other = data.records[index];
    const about = ` distance ${short(distance)}; ${other.diagnoses.join(", ") || "no diagnosis"}`;
    return element(
      "li",
      {},
      button(other.name, () => show(index)),
      element("span", {}, about),
    );
  });
  const heading = element("p", {}, "Nearest records by latent (choose one to see it)");
  return element("div", { class: "jl-e-near" }, heading, element("ol", {}, ...entries));
}

/** Lead, time and voltage under a pointer: {patch, text}, or null beside the window. */
function readingAt(event, { svg, g, lines, record }, signals, leads) {
  const box = svg.getBoundingClientRect();
  const unit = g.width / box.width;
  const y = (event.clientY - box.top) * unit;
  const t = g.toTime((event.clientX - box.left) * unit);
  if (t < g.start || t >= g.end) return null;
  const patch = Math.floor((t / secondsOf(record)) * record.patches);
  const row = lines.find((line) => y < line.bottom * g.mm);
  if (!row) return { patch, text: `${t.toFixed(2)} s` };
  const { lead } = row.pieces.find((piece) => (t - g.start) / g.seconds < piece.to);
  const volts = signals[lead][Math.min(record.samples - 1, Math.round(t * record.rate))];
  return { patch, text: `${leads[lead]} at ${t.toFixed(2)} s: ${signed(volts)} mV` };
}

// ---- the page ---------------------------------------------------------------------------------------

/** The viewer of one page: its state, its elements, and what follows when one of them changes. */
class Viewer {
  constructor(host, data) {
    this.id = uniqueId("jl-e");
    const signals = data.records.map((record) => decode(record, data.step));
    this.shown = { data, signals, extents: extentsOf(signals), scales: scalesOf(data.records) };
    this.diagnoses = Object.keys(this.shown.scales.saliency);
    this.state = { record: 0, mask: null, diagnosis: "", view: "printout", from: 0, patch: -1 }; // no patch is marked yet
    this.build(host, data);
    this.show(0);
  }

  build(host, data) {
    const part = (kind, tag = "div", attributes = {}) => element(tag, { class: `jl-e-${kind}`, ...attributes });
    const names = data.records.map((record, i) => [i, record.name]);
    const reasons = ["nothing", ...this.diagnoses].map((name) => [name === "nothing" ? "" : name, name]);
    this.choice = picker(`${this.id}-record`, "Record", names, (index) => this.show(+index));
    this.why = picker(`${this.id}-why`, "Explain", reasons, (diagnosis) => this.set({ diagnosis }));
    this.along = plainSlider(`${this.id}-patch`, "Patch", (patch) => this.moveTo(patch));
    this.shift = plainSlider(`${this.id}-from`, "Start of the window", (patch) =>
      this.set({ from: this.timeOf(patch) }),
    );
    this.stage = part("stage");
    this.masks = part("masks");
    this.views = part("views");
    this.legends = part("legends");
    this.near = part("neighbours");
    this.labels = part("labels", "p");
    this.words = part("said", "p", { "aria-live": "polite" });
    this.readout = part("readout", "p");
    this.readout.textContent = "Point at the paper, or move the patch, to read values.";
    const top = element("div", { class: "jl-e-top" }, this.choice.node, this.labels);
    if (this.diagnoses.length) top.append(this.why.node);
    const title = data.title ? [element("p", { class: "jl-e-title" }, data.title)] : [];
    const caption = data.caption ? [element("p", { class: "jl-x-note" }, data.caption)] : [];
    const controls = [top, this.masks, this.views, this.shift.node, this.stage, this.along.node];
    const below = [this.readout, this.legends, this.words, this.near];
    host.classList.add("jl-explorer", "jl-ecg");
    host.replaceChildren(...title, ...controls, ...below, ...caption);
  }

  get record() {
    return this.shown.data.records[this.state.record];
  }

  timeOf(patch) {
    return (patch * secondsOf(this.record)) / this.record.patches;
  }

  get width() {
    return Math.max(200, Math.floor(this.stage.clientWidth));
  }

  set(changes) {
    Object.assign(this.state, changes);
    this.redraw();
  }

  /** Another record. */
  show(index) {
    this.choice.input.value = index;
    this.state.record = index;
    this.near.replaceChildren(nearest(this.shown.data, this.record, (other) => this.show(other)));
    this.set({ from: 0 });
  }

  /** Another patch; the window follows it. */
  moveTo(patch) {
    const { start, end, seconds } = this.drawn.g;
    const at = this.timeOf(patch);
    if (at < start - 1e-6 || at > end - 1e-6) this.set({ from: Math.max(0, at - seconds / 2) });
    this.mark(patch);
  }

  /** Marks a patch on the drawing and says what is known of it, after the reading under the pointer. */
  mark(patch, reading = "") {
    if (patch < 0) return;
    const { g, record, mask, cursor } = this.drawn;
    this.state.patch = Math.min(patch, record.patches - 1);
    const at = cell(g, record, this.state.patch);
    const text = patchText(record, mask, this.state.diagnosis, this.state.patch);
    const look = { ...at, visibility: at ? "visible" : "hidden" };
    for (const [name, value] of Object.entries(look)) cursor.setAttribute(name, value);
    this.readout.textContent = reading ? `${reading}; ${text}` : text[0].toUpperCase() + text.slice(1);
    this.along.input.value = this.state.patch;
    this.along.input.setAttribute("aria-valuetext", text);
  }

  readUnder(event) {
    const reading = readingAt(event, this.drawn, this.shown.signals[this.state.record], this.shown.data.leads);
    if (reading) this.mark(reading.patch, reading.text);
  }

  redraw() {
    const narrow = this.width < NARROW;
    const offered = VIEWS.filter(({ key }) => !(narrow && key === "printout"));
    const view = offered.find(({ key }) => key === this.state.view) ?? offered[0];
    this.drawn = draw(this.id, this.width, this.shown, this.state, view);
    for (const kind of ["pointermove", "pointerdown"]) {
      this.drawn.svg.addEventListener(kind, (event) => this.readUnder(event));
    }
    this.stage.replaceChildren(this.drawn.svg);
    this.redrawViews(offered, view, narrow);
    this.redrawMasks();
    this.redrawText();
    this.redrawWindow();
    this.mark(this.state.patch);
  }

  redrawViews(offered, chosen, narrow) {
    const names = offered.map(({ key, parts }) => {
      if (key === "printout") return "Print-out";
      const seconds = `${short(secondsOf(this.record) / parts)} s`;
      return narrow && parts > 1 ? seconds : `12 leads, ${seconds}`;
    });
    const choose = (i) => this.set({ view: offered[i].key });
    swap(this.views, group("View", names, offered.indexOf(chosen), choose));
  }

  redrawMasks() {
    const names = this.record.masks.map((mask) => mask.name);
    const at = this.drawn.mask ? names.indexOf(this.drawn.mask.name) : names.length;
    const choose = (i) => this.set({ mask: names[i] || "" });
    swap(this.masks, names.length ? group("Hidden", [...names, "nothing"], at, choose) : "");
  }

  redrawText() {
    const { record, mask } = this.drawn;
    const diagnoses = record.diagnoses.length ? record.diagnoses : ["no diagnosis"];
    this.labels.replaceChildren(...diagnoses.map((name) => element("span", {}, name)));
    this.legends.replaceChildren(legend(this.shown.scales, this.drawn, this.state.diagnosis));
    const text = summary(record, mask, this.state.diagnosis).replaceAll(/(\d) s/g, "$1\u00a0s"); // keeps number and unit together
    if (this.words.textContent !== text) this.words.textContent = text;
  }

  redrawWindow() {
    const { g, record } = this.drawn;
    const whole = secondsOf(record);
    const { input, node } = this.shift;
    node.hidden = g.seconds >= whole - 1e-6;
    input.max = record.patches - Math.floor((record.patches * g.seconds) / whole);
    input.value = Math.round((g.start / whole) * record.patches);
    input.setAttribute("aria-valuetext", `${g.start.toFixed(2)} to ${g.end.toFixed(2)} s`);
    this.along.input.max = record.patches - 1;
  }
}

/** Builds the viewer inside `host`; `data` as from viewer_data. Returns a function that takes it down. */
export function mount(host, data) {
  const viewer = new Viewer(host, data);
  const watch = new ResizeObserver(() => {
    if (viewer.width !== viewer.drawn.g.width) viewer.redraw();
  });
  watch.observe(viewer.stage);
  return () => watch.disconnect();
}

export default widget(mount);
