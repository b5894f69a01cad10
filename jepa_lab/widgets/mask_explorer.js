// The mask explorer: draws masks in the page, without a kernel and without a network.
// The samplers are the same rules as jepa_lab/masks.py; tests/test_mask_explorer.py compares the two.

// ---- samplers: grid [rows, cols], rng() in [0, 1) ---------------------------------------------------

const CANDIDATES = 8;
const DRAWS = 2000;
const MIN_BATCHES = 24; // block sizes are drawn per batch in the published sampler

/** A small seeded generator (mulberry32), so that a page shows the same draws to everyone. */
export function generator(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

const below = (count, rng) => Math.floor(rng() * count);
const clamp = (x, low, high) => Math.min(Math.max(x, low), high);

function rectangle([, cols], top, left, height, width) {
  const cells = [];
  for (let row = top; row < top + height; row++) for (let col = left; col < left + width; col++) cells.push(row * cols + col);
  return { top, left, height, width, cells };
}

/** Uniform over all corners where the block fits, the last ones included. */
function place(grid, [height, width], rng) {
  return rectangle(grid, below(grid[0] - height + 1, rng), below(grid[1] - width + 1, rng), height, width);
}

function outside(block, hiding) {
  const hidden = new Uint8Array(block.cells[block.cells.length - 1] + 1);
  for (const target of hiding) for (const cell of target.cells) hidden[cell] = 1;
  return block.cells.filter((cell) => !hidden[cell]);
}

/** k of the cells, each set equally likely, ascending. */
function chooseSome(cells, k, rng) {
  const pool = cells.slice();
  for (let i = 0; i < k; i++) {
    const j = i + below(pool.length - i, rng);
    [pool[i], pool[j]] = [pool[j], pool[i]];
  }
  return pool.slice(0, k).sort((a, b) => a - b);
}

/** Shapes of one common area nearest to the asked scale; see block_shapes in jepa_lab/masks.py for the rule. */
export function blockShapes([rows, cols], scale, aspect) {
  const tokens = rows * cols, low = scale[0] * tokens, high = scale[1] * tokens;
  let best = null;
  for (let area = 1; area < tokens; area++) {
    const shapes = [];
    for (let h = 1; h <= rows; h++) {
      const ratio = (h * h) / area;
      if (area % h === 0 && area / h <= cols && ratio >= aspect[0] && ratio <= aspect[1]) shapes.push([h, area / h]);
    }
    if (!shapes.length) continue;
    const rank = [Math.max(0, Math.log(low / area), Math.log(area / high)), -shapes.length, Math.abs(Math.log(area / Math.sqrt(low * high)))];
    const better = best === null || rank.some((value, i) => value < best.rank[i] && rank.slice(0, i).every((v, j) => v === best.rank[j]));
    if (better) best = { rank, shapes };
  }
  return best ? best.shapes : [];
}

/** One sample of the corrected multi-block sampler: {context, targets, open, lastResort}. */
export function multiBlock(grid, { numTargets, shapes, contextScale, numContext }, rng) {
  const everything = rectangle(grid, 0, 0, grid[0], grid[1]);
  let first = null;
  for (let draw = 0; draw < CANDIDATES; draw++) {
    const targets = Array.from({ length: numTargets }, () => place(grid, shapes[below(shapes.length, rng)], rng));
    const side = Math.sqrt(contextScale[0] + rng() * (contextScale[1] - contextScale[0]));
    const block = place(grid, grid.map((length) => Math.max(1, Math.round(side * length))), rng);
    const open = outside(block, targets);
    first = first || targets;
    if (open.length >= numContext) return { context: chooseSome(open, numContext, rng), targets, open: open.length, lastResort: false };
  }
  const targets = first.map(() => first[0]);
  const open = outside(everything, targets);
  return { context: chooseSome(open, numContext, rng), targets, open: open.length, lastResort: true };
}

/** Table columns: the context is a random subset, each target a random subset of the others. */
export function columns(count, { numTargets, targetSize, numContext }, rng) {
  const all = Array.from({ length: count }, (_, i) => i);
  const context = chooseSome(all, numContext, rng);
  const rest = all.filter((cell) => !context.includes(cell));
  const targets = Array.from({ length: numTargets }, () => ({ cells: chooseSome(rest, targetSize, rng) }));
  return { context, targets, open: context.length, lastResort: false };
}

function publishedSize([rows, cols], u, scale, aspect) {
  const area = Math.floor(rows * cols * (scale[0] + u * (scale[1] - scale[0])));
  const ratio = aspect[0] + u * (aspect[1] - aspect[0]);
  return [Math.min(Math.round(Math.sqrt(area * ratio)), rows - 1), Math.min(Math.round(Math.sqrt(area / ratio)), cols - 1)];
}

/** The reason why the published rules cannot run on this grid, or "". */
export function publishedImpossible(grid, { contextScale, targetScale, aspect, minKeep }) {
  const size = publishedSize(grid, 0, contextScale, [1, 1]);
  if (size[0] * size[1] <= minKeep) return `its context block can be ${size[0]} × ${size[1]}, and it redraws until more than ${minKeep} tokens are left`;
  return Math.min(...publishedSize(grid, 0, targetScale, aspect), ...publishedSize(grid, 1, targetScale, aspect)) < 1 ? "a target block would be empty" : "";
}

/** One batch of the published sampler; `open` is the context before the cut to the batch's shortest. */
export function multiBlockPublished(grid, batchSize, { numTargets, targetScale, aspect, contextScale, minKeep }, rng) {
  const targetSize = publishedSize(grid, rng(), targetScale, aspect), contextSize = publishedSize(grid, rng(), contextScale, [1, 1]);
  const corner = ([height, width]) => rectangle(grid, below(grid[0] - height, rng), below(grid[1] - width, rng), height, width);
  const batch = Array.from({ length: batchSize }, () => {
    const targets = Array.from({ length: numTargets }, () => corner(targetSize));
    let context = [];
    for (let failures = 0; context.length <= minKeep; failures++) {
      context = outside(corner(contextSize), targets.slice(0, Math.max(numTargets - Math.floor(failures / 20), 0)));
    }
    return { context, targets, open: context.length };
  });
  const shortest = Math.min(...batch.map((sample) => sample.context.length));
  return batch.map((sample) => ({ ...sample, context: sample.context.slice(0, shortest) }));
}

/** Per-position frequencies and the numbers of the table over a list of samples. */
export function statistics(tokens, samples) {
  const context = new Array(tokens).fill(0), target = new Array(tokens).fill(0);
  let before = 0, after = 0, lastResort = 0, blocks = 0;
  for (const sample of samples) {
    for (const cell of sample.context) context[cell] += 1 / samples.length;
    for (const block of sample.targets) for (const cell of block.cells) target[cell] += 1;
    blocks += sample.targets.length;
    before += sample.open / tokens / samples.length;
    after += sample.context.length / tokens / samples.length;
    lastResort += sample.lastResort ? 1 / samples.length : 0;
  }
  const never = context.filter((f, cell) => f === 0 && target[cell] === 0).length / tokens;
  return { context, target: target.map((n) => n / blocks), before, after, never, lastResort };
}

/** What a setting means on a grid: {draw, size, numContext, published} or {problem}. kind: plane, line or columns. */
export function plan(kind, grid, { numTargets, scale, aspect, keep }) {
  const tokens = grid[0] * grid[1], contextScale = [0.85, 1], targetScale = [Math.max(0.01, scale - 0.025), scale + 0.025];
  const shapes = kind === "plane" ? blockShapes(grid, targetScale, aspect) : [[1, Math.max(1, Math.round(scale * tokens))]];
  if (!shapes.length) return { problem: "No block of this aspect fits in the grid: move the aspect nearer to 1." };
  const size = shapes[0][0] * shapes[0][1], numContext = clamp(Math.round(keep * tokens), 1, tokens - size);
  const draw = kind === "columns"
    ? (rng) => columns(tokens, { numTargets, targetSize: size, numContext }, rng)
    : (rng) => multiBlock(grid, { numTargets, shapes, contextScale, numContext }, rng);
  const published = kind === "plane" ? { numTargets, targetScale, aspect, contextScale, minKeep: 10 } : null;
  return { draw, size, numContext, published, impossible: published ? publishedImpossible(grid, published) : "" };
}

/** Statistics of our sampler and, where it can run, of the published one. */
export function measure(planned, grid, batchSize) {
  const tokens = grid[0] * grid[1], rng = generator(1), { published } = planned;
  const found = { ours: statistics(tokens, Array.from({ length: DRAWS }, () => planned.draw(rng))) };
  if (!published || planned.impossible) return found;
  const calls = Math.max(MIN_BATCHES, Math.ceil(DRAWS / batchSize));
  const batches = Array.from({ length: calls }, () => multiBlockPublished(grid, batchSize, published, rng));
  return { ...found, published: statistics(tokens, batches.flat()) };
}

// ---- the page ---------------------------------------------------------------------------------------

const TABS = [
  ["image", "Image", "plane"],
  ["series", "Time series", "line"],
  ["row", "Table row", "columns"],
  ["bev", "Bird’s-eye view", "plane"],
];
const ASPECTS = [0.5, 0.75, 1, 1.5, 2, 3, 4];
const BATCHES = [1, 8, 32, 128];
const SLIDERS = [
  { key: "numTargets", label: "Target blocks", min: 1, max: 6, step: 1, show: (v) => `${v}` },
  { key: "scale", label: "Size of one target", min: 5, max: 40, step: 2.5, show: (v) => `${v} % of the tokens` },
  { key: "aspect", label: "Aspect, rows : columns", min: 0, max: ASPECTS.length - 1, step: 1, show: (v) => `${ASPECTS[v] / 2} to ${ASPECTS[v]}`, only: "plane" },
  { key: "keep", label: "Context kept", min: 5, max: 80, step: 2.5, show: (v) => `${v} % of the tokens` },
  { key: "batch", label: "Images per batch (published)", min: 0, max: BATCHES.length - 1, step: 1, show: (v) => `${BATCHES[v]}`, only: "plane" },
];
const SVG = "http://www.w3.org/2000/svg";
let instances = 0;

function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function shape(tag, attributes, title) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (title) node.appendChild(document.createElementNS(SVG, "title")).textContent = title;
  return node;
}

