"""The reference step built from a peer's own modules. Shape letters: B images, M target blocks, K tokens."""

from __future__ import annotations

import copy
import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.ours import EMA_DECAY, EPS, LR, WEIGHT_DECAY, Batch, Step, Work


@dataclass
class Peer:
    """A peer's modules and how its own code calls them. Targets go in and predictions come out as [M*B, K, .]."""

    encoder: nn.Module
    predictor: nn.Module
    encode: Callable[[nn.Module, Tensor, Tensor | None], Tensor]  # (encoder, images, context_idx or None)
    predict: Callable[[nn.Module, Tensor, Tensor, list[Tensor]], Tensor]  # (predictor, context, context_idx, targets)
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


OFFICIAL_NAMES = {  # beginnings of our names, encoder and predictor, and the official code's
    "encoder.tokens.embed": "patch_embed.proj",
    "encoder.trunk.": "",
    "predictor.embed": "predictor_embed",
    "predictor.blocks": "predictor_blocks",
    "predictor.norm": "predictor_norm",
    "predictor.out": "predictor_proj",
    "predictor.mask_token": "mask_token",
}


def official_weights(weights: dict[str, Tensor], work: Work) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Our weights under the official code's names and in its shapes, encoder and predictor."""
    encoder = {"pos_embed": weights["position"][None]}
    predictor = {"predictor_pos_embed": weights["predictor_position"][None]}
    for name, value in weights.items():
        start = next((old for old in OFFICIAL_NAMES if name.startswith(old)), None)
        if start is None:
            continue
        part = encoder if name.startswith("encoder.") else predictor
        part[OFFICIAL_NAMES[start] + name.removeprefix(start)] = value
    encoder["patch_embed.proj.weight"] = encoder["patch_embed.proj.weight"].unflatten(1, (3, work.patch, work.patch))
    predictor["mask_token"] = predictor["mask_token"][None, None]
    return encoder, predictor


def load_ours(module: nn.Module, given: dict[str, Tensor], names: dict[str, str], unused: tuple[str, ...]) -> None:
    """Copies our weights into a peer's module. Raises ValueError unless they are all that it has, `unused` apart."""
    state = {}
    for name, value in given.items():
        start = next((old for old in names if name.startswith(old)), None)
        state[name if start is None else names[start] + name.removeprefix(start)] = value
    missing, unknown = module.load_state_dict(state, strict=False)
    if unknown or set(missing) - set(unused):
        extra = sorted(set(missing) - set(unused))
        raise ValueError(f"this version's weights differ from the reference: misses {unknown}, has besides {extra}")


def theirs(peer: Peer, work: Work, weights: dict[str, Tensor], precision: str) -> Step:
    """The reference step from a peer's modules: what I-JEPA's training loop does, with AdamW as these peers call it."""
    given = official_weights(weights, work)
    for module, values, names in zip((peer.encoder, peer.predictor), given, peer.names, strict=True):
        load_ours(module, values, names, peer.unused)
    target_encoder = copy.deepcopy(peer.encoder).requires_grad_(False)
    optimizer = _optimizer(peer)

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


def _optimizer(peer: Peer) -> torch.optim.AdamW:
    """AdamW; no weight decay on vectors and mask tokens."""
    decayed, spared = [], []
    for module in (peer.encoder, peer.predictor):
        for name, p in module.named_parameters():
            if p.requires_grad:
                (spared if p.ndim <= 1 or "mask_token" in name else decayed).append(p)
    groups = [{"params": decayed}, {"params": spared, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=LR, weight_decay=WEIGHT_DECAY)
