"""A record of a small run, for tests of records."""

import dataclasses

import torch

from jepa_lab import records
from jepa_lab.claims import Claim

CLAIMS = (Claim("probe", "01_tiny", "A paper", "features beat pixels", "accuracy", "higher", 0.0),)


@dataclasses.dataclass(frozen=True)
class Config:
    lr: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)


def started(out, seed=0, chapter="01_tiny", preset="smoke", config=Config(), claims=CLAIMS):
    return records.start(
        chapter, preset=preset, seed=seed, config=config, claims=claims, device=torch.device("cpu"), out=out
    )


def saved(out, seed=0, value=0.9, **more):
    run = started(out, seed, **more)
    run.claim("probe", value=value, baseline=0.5)
    return run.save()