const percent = (x, digits = 0) => `${(100 * x).toFixed(digits)} %`;

/** An SVG whose unit is one token; `stretch` is the height of a token when the grid is a line. */
function canvas([rows, cols], label, stretch = 1) {
  return shape("svg", { viewBox: `0 0 ${cols} ${rows * stretch}`, role: "img", "aria-label": label, class: "jl-m-grid" });
}

const box = (cell, [, cols], stretch = 1, inset = 0.03) => ({
  x: (cell % cols) + inset, y: (Math.floor(cell / cols) + inset / stretch) * stretch, width: 1 - 2 * inset, height: stretch - 2 * inset,
});

/** Frequencies as a map: stronger colour, more often; a cross marks a token that is never drawn. */
function heatMap(values, top, grid, kind, label, stretch) {
  const svg = canvas(grid, label, stretch);
  values.forEach((value, cell) => {
    const place = box(cell, grid, stretch);
    svg.append(shape("rect", { ...place, class: `jl-m-heat ${kind}`, "fill-opacity": top ? (value / top).toFixed(3) : 0 }, `row ${Math.floor(cell / grid[1]) + 1}, column ${(cell % grid[1]) + 1}: ${percent(value, 1)}`));
    if (value === 0) {
      const { x, y, width, height } = place, a = 0.3;
      svg.append(shape("path", { class: "jl-m-never", d: `M${x + a * width} ${y + a * height}L${x + (1 - a) * width} ${y + (1 - a) * height}M${x + (1 - a) * width} ${y + a * height}L${x + a * width} ${y + (1 - a) * height}` }));
    }
  });
  return svg;
}

