"""Draw cut-outs on canvases, many at once: the geometry and the painting behind `clutter.cluttered`.

Scaling and moving an upright image is separable, so one canvas is rows @ image @ columns with two small tent-filter
matrices per object: exact bilinear sampling, smoothed when it shrinks, several times faster than `grid_sample` on CPUs.

Shape letters: N objects, Q source side, G = Q + 2, S canvas side, R fragment side in source pixels, K knots.
"""

from __future__ import annotations

import einops
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

DARKEST = 12  # grey levels up to this, outside a garment, are scanning noise of Fashion-MNIST
LOST_PER_AXIS = 0.08  # share of an object that may leave the canvas across each axis: at least 0.92² = 84 % stays
FRAGMENT = 12  # side of a clutter fragment, in source pixels
KNOTS = 4  # control points per side of the smooth background
MIN_SIDE = FRAGMENT  # of source images
# Ranges drawn from, per canvas or fragment; grey in [0, 1].
LEVEL = (0.05, 0.35)  # mean light
DEPTH = (0.03, 0.15)  # how uneven it is
GAIN = (0.5, 0.9)  # contrast of the object
FRAGMENT_GAIN = (0.2, 0.5)  # contrast of a fragment
FRAGMENT_SCALE = (0.5, 1.3)  # canvas pixels per source pixel


def foreground(images: UInt8[Tensor, "N Q Q"]) -> Bool[Tensor, "N Q Q"]:
    """The object's own pixels: brighter than `DARKEST`, with gaps up to 2 px closed (a shirt's black stripe)."""
    side = images.shape[-1]
    step_GQ = torch.arange(side + 2)[:, None] - torch.arange(side)
    reach_GQ = ((step_GQ >= 0) & (step_GQ <= 2)).float()  # counts, by matrix products: pooling is ten times slower
    grown_NGG = (reach_GQ @ (images > DARKEST).float() @ reach_GQ.T > 0).float()
    return reach_GQ.T @ grown_NGG @ reach_GQ > 8.5  # all 3 x 3 neighbours are grown


def sampling(
    offset: Float[Tensor, " N"], scale: Float[Tensor, " N"], source: int, canvas: int
) -> Float[Tensor, "N S Q"]:
    """Matrices that resample one axis: source pixel q, scaled and moved, lands on canvas pixel `offset + scale * q`.

    A tent of the wider of the two pixels; rows sum to 1 inside the source and fade to 0 outside it.
    """
    at_NS1 = ((torch.arange(canvas) + 0.5 - offset[:, None]) / scale[:, None])[..., None]
    reach_N11 = (1 / scale).clamp(min=1)[:, None, None]
    return (1 - (at_NS1 - (torch.arange(source) + 0.5)).abs() / reach_N11).clamp(min=0) / reach_N11


def paste(
    canvas: Float[Tensor, "N S S"],
    grey: Float[Tensor, "N Q Q"],
    support: Float[Tensor, "N Q Q"],
    rows: Float[Tensor, "N S Q"],
    columns: Float[Tensor, "N S Q"],
) -> tuple[Float[Tensor, "N S S"], Bool[Tensor, "N S S"]]:
    """The canvas with the supported part of `grey` on it, and the mask of the pixels that were replaced.

    A pixel is either wholly the object's or unchanged, and the object's colour is a mean over supported pixels only, so
    nothing leaks across the mask in either direction.
    """
    columns_NQS = einops.rearrange(columns, "n s q -> n q s")
    alpha_NSS = rows @ support @ columns_NQS
    colour_NSS = (rows @ (grey * support) @ columns_NQS) / alpha_NSS.clamp(min=1e-6)
    peak_N11 = alpha_NSS.amax((1, 2), keepdim=True).clamp(max=1)  # hair-thin objects survive shrinking
    mask_NSS = (alpha_NSS >= 0.5 * peak_N11) & (alpha_NSS > 0)
    return torch.where(mask_NSS, colour_NSS, canvas), mask_NSS


def offsets(
    support: Bool[Tensor, "N Q Q"],
    scale: Float[Tensor, " N"],
    canvas: int,
    where: Float[Tensor, "N 2"],
) -> Float[Tensor, "N 2"]:
    """Row and column offsets for positions `where` in [0, 1].

    Positions are uniform over those that lose at most LOST_PER_AXIS of the object along each axis.
    """
    ends = []
    for axis, other in ((1, 2), (2, 1)):
        share_NQ = support.sum(other).float().cumsum(1) / support.sum((1, 2)).clamp(min=1)[:, None]
        first_N = (share_NQ <= LOST_PER_AXIS).sum(1)  # source pixels before `first` may be lost,
        last_N = (share_NQ < 1 - LOST_PER_AXIS).sum(1) + 1  # and those from `last` on
        low_N, high_N = -scale * first_N, canvas - scale * last_N
        ends.append(low_N + where[:, axis - 1] * (high_N - low_N))
    return torch.stack(ends, 1)


def background(knots: Float[Tensor, "N K K"], canvas: int) -> Float[Tensor, "N S S"]:
    """Smooth light and shade: a grid of control values, blended by a cosine between neighbours."""
    at_S = torch.linspace(0, knots.shape[-1] - 1, canvas)
    distance_SK = (at_S[:, None] - torch.arange(knots.shape[-1])).abs().clamp(max=1)
    blend_SK = 0.5 + 0.5 * torch.cos(torch.pi * distance_SK)
    return blend_SK @ knots @ blend_SK.T


