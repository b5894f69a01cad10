/* Front page: hides other blocks of the little picture. The sampler is the multi-block rule on a 7 x 7 grid. */
(() => {
  "use strict";
  const GRID = 7, PATCH = 20, hero = document.querySelector(".jl-hero");
  if (!hero) return;
  const $ = (selector) => hero.querySelector(selector);
  const uniform = (low, high) => low + Math.random() * (high - low);
  const square = (kind, x, y, size) => `<rect class="${kind}" x="${x}" y="${y}" width="${size}" height="${size}"${size < PATCH - 2 ? ' rx="3"' : ""}/>`;

  function block(hidden) {
    const area = GRID * GRID * uniform(0.15, 0.2), aspect = uniform(0.75, 1.5);
    const high = Math.min(GRID - 1, Math.round(Math.sqrt(area * aspect))), wide = Math.min(GRID - 1, Math.round(Math.sqrt(area / aspect)));
    const top = Math.floor(uniform(0, GRID - high + 1)), left = Math.floor(uniform(0, GRID - wide + 1));
    for (let r = top; r < top + high; r++) for (let c = left; c < left + wide; c++) hidden.add(r * GRID + c);
  }
  function draw() {
    const hidden = new Set(), blocks = Number($("input").value);
    for (let i = 0; i < blocks; i++) block(hidden);
    const cells = [...hidden].sort((a, b) => a - b);
    const at = (cell) => [cell % GRID, Math.floor(cell / GRID)];
    $("#jl-holes").innerHTML = cells.map(at).map(([c, r]) => square("hole", 12 + PATCH * c, 34 + PATCH * r, PATCH)).join("");
    $("#jl-rings").innerHTML = cells.map(at).map(([c, r]) => square("ring", 13 + PATCH * c, 245 + PATCH * r, PATCH - 2)).join("");
    const latents = (kind, y) => cells.map((_, i) => square(kind, 338 + 12 * (i % 12), y + 12 * Math.floor(i / 12), 10)).join("");
    $("#jl-pred").innerHTML = latents("pred", 156);
    $("#jl-targ").innerHTML = latents("targ", 297);
    $("output").textContent = String(blocks);
    $(".jl-said").textContent = `${cells.length} of ${GRID * GRID} patches are hidden. The encoder sees the other ${GRID * GRID - cells.length}; the predictor must say what the target encoder makes of the hidden ones.`;
  }
  $("button").addEventListener("click", draw);
  $("input").addEventListener("input", draw);
  hero.querySelector(".jl-controls").hidden = false;
})();