/** State of every token in the drawn sample: "context", "target" or "unused". */
function states(tokens, sample) {
  const state = new Array(tokens).fill("unused");
  for (const cell of sample.context) state[cell] = "context";
  for (const target of sample.targets) for (const cell of target.cells) state[cell] = "target";
  return state;
}

function picture(pixels, size) {
  const image = element("canvas", { width: size[1], height: size[0], class: "jl-m-pixels", "aria-hidden": "true" });
  const context = image.getContext("2d"), data = context.createImageData(size[1], size[0]);
  pixels.flat().forEach((value, i) => data.data.set([value, value, value, 255], 4 * i));
  context.putImageData(data, 0, 0);
  return image;
}

/** The sample of a 2-D grid, a line or a table row, with its tokens marked. */
function drawSample(kind, data, grid, sample) {
  const tokens = grid[0] * grid[1], state = states(tokens, sample), hold = element("div", { class: `jl-m-sample jl-m-${kind}` });
  if (kind === "row") {
    data.names.forEach((name, i) => hold.append(element("div", { class: `jl-m-cell ${state[i]}` }, element("b", {}, name), element("span", {}, state[i] === "context" ? `${data.values[i]}` : state[i] === "target" ? "?" : "–"))));
    return hold;
  }
  const stretch = kind === "series" ? 10 : 1;
  const said = `${sample.context.length} context tokens, ${state.filter((s) => s === "target").length} target tokens, ${state.filter((s) => s === "unused").length} unused tokens of ${tokens}`;
  const svg = canvas(grid, said, stretch);
  if (kind === "image") hold.append(picture(data.pixels, [data.pixels.length, data.pixels[0].length]));
  if (kind === "bev") data.occupied.flat().forEach((full, cell) => full && svg.append(shape("rect", { ...box(cell, grid, 1, 0), class: "jl-m-full" })));
  if (kind === "series") {
    const low = Math.min(...data.values), high = Math.max(...data.values);
    const point = (value, i) => `${((i / (data.values.length - 1)) * grid[1]).toFixed(2)},${(9.3 - (8.6 * (value - low)) / (high - low || 1)).toFixed(2)}`;
    svg.append(shape("polyline", { points: data.values.map(point).join(" "), class: "jl-m-line" }));
    svg.setAttribute("preserveAspectRatio", "none");
  }
  state.forEach((name, cell) => svg.append(shape("rect", { ...box(cell, grid, stretch, name === "context" ? 0.04 : 0), class: `jl-m-token ${name}` })));
  if (sample.targets[0].height) for (const t of sample.targets) svg.append(shape("rect", { x: t.left + 0.06, y: t.top + 0.06, width: t.width - 0.12, height: t.height * stretch - 0.12, class: "jl-m-block" }));
  hold.append(svg);
  return hold;
}

