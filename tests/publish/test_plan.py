"""What is checked and shown before and while notebooks run: parameters, grids, cache keys, progress."""

import io

import nbformat
import pytest
import tiny_paper
from small_notebook import PARAMETERS, write_notebook

from jepa_lab import provenance
from jepa_lab.publish import batch, cache, chapters, jobs, parameters
from jepa_lab.publish.progress import Progress


@pytest.fixture
def chapter(tmp_path, monkeypatch) -> chapters.Chapter:
    """A chapter with the tiny paper, whose notebook has one parameter of its own."""
    tiny_paper.use_as_every_paper(monkeypatch)
    write_notebook(tmp_path / "notebooks" / "01_tiny.ipynb", "print(1)", parameters=PARAMETERS + "\nsteps = 3")
    return chapters.Chapter("01_tiny", tmp_path)


@pytest.mark.parametrize(
    "given, message",
    [
        ({"stepz": "3"}, "no parameter 'stepz'; it knows: device, out, steps, lr, depth, betas"),
        ({"steps": "many"}, "steps must be int like 3, not 'many'"),
        ({"depth": "2.5"}, "depth must be int like 2"),
        ({"lr": "True"}, "lr must be float"),
        ({"seed": "1"}, "use --seed"),
        ({"depth": "-1"}, "depth must be positive"),
    ],
)
def test_wrong_parameters_are_errors_before_anything_starts(chapter, given, message):
    with pytest.raises(ValueError, match=message):
        jobs.plan(chapter, "smoke", 0, given)
    assert not (chapter.root / "_build").exists()


def test_config_fields_travel_as_overrides_of_the_right_type(chapter):
    given = {"steps": "5", "lr": "1", "betas": "[0, 0.5]"}
    found, config = parameters.resolve(chapter, "smoke", 2, given, "cpu", "here")
    overrides = {"lr": 1.0, "betas": (0.0, 0.5)}
    assert found == {
        "preset": "smoke",
        "seed": 2,
        "device": "cpu",
        "out": "here",
        "steps": 5,
        "overrides": overrides,
    }
    assert config == tiny_paper.Config(**overrides)


@pytest.mark.parametrize("cell, message", [("seed = input()", "name = constant"), (None, "0 cells tagged")])
def test_a_notebook_without_a_plain_parameters_cell_is_refused(tmp_path, cell, message):
    path = write_notebook(tmp_path / "01_tiny.ipynb", parameters=cell or "")
    if cell is None:
        notebook = nbformat.read(path, as_version=4)
        notebook.cells[1].metadata["tags"] = []
        nbformat.write(notebook, path)
    with pytest.raises(ValueError, match=message):
        parameters.tagged(path)


def test_a_broken_record_stops_a_batch_by_name(chapter, tmp_path):
    (job,) = batch.plan([chapter], "smoke", [0], [{}], device="auto", out=tmp_path)
    job.record.parent.mkdir()
    job.record.write_text('{"seed"')
    with pytest.raises(ValueError, match=job.record.name):
        batch.split([job], force=False)


def test_seeds_and_grids_are_read_as_documented():
    assert batch.seeds("0:5") == [0, 1, 2, 3, 4] and batch.seeds("1,4") == [1, 4] and batch.seeds("7") == [7]
    assert batch.settings([]) == [{}]
    assert batch.settings(["lr=0.1,0.2", "mode=a,b"]) == [{"lr": x, "mode": y} for x in ("0.1", "0.2") for y in "ab"]
    assert batch.settings(["betas=(0.9, 0.95),(0.5, 0.6)"]) == [{"betas": "(0.9, 0.95)"}, {"betas": "(0.5, 0.6)"}]
    for wrong in ("", "a", "3:1", "-1"):
        with pytest.raises(ValueError, match="--seeds takes"):
            batch.seeds(wrong)
    with pytest.raises(ValueError, match="--grid takes"):
        batch.settings(["lr"])


def test_every_ingredient_of_a_result_changes_the_cache_key(tmp_path, monkeypatch):
    chapter = chapters.Chapter("01_tiny", tmp_path)
    package, study = tmp_path / "jepa_lab", tmp_path / "results" / "01_tiny"
    package.mkdir()
    study.mkdir(parents=True)
    write_notebook(chapter.notebook, "print(1)")
    keys = [cache.key(chapter, {"preset": "smoke"})]

    def changed():
        keys.append(cache.key(chapter, {"preset": "smoke"}))
        return keys[-1] not in keys[:-1]

    assert not changed()
    assert cache.key(chapter, {"preset": "laptop"}) != keys[0]
    assert cache.key(chapter, {"preset": "smoke", "out": "elsewhere"}) == keys[0]
    write_notebook(chapter.notebook, "print(2)")
    assert changed()
    (package / "masks.py").write_text("a = 1")
    assert not changed()  # the notebook does not import it
    chapter.notebook.with_suffix(".py").write_text("from jepa_lab import masks")
    assert changed()
    (package / "masks.py").write_text("a = 2")
    assert changed()
    (study / "laptop-seed0-a.json").write_text("{}")
    assert changed()
    (study / "laptop-seed0-a.json").write_text("{ }")
    assert changed()
    monkeypatch.setattr(provenance, "versions", lambda: {"torch": "0.0"})
    assert changed()


def test_a_script_that_was_edited_alone_is_not_run(chapter):
    chapter.notebook.with_suffix(".py").write_text("# %%\nprint(2)\n")
    with pytest.raises(ValueError, match="jupytext --sync"):
        chapters.in_sync([chapter])


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_time_left_shares_the_work_but_is_never_below_the_longest_job():
    progress = Progress({1: 100.0, 2: 20.0, 3: 20.0}, side_by_side=2, stream=io.StringIO())
    assert progress.seconds_left() == 100
    progress.left.pop(1)
    assert progress.seconds_left() == 20


def test_a_finished_run_corrects_the_expected_time_of_similar_runs(chapter):
    progress = Progress({1: 300.0, 2: 300.0, 3: 50.0}, alike={1: "a", 2: "a", 3: "b"}, stream=io.StringIO())
    progress.started(1, "a/0")
    progress.finished(1, jobs.Outcome(jobs.plan(chapter, "smoke", 0, {}), "done", 10.0))
    assert progress.seconds_left() == 60


def test_a_log_gets_whole_lines_and_no_bar(chapter):
    log = io.StringIO()
    progress = Progress({1: 75.0, 2: 30.0}, stream=log)
    progress.started(1, "01_tiny")
    progress.tick({1: (2, 4)})
    progress.finished(1, jobs.Outcome(jobs.plan(chapter, "smoke", 0, {}), "failed", 70.0, "01_tiny failed in cell 2"))
    progress.close()
    assert log.getvalue().splitlines() == [
        "2 to run, 1 side by side, about 01:45",
        "started  01_tiny",
        "FAILED   01_tiny in 01:10  [1 of 2, about 00:30 left]",
        "  01_tiny failed in cell 2",
    ]


def test_a_terminal_shows_the_running_cell_and_the_time_left():
    terminal = Terminal()
    progress = Progress({1: 3600.0, 2: 3600.0}, stream=terminal)
    progress.started(1, "01_tiny")
    progress.tick({1: (2, 4)})
    progress.close()
    shown = terminal.getvalue()
    assert "01_tiny cell 2/4" in shown and "0/2 done, about 1:59:59 left" in shown.replace("2:00:00", "1:59:59")


def test_nothing_to_run_shows_nothing():
    terminal = Terminal()
    Progress({}, stream=terminal).close()
    assert terminal.getvalue() == ""
