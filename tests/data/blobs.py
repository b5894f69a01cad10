"""Small generated images that stand in for garments."""

import torch

from jepa_lab.data.image_sets import ImageSet


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def blobs(num=24, side=28, seed=0, classes=4):
    """Small stand-ins for garments: a bright textured ellipse on black."""
    generator = seeded(seed)
    axis = torch.arange(side) - (side - 1) / 2
    radius = 6 + 7 * torch.rand(num, 2, generator=generator)
    inside = (axis[:, None] / radius[:, :1, None]) ** 2 + (axis / radius[:, 1:, None]) ** 2 <= 1
    grey = torch.randint(60, 256, (num, side, side), generator=generator)
    labels = torch.arange(num) % classes
    return ImageSet(
        (grey * inside).to(torch.uint8), labels, "blobs", "made here", "0" * 64, "generated", tuple("abcd"[:classes])
    )
