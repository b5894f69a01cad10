"""The fact explorer: its data are the models' own answers, and the page shows them in a browser alone."""

import json

import pytest
import torch
from explorer_page import explorer_pages, faults, fits, javascript

from jepa_lab import figures
from jepa_lab.data.facts import real
from jepa_lab.papers.reversal_curse import arms, entanglement, explorer, paper, scores
from jepa_lab.papers.reversal_curse.explorer_data import explorer_data

CFG = paper.preset("smoke")
NAMES = ("AR", "JEPA", "JEPA + memory", "AR, concepts")


@pytest.fixture(scope="module")
def trained():
    facts = arms.facts_of(CFG, 0)
    return {name: arms.train_variant(CFG, name, facts, 0, progress=False) for name in NAMES}


@pytest.fixture(scope="module")
def data(trained):
    return explorer_data(trained)


def rows(data):
    return [question for both in data["pairs"] for question in both]


def test_every_fact_is_asked_forward_and_backward_and_says_what_was_taught(trained, data):
    facts = trained["JEPA"].facts
    taught, tested = (set(map(tuple, part.tolist())) for part in (facts.train, facts.reversed))
    for forward, backward in data["pairs"]:
        assert (backward["s"], backward["r"], backward["o"]) == (forward["o"], forward["r"] ^ 1, forward["s"])
        for q in (forward, backward):
            fact = q["s"], q["r"], q["o"]
            assert q["taught"] == (fact in taught) and q["taught"] != (fact in tested)
    assert {q["taught"] for q in rows(data)} == {True, False}


def test_ranks_and_top_answers_are_those_of_the_exact_evaluation(trained, data):
    tests = [q for q in rows(data) if not q["taught"]]
    asked = torch.tensor([[q["s"], q["r"], q["o"]] for q in tests])
    for name in ("JEPA", "JEPA + memory", "AR, concepts"):
        exact = scores.recall(trained[name].model, asked, trained[name].facts.partners())
        assert sum(1 / q["answers"][name][0] for q in tests) / len(tests) == pytest.approx(exact.mrr, rel=1e-5)
    model = trained["AR"].model
    for q in tests[:5]:
        likelihood = scores.ask(model, q["s"], q["r"])
        assert q["answers"]["AR"][1] == likelihood.topk(5).indices.tolist()
        assert q["answers"]["AR"][0] == 1 + int((likelihood > likelihood[q["o"]]).sum())


def test_ranks_come_from_scores_not_from_shares_that_vanish(trained, monkeypatch):
    plain = explorer_data({"JEPA": trained["JEPA"]})
    exact = scores.entity_scores
    monkeypatch.setattr(scores, "entity_scores", lambda *question: 1e6 * exact(*question))
    sharp = explorer_data({"JEPA": trained["JEPA"]})
    assert [q["answers"]["JEPA"][0] for q in rows(sharp)] == [q["answers"]["JEPA"][0] for q in rows(plain)]


def test_every_arm_has_its_layers_and_the_tally_its_ceiling(trained, data):
    layers = {name: [layer for layer, *_ in found] for name, found in data["layers"].items()}
    assert layers == {name: list(entanglement.by_layer(arm.model)) for name, arm in trained.items()}
    assert data["blind"] == pytest.approx(1 / 3, abs=1e-3)


def test_near_names_share_a_token_and_everybody_marked_is_on_the_map_with_a_name(trained, data):
    names, model = trained["JEPA"].facts.names, trained["JEPA"].model
    alpha = torch.nn.functional.normalize(entanglement.hidden_activations(model, torch.arange(len(names))), dim=1)
    for s, near in data["near"].items():
        assert near and all(set(names[int(s)].tolist()) & set(names[e].tolist()) for e, _ in near)
        assert all(cosine == pytest.approx(float(alpha[int(s)] @ alpha[e]), abs=1e-3) for e, cosine in near)
    seen = {e for near in data["near"].values() for e, _ in near}
    seen |= {q["s"] for q in rows(data)}
    seen |= {e for q in rows(data) for _, top, _ in q["answers"].values() for e in top}
    assert seen <= set(data["drawn"]) and {str(e) for e in seen} <= set(data["labels"])
    assert set(data["maps"]) == {"JEPA", "JEPA + memory"}
    assert all(len(plane) == len(data["drawn"]) for plane in data["maps"].values())
    assert data["consistency"]["AR, concepts"] == pytest.approx(1) and "AR" not in data["consistency"]


