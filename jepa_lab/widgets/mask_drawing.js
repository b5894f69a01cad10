// The drawings of the mask explorer: one sample on its data, and counts over many samples.

import { element, extent, linear, percent, shape, table } from "./kit.js";

const ROLES = { context: "in the context", target: "in a given target" };

// ---- one sample -------------------------------------------------------------------------------------

/** An SVG whose unit is one token; `stretch` is the height of a token when the grid is a line. */
function canvas([rows, cols], label, stretch = 1) {
  return shape("svg", {
    viewBox: `0 0 ${cols} ${rows * stretch}`,
    role: "img",
    "aria-label": label,
    class: "jl-m-grid",
  });
}

/** The rectangle of a cell, smaller by `inset` on each side. */
const box = (cell, [, cols], stretch = 1, inset = 0.03) => ({
  x: (cell % cols) + inset,
  y: Math.floor(cell / cols) * stretch + inset,
  width: 1 - 2 * inset,
  height: stretch - 2 * inset,
});

/** State of every token in the drawn sample: "context", "target" or "unused". */
function states(tokens, sample) {
  const state = new Array(tokens).fill("unused");
  for (const cell of sample.context) state[cell] = "context";
  for (const target of sample.targets) for (const cell of target.cells) state[cell] = "target";
  return state;
}

/** A grey image as a canvas of its own pixels. */
function picture(pixels) {
  const [height, width] = [pixels.length, pixels[0].length];
  const image = element("canvas", { width, height, class: "jl-m-pixels", "aria-hidden": "true" });
  const context = image.getContext("2d");
  const data = context.createImageData(width, height);
  pixels.flat().forEach((value, i) => data.data.set([value, value, value, 255], 4 * i));
  context.putImageData(data, 0, 0);
  return image;
}

/** A table row: seen columns show their value, hidden ones a question mark. */
function drawRow(data, state) {
  const text = (i) => ({ context: `${data.values[i]}`, target: "?", unused: "–" })[state[i]];
  const cells = data.names.map((name, i) =>
    element("div", { class: `jl-m-cell ${state[i]}` }, element("b", {}, name), element("span", {}, text(i))),
  );
  return element("div", { class: "jl-m-sample jl-m-row" }, ...cells);
}

function drawSeries(values, grid) {
  const y = linear(extent(values), [9.3, 0.7]);
  const points = values.map((value, i) => `${((i / (values.length - 1)) * grid[1]).toFixed(2)},${y(value).toFixed(2)}`);
  return shape("polyline", { points: points.join(" "), class: "jl-m-line" });
}

/** The outline of each target block. */
function drawBlocks(targets, stretch) {
  return targets.map(({ left, top, width, height }) =>
    shape("rect", {
      x: left + 0.06,
      y: top + 0.06,
      width: width - 0.12,
      height: height * stretch - 0.12,
      class: "jl-m-block",
    }),
  );
}

/** The sample on its data: an image, a series or a bird's-eye view under its tokens, or a table row. */
export function drawSample(key, data, grid, sample) {
  const tokens = grid[0] * grid[1];
  const state = states(tokens, sample);
  if (key === "row") return drawRow(data, state);
  const stretch = key === "series" ? 10 : 1;
  const count = (name) => state.filter((s) => s === name).length;
  const label = ["context", "target", "unused"].map((name) => `${count(name)} ${name} tokens`).join(", ");
  const svg = canvas(grid, `${label} of ${tokens}`, stretch);
  if (key === "series") {
    svg.append(drawSeries(data.values, grid));
    svg.setAttribute("preserveAspectRatio", "none");
  }
  if (key === "bev") {
    const full = data.occupied.flat();
    const cells = full.map((_, cell) => cell).filter((cell) => full[cell]);
    svg.append(...cells.map((cell) => shape("rect", { ...box(cell, grid, 1, 0), class: "jl-m-full" })));
  }
  state.forEach((name, cell) => {
    const inset = name === "context" ? 0.04 : 0;
    svg.append(shape("rect", { ...box(cell, grid, stretch, inset), class: `jl-m-token ${name}` }));
  });
  svg.append(...drawBlocks(sample.targets, stretch));
  const under = key === "image" ? [picture(data.pixels)] : [];
  return element("div", { class: `jl-m-sample jl-m-${key}` }, ...under, svg);
}

