// The phase explorer: which feature does JEPA learn first, which does MAE? In the page, without a kernel or a network.
// The integrator is the one of jepa_lab/linear_theory.py; tests/test_phase_explorer.py compares the two.

// ---- theory: objective "jepa" | "mae", times are the paper's tau ------------------------------------

const ROOT = Math.sqrt(0.15);
const GAUSS = [[0.5 - ROOT, 5 / 18], [0.5, 8 / 18], [0.5 + ROOT, 5 / 18]];

export const fixedPoint = (objective, rho, depth) => rho ** (objective === "jepa" ? depth : depth / (depth + 1));

const logSigmoid = (u) => (u < 0 ? u - Math.log1p(Math.exp(u)) : -Math.log1p(Math.exp(-u)));
const logit = (s) => Math.log(s / (1 - s));

/** Exact solution of the scalar ODE as {tau, s}: s = wbar / wbar* from eps to `last`, on `points` steps in logit(s). */
export function learningCurve(objective, lam, rho, depth, eps, last = 0.999, points = 401) {
  const jepa = objective === "jepa", goal = fixedPoint(objective, rho, depth);
  const a = (jepa ? 2 : 1) - 1 / depth, k = (jepa ? 0 : 1) + 1 / depth;
  const first = logit(eps / goal), width = (logit(last) - first) / (points - 1);
  const pace = (u) => {
    const logS = logSigmoid(u);
    return Math.exp(logSigmoid(-u)) / (lam * (goal * Math.exp(logS)) ** a * -Math.expm1(k * logS));
  };
  const tau = [0], s = [eps / goal];
  for (let i = 1; i < points; i++) {
    const u = first + (i - 1) * width;
    tau.push(tau[i - 1] + width * GAUSS.reduce((sum, [node, weight]) => sum + weight * pace(u + node * width), 0));
    s.push(Math.exp(logSigmoid(u + width)));
  }
  return { tau, s };
}

/** First tau at which wbar reaches `fraction` of its fixed point. */
export const criticalTime = (objective, lam, rho, depth, eps, fraction = 0.5) =>
  learningCurve(objective, lam, rho, depth, eps, fraction).tau.at(-1);

/** Why the theory says nothing about this feature, or "". */
export function refusal(lam, rho, depth, eps, fraction = 0.5) {
  if (!(lam > 0) || !(rho > 0) || !isFinite(lam) || !isFinite(rho)) return "λ and ρ must be positive numbers";
  const lowest = Math.min(fixedPoint("jepa", rho, depth), fixedPoint("mae", rho, depth));
  if (eps >= fraction * lowest) return `counts as learned at time 0: ε is not below ${fraction} × its fixed point ${lowest.toPrecision(2)}`;
  return "";
}

/** Rank agreement of two lists of times: 1 the same order, -1 opposite. */
export function kendallTau(a, b) {
  let sum = 0, pairs = 0;
  for (let i = 0; i < a.length; i++) for (let j = 0; j < i; j++) { sum += Math.sign(a[i] - a[j]) * Math.sign(b[i] - b[j]); pairs += 1; }
  return pairs ? sum / pairs : 1;
}

/** Everything the page shows: per feature {lam, rho, why, jepa, mae} and per objective the order of the learnable ones. */
export function solve(features, depth, eps) {
  const solved = features.map(({ lam, rho }, index) => {
    const why = refusal(lam, rho, depth, eps);
    return why ? { index, lam, rho, why } : { index, lam, rho, why, jepa: criticalTime("jepa", lam, rho, depth, eps), mae: criticalTime("mae", lam, rho, depth, eps) };
  });
  const able = solved.filter((f) => !f.why);
  const order = Object.fromEntries(["jepa", "mae"].map((o) => [o, able.slice().sort((f, g) => f[o] - g[o])]));
  return { solved, able, order, tau: kendallTau(able.map((f) => f.jepa), able.map((f) => f.mae)) };
}

// ---- the page ---------------------------------------------------------------------------------------

