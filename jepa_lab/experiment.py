"""How every paper runs its experiments: an arm is one way to train, and what was measured goes into a record.

Shape letters: n samples, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from jepa_lab import diagnostics, records, train
from jepa_lab.checkpoints import TrainState
from jepa_lab.claims import Claim
from jepa_lab.probes.features import embed, visible_views
from jepa_lab.probes.scores import Score
from jepa_lab.tasks import Objective, Sampler, Task

Measure = Callable[[nn.Module], dict[str, float]]


@dataclass(frozen=True)
class Arm:
    """One way to train: what a step sees, the loss, the model, and what differs in the config.

    build: a fresh model for a config, on the CPU, drawn from torch's global generator. It draws the encoder first, so
    that all arms of one seed share the encoder's start. measure: numbers of the model for every log.
    """

    name: str
    task: Task
    objective: Objective
    build: Callable[[Any], nn.Module]
    changes: Mapping[str, Any] = field(default_factory=dict)
    measure: Measure | None = None


def fresh_model(cfg: train.Config, arm: Arm, seed: int) -> nn.Module:
    """The arm's model with weights that depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return arm.build(cfg)


def start_arm(cfg: train.Config, arm: Arm, seed: int) -> tuple[TrainState, train.Config]:
    """A fresh run of the arm on the device of its data, and the config with the arm's changes."""
    cfg = replace(cfg, **arm.changes)
    return train.start(fresh_model(cfg, arm, seed), cfg, seed, arm.task.device), cfg


def train_arm(cfg: train.Config, arm: Arm, seed: int, **how: Any) -> TrainState:
    """Train one arm. how: what else `train.fit` takes, such as `checkpoint`, `progress`, `at` and `measure`."""
    state, cfg = start_arm(cfg, arm, seed)
    how = {"measure": arm.measure, **how}
    return train.fit(state, cfg, arm.task, arm.objective, name=arm.name, **how)


def train_headless(
    cfg: train.Config, arm: Arm, out: Path, seed: int = 0, resume: bool = False, **how: Any
) -> TrainState:
    """Train one arm with twenty checkpoints in the folder `out`.

    Raises ValueError when a checkpoint is there and `resume` is false. how: as in `train_arm`.
    """
    checkpoint = Path(out) / "checkpoint.pt"
    if checkpoint.exists() and not resume:
        raise ValueError(f"{checkpoint} exists: go on with --resume, or choose another --out")
    return train_arm(cfg, arm, seed, checkpoint=checkpoint, save_every=max(1, cfg.num_steps // 20), **how)


def collapse_panel(
    watch: Tensor, to_batch: Callable[[Tensor], Tensor], sampler: Sampler, module: str = "target_encoder"
) -> Measure:
    """A measure of `fit`: the collapse panel of one of the model's encoders on held-out samples `watch`.

    The sampler draws the partial views that LiDAR needs.
    """
    return partial(_collapse_panel, watch=watch, to_batch=to_batch, sampler=sampler, module=module)


def _collapse_panel(model: nn.Module, watch: Tensor, to_batch: Callable, sampler: Sampler, module: str) -> dict:
    encoder = model.get_submodule(module)
    return diagnostics.panel(embed(encoder, watch, to_batch), visible_views(encoder, watch, to_batch, sampler))


@dataclass
class Measured:
    """What an experiment measured."""

    values: dict[str, float] = field(default_factory=dict)
    series: dict[str, tuple[list, list]] = field(default_factory=dict)  # x and y
    claims: dict[str, tuple[float, float]] = field(default_factory=dict)  # claim's id: value, baseline
    data: dict[str, Any] = field(default_factory=dict)  # for figures; not stored

    def put(self, record: records.Record) -> None:
        """Write values, series and claims into a record. Values that are NaN are left out."""
        for name, value in self.values.items():
            if value == value:
                record.value(name, value)
        for name, (x, y) in self.series.items():
            record.series(name, x, y)
        for claim_id, (value, baseline) in self.claims.items():
            record.claim(claim_id, value=value, baseline=baseline)


class Paper(Protocol):
    """What the module `paper` of every paper's folder offers. A paper that trains with `fit` has `arms` and
    `train_reference` too.
    """

    CHAPTER: str
    CLAIMS: tuple[Claim, ...]

    def preset(self, name: str, **overrides: Any) -> Any:
        """The config of a preset with some fields replaced; unknown names raise ValueError."""

    def arms(self, cfg: Any, data: Any) -> dict[str, Arm]:
        """Every arm by its name in the figures; the first is the reference."""

    def train_reference(self, cfg: Any, out: Path, **how: Any) -> dict[str, Score]:
        """Train the reference arm with checkpoints in `out`, then probe it. how: `seed`, `resume`, `micro_batches`."""