function maps(found, grid, kind) {
  const stretch = kind === "plane" ? 1 : grid[1] / 6, arms = [["Corrected", found.ours], ...(found.published ? [["Published", found.published]] : [])];
  const hold = element("div", { class: `jl-m-maps ${kind}` });
  for (const role of ["context", "target"]) {
    const top = Math.max(...arms.flatMap(([, stats]) => stats[role]));
    for (const [name, stats] of arms) {
      const text = `${name}: share of samples with the token ${role === "context" ? "in the context" : "in a given target"}`;
      const svg = heatMap(stats[role], top, grid, role, `${text}, from ${percent(Math.min(...stats[role]))} to ${percent(Math.max(...stats[role]))}`, stretch);
      if (kind !== "plane") svg.setAttribute("preserveAspectRatio", "none");
      const scale = element("span", { class: "jl-m-scale" }, "0 %", element("i", { class: role }), percent(top));
      hold.append(element("figure", {}, element("figcaption", {}, `${name}: ${role}`), svg, scale));
    }
  }
  return hold;
}

function numbers(found) {
  const head = ["", "Context before the cut", "after the cut", "Never drawn", "Context, rarest to most frequent token"];
  const row = (name, s) => [name, percent(s.before), percent(s.after), percent(s.never), `${percent(Math.min(...s.context))} to ${percent(Math.max(...s.context))}`];
  const rows = [row("Corrected", found.ours), ...(found.published ? [row("Published", found.published)] : [])];
  const table = element("table", {}, element("thead", {}, element("tr", {}, ...head.map((h) => (h ? element("th", { scope: "col" }, h) : element("td"))))));
  table.append(element("tbody", {}, ...rows.map(([name, ...cells]) => element("tr", {}, element("th", { scope: "row" }, name), ...cells.map((c) => element("td", {}, c))))));
  return element("div", { class: "jl-m-table", tabindex: "0", role: "group", "aria-label": "Numbers of both samplers" }, table);
}

function sentence(planned, key, data, sample) {
  if (planned.problem) return planned.problem;
  const said = [`${sample.targets.length} × ${planned.size} target tokens, ${planned.numContext} context tokens.`];
  if (planned.impossible) said.push(`The published sampler cannot run on this grid: ${planned.impossible}.`);
  if (key === "row") said.push("Columns have no neighbours, so targets are scattered.");
  if (key === "bev") {
    const full = data.occupied.flat(), hidden = [...new Set(sample.targets.flatMap((target) => target.cells))], share = (cells) => percent(cells.reduce((n, c) => n + full[c], 0) / cells.length);
    said.push(`${share(hidden)} of the hidden cells hold points, ${share(full.map((_, i) => i))} of all cells do.`);
  }
  return said.join(" ");
}

const lastResort = (share) => (share > 0.005 ? `In ${percent(share)} of the draws no candidate leaves that much context: all targets then fall on one block. Keep less, or hide less.` : "");

function slider(spec, id, value, changed) {
  const input = element("input", { type: "range", id, min: spec.min, max: spec.max, step: spec.step, value });
  const output = element("output", { for: id });
  const say = () => { output.textContent = spec.show(+input.value); input.setAttribute("aria-valuetext", output.textContent); };
  input.addEventListener("input", () => { say(); changed(+input.value); });
  say();
  return element("div", { class: "jl-m-slider" }, element("label", { for: id }, spec.label), output, input);
}

