"""One contender in one process: the reference step in our engine, or built from a peer's own modules as they ship.

Every contender starts from the same weights and sees the same images and masks, so equal losses prove equal work.
Shape letters: S batches, B images, M target blocks, K tokens per block, C context tokens, D width.
"""

from __future__ import annotations

import copy
import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
    """What one step sees, in the form that each side wants: images for the peers, patches for ours."""

    images: Tensor  # Float[B, 3, H, W]
    patches: Tensor  # Float[B, N, P]
    context_idx: Tensor  # Int64[B, C]
    target_idx: Tensor  # Int64[B, M, K]


Step = Callable[[Batch], Tensor]  # trains on a batch and returns its loss


# Ours. The package is imported inside the functions: in a peer's process it would count as the peer's memory.


def our_model(work: Work):
    from jepa_lab import train
    from jepa_lab.encoders import Encoder
    from jepa_lab.predictors import Predictor

    torch.manual_seed(0)
    encoder = Encoder(work.grid, 3 * work.patch**2, work.width, work.depth, work.heads)
    predictor = Predictor(
        work.grid, work.width, work.predictor_width, work.predictor_depth, work.predictor_heads, work.width
    )
    return train.JEPA(encoder, predictor)


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
    weights = {
        name: value.clone() for name, value in model.state_dict().items() if not name.startswith("target_encoder.")
    }
    return {
        "images": rearrange(images, "(s b) c h w -> s b c h w", s=num_batches),
        "patches": rearrange(
            images, "(s b) c (h p) (w q) -> s b (h w) (c p q)", s=num_batches, p=work.patch, q=work.patch
        ),
        "context_idx": torch.stack([masks.context_idx for masks in drawn]),
        "target_idx": torch.stack([masks.target_idx for masks in drawn]),
        "weights": weights | {"position": model.encoder.position_ND, "predictor_position": model.predictor.position_NP},
    }


def batches(given: dict[str, Any]) -> Iterator[Batch]:
    """The given batches, again and again."""
    names = ("images", "patches", "context_idx", "target_idx")
    while True:
        for parts in zip(*(given[name] for name in names)):
            yield Batch(*parts)


def ours(work: Work, weights: dict[str, Tensor], precision: str) -> Step:
    """The engine's own step: `train.jepa_objective` and `train.update`, nothing rewritten for the benchmark."""
    from jepa_lab import train
    from jepa_lab.masks import Masks

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
    run = train.start(model, 0, "cpu")
    train.choose_attention(model, plain=precision == "bf16")

    def step(batch: Batch) -> Tensor:
        masks = Masks(batch.context_idx, batch.target_idx, work.grid)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = train.jepa_objective(model, batch.patches, masks)
        loss.backward()
        train.update(run, loss, cfg)
        run.step += 1
        return loss.detach()

    return step


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


# Peers


@dataclass
class Peer:
    """A peer's modules and how its own code calls them. Targets go in and predictions come out as [M*B, K, .]."""

    encoder: nn.Module
    predictor: nn.Module
    encode: Callable[[nn.Module, Tensor, Tensor | None], Tensor]  # (encoder, images, context_idx or None)
    predict: Callable[
        [nn.Module, Tensor, Tensor, list[Tensor]], Tensor
    ]  # (predictor, context, context_idx, target_idx)
    gather: Callable[[Tensor, list[Tensor]], Tensor]
    ema: Callable[[nn.Module, nn.Module], None]  # (encoder, target encoder)
    names: tuple[dict[str, str], dict[str, str]] = ({}, {})  # where it calls a weight otherwise than the official code
    unused: tuple[str, ...] = ()  # weights that it has and this step never touches


def _ema_loop(encoder: nn.Module, target: nn.Module) -> None:
    for source, moved in zip(encoder.parameters(), target.parameters(), strict=True):
        moved.data.mul_(EMA_DECAY).add_((1.0 - EMA_DECAY) * source.detach().data)


def _ema_foreach(encoder: nn.Module, target: nn.Module) -> None:
    moved = list(target.parameters())
    torch._foreach_mul_(moved, EMA_DECAY)
    torch._foreach_add_(moved, [p.detach() for p in encoder.parameters()], alpha=1.0 - EMA_DECAY)


def _official_arguments(work: Work) -> tuple[dict, dict]:
    common = dict(mlp_ratio=4, qkv_bias=True, norm_layer=partial(nn.LayerNorm, eps=EPS))
    encoder = dict(patch_size=work.patch, embed_dim=work.width, depth=work.depth, num_heads=work.heads)
    predictor = dict(
        embed_dim=work.width,
        predictor_embed_dim=work.predictor_width,
        depth=work.predictor_depth,
        num_heads=work.predictor_heads,
    )
    return common | encoder, common | predictor


