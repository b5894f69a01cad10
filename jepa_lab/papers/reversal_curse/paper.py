"""Wang & Sun 2025, "Is the Reversal Curse a Binding Problem?" (arXiv 2504.01928): chapter 11.

A reader of this folder starts at `models.py` and `objectives.py` (what is trained), then `variants.py` and `arms.py`
(in which variants), `experiments.py` and `long.py` (what is measured); `scores.py` asks facts back.
"""

from pathlib import Path

from jepa_lab import experiment, runtime
from jepa_lab.papers.reversal_curse.arms import arms, ceiling, examine, fact_arm, facts_of
from jepa_lab.papers.reversal_curse.claims import CHAPTER, CLAIMS, LONG_CLAIMS
from jepa_lab.papers.reversal_curse.config import Config, long_config, preset
from jepa_lab.probes.scores import Score, wilson

__all__ = ["CHAPTER", "CLAIMS", "LONG_CLAIMS", "Config", "arms", "long_config", "preset", "train_reference"]

ASKED = 3000  # questions per score, as in the authors' code


def train_reference(
    cfg: Config, out: Path, seed: int = 0, resume: bool = False, micro_batches: int = 1
) -> dict[str, Score]:
    """Train the arm `cfg.arm` with checkpoints in `out`, on a GPU where there is one; its accuracy by kind of question.

    Raises ValueError for micro-batches: the candidates of the contrast are the batch, which therefore cannot be cut.
    """
    if micro_batches != 1:
        raise ValueError(
            "the batch is the set of candidates, so it cannot be cut into micro-batches; lower batch_size instead"
        )
    facts = facts_of(cfg, seed, runtime.choose_device())
    state = experiment.train_headless(cfg, fact_arm(cfg, cfg.arm, facts), out, seed, resume)
    trained = examine(state.model, cfg.arm, facts, state.history, ASKED)
    shares = {
        "reversed": (trained.reversed.accuracy, len(facts.reversed)),
        "trained": (trained.atomic.accuracy, len(facts.atomic)),
        "group A": (trained.taught.accuracy, len(facts.taught)),
    }
    found = {name: _share(share, min(ASKED, count)) for name, (share, count) in shares.items()}
    blind = ceiling(facts).accuracy
    return found | {"relation-blind ceiling": Score(blind, blind, blind, found["reversed"].n_test)}


def _share(share: float, count: int) -> Score:
    return Score(share, *wilson(round(share * count), count), count)