/** The drawn sample in words, or why there is none. */
export function sentence(planned, key, data, sample) {
  if (planned.problem) return planned.problem;
  const parts = [`${sample.targets.length} × ${planned.size} target tokens, ${planned.numContext} context tokens.`];
  if (planned.impossible) parts.push(`The published sampler cannot run on this grid: ${planned.impossible}.`);
  if (key === "row") parts.push("Columns have no neighbours, so targets are scattered.");
  if (key === "bev") {
    const full = data.occupied.flat();
    const hidden = [...new Set(sample.targets.flatMap((target) => target.cells))];
    const share = (cells) => percent(cells.reduce((n, cell) => n + full[cell], 0) / cells.length);
    parts.push(`${share(hidden)} of the hidden cells hold points, ${share([...full.keys()])} of all cells do.`);
  }
  return parts.join(" ");
}

// ---- counts over many samples -----------------------------------------------------------------------

/** Two crossed lines inside a cell. */
function cross({ x, y, width, height }) {
  const [left, right] = [x + 0.3 * width, x + 0.7 * width];
  const [top, bottom] = [y + 0.3 * height, y + 0.7 * height];
  return shape("path", {
    class: "jl-m-never",
    d: `M${left} ${top}L${right} ${bottom}M${right} ${top}L${left} ${bottom}`,
  });
}

/** Frequencies as a map: stronger colour, more often; a cross marks a token that is never drawn. */
function heatMap(values, top, grid, role, label, stretch) {
  const svg = canvas(grid, label, stretch);
  values.forEach((value, cell) => {
    const place = box(cell, grid, stretch);
    const position = `row ${Math.floor(cell / grid[1]) + 1}, column ${(cell % grid[1]) + 1}`;
    const title = shape("title", {}, `${position}: ${percent(value, 1)}`);
    const opacity = top ? value / top : 0;
    svg.append(shape("rect", { ...place, class: `jl-m-heat ${role}`, "fill-opacity": opacity }, title));
    if (value === 0) svg.append(cross(place));
  });
  return svg;
}

/** The samplers that were counted, as [name, statistics]. */
function counted(found) {
  const both = [
    ["Corrected", found.corrected],
    ["Published", found.published],
  ];
  return both.filter(([, stats]) => stats);
}

export function maps(found, grid, kind) {
  const stretch = kind === "plane" ? 1 : grid[1] / 6;
  const hold = element("div", { class: `jl-m-maps ${kind}` });
  for (const [role, where] of Object.entries(ROLES)) {
    const top = Math.max(...counted(found).flatMap(([, stats]) => stats[role]));
    for (const [name, stats] of counted(found)) {
      const [low, high] = extent(stats[role]);
      const label = `${name}: share of samples with the token ${where}, from ${percent(low)} to ${percent(high)}`;
      const svg = heatMap(stats[role], top, grid, role, label, stretch);
      if (kind !== "plane") svg.setAttribute("preserveAspectRatio", "none");
      const scale = element("span", { class: "jl-m-scale" }, "0 %", element("i", { class: role }), percent(top));
      hold.append(element("figure", {}, element("figcaption", {}, `${name}: ${role}`), svg, scale));
    }
  }
  return hold;
}

export function numbers(found) {
  const heads = [
    "",
    "Context before the cut",
    "after the cut",
    "Never drawn",
    "Context, rarest to most frequent token",
  ];
  const rows = counted(found).map(([name, stats]) => {
    const [low, high] = extent(stats.context);
    const shares = [stats.before, stats.after, stats.never].map((share) => percent(share));
    return [name, ...shares, `${percent(low)} to ${percent(high)}`];
  });
  return table("Numbers of the samplers", heads, rows);
}

export function lastResortText(share) {
  if (share <= 0.005) return "";
  const what = `In ${percent(share)} of the draws no candidate leaves that much context`;
  return `${what}: all targets then fall on one block. Keep less, or hide less.`;
}
