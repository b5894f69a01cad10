"""The fact explorer: its data are the models' own answers, and the page shows them in a browser alone."""

import json
import shutil
import subprocess

import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from in_browser import chromium, served, visit

from jepa_lab.data.facts import real as real_facts
from jepa_lab.papers.reversal_curse import arms as fact_arms
from jepa_lab.papers.reversal_curse import entanglement
from jepa_lab.papers.reversal_curse import explorer as facts
from jepa_lab.papers.reversal_curse import paper as rc
from jepa_lab.papers.reversal_curse import scores as recall

CFG = rc.preset("smoke")
DARK = "--pst-color-text-base:#e6e6e6;--pst-color-text-muted:#b0b6bd;--pst-color-background:#121212;--jl-line:#454b54;--jl-accent:#6bb6e8;--jl-warm:#f0925a;background:#121212"


@pytest.fixture(scope="module")
def trained():
    return {
        name: fact_arms.train_arm(CFG, name, 0)
        for name in ("AR", "JEPA", "AR + memory", "JEPA + memory", "AR, concepts", "AR, concepts, untied")
    }


@pytest.fixture(scope="module")
def data(trained):
    return facts.explorer_data(trained)


def rows(data):
    return [q for both in data["pairs"] for q in both]


def test_every_fact_is_asked_there_and_back_and_says_what_was_taught(trained, data):
    world = trained["JEPA"].world
    taught, tested = ({tuple(row) for row in part.tolist()} for part in (world.train, world.reversed))
    for there, back in data["pairs"]:
        assert (back["s"], back["r"], back["o"]) == (there["o"], there["r"] ^ 1, there["s"])
        for q in (there, back):
            fact = q["s"], q["r"], q["o"]
            assert q["taught"] == (fact in taught) and q["taught"] != (fact in tested)
    assert {q["taught"] for q in rows(data)} == {True, False}


def test_ranks_and_top_answers_are_those_of_the_exact_evaluation(trained, data):
    tests = [q for q in rows(data) if not q["taught"]]
    asked = torch.tensor([[q["s"], q["r"], q["o"]] for q in tests])
    for name in ("JEPA", "JEPA + memory", "AR, concepts"):
        exact = recall.recall(trained[name].run.model, asked, trained[name].world.partners())
        assert sum(1 / q["answers"][name][0] for q in tests) / len(tests) == pytest.approx(exact.mrr, rel=1e-5)
    model = trained["AR"].run.model
    for q in tests[:5]:
        likelihood = recall.ask(model, q["s"], q["r"])
        assert q["answers"]["AR"][1] == likelihood.topk(5).indices.tolist()
        assert q["answers"]["AR"][0] == 1 + int((likelihood > likelihood[q["o"]]).sum())


def test_ranks_come_from_scores_not_from_shares_that_vanish(trained, monkeypatch):
    plain = facts.explorer_data({"JEPA": trained["JEPA"]})
    scores = recall.entity_scores
    monkeypatch.setattr(recall, "entity_scores", lambda *question: 1e6 * scores(*question))
    sharp = facts.explorer_data({"JEPA": trained["JEPA"]})
    assert [q["answers"]["JEPA"][0] for q in rows(sharp)] == [q["answers"]["JEPA"][0] for q in rows(plain)]


def test_every_arm_has_its_layers_and_the_tally_its_ceiling(trained, data):
    assert {name: [layer for layer, *_ in rows] for name, rows in data["layers"].items()} == {
        name: list(entanglement.by_layer(one.run.model)) for name, one in trained.items()
    }
    assert data["blind"] == pytest.approx(1 / 3, abs=1e-3)


def test_near_names_share_a_token_and_everybody_marked_is_on_the_map_with_a_name(trained, data):
    names, model = trained["JEPA"].world.names, trained["JEPA"].run.model
    alpha = torch.nn.functional.normalize(entanglement.hidden_activations(model, torch.arange(len(names))), dim=1)
    for s, near in data["near"].items():
        assert near and all(set(names[int(s)].tolist()) & set(names[e].tolist()) for e, _ in near)
        assert all(cosine == pytest.approx(float(alpha[int(s)] @ alpha[e]), abs=1e-3) for e, cosine in near)
    seen = (
        {e for near in data["near"].values() for e, _ in near}
        | {q["s"] for q in rows(data)}
        | {e for q in rows(data) for _, top, _ in q["answers"].values() for e in top}
    )
    assert seen <= set(data["drawn"]) and {str(e) for e in seen} <= set(data["labels"])
    assert set(data["maps"]) == {"JEPA", "JEPA + memory"} and all(
        len(plane) == len(data["drawn"]) for plane in data["maps"].values()
    )
    assert data["consistency"]["AR, concepts"] == pytest.approx(1) and "AR" not in data["consistency"]


