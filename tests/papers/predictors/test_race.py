"""The race keeps its rules: when a curve counts as arrived, who sets the level, what a step costs, what is run again
and what is not.
"""

import importlib.util
import json
from dataclasses import asdict, replace

import pytest
import torch

from benchmarks import race as bench
from benchmarks import race_cost
from jepa_lab import records
from jepa_lab.data import images
from jepa_lab.papers.predictors import race


def entry(recipe, seed, accuracy, num_steps=20):
    config = {"recipe": recipe, "num_steps": num_steps, "evaluations": len(accuracy) - 1}
    return {
        "seed": seed,
        "config": config,
        "series": {f"accuracy: {recipe}": {"x": [1e6 * i for i in range(len(accuracy))], "y": accuracy}},
    }


@pytest.mark.parametrize(
    "accuracy, expected",
    [
        ([0.70, 0.79, 0.80, 0.81], 30.0),
        ([0.70, 0.80, 0.794, 0.81], 40.0),  # a spike that the next evaluation does not confirm
        ([0.70, 0.80, 0.795, 0.70], 20.0),  # half a point below still confirms
        ([0.70, 0.71, 0.72, 0.80], 40.0),  # the last one needs no confirmation
        ([0.80, 0.80, 0.70, 0.70], 10.0),
        ([0.70, 0.79, 0.79, 0.79], None),
        ([], None),
    ],
)
def test_a_curve_arrives_at_its_first_confirmed_crossing(accuracy, expected):
    assert race.time_to_level([10.0, 20.0, 30.0, 40.0][: len(accuracy)], accuracy, 0.80) == expected


def test_times_and_accuracies_must_pair_up():
    with pytest.raises(ValueError, match="2 times but 1 accuracies"):
        race.time_to_level([1.0, 2.0], [0.5], 0.4)


def test_the_worst_official_run_sets_the_level_so_all_of_them_arrive():
    runs = [entry("official", seed, [0.6, 0.7, final]) for seed, final in enumerate((0.80, 0.78, 0.82))]
    assert race.race_level(runs) == 0.78
    (row,) = race.race_table(runs, {"official": 1.5})
    assert (
        row["reached"] == 3
        and row["ratio"] == 1.0
        and row["steps"] == [20, 20, 20]
        and row["seconds"] == [30.0, 30.0, 30.0]
    )
    with pytest.raises(ValueError, match="no record of the recipe 'official'"):
        race.race_level([entry("ours", 0, [0.9, 0.9])])
    with pytest.raises(ValueError, match="no cost of a step of official"):
        race.race_table(runs, {})


def test_time_is_steps_times_cost_whatever_the_runs_took_and_both_ratios_are_given():
    runs = [
        entry("official", 0, [0.6, 0.8]),
        entry("official + bf16", 0, [0.6, 0.8]),
        entry("ours", 0, [0.6, 0.8, 0.8], 10),
    ]
    ours, fast, official = race.race_table(runs, {"official": 1.0, "official + bf16": 0.5, "ours": 0.2, "nobody": 9.0})
    assert (ours["recipe"], ours["steps"], ours["median"], ours["ratio"], ours["ratio_bf16"]) == (
        "ours",
        [5],
        1.0,
        20.0,
        10.0,
    )
    assert (fast["median"], fast["ratio"], official["median"], official["ratio_bf16"]) == (10.0, 2.0, 20.0, 0.5)
    runs[1] = entry("official + bf16", 0, [0.6, 0.7, 0.7])  # never at the level of float32: compared at its own
    rows = {row["recipe"]: row for row in race.race_table(runs, {"official": 1.0, "official + bf16": 0.5, "ours": 0.2})}
    assert (
        rows["official + bf16"]["median"] is None
        and rows["official + bf16"]["ratio"] is None
        and rows["ours"]["ratio_bf16"] == 5.0
    )


