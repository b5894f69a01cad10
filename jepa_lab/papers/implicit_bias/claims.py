"""What chapter 10 claims, with the paper's statements. Imports no torch.

The paper's full text could not be read: "second hand" says that a number or figure is known from others' summaries.
Claims named "Extension" and those whose source is OURS are not the paper's.
"""

from functools import partial

from jepa_lab.claims import Claim

CHAPTER, PAPER = "10_implicit_bias", "Littwin et al. 2024"
SECOND_HAND = "Theorem 4.5, second hand"
OURS = "ours, not the paper's"
TOGETHER = "1 (same time)"

_claim = partial(Claim, chapter=CHAPTER, paper=PAPER)
_ours = partial(_claim, paper_source=OURS)

CLAIMS = (
    _claim(
        id="flow-error",
        statement="Matrix gradient descent from a balanced start follows the scalar ODEs.",
        metric="largest |simulation - ODE| in shares of the fixed point",
        direction="lower",
        margin=0.0,
        baseline="0.03",
        paper_value="eqs. (7) and (8)",
        paper_source="equation numbers second hand",
    ),
    _ours(
        id="flow-order",
        statement="The difference between matrices and ODE comes from the Euler step: it shrinks linearly "
        "with the step.",
        metric="largest |log2(error at 2h / error at h) - 1|",
        direction="lower",
        margin=0.0,
        baseline="0.15",
    ),
    _claim(
        id="rho-order",
        statement="At equal lam, JEPA of depth >= 2 learns features of large rho first.",
        metric="smallest t*(rho) / t*(next larger rho), exact ODE",
        direction="higher",
        margin=0.005,
        baseline="1 (no order)",
        paper_value="JEPA is ordered by rho",
        paper_source="Figure 2 (b), second hand",
    ),
    _claim(
        id="rho-spread",
        statement="At equal lam, the spread of JEPA's critical times grows with depth.",
        metric="smallest growth of t*(0.5) / t*(0.95) from one depth to the next, exact ODE",
        direction="higher",
        margin=0.02,
        baseline="0 (no growth)",
        paper_value="1 + Delta eps^(1/L)",
        paper_source=SECOND_HAND,
    ),
    _claim(
        id="mae-flat",
        statement="At equal lam, MAE's order does not depend on rho: its spread stays within 6 % at depth >= 2.",
        metric="largest |t*(0.5) / t*(0.95) - 1|, exact ODE",
        direction="lower",
        margin=0.0,
        baseline="0.06",
        paper_value="Theta(1) apart",
        paper_source=SECOND_HAND,
    ),
    _claim(
        id="rho-order-sgd",
        statement="Under minibatch SGD the spread at equal lam is larger for JEPA than for MAE at depth >= 2.",
        metric="smallest t*(0.5) / t*(0.95) over depths",
        direction="higher",
        margin=0.1,
        baseline="the same for MAE",
        paper_value="only JEPA is ordered by rho",
        paper_source="Figure 2 (b, e), second hand",
    ),
    _claim(
        id="sum-formula",
        statement="JEPA's critical times match the paper's sum within 5 % at eps = 1e-4.",
        metric="largest relative error of the sum",
        direction="lower",
        margin=0.0,
        baseline="0.05",
        paper_value="the sum of Theorem 4.5",
        paper_source=SECOND_HAND,
    ),
    _claim(
        id="log-remainder",
        statement="The remainder of the sum grows like log(1/eps) with slope 1 / (lam rho^(2L-1)), at depth 1 to 3.",
        metric="largest relative error of that slope",
        direction="lower",
        margin=0.0,
        baseline="0.05",
        paper_value="Theta(log eps)",
        paper_source=SECOND_HAND,
    ),
    _claim(
        id="rho-exponent",
        statement="In the sum, rho first appears at n = 2L-2: its effect scales as eps^(1/L).",
        metric="largest |L * measured exponent - 1|, depth >= 2",
        direction="lower",
        margin=0.0,
        baseline="0.1",
        paper_value="n = 2L-1 holds no rho",
        paper_source=SECOND_HAND,
    ),
    _ours(
        id="ratio-formula",
        statement="To first order t*(0.5) / t*(0.95) is 1 + Delta eps^(1/L), within 5 % at eps = 1e-4, depth 2 to 5.",
        metric="largest relative error of that ratio",
        direction="lower",
        margin=0.0,
        baseline="0.05",
    ),
    _claim(
        id="inversion",
        statement="There is a family of features that JEPA and MAE learn in opposite orders.",
        metric="Kendall's tau of simulated t*, JEPA against MAE",
        direction="lower",
        margin=0.9,
        baseline="0 (unrelated orders)",
        paper_value="orders are inverted",
        paper_source="Figure 2 (c, f), second hand",
    ),
    _ours(
        id="no-inversion-shallow",
        statement="At depth 1 JEPA and MAE learn the family of opposite orders in the same order.",
        metric="Kendall's tau of exact t*, JEPA against MAE",
        direction="higher",
        margin=0.9,
        baseline="0 (unrelated orders)",
    ),
    _claim(
        id="no-inversion-small-eps",
        statement="At eps = 1e-6 JEPA and MAE learn the family of opposite orders in the same order.",
        metric="Kendall's tau of exact t*, JEPA against MAE",
        direction="higher",
        margin=0.9,
        baseline="0 (unrelated orders)",
        paper_value="leading order is by lam",
        paper_source=SECOND_HAND,
    ),
    _claim(
        id="temporal-mae",
        statement="Temporal model: MAE takes the noisy high-variance features first, at every depth.",
        metric="largest mean t* of noisy / clean features over depths",
        direction="lower",
        margin=0.05,
        baseline=TOGETHER,
        paper_value="MAE learns noisy features",
        paper_source="abstract",
    ),
    _claim(
        id="temporal-jepa",
        statement="Temporal model: JEPA takes the slow clean features first, from depth 2.",
        metric="smallest mean t* of noisy / clean features over depths >= 2",
        direction="higher",
        margin=0.02,
        baseline=TOGETHER,
        paper_value="JEPA avoids noisy features",
        paper_source="abstract",
    ),
    _ours(
        id="temporal-shallow",
        statement="Temporal model: at depth 1 JEPA takes the noisy features first, as MAE does.",
        metric="mean t* of noisy / clean features at depth 1",
        direction="lower",
        margin=0.05,
        baseline=TOGETHER,
    ),
    _claim(
        id="static-jepa",
        statement="Static model (two noisy views): JEPA takes the clean features first, from depth 2.",
        metric="smallest mean t* of noisy / clean features over depths >= 2",
        direction="higher",
        margin=0.02,
        baseline=TOGETHER,
        paper_value="JEPA avoids noisy features",
        paper_source="abstract; model named in the paper, second hand",
    ),
    _claim(
        id="random-init",
        statement="From a random start, JEPA still prefers features of large rho.",
        metric="smallest gap of final gain / fixed point, rho 0.95 minus 0.5, over depths",
        direction="higher",
        margin=0.25,
        baseline="0 (no preference)",
        paper_value="other initialisations behave alike",
        paper_source="a review, second hand",
    ),
    _ours(
        id="random-init-mae",
        statement="From the same random start, JEPA's preference for large rho exceeds MAE's.",
        metric="gap of final gain / fixed point, rho 0.95 minus 0.5, at the depth where the two differ least",
        direction="higher",
        margin=0.1,
        baseline="the same for MAE",
    ),
    _ours(
        id="ext-noncommuting",
        statement="Extension: with covariances turned 20 degrees apart, JEPA of depth 2 still takes the "
        "clean features first.",
        metric="mean t* of noisy / clean generalised features",
        direction="higher",
        margin=0.05,
        baseline=TOGETHER,
    ),
    _ours(
        id="ext-ema-short",
        statement="Extension: an EMA target that remembers 1 % of a critical time leaves the clean features "
        "first at depth 2.",
        metric="mean t* of noisy / clean features",
        direction="higher",
        margin=0.02,
        baseline=TOGETHER,
    ),
    _ours(
        id="ext-ema-long",
        statement="Extension: an EMA target that remembers 10 % of a critical time puts the noisy features "
        "first at depth 2.",
        metric="mean t* of noisy / clean features",
        direction="lower",
        margin=0.02,
        baseline=TOGETHER,
    ),
    _ours(
        id="ext-relu",
        statement="Extension: a ReLU encoder lets noise in less under JEPA than under MAE.",
        metric="peak over training of mean noisy / mean clean gain",
        direction="lower",
        margin=0.2,
        baseline="the same for MAE",
    ),
    _ours(
        id="ext-patches",
        statement="Extension: on Fashion-MNIST patches with column banding, JEPA of depth 2 learns the "
        "unbanded directions first.",
        metric="mean t* of banded / clean directions",
        direction="higher",
        margin=0.05,
        baseline=TOGETHER,
    ),
)
