"""I-JEPA (Assran et al. 2023, arXiv 2301.08243): what is hidden, from whom, and what is predicted. Chapter 01.

The engine in `train` is I-JEPA itself; here are the arms that differ from it in one respect each, the two worlds they
are trained in, and the claims. Shape letters: B batch, N tokens, P pixels per patch, M target blocks, K tokens per
block, D width, n images.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from jepa_lab import configs as presets
from jepa_lab import distributed, masks, train
from jepa_lab import image_world as worlds
from jepa_lab.claims import Claim
from jepa_lab.data import images
from jepa_lab.encoders import encode_blocks
from jepa_lab.image_world import Arm, World
from jepa_lab.losses import gather_blocks, normalise, smooth_l1
from jepa_lab.masks import Masks
from jepa_lab.probes.scores import Score

CHAPTER, PAPER = "01_masking", "Assran et al. 2023 (I-JEPA)"
FEW = "accuracy with 10 labels per class, points"  # ImageNet's 1 % is 13 labels per class
LINEAR = "accuracy of a linear probe on 5,000 labels, points"
ABLATION = "ImageNet, 1 % of the labels, linear probe"


def _claim(
    id: str, statement: str, baseline: str, margin: float, paper_value: str, paper_source: str, metric: str = FEW
) -> Claim:
    return Claim(id, CHAPTER, PAPER, statement, metric, "higher", margin, paper_value, paper_source, baseline)


CLAIMS = (
    _claim(
        "features-beat-pixels",
        "Predicting features beats predicting pixels at equal steps.",
        "pixel targets",
        1.0,
        "66.9 against 40.7",
        f"ablation of the target, ViT-L/16, {ABLATION}",
    ),
    _claim(
        "blocks-beat-random",
        "Multi-block masks beat masks of scattered tokens.",
        "random tokens",
        1.0,
        "54.2 against 17.6",
        f"ablation of the masking strategy, ViT-B/16, {ABLATION}",
    ),
    _claim(
        "blocks-beat-single",
        "Several blocks beat one block that hides half of the image.",
        "one large block",
        1.0,
        "54.2 against 20.2",
        f"ablation of the masking strategy, ViT-B/16, {ABLATION}",
    ),
    _claim(
        "four-beat-one",
        "Four target blocks beat one.",
        "1 target block",
        1.0,
        "54.2 against 9.0",
        f"ablation of the number of targets, ViT-B/16, {ABLATION}",
    ),
    _claim(
        "output-beats-input",
        "Masking the target encoder's output beats masking its input.",
        "masked at the input",
        1.0,
        "67.3 against 56.1",
        f"ablation, ViT-H/16, 300 epochs, {ABLATION}",
    ),
    _claim(
        "beats-random",
        "The frozen encoder beats the same encoder at random initialisation, centred garments.",
        "random initialisation",
        1.0,
        "not reported",
        "our control",
    ),
    _claim(
        "beats-pixels",
        "The frozen encoder beats raw pixels, centred garments.",
        "raw pixels",
        1.0,
        "not reported",
        "our control",
    ),
    _claim(
        "clutter-beats-random",
        "The same against random initialisation, on cluttered canvases.",
        "random initialisation",
        1.0,
        "not reported",
        "our control",
        LINEAR,
    ),
    _claim(
        "clutter-beats-pixels",
        "The same against the better of linear probe and kNN on raw pixels, on cluttered canvases.",
        "raw pixels",
        1.0,
        "not reported",
        "our control",
        LINEAR,
    ),
)


@dataclass(frozen=True)
class Config(worlds.Config):
    """The reference I-JEPA and the second world. Sizes in pixels, counts in images."""

    num_steps: int = 850
    log_every: int = 85
    collapse_steps: int = 300  # of the run without EMA and stop-gradient
    canvas: int = 48
    canvas_patch: int = 8  # 6 x 6 tokens
    canvas_clutter: int = 2  # fragments of other garments
    canvas_scale: tuple[float, float] = (0.8, 1.2)  # canvas pixels per garment pixel
    canvas_images: int = 20_000
    canvas_steps: int = 400


@dataclass(frozen=True)
class FolderConfig(Config):
    """The reference I-JEPA on images in a folder."""

    folder: str = ""  # of ImageNet's layout, see worlds.pictures
    side: int = 224  # pixels


def preset(name: str, **overrides) -> Config:
    """Config of a preset: smoke, laptop, gpu or paper. Unknown names and unknown overrides raise ValueError."""
    return presets.choose(
        {
            "smoke": Config(
                num_steps=8,
                collapse_steps=60,
                batch_size=32,
                log_every=4,
                width=32,
                depth=2,
                predictor_width=16,
                predictor_depth=1,
                canvas_images=300,
                canvas_steps=6,
                probe_train=300,
                probe_test=200,
            ),
            "laptop": Config(),
            "gpu": Config(
                num_targets=4,
                num_steps=40_000,
                batch_size=512,
                patch=4,
                width=192,
                depth=6,
                heads=3,
                predictor_width=96,
                predictor_depth=3,
                target_scale=(0.15, 0.2),
                lr=1e-3,
                ema_decay=(0.996, 1.0),
                log_every=500,
                collapse_steps=1000,
                canvas_images=60_000,
                canvas_steps=40_000,
                probe_train=10_000,
                probe_test=10_000,
            ),
            # ViT-H/14 of the paper, section 4 and appendix
            "paper": FolderConfig(
                num_targets=4,
                num_steps=187_500,
                batch_size=2048,
                patch=14,
                width=1280,
                depth=32,
                heads=16,
                predictor_width=384,
                predictor_depth=12,
                target_scale=(0.15, 0.2),
                lr=1e-3,
                ema_decay=(0.996, 1.0),
                log_every=1000,
            ),
        },
        name,
        overrides,
    )


# The second world; the first is worlds.centred


def cluttered(cfg: Config, device: str = "cpu") -> World:
    """The same garments at random places and scales on cluttered canvases; generated once, the same for all seeds."""
    parts = worlds.garments(cfg)
    parts = (images.split(parts[0], (min(cfg.canvas_images, len(parts[0])),), seed=0)[0], *parts[1:])
    canvases = tuple(
        images.cluttered(
            part, cfg.canvas, cfg.canvas_scale, cfg.canvas_clutter, generator=torch.Generator().manual_seed(i)
        )
        for i, part in enumerate(parts)
    )
    return worlds.cut("cluttered", canvases, cfg.canvas_patch, device)


# Arms: I-JEPA with one thing changed


def pixel_objective(model: train.JEPA, patches_BNP: Float[Tensor, "B N P"], masks: Masks) -> Float[Tensor, ""]:
    """Predict the standardised pixels of the hidden patches instead of their latents (paper, ablation of the target)."""
    pred_BMKP = model.predictor(model.encoder(patches_BNP, masks.context_idx), masks)
    return smooth_l1(pred_BMKP, gather_blocks(patches_BNP, masks.target_idx))


def input_masked_objective(model: train.JEPA, patches_BNP: Float[Tensor, "B N P"], masks: Masks) -> Float[Tensor, ""]:
    """The target encoder sees one hidden block at a time, not the whole image (paper, "masking at the input")."""
    with torch.no_grad():
        target_BMKD = normalise(encode_blocks(model.target_encoder, patches_BNP, masks.target_idx))
    return smooth_l1(model.predictor(model.encoder(patches_BNP, masks.context_idx), masks), target_BMKD)


def collapsing_objective(model: train.JEPA, patches_BNP: Float[Tensor, "B N P"], masks: Masks) -> Float[Tensor, ""]:
    """No EMA, no stop-gradient, no target normalisation: one encoder chases itself, and a constant wins."""
    target_BMKD = gather_blocks(model.encoder(patches_BNP), masks.target_idx)
    return smooth_l1(model.predictor(model.encoder(patches_BNP, masks.context_idx), masks), target_BMKD)


def one_block(cfg: Config, grid: tuple[int, int]) -> train.Sampler:
    """One block of half the grid, about what the multi-block targets hide together; the context keeps as much as
    theirs.
    """
    kept = worlds.multi_block(cfg, grid, cfg.num_targets).keywords["num_context"]
    areas = range(grid[0] * grid[1] // 2, 0, -1)
    size = next(area for area in areas if masks.shapes_of_area(grid, area))
    return partial(masks.single_block, grid, target_size=size, num_context=kept)


def scattered(cfg: Config, grid: tuple[int, int]) -> train.Sampler:
    """As many targets of as many tokens and as much context as the multi-block masks, but scattered."""
    like = worlds.multi_block(cfg, grid, cfg.num_targets).keywords
    size = like["target_shapes"][0][0] * like["target_shapes"][0][1]
    return partial(
        masks.random_tokens, grid, num_targets=cfg.num_targets, target_size=size, num_context=like["num_context"]
    )


def block_count(num_targets: int) -> str:
    """The name of the arm with that many target blocks; the reference arm, "I-JEPA", stands for its own number."""
    return f"{num_targets} target block{'s' * (num_targets > 1)}"


def arms(cfg: Config, world: World) -> dict[str, Arm]:
    """Every arm of the chapter by the name it has in the figures; "I-JEPA" is the reference."""
    base = worlds.multi_block(cfg, world.grid, cfg.num_targets)
    return {
        "I-JEPA": Arm(base),
        "pixel targets": Arm(base, pixel_objective, partial(worlds.predictor, out_dim=world.patches.shape[-1])),
        "random tokens": Arm(scattered(cfg, world.grid)),
        "one large block": Arm(one_block(cfg, world.grid)),
        **{block_count(m): Arm(worlds.multi_block(cfg, world.grid, m)) for m in (1, 2, 3, 4) if m != cfg.num_targets},
        "masked at the input": Arm(base, input_masked_objective),
        "no EMA, no stop-gradient": Arm(
            base,
            collapsing_objective,
            changes={"ema_decay": (0.0, 0.0), "num_steps": cfg.collapse_steps, "precision": "float32"},
        ),
    }


def headless(cfg: Config, out: Path, **how) -> dict[str, Score]:
    """Train the reference arm with checkpoints in `out`, on the GPUs where there are some, then probe it.

    how: `seed`, `resume`, `micro_batches`.
    """
    device = distributed.start()
    world = (
        worlds.pictures(cfg, cfg.folder, cfg.side, device)
        if isinstance(cfg, FolderConfig)
        else worlds.centred(cfg, device)
    )
    return worlds.headless(cfg, world, arms(cfg, world)["I-JEPA"], out, **how)
