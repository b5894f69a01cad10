"""Time to quality: core-seconds of training until a linear probe on frozen features reaches a level. Fashion-MNIST.

    python -m benchmarks.race                            # every recipe that has no record yet; hours
    python -m benchmarks.race --recipes ours --seeds 0:5
    python -m benchmarks.race --cost                     # what a step of each recipe costs on this machine; minutes

One encoder for all (28 px, 4-px patches: 7 x 7 tokens; width 96, depth 4, 3 heads), one thread, one probe: multinomial
regression on the mean of the target encoder's latents, fitted on 5,000 images held out from training and scored on
5,000
images of the published test split. Nobody augments. The probe runs untrained and then 36 times, evenly over a run's
steps.

Time is steps x cost. A run says how many steps it took to the level; what a step costs is measured for all recipes side
by
side on one machine (`benchmarks/race_cost.py`), as runs lie hours and machines apart. The first table, 6.6 times,
compared
the seconds of the runs themselves.

`official` is I-JEPA as published (Assran et al. 2023, its code and its released configs) at this size, in float32: the
configs ask for bf16, but the code's autocast is CUDA's and does nothing on a CPU. `official + bf16` is the same in
bf16. The
released min_keep of 10 holds for the context only: most targets have 6 to 9 of the 7 x 7 tokens, and the published code
would
draw for ever. 1,000 steps were meant as 10 core-minutes; the five float32 runs took 471 to 537 s.

The level is the lowest final accuracy over the five official seeds in float32, so that each of them has a time; the
ratio to
`official + bf16` is taken at the level that its own runs set. A run's time is its first evaluation at the level that
the next
evaluation confirms (no lower than the level - 0.5 points): `jepa_lab.papers.predictors.race`. These rules, but for the second ratio, were
fixed
before the first run. `ours` was tuned on 5,000 validation images cut from the training images (`--validate`, seeds from
100),
never on the test split; the other recipes were not tuned.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn

from benchmarks import race_cost
from jepa_lab import masks, records, train
from jepa_lab.data import images
from jepa_lab.encoders import Encoder
from jepa_lab.losses import gather_blocks, normalise, smooth_l1
from jepa_lab.papers.predictors import race
from jepa_lab.predictors import Predictor
from jepa_lab.probes import linear as probes

CHAPTER, PRESET, SMOKE = "02_predictors", "race", "race-smoke"  # costs: these + "-cost"
PATCH, WIDTH, DEPTH, HEADS = 4, 96, 4, 3
GRID = (28 // PATCH, 28 // PATCH)
EVALUATIONS, LADDER_EVALUATIONS = 36, 12  # per run, evenly over its steps


@dataclass(frozen=True)
class Recipe:
    """How one masked JEPA is trained. The defaults are the official recipe."""

    recipe: str
    num_steps: int
    batch_size: int = 128
    init: str = "0.02"  # standard deviation of every linear, or "fan-in"
    # context cut to the batch's shortest; "kept": no cut; "scattered": random tokens, all others hidden
    sampler: str = "published"
    num_targets: int = 4
    lr: tuple[float, float, float] = (2e-4, 1e-3, 1e-6)  # first, peak, last: linear warm-up, then cosine
    warmup: float = 40 / 300  # share of the steps (released configs: 40 of 300 epochs)
    weight_decay: tuple[float, float] = (0.04, 0.4)  # cosine
    ema_decay: tuple[float, float] = (0.996, 1.0)  # linear
    predictor: tuple[int, int, int] = (WIDTH // 2, 6, HEADS)  # width, depth, heads
    precision: str = "float32"  # or "bf16": autocast, attention by plain products
    optimizer: str = "AdamW"
    num_context: int | None = None  # of the "scattered" sampler
    standardise: bool | None = None  # targets: take the batch's mean at each position away, scale to variance 1


# The world: the same images and the same probe for everybody


@dataclass(frozen=True)
class World:
    """Unlabelled training patches, labelled patches to fit the probe on, and those it is scored on (uint8)."""

    patches: Tensor
    probe: tuple[Tensor, Tensor]
    scored: tuple[Tensor, Tensor]
    stats: tuple[float, float]
    source: images.ImageSet

    def to_batch(self, patches: Tensor) -> Tensor:
        return images.normalise(patches, self.stats)

    def accuracy(self, features: Callable[[Tensor], Tensor]) -> float:
        (probe_x, probe_y), (scored_x, scored_y) = self.probe, self.scored
        with torch.autocast(
            "cpu", torch.bfloat16
        ):  # 10,000 images at 36 evaluations; a tenth of a point, the same for all
            frozen = [features(part) for part in (probe_x, scored_x)]
        return probes.linear_probe(frozen[0].float(), probe_y, frozen[1].float(), scored_y).value


def world(validate: bool = False, num_labelled: int = 5000) -> World:
    """Fashion-MNIST cut as chapter 01 cuts it; with `validate` the images to score on come out of the training images."""
    everything, test = images.fashion_mnist("train"), images.fashion_mnist("test")
    unlabelled, probe = images.split(everything, (len(everything) - num_labelled, num_labelled), seed=0)
    scored = images.split(test, (num_labelled,), seed=0)[0]
    if validate:
        unlabelled, scored = images.split(unlabelled, (len(unlabelled) - num_labelled, num_labelled), seed=0)
    cut = partial(images.patchify, patch=PATCH)
    labelled = [(cut(part.images), part.labels) for part in (probe, scored)]
    return World(
        cut(unlabelled.images),
        *labelled,
        images.pixel_stats(unlabelled.images),
        replace(everything, images=everything.images[:0], labels=everything.labels[:0]),
    )


Contender = tuple[Callable[[int], None], Callable[[Tensor], Tensor]]  # a training step, and frozen features of patches


# Ours and the official one: the same modules, other settings


def model(recipe: Recipe, seed: int) -> train.JEPA:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = Encoder(GRID, PATCH * PATCH, WIDTH, DEPTH, HEADS)
        predictor = Predictor(GRID, WIDTH, *recipe.predictor, WIDTH)
        if recipe.init == "0.02":  # the rescaling by depth in the published code is undone by the code itself
            for module in (*encoder.modules(), *predictor.modules()):
                if isinstance(module, nn.Linear):
                    nn.init.trunc_normal_(module.weight, std=0.02)
        return train.JEPA(encoder, predictor)


def sampler(recipe: Recipe) -> train.Sampler:
    if recipe.sampler == "published":
        return partial(masks.multi_block_published, GRID, num_targets=recipe.num_targets)
    if recipe.sampler == "scattered":
        hidden = GRID[0] * GRID[1] - recipe.num_context
        return partial(masks.random_tokens, GRID, num_targets=1, target_size=hidden, num_context=recipe.num_context)
    shapes = masks.block_shapes(GRID)
    kept = masks.context_budget(GRID, shapes, num_targets=recipe.num_targets)
    return partial(masks.multi_block, GRID, num_targets=recipe.num_targets, target_shapes=shapes, num_context=kept)


def loss_of(jepa: train.JEPA, patches_BNP: Tensor, drawn: masks.Masks, standardise: bool) -> Tensor:
    """I-JEPA's loss. The mean latent of a position says nothing about the image; without it all of the loss is content."""
    with torch.no_grad():
        target_BND = normalise(jepa.target_encoder(patches_BNP))
        if standardise:
            centred_BND = target_BND - target_BND.mean(dim=0)
            target_BND = centred_BND / centred_BND.square().mean().sqrt().clamp_min(1e-3)
    pred_BMKD = jepa.predictor(jepa.encoder(patches_BNP, drawn.context_idx), drawn)
    return smooth_l1(pred_BMKD, gather_blocks(target_BND, drawn.target_idx))


