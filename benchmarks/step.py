"""`python -m jepa_lab bench`: samples per CPU second of the reference step, ours and the peers' in one run.

Each contender lives in a process of its own. After a warm-up the rounds begin: in each every contender makes one step
and the matrix products run once, in random order, so that what else the machine does falls on all alike. Compare
ratios within a run only.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from benchmarks.ours import Work
from benchmarks.peers import PEERS
from benchmarks.step_text import text
from jepa_lab import records

SIZES = {
    "192": Work(),
    "96": Work(width=96, depth=4, heads=3, predictor_width=64, predictor_depth=2, predictor_heads=2),
}
ROOT = Path(__file__).resolve().parent.parent


def flops_per_sample(work: Work, ours: bool = True) -> dict[str, int]:
    """Floating-point operations of the reference step's matrix products for one image, counted from the shapes.

    A product of [a, b] and [b, c] is 2abc. A block on N tokens of width D costs N(24 D^2 + 4ND): qkv 6 D^2, output
    2 D^2, the two of the MLP 16 D^2, scores and weighted sum 4ND. Backward is twice forward, except at the patch
    embedding, whose input needs no gradient. Elementwise work, norms and the optimiser count nothing.

    Ours computes less: only the context's patches are embedded for it, and the predictor's last block computes its
    queries
    alone, and of the context only keys and values, 4 D^2. Peers embed all patches and run that block in full.
    """
    tokens, context, hidden = work.grid[0] * work.grid[1], work.num_context, work.target_shape[0] * work.target_shape[1]
    width, narrow = work.width, work.predictor_width

    def blocks(count: int, size: int, depth: int) -> int:
        return depth * count * (24 * size**2 + 4 * count * size)

    last = (
        hidden * (24 * narrow**2 + 4 * (context + hidden) * narrow) + context * 4 * narrow**2
        if ours
        else blocks(context + hidden, narrow, 1)
    )
    embed, embedded = 2 * 3 * work.patch**2 * width, context if ours else tokens
    predicted = work.num_targets * (
        blocks(context + hidden, narrow, work.predictor_depth - 1) + last + 2 * hidden * narrow * width
    )
    return {
        "target forward": tokens * embed + blocks(tokens, width, work.depth),
        "context forward and backward": 2 * embedded * embed + 3 * blocks(context, width, work.depth),
        "predictor forward and backward": 3 * (2 * context * width * narrow + predicted),
    }


class Child:
    """A contender in its own process; it answers one JSON line to each line it gets."""

    def __init__(self, name: str, precision: str, path: Path, settings: dict):
        self.name, self.precision = name, precision
        threads = str(settings["threads"])
        environment = os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        command = [sys.executable, "-m", "benchmarks.contender", name, precision, str(path), json.dumps(settings)]
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  (closed by `end`)
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True
        )

    def answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            self.errors.seek(0)
            raise RuntimeError(f"the process of {self.name} ({self.precision}) ended:\n{self.errors.read()[-2000:]}")
        return json.loads(line)

    def step(self) -> dict:
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.answer()

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdin.close(), self.process.stdout.close(), self.errors.close()


def measure(work: Work, rounds: int, threads: int, warmup: int, only: list[str]) -> dict:
    """All that was measured: answers by (contender, precision), rates of the ceilings, skipped peers with reasons."""
    settings = {"work": asdict(work), "threads": threads, "warmup": warmup}
    children: list[Child] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "inputs.pt"

        def begin(name: str, precision: str) -> tuple[Child, dict]:
            children.append(Child(name, precision, path, settings))
            return children[-1], children[-1].answer()

        try:
            prepared = begin("inputs", "float32")[1]
            skipped, racing, losses, steps = {}, [], {}, {}
            for name in ["ceiling", "ours", *PEERS]:
                for precision in ("float32", "bf16") if name != "ceiling" else ("both",):
                    if name in skipped or (only and name not in only):
                        continue
                    child, first = begin(name, precision)
                    if "skipped" in first:
                        skipped[name] = first["skipped"]
                        continue
                    racing.append(child)
                    losses[name, precision] = first.get("losses")
            for _ in range(rounds):
                for child in random.sample(racing, len(racing)):
                    steps.setdefault((child.name, child.precision), []).append(child.step())
        finally:
            for child in children:
                child.end()
    return {"steps": steps, "losses": losses, "skipped": skipped} | prepared


def best_rates(steps: dict) -> dict[str, dict]:
    """The ceiling at each precision: the fastest matrix product of the run, in GFLOP per CPU second."""
    best, found = {}, {}
    for rates in steps.get(("ceiling", "both"), []):
        for product, rate in rates.items():
            best[product] = max(rate, best.get(product, 0.0))
    for precision in ("float32", "bf16"):
        rates = {
            product.removeprefix(f"{precision} "): rate
            for product, rate in best.items()
            if product.startswith(precision)
        }
        if rates:
            found[precision] = {
                "gflop_per_cpu_s": max(rates.values()),
                "found_at": max(rates, key=rates.get),
                "all": rates,
            }
    return found


def table(measured: dict, work: Work) -> list[dict]:
    """One row for each contender and precision, fastest first."""
    ceilings, rows = best_rates(measured["steps"]), []
    for (name, precision), answers in measured["steps"].items():
        if name == "ceiling":
            continue
        rates = [work.batch_size / answer["cpu_s"] for answer in answers]
        top, flops = (
            ceilings.get(precision, {}).get("gflop_per_cpu_s"),
            sum(flops_per_sample(work, name == "ours").values()),
        )
        rows.append(
            {
                "contender": name,
                "precision": precision,
                "as_shipped": name == "ours" or precision == "float32",
                "samples_per_cpu_s": max(rates),
                "samples_per_cpu_s_median": statistics.median(rates),
                "samples_per_wall_s": work.batch_size / min(answer["wall_s"] for answer in answers),
                "share_of_ceiling": max(rates) * flops / 1e9 / top if top else None,
                "peak_rss_mb": answers[-1]["peak_rss_mb"],
                "step_rss_mb": answers[-1]["peak_rss_mb"] - answers[-1]["rss_before_mb"],
                "losses": measured["losses"][name, precision],
            }
        )
    return sorted(rows, key=lambda row: -row["samples_per_cpu_s"])


def lead(measured: dict, rows: list[dict], precisions: tuple[str, ...]) -> dict | None:
    """Our best row over the best peer's at these precisions: by best step, and the median over rounds of the ratio."""
    ours = [row for row in rows if row["contender"] == "ours"]
    peers = [row for row in rows if row["contender"] != "ours" and row["precision"] in precisions]
    if not ours or not peers:
        return None

    def seconds(row: dict) -> list[float]:
        return [answer["cpu_s"] for answer in measured["steps"][row["contender"], row["precision"]]]

    pairs = [statistics.median(b / a for a, b in zip(seconds(ours[0]), seconds(peer))) for peer in peers]
    return {
        "peer": peers[0]["contender"],
        "best": ours[0]["samples_per_cpu_s"] / peers[0]["samples_per_cpu_s"],
        "median": min(pairs),
    }


