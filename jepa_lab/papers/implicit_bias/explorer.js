// The phase explorer: which feature does JEPA learn first, which does MAE? Solved and drawn in the page.

import {
  button,
  chip,
  clamp,
  element,
  linear,
  shape,
  short,
  slider,
  table,
  uniqueId,
  widget,
} from "../../widgets/kit.js";
import { OBJECTIVES, learningCurve, solve, verdict } from "./explorer_theory.js";

const RANGE = [0.1, 1.6]; // of λ and ρ on the map
const MAX_FEATURES = 8;
const NAMES = "ABCDEFGH";
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

const onMap = (x) => clamp(x, ...RANGE);
const featureChip = (index) => chip(`jl-p-c${index}`, NAMES[index]);
const asFeatures = (pairs) => pairs.map(([lam, rho]) => ({ lam, rho }));

// ---- drawings ---------------------------------------------------------------------------------------

/** A plotting frame: SVG with axes, and functions from data to its units and back. An axis is {to, ticks, title}. */
function frame(label, width, height, x, y) {
  const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  const [left, right, top, bottom] = [40, width - 10, 10, height - 34];
  const px = linear([0, x.to], [left, right]);
  const py = linear([0, y.to], [bottom, top]);
  for (const tick of x.ticks) {
    svg.append(shape("line", { class: "jl-p-grid", x1: px(tick), x2: px(tick), y1: top, y2: bottom }));
    svg.append(shape("text", { x: px(tick), y: bottom + 14, "text-anchor": "middle" }, short(tick)));
  }
  for (const tick of y.ticks) {
    svg.append(shape("line", { class: "jl-p-grid", x1: left, x2: right, y1: py(tick), y2: py(tick) }));
    svg.append(shape("text", { x: left - 5, y: py(tick) + 4, "text-anchor": "end" }, short(tick)));
  }
  const middle = (top + bottom) / 2;
  svg.append(shape("text", { x: (left + right) / 2, y: height - 4, "text-anchor": "middle" }, x.title));
  svg.append(shape("text", { transform: `translate(10 ${middle}) rotate(-90)`, "text-anchor": "middle" }, y.title));
  return { svg, px, py, toX: linear([left, right], [0, x.to]), toY: linear([bottom, top], [0, y.to]) };
}

/** About four round numbers from 0 to `end`. */
function ticks(end) {
  const unit = 10 ** Math.floor(Math.log10(end / 4));
  const step = unit * [1, 2, 2.5, 5, 10].find((m) => m * unit >= end / 4);
  return Array.from({ length: Math.floor(end / step + 1e-9) + 1 }, (_, i) => +(i * step).toPrecision(6));
}

/** A lettered dot in the colour of a feature. */
function dot(index, x, y, r) {
  const circle = shape("circle", { class: `jl-p-dot jl-p-c${index}`, cx: x, cy: y, r });
  return [circle, shape("text", { class: "jl-p-letter", x, y: y + 4, "text-anchor": "middle" }, NAMES[index])];
}

/** Curves of one objective, each with its letter; letters stand at staggered heights, so that none covers another. */
function drawCurves(objective, found, depth, eps) {
  const name = objective.toUpperCase();
  const curves = found.able.map((f) => ({ ...f, ...learningCurve(objective, f.lam, f.rho, depth, eps, 0.99, 161) }));
  const end = 1.05 * Math.max(...curves.map((c) => c.tau[c.s.findIndex((s) => s >= 0.95)]), 1e-9);
  const order = found.order[objective];
  const label = `${name}: ${order.map((f) => `${NAMES[f.index]} at ${short(f[objective])}`).join(", then ")}`;
  const across = { to: end, ticks: ticks(end), title: "time τ" };
  const { svg, px, py } = frame(label, 340, 220, across, { to: 1, ticks: [0, 0.5, 1], title: "share learned" });
  for (const c of curves) {
    const inside = c.tau.map((t, i) => [t, c.s[i]]).filter(([t]) => t <= end);
    if (c.tau.at(-1) < end) inside.push([end, c.s.at(-1)]);
    const points = inside.map(([t, s]) => `${px(t).toFixed(1)},${py(s).toFixed(1)}`).join(" ");
    svg.append(shape("polyline", { class: `jl-p-curve jl-p-c${c.index}`, points }));
  }
  order.forEach((feature, rank) => {
    const height = 0.2 + (0.6 * (rank + 0.5)) / curves.length;
    const curve = curves.find((c) => c.index === feature.index);
    const at = curve.s.findIndex((s) => s >= height);
    svg.append(...dot(feature.index, px(curve.tau[at]), py(height), 8));
  });
  return element("figure", {}, element("figcaption", {}, name), svg);
}

/** Calls `move` with every pointer event until the pointer is lifted, then `stop`. */
function follow(move, stop) {
  const end = () => {
    window.removeEventListener("pointermove", move);
    window.removeEventListener("pointerup", end);
    window.removeEventListener("pointercancel", end);
    stop();
  };
  window.addEventListener("pointermove", move);
  window.addEventListener("pointerup", end);
  window.addEventListener("pointercancel", end);
}

