"""The race keeps its rules: when a curve counts as arrived, who sets the level, what the table says."""

import pytest

from benchmarks import race as bench
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
