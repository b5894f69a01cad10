// The theory of the phase explorer: the integrator of theory.py; tests/papers/implicit_bias/test_phase_explorer.py
// compares the two. An objective is "jepa" or "mae"; times are the paper's tau.

const ROOT = Math.sqrt(0.15);
const GAUSS = [
  [0.5 - ROOT, 5 / 18],
  [0.5, 8 / 18],
  [0.5 + ROOT, 5 / 18],
]; // nodes and weights of 3-point Gauss-Legendre on [0, 1]

export const OBJECTIVES = ["jepa", "mae"];

export const fixedPoint = (objective, rho, depth) => rho ** (objective === "jepa" ? depth : depth / (depth + 1));

const logSigmoid = (u) => (u < 0 ? u - Math.log1p(Math.exp(u)) : -Math.log1p(Math.exp(-u)));
const logit = (s) => Math.log(s / (1 - s));

/** Exact solution of the scalar ODE as {tau, s}: s = wbar / wbar* from eps to `last`, on `points` steps in logit(s). */
export function learningCurve(objective, lam, rho, depth, eps, last = 0.999, points = 401) {
  const jepa = objective === "jepa";
  const goal = fixedPoint(objective, rho, depth);
  const a = (jepa ? 2 : 1) - 1 / depth;
  const k = (jepa ? 0 : 1) + 1 / depth;
  const first = logit(eps / goal);
  const width = (logit(last) - first) / (points - 1);
  const pace = (u) => {
    const logS = logSigmoid(u);
    return Math.exp(logSigmoid(-u)) / (lam * (goal * Math.exp(logS)) ** a * -Math.expm1(k * logS));
  };
  const tau = [0];
  const s = [eps / goal];
  for (let i = 1; i < points; i++) {
    const u = first + (i - 1) * width;
    const mean = GAUSS.reduce((sum, [node, weight]) => sum + weight * pace(u + node * width), 0);
    tau.push(tau[i - 1] + width * mean);
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
  const lowest = Math.min(...OBJECTIVES.map((objective) => fixedPoint(objective, rho, depth)));
  if (eps < fraction * lowest) return "";
  return `counts as learned at time 0: ε is not below ${fraction} × its fixed point ${lowest.toPrecision(2)}`;
}

/** Rank agreement of two lists of times: 1 the same order, -1 opposite. */
export function kendallTau(a, b) {
  let sum = 0;
  let pairs = 0;
  for (let i = 0; i < a.length; i++) {
    for (let j = 0; j < i; j++) {
      sum += Math.sign(a[i] - a[j]) * Math.sign(b[i] - b[j]);
      pairs += 1;
    }
  }
  return pairs ? sum / pairs : 1;
}

/** Everything the page shows: per feature {lam, rho, why, jepa, mae} and per objective the order of the learnable ones. */
export function solve(features, depth, eps) {
  const solved = features.map(({ lam, rho }, index) => {
    const why = refusal(lam, rho, depth, eps);
    if (why) return { index, lam, rho, why };
    const [jepa, mae] = OBJECTIVES.map((objective) => criticalTime(objective, lam, rho, depth, eps));
    return { index, lam, rho, why, jepa, mae };
  });
  const able = solved.filter((feature) => !feature.why);
  const order = Object.fromEntries(OBJECTIVES.map((o) => [o, able.slice().sort((f, g) => f[o] - g[o])]));
  const [jepa, mae] = OBJECTIVES.map((o) => able.map((feature) => feature[o]));
  return { solved, able, order, tau: kendallTau(jepa, mae) };
}

/** How the two orders compare, in words. */
export function verdict(found) {
  if (found.able.length < 2) return "At least two learnable features are needed to compare orders.";
  if (found.tau === 1) return "Both objectives learn in the same order.";
  if (found.tau === -1) return "Opposite orders: JEPA and MAE learn these features the other way round.";
  return `The orders differ in part (Kendall's tau ${found.tau.toFixed(2)}).`;
}
