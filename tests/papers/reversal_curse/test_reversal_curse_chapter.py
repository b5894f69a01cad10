"""Chapter 11: the page shows every experiment beside its ceilings, and stored long runs only as far as they go."""

from pathlib import Path

import jupytext
import pytest
import torch

from jepa_lab import diagnostics, records
from jepa_lab.data.facts import generated as worlds
from jepa_lab.papers.reversal_curse import arms as fact_arms
from jepa_lab.papers.reversal_curse import entanglement
from jepa_lab.papers.reversal_curse import explorer as facts
from jepa_lab.papers.reversal_curse import paper as rc
from jepa_lab.papers.reversal_curse import scores as recall
from jepa_lab.publish import chapters, ledger

CFG = rc.preset("smoke")
PAGE = Path(__file__).resolve().parents[3] / "notebooks" / "11_reversal_curse.py"


@pytest.fixture(scope="module")
def code() -> str:
    return "\n".join(cell.source for cell in jupytext.read(PAGE).cells if cell.cell_type == "code")


def test_the_page_runs_every_experiment_once_and_shows_every_long_one(code):
    assert [code.count(f"rc.{experiment.__name__}(") for experiment in rc.EXPERIMENTS] == [1] * len(rc.EXPERIMENTS)
    assert all(f'long["{name}"]' in code for name in rc.LONG) and "rc.LONG_CLAIMS.items()" in code
    assert "rc.long_study" not in code  # drawn from records, never trained on the page


def test_every_figure_of_accuracy_stands_beside_its_ceiling():
    cells = [cell.source for cell in jupytext.read(PAGE).cells if cell.cell_type == "code"]
    named = {
        "**levels": ("facts answered",),
        "**far": ("facts answered", '"ablations", **far', '"entanglement", **far', '"patience", **far'),
        "relation_blind_and_chance=0.5": ('"P"', "P: the right"),
        "relation_blind_ceiling=": ("reciprocal rank",),
        "chance=": ("right values", "right targets", "right entities"),
        "chance_at_modulus_10007=": ("right answers",),
    }
    scored = [
        source
        for source in cells
        if any(word in source for words in named.values() for word in words) and "explorer." in source
    ]
    assert len(scored) >= 14
    for source in scored:
        assert any(level in source and any(word in source for word in words) for level, words in named.items()), source


def test_a_model_is_trained_on_the_world_it_is_given():
    world = worlds.generate(16, 10, 2, 2, torch.Generator().manual_seed(5))
    one = fact_arms.train_arm(CFG, "JEPA", 0, world=world)
    assert len(one.run.model.names) == 26 and torch.equal(one.world.reversed, world.reversed)


def test_the_history_of_a_jepa_holds_the_collapse_panel_of_its_concepts_and_lands_in_the_record(tmp_path, capsys):
    outcome = rc.names_duel(CFG, 0)
    one = outcome.trained["JEPA"]
    assert one.history["rankme"][-1] == pytest.approx(
        diagnostics.panel(recall.all_concepts(one.run.model))["rankme"], rel=1e-6
    )
    assert "rankme" not in outcome.trained["AR"].history
    record = records.start(rc.CHAPTER, preset="smoke", seed=0, config=CFG, claims=rc.CLAIMS, out=tmp_path)
    outcome.put(record)
    assert record.record["values"]["JEPA + memory: rankme"] > 1 and "AR: rankme" not in record.record["values"]


def test_of_many_entities_the_first_are_compared_layer_by_layer():
    model = fact_arms.train_arm(CFG, "JEPA", 0).run.model
    some = entanglement.by_layer(model, most=40)
    assert some != entanglement.by_layer(model) == entanglement.by_layer(model, most=10**6)
    shared = entanglement.sharing(model.names[:40], model.names[:40])
    assert torch.equal(shared, shared.T) and bool(shared.diagonal().all()) and not bool(shared.all())


def test_a_stored_long_run_is_drawn_with_every_arm_of_its_experiment(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(rc, "preset", lambda name: CFG)
    rc.long_study("ablations", 0, tmp_path)
    held = records.load(rc.CHAPTER, "long", tmp_path, config=rc.long_config("ablations"))
    figure = facts.stored_figure(held, "ablations", chance=1 / 64)
    arms = {name for name in fact_arms.ARMS if name == "JEPA" or name.startswith("JEPA,")} | {
        "JEPA + memory, equal weights"
    }
    assert set(facts.by_arm(held, "test accuracy")) == set(facts.by_arm(held, "rankme")) == arms
    lines = facts.layer_lines(held).splitlines()
    assert len(lines) == 2 * len(arms) and any(
        line.startswith("JEPA, untied ") and "recognition 1" in line for line in lines
    )
    assert "only 1 seed" in figure.layout.title.text and all(name in figure.layout.meta["description"] for name in arms)


def test_claims_of_stored_long_runs_reach_the_claims_page(tmp_path):
    for seed in range(3):
        record = records.start(
            rc.CHAPTER,
            preset="long",
            seed=seed,
            config=rc.long_config("patience"),
            claims=rc.LONG_CLAIMS["patience"],
            out=tmp_path,
        )
        record.claim("ar-curse-long", value=0.001 * seed, baseline=0.05)
        record.claim("jepa-over-blind-long", value=0.7, baseline=1 / 3)
        record.save()
    (chapter,) = chapters.pick([rc.CHAPTER], PAGE.parents[1])
    rows = {row["claim_id"]: row for row in ledger.rows([chapter], root=tmp_path)}
    assert (rows["ar-curse-long"]["verdict"], rows["ar-curse-long"]["preset"]) == ("supported", "long")
    assert {claim.id for stated in rc.LONG_CLAIMS.values() for claim in stated} <= rows.keys() and rows["depth-hurts"][
        "n_seeds"
    ] == 0
    assert all(ledger.baselines([chapter])[rc.CHAPTER, id] for id in rows)
