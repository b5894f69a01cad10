"""Images: Fashion-MNIST, digits, image folders; fixed splits, few labels, patches, and the cluttered canvases.

This file gathers what chapters use; `image_sets`, `image_files` and `clutter` hold the code.
"""

from jepa_lab.data.clutter import CanvasSet, cluttered, object_crops
from jepa_lab.data.image_files import ImageFolder, digits, fashion_mnist, image_folder, read_idx, write_image_folder
from jepa_lab.data.image_sets import ImageSet, few_shot, normalise, patchify, pixel_stats, split

__all__ = [
    "CanvasSet",
    "ImageFolder",
    "ImageSet",
    "cluttered",
    "digits",
    "few_shot",
    "fashion_mnist",
    "image_folder",
    "normalise",
    "object_crops",
    "patchify",
    "pixel_stats",
    "read_idx",
    "split",
    "write_image_folder",
]
