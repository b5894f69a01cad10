"""Chapter 11: the page shows every experiment beside its ceilings, and stored long runs only as far as they go."""

from pathlib import Path

import jupytext
import pytest

from jepa_lab import records
from jepa_lab.papers.reversal_curse import experiments, long, pages, paper
from jepa_lab.papers.reversal_curse import explorer as facts_explorer
from jepa_lab.papers.reversal_curse.arms import facts_of, train_variant, untrained
from jepa_lab.publish import chapters, ledger

CFG = paper.preset("smoke")
PAGE = Path(__file__).resolve().parents[3] / "notebooks" / "11_reversal_curse.py"

# Words that name a score in a figure, and the reference lines that must stand beside it
LEVELS = {
    "**levels": ("facts answered",),
    "**far": ("facts answered", '"ablations", **far', '"entanglement", **far', '"patience", **far'),
    "relation_blind_and_chance=0.5": ('"P"', "P: the right"),
    "relation_blind_ceiling=": ("reciprocal rank",),
    "chance=": ("right values", "right targets", "right entities"),
    "chance_at_modulus_10007=": ("right answers",),
}


@pytest.fixture(scope="module")
def cells() -> list[str]:
    return [cell.source for cell in jupytext.read(PAGE).cells if cell.cell_type == "code"]


def test_the_page_runs_every_experiment_once_and_shows_every_long_one(cells):
    code = "\n".join(cells)
    for experiment in experiments.EXPERIMENTS:
        assert code.count(f"experiments.{experiment.__name__}(") == 1
    assert all(f'stored["{name}"]' in code for name in long.LONG)
    assert "paper.LONG_CLAIMS.items()" in code
    assert "long_study" not in code  # drawn from records, never trained on the page


def test_every_figure_of_accuracy_stands_beside_its_ceiling(cells):
    words = {word for some in LEVELS.values() for word in some}
    scored = [source for source in cells if "explorer." in source and any(word in source for word in words)]
    assert len(scored) >= 14
    for source in scored:
        beside = [level for level, some in LEVELS.items() if level in source and any(word in source for word in some)]
        assert beside, source


@pytest.fixture(scope="module")
def trained():
    facts = facts_of(CFG, 0)
    models = {name: train_variant(CFG, name, facts, 0, ranked=4, progress=False) for name in ("JEPA", "AR")}
    return models | {"JEPA, untrained": untrained(CFG, "JEPA", facts, 0)}


def test_learning_curves_leave_out_the_random_starts(trained):
    figure = pages.learning_curves(trained, "test accuracy", "accuracy", "title")
    assert [line.name for line in figure.data] == ["JEPA", "AR"]
    assert tuple(figure.data[0].x) == (4, 8)


def test_scores_stand_beside_the_study_and_unknown_ones_are_left_out(trained):
    study = [{"values": {"JEPA: test mrr": 0.4 + seed / 10}} for seed in range(3)]
    text = pages.score_figure(study, trained, "mrr", "MRR", "title", {"JEPA": 0.7}).layout.meta["description"]
    assert "JEPA" in text and "0.5" in text  # the study's mean
    assert pages.study_values(study, "AR: test mrr") == []


def test_tables_have_one_row_a_model_or_kind_of_question(trained):
    choice = pages.closed_choice(trained, 0.611).data
    assert choice.count('<th scope="row">') == 2 and '<th scope="row">JEPA</th><td>6,688</td>' in choice
    values = {"branching 2, AR: answers": 0.25}
    chain = pages.chain_table(values, 2).data
    cells = "".join(f"<td>{cell}</td>" for cell in ("–", "0.25", "–", "–"))
    assert chain.count('<th scope="row">') == 3 and f'<th scope="row">targets</th>{cells}' in chain


def test_a_stored_long_run_is_drawn_with_every_arm_of_its_experiment(tmp_path, monkeypatch):
    monkeypatch.setattr(long, "preset", lambda name: CFG)
    long.long_study("ablations", 0, tmp_path)
    held = records.load(paper.CHAPTER, "long", tmp_path, config=paper.long_config("ablations"))
    figure = facts_explorer.stored_figure(held, "ablations", chance=1 / 64)
    arms = set(long.ABLATED)
    assert len(arms) == 8
    for field in ("test accuracy", "rankme"):
        assert set(facts_explorer.by_arm(held, field)) == arms
    table = facts_explorer.layer_table(held).data
    assert table.count('<th scope="row">') == 2 * len(arms)
    assert '<th scope="row">JEPA, untied</th><td>recognition 1' in table
    assert "only 1 seed" in figure.layout.title.text
    assert all(name in figure.layout.meta["description"] for name in arms)


def test_claims_of_stored_long_runs_reach_the_claims_page(tmp_path):
    stated, config = paper.LONG_CLAIMS["patience"], paper.long_config("patience")
    for seed in range(3):
        record = records.start(paper.CHAPTER, preset="long", seed=seed, config=config, claims=stated, out=tmp_path)
        record.claim("ar-curse-long", value=0.001 * seed, baseline=0.05)
        record.claim("jepa-over-blind-long", value=0.7, baseline=1 / 3)
        record.save()
    (chapter,) = chapters.pick([paper.CHAPTER], PAGE.parents[1])
    rows = {row["claim_id"]: row for row in ledger.rows([chapter], root=tmp_path)}
    assert (rows["ar-curse-long"]["verdict"], rows["ar-curse-long"]["preset"]) == ("supported", "long")
    assert {claim.id for some in paper.LONG_CLAIMS.values() for claim in some} <= rows.keys()
    assert rows["depth-hurts"]["n_seeds"] == 0
    baselines = ledger.baselines([chapter])
    assert all(baselines[paper.CHAPTER, claim] for claim in rows)
