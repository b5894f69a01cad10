// The phase explorer: which feature does JEPA learn first, which does MAE? Solved and drawn in the page.

import { button, chip, element, short, slider, table, uniqueId, widget } from "../../widgets/kit.js";
import { NAMES, drawCurves, drawMap } from "./explorer_drawing.js";
import { OBJECTIVES, solve, verdict } from "./explorer_theory.js";

const MAX_FEATURES = 8;
const NEW = { lam: 0.8, rho: 0.7 };
const FIELDS = [
  ["lam", "λ"],
  ["rho", "ρ"],
];
const EXAMPLES = [
  {
    name: "Noisy A, clean B",
    depth: 3,
    logEps: -3,
    features: [
      [1, 0.4],
      [0.6, 0.9],
    ],
  },
  {
    name: "Equal λ",
    depth: 3,
    logEps: -2,
    features: [
      [1, 0.5],
      [1, 0.65],
      [1, 0.8],
      [1, 0.95],
    ],
  },
  {
    name: "Equal ρ",
    depth: 3,
    logEps: -2,
    features: [
      [0.5, 1],
      [0.75, 1],
      [1, 1],
      [1.25, 1],
    ],
  },
  {
    name: "Opposite orders",
    depth: 4,
    logEps: -2,
    features: [
      [0.8, 1.2],
      [0.857, 1.029],
      [0.914, 0.857],
      [1, 0.6],
    ],
  },
];

const featureChip = (index) => chip(`jl-p-c${index}`, NAMES[index]);
const asFeatures = (pairs) => pairs.map(([lam, rho]) => ({ lam, rho }));

// ---- words and tables -------------------------------------------------------------------------------

function orderLine(objective, found) {
  const chips = found.order[objective].flatMap((f, rank) => [rank ? " then " : "", featureChip(f.index)]);
  return element("p", { class: "jl-p-order" }, element("b", {}, `${objective.toUpperCase()} learns `), ...chips);
}

/** The row of one feature: {cells, fields, times}; `fields` are its two number inputs, `times` its last two cells. */
function featureRow(id, features, i, changed, removed) {
  const fields = FIELDS.map(([key, letter]) => {
    const label = { "aria-label": `${letter} of feature ${NAMES[i]}`, id: `${id}-${key}-${i}` };
    const range = { type: "number", min: 0.05, max: 5, step: 0.05, value: features[i][key] };
    const input = element("input", { ...range, ...label });
    input.addEventListener("input", () => changed(i, key, +input.value));
    return input;
  });
  const times = OBJECTIVES.map(() => element("span"));
  const remove = button("×", () => removed(i), { "aria-label": `Remove feature ${NAMES[i]}` });
  return { cells: [featureChip(i), ...fields, ...times, features.length > 1 ? remove : ""], fields, times };
}

/** The table of features, their critical times and ranks: {node, build, fill}. */
function featureTable(id, changed, removed) {
  const heads = ["Feature", "λ", "ρ", "t* JEPA (rank)", "t* MAE (rank)", ""];
  const node = element("div", { class: "jl-p-features" });
  let rows = [];
  const build = (features) => {
    rows = features.map((_, i) => featureRow(id, features, i, changed, removed));
    node.replaceChildren(
      table(
        "Features and their critical times",
        heads,
        rows.map((row) => row.cells),
      ),
    );
  };
  const fill = (features, found) =>
    found.solved.forEach((feature, i) => {
      FIELDS.forEach(([key], j) => {
        const field = rows[i].fields[j];
        if (document.activeElement !== field) field.value = features[i][key];
      });
      OBJECTIVES.forEach((objective, j) => {
        const rank = found.order[objective].findIndex((f) => f.index === i) + 1;
        rows[i].times[j].textContent = feature.why ? "–" : `${short(feature[objective])} (${rank})`;
      });
    });
  return { node, build, fill };
}

