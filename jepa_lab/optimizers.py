"""AdamW, and Muon for the matrices of transformer blocks, with a step that a bad batch cannot take."""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor, nn


def make_optimizers(model: nn.Module, cfg) -> list[torch.optim.Optimizer]:
    """AdamW for every trained parameter; with `cfg.optimizer == "muon"` Muon takes the matrices inside modules called
    `blocks` (Jordan et al. 2024, its rate scaled to AdamW's as in Liu et al. 2025), AdamW the rest.

    cfg: a `train.Config`. The group's entry `decayed` says whether weight decay applies to the group.
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    matrices = [name for name, p in trained.items() if cfg.optimizer == "muon" and p.ndim == 2 and _in_blocks(name)]
    spared = without_decay(model)
    rest = [name for name in trained if name not in set(matrices)]
    groups = [
        {"params": [trained[name] for name in rest if name not in spared], "decayed": True},
        {"params": [trained[name] for name in rest if name in spared], "decayed": False, "weight_decay": 0.0},
    ]
    # Only the fused AdamW reads the flag of a bad batch on the device.
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups, lr=0.0, betas=cfg.betas, eps=cfg.eps, fused=True)
    ]
    if matrices:
        optimizers.append(_muon([trained[name] for name in matrices]))
    return optimizers


def without_decay(model: nn.Module) -> set[str]:
    """Names of the parameters that weight decay spares: vectors, and what a module lists in `no_weight_decay()`."""
    spared = {name for name, p in model.named_parameters() if p.ndim <= 1}
    for prefix, module in model.named_modules():
        if hasattr(module, "no_weight_decay"):
            spared |= {f"{prefix}.{name}" if prefix else name for name in module.no_weight_decay()}
    return spared


def _in_blocks(name: str) -> bool:
    return "blocks" in name.split(".")[:-1]


def _muon(matrices: list[Tensor]) -> torch.optim.Optimizer:
    group = {"params": matrices, "decayed": True}
    muon = torch.optim.Muon([group], lr=0.0, adjust_lr_fn="match_rms_adamw")
    for matrix in matrices:  # made here, so that a bad first batch finds a state to restore
        muon.state[matrix]["momentum_buffer"] = torch.zeros_like(matrix)
    return muon


@torch.no_grad()
def step_where(ok: Bool[Tensor, ""], optimizers: list[torch.optim.Optimizer]) -> None:
    """Step every optimiser where the flag `ok` is true; where it is false, weights and optimiser state stay the same.

    The flag stays on the device: nothing waits for it. AdamW's fused kernel reads the flag itself. Muon cannot, so its
    matrices and momenta are copied before the step and copied back after a bad one.
    """
    for optimizer in optimizers:
        if isinstance(optimizer, torch.optim.AdamW):
            optimizer.found_inf = (~ok).float()
            optimizer.step()
        else:
            changing = _changed_by(optimizer)
            before = [tensor.clone() for tensor in changing]
            optimizer.step()
            keep_where(ok, changing, before)


def _changed_by(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    return weights + [value for p in weights for value in optimizer.state[p].values() if isinstance(value, Tensor)]


@torch.no_grad()
def keep_where(ok: Bool[Tensor, ""], tensors: list[Tensor], before: list[Tensor]) -> None:
    """Put `before` back into the tensors where the flag `ok` is false, without reading the flag."""
    for tensor, old in zip(tensors, before):
        tensor.copy_(torch.where(ok, tensor, old))
