"""lightly's I-JEPA in the race: its own modules, mask collator and example (examples/pytorch/ijepa.py of 1.6.0).

A peer trains with its own code, so this file holds its step and its loop.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial

import torch
from einops import rearrange
from torch import Tensor, nn

from jepa_lab import configs, schedules, train
from jepa_lab.image_world import ImageData

SIDE, PATCH, WIDTH, DEPTH, HEADS = 28, 4, 96, 4, 3


@dataclass(frozen=True)
class LightlyRecipe:
    """The settings of lightly's I-JEPA example and its modules' defaults; its predictor is as large as the encoder."""

    name: str = "lightly"
    num_steps: int = 8000
    batch_size: int = 10
    lr: float = 1.5e-4  # constant
    weight_decay: float = 0.01  # AdamW's default, on everything
    ema_decay: tuple[float, float] = (0.996, 1.0)  # linear
    predictor: tuple[int, int, int] = (WIDTH, DEPTH, HEADS)
    precision: str = "float32"


class Lightly:
    """lightly's encoder, predictor and target encoder on images of the race, one step at a time.

    Raises ImportError, which says what is missing, where lightly is not installed.
    """

    def __init__(self, recipe: LightlyRecipe, data: ImageData, seed: int):
        from lightly.data.ijepa_collate import IJEPAMaskCollator

        torch.manual_seed(seed)  # its start and its collator draw from the global generator
        self.recipe, self.data, self.steps_done = recipe, data, 0
        self.encoder, self.predictor = _modules(recipe)
        self.target_encoder = copy.deepcopy(self.encoder)
        self.collate = IJEPAMaskCollator(SIDE, PATCH)
        trained = [*self.encoder.parameters(), *self.predictor.parameters()]
        self.optimizer = torch.optim.AdamW(trained, lr=recipe.lr, weight_decay=recipe.weight_decay)
        self.batches = train.batch_indices(len(data.patches), recipe.batch_size, seed)

    def step(self) -> None:
        """One step of lightly's example."""
        from lightly.models import utils

        picture_B1HW, contexts, targets = self.collate(list(self._pictures(self.data.patches[next(self.batches)])))
        with torch.no_grad():
            latents = nn.functional.layer_norm(self.target_encoder.encode(picture_B1HW), (WIDTH,))
            target = utils.apply_masks(latents, targets)
        context = self.encoder.encode(picture_B1HW, idx_keep=contexts[0])
        loss = nn.functional.smooth_l1_loss(self.predictor(context, contexts, targets), target)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        decay = schedules.linear(self.steps_done, self.recipe.num_steps, self.recipe.ema_decay)
        train.ema_update(self.target_encoder, self.encoder, decay)
        self.steps_done += 1

    @torch.no_grad()
    def features(self, patches: Tensor) -> Tensor:
        """Frozen features: the mean of the target encoder's latents."""
        parts = [self.target_encoder.encode(self._pictures(part)).mean(dim=1) for part in patches.split(250)]
        return torch.cat(parts)

    def fit(self, at: Mapping[int, Callable[[Lightly], None]]) -> None:
        """Train to the last step; `at` as in `train.fit`."""
        while self.steps_done < self.recipe.num_steps:
            if self.steps_done in at:
                at[self.steps_done](self)
            self.step()

    def _pictures(self, patches: Tensor) -> Tensor:
        return rearrange(self.data.to_batch(patches), "b (h w) (p q) -> b 1 (h p) (w q)", h=self.data.grid[0], p=PATCH)


def _modules(recipe: LightlyRecipe) -> tuple[nn.Module, nn.Module]:
    from lightly.models.modules import IJEPAPredictorTIMM, MaskedVisionTransformerTIMM
    from timm.models.vision_transformer import VisionTransformer

    vit = VisionTransformer(
        SIDE,
        PATCH,
        in_chans=1,
        num_classes=0,
        class_token=False,
        global_pool="",
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        embed_dim=WIDTH,
        depth=DEPTH,
        num_heads=HEADS,
    )
    width, depth, heads = recipe.predictor
    predictor = IJEPAPredictorTIMM(
        num_patches=(SIDE // PATCH) ** 2, depth=depth, mlp_dim=WIDTH, predictor_embed_dim=width, num_heads=heads
    )
    return MaskedVisionTransformerTIMM(vit), predictor


def settings(recipe: LightlyRecipe) -> dict:
    """The recipe as its records describe it."""
    described = asdict(recipe)
    return configs.plain({"recipe": described.pop("name"), **described})