def test_the_data_of_a_laptop_world_stay_below_300_kb():
    world = fact_arms.world_of(rc.preset("laptop"), 0)
    run = fact_arms.start(
        rc.preset("laptop"), fact_arms.ARMS["JEPA"], world.names, world.vocabulary, world.num_relations, 0
    )
    six = {f"JEPA, arm number {i}": fact_arms.Trained(run, world, None, None, None) for i in range(6)}
    assert len(json.dumps(facts.explorer_data(six))) < 300_000


def test_an_explorer_without_models_is_refused():
    with pytest.raises(ValueError, match="at least one trained arm"):
        facts.explorer_data({})


def test_the_widget_carries_the_script_and_the_data(trained):
    widget = facts.fact_explorer({"JEPA": trained["JEPA"]}, per_group=(1, 1))
    assert (
        widget.data["arms"] == ["JEPA"]
        and len(widget.data["pairs"]) == 2 * CFG.num_pairs
        and "export function tally" in widget._esm
    )


def test_countries_and_typed_facts_train_and_open_the_explorer(tmp_path):
    table = tmp_path / "few.json"
    table.write_text(json.dumps({"rows": json.loads(real_facts.TABLE.read_text(encoding="utf-8"))["rows"][:8]}))
    for world in (
        real_facts.countries(torch.Generator().manual_seed(0), table=table),
        real_facts.typed(facts.TYPED, facts.TYPED_RELATIONS),
    ):
        trained = facts.train_on(world, 1, progress=False)
        data = facts.explorer_data(trained, per_group=(2, 2))
        assert data["labels"][str(data["pairs"][0][0]["s"])] in world.labels and data["relations"] == list(
            world.relations
        )
        assert "relation-blind ceiling" in facts.summary(trained)


def test_the_live_explorer_trains_on_typed_facts_and_says_what_it_cannot_read(capsys):
    _, source, typed, relations, steps, button, _ = facts.live_fact_explorer(steps=1).children
    button.click()
    assert "relation-blind ceiling" in capsys.readouterr().out
    typed.value = "Ada | likes | Bob"
    button.click()
    assert "no relation 'likes'" in capsys.readouterr().out


# Figures


def test_the_blind_reader_scores_one_over_r_at_every_stop_of_the_slider():
    figure = facts.blind_figure()
    for pairs, frame in enumerate(figure.frames, 1):
        blind = frame.data[1].y
        assert blind[0] == pytest.approx(1 / pairs, abs=1e-3) and blind[1] == pytest.approx(
            sum(1 / k for k in range(1, pairs + 1)) / pairs, abs=1e-3
        )


def test_ceiling_and_chance_are_drawn_across_the_values_and_said():
    from jepa_lab import figures

    fig = facts.beside(
        figures.curves({"JEPA": ([0, 10], [0.0, 0.5])}, "step", "accuracy"), relation_blind_ceiling=1 / 3, chance=0.002
    )
    assert [tuple(t.y) for t in fig.data[1:]] == [(1 / 3, 1 / 3), (0.002, 0.002)] and tuple(fig.data[1].x) == (0, 10)
    assert "relation blind ceiling 0.333, chance 0.002" in fig.layout.meta["description"]
    across = facts.beside(figures.claim_figure({}, {"a": 1.0, "b": 2.0}, "accuracy"), "x", chance=0.1)
    assert tuple(across.data[-1].x) == (0.1, 0.1) and tuple(across.data[-1].y) == (-0.5, 1.5)


