"""What tests/test_every_paper.py needs of chapter 10, which trains nothing with `fit`."""

from jepa_lab.experiment import Arm
from jepa_lab.papers.implicit_bias import experiments, extensions, paper

TOLERANCE = 1e-6  # relative, of golden numbers on other kinds of computers

EXPERIMENTS = (
    experiments.depth_sweep,
    experiments.noisy_features,
    experiments.random_start,
    extensions.ema_target,
)


def arms() -> tuple[paper.Config, dict[str, Arm]]:
    return paper.preset("smoke"), {}


def numbers(device: str = "cpu") -> dict[str, list[float]]:
    """Values and baselines of the simulated claims, by experiment."""
    cfg = paper.preset("smoke")
    measured = {experiment.__name__: experiment(cfg, 0, device) for experiment in EXPERIMENTS}
    return {name: [number for pair in m.claims.values() for number in pair] for name, m in measured.items()}


def paper_size() -> dict:
    """Nothing: the paper's networks are linear and of any size."""
    return {}
