"""The reference step in our engine, and the inputs that every contender gets.

Every contender starts from the same weights and sees the same images and masks, so equal losses prove equal work. The
package is imported inside the functions: in a peer's process it would count as the peer's memory. Shape letters: S
batches, B images, N tokens, P numbers per patch, M target blocks, K tokens per block, C context tokens.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

LR, WEIGHT_DECAY, EMA_DECAY = 1e-3, 0.05, 0.996
EPS = 1e-6  # of every layer norm, also the one on the targets, so that losses can be compared


@dataclass(frozen=True)
class Work:
    """One training step: sizes in pixels, tokens and images."""

    width: int = 192
    depth: int = 6
    heads: int = 3
    predictor_width: int = 96
    predictor_depth: int = 3
    predictor_heads: int = 3
    batch_size: int = 128
    image: int = 32
    patch: int = 4
    num_targets: int = 4
    target_shape: tuple[int, int] = (3, 4)  # rows and columns of a block, or turned by a right angle
    num_context: int = 24

    @property
    def grid(self) -> tuple[int, int]:
        return (self.image // self.patch,) * 2


@dataclass(frozen=True)
class Batch:
    """What one step sees: images for the peers, patches for ours."""

    images: Tensor  # Float[B, 3, H, W]
    patches: Tensor  # Float[B, N, P]
    context_idx: Tensor  # Int64[B, C]
    target_idx: Tensor  # Int64[B, M, K]


Step = Callable[[Batch], Tensor]  # trains on a batch and returns its loss


def our_model(work: Work):
    from jepa_lab.encoders import Encoder
    from jepa_lab.objectives import JEPA
    from jepa_lab.predictors import Predictor

    torch.manual_seed(0)
    encoder = Encoder(work.grid, 3 * work.patch**2, work.width, work.depth, work.heads)
    predictor = Predictor(
        work.grid, work.width, work.predictor_width, work.predictor_depth, work.predictor_heads, work.width
    )
    return JEPA(encoder, predictor)


def draw_masks(work: Work, generator: torch.Generator):
    from jepa_lab import masks

    shapes = sorted({work.target_shape, work.target_shape[::-1]})
    return masks.multi_block(
        work.grid,
        work.batch_size,
        generator,
        num_targets=work.num_targets,
        target_shapes=shapes,
        num_context=work.num_context,
    )


def inputs(work: Work, num_batches: int = 3) -> dict[str, Any]:
    """Images, masks and first weights of every contender; everything is a function of `work`."""
    from einops import rearrange

    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (num_batches * work.batch_size, 3, work.image, work.image), generator=generator)
    images = (pixels.float() - 127.5) / 73.9
    drawn = [draw_masks(work, generator) for _ in range(num_batches)]
    model = our_model(work)
    weights = {name: p.clone() for name, p in model.state_dict().items() if not name.startswith("target_encoder.")}
    positions = {"position": model.encoder.tokens.position_ND, "predictor_position": model.predictor.position_NP}
    return {
        "images": rearrange(images, "(s b) c h w -> s b c h w", s=num_batches),
        "patches": rearrange(
            images, "(s b) c (h p) (w q) -> s b (h w) (c p q)", s=num_batches, p=work.patch, q=work.patch
        ),
        "context_idx": torch.stack([masks.context_idx for masks in drawn]),
        "target_idx": torch.stack([masks.target_idx for masks in drawn]),
        "weights": weights | positions,
    }


def batches(given: dict[str, Any]) -> Iterator[Batch]:
    """The given batches, again and again."""
    names = ("images", "patches", "context_idx", "target_idx")
    while True:
        for parts in zip(*(given[name] for name in names)):
            yield Batch(*parts)


@dataclass(frozen=True)
class GivenTask:
    """A task that hands out one prepared batch."""

    batch: Batch
    work: Work
    device: torch.device = torch.device("cpu")

    def __len__(self) -> int:
        return len(self.batch.patches)

    def draw(self, idx_B: Tensor, generator: torch.Generator):
        from jepa_lab.masks import Masks

        return Masks(self.batch.context_idx, self.batch.target_idx, self.work.grid)

    def load(self, idx_b: Tensor, drawn) -> Tensor:
        return self.batch.patches


def ours(work: Work, weights: dict[str, Tensor], precision: str) -> Step:
    """The engine's own step: `train.train_step`, as `train.fit` calls it."""
    from jepa_lab import runtime, train
    from jepa_lab.objectives import jepa_objective

    model = our_model(work)
    model.load_state_dict({k: v for k, v in weights.items() if not k.endswith("position")}, strict=False)
    model.target_encoder.load_state_dict(model.encoder.state_dict())
    cfg = train.Config(  # constant rates, as the peers have here; the norm of the gradient is taken but never clips
        num_steps=10**9,
        warmup=0.0,
        lr=LR,
        weight_decay=(WEIGHT_DECAY,) * 2,
        ema_decay=(EMA_DECAY,) * 2,
        clip_norm=1e9,
        precision=precision,
    )
    state = train.start(model, cfg, 0, "cpu")
    runtime.choose_attention(model, plain=precision == "bf16")
    step, buffers = runtime.wrap(model, jepa_objective, compile=False), runtime.changing_buffers(model)
    idx_B = torch.arange(work.batch_size)

    def advance(batch: Batch) -> Tensor:
        loss, _, _ = train.train_step(state, cfg, GivenTask(batch, work), step, idx_B, buffers=buffers)
        state.step += 1
        return loss

    return advance


def preparation(work: Work, repeats: int = 40) -> float:
    """CPU seconds that our engine spends on one batch before the step: masks, indexing, cast and scale."""
    generator = torch.Generator().manual_seed(0)
    stored = torch.randint(256, (4096, work.grid[0] * work.grid[1], 3 * work.patch**2), dtype=torch.uint8)
    for k in range(repeats + 5):
        if k == 5:
            start = time.process_time()
        idx = torch.randint(len(stored), (work.batch_size,), generator=generator)
        (stored[idx].float() - 127.5) / 73.9
        draw_masks(work, generator)
    return (time.process_time() - start) / repeats
