"""A small masked JEPA on made-up patches, shared by the tests of the engine and by the programs that they start."""

from functools import partial

import torch

from jepa_lab import masks, train
from jepa_lab.encoders import Encoder
from jepa_lab.objectives import JEPA, jepa_objective
from jepa_lab.predictors import Predictor
from jepa_lab.tasks import TokenTask

GRID, PATCH_DIM, WIDTH = (4, 4), 9, 16
CFG = train.Config(num_steps=12, batch_size=8, log_every=5)
SAMPLER = partial(masks.multi_block, GRID, num_targets=2, target_shapes=[(1, 2), (2, 1)], num_context=6)


def patches(num_samples=40):
    generator = torch.Generator().manual_seed(7)
    return torch.randint(0, 256, (num_samples, 16, PATCH_DIM), dtype=torch.uint8, generator=generator)


def to_batch(part):
    return (part.float() - 128) / 64


TASK = TokenTask(patches(), to_batch, SAMPLER)


def model(seed=0, width=WIDTH, depth=2):
    torch.manual_seed(seed)
    return JEPA(Encoder(GRID, PATCH_DIM, width, depth, 2), Predictor(GRID, width, 8, 1, 2, width))


def moved_model(seed=0):
    """A model whose target encoder is not the encoder, as after some training."""
    jepa = model(seed)
    for p in jepa.target_encoder.parameters():
        p.add_(0.1 * torch.randn_like(p))
    return jepa


def batch(num_samples=4, seed=0):
    return to_batch(patches(num_samples)), SAMPLER(num_samples, torch.Generator().manual_seed(seed))


def fit(cfg=CFG, state=None, task=TASK, objective=jepa_objective, **how):
    state = train.start(moved_model(), cfg, 0) if state is None else state
    return train.fit(state, cfg, task, objective, progress=False, **how)


def weights(state):
    return torch.cat([p.detach().flatten() for p in state.model.parameters()])


def optimizer_tensors(state):
    """Every tensor that the optimisers hold, by optimiser, parameter and name."""
    return {
        (i, parameter, name): tensor
        for i, optimizer in enumerate(state.optimizers)
        for parameter, values in optimizer.state_dict()["state"].items()
        for name, tensor in values.items()
        if isinstance(tensor, torch.Tensor)
    }
