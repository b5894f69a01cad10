"""The race's recipes run through the one training loop; the committed records belong to them."""

import importlib.util
import json
from dataclasses import replace

import pytest
import torch

from benchmarks import race as bench
from benchmarks import race_cost, race_recipes
from jepa_lab import experiment, image_world, records, train
from jepa_lab.configs import config_hash
from jepa_lab.data import images
from jepa_lab.objectives import jepa_objective
from jepa_lab.papers.predictors import paper, race


@pytest.fixture(scope="module")
def tiny() -> image_world.ImageData:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 10
    patches = (labels[:, None, None] * 20 + torch.randint(0, 50, (60, 49, 16), generator=generator)).to(torch.uint8)
    pixels, names = torch.zeros(0, 28, 28, dtype=torch.uint8), tuple("abcdefghij")
    source = images.ImageSet(pixels, labels[:0], "tiny", "made here", "0" * 64, "generated", names)
    return image_world.ImageData("tiny", source, (7, 7), *[patches] * 2, labels, patches, labels, (0.4, 0.2), pixels)


def short(recipe, num_steps=2):
    return bench.with_config(recipe, num_steps=num_steps, batch_size=8)


@pytest.mark.parametrize("recipe", [*bench.RECIPES[:2], *bench.ladder()], ids=lambda recipe: recipe.name)
def test_every_recipe_trains_and_is_scored_untrained_first(recipe, tiny):
    curve = bench.run(short(recipe), tiny, seed=0, evaluations=2)
    assert curve.seconds[0] == 0 and curve.seconds == sorted(curve.seconds) and len(curve.accuracy) == 3
    again = bench.run(short(recipe), tiny, seed=0, evaluations=2)
    assert again.accuracy == curve.accuracy  # the seed decides everything but the time


def test_the_last_score_is_that_of_the_finished_run(tiny, monkeypatch):
    steps = []
    monkeypatch.setattr(bench.Curve, "evaluate", lambda self, feature_fn: None)
    score = bench._score
    monkeypatch.setattr(bench, "_score", lambda state, curve: (steps.append(state.step), score(state, curve)))
    bench.run(short(bench.OURS, num_steps=7), tiny, seed=0, evaluations=3)
    assert steps == bench.evaluation_steps(7, 3) == [0, 2, 5, 7]


def test_ours_is_preset_race_of_chapter_02(tiny):
    assert bench.OURS.cfg == paper.preset("race")
    cfg = short(bench.OURS).cfg
    arms = race_recipes.arm(bench.OURS, tiny), paper.race_arm(cfg, tiny)
    first, second = (experiment.train_arm(cfg, arm, 0, measure=None, progress=False).model for arm in arms)
    assert all(torch.equal(p, q) for p, q in zip(first.parameters(), second.parameters()))


def test_the_ladder_leads_from_the_official_recipe_to_ours():
    first, *_, last = bench.ladder()
    assert bench.with_config(first, num_steps=1000) == replace(bench.OFFICIAL, name=first.name)
    assert last == replace(bench.OURS, name=last.name)
    for lower, upper in zip(bench.ladder(), bench.ladder()[1:]):
        assert race_recipes.settings(lower) != race_recipes.settings(upper)


def test_committed_records_are_those_of_these_recipes_and_are_not_run_again():
    hashes = {recipe.name: config_hash(bench.config(recipe, False, 36)) for recipe in bench.RECIPES}
    hashes |= {rung.name: config_hash(bench.config(rung, False, 12)) for rung in bench.ladder()}
    committed = records.load(bench.CHAPTER, bench.PRESET)
    assert {record["config"]["recipe"] for record in committed} == set(hashes)
    assert all(record["config_hash"] == hashes[record["config"]["recipe"]] for record in committed)


def test_standardised_targets_hold_no_position(tiny):
    arm = race_recipes.arm(bench.OURS, tiny)
    model, masks = experiment.fresh_model(bench.OURS.cfg, arm, 0), arm.task.draw(torch.arange(60), torch.Generator())
    same = tiny.to_batch(tiny.patches[:1]).expand(60, -1, -1)  # equal images: targets differ by position alone
    model.predictor.out.weight.data.zero_()
    assert arm.objective(model, same, masks).item() < 1e-3 < jepa_objective(model, same, masks).item()