def test_the_data_of_a_laptop_world_stay_below_300_kb():
    cfg = paper.preset("laptop")
    facts = arms.facts_of(cfg, 0)
    fresh = arms.fact_arm(cfg, "JEPA", facts).build(cfg)
    start = arms.Trained(fresh, {}, facts, None, None, None)
    six = {f"JEPA, arm number {i}": start for i in range(6)}
    assert len(json.dumps(explorer_data(six))) < 300_000


def test_an_explorer_without_models_is_refused():
    with pytest.raises(ValueError, match="at least one trained arm"):
        explorer_data({})


def test_the_widget_carries_the_script_and_the_data(trained):
    widget = explorer.fact_explorer({"JEPA": trained["JEPA"]}, per_group=(1, 1))
    assert widget.data["arms"] == ["JEPA"] and len(widget.data["pairs"]) == 2 * CFG.num_pairs
    assert "export function tally" in widget._esm and ".jl-f-card" in widget._css


def test_countries_and_typed_facts_train_and_open_the_explorer(tmp_path):
    table = tmp_path / "few.json"
    table.write_text(json.dumps({"rows": json.loads(real.TABLE.read_text(encoding="utf-8"))["rows"][:8]}))
    countries = real.countries(torch.Generator().manual_seed(0), table=table)
    for facts in (countries, real.typed(explorer.TYPED, explorer.TYPED_RELATIONS)):
        trained = explorer.train_on(facts, 1, progress=False)
        data = explorer_data(trained, per_group=(2, 2))
        assert data["labels"][str(data["pairs"][0][0]["s"])] in facts.labels
        assert data["relations"] == list(facts.relations)
        assert "relation-blind ceiling" in explorer.summary(trained)


def test_the_live_explorer_trains_on_typed_facts_and_says_what_it_cannot_read(capsys):
    _, source, typed, relations, steps, button, _ = explorer.live_fact_explorer(steps=1).children
    button.click()
    assert "relation-blind ceiling" in capsys.readouterr().out
    typed.value = "Ada | likes | Bob"
    button.click()
    assert "no relation 'likes'" in capsys.readouterr().out


# Figures


def test_the_blind_reader_scores_one_over_r_at_every_stop_of_the_slider():
    for pairs, frame in enumerate(explorer.blind_figure().frames, 1):
        accuracy, mrr, specific = frame.data[1].y
        assert accuracy == pytest.approx(1 / pairs, abs=1e-3) and specific == 0.5
        assert mrr == pytest.approx(sum(1 / k for k in range(1, pairs + 1)) / pairs, abs=1e-3)


def test_ceiling_and_chance_are_drawn_across_the_values_and_said():
    lines = figures.curves({"JEPA": ([0, 10], [0.0, 0.5])}, "step", "accuracy")
    fig = explorer.beside(lines, relation_blind_ceiling=1 / 3, chance=0.002)
    assert [tuple(t.y) for t in fig.data[1:]] == [(1 / 3, 1 / 3), (0.002, 0.002)] and tuple(fig.data[1].x) == (0, 10)
    assert "relation blind ceiling 0.333, chance 0.002" in fig.layout.meta["description"]
    across = explorer.beside(figures.claim_figure({}, {"a": 1.0, "b": 2.0}, "accuracy"), "x", chance=0.1)
    assert tuple(across.data[-1].x) == (0.1, 0.1) and tuple(across.data[-1].y) == (-0.5, 1.5)


