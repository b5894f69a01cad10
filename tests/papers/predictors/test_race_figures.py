"""The race's tables and figures are drawn from records alone."""

import pytest

from jepa_lab.papers.predictors import race_figures, race_tables


def race_record(recipe: str, seed: int, accuracy: list[float], **settings) -> dict:
    config = {"recipe": recipe, "scored_on": "test", "num_steps": 30, "evaluations": len(accuracy) - 1, **settings}
    return {
        "seed": seed,
        "config": config,
        "series": {f"accuracy: {recipe}": {"x": [0.0] * len(accuracy), "y": accuracy}},
        "values": {"core_s": 80.0},
    }


def cost_record(**seconds: float) -> dict:
    return {
        "started": "2026",
        "values": {f"seconds per step: {name.replace('_', ' ')}": value for name, value in seconds.items()},
    }


def test_the_race_is_drawn_from_its_records_and_says_what_changed():
    records = [race_record("official", seed, [0.5, 0.6, 0.7, 0.75 + seed / 100], lr=1, warmup=2) for seed in (0, 1)]
    records += [race_record("ours", seed, [0.5, 0.7, 0.76, 0.8], lr=3, warmup=2) for seed in (0, 1)]
    records += [race_record("never", seed, [0.5, 0.5, 0.5, 0.5], lr=1, warmup=2, extra=4) for seed in (0, 1)]
    records += [
        race_record("ours", 100, [0.9] * 4, lr=3) | {"config": {"recipe": "ours", "scored_on": "validation", "lr": 3}},
        race_record("0 official", 100, [0.9] * 4),
    ]
    costs = [cost_record(official=10.0, ours=0.75, never=10.0)]
    rows = race_tables.rows_of(records, costs)
    assert [row["recipe"] for row in rows] == ["ours", "official", "never"] and rows[0]["seeds"] == [0, 1]
    curves = race_figures.curves_figure(records, rows)
    assert len(curves.data) == 6 and "never in half of its runs" in curves.layout.meta["description"]
    assert list(curves.data[2].x) == [100.0, 200.0, 300.0]  # 10, 20, 30 steps of the official recipe
    text = " ".join(str(trace.text) for trace in race_figures.arrival_figure(rows).data)
    assert "20.0 ×" in text
    assert race_tables.settings_of(records, rows) == {"ours": {"lr": 3}, "official": {}, "never": {"extra": 4}}


def test_a_race_without_its_reference_or_its_costs_has_no_table():
    alone, costs = [race_record("ours", 0, [0.5, 0.6])], [cost_record(ours=1.0)]
    assert (
        race_tables.rows_of([], costs)
        == []
        == race_tables.rows_of(alone, costs)
        == race_tables.rows_of([race_record("official", 0, [0.5, 0.6])], [])
    )


def test_the_ladder_says_what_each_rung_gave_also_when_it_took():
    records = [race_record("1 + more", seed, [0.5, 0.6 + seed / 50]) for seed in (0, 1)] + [
        race_record("2 + less", 0, [0.5, 0.58]),
        race_record("0 first", 0, [0.5, 0.6]),
    ]
    rungs = race_tables.rungs_of([*records, race_record("official", 0, [0.5, 0.9])], [cost_record(**{"0_first": 2.0})])
    assert [rung["recipe"] for rung in rungs] == ["0 first", "1 + more", "2 + less"] and [
        len(rung["finals"]) for rung in rungs
    ] == [1, 2, 1]
    assert rungs[0]["gain"] is None and [rung["gain"] for rung in rungs[1:]] == pytest.approx([0.01, -0.03])
    assert [rung["here_s"] for rung in rungs] == [60.0, None, None] and rungs[0]["ran_s"] == 80.0
    figure = race_figures.ladder_figure(rungs, 0.7)
    assert "2 + less: 58.0 percent, -3.0 points" in figure.layout.meta["description"] and list(
        figure.data[-1].text
    ) == ["", "+1.0", "-3.0"]
    assert race_tables.rungs_of([], []) == []
