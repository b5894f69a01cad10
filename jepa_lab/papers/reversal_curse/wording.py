"""Words that several claims of chapter 11 share: metrics, what they are compared with, and sources."""

from functools import partial

from jepa_lab.claims import Claim

CHAPTER = "11_reversal_curse"
claim = partial(Claim, chapter=CHAPTER, paper="Wang & Sun 2025")

EXACT = "exact match on reversed facts"
ACCURACY = "accuracy on reversed facts"
MRR = "mean reciprocal rank on reversed facts"
OVER_PARTNER = "P(right entity beats another partner), reversed facts"
TAUGHT = "accuracy on taught facts of group B"
TARGETS, TARGETS_WIDE = "right targets", "right targets at the largest branching"

BLIND, BLIND_MRR, HALF = "relation-blind ceiling 1/R", "relation-blind ceiling H_R / R", "0.5 (blind)"
PLAIN_JEPA, AR, ORDER_BLIND = "JEPA without memory", "the autoregressive model", "the order-blind reader"

JEPA_72 = "about 72 %, where the ceiling is 17 % (accuracy) or 41 % (MRR)"
MEMORY_80 = "about 80 %, where the ceiling is 17 % (accuracy) or 41 % (MRR)"
STAYS_HIGH = "stays high at branching 40"

OURS = "ours, not the paper's"
FIGURES = "Figures 3 and 4, second hand, approximate, accuracy or MRR"
TABLE = "Table 1, second hand"
ABSTRACT_V1 = "abstract of v1, second hand; v2 dropped the sentence"