// ---- the page ---------------------------------------------------------------------------------------

/** The explorer of one page: its state, its elements, and what follows when one of them changes. */
class Explorer {
  constructor(host, start) {
    this.id = uniqueId("jl-p");
    this.state = { depth: start.depth, logEps: start.log_eps, features: asFeatures(start.features) };
    this.build(host);
    this.rebuild();
  }

  build(host) {
    const { depth, logEps } = this.state;
    const depthRange = { min: 1, max: 8, step: 1, value: depth, show: (v) => `${v}` };
    const epsRange = { min: -7, max: -1, step: 0.25, value: logEps, show: (v) => short(10 ** v) };
    this.depth = slider(`${this.id}-depth`, "Encoder depth L", depthRange, (v) => this.set({ depth: v }));
    this.eps = slider(`${this.id}-eps`, "Initial gain ε", epsRange, (v) => this.set({ logEps: v }));
    const changed = (i, key, value) => this.change(i, { [key]: value });
    this.table = featureTable(this.id, changed, (i) => this.remove(i));
    this.add = button("Add a feature", () => this.append({ ...NEW }));
    this.map = element("div", { class: "jl-p-map" });
    this.plots = element("div", { class: "jl-p-plots" });
    this.orders = element("div", { class: "jl-p-said", "aria-live": "polite" });
    const examples = EXAMPLES.map((example) => button(example.name, () => this.show(example)));
    const bar = element("div", { class: "jl-p-bar", role: "group", "aria-label": "Examples" }, ...examples);
    const inputs = [this.depth.node, this.eps.node, this.table.node, this.add];
    const controls = element("div", { class: "jl-p-controls" }, ...inputs);
    host.classList.add("jl-explorer", "jl-phase");
    host.replaceChildren(bar, element("div", { class: "jl-p-top" }, this.map, controls), this.orders, this.plots);
  }

  set(changes) {
    Object.assign(this.state, changes);
    this.draw();
  }

  show({ depth, logEps, features }) {
    Object.assign(this.state, { depth, logEps, features: asFeatures(features) });
    this.depth.set(depth);
    this.eps.set(logEps);
    this.rebuild();
  }

  change(i, values, redrawMap = true) {
    this.state.features[i] = { ...this.state.features[i], ...values };
    this.draw(redrawMap);
  }

  append(feature) {
    this.state.features.push(feature);
    this.rebuild();
  }

  remove(i) {
    this.state.features.splice(i, 1);
    this.rebuild();
  }

  /** Draws all of it again, with a new row for every feature. */
  rebuild() {
    this.table.build(this.state.features);
    this.add.disabled = this.state.features.length >= MAX_FEATURES;
    this.draw();
  }

  /** Solves and draws; a dot that is being dragged keeps its map. */
  draw(redrawMap = true) {
    const { depth, logEps, features } = this.state;
    const eps = 10 ** logEps;
    const found = solve(features, depth, eps);
    const moved = (i, lam, rho, ended) => this.change(i, { lam, rho }, ended);
    if (redrawMap) this.map.replaceChildren(drawMap(features, moved));
    const refused = found.solved.filter((feature) => feature.why);
    const reasons = refused.map((f) => element("p", { class: "jl-p-refused" }, featureChip(f.index), ` ${f.why}.`));
    const lines = OBJECTIVES.map((objective) => orderLine(objective, found));
    this.orders.replaceChildren(...lines, element("p", { class: "jl-p-verdict" }, verdict(found)), ...reasons);
    const drawn = found.able.length ? OBJECTIVES : [];
    this.plots.replaceChildren(...drawn.map((objective) => drawCurves(objective, found, depth, eps)));
    this.table.fill(features, found);
  }
}

/** Builds the explorer inside `host`; `start` is {depth, log_eps, features: [[lam, rho], …]}. */
export function mount(host, start) {
  new Explorer(host, start);
}

export default widget(mount);
