// The mask samplers of the page: the same rules as jepa_lab/masks.py; tests/core/test_mask_explorer.py compares the two.
// A grid is [rows, cols], a cell is row * cols + column, rng() is in [0, 1).

import { clamp } from "./kit.js";

const CANDIDATES = 8;
const DRAWS = 2000;
const MIN_BATCHES = 24; // the published sampler draws block sizes once per batch

/** A small seeded generator (mulberry32): every reader sees the same draws. */
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

const repeat = (count, draw) => Array.from({ length: count }, (_, i) => draw(i));

function rectangle([, cols], top, left, height, width) {
  const cells = [];
  for (let row = top; row < top + height; row++) {
    for (let col = left; col < left + width; col++) cells.push(row * cols + col);
  }
  return { top, left, height, width, cells };
}

/** A block at a corner drawn uniformly over all corners where it fits, the last ones included. */
function place(grid, [height, width], rng) {
  return rectangle(grid, below(grid[0] - height + 1, rng), below(grid[1] - width + 1, rng), height, width);
}

/** The block's cells that no target hides. */
function outside(block, targets) {
  const hidden = new Set(targets.flatMap((target) => target.cells));
  return block.cells.filter((cell) => !hidden.has(cell));
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

// ---- the corrected sampler --------------------------------------------------------------------------

/** Whole-number shapes of one area whose aspect is in the range. */
function shapesOfArea([rows, cols], area, aspect) {
  const heights = repeat(rows, (i) => i + 1).filter((h) => {
    const ratio = (h * h) / area;
    return area % h === 0 && area / h <= cols && ratio >= aspect[0] && ratio <= aspect[1];
  });
  return heights.map((h) => [h, area / h]);
}

/** Whether rank a comes before rank b, compared entry by entry. */
function isBefore(a, b) {
  const i = a.findIndex((value, j) => value !== b[j]);
  return i >= 0 && a[i] < b[i];
}

/** Shapes of one common area nearest to the asked scale; block_shapes in jepa_lab/masks.py has the rule. */
export function blockShapes(grid, scale, aspect) {
  const tokens = grid[0] * grid[1];
  const [low, high] = scale.map((share) => share * tokens);
  let best = { rank: [Infinity], shapes: [] };
  for (let area = 1; area < tokens; area++) {
    const shapes = shapesOfArea(grid, area, aspect);
    if (!shapes.length) continue;
    const outsideScale = Math.max(0, Math.log(low / area), Math.log(area / high));
    const fromMiddle = Math.abs(Math.log(area / Math.sqrt(low * high)));
    const rank = [outsideScale, -shapes.length, fromMiddle];
    if (isBefore(rank, best.rank)) best = { rank, shapes };
  }
  return best.shapes;
}

/** One sample of the corrected multi-block sampler: {context, targets, open, lastResort}. */
export function multiBlock(grid, { numTargets, shapes, contextScale, numContext }, rng) {
  let first = null;
  for (let draw = 0; draw < CANDIDATES; draw++) {
    const targets = repeat(numTargets, () => place(grid, shapes[below(shapes.length, rng)], rng));
    const side = Math.sqrt(contextScale[0] + rng() * (contextScale[1] - contextScale[0]));
    const size = grid.map((length) => Math.max(1, Math.round(side * length)));
    const open = outside(place(grid, size, rng), targets);
    first = first || targets;
    if (open.length >= numContext) {
      return { context: chooseSome(open, numContext, rng), targets, open: open.length, lastResort: false };
    }
  }
  const targets = first.map(() => first[0]);
  const open = outside(rectangle(grid, 0, 0, grid[0], grid[1]), targets);
  return { context: chooseSome(open, numContext, rng), targets, open: open.length, lastResort: true };
}

/** Table columns: the context is a random subset, each target a random subset of the others. */
export function columns(count, { numTargets, targetSize, numContext }, rng) {
  const all = repeat(count, (i) => i);
  const context = chooseSome(all, numContext, rng);
  const rest = all.filter((cell) => !context.includes(cell));
  const targets = repeat(numTargets, () => ({ cells: chooseSome(rest, targetSize, rng) }));
  return { context, targets, open: context.length, lastResort: false };
}

// ---- the published sampler --------------------------------------------------------------------------

function publishedSize([rows, cols], u, scale, aspect) {
  const area = Math.floor(rows * cols * (scale[0] + u * (scale[1] - scale[0])));
  const ratio = aspect[0] + u * (aspect[1] - aspect[0]);
  const [height, width] = [Math.round(Math.sqrt(area * ratio)), Math.round(Math.sqrt(area / ratio))];
  return [Math.min(height, rows - 1), Math.min(width, cols - 1)];
}

/** The reason why the published rules cannot run on this grid, or "". */
export function publishedImpossible(grid, { contextScale, targetScale, aspect, minKeep }) {
  const [height, width] = publishedSize(grid, 0, contextScale, [1, 1]);
  if (height * width <= minKeep) {
    return `its context block can be ${height} × ${width}, and it redraws until more than ${minKeep} tokens are left`;
  }
  const sides = [0, 1].flatMap((u) => publishedSize(grid, u, targetScale, aspect));
  return Math.min(...sides) < 1 ? "a target block would be empty" : "";
}

/** One batch of the published sampler; `open` is the context before the cut to the batch's shortest. */
export function multiBlockPublished(grid, batchSize, { numTargets, targetScale, aspect, contextScale, minKeep }, rng) {
  const targetSize = publishedSize(grid, rng(), targetScale, aspect);
  const contextSize = publishedSize(grid, rng(), contextScale, [1, 1]);
  const corner = ([height, width]) =>
    rectangle(grid, below(grid[0] - height, rng), below(grid[1] - width, rng), height, width);
  const batch = repeat(batchSize, () => {
    const targets = repeat(numTargets, () => corner(targetSize));
    let context = [];
    for (let failures = 0; context.length <= minKeep; failures++) {
      const avoided = Math.max(numTargets - Math.floor(failures / 20), 0);
      context = outside(corner(contextSize), targets.slice(0, avoided));
    }
    return { context, targets, open: context.length };
  });
  const shortest = Math.min(...batch.map((sample) => sample.context.length));
  return batch.map((sample) => ({ ...sample, context: sample.context.slice(0, shortest) }));
}

// ---- plans and counts -------------------------------------------------------------------------------

/** Per-position frequencies and the numbers of the table over a list of samples. */
export function statistics(tokens, samples) {
  const context = new Array(tokens).fill(0);
  const target = new Array(tokens).fill(0);
  let before = 0;
  let after = 0;
  let lastResort = 0;
  let blocks = 0;
  for (const sample of samples) {
    for (const cell of sample.context) context[cell] += 1 / samples.length;
    for (const block of sample.targets) for (const cell of block.cells) target[cell] += 1;
    blocks += sample.targets.length;
    before += sample.open / tokens / samples.length;
    after += sample.context.length / tokens / samples.length;
    if (sample.lastResort) lastResort += 1 / samples.length;
  }
  const never = context.filter((share, cell) => share === 0 && target[cell] === 0).length / tokens;
  return { context, target: target.map((n) => n / blocks), before, after, never, lastResort };
}

/** What a setting means on a grid: {draw, size, numContext, published, impossible}, or {problem} in words. */
export function plan(kind, grid, { numTargets, scale, aspect, keep }) {
  const tokens = grid[0] * grid[1];
  const contextScale = [0.85, 1];
  const targetScale = [Math.max(0.01, scale - 0.025), scale + 0.025];
  const line = [[1, Math.max(1, Math.round(scale * tokens))]];
  const shapes = kind === "plane" ? blockShapes(grid, targetScale, aspect) : line;
  if (!shapes.length) return { problem: "No block of this aspect fits in the grid: move the aspect nearer to 1." };
  const size = shapes[0][0] * shapes[0][1];
  const numContext = clamp(Math.round(keep * tokens), 1, tokens - size);
  const blocks = (rng) => multiBlock(grid, { numTargets, shapes, contextScale, numContext }, rng);
  const subsets = (rng) => columns(tokens, { numTargets, targetSize: size, numContext }, rng);
  const planned = { draw: kind === "columns" ? subsets : blocks, size, numContext, published: null, impossible: "" };
  if (kind !== "plane") return planned;
  const published = { numTargets, targetScale, aspect, contextScale, minKeep: 10 };
  return { ...planned, published, impossible: publishedImpossible(grid, published) };
}

/** Statistics of the corrected sampler and, where it can run, of the published one. */
export function measure(planned, grid, batchSize) {
  const tokens = grid[0] * grid[1];
  const rng = generator(1);
  const corrected = statistics(
    tokens,
    repeat(DRAWS, () => planned.draw(rng)),
  );
  if (!planned.published || planned.impossible) return { corrected };
  const calls = Math.max(MIN_BATCHES, Math.ceil(DRAWS / batchSize));
  const batches = repeat(calls, () => multiBlockPublished(grid, batchSize, planned.published, rng));
  return { corrected, published: statistics(tokens, batches.flat()) };
}
