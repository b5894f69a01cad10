"""Image data for the tests of chapters 01 and 02: small, made here, no download."""

import torch
from torch import nn

from jepa_lab import image_world
from jepa_lab.data import images


def squares(device: str = "cpu") -> image_world.ImageData:
    """Coarse random squares under noise, 28 px: whole numbers only, so the same on every computer."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randint(0, 200, (240, 7, 7), generator=generator).repeat_interleave(4, 1).repeat_interleave(4, 2)
    noisy = (coarse + torch.randint(0, 56, coarse.shape, generator=generator)).to(torch.uint8)
    labels, names = torch.arange(240) % 4, tuple("abcd")
    everything = images.ImageSet(noisy, labels, "squares", "made here", "0" * 64, "generated", names)
    return image_world.cut("centred", images.split(everything, (160, 40, 40), seed=0), 7, device)


def digits(patch: int = 7) -> image_world.ImageData:
    """scikit-learn's digits: 1,200 to train on, 300 to probe with, the rest to score on."""
    unlabelled, probe = images.split(images.digits("train"), (1200, 300), seed=0)
    return image_world.cut("centred", (unlabelled, probe, images.digits("test")), patch, "cpu")


def blank(cfg: image_world.Config, count: int = 2) -> image_world.ImageData:
    """Black images of the shape that the config asks for: enough to make arms."""
    side, channels = (28, 1) if cfg.folder is None else (cfg.side, 3)
    grid = (side // cfg.patch,) * 2
    patches = torch.zeros(count, grid[0] * grid[1], channels * cfg.patch**2, dtype=torch.uint8)
    labels = torch.zeros(count, dtype=torch.int64)
    example = torch.zeros(0, side, side, dtype=torch.uint8)
    source = images.ImageSet(example, labels[:0], "blank", "made here", "0" * 64, "generated", ("a",))
    stats = (128.0, 74.0)
    return image_world.ImageData("blank", source, grid, patches, patches, labels, patches, labels, stats, example)


def on_meta(paper) -> nn.Module:
    """The reference model of an image paper's preset `paper`, on the meta device."""
    cfg = paper.preset("paper")
    arm = paper.arms(cfg, blank(cfg))["I-JEPA"]
    with torch.device("meta"):
        return arm.build(cfg).to("meta")