def test_official_follows_its_schedules_and_its_start(tiny):
    cfg = bench.OFFICIAL.cfg
    rates = [cfg.lr_at(step) for step in range(cfg.num_steps)]
    assert rates[0] == pytest.approx(2e-4) and max(rates) == pytest.approx(1e-3) and rates[-1] < 1e-5
    assert rates.index(max(rates)) == round(cfg.num_steps * 40 / 300)
    model = experiment.fresh_model(cfg, race_recipes.arm(bench.OFFICIAL, tiny), 0)
    weights = torch.cat([p.flatten() for p in model.encoder.parameters() if p.ndim == 2])
    assert weights.std().item() == pytest.approx(0.02, rel=0.03)
    pairs = zip(model.encoder.parameters(), model.target_encoder.parameters())
    assert all(torch.equal(source, target) for source, target in pairs)


def test_costs_are_measured_in_alternation_and_every_step_once():
    calls = []
    steps = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    seconds = race_cost.measure(steps, rounds=3, each=2)
    assert calls.count("a") == calls.count("b") == 8  # a round to warm up, too
    assert all(set(calls[4 * i : 4 * i + 4]) == {"a", "b"} for i in range(4))
    assert {name: len(s) for name, s in seconds.items()} == {"a": 3, "b": 3}


def test_the_step_whose_cost_is_measured_is_that_of_fit(tiny):
    recipe = short(bench.OURS, num_steps=3)
    arm = race_recipes.arm(recipe, tiny)
    state, cfg, advance = bench.stepper(recipe.cfg, arm)
    for _ in range(cfg.num_steps):
        advance()
    fresh, _ = experiment.start_arm(recipe.cfg, arm, 0)
    whole = train.fit(fresh, cfg, arm.task, arm.objective, progress=False)
    assert all(torch.equal(p, q) for p, q in zip(state.model.parameters(), whole.model.parameters()))


def test_a_finished_run_is_not_run_again(tiny, tmp_path, monkeypatch):
    recipe = short(bench.OFFICIAL)
    path = bench.record(recipe, tiny, 0, tmp_path, evaluations=2)
    written = json.loads(path.read_text())
    assert written["config"]["recipe"] == "official" and written["config"]["scored_on"] == "test"
    assert race.curve(written)[0] == [0, 1, 2] and len(race.curve(written)[1]) == 3
    monkeypatch.setattr(bench, "run", lambda *a, **k: pytest.fail("ran again"))
    assert bench.record(recipe, tiny, 0, tmp_path, evaluations=2) == path


def test_the_command_skips_an_absent_peer_with_its_reason_and_prints_the_table(tiny, tmp_path, monkeypatch, capsys):
    def absent(*_, **__):
        raise ImportError("No module named 'lightly'")

    monkeypatch.setattr(bench, "load", lambda *a: tiny)
    monkeypatch.setattr(bench, "Lightly", absent)
    quick = ["--quick", "--out", str(tmp_path)]
    assert bench.main([*quick, "--seeds", "0:1", "--recipes", "official,lightly", "--json"]) == 0
    out, err = capsys.readouterr()
    assert "lightly: skipped, No module named 'lightly'" in err
    assert [row["recipe"] for row in json.loads(out)] == ["official"]
    (cost,) = records.load(preset="race-smoke-cost", root=tmp_path)
    everything = {recipe.name for recipe in (*bench.RECIPES, *bench.ladder())}
    assert set(race.step_costs([cost])) == everything - {"lightly"}
    assert bench.main([*quick, "--cost"]) == 0  # trains nobody
    assert len(records.load(preset="race-smoke", root=tmp_path)) == 1
    assert "official bf16 / it" in capsys.readouterr().out
    with pytest.raises(ValueError, match="unknown recipe nobody; there are: official"):
        bench.main(["--recipes", "nobody"])


@pytest.mark.skipif(importlib.util.find_spec("lightly") is None, reason="lightly is not installed")
def test_lightly_trains_with_its_own_modules(tiny):
    recipe = replace(bench.LightlyRecipe(), num_steps=2, batch_size=8)
    curve = bench.run(recipe, tiny, seed=0, evaluations=2)
    assert curve.seconds[0] == 0 and len(curve.accuracy) == 3
