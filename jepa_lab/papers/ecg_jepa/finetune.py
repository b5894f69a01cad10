"""Labelled training on crops in time: a frozen encoder with an attentive head, fine-tuning, two stages, from scratch.

The paper's four evaluations differ in what they start from, what they train and which head they have; `finetune` runs
all four. A crop is a stretch of tokens, encoded with their *true* positions in training and in test, as the context of
the pre-training was. (The paper's crops always carry the positions of the record's beginning.) Test: crops at a fixed
stride over the whole record, logits averaged.
Shape letters: B batch, b this process's share, N tokens, C tokens of a crop, P numbers per token, D width, H heads,
L labels, n m records.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from jepa_lab import train
from jepa_lab.checkpoints import TrainState
from jepa_lab.encoders import Encoder, init_linear
from jepa_lab.papers.ecg_jepa import multilabel
from jepa_lab.papers.ecg_jepa.config import Config
from jepa_lab.papers.ecg_jepa.scores import Result, judge
from jepa_lab.papers.ecg_jepa.world import ECGData

STAGES = ("head", "all", "second")  # of `learn`, in the order of Config.label_steps and label_lr


# Models


class RegisterHead(nn.Module):
    """One linear map of the register's latent: the paper's head for fine-tuning."""

    def __init__(self, width: int, num_labels: int):
        super().__init__()
        self.out = nn.Linear(width, num_labels)
        init_linear(self.out)

    def forward(self, latents_BND: Float[Tensor, "B N D"]) -> Float[Tensor, "B L"]:
        return self.out(latents_BND[:, 0])


class AttentiveHead(nn.Module):
    """Learned queries, one per head, read register and tokens; one linear map turns the sums into logits.

    The paper's "linear" head: cross-attention with one query whose output projection gives the classes. The key map is
    part of the query and the value map part of the last one, so neither is formed.
    """

    def __init__(self, width: int, num_labels: int, heads: int):
        super().__init__()
        self.query_HD = nn.Parameter(torch.randn(heads, width) / width**0.5)
        self.out = nn.Linear(heads * width, num_labels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

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
        registers_BRD, tokens_BCD = self.encoder.latents(patches_BNP, idx_BC)
        return self.head(torch.cat([registers_BRD, tokens_BCD], dim=1))


def classifier(cfg: Config, data: ECGData, encoder: Encoder, seed: int, attentive: bool = False) -> Classifier:
    """The encoder with a fresh head, the register's linear map or the attentive one; the head depends on the seed."""
    num_labels = len(data.train.label_names)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = AttentiveHead(cfg.width, num_labels, cfg.heads) if attentive else RegisterHead(cfg.width, num_labels)
    return Classifier(encoder, head)


# Training


@dataclass(frozen=True)
class Recipe(train.Config):
    """How labels train; `frozen` leaves the encoder as it is."""

    batch_size: int = 32
    weight_decay: tuple[float, float] = (0.01, 0.01)
    frozen: bool = False
    crop: int = 5  # tokens; paper: 2.5 s
    stride: int = 2  # tokens between two crops of a test record; paper: 1.25 s
    checks: int = 3  # evaluations on the validation records, evenly over the steps; the best classifier is kept


def random_crops(num_tokens: int, crop: int, batch_size: int, generator: torch.Generator) -> Int64[Tensor, "B C"]:
    """Token indices of one random stretch per record."""
    start_B = torch.randint(num_tokens - crop + 1, (batch_size,), generator=generator, device=generator.device)
    return start_B[:, None] + torch.arange(crop, device=generator.device)


@dataclass(frozen=True)
class CropTask:
    """Labelled records, of each of which a step sees one random crop (`tasks.Task`)."""

    signals: Tensor
    labels: Bool[Tensor, "n L"]
    to_batch: Callable[[Tensor], Tensor]
    num_tokens: int
    crop: int

    @property
    def device(self) -> torch.device:
        return self.signals.device

    def __len__(self) -> int:
        return len(self.signals)

    def draw(self, idx_B: Int64[Tensor, " B"], generator: torch.Generator) -> Int64[Tensor, "B C"]:
        return random_crops(self.num_tokens, self.crop, len(idx_B), generator)

    def load(self, idx_b: Int64[Tensor, " b"], idx_bC: Int64[Tensor, "b C"]) -> tuple[Tensor, Tensor]:
        rows = idx_b.to(self.device)
        return self.to_batch(self.signals[rows]), self.labels[rows].float()