def _official_like(work: Work, module, apply_masks, ema) -> Peer:
    encoder, predictor = _official_arguments(work)
    return Peer(
        module.VisionTransformer(img_size=[work.image], **encoder),
        module.VisionTransformerPredictor(num_patches=work.grid[0] * work.grid[1], **predictor),
        encode=lambda m, images, idx: m(images, None if idx is None else [idx]),
        predict=lambda m, context, idx, targets: m(context, [idx], targets),
        gather=apply_masks,
        ema=ema,
    )


def official(work: Work) -> Peer:
    """facebookresearch/ijepa, from the checkout that IJEPA_REPO names."""
    repo = os.environ.get("IJEPA_REPO", "")
    if not (Path(repo) / "src" / "models" / "vision_transformer.py").is_file():
        raise ImportError(
            "IJEPA_REPO does not name a checkout of facebookresearch/ijepa" if repo else "IJEPA_REPO is not set"
        )
    sys.path.insert(0, repo)
    module = importlib.import_module("src.models.vision_transformer")
    return _official_like(work, module, module.apply_masks, _ema_loop)


def simulusion(work: Work) -> Peer:
    module = importlib.import_module("simulusion.models.vit")
    return _official_like(work, module, module.apply_masks, _ema_foreach)


def pyjepa(work: Work) -> Peer:
    models = importlib.import_module("pyjepa.models")
    ema = importlib.import_module("pyjepa.optim.ema")
    encoder, predictor = _official_arguments(work)
    return Peer(
        models.VisionTransformer(img_size=work.image, **encoder),
        models.VisionTransformerPredictor(img_size=work.image, patch_size=work.patch, **predictor),
        encode=lambda m, images, idx: m(images, None if idx is None else [idx]),
        predict=lambda m, context, idx, targets: m(context, None, [idx], targets),
        gather=importlib.import_module("pyjepa.masks.utils").apply_masks,
        ema=lambda e, target: ema.EMA(e, target, constant_momentum=EMA_DECAY).update(),
        names=({}, {"mask_token": "mask_tokens.1"}),
        unused=("mask_tokens.0",),
    )


def lightly(work: Work) -> Peer:
    from timm.models.vision_transformer import VisionTransformer

    modules = importlib.import_module("lightly.models.modules")
    utils = importlib.import_module("lightly.models.utils")
    encoder, _ = _official_arguments(work)
    vit = VisionTransformer(img_size=work.image, num_classes=0, class_token=False, global_pool="", **encoder)
    predictor = modules.IJEPAPredictorTIMM(
        num_patches=work.grid[0] * work.grid[1],
        depth=work.predictor_depth,
        mlp_dim=work.width,
        predictor_embed_dim=work.predictor_width,
        num_heads=work.predictor_heads,
        norm_layer=partial(nn.LayerNorm, eps=EPS),
    )
    inside = {
        "predictor_pos_embed": "decoder.pos_embed",
        "predictor_norm": "decoder.norm",
        "predictor_blocks": "decoder.blocks",
    }
    return Peer(
        modules.MaskedVisionTransformerTIMM(vit),
        predictor,
        encode=lambda m, images, idx: m.encode(images, idx_keep=idx),
        predict=lambda m, context, idx, targets: m(context, idx, targets),
        gather=utils.apply_masks,
        ema=lambda e, target: utils.update_momentum(e, target, m=EMA_DECAY),
        names=({"": "vit."}, inside | {"mask_token": "decoder.mask_token"}),
        unused=("mask_token",),
    )


PEERS = {"lightly": lightly, "simulusion": simulusion, "pyjepa": pyjepa, "official": official}


def official_weights(weights: dict[str, Tensor], work: Work) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Our weights under the official code's names, encoder and predictor."""
    renamed = {
        "embed": "predictor_embed",
        "blocks": "predictor_blocks",
        "norm": "predictor_norm",
        "out": "predictor_proj",
    }
    encoder, predictor = (
        {"pos_embed": weights["position"][None]},
        {"predictor_pos_embed": weights["predictor_position"][None]},
    )
    for name, value in weights.items():
        part, _, rest = name.partition(".")
        head, _, tail = rest.partition(".")
        if part == "encoder":
            is_embed = head == "embed"
            encoder[f"patch_embed.proj.{tail}" if is_embed else rest] = (
                value.unflatten(1, (3, work.patch, work.patch)) if rest == "embed.weight" else value
            )
        elif part == "predictor":
            predictor[f"{renamed.get(head, head)}.{tail}" if tail else rest] = value if tail else value[None, None]
    return encoder, predictor


def load_ours(module: nn.Module, given: dict[str, Tensor], names: dict[str, str], unused: tuple[str, ...]) -> None:
    """Copies our weights into a peer's module. Raises ValueError unless they are all that it has, `unused` apart."""
    state = {}
    for name, value in given.items():
        start = next((old for old in names if name.startswith(old)), None)
        state[name if start is None else names[start] + name.removeprefix(start)] = value
    missing, unknown = module.load_state_dict(state, strict=False)
    if unknown or set(missing) - set(unused):
        raise ValueError(
            f"this version's weights differ from the reference: misses {unknown}, has besides {sorted(set(missing) - set(unused))}"
        )


