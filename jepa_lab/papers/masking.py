"""I-JEPA (Assran et al. 2023, arXiv 2301.08243): what is hidden, from whom, and what is predicted. Chapter 01.

The engine in `train` is I-JEPA itself; here are the arms that differ from it in one respect each, the two worlds they
are trained in, and the claims. Shape letters: B batch, N tokens, P pixels per patch, M target blocks, K tokens per
block, D width, n images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path

import torch
from einops import rearrange, reduce
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from jepa_lab import masks, probes, train
from jepa_lab.claims import Claim
from jepa_lab.data import images
from jepa_lab.encoders import Encoder, encode_blocks
from jepa_lab.losses import gather_blocks, normalise, smooth_l1
from jepa_lab.masks import Masks
from jepa_lab.predictors import Predictor
from jepa_lab.scores import Score

CHAPTER, PAPER = "01_masking", "Assran et al. 2023 (I-JEPA)"
FEW = "accuracy with 10 labels per class, points"  # ImageNet's 1 % is 13 labels per class
LINEAR = "accuracy of a linear probe on 5,000 labels, points"
ABLATION = "ImageNet, 1 % of the labels, linear probe"


def _claim(id: str, statement: str, baseline: str, margin: float, paper_value: str, paper_source: str, metric: str = FEW) -> Claim:
    return Claim(id, CHAPTER, PAPER, statement, metric, "higher", margin, paper_value, paper_source, baseline)


CLAIMS = (
    _claim("features-beat-pixels", "Predicting features beats predicting pixels at equal steps.", "pixel targets", 1.0,
           "66.9 against 40.7", f"ablation of the target, ViT-L/16, {ABLATION}"),
    _claim("blocks-beat-random", "Multi-block masks beat masks of scattered tokens.", "random tokens", 1.0,
           "54.2 against 17.6", f"ablation of the masking strategy, ViT-B/16, {ABLATION}"),
    _claim("blocks-beat-single", "Several blocks beat one block that hides half of the image.", "one large block", 1.0,
           "54.2 against 20.2", f"ablation of the masking strategy, ViT-B/16, {ABLATION}"),
    _claim("four-beat-one", "Four target blocks beat one.", "1 target block", 1.0,
           "54.2 against 9.0", f"ablation of the number of targets, ViT-B/16, {ABLATION}"),
    _claim("output-beats-input", "Masking the target encoder's output beats masking its input.", "masked at the input", 1.0,
           "67.3 against 56.1", f"ablation, ViT-H/16, 300 epochs, {ABLATION}"),
    _claim("beats-random", "The frozen encoder beats the same encoder at random initialisation, centred garments.",
           "random initialisation", 1.0, "not reported", "our control"),
    _claim("beats-pixels", "The frozen encoder beats raw pixels, centred garments.", "raw pixels", 1.0, "not reported", "our control"),
    _claim("clutter-beats-random", "The same against random initialisation, on cluttered canvases.", "random initialisation", 1.0,
           "not reported", "our control", LINEAR),
    _claim("clutter-beats-pixels", "The same against the better of linear probe and kNN on raw pixels, on cluttered canvases.",
           "raw pixels", 1.0, "not reported", "our control", LINEAR),
)  # fmt: skip


@dataclass(frozen=True)
class Config(train.Config):
    """One small I-JEPA, its two worlds and its probes. Sizes in pixels, counts in images."""

    num_steps: int = 850
    batch_size: int = 32  # at equal time more, smaller steps did better on held-out training images
    log_every: int = 85
    precision: str = "bf16"
    patch: int = 7  # 4 x 4 tokens of a 28 px garment
    width: int = 64
    depth: int = 3
    heads: int = 2
    predictor_width: int = 64
    predictor_depth: int = 2
    num_targets: int = 2  # paper: 4, which on 4 x 4 tokens would leave 4 of them as context
    target_scale: tuple[float, float] = (0.15, 0.25)  # share of the grid; paper: 0.15 to 0.2, which no block of 4 x 4 has
    target_aspect: tuple[float, float] = (0.75, 1.5)
    context_scale: tuple[float, float] = (0.85, 1.0)
    collapse_steps: int = 300  # of the run without EMA and stop-gradient
    canvas: int = 48
    canvas_patch: int = 8  # 6 x 6 tokens
    canvas_clutter: int = 2  # fragments of other garments
    canvas_scale: tuple[float, float] = (0.8, 1.2)  # canvas pixels per garment pixel
    canvas_images: int = 20_000
    canvas_steps: int = 400
    probe_train: int = 5000  # labelled images that the probes draw from, never used for training
    probe_test: int = 5000  # of the published test split


def preset(name: str, **overrides) -> Config:
    """Config of a preset: smoke, laptop, gpu or paper. Unknown names and unknown overrides raise ValueError."""
    presets = {
        "smoke": Config(num_steps=8, collapse_steps=60, batch_size=32, log_every=4, width=32, depth=2, predictor_width=16,
                        predictor_depth=1, canvas_images=300, canvas_steps=6, probe_train=300, probe_test=200),
        "laptop": Config(),
        "gpu": Config(num_targets=4, num_steps=40_000, batch_size=512, patch=4, width=192, depth=6, heads=3, predictor_width=96, predictor_depth=3,
                      target_scale=(0.15, 0.2), lr=1e-3, ema_decay=(0.996, 1.0), log_every=500, collapse_steps=1000, canvas_images=60_000, canvas_steps=40_000,
                      probe_train=10_000, probe_test=10_000),
        # ViT-H/14 of the paper, section 4 and appendix; ImageNet images come from data.images.image_folder
        "paper": Config(num_targets=4, num_steps=187_500, batch_size=2048, patch=14, width=1280, depth=32, heads=16, predictor_width=384,
                        predictor_depth=12, target_scale=(0.15, 0.2), lr=1e-3, ema_decay=(0.996, 1.0), log_every=1000),
    }  # fmt: skip
    if name not in presets:
        raise ValueError(f"unknown preset {name!r}; there are: {', '.join(presets)}")
    known = [f.name for f in fields(Config)]
    unknown = sorted(set(overrides) - set(known))
    if unknown:
        raise ValueError(f"unknown option {', '.join(unknown)}; the fields are: {', '.join(known)}")
    return replace(presets[name], **overrides)


# Worlds


@dataclass(frozen=True)
class World:
    """Images cut into patches: unlabelled ones to train on, labelled ones to probe with, the test split to score on."""

    name: str
    source: images.ImageSet | images.CanvasSet  # where the images came from, without their pixels
    grid: tuple[int, int]
    patches: UInt8[Tensor, "n N P"]
    probe: UInt8[Tensor, "m N P"]
    probe_labels: Int64[Tensor, " m"]
    test: UInt8[Tensor, "t N P"]
    test_labels: Int64[Tensor, " t"]
    stats: tuple[float, float]  # mean and deviation of the training pixels
    example: UInt8[Tensor, "e S S"]

    def to_batch(self, patches: UInt8[Tensor, "n N P"]) -> Float[Tensor, "n N P"]:
        return images.normalise(patches, self.stats)


def garments(cfg: Config) -> tuple[images.ImageSet, images.ImageSet, images.ImageSet]:
    """Fashion-MNIST cut into training images, labelled probe images and test images; the cut is the same for all seeds."""
    everything, test = images.fashion_mnist("train"), images.fashion_mnist("test")
    num_probe, num_test = min(cfg.probe_train, len(everything) // 3), min(cfg.probe_test, len(test))
    unlabelled, probe = images.split(everything, (len(everything) - num_probe, num_probe), seed=0)
    return unlabelled, probe, images.split(test, (num_test,), seed=0)[0]


def centred(cfg: Config, device: str = "cpu") -> World:
    """The published images: 28 px, every garment in the middle."""
    return _world("centred", garments(cfg), cfg.patch, device)


def cluttered(cfg: Config, device: str = "cpu") -> World:
    """The same garments at random places and scales on cluttered canvases; generated once, the same for all seeds."""
    parts = garments(cfg)
    parts = (images.split(parts[0], (min(cfg.canvas_images, len(parts[0])),), seed=0)[0], *parts[1:])
    canvases = tuple(
        images.cluttered(part, cfg.canvas, cfg.canvas_scale, cfg.canvas_clutter, generator=torch.Generator().manual_seed(i))
        for i, part in enumerate(parts)
    )
    return _world("cluttered", canvases, cfg.canvas_patch, device)


def _world(name: str, parts: tuple, patch: int, device: str) -> World:
    side = parts[0].images.shape[-1] // patch
    cut = [images.patchify(part.images, patch).to(device) for part in parts]
    labels = [part.labels.to(device) for part in parts]
    stats = images.pixel_stats(parts[0].images)
    head = replace(parts[0].subset(torch.arange(0)), name=parts[0].name.split(" [")[0])
    return World(name, head, (side, side), cut[0], cut[1], labels[1], cut[2], labels[2], stats, parts[2].images[:64])


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


def multi_block(cfg: Config, grid: tuple[int, int], num_targets: int) -> train.Sampler:
    """The corrected sampler at the config's scales, keeping the context that nine draws in ten can supply."""
    shapes = masks.block_shapes(grid, cfg.target_scale, cfg.target_aspect)
    kept = masks.context_budget(grid, shapes, num_targets=num_targets, context_scale=cfg.context_scale)
    return partial(masks.multi_block, grid, num_targets=num_targets, target_shapes=shapes,
                   context_scale=cfg.context_scale, num_context=kept)  # fmt: skip


