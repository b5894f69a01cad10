"""Six coming papers in miniature: what each needs from the core, in the fewest lines. Nothing here is a result.

`MINIATURES` maps a paper to (task, objective, build). All run through the same `train.fit`.
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional as F

from jepa_lab import losses, masks
from jepa_lab.encoders import Encoder, TokenEncoder, Trunk
from jepa_lab.losses import gather_blocks
from jepa_lab.objectives import JEPA, jepa_objective, predict, targets
from jepa_lab.predictors import Predictor
from jepa_lab.tasks import TokenTask

GRID, NUM, WIDTH = (4, 4), 24, 16


def made_up(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def encoder(patch_dim=4):
    return Encoder(GRID, patch_dim, WIDTH, 1, 2)


def predictor(out_dim=WIDTH):
    return Predictor(GRID, WIDTH, 8, 1, 2, out_dim)


def plain_model():
    return JEPA(encoder(), predictor())


class Parts(nn.Module):
    """Modules by name, without a target encoder."""

    def __init__(self, **modules):
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)


@dataclass(frozen=True)
class Data:
    """What every miniature's task holds."""

    samples: Tensor
    second: Tensor

    @property
    def device(self):
        return self.samples.device

    def __len__(self):
        return len(self.samples)


# SAR-JEPA: several windows an image, fixed targets (gradient images), no EMA


class Windows(Data):
    def draw(self, idx_B, generator):
        return masks.local_windows(GRID, len(idx_B), generator, window=3, num_windows=2, num_hidden=3)

    def load(self, idx_b, drawn):
        rows = idx_b.repeat_interleave(2)  # row b * 2 + w is window w of image b
        return self.samples[rows], self.second[rows]


def sar_objective(model, batch, drawn):
    patches_BNP, gradients_BNG = batch
    return losses.l2(predict(model, patches_BNP, drawn), gather_blocks(gradients_BNG, drawn.target_idx))


def sar_model():
    return Parts(encoder=encoder(), predictor=predictor(out_dim=3))


# AD-L-JEPA: masks from the batch's occupancy, two cosine losses and a variance term


class Lidar(Data):
    def draw(self, idx_B, generator):
        occupied = self.second[idx_B]
        return masks.bev_cells(GRID, len(idx_B), generator, occupied=occupied, num_hidden=8), occupied

    def load(self, idx_b, drawn):
        return self.samples[idx_b]


def lidar_objective(model, cells_BNP, drawn):
    hidden, occupied_BHW = drawn
    target_BMKD = targets(model, cells_BNP, hidden)
    distance_BK = 1 - F.cosine_similarity(predict(model, cells_BNP, hidden), target_BMKD, dim=-1)[:, 0]
    full_BK = rearrange(occupied_BHW, "b h w -> b (h w)").gather(1, hidden.target_idx[:, 0])
    spread = losses.variance(rearrange(model.encoder(cells_BNP), "b n d -> (b n) d"))
    full, empty = (distance_BK * full_BK).mean(), (distance_BK * ~full_BK).mean()
    return full + empty + spread, {"hidden full": full, "hidden empty": empty, "variance": spread}


# T-JEPA: a table's columns as tokens, numeric and categorical, several target subsets


class Columns(nn.Module):
    """One token a column: its name, plus its value times a direction or the embedding of its category."""

    def __init__(self):
        super().__init__()
        self.name_ND, self.direction_ND = nn.Parameter(made_up(6, WIDTH)), nn.Parameter(made_up(6, WIDTH, seed=1))
        self.category = nn.Embedding(5, WIDTH)

    def forward(self, row, idx_BC=None):
        numbers_B6, categories_B2 = row
        tokens = torch.cat([numbers_B6[..., None] * self.direction_ND, self.category(categories_B2)], dim=1)
        tokens = tokens + F.pad(self.name_ND, (0, 0, 0, 2))
        return tokens if idx_BC is None else tokens.gather(1, repeat(idx_BC, "b c -> b c d", d=WIDTH))


class Table(Data):
    def draw(self, idx_B, generator):
        return masks.columns(8, len(idx_B), generator, num_targets=3, target_size=2, num_context=4)

    def load(self, idx_b, drawn):
        return self.samples[idx_b], self.second[idx_b]


def table_model():
    columns = TokenEncoder(Columns(), Trunk(WIDTH, 1, 2), WIDTH, num_registers=1)
    return JEPA(columns, Predictor((8,), WIDTH, 8, 1, 2, WIDTH))