const SVG = "http://www.w3.org/2000/svg";
const RANGE = [0.1, 1.6], MAX_FEATURES = 8, NAMES = "ABCDEFGH";
const EXAMPLES = [
  ["Noisy A, clean B", 3, -3, [[1, 0.4], [0.6, 0.9]]],
  ["Equal λ", 3, -2, [[1, 0.5], [1, 0.65], [1, 0.8], [1, 0.95]]],
  ["Equal ρ", 3, -2, [[0.5, 1], [0.75, 1], [1, 1], [1.25, 1]]],
  ["Opposite orders", 4, -2, [0, 2, 4, 7].map((i) => [+(0.8 + (0.2 * i) / 7).toFixed(3), +(1.2 - (0.6 * i) / 7).toFixed(3)])],
];
let instances = 0;

function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function shape(tag, attributes, text) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

const clamp = (x) => Math.min(Math.max(x, RANGE[0]), RANGE[1]);
const short = (x) => (x < 1e4 ? `${+x.toPrecision(3)}` : x.toExponential(1).replace("e+", "e"));
const chip = (index) => element("span", { class: `jl-p-chip jl-p-c${index}` }, NAMES[index]);

/** A plotting frame: SVG with axes, and functions from data to its units. */
function frame(label, width, height, x, y) {
  const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  const left = 40, right = width - 10, top = 10, bottom = height - 34;
  const px = (v) => left + ((right - left) * (v - x.from)) / (x.to - x.from), py = (v) => bottom - ((bottom - top) * (v - y.from)) / (y.to - y.from);
  for (const tick of x.ticks) svg.append(shape("line", { class: "jl-p-grid", x1: px(tick), x2: px(tick), y1: top, y2: bottom }), shape("text", { x: px(tick), y: bottom + 14, "text-anchor": "middle" }, short(tick)));
  for (const tick of y.ticks) svg.append(shape("line", { class: "jl-p-grid", x1: left, x2: right, y1: py(tick), y2: py(tick) }), shape("text", { x: left - 5, y: py(tick) + 4, "text-anchor": "end" }, short(tick)));
  svg.append(shape("text", { x: (left + right) / 2, y: height - 4, "text-anchor": "middle" }, x.title));
  svg.append(shape("text", { x: 0, y: 0, transform: `translate(10 ${(top + bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, y.title));
  return { svg, px, py, toX: (u) => x.from + ((u - left) * (x.to - x.from)) / (right - left), toY: (u) => y.from + ((bottom - u) * (y.to - y.from)) / (bottom - top) };
}

/** Round numbers from 0 to about `end`, some four of them. */
function ticks(end) {
  const raw = end / 4, unit = 10 ** Math.floor(Math.log10(raw)), step = [1, 2, 2.5, 5, 10].find((m) => m * unit >= raw) * unit;
  return Array.from({ length: Math.floor(end / step + 1e-9) + 1 }, (_, i) => +(i * step).toPrecision(6));
}

/** Curves of one objective; each is lettered where it crosses half of its fixed point. */
function drawCurves(objective, found, depth, eps) {
  const name = objective.toUpperCase();
  const curves = found.able.map((f) => ({ ...f, ...learningCurve(objective, f.lam, f.rho, depth, eps, 0.99, 161) }));
  const end = 1.05 * Math.max(...curves.map((c) => c.tau[c.s.findIndex((s) => s >= 0.95)]), 1e-9);
  const said = `${name}: ${found.order[objective].map((f) => `${NAMES[f.index]} at ${short(f[objective])}`).join(", then ")}`;
  const { svg, px, py } = frame(said, 340, 220, { from: 0, to: end, ticks: ticks(end), title: "time τ" }, { from: 0, to: 1, ticks: [0, 0.5, 1], title: "share learned" });
  for (const c of curves) {
    const points = c.tau.map((t, i) => [t, c.s[i]]).filter(([t]) => t <= end).map(([t, s]) => `${px(t).toFixed(1)},${py(s).toFixed(1)}`);
    if (c.tau.at(-1) < end) points.push(`${px(end)},${py(c.s.at(-1)).toFixed(1)}`);
    svg.append(shape("polyline", { class: `jl-p-curve jl-p-c${c.index}`, points: points.join(" ") }));
  }
  found.order[objective].forEach((f, rank) => { // letters stand at staggered heights, so that near curves keep theirs apart
    const s = 0.2 + (0.6 * (rank + 0.5)) / curves.length, c = curves.find((other) => other.index === f.index), at = c.s.findIndex((v) => v >= s);
    svg.append(shape("circle", { class: `jl-p-dot jl-p-c${f.index}`, cx: px(c.tau[at]), cy: py(s), r: 8 }), shape("text", { class: "jl-p-letter", x: px(c.tau[at]), y: py(s) + 4, "text-anchor": "middle" }, NAMES[f.index]));
  });
  return element("figure", {}, element("figcaption", {}, name), svg);
}

/** The map of features: drag a dot, or set its numbers in the table. */
function drawMap(features, moved) {
  const axis = { from: 0, to: 1.7, ticks: [0, 0.5, 1, 1.5] };
  const { svg, px, py, toX, toY } = frame("Features by covariance λ and regression coefficient ρ; the table below holds the same numbers", 340, 260, { ...axis, title: "λ, covariance of x and y" }, { ...axis, title: "ρ, regression coefficient" });
  features.forEach((f, index) => {
    const group = shape("g", { class: "jl-p-handle" });
    group.append(shape("circle", { class: `jl-p-dot jl-p-c${index}`, cx: px(clamp(f.lam)), cy: py(clamp(f.rho)), r: 12 }), shape("text", { class: "jl-p-letter", x: px(clamp(f.lam)), y: py(clamp(f.rho)) + 4, "text-anchor": "middle" }, NAMES[index]));
    group.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      const move = (to) => {
        const box = svg.getBoundingClientRect(), scale = 340 / box.width;
        const lam = +clamp(toX((to.clientX - box.left) * scale)).toFixed(2), rho = +clamp(toY((to.clientY - box.top) * scale)).toFixed(2);
        group.setAttribute("transform", `translate(${px(lam) - px(clamp(f.lam))} ${py(rho) - py(clamp(f.rho))})`);
        moved(index, lam, rho, false);
      };
      const stop = (to) => {
        window.removeEventListener("pointermove", move);
        window.removeEventListener("pointerup", stop);
        window.removeEventListener("pointercancel", stop);
        moved(index, features[index].lam, features[index].rho, true);
      };
      window.addEventListener("pointermove", move);
      window.addEventListener("pointerup", stop);
      window.addEventListener("pointercancel", stop);
    });
    svg.append(group);
  });
  return svg;
}

/** How the two orders compare, in words. */
export function verdict(found) {
  if (found.able.length < 2) return "At least two learnable features are needed to compare orders.";
  if (found.tau === 1) return "Both objectives learn in the same order.";
  if (found.tau === -1) return "Opposite orders: JEPA and MAE learn these features the other way round.";
  return `The orders differ in part (Kendall's tau ${found.tau.toFixed(2)}).`;
}

function orderLine(objective, found) {
  const line = element("p", { class: "jl-p-order" }, element("b", {}, `${objective.toUpperCase()} learns `));
  found.order[objective].forEach((f, rank) => line.append(rank ? " then " : "", chip(f.index)));
  return line;
}

function range(id, label, min, max, step, value, show, changed) {
  const input = element("input", { type: "range", id, min, max, step, value }), output = element("output", { for: id });
  const say = () => { output.textContent = show(+input.value); input.setAttribute("aria-valuetext", output.textContent); };
  input.addEventListener("input", () => { say(); changed(+input.value); });
  say();
  return { node: element("div", { class: "jl-p-slider" }, element("label", { for: id }, label), output, input), set: (v) => { input.value = v; say(); } };
}

/** The table of features: number fields for every feature, its two critical times and ranks. */
function table(id, changed, removed) {
  const body = element("tbody"), heads = ["Feature", "λ", "ρ", "t* JEPA (rank)", "t* MAE (rank)"];
  const head = element("tr", {}, ...heads.map((h) => element("th", { scope: "col" }, h)), element("td"));
  let cells = [];
  const build = (features) => {
    cells = features.map((f, i) => {
      const fields = ["lam", "rho"].map((key) => {
        const input = element("input", { type: "number", min: 0.05, max: 5, step: 0.05, value: f[key], "aria-label": `${key === "lam" ? "λ" : "ρ"} of feature ${NAMES[i]}`, id: `${id}-${key}-${i}` });
        input.addEventListener("input", () => changed(i, key, +input.value));
        return input;
      });
      const drop = element("button", { type: "button", "aria-label": `Remove feature ${NAMES[i]}` }, "×");
      drop.addEventListener("click", () => removed(i));
      const times = [element("td"), element("td")];
      const row = element("tr", {}, element("th", { scope: "row" }, chip(i)), ...fields.map((input) => element("td", {}, input)), ...times, element("td", {}, features.length > 1 ? drop : ""));
      return { row, fields, times };
    });
    body.replaceChildren(...cells.map((c) => c.row));
  };
  const fill = (features, found) => found.solved.forEach((f, i) => {
    ["lam", "rho"].forEach((key, j) => { if (document.activeElement !== cells[i].fields[j]) cells[i].fields[j].value = features[i][key]; });
    ["jepa", "mae"].forEach((o, j) => { cells[i].times[j].textContent = f.why ? "–" : `${short(f[o])} (${found.order[o].findIndex((g) => g.index === i) + 1})`; });
  });
  const node = element("div", { class: "jl-p-table", tabindex: "0", role: "group", "aria-label": "Features and their critical times" }, element("table", {}, element("thead", {}, head), body));
  return { node, build, fill };
}

/** Builds the explorer inside `host`; `start` is {depth, log_eps, features: [[lam, rho], …]}. */
export function mount(host, start) {
  const id = `jl-p-${++instances}`;
  const state = { depth: start.depth, logEps: start.log_eps, features: start.features.map(([lam, rho]) => ({ lam, rho })) };
  const map = element("div", { class: "jl-p-map" }), plots = element("div", { class: "jl-p-plots" }), said = element("div", { class: "jl-p-said", "aria-live": "polite" });

  const draw = (redrawMap = true) => {
    const eps = 10 ** state.logEps, found = solve(state.features, state.depth, eps);
    if (redrawMap) map.replaceChildren(drawMap(state.features, (i, lam, rho, done) => { state.features[i] = { lam, rho }; draw(done); }));
    const refused = found.solved.filter((f) => f.why).map((f) => element("p", { class: "jl-p-refused" }, chip(f.index), ` ${f.why}.`));
    said.replaceChildren(orderLine("jepa", found), orderLine("mae", found), element("p", { class: "jl-p-verdict" }, verdict(found)), ...refused);
    plots.replaceChildren(...(found.able.length ? ["jepa", "mae"].map((o) => drawCurves(o, found, state.depth, eps)) : []));
    rows.fill(state.features, found);
  };
  const rebuild = () => { rows.build(state.features); add.disabled = state.features.length >= MAX_FEATURES; draw(); };
  const rows = table(id, (i, key, value) => { state.features[i] = { ...state.features[i], [key]: value }; draw(); }, (i) => { state.features.splice(i, 1); rebuild(); });
  const depth = range(`${id}-depth`, "Encoder depth L", 1, 8, 1, state.depth, (v) => `${v}`, (v) => { state.depth = v; draw(); });
  const eps = range(`${id}-eps`, "Initial gain ε", -7, -1, 0.25, state.logEps, (v) => short(10 ** v), (v) => { state.logEps = v; draw(); });
  const add = element("button", { type: "button" }, "Add a feature");
  add.addEventListener("click", () => { state.features.push({ lam: 0.8, rho: 0.7 }); rebuild(); });
  const examples = EXAMPLES.map(([name, L, logEps, list]) => {
    const button = element("button", { type: "button" }, name);
    button.addEventListener("click", () => {
      Object.assign(state, { depth: L, logEps, features: list.map(([lam, rho]) => ({ lam, rho })) });
      depth.set(L);
      eps.set(logEps);
      rebuild();
    });
    return button;
  });
  const bar = element("div", { class: "jl-p-bar", role: "group", "aria-label": "Examples" }, ...examples);
  const controls = element("div", { class: "jl-p-controls" }, depth.node, eps.node, rows.node, add);
  host.classList.add("jl-phase");
  host.replaceChildren(bar, element("div", { class: "jl-p-top" }, map, controls), said, plots);
  rebuild();
}

export default { render: ({ model, el }) => mount(el, model.get("start")) };
