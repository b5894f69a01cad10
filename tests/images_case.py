"""Image data for the tests of chapters 01 and 02: small, made here, no download."""

import torch

from jepa_lab import image_world
from jepa_lab.data import images


def squares() -> image_world.ImageData:
    """Coarse random squares under noise, 28 px: whole numbers only, so the same on every computer."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randint(0, 200, (240, 7, 7), generator=generator).repeat_interleave(4, 1).repeat_interleave(4, 2)
    noisy = (coarse + torch.randint(0, 56, coarse.shape, generator=generator)).to(torch.uint8)
    labels, names = torch.arange(240) % 4, tuple("abcd")
    everything = images.ImageSet(noisy, labels, "squares", "made here", "0" * 64, "generated", names)
    return image_world.cut("centred", images.split(everything, (160, 40, 40), seed=0), 7, "cpu")


def digits(patch: int = 7) -> image_world.ImageData:
    """scikit-learn's digits: 1,200 to train on, 300 to probe with, the rest to score on."""
    unlabelled, probe = images.split(images.digits("train"), (1200, 300), seed=0)
    return image_world.cut("centred", (unlabelled, probe, images.digits("test")), patch, "cpu")
