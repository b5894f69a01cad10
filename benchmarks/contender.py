"""One contender in one process: it trains a step, or times matrix products, each time it is asked."""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from benchmarks.ours import Work, batches, inputs, ours, preparation
from benchmarks.peers import PEERS, theirs

MEASURED_FLOP = 1e10  # per matrix product and measurement, at least one product


def ceiling(work: Work, precision: str) -> dict[tuple[str, str], Callable[[], float]]:
    """Matrix products whose rates are ceilings, by precision and shape; each returns its GFLOP per CPU second."""
    tokens, width = work.batch_size * work.grid[0] * work.grid[1], work.width
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    shapes = [(2048, 2048, 2048), (tokens, width, 3 * width), (tokens, width, 4 * width), (tokens, 4 * width, width)]

    def rate(rows: int, inner: int, columns: int) -> float:
        given, weight = torch.randn(rows, inner).to(dtype), torch.randn(columns, inner).to(dtype)
        F.linear(given, weight)
        start = time.process_time()
        repeats = max(1, round(MEASURED_FLOP / (rows * inner * columns)))
        for _ in range(repeats):
            F.linear(given, weight)
        return repeats * 2e-9 * rows * inner * columns / (time.process_time() - start)

    return {
        (precision, f"{rows} x {inner} x {columns}"): partial(rate, rows, inner, columns)
        for rows, inner, columns in shapes
    }


# The process


def peak_rss_mb() -> float:
    """Largest resident memory of this process so far. Linux's rusage would also count the parent's before exec."""
    status = Path("/proc/self/status")
    if status.is_file():
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) / 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def answers(name: str, precision: str, work: Work, path: str, threads: int, warmup: int) -> Iterator[dict]:
    """The lines that a process prints: first that it is ready, then one measurement for each request."""
    torch.set_num_threads(threads)
    if name == "inputs":
        start = time.process_time()
        importlib.import_module("jepa_lab.train")
        import_s = time.process_time() - start
        torch.save(inputs(work), path)
        yield {"import_s": import_s, "preparation_s": preparation(work)}
    elif name == "ceiling":
        rates = ceiling(work, "float32") | ceiling(work, "bf16")
        yield {"losses": None}
        while True:
            yield {f"{precision} {shape}": rate() for (precision, shape), rate in rates.items()}
    else:
        yield from _steps(name, precision, work, torch.load(path, weights_only=True), warmup)


def _steps(name: str, precision: str, work: Work, given: dict[str, Any], warmup: int) -> Iterator[dict]:
    try:
        if name == "ours":
            step = ours(work, given["weights"], precision)
        else:
            step = theirs(PEERS[name](work), work, given["weights"], precision)
    except (ImportError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        yield {"skipped": f"{type(error).__name__}: {error}"}
        return
    before_mb, batch = peak_rss_mb(), batches(given)
    yield {"losses": [float(step(next(batch))) for _ in range(warmup)]}
    while True:
        wall, cpu = time.perf_counter(), time.process_time()
        step(next(batch))
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        yield {"cpu_s": cpu, "wall_s": wall, "peak_rss_mb": peak_rss_mb(), "rss_before_mb": before_mb}


def main(arguments: list[str]) -> None:
    name, precision, path, settings = arguments
    answer_file = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a peer prints must not mix with the answers
    options = json.loads(settings)
    work = Work(**options["work"] | {"target_shape": tuple(options["work"]["target_shape"])})
    replies = answers(name, precision, work, path, options["threads"], options["warmup"])
    print(json.dumps(next(replies)), file=answer_file, flush=True)
    for _ in sys.stdin:
        print(json.dumps(next(replies)), file=answer_file, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