def label_objective(model: nn.Module, batch: tuple[Tensor, Tensor], idx_BC: Int64[Tensor, "B C"]) -> Float[Tensor, ""]:
    """Binary cross-entropy of the logits of one crop per record, mean over records and labels."""
    patches_BNP, labels_BL = batch
    return F.binary_cross_entropy_with_logits(model(patches_BNP, idx_BC), labels_BL)


@dataclass
class Selection:
    """The best of the classifiers that `check` was given, by macro-AUC on the validation records; the AUCs of all."""

    data: ECGData
    recipe: Recipe
    best: nn.Module | None = None
    steps: list[int] = field(default_factory=list)
    aucs: list[float] = field(default_factory=list)

    def check(self, state: TrainState) -> None:
        validation = self.data.validation
        logits = predict(state.model, validation.signals, self.data.to_batch, self.recipe.crop, self.recipe.stride)
        auc = float(multilabel.macro_auc(logits, validation.labels))
        if self.best is None or auc > max(self.aucs):
            self.best = copy.deepcopy(state.model)
        self.steps.append(state.step)
        self.aucs.append(auc)


def finetune(start: Classifier, recipe: Recipe, data: ECGData, idx: Int64[Tensor, " m"], seed: int) -> Selection:
    """Train a copy of `start` on crops of the training records `idx`; the best classifier is in the returned selection.

    A batch holds at most as many records as are labelled. Raises ValueError when a crop is longer than the record.
    """
    num_tokens = data.grid[0]
    if not 1 <= recipe.crop <= num_tokens:
        raise ValueError(f"a crop of {recipe.crop} tokens does not fit in a record of {num_tokens}")
    rows = idx.to(data.device)
    task = CropTask(data.train.signals[rows], data.train.labels[rows], data.to_batch, num_tokens, recipe.crop)
    recipe = replace(recipe, batch_size=min(recipe.batch_size, len(task)), log_every=recipe.num_steps)
    model = copy.deepcopy(start).requires_grad_(True)
    model.encoder.requires_grad_(not recipe.frozen)
    state = train.start(model, recipe, seed, data.device)
    selection = Selection(data, recipe)
    steps = {round(recipe.num_steps * i / recipe.checks) for i in range(1, recipe.checks)} - {0}
    at = dict.fromkeys(steps, selection.check)
    train.fit(state, recipe, task, label_objective, at=at, progress=False, compile=False)
    selection.check(state)
    return selection


@torch.no_grad()
def predict(model: nn.Module, signals: Tensor, to_batch: Callable, crop: int, stride: int) -> Float[Tensor, "n L"]:
    """Logits of whole records: the mean over crops that begin every `stride` tokens (paper: 7 crops of 2.5 s)."""
    found = []
    for part in signals.split(200):
        patches_BNP = to_batch(part)
        logits = []
        for first in range(0, patches_BNP.shape[1] - crop + 1, stride):
            idx_C = torch.arange(first, first + crop, device=patches_BNP.device)
            logits.append(model(patches_BNP, idx_C.expand(len(part), -1)))
        found.append(torch.stack(logits).mean(dim=0))
    return torch.cat(found)


def learn(
    cfg: Config, data: ECGData, start: Classifier, idx: Int64[Tensor, " m"], seed: int, stage: str = "all"
) -> tuple[Classifier, Result]:
    """Train on the labels of the training records `idx`; the trained classifier and its scores on whole records.

    stage: "head" leaves the encoder frozen, "all" trains all weights, "second" does so at the lower rate of a second
    stage.
    """
    if stage not in STAGES:
        raise ValueError(f"stage is one of {', '.join(STAGES)}, got {stage!r}")
    place = STAGES.index(stage)
    recipe = Recipe(
        num_steps=cfg.label_steps[place],
        lr=cfg.label_lr[place],
        frozen=stage == "head",
        crop=cfg.crop,
        stride=cfg.stride,
    )
    trained = finetune(start, recipe, data, idx, seed).best
    logits = [
        predict(trained, part.signals, data.to_batch, cfg.crop, cfg.stride) for part in (data.validation, data.test)
    ]
    return trained, judge(data, *logits, seed)
