"""What one step sees: a task draws masks, views or noise for a batch, then loads the batch.

Shape suffixes: B samples of the whole batch, b samples of this process's share.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Generator, Tensor, nn

Drawn = Any  # masks, views or noise: tensors in a frozen dataclass, a tuple or alone, or None
Batch = Any  # what the objective takes: tensors
Objective = Callable[
    [nn.Module, Batch, Drawn], Tensor | tuple[Tensor, dict[str, Tensor]]
]  # loss, or loss and its parts
Sampler = Callable[[int, Generator], Drawn]


@runtime_checkable
class Task(Protocol):
    """What one step sees."""

    device: torch.device

    def __len__(self) -> int:
        """Number of samples."""

    def draw(self, idx_B: Int64[Tensor, " B"], generator: Generator) -> Drawn:
        """Masks, views, noise: small tensors for the whole batch, the same on every process."""

    def load(self, idx_b: Int64[Tensor, " b"], drawn: Drawn) -> Batch:
        """The large tensors, for this process's samples and their share of what was drawn."""


@dataclass(frozen=True)
class TokenTask:
    """Samples cut into tokens, of which a sampler hides some.

    patches: all samples on the training device, usually uint8. to_batch: casts and scales some of them to floats.
    sampler: draws masks for a number of samples.
    """

    patches: Shaped[Tensor, "n ..."]
    to_batch: Callable[[Tensor], Tensor]
    sampler: Sampler

    @property
    def device(self) -> torch.device:
        return self.patches.device

    def __len__(self) -> int:
        return len(self.patches)

    def draw(self, idx_B: Int64[Tensor, " B"], generator: Generator) -> Drawn:
        return self.sampler(len(idx_B), generator)

    def load(self, idx_b: Int64[Tensor, " b"], drawn: Drawn) -> Float[Tensor, "b ..."]:
        return self.to_batch(self.patches[idx_b.to(self.device, non_blocking=True)])
