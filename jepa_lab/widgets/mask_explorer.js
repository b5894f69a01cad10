// The mask explorer: draws masks for four kinds of data in the page, and counts 2,000 of them.

import { button, element, picker, slider, swatch, uniqueId, widget } from "./kit.js";
import { drawSample, lastResortText, maps, numbers, sentence } from "./mask_drawing.js";
import { generator, measure, plan } from "./mask_samplers.js";

const TABS = [
  { key: "image", name: "Image", kind: "plane" },
  { key: "series", name: "Time series", kind: "line" },
  { key: "row", name: "Table row", kind: "columns" },
  { key: "bev", name: "Bird’s-eye view", kind: "plane" },
];
const ASPECTS = [0.5, 0.75, 1, 1.5, 2, 3, 4];
const BATCHES = [1, 8, 32, 128];
const SLIDERS = [
  { key: "numTargets", label: "Target blocks", min: 1, max: 6, step: 1, value: 4, show: (v) => `${v}` },
  {
    key: "scale",
    label: "Size of one target",
    min: 5,
    max: 40,
    step: 2.5,
    value: 17.5,
    show: (v) => `${v} % of the tokens`,
  },
  {
    key: "aspect",
    label: "Aspect, rows : columns",
    min: 0,
    max: ASPECTS.length - 1,
    step: 1,
    value: 3,
    show: (v) => `${ASPECTS[v] / 2} to ${ASPECTS[v]}`,
    only: "plane",
  },
  { key: "keep", label: "Context kept", min: 5, max: 80, step: 2.5, value: 25, show: (v) => `${v} % of the tokens` },
  {
    key: "batch",
    label: "Images per batch (published)",
    min: 0,
    max: BATCHES.length - 1,
    step: 1,
    value: 3,
    show: (v) => `${BATCHES[v]}`,
    only: "plane",
  },
];
const REST_MS = 120; // the counts wait until a slider has rested that long

/** The tabs: {bar, select}; `choose` gets the chosen one. Arrow keys move between them. */
function tabList(id, choose) {
  const select = (i, focus = false) => {
    buttons.forEach((node, j) => {
      node.setAttribute("aria-selected", `${i === j}`);
      node.tabIndex = i === j ? 0 : -1;
    });
    if (focus) buttons[i].focus();
    choose(TABS[i]);
  };
  const buttons = TABS.map(({ key, name }, i) =>
    button(name, () => select(i), { role: "tab", id: `${id}-${key}`, "aria-controls": `${id}-panel` }),
  );
  buttons.forEach((node, i) =>
    node.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      select((i + step + TABS.length) % TABS.length, true);
    }),
  );
  const bar = element("div", { role: "tablist", "aria-label": "What is masked", class: "jl-m-tabs" }, ...buttons);
  return { bar, select };
}

function gridOf(key, data, patches) {
  if (key === "image") return [patches, patches];
  if (key === "bev") return [data.bev.occupied.length, data.bev.occupied[0].length];
  return [1, key === "row" ? data.row.names.length : data.series.tokens];
}

/** The setting of the sliders in the units of `plan`. */
function settingOf({ numTargets, scale, aspect, keep }) {
  return { numTargets, scale: scale / 100, aspect: [ASPECTS[aspect] / 2, ASPECTS[aspect]], keep: keep / 100 };
}

/** What the panel shows: {nodes, draw}; `draw` follows the state at once, the counts follow when it rests. */
function views(data, state) {
  const stage = element("div", { class: "jl-m-stage" });
  const status = element("p", { class: "jl-m-said", "aria-live": "polite" });
  const results = element("div", { class: "jl-m-results" });
  const meanings = { context: "context: seen", target: "target: predicted", unused: "unused: neither" };
  const swatches = Object.entries(meanings).map(([kind, text]) => swatch(kind, text));
  const legend = element("p", { class: "jl-x-legend jl-m-legend" }, ...swatches);
  let timer = 0;

  const count = (planned, grid) => {
    const found = measure(planned, grid, BATCHES[state.values.batch]);
    const warning = element("p", { class: "jl-m-said" }, lastResortText(found.corrected.lastResort));
    results.replaceChildren(warning, maps(found, grid, state.tab.kind), numbers(found));
  };
  const draw = () => {
    const { key, kind } = state.tab;
    const grid = gridOf(key, data, state.patches);
    const planned = plan(kind, grid, settingOf(state.values));
    const sample = planned.problem ? null : planned.draw(generator(state.seed));
    status.textContent = sentence(planned, key, data[key], sample);
    stage.replaceChildren();
    if (sample) {
      stage.append(drawSample(key, data[key], grid, sample));
      stage.append(element("p", { class: "jl-x-note" }, data[key].caption));
    }
    clearTimeout(timer);
    timer = setTimeout(() => (sample ? count(planned, grid) : results.replaceChildren()), REST_MS);
  };
  return { nodes: [element("div", { class: "jl-m-left" }, stage, legend), status, results], draw };
}

/** Builds the explorer inside `host` from {image, series, row, bev}, as from explorer_data in mask_explorer.py. */
export function mount(host, data) {
  const id = uniqueId("jl-m");
  const values = Object.fromEntries(SLIDERS.map(({ key, value }) => [key, value]));
  const state = { tab: TABS[0], patches: 14, seed: 1, values };
  const { nodes, draw } = views(data, state);

  const change = (key) => (value) => {
    values[key] = value;
    draw();
  };
  const controls = SLIDERS.map((spec) => slider(`${id}-${spec.key}`, spec.label, spec, change(spec.key)).node);
  const sizes = [4, 7, 14].map((n) => [n, `${n} × ${n}`]);
  const patches = picker(`${id}-patches`, "Patches", sizes, (value) => {
    state.patches = +value;
    draw();
  });
  patches.input.value = state.patches;
  const again = button("Draw again", () => {
    state.seed += 1;
    draw();
  });
  const left = element("div", { class: "jl-m-controls" }, ...controls, patches.node, again);
  const panel = element("div", { role: "tabpanel", id: `${id}-panel`, class: "jl-m-panel" }, left, ...nodes);

  const { bar, select } = tabList(id, (tab) => {
    state.tab = tab;
    SLIDERS.forEach(({ only }, i) => (controls[i].hidden = Boolean(only) && only !== tab.kind));
    patches.node.hidden = tab.key !== "image";
    panel.setAttribute("aria-labelledby", `${id}-${tab.key}`);
    draw();
  });
  host.classList.add("jl-explorer", "jl-masks");
  host.replaceChildren(bar, panel);
  select(0);
}

export default widget(mount);
