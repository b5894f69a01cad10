"""Objects on cluttered canvases, with exact masks and boxes: images whose object must be found.

Shape letters: N images, S canvas side, F fragments per canvas.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import einops
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from jepa_lab.data import canvases
from jepa_lab.data.image_sets import ImageSet
from jepa_lab.data.sources.archives import DataError


@dataclass(frozen=True)
class CanvasSet:
    """Objects on cluttered canvases, with exact masks and boxes."""

    images: UInt8[Tensor, "N S S"]
    labels: Int64[Tensor, " N"]
    masks: Bool[Tensor, "N S S"]
    boxes: Int64[Tensor, "N 4"]  # top, left, bottom, right; the last two exclusive
    scales: Float[Tensor, " N"]  # canvas pixels per source pixel
    name: str
    source: str
    sha256: str  # of the source images
    kind: str
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, idx: Int64[Tensor, " n"], part: str = "subset") -> CanvasSet:
        """The canvases at `idx`; `part` is added to the name."""
        fields = {key: getattr(self, key)[idx] for key in ("images", "labels", "masks", "boxes", "scales")}
        return replace(self, name=f"{self.name} [{part}]", **fields)


def cluttered(
    image_set: ImageSet,
    canvas: int = 48,
    scale: tuple[float, float] = (0.6, 1.2),
    clutter: int = 4,
    *,
    generator: torch.Generator,
    distractors: ImageSet | None = None,
    chunk: int = 500,
) -> CanvasSet:
    """Every image once, at a random place and scale, on a canvas of uneven light and `clutter` fragments of images.

    Canvas i shows image i. Object, fragments and light have their own random contrast. At least 80 % of every object is
    on its canvas, and it changes no pixel outside its mask. Fragments are 12 px squares of images of `distractors`
    (default: other images of the same set). All randomness is drawn before painting, so `chunk` (canvases painted at a
    time) changes only the memory needed.
    Raises `DataError`: empty image, colour images, object larger than the canvas.
    """
    _check(image_set, distractors or image_set, canvas, scale, clutter)
    images, others = image_set.images, (distractors or image_set).images
    objects = canvases.draw_objects(len(images), scale, generator)
    scenery = canvases.draw_scenery(len(images), canvas, clutter, others, generator)
    if distractors is None:
        scenery["which"] = _other_images(scenery["which"])
    painted, masks = _paint(images, others, objects, scenery, canvas, chunk)
    empty = ~masks.flatten(1).any(1)
    if bool(empty.any()):
        raise DataError(f"{image_set.name}: image {int(empty.nonzero()[0])} is empty; leave it out")
    return CanvasSet(
        images=painted,
        labels=image_set.labels,
        masks=masks,
        boxes=canvases.boxes(masks),
        scales=objects["scale"],
        name=f"cluttered {image_set.name}, {canvas} px",
        source=image_set.source,
        sha256=image_set.sha256,
        kind="generated",
        classes=image_set.classes,
    )


def _other_images(which_NF: Tensor) -> Tensor:
    """Images to cut fragments from, never image i for canvas i: each draw is taken as a step from i to another one."""
    count = len(which_NF)
    return (torch.arange(count)[:, None] + which_NF % (count - 1) + 1) % count


def _paint(
    images: Tensor, others: Tensor, objects: dict[str, Tensor], scenery: dict[str, Tensor], canvas: int, chunk: int
) -> tuple[Tensor, Tensor]:
    """Canvases and masks, `chunk` at a time."""
    painted = torch.empty(len(images), canvas, canvas, dtype=torch.uint8)
    masks = torch.empty(painted.shape, dtype=torch.bool)
    for first in range(0, len(images), chunk):
        rows = slice(first, first + chunk)
        scene_NSS = canvases.paint_scenery({key: value[rows] for key, value in scenery.items()}, others, canvas)
        drawn = {key: value[rows] for key, value in objects.items()}
        scene_NSS, masks[rows] = canvases.paint_objects(scene_NSS, images[rows], drawn)
        painted[rows] = (255 * scene_NSS).round().to(torch.uint8)
    return painted, masks


def object_crops(canvas_set: CanvasSet, size: int = 28) -> UInt8[Tensor, "N size size"]:
    """Each object, cut out by its exact box (made square) and scaled to `size` px: what a perfect detector sees."""
    top, left, bottom, right = canvas_set.boxes.float().unbind(1)
    zoom, side = size / torch.maximum(bottom - top, right - left), canvas_set.images.shape[-1]
    rows, columns = (
        canvases.sampling(size / 2 - zoom * (low + high) / 2, zoom, side, size)
        for low, high in ((top, bottom), (left, right))
    )
    cut = rows @ canvas_set.images.float() @ einops.rearrange(columns, "n s q -> n q s")
    return cut.round().clamp(0, 255).to(torch.uint8)


def _check(image_set: ImageSet, others: ImageSet, canvas: int, scale: tuple[float, float], clutter: int) -> None:
    for checked in (image_set, others):
        shape = tuple(checked.images.shape[1:])
        if len(shape) != 2 or shape[0] != shape[1] or shape[0] < canvases.MIN_SIDE:
            needed = f"square grey images of at least {canvases.MIN_SIDE} px"
            raise DataError(f"cluttered canvases need {needed}; {checked.name} has {shape}")
    side = image_set.images.shape[-1]
    if not 0 < scale[0] <= scale[1] or scale[1] * side > canvas:
        limit = f"at most {canvas / side:.2f}"
        raise DataError(f"scales {scale} of {side} px images don't fit a canvas of {canvas} px; {limit}")
    if clutter < 0 or len(others) < 2:
        found = f"got {clutter}, cut from {len(others)} images"
        raise DataError(f"clutter must be 0 or more and be cut from at least 2 images; {found}")
