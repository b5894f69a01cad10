"""The deep linear networks as one would first write them: modules, autograd, one network after another.

Shapes: `R` runs, `B` samples, `D` input width.
"""

import time

import torch
from jaxtyping import Float
from torch import Tensor

from jepa_lab.papers.implicit_bias.linear import Nets, balanced_init
from jepa_lab.papers.implicit_bias.nets import descend
from jepa_lab.papers.implicit_bias.pairs import views_of


def descend_by_autograd(
    nets: Nets,
    run: int,
    x_BD: Float[Tensor, "B D"],
    y_BD: Float[Tensor, "B D"],
    step_size: float,
    num_steps: int,
    stop_gradient: bool = True,
) -> list[Tensor]:
    """Weights [W^1 .. W^L, V] of one run after full-batch gradient descent on the pairs, by autograd."""
    starts = [w[run] for w in (*nets.layers, nets.predictor)]
    layers = [torch.nn.Linear(*w.shape, bias=False, dtype=w.dtype, device=w.device) for w in starts]
    for layer, w in zip(layers, starts):
        layer.weight.data.copy_(w)
    encoder, predictor = torch.nn.Sequential(*layers[:-1]), layers[-1]
    for _ in range(num_steps):
        target = encoder(y_BD) if nets.jepa[run] else y_BD
        target = target.detach() if stop_gradient else target
        loss = 0.5 * (predictor(encoder(x_BD)) - target).square().sum(-1).mean()
        loss.backward()
        with torch.no_grad():  # by hand: the first use of torch.optim.SGD would load the compiler
            for layer in layers:
                layer.weight -= step_size * layer.weight.grad
                layer.weight.grad = None
    return [layer.weight.detach() for layer in layers]


def time_both(num_seeds: int = 256, dim: int = 8, depth: int = 3, num_steps: int = 200) -> dict[str, float]:
    """CPU seconds per seed of the autograd loop and of one batched descent on the same 256 pairs, in one process.

    The batched descent needs the data only as second moments and has its gradients written by hand; both make it
    faster, not the batching alone. Also returns the ratio and the largest difference of the trained weights.
    """
    generator = torch.Generator().manual_seed(0)
    seed, num_loops, step_size = torch.arange(num_seeds), 4, 0.05
    rho = torch.linspace(0.5, 0.95, dim, dtype=torch.float64)
    (x_BD,), (y_BD,) = views_of(torch.ones_like(rho), rho).sample(1, 256, generator)
    depths, jepa = torch.full((num_seeds,), depth), torch.ones(num_seeds, dtype=torch.bool)
    nets = balanced_init(jepa, depths, seed, dim, 0.3, generator)
    step_sizes = torch.full((num_seeds,), step_size, dtype=torch.float64)
    for _ in range(2):  # the first round warms both up
        start = time.process_time()
        moments = x_BD.mT @ x_BD / len(x_BD), y_BD.mT @ x_BD / len(x_BD)
        end = descend(nets, moments, step_sizes, num_steps, num_steps).nets
        middle = time.process_time()
        loops = [descend_by_autograd(nets, run, x_BD, y_BD, step_size, num_steps) for run in range(num_loops)]
        loop_s = (time.process_time() - middle) / num_loops
        batched_s = (middle - start) / num_seeds
    differences = [w[:num_loops] - torch.stack(v) for w, v in zip((*end.layers, end.predictor), zip(*loops))]
    return {
        "loop_s_per_seed": loop_s,
        "batched_s_per_seed": batched_s,
        "ratio": loop_s / batched_s,
        "largest_difference": float(torch.stack(differences).abs().max()),
    }