def test_stored_runs_are_drawn_by_arm_and_missing_or_few_are_said():
    records = [
        {
            "seed": seed,
            "values": {"JEPA: test accuracy": 0.4, "JEPA, untied: test accuracy": 0.1 * seed, "blind accuracy": 0.3},
        }
        for seed in range(3)
    ]
    assert facts.by_arm(records, "test accuracy") == {"JEPA": [0.4] * 3, "JEPA, untied": [0.0, 0.1, 0.2]}
    assert facts.stored_figure(records, "ablations", chance=0.1).layout.title.text == "Stored runs: ablations"
    assert "only 2 seeds: too few" in facts.stored_figure(records[:2], "ablations").layout.title.text
    assert "nothing is concluded" in facts.stored_figure([], "ablations").data


def test_the_cloud_of_overlaps_leaves_out_the_taught_entity_itself(trained):
    measured = rc.diagnose(trained["JEPA"])
    cloud = facts.overlap_figure(measured, most=10**9).data[0]
    assert len(cloud.x) == int((~measured.overlap.isnan()).sum()) and not any(v != v for v in cloud.x)


# In the page


def test_the_page_counts_and_judges_as_the_data_say(data):
    if shutil.which("node") is None:
        pytest.skip("node is not on this machine; the browser tests below run the same script")
    program = f"const m = await import('file://{facts.HERE / 'explorer.js'}'); const d = {json.dumps(data)};"
    program += "console.log(JSON.stringify([m.tally(d), d.pairs.flat().map((q) => m.outcome(d, q, 'JEPA').kind), m.subjects(d).map((s) => [s.id, s.tested])]));"
    done = subprocess.run(
        [shutil.which("node"), "--input-type=module", "-"], input=program, capture_output=True, text=True, timeout=60
    )
    tally, kinds, subjects = json.loads(done.stdout)
    tests = [q for q in rows(data) if not q["taught"]]
    assert tally == [[arm, sum(q["answers"][arm][0] == 1 for q in tests), len(tests)] for arm in data["arms"]]
    for q, kind in zip(rows(data), kinds):
        rank, top, _ = q["answers"]["JEPA"]
        assert kind == ("right" if rank == 1 else "partner" if top[0] in data["partners"][str(q["s"])] else "other")
    assert [s for s, tested in subjects if not tested] == sorted(
        {t["s"] for t, back in data["pairs"] if t["taught"] and back["taught"]}
    )


@pytest.fixture(scope="module")
def browser(browser_path):
    with chromium(browser_path) as running:
        yield running


@pytest.fixture(scope="module")
def site(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("facts")
    for name in ("explorer.js", "facts.css"):
        shutil.copy(facts.HERE / name, folder)
    mount = f"import {{ mount }} from './explorer.js'; mount(document.querySelector('main'), {json.dumps(data)});"
    for page, style in (("light", "background:#fff"), ("dark", DARK)):
        (folder / f"{page}.html").write_text(
            '<!doctype html><html lang="en"><title>explorer</title><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
            f'<link rel="stylesheet" href="explorer.css"><body style="{style}"><main></main><script type="module">{mount}</script></body></html>'
        )
    with served(folder) as address:
        yield address


@pytest.fixture(params=["light", "dark"])
def seen(browser, site, request):
    opened = visit(browser, site, request.param, width=390)
    opened.page.wait_for_selector(".jl-f-card")
    yield opened
    assert opened.trouble == []
    opened.page.context.close()


def test_on_a_phone_another_entity_relation_and_model_change_the_answers(seen, data):
    page = seen.page
    asked = lambda: page.locator(".jl-f-card h4").all_inner_texts()[:2]
    first = asked()
    assert page.locator(".jl-f-test").count() == 1  # starts with something that was never taught
    page.get_by_label("Relation", exact=True).select_option(index=1)
    assert asked() != first
    page.get_by_label("Entity", exact=True).focus()
    page.keyboard.press("ArrowDown")
    assert asked()[0].split(data["relations"][0])[0] != first[0].split(data["relations"][0])[0]
    assert page.locator(".jl-facts svg .jl-f-person").count() >= 3
    page.get_by_label("Model in detail", exact=True).select_option("AR")
    assert page.locator(".jl-facts svg").count() == 0 and "spells answers" in page.locator(".jl-f-cards").inner_text()
    assert page.locator(".jl-f-said").inner_text().startswith("AR. There, ")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_explorer_has_no_serious_accessibility_fault(seen):
    faults = [v for v in Axe().run(seen.page).response["violations"] if v["impact"] in ("serious", "critical")]
    assert faults == []
