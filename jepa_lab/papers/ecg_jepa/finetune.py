"""Labelled training on crops in time: a frozen encoder with an attentive head, fine-tuning, two stages, from scratch.

The paper's four evaluations differ in what they start from, what they train and which head they have; the loop is one.
A crop is a stretch of tokens, encoded with their *true* positions, in training and in test alike, as the context of the
pre-training was. (The paper's crops always carry the positions of the record's beginning.) Test: crops at a fixed
stride over the whole record, logits averaged.
Shape letters: B batch, N tokens, C tokens of a crop, P numbers per token, D width, H heads, L labels, n m records.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from jepa_lab import train
from jepa_lab.encoders import Encoder, init_linear
from jepa_lab.papers.ecg_jepa import multilabel

ToBatch = Callable[[Tensor], Tensor]


class RegisterHead(nn.Module):
    """One linear map of the register's latent: the paper's head for fine-tuning."""

    def __init__(self, width: int, num_labels: int):
        super().__init__()
        self.out = nn.Linear(width, num_labels)
        init_linear(self.out)

    def forward(self, latents_BND: Float[Tensor, "B N D"]) -> Float[Tensor, "B L"]:
        return self.out(latents_BND[:, 0])


class AttentiveHead(nn.Module):
    """Learned queries, one per head, read register and tokens; one linear map turns what they read into logits.

    The paper's "linear" head: cross-attention with one query whose output projection gives the classes. The key map is
    part of the query and the value map part of the last one, so neither is formed (as in probes.AttentiveFit).
    """

    def __init__(self, width: int, num_labels: int, heads: int):
        super().__init__()
        self.query_HD = nn.Parameter(torch.randn(heads, width) / width**0.5)
        self.out = nn.Linear(heads * width, num_labels)
        nn.init.zeros_(self.out.weight), nn.init.zeros_(self.out.bias)

    def forward(self, latents_BND: Float[Tensor, "B N D"]) -> Float[Tensor, "B L"]:
        attention_BHN = einsum(self.query_HD, latents_BND, "h d, b n d -> b h n").softmax(dim=-1)
        return self.out(rearrange(attention_BHN @ latents_BND, "b h d -> b (h d)"))


class Classifier(nn.Module):
    """Encoder and head."""

    def __init__(self, encoder: Encoder, head: nn.Module):
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(self, patches_BNP: Float[Tensor, "B N P"], idx_BC: Int64[Tensor, "B C"]) -> Float[Tensor, "B L"]:
        """Logits from the tokens `idx_BC` alone."""
        return self.head(torch.cat(self.encoder.latents(patches_BNP, idx_BC), dim=1))


@dataclass(frozen=True)
class Recipe:
    """How labels train; `frozen` leaves the encoder as it is."""

    num_steps: int
    lr: float
    batch_size: int = 32
    frozen: bool = False
    weight_decay: float = 0.01
    crop: int = 5  # tokens; paper: 2.5 s
    stride: int = 2  # tokens between two crops of a test record; paper: 1.25 s
    checks: int = 3  # looks at the validation records, evenly over the steps; the best one is kept


def random_crops(num_tokens: int, crop: int, batch_size: int, generator: torch.Generator) -> Int64[Tensor, "B C"]:
    """Token indices of one random stretch per record."""
    start_B = torch.randint(num_tokens - crop + 1, (batch_size,), generator=generator)
    return start_B[:, None] + torch.arange(crop)


@torch.no_grad()
def predict(classifier: Classifier, signals: Tensor, to_batch: ToBatch, crop: int, stride: int) -> Float[Tensor, "n L"]:
    """Logits of whole records: the average over crops that begin every `stride` tokens (paper: seven of 2.5 s, every
    1.25 s).
    """
    found = []
    for part in signals.split(200):
        patches_BNP = to_batch(part)
        starts = range(0, patches_BNP.shape[1] - crop + 1, stride)
        stretches = [torch.arange(s, s + crop, device=patches_BNP.device).expand(len(part), -1) for s in starts]
        found.append(torch.stack([classifier(patches_BNP, idx_BC) for idx_BC in stretches]).mean(dim=0))
    return torch.cat(found)


def fit(
    classifier: Classifier,
    recipe: Recipe,
    signals: Tensor,
    labels: Bool[Tensor, "n L"],
    to_batch: ToBatch,
    validation: tuple[Tensor, Bool[Tensor, "m L"]],
    seed: int,
) -> tuple[Classifier, dict[str, list[float]]]:
    """Train on random crops with binary cross-entropy; the classifier of the best validation macro-AUC, and the curve.

    The given classifier is not changed. Learning rate: a tenth of the steps of warm-up, then cosine to a hundredth.
    Raises ValueError when a crop is longer than the record.
    """
    device, generator = signals.device, torch.Generator().manual_seed(seed)
    num_tokens = classifier.encoder.grid[0]
    if not 1 <= recipe.crop <= num_tokens:
        raise ValueError(f"a crop of {recipe.crop} tokens does not fit in a record of {num_tokens}")
    classifier = copy.deepcopy(classifier).to(device).requires_grad_(True)
    classifier.encoder.requires_grad_(not recipe.frozen)
    trained = [p for p in classifier.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True)
    rates = train.Config(num_steps=recipe.num_steps, lr=recipe.lr)
    best, curve = classifier, {"step": [], "auc": []}
    looks = {round(recipe.num_steps * (i + 1) / recipe.checks) for i in range(recipe.checks)}
    for step in range(1, recipe.num_steps + 1):
        idx_B = torch.randint(len(signals), (recipe.batch_size,), generator=generator)
        idx_BC = random_crops(num_tokens, recipe.crop, recipe.batch_size, generator).to(device)
        loss = F.binary_cross_entropy_with_logits(
            classifier(to_batch(signals[idx_B.to(device)]), idx_BC), labels[idx_B.to(device)].float()
        )
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = train.learning_rate(step - 1, rates)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step in looks:
            auc = float(
                multilabel.macro_auc(
                    predict(classifier, validation[0], to_batch, recipe.crop, recipe.stride), validation[1]
                )
            )
            best = copy.deepcopy(classifier) if auc > max(curve["auc"], default=0.0) else best
            curve["step"].append(step), curve["auc"].append(auc)
    return best, curve