def test_the_newest_cost_record_counts():
    old, new = (
        {"started": started, "values": {"load before": 1.0, race.COST + "ours": cost}}
        for started, cost in (("2026-01-01", 1.0), ("2026-01-02", 2.0))
    )
    assert race.step_costs([new, old]) == {"ours": 2.0} and race.step_costs([]) == {}


def test_a_run_that_never_arrives_is_counted_as_such():
    runs = [entry("official", 0, [0.6, 0.8])] + [
        entry("slow", seed, [0.6, final]) for seed, final in enumerate((0.7, 0.7, 0.9))
    ]
    runs += [entry("fast", seed, [0.6, 0.9, 0.9], 2 * steps) for seed, steps in enumerate((5, 2, 4))]
    fast, official, slow = race.race_table(runs, dict.fromkeys(("official", "slow", "fast"), 1.0))
    assert (fast["recipe"], fast["median"], fast["low"], fast["high"], fast["ratio"], fast["ratio_bf16"]) == (
        "fast",
        4.0,
        2.0,
        5.0,
        5.0,
        None,
    )
    assert (slow["reached"], slow["median"], slow["low"], slow["high"], slow["ratio"]) == (1, None, 20.0, None, None)
    assert "never" in bench.table([fast, official, slow])


def test_costs_are_measured_in_alternation_and_every_step_once():
    calls = []
    seconds = race_cost.measure({name: lambda k, name=name: calls.append((name, k)) for name in "ab"}, rounds=3, each=2)
    assert sorted(calls) == [(name, k) for name in "ab" for k in range(8)]  # a round to warm up, too
    assert all({name for name, _ in calls[4 * i : 4 * i + 4]} == {"a", "b"} for i in range(4))
    assert {name: len(s) for name, s in seconds.items()} == {"a": 3, "b": 3} and min(map(min, seconds.values())) >= 0


@pytest.fixture(scope="module")
def tiny() -> bench.World:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 10
    patches = (labels[:, None, None] * 20 + torch.randint(0, 50, (60, 49, 16), generator=generator)).to(torch.uint8)
    source = images.ImageSet(
        torch.zeros(0, 28, 28, dtype=torch.uint8),
        labels[:0],
        "tiny",
        "made here",
        "0" * 64,
        "generated",
        tuple("abcdefghij"),
    )
    return bench.World(patches, (patches, labels), (patches, labels), (0.4, 0.2), source)


SHORT = dict(num_steps=2, batch_size=8)


@pytest.mark.parametrize("recipe", [*bench.RECIPES[:2], *bench.ladder()], ids=lambda r: r.recipe)
def test_every_recipe_trains_and_is_scored_untrained_first(recipe, tiny):
    seconds, accuracy = bench.run(replace(recipe, **SHORT), tiny, seed=0, evaluations=2)
    assert seconds[0] == 0 < seconds[1] < seconds[2] and len(accuracy) == 3
    assert (
        bench.run(replace(recipe, **SHORT), tiny, seed=0, evaluations=2)[1] == accuracy
    )  # the seed decides everything but the time


def test_the_ladder_leads_from_the_official_recipe_to_ours():
    first, *_, last = (asdict(rung) for rung in bench.ladder())
    different = {"recipe", "num_steps"}
    assert {k: v for k, v in first.items() if k not in different} == {
        k: v for k, v in asdict(bench.OFFICIAL).items() if k not in different
    }
    assert {k: v for k, v in last.items() if k != "recipe"} == {
        k: v for k, v in asdict(bench.OURS).items() if k != "recipe"
    }


def test_standardised_targets_hold_no_position(tiny):
    jepa, drawn = bench.model(bench.OURS, 0), bench.sampler(bench.OURS)(60, torch.Generator().manual_seed(0))
    same = tiny.to_batch(tiny.patches[:1]).expand(
        60, -1, -1
    )  # equal images: all that is left of the targets is position
    jepa.predictor.out.weight.data.zero_()
    assert (
        bench.loss_of(jepa, same, drawn, standardise=True).item()
        < 1e-3
        < bench.loss_of(jepa, same, drawn, standardise=False).item()
    )