function tabs(id, choose) {
  const bar = element("div", { role: "tablist", "aria-label": "What is masked", class: "jl-m-tabs" });
  const buttons = TABS.map(([key, name]) => element("button", { type: "button", role: "tab", id: `${id}-${key}`, "aria-controls": `${id}-panel` }, name));
  const select = (i, focus) => {
    buttons.forEach((button, j) => { button.setAttribute("aria-selected", `${i === j}`); button.tabIndex = i === j ? 0 : -1; });
    if (focus) buttons[i].focus();
    choose(TABS[i]);
  };
  buttons.forEach((button, i) => {
    button.addEventListener("click", () => select(i));
    button.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (step) { event.preventDefault(); select((i + step + TABS.length) % TABS.length, true); }
    });
  });
  bar.append(...buttons);
  return { bar, select };
}

function gridOf(key, data, patches) {
  if (key === "image") return [patches, patches];
  if (key === "bev") return [data.bev.occupied.length, data.bev.occupied[0].length];
  return [1, key === "row" ? data.row.names.length : data.series.tokens];
}

/** Builds the explorer inside `host` from {image, series, row, bev}; see MaskExplorer in masks.py for the fields. */
export function mount(host, data) {
  const id = `jl-m-${++instances}`, values = { numTargets: 4, scale: 17.5, aspect: 3, keep: 25, batch: 3 };
  const state = { tab: TABS[0], patches: 14, seed: 1, timer: 0 };
  const stage = element("div", { class: "jl-m-stage" }), said = element("p", { class: "jl-m-said", "aria-live": "polite" });
  const results = element("div", { class: "jl-m-results" }), legend = element("p", { class: "jl-m-legend" });
  for (const [name, text] of [["context", "context: seen"], ["target", "target: predicted"], ["unused", "unused: neither"]]) legend.append(element("span", {}, element("i", { class: name }), text));

  const draw = () => {
    const [key, , kind] = state.tab, grid = gridOf(key, data, state.patches);
    const setting = { numTargets: values.numTargets, scale: values.scale / 100, aspect: [ASPECTS[values.aspect] / 2, ASPECTS[values.aspect]], keep: values.keep / 100 };
    const planned = plan(kind, grid, setting), sample = planned.problem ? null : planned.draw(generator(state.seed));
    said.textContent = sentence(planned, key, data[key], sample);
    stage.replaceChildren(...(sample ? [drawSample(key, data[key], grid, sample), element("p", { class: "jl-m-caption" }, data[key].caption)] : []));
    clearTimeout(state.timer); // the sample follows the slider, the 2,000 draws wait until it rests
    state.timer = setTimeout(() => {
      if (!sample) return results.replaceChildren();
      const found = measure(planned, grid, BATCHES[values.batch]);
      results.replaceChildren(element("p", { class: "jl-m-said" }, lastResort(found.ours.lastResort)), maps(found, grid, kind), numbers(found));
    }, 120);
  };

  const controls = SLIDERS.map((spec) => slider(spec, `${id}-${spec.key}`, values[spec.key], (value) => { values[spec.key] = value; draw(); }));
  const patches = element("select", { id: `${id}-patches` }, ...[4, 7, 14].map((n) => element("option", { value: n, ...(n === 14 ? { selected: "" } : {}) }, `${n} × ${n}`)));
  patches.addEventListener("change", () => { state.patches = +patches.value; draw(); });
  const patchBox = element("div", { class: "jl-m-slider" }, element("label", { for: `${id}-patches` }, "Patches"), patches);
  const again = element("button", { type: "button", class: "jl-m-again" }, "Draw again");
  again.addEventListener("click", () => { state.seed += 1; draw(); });

  const { bar, select } = tabs(id, (tab) => {
    state.tab = tab;
    SLIDERS.forEach((spec, i) => { controls[i].hidden = Boolean(spec.only) && spec.only !== tab[2]; });
    patchBox.hidden = tab[0] !== "image";
    panel.setAttribute("aria-labelledby", `${id}-${tab[0]}`);
    draw();
  });
  const panel = element("div", { role: "tabpanel", id: `${id}-panel`, class: "jl-m-panel" },
    element("div", { class: "jl-m-controls" }, ...controls, patchBox, again), element("div", { class: "jl-m-left" }, stage, legend), said, results);
  host.classList.add("jl-masks");
  host.replaceChildren(bar, panel);
  select(0);
}

export default { render: ({ model, el }) => mount(el, model.get("data")) };
