"""A paper of few settings for the tests of notebooks that run."""

import dataclasses
from types import ModuleType
from typing import Annotated

from jepa_lab import configs
from jepa_lab.publish import chapters


@dataclasses.dataclass(frozen=True)
class Config:
    lr: float = 0.1
    depth: int = 2
    betas: tuple[float, float] = (0.9, 0.95)
    heads: int | None = None
    data: Annotated[str, configs.Folders(("simulated",), several=True)] = "simulated"

    def __post_init__(self):
        if self.depth < 1:
            raise ValueError("depth must be positive")


def use_as_every_paper(monkeypatch) -> None:
    """Gives every chapter of the test this paper."""
    module = ModuleType("tiny")
    module.preset, module.CLAIMS = lambda name, **overrides: Config(**overrides), ()
    monkeypatch.setattr(chapters, "paper", lambda slug: module)
