"""What tests/test_every_paper.py trains: every paper's arms at preset smoke, on small data that needs no download.

tests/papers/<slug>/case.py holds a paper's data: `arms()` returns a config and its arms by name, `numbers()` further
golden numbers, `paper_size()` modules of preset paper on the meta device, each with the published count of weights.
"""

import importlib.util
import math
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType

import torch

from jepa_lab import papers
from jepa_lab.checkpoints import describe
from jepa_lab.experiment import Arm, start_arm, train_arm

TESTS = Path(__file__).resolve().parent
PAPERS = sorted(papers.all())
CALM = {"precision": "float32", "eps": 1e-4}  # Adam would blow up rounding where a gradient is zero


@cache
def case(slug: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"case_of_{slug}", TESTS / "papers" / slug / "case.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def arms(slug: str) -> tuple[object, dict[str, Arm]]:
    return case(slug).arms()


TRAINED = [slug for slug in PAPERS if arms(slug)[1]]


def with_changes(arm: Arm, **changes) -> Arm:
    """The arm with further changes to its config; those that only concern other arms' configs are harmless."""
    return replace(arm, changes={**arm.changes, **changes})


def trained(slug: str, name: str, num_steps: int, *, changes=None, poison_step: int | None = None, **how):
    """The arm after so many steps, logged at every step. poison_step: the step whose loss is NaN."""
    cfg, found = arms(slug)
    arm = with_changes(found[name], num_steps=num_steps, log_every=1, **(changes or {}))
    if poison_step is not None:
        arm = replace(arm, objective=Poisoned(arm.objective, poison_step))
    return train_arm(cfg, arm, 0, **{"progress": False, "compile": False, **how})


class Poisoned:
    """An objective whose loss is NaN in one step."""

    def __init__(self, objective, step: int):
        self.objective, self.left = objective, step

    def __call__(self, model, batch, drawn):
        result = self.objective(model, batch, drawn)
        loss, parts = result if isinstance(result, tuple) else (result, {})
        factor = math.nan if self.left == 0 else 1.0
        self.left -= 1
        return loss * factor, parts


def started(slug: str, name: str, seed: int = 0):
    cfg, found = arms(slug)
    return start_arm(cfg, found[name], seed)


def by_code(slug: str) -> list[str]:
    """One arm for each objective and way to build a model: those that run different code."""
    first = {(describe(arm.objective), describe(arm.build)): name for name, arm in reversed(arms(slug)[1].items())}
    return sorted(first.values())


def tensors(state) -> dict[str, torch.Tensor]:
    """All that a step may change: weights, buffers, and what the optimisers hold."""
    held = {f"model {name}": tensor for name, tensor in state.model.state_dict().items()}
    for i, optimizer in enumerate(state.optimizers):
        for parameter, values in optimizer.state_dict()["state"].items():
            held |= {f"optimiser {i} {parameter} {name}": torch.as_tensor(value) for name, value in values.items()}
    return {name: tensor.clone() for name, tensor in held.items()}


def different(a: dict, b: dict) -> list[str]:
    """Names of the tensors that are not equal to the last bit, or are in one of the two alone."""
    return [name for name in a.keys() | b.keys() if name not in a or name not in b or not torch.equal(a[name], b[name])]