def test_official_follows_its_schedules_and_its_start():
    official = bench.OFFICIAL
    rates = [bench.learning_rate(k, official) for k in range(official.num_steps)]
    assert rates[0] == pytest.approx(2e-4) and max(rates) == pytest.approx(1e-3) and rates[-1] < 1e-5
    assert rates.index(max(rates)) == round(official.num_steps * 40 / 300)
    weights = torch.cat([p.flatten() for n, p in bench.model(official, 0).encoder.named_parameters() if p.ndim == 2])
    assert weights.std().item() == pytest.approx(0.02, rel=0.03)


def test_weight_decay_spares_biases_and_norms_only():
    jepa = bench.model(bench.OFFICIAL, 0)
    free = [
        p
        for optimizer in bench.optimizers(jepa, bench.OFFICIAL)
        for group in optimizer.param_groups
        if group["weight_decay"] == 0
        for p in group["params"]
    ]
    names = {name for name, p in jepa.named_parameters() if any(p is q for q in free)}
    assert names and all(name.endswith(("bias", "norm.weight", "norm1.weight", "norm2.weight")) for name in names)
    assert sum(len(g["params"]) for o in bench.optimizers(jepa, bench.OFFICIAL) for g in o.param_groups) == sum(
        p.requires_grad for p in jepa.parameters()
    )


def test_a_finished_run_is_not_run_again(tiny, tmp_path, monkeypatch):
    recipe = replace(bench.OFFICIAL, **SHORT)
    path = bench.record(recipe, tiny, 0, tmp_path, evaluations=2)
    written = json.loads(path.read_text())
    assert written["config"]["recipe"] == "official" and written["config"]["scored_on"] == "test"
    assert {"num_steps", "batch_size", "lr", "encoder", "sampler"} <= set(written["config"])
    assert race.curve(written)[0] == [0, 1, 2] and len(race.curve(written)[1]) == 3
    monkeypatch.setattr(bench, "run", lambda *a, **k: pytest.fail("ran again"))
    assert bench.record(recipe, tiny, 0, tmp_path, evaluations=2) == path


def test_the_command_skips_an_absent_peer_with_its_reason_and_prints_the_table(tiny, tmp_path, monkeypatch, capsys):
    def absent(*_):
        raise ImportError("No module named 'lightly'")

    monkeypatch.setattr(bench, "world", lambda *a: tiny)
    monkeypatch.setattr(bench, "lightly_contender", absent)
    assert (
        bench.main(["--quick", "--seeds", "0:1", "--recipes", "official,lightly", "--json", "--out", str(tmp_path)])
        == 0
    )
    out, err = capsys.readouterr()
    assert "lightly: skipped, No module named 'lightly'" in err
    assert [row["recipe"] for row in json.loads(out)] == ["official"]
    (cost,) = records.load(preset="race-smoke-cost", root=tmp_path)
    assert len(records.load(preset="race-smoke", root=tmp_path)) == 1
    assert set(race.step_costs([cost])) == {recipe.recipe for recipe in bench.RECIPES + bench.ladder()} - {"lightly"}
    assert bench.main(["--quick", "--cost", "--out", str(tmp_path)]) == 0  # trains nobody
    assert (
        len(records.load(preset="race-smoke", root=tmp_path)) == 1 and "official bf16 / it" in capsys.readouterr().out
    )
    with pytest.raises(ValueError, match="unknown recipe nobody; there are: official"):
        bench.main(["--recipes", "nobody"])


@pytest.mark.skipif(importlib.util.find_spec("lightly") is None, reason="lightly is not installed")
def test_lightly_trains_with_its_own_modules(tiny):
    seconds, accuracy = bench.run(replace(bench.LIGHTLY, **SHORT), tiny, seed=0, evaluations=2)
    assert seconds[0] == 0 < seconds[-1] and len(accuracy) == 3
