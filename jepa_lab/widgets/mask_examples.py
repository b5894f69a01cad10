"""What the mask explorer masks: an image, a time series, a table row and a street from above, as plain lists."""

from __future__ import annotations

import torch
from torch import Tensor


def _series(steps: int = 240) -> dict:
    """A generated pulse train: a sharp and a slow bump per beat over a drifting line."""
    t = torch.linspace(0, 6, steps)
    beat = t % 1
    sharp = torch.exp(-(((beat - 0.3) / 0.03) ** 2)) - 0.25 * torch.exp(-(((beat - 0.36) / 0.03) ** 2))
    slow = 0.3 * torch.exp(-(((beat - 0.62) / 0.09) ** 2))
    wave = sharp + slow + 0.08 * torch.sin(1.3 * t)
    return {
        "values": [round(v, 3) for v in wave.tolist()],
        "tokens": 40,
        "caption": "A generated pulse train, 40 tokens of 6 samples.",
    }


def _row() -> dict:
    """The first row of the Wine data."""
    from sklearn.datasets import load_wine

    wine = load_wine()
    return {
        "names": [name.replace("_", " ").replace("/", " / ") for name in wine.feature_names],
        "values": [round(float(v), 2) for v in wine.data[0]],
        "caption": "The first row of the Wine data (UCI, in scikit-learn), 13 columns.",
    }


def _bev(side: int = 16) -> dict:
    """A generated street seen from above: two walls, four cars, a few posts."""
    occupied = torch.zeros(side, side, dtype=torch.int64)
    occupied[:, 1] = 1
    occupied[2:13, 14] = 1
    for top, left in ((2, 5), (5, 9), (9, 6), (12, 10)):
        occupied[top : top + 3, left : left + 2] = 1
    occupied[[0, 4, 8, 14], [12, 3, 12, 4]] = 1
    return {
        "occupied": occupied.tolist(),
        "caption": "A generated street from above: filled cells hold points, the rest is empty.",
    }


def _shirt(side: int = 28) -> Tensor:
    """A generated image in the shape of a shirt."""
    row, col = torch.meshgrid(torch.linspace(-1, 1, side), torch.linspace(-1, 1, side), indexing="ij")
    body = (col.abs() < 0.45) & (row.abs() < 0.85)
    sleeves = (col.abs() < 0.95) & (row > -0.85) & (row < -0.3)
    return (body | sleeves) * (0.65 + 0.25 * torch.sin(9 * col) * torch.cos(7 * row))


def explorer_data(image: Tensor | None = None, caption: str = "") -> dict:
    """The data of the page's explorer.

    ``image`` is one grey image [H,W] (or [1,H,W]) with values in 0..1 or 0..255, by default a generated shape;
    ``caption`` says what it is and where it comes from. Raises ValueError for other shapes and for NaN.
    """
    if image is None:
        image = _shirt()
        caption = caption or "A generated shape; pass a real image to see it masked."
    pixels = torch.as_tensor(image).detach().cpu().float().squeeze()
    if pixels.ndim != 2:
        raise ValueError(f"image must be one grey image [H, W], got shape {tuple(pixels.shape)}")
    if not torch.isfinite(pixels).all():
        raise ValueError("image holds NaN or infinite values")
    white = 255 if pixels.max() <= 1 else 1
    grey = (pixels * white).clamp(0, 255).round().long().tolist()
    return {
        "image": {"pixels": grey, "caption": caption},
        "series": _series(),
        "row": _row(),
        "bev": _bev(),
    }
