"""What every probe requires of its input, and where its randomness comes from."""

from __future__ import annotations

import torch
from jaxtyping import Float, Integer
from torch import Generator, Tensor

TrainX, TrainY = Float[Tensor, "n D"], Integer[Tensor, "n"]
TestX, TestY = Float[Tensor, "t D"], Integer[Tensor, "t"]


def require(ok: bool, reason: str) -> None:
    """Raises ValueError with the reason unless `ok`."""
    if not ok:
        raise ValueError(reason)


def generator_or_default(generator: Generator | None) -> Generator:
    """The given generator, or a CPU generator of seed 0."""
    return generator if generator is not None else Generator().manual_seed(0)


def check(train_x: Tensor, train_y: Tensor, test_x: Tensor, test_y: Tensor) -> int:
    """The number of classes, largest training label + 1. Raises ValueError for features or labels that do not fit."""
    devices = {str(t.device) for t in (train_x, train_y, test_x, test_y)}
    require(len(devices) == 1, f"features and labels must be on one device, got {sorted(devices)}")
    _check_part("train", train_x, train_y)
    _check_part("test", test_x, test_y)
    require(
        train_x.shape[1] == test_x.shape[1],
        f"train_x and test_x differ: width {train_x.shape[1]} and {test_x.shape[1]}",
    )
    return _num_classes(train_y, test_y)


def _check_part(name: str, x: Tensor, y: Tensor) -> None:
    """Raises ValueError unless x is finite floats [n D] and y is integer labels [n]."""
    for part, value, axes in (("x", x, "n D"), ("y", y, "n")):
        is_right = value.ndim == len(axes.split()) and 0 not in value.shape
        require(is_right, f"{name}_{part} must be a non-empty [{axes}], got shape {tuple(value.shape)}")
    require(len(x) == len(y), f"{name}_x and {name}_y differ in their number of samples: {len(x)} and {len(y)}")
    require(x.is_floating_point(), f"{name}_x must be floating point, got {x.dtype}")
    require(bool(torch.isfinite(x).all()), f"{name}_x holds NaN or Inf: the encoder diverged, or its input did")
    is_integer = not y.is_floating_point() and y.dtype != torch.bool
    require(is_integer, f"{name}_y must be integer labels, got {y.dtype}")


def _num_classes(train_y: Tensor, test_y: Tensor) -> int:
    """Largest training label + 1. Raises ValueError for labels that no probe can learn or score."""
    low, high = (int(v) for v in train_y.aminmax())
    require(low >= 0, f"train_y holds the label {low}: labels count from 0")
    require(low < high, f"train_y holds one class only ({low}): nothing to tell apart")
    test_low, test_high = (int(v) for v in test_y.aminmax())
    require(
        test_low >= 0 and test_high <= high, f"test_y holds labels {test_low} .. {test_high}, training has 0 .. {high}"
    )
    return high + 1