/** The map of features: drag a dot, or set its numbers in the table. `moved` gets index, λ, ρ, and whether it ended. */
function drawMap(features, moved) {
  const axis = { to: 1.7, ticks: [0, 0.5, 1, 1.5] };
  const label = "Features by covariance λ and regression coefficient ρ; the table below holds the same numbers";
  const [across, up] = ["λ, covariance of x and y", "ρ, regression coefficient"].map((title) => ({ ...axis, title }));
  const { svg, px, py, toX, toY } = frame(label, 340, 260, across, up);
  features.forEach((feature, index) => {
    const [x, y] = [px(onMap(feature.lam)), py(onMap(feature.rho))];
    const handle = shape("g", { class: "jl-p-handle" }, ...dot(index, x, y, 12));
    const move = (event) => {
      const box = svg.getBoundingClientRect();
      const unit = 340 / box.width;
      const lam = +onMap(toX((event.clientX - box.left) * unit)).toFixed(2);
      const rho = +onMap(toY((event.clientY - box.top) * unit)).toFixed(2);
      handle.setAttribute("transform", `translate(${px(lam) - x} ${py(rho) - y})`);
      moved(index, lam, rho, false);
    };
    const stop = () => moved(index, features[index].lam, features[index].rho, true);
    handle.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      follow(move, stop);
    });
    svg.append(handle);
  });
  return svg;
}

function orderLine(objective, found) {
  const chips = found.order[objective].flatMap((f, rank) => [rank ? " then " : "", featureChip(f.index)]);
  return element("p", { class: "jl-p-order" }, element("b", {}, `${objective.toUpperCase()} learns `), ...chips);
}

// ---- the table of features --------------------------------------------------------------------------

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

/** Builds the explorer inside `host`; `start` is {depth, log_eps, features: [[lam, rho], …]}. */
export function mount(host, start) {
  const id = uniqueId("jl-p");
  const state = { depth: start.depth, logEps: start.log_eps, features: asFeatures(start.features) };
  const map = element("div", { class: "jl-p-map" });
  const plots = element("div", { class: "jl-p-plots" });
  const said = element("div", { class: "jl-p-said", "aria-live": "polite" });

  const moved = (i, lam, rho, ended) => {
    state.features[i] = { lam, rho };
    draw(ended);
  };
  const draw = (redrawMap = true) => {
    const eps = 10 ** state.logEps;
    const found = solve(state.features, state.depth, eps);
    if (redrawMap) map.replaceChildren(drawMap(state.features, moved));
    const refused = found.solved.filter((feature) => feature.why);
    const reasons = refused.map((f) => element("p", { class: "jl-p-refused" }, featureChip(f.index), ` ${f.why}.`));
    const lines = OBJECTIVES.map((objective) => orderLine(objective, found));
    said.replaceChildren(...lines, element("p", { class: "jl-p-verdict" }, verdict(found)), ...reasons);
    const drawn = found.able.length ? OBJECTIVES : [];
    plots.replaceChildren(...drawn.map((objective) => drawCurves(objective, found, state.depth, eps)));
    features.fill(state.features, found);
  };
  const rebuild = () => {
    features.build(state.features);
    add.disabled = state.features.length >= MAX_FEATURES;
    draw();
  };
  const change = (key) => (value) => {
    state[key] = value;
    draw();
  };

  const features = featureTable(
    id,
    (i, key, value) => {
      state.features[i] = { ...state.features[i], [key]: value };
      draw();
    },
    (i) => {
      state.features.splice(i, 1);
      rebuild();
    },
  );
  const depthRange = { min: 1, max: 8, step: 1, value: state.depth, show: (v) => `${v}` };
  const epsRange = { min: -7, max: -1, step: 0.25, value: state.logEps, show: (v) => short(10 ** v) };
  const depth = slider(`${id}-depth`, "Encoder depth L", depthRange, change("depth"));
  const eps = slider(`${id}-eps`, "Initial gain ε", epsRange, change("logEps"));
  const add = button("Add a feature", () => {
    state.features.push({ ...NEW });
    rebuild();
  });
  const examples = EXAMPLES.map((example) =>
    button(example.name, () => {
      Object.assign(state, example, { features: asFeatures(example.features) });
      depth.set(state.depth);
      eps.set(state.logEps);
      rebuild();
    }),
  );
  const bar = element("div", { class: "jl-p-bar", role: "group", "aria-label": "Examples" }, ...examples);
  const controls = element("div", { class: "jl-p-controls" }, depth.node, eps.node, features.node, add);
  host.classList.add("jl-explorer", "jl-phase");
  host.replaceChildren(bar, element("div", { class: "jl-p-top" }, map, controls), said, plots);
  rebuild();
}

export default widget(mount);
