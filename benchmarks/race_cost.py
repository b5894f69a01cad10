"""What one training step of every recipe of the race costs, on this machine: `python -m jepa_lab bench --race --cost`.

Runs of the race take hours and may lie on several machines; their seconds cannot be compared. Here all recipes live in
one process, and in each round every one of them takes a few steps, in random order, so that the machine's other work
falls on all alike. CPU seconds of batches, masks, both encoders, predictor, optimiser and EMA; the median over rounds
counts.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median

from benchmarks.step import processor, version
from jepa_lab import records
from jepa_lab.papers.predictors import race

ROUNDS, STEPS = 15, 4


def measure(steps: Mapping[str, Callable[[], None]], rounds: int, each: int) -> dict[str, list[float]]:
    """CPU seconds of one step by recipe, one number a round; `steps`: by recipe, a function that trains one step."""
    seconds = {name: [] for name in steps}

    def take(name: str) -> float:
        began = time.process_time()
        for _ in range(each):
            steps[name]()
        return (time.process_time() - began) / each

    for name in steps:
        take(name)  # warm-up
    for _ in range(rounds):
        for name in random.sample(list(steps), len(steps)):
            seconds[name].append(take(name))
    return seconds


def record(
    chapter: str,
    preset: str,
    steps: Mapping[str, Callable[[], None]],
    out: Path,
    rounds: int = ROUNDS,
    each: int = STEPS,
) -> Path:
    """Measure all recipes and save one record, which replaces that of an earlier measurement on the same processor."""
    machine = processor()
    settings = {
        "rounds": rounds,
        "steps_a_round": each,
        "recipes": list(steps),
        "machine": machine,
        "lightly": version("lightly"),
    }
    entry = records.start(chapter, preset=preset, seed=0, config=settings, device=machine, out=out)
    entry.value("load before", os.getloadavg()[0])
    for name, seconds in measure(steps, rounds, each).items():
        entry.series(race.COST + name, range(rounds), seconds)
        entry.value(race.COST + name, median(seconds))
        print(f"{name}: {1000 * median(seconds):.1f} ms a step", file=sys.stderr, flush=True)
    entry.value("load after", os.getloadavg()[0])
    return entry.save()