def test_stored_runs_are_drawn_by_arm_and_missing_or_few_are_said():
    fixed = {"JEPA: test accuracy": 0.4, "blind accuracy": 0.3}
    records = [{"seed": seed, "values": {**fixed, "JEPA, untied: test accuracy": 0.1 * seed}} for seed in range(3)]
    assert explorer.by_arm(records, "test accuracy") == {"JEPA": [0.4] * 3, "JEPA, untied": [0.0, 0.1, 0.2]}
    assert explorer.stored_figure(records, "ablations", chance=0.1).layout.title.text == "Stored runs: ablations"
    assert "only 2 seeds: too few" in explorer.stored_figure(records[:2], "ablations").layout.title.text
    assert "nothing is concluded" in explorer.stored_figure([], "ablations").data


def test_the_cloud_of_overlaps_leaves_out_the_taught_entity_itself(trained):
    measured = entanglement.measure_some(trained["JEPA"].model, trained["JEPA"].facts)
    cloud = explorer.overlap_figure(measured, most=10**9).data[0]
    assert len(cloud.x) == int((~measured.overlap.isnan()).sum()) and not any(v != v for v in cloud.x)


# In the page


def test_the_page_counts_and_judges_as_the_data_say(data, tmp_path, request):
    run = javascript(explorer.SCRIPT, tmp_path, request)
    kinds_of = "d.pairs.flat().map((q) => m.outcome(d, q, 'JEPA').kind)"
    found = f"[m.tally(d), {kinds_of}, m.subjects(d).map((s) => [s.id, s.tested])]"
    tally, kinds, subjects = run(f"((d) => {found})({json.dumps(data)})")
    tests = [q for q in rows(data) if not q["taught"]]
    assert tally == [[arm, sum(q["answers"][arm][0] == 1 for q in tests), len(tests)] for arm in data["arms"]]
    for q, kind in zip(rows(data), kinds):
        rank, top, _ = q["answers"]["JEPA"]
        assert kind == ("right" if rank == 1 else "partner" if top[0] in data["partners"][str(q["s"])] else "other")
    taught_both_ways = {forward["s"] for forward, backward in data["pairs"] if forward["taught"] and backward["taught"]}
    assert [s for s, tested in subjects if not tested] == sorted(taught_both_ways)


@pytest.fixture(scope="module")
def page_for(tmp_path_factory, browser_path, data):
    folder = tmp_path_factory.mktemp("facts")
    with explorer_pages(folder, browser_path, explorer.SCRIPT, data, ".jl-f-card") as open_at:
        yield open_at


def asked(page) -> list[str]:
    return page.locator(".jl-f-card h3").all_inner_texts()[:2]


def test_on_a_phone_another_entity_relation_and_model_change_the_answers(page_for, data):
    seen = page_for(390)
    page = seen.page
    first = asked(page)
    assert page.locator(".jl-f-test").count() == 1, "starts with something that was never taught"
    page.get_by_label("Relation", exact=True).select_option(index=1)
    assert asked(page) != first
    page.get_by_label("Entity", exact=True).focus()
    page.keyboard.press("ArrowDown")
    assert asked(page)[0].split(data["relations"][0])[0] != first[0].split(data["relations"][0])[0]
    assert page.locator(".jl-facts svg .jl-f-person").count() >= 3
    page.get_by_label("Model in detail", exact=True).select_option("AR")
    assert page.locator(".jl-facts svg").count() == 0 and "spells answers" in page.locator(".jl-f-cards").inner_text()
    assert page.locator(".jl-f-said").inner_text().startswith("AR. Forward: ")
    assert fits(page, 390) and seen.trouble == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_explorer_passes_the_accessibility_rules(page_for, theme):
    assert faults(page_for(390, theme).page) == []
