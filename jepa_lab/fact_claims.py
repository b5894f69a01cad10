"""The claims of the reversal-curse chapter, stated with their margins before the study that judges them."""

from jepa_lab.claims import Claim

CHAPTER, PAPER = "11_reversal_curse", "Wang & Sun 2025"


def _claim(id: str, statement: str, metric: str, direction: str, margin: float, baseline: str,
           paper_value: str | None = None, paper_source: str | None = None) -> Claim:
    return Claim(id, CHAPTER, PAPER, statement, metric, direction, margin, paper_value, paper_source, baseline)


EXACT, ACC, P = "exact match on reversed facts", "accuracy on reversed facts", "P(right entity beats another partner), reversed facts"
MRR, TAUGHT = "mean reciprocal rank on reversed facts", "accuracy on taught facts of group B"
BLIND, BLIND_MRR = "relation-blind ceiling 1/R", "relation-blind ceiling H_R / R"
FIG, OURS = "Figures 3 and 4, second hand, approximate, accuracy or MRR", "ours, not the paper's"
V1 = "abstract of v1, second hand; v2 dropped the sentence"
CLAIMS = (
    _claim("ar-memorises", "On names of two tokens the autoregressive model memorises what it is taught.",
           "exact match on taught facts of group B", "higher", 0.0, "0.9", None, OURS),
    _claim("ar-curse", "On names of two tokens the autoregressive model answers almost no reversed fact.",
           EXACT, "lower", 0.0, "0.05", "about 0", FIG),
    _claim("ar-curse-closed", "Nor does it find the answer among the names of all entities, when these are given.",
           "whole-name likelihood highest, reversed facts", "lower", 0.0, "0.05", None, OURS),
    _claim("jepa-over-ar", "On the same names JEPA answers reversed facts that the autoregressive model does not.",
           ACC, "higher", 0.1, "the autoregressive model's exact match", "about 72 % against 0 (80 thousand entities, R = 6, multiplicity 10)", FIG),
    _claim("jepa-relation", "JEPA's reversal is specific to the relation asked, at R = 3.", P, "higher", 0.1, "0.5 (blind)", None, OURS),
    _claim("jepa-over-blind", "JEPA answers well more reversed facts than knowing every entity's partners would allow, at R = 3.",
           ACC, "higher", 0.1, BLIND, "about 72 %, where the ceiling is 17 % (accuracy) or 41 % (MRR)", FIG),
    _claim("jepa-mrr-over-blind", "So does its mean reciprocal rank.", MRR, "higher", 0.05, BLIND_MRR, "about 72 %, where the ceiling is 17 % (accuracy) or 41 % (MRR)", FIG),
    _claim("memory-restores", "A memory layer, with fewer parameters, answers more reversed facts than the recognition layer it replaces.",
           ACC, "higher", 0.05, "JEPA without memory", "about 80 % against 72 %", FIG),
    _claim("memory-relation", "With a memory the reversal is specific to the relation asked.", P, "higher", 0.2, "0.5 (blind)", None, OURS),
    _claim("memory-over-blind", "With a memory JEPA clears the relation-blind ceiling.", ACC, "higher", 0.1, BLIND, "about 80 %, where the ceiling is 17 % (accuracy) or 41 % (MRR)", FIG),
    _claim("memory-mrr-over-blind", "So does its mean reciprocal rank.", MRR, "higher", 0.1, BLIND_MRR, "about 80 %, where the ceiling is 17 % (accuracy) or 41 % (MRR)", FIG),
    _claim("ar-memory-curse", "A memory alone does not lift the curse: the autoregressive model with the same memory answers almost no reversed fact.",
           EXACT, "lower", 0.0, "0.05", "asked by a reviewer, not in the paper", OURS),
    _claim("concept-relation", "With one token per entity and tied embeddings the autoregressive model reverses facts, specifically to the relation.",
           P, "higher", 0.1, "0.5 (blind)", None, OURS),
    _claim("concept-over-blind", "With one token per entity and tied embeddings it clears the relation-blind ceiling.",
           ACC, "higher", 0.0, BLIND, None, OURS),
    _claim("concept-mrr-over-blind", "With one token per entity and tied embeddings its mean reciprocal rank clears the relation-blind ceiling.",
           MRR, "higher", 0.0, BLIND_MRR, ".823 to .890, where the ceiling is .41 (2.5 thousand entities, R = 6)", "Table 1, second hand"),
    _claim("concept-untied", "With untied embeddings it answers almost no reversed fact.", ACC, "lower", 0.0, "0.05", None, OURS),
    _claim("concept-tying", "Tying input and output embeddings is what makes concepts reversible.", ACC, "higher", 0.1, "untied embeddings", None, OURS),
    _claim("overlap-predicts", "The overlap of hidden activations predicts how much a step on one entity moves another.",
           "correlation over entities b of alpha . beta with measured contamination, mean over entities a", "higher", 0.3, "0", "the paper's argument", "second hand"),
    _claim("chaining-answers", "In one forward pass JEPA with memory gives values that only a chain of facts implies, more often than the autoregressive model.",
           "right targets", "higher", 0.1, "the autoregressive model", "stays high at branching 40", V1),
    _claim("chaining-over-chance", "It does so far above chance.", "right targets", "higher", 0.1, "1 / modulus", "stays high at branching 40", V1),
    _claim("chaining-over-order", "It does so more often than a reader who ignores which number is the total of a sum.", "right targets", "higher", 0.0,
           "the order-blind reader", None, OURS),
    _claim("chaining-inner", "For the entities in between, whose values were never given, it beats the autoregressive model, too.", "right inner entities",
           "higher", 0.1, "the autoregressive model", None, OURS),
)
# what needs more than the five minutes of a chapter: judged on the page from stored runs of `long_study`
LONG_CLAIMS = {
    "patience": (
        _claim("ar-curse-long", "Given twice the chapter's steps the autoregressive model, with or without a memory, still answers almost no reversed fact.",
               EXACT, "lower", 0.0, "0.05", "about 0 after up to 3 million steps", FIG),
        _claim("jepa-over-blind-long", "Given the same steps JEPA answers well more reversed facts than knowing partners would allow.",
               ACC, "higher", 0.1, BLIND, "about 72 %, where the ceiling is 17 % (accuracy) or 41 % (MRR)", FIG),
    ),
    "large concepts": (
        _claim("concept-mrr-large", "With one tied token per entity, 2.5 thousand entities and R = 6, the autoregressive model's mean reciprocal rank on reversed facts is above .8.",
               MRR, "higher", 0.0, "0.8", ".823 to .890 by depth, .823 with one layer", "Table 1, second hand"),
        _claim("concept-mrr-over-blind-large", "There it clears the relation-blind ceiling well.", MRR, "higher", 0.1, BLIND_MRR, ".823 with one layer", "Table 1, second hand"),
        _claim("concept-relation-large", "There the reversal is specific to the relation asked.", P, "higher", 0.3, "0.5 (blind)", None, OURS),
    ),
    "entanglement": (
        _claim("multiplicity-hurts", "The more entities share a name token, the fewer reversed facts JEPA answers.",
               ACC, "lower", 0.1, "JEPA at the smallest multiplicity", "multiplicity 20: deep JEPA near 0", FIG),
        _claim("depth-hurts", "Two recognition layers answer fewer reversed facts than one.", ACC, "lower", 0.05, "one recognition layer",
               "with 6 semantic layers, 1 recognition layer about 52 %, 6 about 40 %", FIG),
    ),
    "ablations": (
        _claim("memory-restores-equal", "A memory layer in a model of equal parameters answers more reversed facts than the recognition layer it replaces.",
               ACC, "higher", 0.05, "JEPA without memory", "memory gains much more than width", "second hand"),
        _claim("untied-fails", "With a recognition module of its own for the target, JEPA loses the reversal.", ACC, "lower", 0.1, "shared recognition", None, OURS),
        _claim("stop-gradient-hurts", "With the target's gradient stopped, JEPA answers fewer reversed facts.", ACC, "lower", 0.1, "both sides get gradients", None, OURS),
        _claim("duplicates-hurt", "Where an entity that occurs twice in a batch competes with itself, JEPA answers fewer reversed facts.",
               ACC, "lower", 0.05, "JEPA, each entity once", None, OURS),
        _claim("distance-fails", "Squared distance to a stopped target instead of the contrast doesn't even learn the taught facts.", TAUGHT, "lower", 0.0, "0.5", None, OURS),
        _claim("distance-collapses", "Squared distance instead of the contrast, with gradients on both sides, collapses.", "RankMe of the concepts", "lower", 0.0, "2", None, OURS),
        _claim("plain-fails", "Without the LayerNorm before the product, as in the paper, JEPA does not clear the relation-blind ceiling at this size.",
               ACC, "lower", 0.05, BLIND, "about 72 %, where the ceiling is 17 % (accuracy) or 41 % (MRR)", FIG),
    ),
    "branching": (
        _claim("chaining-branching", "Its accuracy does not fall as the branches multiply.", "right targets at the largest branching",
               "higher", -0.1, "the smallest branching", "stays high at branching 40", V1),
        _claim("chaining-branching-memory", "With many branches it gives more right targets than the autoregressive model with the same memory.",
               "right targets at the largest branching", "higher", 0.1, "the autoregressive model with the same memory", None, OURS),
        _claim("chaining-branching-order", "With many branches it beats the reader who ignores which number is the total.", "right targets at the largest branching",
               "higher", 0.0, "the order-blind reader", None, OURS),
    ),
}