def optimizers(jepa: train.JEPA, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Weight decay on matrices and, as published, on the mask token; none on biases and norms."""
    named = [(name, p) for name, p in jepa.named_parameters() if p.requires_grad]
    inner = [p for name, p in named if recipe.optimizer == "Muon" and p.ndim == 2 and ".blocks." in name]
    taken = {id(p) for p in inner}
    decayed = [p for name, p in named if id(p) not in taken and (p.ndim > 1 or name.endswith("mask_token"))]
    groups = [
        {"params": decayed},
        {"params": [p for name, p in named if p.ndim <= 1 and not name.endswith("mask_token")], "weight_decay": 0.0},
    ]
    found = [torch.optim.AdamW(groups, lr=0.0, fused=True)]
    return found + ([torch.optim.Muon(inner, lr=0.0, adjust_lr_fn="match_rms_adamw")] if inner else [])


def learning_rate(step: int, recipe: Recipe) -> float:
    first, peak, last = recipe.lr
    warm = max(1, round(recipe.warmup * recipe.num_steps))
    if step < warm:
        return train.linear(step, warm, (first, peak))
    return train.cosine(step - warm, recipe.num_steps - warm, (peak, last))


def contender(recipe: Recipe, world: World, seed: int) -> Contender:
    jepa, draw, generator = model(recipe, seed), sampler(recipe), torch.Generator().manual_seed(seed)
    steppers = optimizers(jepa, recipe)
    batches = train.batch_indices(len(world.patches), recipe.batch_size, seed)
    train.choose_attention(jepa, plain=recipe.precision == "bf16")

    def step(k: int) -> None:
        batch_BNP = world.to_batch(world.patches[next(batches)])
        drawn = draw(recipe.batch_size, generator)
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bf16"):
            loss = loss_of(jepa, batch_BNP, drawn, bool(recipe.standardise))
        loss.backward()
        for optimizer in steppers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(k, recipe)
                group["weight_decay"] = group["weight_decay"] and train.cosine(k, recipe.num_steps, recipe.weight_decay)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        train.ema_update(jepa.target_encoder, jepa.encoder, train.linear(k, recipe.num_steps, recipe.ema_decay))

    return step, lambda patches: train.embed(jepa.target_encoder, patches, world.to_batch, batch_size=250)


# lightly's own modules, mask collator and example (examples/pytorch/ijepa.py of 1.6.0)


@dataclass(frozen=True)
class LightlyRecipe:
    """The settings of lightly's I-JEPA example and its modules' defaults; its predictor is as wide and deep as the
    encoder.
    """

    recipe: str
    num_steps: int
    batch_size: int = 10
    lr: float = 1.5e-4  # constant
    weight_decay: float = 0.01  # AdamW's default, on everything
    ema_decay: tuple[float, float] = (0.996, 1.0)  # linear
    predictor: tuple[int, int, int] = (WIDTH, DEPTH, HEADS)
    precision: str = "float32"


def lightly_contender(recipe: LightlyRecipe, world: World, seed: int) -> Contender:
    """Raises ImportError, saying what is missing, where lightly is not installed."""
    from lightly.data.ijepa_collate import IJEPAMaskCollator
    from lightly.models import utils
    from lightly.models.modules import IJEPAPredictorTIMM, MaskedVisionTransformerTIMM
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(seed)  # its start and its collator draw from the global generator
    size = dict(embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS)
    vit = VisionTransformer(
        28,
        PATCH,
        in_chans=1,
        num_classes=0,
        class_token=False,
        global_pool="",
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        **size,
    )
    encoder, (width, depth, heads) = MaskedVisionTransformerTIMM(vit), recipe.predictor
    predictor = IJEPAPredictorTIMM(
        num_patches=GRID[0] * GRID[1], depth=depth, mlp_dim=WIDTH, predictor_embed_dim=width, num_heads=heads
    )
    target_encoder, collate = copy.deepcopy(encoder), IJEPAMaskCollator(28, PATCH)
    optimizer = torch.optim.AdamW(
        [*encoder.parameters(), *predictor.parameters()], lr=recipe.lr, weight_decay=recipe.weight_decay
    )
    batches = train.batch_indices(len(world.patches), recipe.batch_size, seed)

    def pictures(patches: Tensor) -> Tensor:
        return rearrange(world.to_batch(patches), "b (h w) (p q) -> b 1 (h p) (w q)", h=GRID[0], p=PATCH)

    def step(k: int) -> None:
        picture_B1HW, contexts, targets = collate(list(pictures(world.patches[next(batches)])))
        with torch.no_grad():
            target = utils.apply_masks(nn.functional.layer_norm(target_encoder.encode(picture_B1HW), (WIDTH,)), targets)
        loss = nn.functional.smooth_l1_loss(
            predictor(encoder.encode(picture_B1HW, idx_keep=contexts[0]), contexts, targets), target
        )
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        train.ema_update(target_encoder, encoder, train.linear(k, recipe.num_steps, recipe.ema_decay))

    @torch.no_grad()
    def features(patches: Tensor) -> Tensor:
        return torch.cat([target_encoder.encode(pictures(part)).mean(dim=1) for part in patches.split(250)])

    return step, features


# The race


OFFICIAL = Recipe("official", num_steps=1000)  # on a CPU its code runs in float32: its autocast is CUDA's
OFFICIAL_BF16 = replace(OFFICIAL, recipe="official + bf16", precision="bf16")  # as it runs on a GPU
LIGHTLY = LightlyRecipe("lightly", num_steps=8000)
OURS = Recipe(
    "ours",
    num_steps=600,
    batch_size=64,
    init="fan-in",
    sampler="scattered",
    num_context=24,
    num_targets=1,
    lr=(0.0, 1e-2, 1e-4),
    warmup=0.1,
    weight_decay=(0.04, 0.04),
    ema_decay=(0.98, 0.98),
    predictor=(48, 2, HEADS),
    precision="bf16",
    optimizer="Muon",
    standardise=True,
)
RECIPES = (OFFICIAL, OFFICIAL_BF16, LIGHTLY, OURS)


def ladder() -> tuple[Recipe, ...]:
    """From the official recipe to ours, one idea more on each rung, each at about the cost of ours, under 100
    core-seconds.
    """
    short = dict(batch_size=64, lr=(0.0, 2e-3, 2e-5), warmup=0.1, weight_decay=(0.04, 0.04), ema_decay=(0.98, 0.98))
    ideas = (
        ("0 official, at equal time", 140, {}),
        ("1 + fan-in start", 140, dict(init="fan-in")),
        ("2 + kept context", 110, dict(sampler="kept")),
        ("3 + bf16, shallow predictor", 310, dict(precision="bf16", predictor=OURS.predictor)),
        ("4 + schedules for short runs", 570, short),
        ("5 + scattered tokens", 650, dict(sampler="scattered", num_context=24, num_targets=1)),
        ("6 + standardised targets", 650, dict(standardise=True)),
        ("7 + Muon: ours", 600, dict(optimizer="Muon", lr=OURS.lr)),
    )
    rungs, settings = [], {}
    for name, num_steps, idea in ideas:
        settings |= idea
        rungs.append(Recipe(name, num_steps, **settings))
    return tuple(rungs)


def run(
    recipe: Recipe | LightlyRecipe,
    world: World,
    seed: int,
    evaluations: int = EVALUATIONS,
    note: Callable[[float, float], None] = lambda s, a: None,
) -> tuple[list[float], list[float]]:
    """Train one recipe; core-seconds spent on training and probe accuracy at each evaluation."""
    step, features = (contender if isinstance(recipe, Recipe) else lightly_contender)(recipe, world, seed)
    due = {round(recipe.num_steps * (i + 1) / evaluations) for i in range(evaluations)}
    seconds, accuracy, spent = (
        [0.0],
        [world.accuracy(features)],
        0.0,
    )  # the untrained encoder is a contender like any other
    for k in range(recipe.num_steps):
        started = time.process_time()
        step(k)
        spent += time.process_time() - started
        if k + 1 in due:
            seconds.append(spent)
            accuracy.append(world.accuracy(features))
            note(spent, accuracy[-1])
    return seconds, accuracy


def config(recipe: Recipe | LightlyRecipe, validate: bool, evaluations: int) -> dict:
    """All settings of a run; those that a recipe does without (None) are left out."""
    settings = {name: value for name, value in asdict(recipe).items() if value is not None}
    return {
        **settings,
        "encoder": [WIDTH, DEPTH, HEADS],
        "patch": PATCH,
        "evaluations": evaluations,
        "probe_images": 5000,
        "scored_on": "validation" if validate else "test",
    }


def record(
    recipe: Recipe | LightlyRecipe,
    here: World,
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
    entry.data(here.source.name, here.source.source, here.source.sha256, here.source.kind)
    note = lambda s, a: print(
        f"{recipe.recipe} seed {seed}: {s:7.1f} core-s  {100 * a:.2f}", file=sys.stderr, flush=True
    )  # noqa: E731
    seconds, accuracy = run(recipe, here, seed, evaluations, note)
    entry.series(f"accuracy: {recipe.recipe}", seconds, accuracy)
    entry.value("core_s", seconds[-1])
    entry.value("final_accuracy", accuracy[-1])
    return entry.save()


def table(rows: list[dict]) -> str:
    """The race as text: core-seconds to the level, per recipe."""
    number = lambda x, form: "never" if x is None else format(x, form)  # noqa: E731
    lines = [
        f"level: {100 * rows[0]['level']:.2f} % (lowest final accuracy of the official runs); core-seconds are steps x cost of a step",
        f"{'recipe':<30}{'reached':>8}{'ms a step':>11}{'median s':>10}{'low':>8}{'high':>8}{'official / it':>15}{'official bf16 / it':>20}{'final %':>9}",
    ]
    for row in rows:
        times = "".join(
            f"{number(row[key], '.1f'):>{width}}" for key, width in (("median", 10), ("low", 8), ("high", 8))
        )
        reached, ratios = (
            f"{row['reached']}/{len(row['seeds'])}",
            [number(row[key], ".1f") for key in ("ratio", "ratio_bf16")],
        )
        lines.append(
            f"{row['recipe']:<30}{reached:>8}{1000 * row['step_s']:>11.0f}{times}{ratios[0]:>15}{ratios[1]:>20}{100 * row['final']:>9.2f}"
        )
    return "\n".join(lines)


def cost(here: World, out: Path, preset: str, known: Iterable[Recipe | LightlyRecipe], **how) -> None:
    """Measure what a step of each recipe costs; one that is not installed is left out."""
    steps = {}
    for recipe in known:
        try:
            steps[recipe.recipe] = (contender if isinstance(recipe, Recipe) else lightly_contender)(recipe, here, 0)[0]
        except ImportError as error:
            print(f"{recipe.recipe}: skipped, {error}", file=sys.stderr)
    print(race_cost.record(CHAPTER, f"{preset}-cost", steps, out, **how), file=sys.stderr)


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    entered = {recipe.recipe: recipe for recipe in RECIPES + ladder()}
    known = {recipe.recipe: recipe for recipe in (ladder() if options.ladder else RECIPES)}
    chosen = options.recipes.split(",") if options.recipes else list(known)
    if unknown := sorted(set(chosen) - set(known)):
        raise ValueError(f"unknown recipe {', '.join(unknown)}; there are: {', '.join(known)}")
    settings, how = (
        dict(
            preset=PRESET, evaluations=LADDER_EVALUATIONS if options.ladder else EVALUATIONS, validate=options.validate
        ),
        {},
    )
    if options.quick:
        entered = {name: replace(one, num_steps=4, batch_size=8) for name, one in entered.items()}
        settings, how = settings | dict(preset=SMOKE, evaluations=2), dict(rounds=1, each=1)
    here = world(options.validate, 200 if options.quick else 5000)
    first, last = map(int, (options.seeds or ("100:103" if options.ladder else "0:5")).split(":"))
    for seed in range(first, first if options.cost else last):
        for name in chosen:
            try:
                print(record(entered[name], here, seed, options.out, **settings), file=sys.stderr)
            except ImportError as error:
                print(f"{name}: skipped, {error}", file=sys.stderr)
    if options.cost or not records.load(CHAPTER, f"{settings['preset']}-cost", options.out):
        cost(here, options.out, settings["preset"], entered.values(), **how)
    found = [
        r
        for r in records.load(CHAPTER, settings["preset"], options.out)
        if (r["config"]["scored_on"] == "validation") == options.validate
    ]
    found = [r for r in found if options.ladder or r["config"]["recipe"] in known]
    rows = race.race_table(found, race.step_costs(records.load(CHAPTER, f"{settings['preset']}-cost", options.out)))
    print(json.dumps(rows, indent=1) if options.json else table(rows))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m jepa_lab bench --race",
        description="Core-seconds until frozen features reach a level; finished records are skipped.",
    )
    parser.add_argument(
        "--recipes", help=f"comma-separated (default: all of {', '.join(recipe.recipe for recipe in RECIPES)})"
    )
    parser.add_argument(
        "--ladder", action="store_true", help="from the official recipe to ours, one idea more on each rung"
    )
    parser.add_argument(
        "--cost",
        action="store_true",
        help="measure what a step of every recipe and rung costs on this machine; trains nobody",
    )
    parser.add_argument("--seeds", help="first and last + 1 (default 0:5, of the ladder 100:103)")
    parser.add_argument("--validate", action="store_true", help="score on validation images, for tuning")
    parser.add_argument("--quick", action="store_true", help="4 steps of everything: does it run?")
    parser.add_argument("--json", action="store_true", help="print the table as JSON")
    parser.add_argument(
        "--out",
        type=Path,
        default=records.default_out(),
        help="folder for the records (default: _build/records; the committed race: results)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
