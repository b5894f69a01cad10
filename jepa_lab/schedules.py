"""Schedules: functions of the step, so that a resumed run replays nothing."""

import math


def linear(step: int, num_steps: int, ends: tuple[float, float]) -> float:
    """The straight line from the first end at step 0 to the second at `num_steps`."""
    return ends[0] + (ends[1] - ends[0]) * step / num_steps


def cosine_schedule(step: int, num_steps: int, ends: tuple[float, float]) -> float:
    """Half a cosine from the first end at step 0 to the second at `num_steps`."""
    return ends[1] + (ends[0] - ends[1]) * 0.5 * (1 + math.cos(math.pi * step / num_steps))


def warmup_hold_cosine(
    step: int, num_steps: int, peak: float, *, warmup: float, hold: float, first: float | None, final: float
) -> float:
    """Learning rate: a straight warm-up to the peak, a hold, then half a cosine.

    warmup: share of the steps. hold: share of the steps after the warm-up. first, final: ends in shares of the peak;
    without `first` the warm-up begins at one step's share of the peak.
    """
    warmup_steps = max(1, round(warmup * num_steps))
    falls_at = warmup_steps + round(hold * (num_steps - warmup_steps))
    if step < warmup_steps and first is None:
        return peak * (step + 1) / warmup_steps
    if step < warmup_steps:
        return linear(step, warmup_steps, (first * peak, peak))
    if step < falls_at:
        return peak
    return cosine_schedule(step - falls_at, max(1, num_steps - falls_at), (peak, final * peak))


def decay_of_memory(memory: float, num_steps: int) -> float:
    """EMA decay of a target that remembers `memory * num_steps` steps: 1 - 1 / (memory * num_steps), at least 0."""
    return max(0.0, 1 - 1 / max(1.0, memory * num_steps))
