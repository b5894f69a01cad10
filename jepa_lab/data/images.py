"""Images: Fashion-MNIST, digits, image folders; fixed splits, few labels, patches, and the cluttered canvases.

This file gathers what chapters use; `image_sets`, `image_files`, `image_folders` and `clutter` hold the code.
"""

from jepa_lab.data.clutter import CanvasSet, cluttered, object_crops
from jepa_lab.data.image_files import digits, fashion_mnist, read_idx
from jepa_lab.data.image_folders import ImageFolder, image_folder, warn_of_shared, write_image_folder
from jepa_lab.data.image_sets import ImageSet, few_shot, normalise, patchify, pixel_stats, split
from jepa_lab.data.sources.archives import DataError

__all__ = [
    "CanvasSet",
    "DataError",
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
    "warn_of_shared",
    "write_image_folder",
]