def one_block(cfg: Config, grid: tuple[int, int]) -> train.Sampler:
    """One block of half the grid, about what the multi-block targets hide together; the context keeps as much as theirs."""
    kept = multi_block(cfg, grid, cfg.num_targets).keywords["num_context"]
    areas = range(grid[0] * grid[1] // 2, 0, -1)
    size = next(area for area in areas if masks.shapes_of_area(grid, area))
    return partial(masks.single_block, grid, target_size=size, num_context=kept)


def scattered(cfg: Config, grid: tuple[int, int]) -> train.Sampler:
    """As many targets of as many tokens and as much context as the multi-block masks, but scattered."""
    like = multi_block(cfg, grid, cfg.num_targets).keywords
    size = like["target_shapes"][0][0] * like["target_shapes"][0][1]
    return partial(masks.random_tokens, grid, num_targets=cfg.num_targets, target_size=size, num_context=like["num_context"])


@dataclass(frozen=True)
class Arm:
    """One way to train: who sees what, what is predicted, and what differs in the config."""

    sampler: train.Sampler
    objective: train.Objective = train.jepa_objective
    out_dim: int | None = None  # of the predictor; None: the encoder's width
    changes: dict | None = None


def block_count(num_targets: int) -> str:
    """The name of the arm with that many target blocks; the reference arm, "I-JEPA", stands for its own number."""
    return f"{num_targets} target block{'s' * (num_targets > 1)}"


def arms(cfg: Config, world: World) -> dict[str, Arm]:
    """Every arm of the chapter by the name it has in the figures; "I-JEPA" is the reference."""
    base = multi_block(cfg, world.grid, cfg.num_targets)
    return {
        "I-JEPA": Arm(base),
        "pixel targets": Arm(base, pixel_objective, world.patches.shape[-1]),
        "random tokens": Arm(scattered(cfg, world.grid)),
        "one large block": Arm(one_block(cfg, world.grid)),
        **{block_count(m): Arm(multi_block(cfg, world.grid, m)) for m in (1, 2, 3, 4) if m != cfg.num_targets},
        "masked at the input": Arm(base, input_masked_objective),
        "no EMA, no stop-gradient": Arm(
            base, collapsing_objective, changes={"ema_decay": (0.0, 0.0), "num_steps": cfg.collapse_steps, "precision": "float32"}
        ),
    }


def model(cfg: Config, grid: tuple[int, int], patch_dim: int, seed: int, out_dim: int | None = None) -> train.JEPA:
    """A fresh I-JEPA. The encoder's start depends on the seed alone, so all arms of one seed share it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = Encoder(grid, patch_dim, cfg.width, cfg.depth, cfg.heads)
        heads = max(1, cfg.predictor_width // (cfg.width // cfg.heads))
        return train.JEPA(encoder, Predictor(grid, cfg.width, cfg.predictor_width, cfg.predictor_depth, heads, out_dim or cfg.width))


def train_arm(cfg: Config, world: World, arm: Arm, seed: int, progress: bool = True, checkpoint: Path | None = None,
              save_every: int = 0) -> train.Run:  # fmt: skip
    """Train one arm on a world; `checkpoint` resumes where an earlier run of the same settings was cut off."""
    cfg = replace(cfg, **(arm.changes or {}))
    device = world.patches.device
    run = train.start(model(cfg, world.grid, world.patches.shape[-1], seed, arm.out_dim), seed, device)
    if checkpoint and checkpoint.exists():
        train.load(checkpoint, run, cfg)
    return train.fit(run, cfg, world.patches, world.to_batch, arm.sampler, arm.objective, watch=world.probe[:1000],
                     checkpoint=checkpoint, save_every=save_every, progress=progress)  # fmt: skip


# Scores


def score(world: World, embed: Callable[[UInt8[Tensor, "n N P"]], Float[Tensor, "n D"]], seed: int) -> dict[str, Score]:
    """Linear probe, kNN and 10 labels per class of frozen features; draws depend on the seed alone."""
    generator = torch.Generator(world.probe.device).manual_seed(seed)
    return probes.score_features(embed(world.probe), world.probe_labels, embed(world.test), world.test_labels, generator)


def encoded(encoder: Encoder, world: World) -> Callable[[Tensor], Tensor]:
    """Features of an encoder: the mean of its latents."""
    return lambda patches: train.embed(encoder, patches, world.to_batch)


def controls(cfg: Config, world: World, seed: int) -> dict[str, Callable[[Tensor], Tensor]]:
    """What every trained arm has to beat: the same encoder untrained, and the pixels themselves.

    Pixels of canvases are averaged 2 x 2, which makes them a slightly stronger baseline and a much faster one.
    """
    untrained = model(cfg, world.grid, world.patches.shape[-1], seed).encoder.to(world.patches.device)
    pool = 2 if world.name == "cluttered" else 1
    side = round(world.patches.shape[-1] ** 0.5)

    def pixels(patches: Tensor) -> Tensor:
        blocks = rearrange(world.to_batch(patches), "n t (h w) -> n t h w", h=side)
        return reduce(blocks, "n t (h a) (w b) -> n (t h w)", "mean", a=pool, b=pool)

    return {"random initialisation": encoded(untrained, world), "raw pixels": pixels}


def headless(cfg: Config, out: Path, seed: int = 0, resume: bool = False) -> dict[str, Score]:
    """Train the reference arm with checkpoints in `out`, on a GPU where there is one, then probe it."""
    checkpoint = out / "checkpoint.pt"
    if checkpoint.exists() and not resume:
        raise ValueError(f"{checkpoint} exists: go on with --resume, or choose another --out")
    world = centred(cfg, "cuda" if torch.cuda.is_available() else "cpu")
    save_every = max(1, cfg.num_steps // 20)
    run = train_arm(cfg, world, arms(cfg, world)["I-JEPA"], seed, checkpoint=checkpoint, save_every=save_every)
    return score(world, encoded(run.model.target_encoder, world), seed)