def same_work(rows: list[dict]) -> float | None:
    """Largest relative difference between a float32 peer's first losses and ours: near 0 for equal work."""
    first = {row["contender"]: row["losses"] for row in rows if row["precision"] == "float32"}
    ours = first.pop("ours", None)
    if not ours or not first:
        return None
    return max(abs(a - b) / abs(a) for losses in first.values() for a, b in zip(ours, losses, strict=True))


def version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def processor() -> str:
    return f"cpu: {records.processor()}"


def report(work: Work, rounds: int, threads: int, warmup: int = 3, only: list[str] = ()) -> dict:
    """Measures, and returns what `--json` prints."""
    before = os.getloadavg()
    measured = measure(work, rounds, threads, warmup, list(only))
    rows = table(measured, work)
    shipped, autocast = lead(measured, rows, ("float32",)), lead(measured, rows, ("bf16",))
    ours = [work.batch_size / row["samples_per_cpu_s"] for row in rows if row["contender"] == "ours"]
    return {
        "rows": rows,
        "ratio_vs_best_peer_as_shipped": shipped and shipped["best"],
        "ratio_vs_best_peer_bf16": autocast and autocast["best"],
        "leads": {"as_shipped": shipped, "bf16": autocast},
        "device": processor(),
        "threads": threads,
        "load": {"before": before, "after": os.getloadavg()},
        "work": asdict(work),
        "mflop_per_sample": {part: count / 1e6 for part, count in flops_per_sample(work).items()},
        "mflop_per_sample_of_peers": {part: count / 1e6 for part, count in flops_per_sample(work, ours=False).items()},
        "ceilings": best_rates(measured["steps"]),
        "largest_loss_difference": same_work(rows),
        "preparation_share": measured["preparation_s"] / min(ours) if ours else None,
        "import_s": measured["import_s"],
        "skipped": measured["skipped"],
        "rounds": rounds,
        "versions": {name: version(name) for name in ("torch", "timm", "lightly", "simulusion", "pyjepa")},
    }


def main(options) -> int:
    found = report(SIZES[options.size], options.rounds, options.threads, only=options.only)
    print(json.dumps(found, indent=1) if options.json else text(found))
    return 0
