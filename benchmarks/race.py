"""Time to quality: core-seconds of training until a linear probe on frozen features reaches a level. Fashion-MNIST.

    python -m benchmarks.race                            # every recipe that has no record yet; hours
    python -m benchmarks.race --recipes ours --seeds 0:5
    python -m benchmarks.race --cost                     # what a step of each recipe costs on this machine; minutes

One encoder for all (28 px, 4-px patches: 7 x 7 tokens; width 96, depth 4, 3 heads), one thread, one probe: multinomial
regression on the mean of the target encoder's latents, fitted on 5,000 images held out from training and scored on
5,000 images of the published test split. Nobody augments. The probe runs untrained and then 36 times, evenly over a
run's steps. The recipes are in `race_recipes` and `race_lightly`; ours is preset "race" of chapter 02, and
`train.fit` trains all but lightly.

Time is steps x cost. A run says how many steps it took to the level; what a step costs is measured for all recipes side
by side on one machine (`race_cost`), as runs lie hours and machines apart. The first table, 6.6 times, compared the
seconds of the runs themselves.

The level is the lowest final accuracy over the five official seeds in float32, so that each of them has a time; the
ratio to `official + bf16` is taken at the level that its own runs set. A run's time is its first evaluation at the
level that the next evaluation confirms (no lower than the level - 0.5 points): `jepa_lab.papers.predictors.race`. These
rules, but for the second ratio, were fixed before the first run. `ours` was tuned on 5,000 validation images cut from
the training images (`--validate`, seeds from 100), never on the test split; the other recipes were not tuned. 1,000
official steps were meant as 10 core-minutes; the five float32 runs took 471 to 537 s.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import race_cost, race_lightly, race_recipes
from benchmarks.race_lightly import Lightly, LightlyRecipe
from benchmarks.race_recipes import OFFICIAL, OFFICIAL_BF16, OURS, OURS_CONFIG, Recipe, ladder
from benchmarks.stepper import stepper
from jepa_lab import configs, experiment, image_world, records
from jepa_lab.data import images
from jepa_lab.image_world import ImageData
from jepa_lab.papers.predictors import race
from jepa_lab.probes import linear as probes
from jepa_lab.probes.features import embed

CHAPTER, PRESET, SMOKE = "02_predictors", "race", "race-smoke"  # costs: these + "-cost"
EVALUATIONS, LADDER_EVALUATIONS = 36, 12  # per run, evenly over its steps
RECIPES = (OFFICIAL, OFFICIAL_BF16, LightlyRecipe(), OURS)
AnyRecipe = Recipe | LightlyRecipe


# The same images and the same probe for everybody


def load(validate: bool = False, num_labelled: int = 5000) -> ImageData:
    """Fashion-MNIST cut as chapter 01 cuts it; with `validate` scored on images cut from the training images."""
    cfg = replace(OURS_CONFIG, probe_train=num_labelled, probe_test=num_labelled)
    unlabelled, probe, scored = image_world.garments(cfg)
    if validate:
        unlabelled, scored = images.split(unlabelled, (len(unlabelled) - num_labelled, num_labelled), seed=0)
    return image_world.cut("centred", (unlabelled, probe, scored), cfg.patch, "cpu")


def accuracy(data: ImageData, feature_fn: Callable[[Tensor], Tensor]) -> float:
    """Accuracy of the linear probe, a share.

    Features are computed in bf16: 10,000 images at 36 evaluations. It costs a tenth of a point, the same for all.
    """
    with torch.autocast("cpu", torch.bfloat16):
        probe, scored = (feature_fn(part).float() for part in (data.probe, data.test))
    return probes.linear_probe(probe, data.probe_labels, scored, data.test_labels).value


# Runs


@dataclass
class Curve:
    """Accuracy at chosen steps of a run, and the core-seconds that training had taken until then."""

    data: ImageData
    note: Callable[[float, float], None] | None = None
    seconds: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    spent: float = 0.0
    resumed: float | None = None  # process time at which training went on

    def evaluate(self, feature_fn: Callable[[Tensor], Tensor]) -> None:
        """Stop the clock, score, start the clock."""
        if self.resumed is not None:
            self.spent += time.process_time() - self.resumed
        self.seconds.append(self.spent)
        self.accuracy.append(accuracy(self.data, feature_fn))
        if self.note:
            self.note(self.spent, self.accuracy[-1])
        self.resumed = time.process_time()


def evaluation_steps(num_steps: int, evaluations: int) -> list[int]:
    """Steps before which a run is scored, evenly from 0 to the last; the last score follows the last step."""
    return [round(num_steps * i / evaluations) for i in range(evaluations + 1)]


def run(recipe: AnyRecipe, data: ImageData, seed: int, evaluations: int = EVALUATIONS, **how) -> Curve:
    """Train one recipe and score it on the way; how: `note`, called with seconds and accuracy at each evaluation."""
    curve = Curve(data, **how)
    if isinstance(recipe, LightlyRecipe):
        model = Lightly(recipe, data, seed)
        score = partial(_score_lightly, curve=curve)
        model.fit(at=dict.fromkeys(evaluation_steps(recipe.num_steps, evaluations), score))
        score(model)
        return curve
    score = partial(_score, curve=curve)
    at = dict.fromkeys(evaluation_steps(recipe.cfg.num_steps, evaluations), score)
    arm = race_recipes.arm(recipe, data)
    score(experiment.train_arm(recipe.cfg, arm, seed, measure=None, progress=False, at=at))
    return curve


def _score(state, curve: Curve) -> None:
    curve.evaluate(partial(embed, state.model.target_encoder, to_batch=curve.data.to_batch, batch_size=250))


def _score_lightly(model: Lightly, curve: Curve) -> None:
    curve.evaluate(model.features)


def config(recipe: AnyRecipe, validate: bool, evaluations: int) -> dict:
    """All settings of a run, as its record keeps them."""
    described = race_lightly if isinstance(recipe, LightlyRecipe) else race_recipes
    cfg = OURS_CONFIG
    return configs.plain(
        {
            **described.settings(recipe),
            "encoder": [cfg.width, cfg.depth, cfg.heads],
            "patch": cfg.patch,
            "evaluations": evaluations,
            "probe_images": 5000,
            "scored_on": "validation" if validate else "test",
        }
    )


def record(
    recipe: AnyRecipe,
    data: ImageData,
    seed: int,
    out: Path,
    *,
    preset: str = PRESET,
    evaluations: int = EVALUATIONS,
    validate: bool = False,
) -> Path:
    """Run and save one record; a record that is there already is kept."""
    settings = config(recipe, validate, evaluations)
    path = records.record_path(out, CHAPTER, preset, seed, settings)
    if path.exists():
        return path
    entry = records.start(CHAPTER, preset=preset, seed=seed, config=settings, out=out)
    entry.data(data.source.name, data.source.source, data.source.sha256, data.source.kind)
    curve = run(recipe, data, seed, evaluations, note=partial(_print_note, f"{recipe.name} seed {seed}"))
    entry.series(f"accuracy: {recipe.name}", curve.seconds, curve.accuracy)
    entry.value("core_s", curve.seconds[-1])
    entry.value("final_accuracy", curve.accuracy[-1])
    return entry.save()


def _print_note(name: str, seconds: float, accuracy: float) -> None:
    print(f"{name}: {seconds:7.1f} core-s  {100 * accuracy:.2f}", file=sys.stderr, flush=True)


def cost(data: ImageData, out: Path, preset: str, recipes: Iterable[AnyRecipe], **how) -> None:
    """Measure what a step of each recipe costs; a recipe whose package is not installed is left out."""
    steps: dict[str, Callable[[], None]] = {}
    for recipe in recipes:
        try:
            if isinstance(recipe, LightlyRecipe):
                steps[recipe.name] = Lightly(recipe, data, seed=0).step
            else:
                steps[recipe.name] = stepper(recipe.cfg, race_recipes.arm(recipe, data))[-1]
        except ImportError as error:
            print(f"{recipe.name}: skipped, {error}", file=sys.stderr)
    print(race_cost.record(CHAPTER, f"{preset}-cost", steps, out, **how), file=sys.stderr)


# The command line


def table(rows: list[dict]) -> str:
    """The race as text: core-seconds to the level, per recipe."""
    lines = [
        f"level: {100 * rows[0]['level']:.2f} % (lowest final accuracy of the official runs); "
        "core-seconds are steps x cost of a step",
        f"{'recipe':<30}{'reached':>8}{'ms a step':>11}{'median s':>10}{'low':>8}{'high':>8}"
        f"{'official / it':>15}{'official bf16 / it':>20}{'final %':>9}",
    ]
    for row in rows:
        reached = f"{row['reached']}/{len(row['seeds'])}"
        times = "".join(f"{_number(row[key]):>{width}}" for key, width in (("median", 10), ("low", 8), ("high", 8)))
        ratios = f"{_number(row['ratio']):>15}{_number(row['ratio_bf16']):>20}"
        step_ms, final = f"{1000 * row['step_s']:>11.0f}", f"{100 * row['final']:>9.2f}"
        lines.append(f"{row['recipe']:<30}{reached:>8}{step_ms}{times}{ratios}{final}")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "never" if value is None else f"{value:.1f}"


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    offered = {recipe.name: recipe for recipe in (ladder() if options.ladder else RECIPES)}
    chosen = options.recipes.split(",") if options.recipes else list(offered)
    if unknown := sorted(set(chosen) - set(offered)):
        raise ValueError(f"unknown recipe {', '.join(unknown)}; there are: {', '.join(offered)}")
    everything = {recipe.name: _quick(recipe) if options.quick else recipe for recipe in (*RECIPES, *ladder())}
    preset = SMOKE if options.quick else PRESET
    evaluations = _evaluations(options)
    data = load(options.validate, 200 if options.quick else 5000)
    if not options.cost:
        how = {"preset": preset, "evaluations": evaluations, "validate": options.validate}
        _run_all([everything[name] for name in chosen], data, _seeds(options), options.out, **how)
    if options.cost or not records.load(CHAPTER, f"{preset}-cost", options.out):
        how = {"rounds": 1, "each": 1} if options.quick else {}
        cost(data, options.out, preset, everything.values(), **how)
    rows = _standing(options, preset, offered)
    print(json.dumps(rows, indent=1) if options.json else table(rows))
    return 0


def _evaluations(options) -> int:
    if options.quick:
        return 2
    return LADDER_EVALUATIONS if options.ladder else EVALUATIONS


def _quick(recipe: AnyRecipe) -> AnyRecipe:
    short = {"num_steps": 4, "batch_size": 8}
    return replace(recipe, **short) if isinstance(recipe, LightlyRecipe) else with_config(recipe, **short)


def with_config(recipe: Recipe, **changes) -> Recipe:
    """The recipe with some fields of its config replaced."""
    return replace(recipe, cfg=replace(recipe.cfg, **changes))


def _seeds(options) -> range:
    return range(*map(int, (options.seeds or ("100:103" if options.ladder else "0:5")).split(":")))


def _run_all(recipes: list[AnyRecipe], data: ImageData, seeds: range, out: Path, **how) -> None:
    for seed in seeds:
        for recipe in recipes:
            try:
                print(record(recipe, data, seed, out, **how), file=sys.stderr)
            except ImportError as error:
                print(f"{recipe.name}: skipped, {error}", file=sys.stderr)


def _standing(options, preset: str, offered: Mapping[str, AnyRecipe]) -> list[dict]:
    """The table of the finished records: of all with --ladder, else of the race's recipes."""
    wanted = "validation" if options.validate else "test"
    found = [r for r in records.load(CHAPTER, preset, options.out) if r["config"]["scored_on"] == wanted]
    found = [r for r in found if options.ladder or r["config"]["recipe"] in offered]
    return race.race_table(found, race.step_costs(records.load(CHAPTER, f"{preset}-cost", options.out)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m jepa_lab bench --race",
        description="Core-seconds until frozen features reach a level; finished records are skipped.",
    )
    names = ", ".join(recipe.name for recipe in RECIPES)
    add = parser.add_argument
    add("--recipes", help=f"comma-separated (default: all of {names})")
    add("--ladder", action="store_true", help="from the official recipe to ours, one idea more on each rung")
    add("--cost", action="store_true", help="only measure what a step of every recipe and rung costs on this machine")
    add("--seeds", help="first and last + 1 (default 0:5, of the ladder 100:103)")
    add("--validate", action="store_true", help="score on validation images, for tuning")
    add("--quick", action="store_true", help="4 steps of everything: does it run?")
    add("--json", action="store_true", help="print the table as JSON")
    out = records.default_out()
    add("--out", type=Path, default=out, help="folder for the records (default: %(default)s; the race: results)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
