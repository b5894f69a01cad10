"""Chapter 02: every arm trains and differs, what should collapse does, the phase diagram tells, the race is drawn from
records.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import plotly
import pytest
import torch
from in_browser import chromium, served, visit

from jepa_lab import diagnostics, losses, train
from jepa_lab import image_world as worlds
from jepa_lab.data import images
from jepa_lab.papers.predictors import explorer as collapse
from jepa_lab.papers.predictors import paper as predictors
from jepa_lab.papers.predictors import race_figures as racing

CFG = predictors.preset("smoke")
REPO = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def world():
    """A small world of scikit-learn's digits: no download."""
    everything, test = images.digits("train"), images.digits("test")
    unlabelled, probe = images.split(everything, (1200, 300), seed=0)
    return worlds.cut("centred", (unlabelled, probe, test), CFG.patch, "cpu")


@pytest.fixture(scope="module")
def batch(world):
    """A fresh model, eight images and their masks."""
    sampler = worlds.multi_block(CFG, world.grid, CFG.num_targets)
    model = worlds.model(CFG, world.grid, world.patches.shape[-1], 0)
    return model, world.to_batch(world.patches[:8]), sampler(8, torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def cells(world):
    """A small phase diagram: with and without EMA, a predictor that stands still and one that hurries."""
    cfg = replace(CFG, phase_decays=(0.0, 0.99), phase_factors=(0.0, 1.0, 10.0), phase_steps=40, phase_width=16)
    return predictors.phase(cfg, world, 0)


def test_every_arm_takes_a_step_and_shares_its_start(world):
    starts, ends, cfg = [], {}, replace(CFG, num_steps=3, log_every=3, predictor_depth=2, predictor_width=32)
    for name, arm in predictors.arms(cfg, world).items():
        fresh = worlds.model(replace(cfg, **(arm.changes or {})), world.grid, world.patches.shape[-1], 0, arm.predictor)
        starts.append(fresh.encoder.embed.weight.detach().clone())
        run, seconds = predictors.train_timed(cfg, world, arm, 0)
        assert run.step == 3 and run.bad_steps == 0 and seconds > 0, name
        ends[name] = run.model.encoder.embed.weight.detach()
    assert all(torch.equal(start, starts[0]) for start in starts)
    assert len({tuple(end.flatten().tolist()) for end in ends.values()}) == len(ends)


def test_without_a_transformer_the_predictor_is_linear_and_knows_position_and_context(batch):
    model, patches, seen = batch
    linear = predictors.LinearPredictor(seen.grid, CFG.width)
    one, two = model.encoder(patches, seen.context_idx), torch.randn(8, seen.context_idx.shape[1], CFG.width)
    zero = linear(torch.zeros_like(one), seen)
    torch.testing.assert_close(
        linear(one + two, seen) - zero, linear(one, seen) + linear(two, seen) - 2 * zero, atol=1e-4, rtol=1e-4
    )
    assert (linear(one, seen) - zero).abs().max() > 0.01  # context
    assert zero.flatten(0, 2).std(dim=0).max() > 0.01  # position


def test_without_a_predictor_every_hidden_token_is_the_mean_context_latent(batch):
    model, patches, seen = batch
    context = model.encoder(patches, seen.context_idx)
    pred = predictors.NoPredictor()(context, seen)
    assert pred.shape == (*seen.target_idx.shape, CFG.width)
    torch.testing.assert_close(pred, context.mean(1)[:, None, None].expand_as(pred))


def test_the_gradient_reaches_the_targets_only_where_it_should(batch, world):
    _, patches, seen = batch
    for name, arm in predictors.arms(CFG, world).items():
        if arm.changes and "predictor_depth" in arm.changes:
            continue
        model = worlds.model(CFG, world.grid, world.patches.shape[-1], 0, arm.predictor)
        calls = []
        model.encoder.register_forward_hook(lambda module, inputs, out: calls.append(out.shape[1]))
        arm.objective(model, patches, seen).backward()
        assert all(p.grad is None for p in model.target_encoder.parameters()), name
        sees_everything = world.grid[0] * world.grid[1] in calls  # the trained encoder made the targets
        assert sees_everything == (name in ("no stop-gradient", "SIGReg", "VICReg")), name


def test_raw_targets_equal_normalised_ones_while_the_encoders_last_norm_is_fresh(batch):
    torch.testing.assert_close(
        predictors.raw_target_objective(*batch), train.jepa_objective(*batch), atol=1e-5, rtol=1e-4
    )


def test_the_contrast_prefers_the_right_image():
    target = torch.randn(8, 2, 4, 16, generator=torch.Generator().manual_seed(0))
    assert predictors.contrast(target, target) < 0.01 < predictors.contrast(target.roll(1, dims=0), target)


def test_the_regularisers_make_a_constant_encoder_expensive():
    normal = torch.randn(256, CFG.width, generator=torch.Generator().manual_seed(0))
    for term in (predictors.sigreg_term(CFG), predictors.vicreg_term(CFG)):
        assert term(torch.ones_like(normal)) > 5 * term(normal)


def test_collapse_is_seen_where_it_is_built_in_and_nowhere_else(world):
    cfg = replace(CFG, num_steps=60, log_every=20)
    arms = predictors.arms(cfg, world)
    alarm = {
        name: collapse.first_alarm(worlds.train_arm(cfg, world, arms[name], 0, progress=False).history)
        for name in ("I-JEPA", "no stop-gradient", "SIGReg", "VICReg")
    }
    assert alarm.pop("no stop-gradient") is not None
    assert set(alarm.values()) == {None}


def test_more_predictor_costs_more(world):
    cfg = predictors.preset("laptop")
    cost = {
        name: predictors.step_mflop(cfg, world, arm)
        for name, arm in predictors.arms(cfg, world).items()
        if "predictor" in name or name == "I-JEPA"
    }
    assert (
        cost["no predictor"]
        < cost["linear predictor"]
        < cost["predictor width 16"]
        < cost["I-JEPA"]
        < cost["predictor depth 4"]
    )
    assert cost["I-JEPA"] < cost["predictor width 128"]


def test_a_predictor_that_stands_still_loses_directions(cells):
    rank = {cell: history["rankme"][-1] for cell, history in cells.items()}
    assert rank[0.0, 10.0] > rank[0.0, 0.0] + 1


def test_the_first_alarm_is_the_first():
    healthy, dead = (
        dict(feature_std=0.5, cosine_to_mean=0.5, rankme=9.0, rank_share=0.3),
        dict(feature_std=0.5, cosine_to_mean=1.0, rankme=1.1, rank_share=0.03),
    )
    history = {"step": [10, 20, 30], **{key: [healthy[key], dead[key], dead[key]] for key in healthy}}
    step, said = collapse.first_alarm(history)
    assert step == 20 and "collapse" in said
    assert collapse.first_alarm({key: values[:1] for key, values in history.items()}) is None


def test_every_cell_of_the_phase_diagram_opens_its_own_curves(cells):
    figure = collapse.phase_figure(cells, diagnostics.rank_limit(16), "Where")
    names = {collapse.cell_name(*cell): cell for cell in cells}
    assert {frame.name for frame in figure.frames} == set(names)
    assert {name for row in figure.data[0].customdata for name in row} == set(names)
    for frame in figure.frames:
        loss, rank = (trace for trace in frame.data if trace.name in ("loss", "rankme"))
        assert list(loss.y) == cells[names[frame.name]]["loss"] and list(rank.y) == cells[names[frame.name]]["rankme"]
    rung = [name for name, cell in names.items() if collapse.last_alarm(cells[cell])]
    crossed = [
        name
        for texts, row in zip(figure.data[0].text, figure.data[0].customdata)
        for text, name in zip(texts, row)
        if "✕" in text
    ]
    assert sorted(crossed) == sorted(rung)
    lowest = min(cells, key=lambda cell: cells[cell]["rankme"][-1])
    assert figure.frames[0].name == collapse.cell_name(*lowest)
    partial = {cell: history for cell, history in cells.items() if cell != (0.0, 1.0)}
    with pytest.raises(ValueError, match="no run of EMA 0, lr × 1;"):
        collapse.phase_figure(partial, 2.0)


def test_a_click_on_a_cell_goes_to_it_and_the_slider_follows(cells, browser_path, tmp_path):
    spec = json.dumps(json.loads(collapse.phase_figure(cells, 2.0).to_json())).replace("</", "<\\/")
    scripts = '<script src="plotly.min.js"></script><script src="plotly-book.js" defer></script>'
    body = f'<div class="jl-plot" role="group" aria-label="map"><p class="jl-plot-alt">map</p><script type="application/json">{spec}</script></div>'
    (tmp_path / "page.html").write_text(
        f"<!doctype html><html data-theme='light'><link rel='icon' href='data:,'><meta charset='utf-8'>{body}{scripts}</html>"
    )
    shutil.copy(Path(plotly.__file__).parent / "package_data" / "plotly.min.js", tmp_path)
    shutil.copy(REPO / "book" / "_static" / "plotly-book.js", tmp_path)
    with chromium(browser_path) as browser, served(tmp_path) as base:
        seen = visit(browser, base, "page")
        seen.wait("document.querySelector('.jl-plot').dataset.drawn")
        where = seen.page.evaluate("""() => { const plot = document.querySelector('.jl-canvas'), box = plot.getBoundingClientRect(), l = plot._fullLayout;
          return [box.x + l.xaxis._offset + l.xaxis.c2p(2), box.y + l.yaxis._offset + l.yaxis.c2p(1)]; }""")
        seen.page.mouse.click(*where)
        seen.wait("document.querySelector('.jl-slider output').textContent === 'EMA 0.99, lr × 10'")
        assert seen.page.evaluate("document.querySelector('.jl-canvas').data[3].y.at(-1)") == pytest.approx(
            cells[0.99, 10.0]["rankme"][-1]
        )
        assert seen.trouble == []


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
    rows = racing.rows_of(records, costs)
    assert [row["recipe"] for row in rows] == ["ours", "official", "never"] and rows[0]["seeds"] == [0, 1]
    curves = racing.curves_figure(records, rows)
    assert len(curves.data) == 6 and "never in half of its runs" in curves.layout.meta["description"]
    assert list(curves.data[2].x) == [100.0, 200.0, 300.0]  # 10, 20, 30 steps of the official recipe
    text = " ".join(str(trace.text) for trace in racing.arrival_figure(rows).data)
    assert "20.0 ×" in text
    assert racing.settings_of(records, rows) == {"ours": {"lr": 3}, "official": {}, "never": {"extra": 4}}


def test_a_race_without_its_reference_or_its_costs_has_no_table():
    alone, costs = [race_record("ours", 0, [0.5, 0.6])], [cost_record(ours=1.0)]
    assert (
        racing.rows_of([], costs)
        == []
        == racing.rows_of(alone, costs)
        == racing.rows_of([race_record("official", 0, [0.5, 0.6])], [])
    )


def test_the_ladder_says_what_each_rung_gave_also_when_it_took():
    records = [race_record("1 + more", seed, [0.5, 0.6 + seed / 50]) for seed in (0, 1)] + [
        race_record("2 + less", 0, [0.5, 0.58]),
        race_record("0 first", 0, [0.5, 0.6]),
    ]
    rungs = racing.rungs_of([*records, race_record("official", 0, [0.5, 0.9])], [cost_record(**{"0_first": 2.0})])
    assert [rung["recipe"] for rung in rungs] == ["0 first", "1 + more", "2 + less"] and [
        len(rung["finals"]) for rung in rungs
    ] == [1, 2, 1]
    assert rungs[0]["gain"] is None and [rung["gain"] for rung in rungs[1:]] == pytest.approx([0.01, -0.03])
    assert [rung["here_s"] for rung in rungs] == [60.0, None, None] and rungs[0]["ran_s"] == 80.0
    figure = racing.ladder_figure(rungs, 0.7)
    assert "2 + less: 58.0 percent, -3.0 points" in figure.layout.meta["description"] and list(
        figure.data[-1].text
    ) == ["", "+1.0", "-3.0"]
    assert racing.rungs_of([], []) == []


def test_the_paper_preset_is_vit_l_16_with_the_papers_predictor():
    cfg = predictors.preset("paper")
    assert (cfg.width, cfg.depth, cfg.heads, cfg.predictor_width, cfg.predictor_depth) == (1024, 24, 16, 384, 12)
    with pytest.raises(ValueError, match="unknown preset"):
        predictors.preset("huge")


def test_losses_of_the_arms_are_those_they_name(world, batch):
    model, patches, seen = batch
    arms = predictors.arms(CFG, world)
    with torch.no_grad():
        target = losses.gather_blocks(losses.normalise(model.target_encoder(patches)), seen.target_idx)
        pred = predictors.predict(model, patches, seen)
        for name, expected in (
            ("L1", (pred - target).abs().mean()),
            ("cosine", 1 - torch.cosine_similarity(pred, target, dim=-1).mean()),
        ):
            torch.testing.assert_close(arms[name].objective(model, patches, seen), expected)