def theirs(peer: Peer, work: Work, weights: dict[str, Tensor], precision: str) -> Step:
    """The reference step from a peer's modules: what I-JEPA's training loop does, with AdamW as these peers call it."""
    given = official_weights(weights, work)
    for module, values, names in zip((peer.encoder, peer.predictor), given, peer.names, strict=True):
        load_ours(module, values, names, peer.unused)
    target_encoder = copy.deepcopy(peer.encoder).requires_grad_(False)
    trained = {
        n: p
        for m in (peer.encoder, peer.predictor)
        for n, p in m.named_parameters(prefix=type(m).__name__)
        if p.requires_grad
    }
    plain = [n for n, p in trained.items() if p.ndim <= 1 or "mask_token" in n]
    groups = [
        {"params": [p for n, p in trained.items() if n not in plain]},
        {"params": [trained[n] for n in plain], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=LR, weight_decay=WEIGHT_DECAY)

    def step(batch: Batch) -> Tensor:
        targets = list(batch.target_idx.unbind(1))
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            with torch.no_grad():
                target = peer.encode(target_encoder, batch.images, None)
                target = peer.gather(F.layer_norm(target, target.shape[-1:], eps=EPS), targets)
            context = peer.encode(peer.encoder, batch.images, batch.context_idx)
            loss = F.smooth_l1_loss(peer.predict(peer.predictor, context, batch.context_idx, targets), target)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        peer.ema(peer.encoder, target_encoder)
        return loss.detach()

    return step


# The ceiling


def ceiling(work: Work, precision: str) -> dict[tuple[str, str], Callable[[], float]]:
    """Matrix products whose rates are ceilings, by precision and shape; a call gives the GFLOP per CPU second of one."""
    tokens, dtype = (
        work.batch_size * work.grid[0] * work.grid[1],
        torch.bfloat16 if precision == "bf16" else torch.float32,
    )
    width = work.width
    shapes = [(2048, 2048, 2048), (tokens, width, 3 * width), (tokens, width, 4 * width), (tokens, 4 * width, width)]

    def rate(rows: int, inner: int, columns: int) -> float:
        given, weight = torch.randn(rows, inner).to(dtype), torch.randn(columns, inner).to(dtype)
        F.linear(given, weight)
        start = time.process_time()
        for _ in range(repeats := max(1, round(1e10 / (rows * inner * columns)))):
            F.linear(given, weight)
        return repeats * 2e-9 * rows * inner * columns / (time.process_time() - start)

    return {
        (precision, f"{rows} x {inner} x {columns}"): partial(rate, rows, inner, columns)
        for rows, inner, columns in shapes
    }


# The process


def peak_rss_mb() -> float:
    """Largest resident memory of this process so far. Linux's rusage would also count the parent's before exec."""
    status = Path("/proc/self/status")
    if status.is_file():
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) / 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def answers(name: str, precision: str, work: Work, path: str, threads: int, warmup: int) -> Iterator[dict]:
    """What a process tells: that it is ready, then one measurement for each time that it is asked."""
    torch.set_num_threads(threads)
    if name == "inputs":
        start = time.process_time()
        importlib.import_module("jepa_lab.train")
        import_s = time.process_time() - start
        torch.save(inputs(work), path)
        yield {"import_s": import_s, "preparation_s": preparation(work)}
    elif name == "ceiling":
        rates = ceiling(work, "float32") | ceiling(work, "bf16")
        yield {"losses": None}
        while True:
            yield {f"{precision} {shape}": rate() for (precision, shape), rate in rates.items()}
    else:
        yield from _steps(name, precision, work, torch.load(path, weights_only=True), warmup)


def _steps(name: str, precision: str, work: Work, given: dict[str, Any], warmup: int) -> Iterator[dict]:
    try:
        step = (
            ours(work, given["weights"], precision)
            if name == "ours"
            else theirs(PEERS[name](work), work, given["weights"], precision)
        )
    except (ImportError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        yield {"skipped": f"{type(error).__name__}: {error}"}
        return
    before_mb, batch = peak_rss_mb(), batches(given)
    yield {"losses": [float(step(next(batch))) for _ in range(warmup)]}
    while True:
        wall, cpu = time.perf_counter(), time.process_time()
        step(next(batch))
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        yield {"cpu_s": cpu, "wall_s": wall, "peak_rss_mb": peak_rss_mb(), "rss_before_mb": before_mb}


def main(arguments: list[str]) -> None:
    name, precision, path, settings = arguments
    told = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a peer prints must not mix with the answers
    options = json.loads(settings)
    work = Work(**options["work"] | {"target_shape": tuple(options["work"]["target_shape"])})
    asked = answers(name, precision, work, path, options["threads"], options["warmup"])
    print(json.dumps(next(asked)), file=told, flush=True)
    for _ in sys.stdin:
        print(json.dumps(next(asked)), file=told, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
