// The drawings of the phase explorer: learning curves, and the map on which features are dragged.

import { clamp, element, linear, shape, short } from "../../widgets/kit.js";
import { learningCurve } from "./explorer_theory.js";

const RANGE = [0.1, 1.6]; // of λ and ρ on the map

export const NAMES = "ABCDEFGH";

const onMap = (x) => clamp(x, ...RANGE);

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
export function drawCurves(objective, found, depth, eps) {
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
export function drawMap(features, moved) {
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