def draw_objects(num: int, scale: tuple[float, float], generator: torch.Generator) -> dict[str, Tensor]:
    """The random scale, position and contrast of `num` objects. Values are fractions, lengths are pixels."""
    gain = _uniform((num,), *GAIN, generator)
    return {
        "scale": _uniform((num,), *scale, generator),
        "where": _uniform((num, 2), 0, 1, generator),
        "gain": gain,
        "lift": (1 - gain) * _uniform((num,), 0, 1, generator),
    }


def draw_scenery(
    num: int,
    canvas: int,
    clutter: int,
    images: UInt8[Tensor, "M Q Q"],
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """The random light and fragments of `num` canvases."""
    each = (num, clutter)
    level, depth = _uniform((num, 1, 1), *LEVEL, generator), _uniform((num, 1, 1), *DEPTH, generator)
    gain = _uniform(each, *FRAGMENT_GAIN, generator)
    return {
        "knots": level + depth * _uniform((num, KNOTS, KNOTS), -1, 1, generator),
        "which": torch.randint(len(images), each, generator=generator),
        "corner": torch.randint(images.shape[-1] - FRAGMENT + 1, (*each, 2), generator=generator),
        "scale": _uniform((*each, 2), *FRAGMENT_SCALE, generator),
        "centre": _uniform((*each, 2), 0, canvas, generator),
        "flip": torch.rand((*each, 3), generator=generator) < 0.5,
        "gain": gain,
        "lift": (1 - gain) * _uniform(each, 0, 1, generator),
    }


def paint_scenery(drawn: dict[str, Tensor], images: UInt8[Tensor, "M Q Q"], canvas: int) -> Float[Tensor, "N S S"]:
    """Light, then the fragments one over the other; grey in [0, 1]."""
    scene_NSS = background(drawn["knots"], canvas).clamp(0, 1)
    for k in range(drawn["which"].shape[1]):
        which, scale, flip = drawn["which"][:, k], drawn["scale"][:, k], drawn["flip"][:, k]
        cut_NRR = _cut(images, which, drawn["corner"][:, k])
        for axis in (1, 2):
            cut_NRR = torch.where(flip[:, axis, None, None], cut_NRR.flip(axis), cut_NRR)
        cut_NRR = torch.where(flip[:, 0, None, None], einops.rearrange(cut_NRR, "n r c -> n c r"), cut_NRR)
        start_N2 = drawn["centre"][:, k] - scale * FRAGMENT / 2
        rows, columns = (sampling(start_N2[:, axis], scale[:, axis], FRAGMENT, canvas) for axis in (0, 1))
        grey_NRR = _contrast(cut_NRR, drawn["gain"][:, k], drawn["lift"][:, k])
        scene_NSS, _ = paste(scene_NSS, grey_NRR, (cut_NRR > DARKEST).float(), rows, columns)
    return scene_NSS


def paint_objects(
    scene: Float[Tensor, "N S S"],
    images: UInt8[Tensor, "N Q Q"],
    drawn: dict[str, Tensor],
) -> tuple[Float[Tensor, "N S S"], Bool[Tensor, "N S S"]]:
    """Put one whole object on each scene; returns the canvases and the exact masks."""
    support_NQQ, canvas = foreground(images), scene.shape[-1]
    offset_N2 = offsets(support_NQQ, drawn["scale"], canvas, drawn["where"])
    rows, columns = (sampling(offset_N2[:, axis], drawn["scale"], images.shape[-1], canvas) for axis in (0, 1))
    return paste(scene, _contrast(images, drawn["gain"], drawn["lift"]), support_NQQ.float(), rows, columns)


def _uniform(shape: tuple[int, ...], low: float, high: float, generator: torch.Generator) -> Float[Tensor, "*shape"]:
    return low + (high - low) * torch.rand(shape, generator=generator)


def _contrast(
    images: UInt8[Tensor, "N H W"], gain: Float[Tensor, " N"], lift: Float[Tensor, " N"]
) -> Float[Tensor, "N H W"]:
    return lift[:, None, None] + gain[:, None, None] * images / 255


def _cut(
    images: UInt8[Tensor, "M Q Q"], which: Int64[Tensor, " N"], corner: Int64[Tensor, "N 2"]
) -> UInt8[Tensor, "N R R"]:
    """The FRAGMENT-sized square of image `which`, from `corner` (row, column) on."""
    step = torch.arange(FRAGMENT)
    return images[which[:, None, None], (corner[:, :1] + step)[:, :, None], (corner[:, 1:] + step)[:, None, :]]


def boxes(masks: Bool[Tensor, "N S S"]) -> Int64[Tensor, "N 4"]:
    """Tight boxes (top, left, bottom, right), the last two exclusive. An empty mask has the box 0, 0, 0, 0."""
    sides = []
    for other in (2, 1):
        hit_NS = masks.any(other)
        first_N = hit_NS.int().argmax(1)
        last_N = hit_NS.shape[1] - hit_NS.flip(1).int().argmax(1)
        sides.append((first_N, torch.where(hit_NS.any(1), last_N, 0)))
    (top, bottom), (left, right) = sides
    return torch.stack([top, left, bottom, right], 1)