# DMT-JEPA: an aggregation head with an EMA of its own


def dmt_objective(model, patches_BNP, drawn):
    latents_BMKD = predict(model, patches_BNP, drawn)
    with torch.no_grad():
        target_BMKD = model.target_head(targets(model, patches_BNP, drawn))
    return losses.smooth_l1(model.head(latents_BMKD), target_BMKD)


def dmt_model():
    jepa, head, target_head = JEPA(encoder(), predictor()), nn.Linear(WIDTH, 8), nn.Linear(WIDTH, 8)
    target_head.load_state_dict(head.state_dict())
    jepa.head, jepa.target_head = head, target_head.requires_grad_(False)
    return jepa


# seq-JEPA: views rendered from drawn parameters, actions between them, BatchNorm


class Views(Data):
    def draw(self, idx_B, generator):
        return torch.rand(len(idx_B), 3, 1, generator=generator)  # brightness of two seen views and the next

    def load(self, idx_b, views_b31):
        rendered = self.samples[idx_b][:, None, None] * (0.5 + views_b31[..., None, None])
        return rendered, views_b31.diff(dim=1)


def sequence_objective(model, batch, drawn):
    views_B31HW, actions_B2A = batch
    seen = torch.stack([model.encoder(views_B31HW[:, i]) for i in range(2)], dim=1)
    pred_BD = model.predictor(torch.cat([seen.mean(1), actions_B2A.flatten(1)], dim=1))
    with torch.no_grad():
        target_BD = model.target_encoder(views_B31HW[:, 2])
    return (1 - F.cosine_similarity(pred_BD, target_BD)).mean()


def convolutions():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, WIDTH))


def sequence_model():
    mlp = nn.Sequential(nn.Linear(WIDTH + 2, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, WIDTH))
    return JEPA(convolutions(), mlp)


# ACT-JEPA: padded chunks of actions and future latents, two losses; the EMA pair lies inside a larger model


class Drive(NamedTuple):
    observation_BO: Tensor
    chunk_BTA: Tensor
    valid_BT: Tensor
    future_BTS: Tensor


class Chunks(Data):
    def draw(self, idx_B, generator):
        return None

    def load(self, idx_b, drawn):
        chunk, length = self.samples[idx_b], self.second[idx_b]
        return Drive(chunk[:, 0], chunk, torch.arange(5) < length[:, None], chunk.cumsum(1))


def act_objective(model, drive, drawn):
    queries_BTD = model.state.encoder(drive.observation_BO)[:, None] + model.query_TD
    with torch.no_grad():
        target_BTD = model.state.target_encoder(drive.future_BTS)
    gaps = {"actions": model.act(queries_BTD) - drive.chunk_BTA, "latents": model.imagine(queries_BTD) - target_BTD}
    length_B1 = drive.valid_BT.sum(1, keepdim=True)
    parts = {name: ((gap.abs().mean(-1) * drive.valid_BT) / length_B1).sum(1).mean() for name, gap in gaps.items()}
    return parts["actions"] + parts["latents"], parts


def act_model():
    state = JEPA(nn.Linear(3, WIDTH), nn.Identity())
    policy = Parts(state=state, act=nn.Linear(WIDTH, 3), imagine=nn.Linear(WIDTH, WIDTH))
    policy.query_TD = nn.Parameter(made_up(5, WIDTH))
    return policy


BLOCKS = partial(masks.random_tokens, GRID, num_targets=2, target_size=3, num_context=8)
MINIATURES = {
    "SAR-JEPA": (Windows(made_up(NUM, 16, 4), made_up(NUM, 16, 3)), sar_objective, sar_model),
    "AD-L-JEPA": (Lidar(made_up(NUM, 16, 4), made_up(NUM, 4, 4) > 0), lidar_objective, plain_model),
    "T-JEPA": (
        Table(made_up(NUM, 6), (made_up(NUM, 2).abs() * 2).long().clamp(max=4)),
        partial(jepa_objective, distance=losses.l2),
        table_model,
    ),
    "DMT-JEPA": (TokenTask(made_up(NUM, 16, 4), torch.Tensor.float, BLOCKS), dmt_objective, dmt_model),
    "seq-JEPA": (Views(made_up(NUM, 4, 4), made_up(NUM)), sequence_objective, sequence_model),
    "ACT-JEPA": (Chunks(made_up(NUM, 5, 3), torch.arange(NUM) % 5 + 1), act_objective, act_model),
}
