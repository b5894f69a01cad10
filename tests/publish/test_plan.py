"""What is checked and shown before and while notebooks run: parameters, grids, cache keys, progress."""

import io
import shutil

import nbformat
import pytest
import tiny_paper
from small_notebook import PARAMETERS, write_notebook

from jepa_lab import provenance, records
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
        ({"stepz": "3"}, "no parameter 'stepz'; it knows: steps, lr, depth, betas, heads, data"),
        ({"steps": "many"}, "steps must be a whole number like 3, not 'many'"),
        ({"depth": "2.5"}, "depth must be a whole number like 2"),
        ({"lr": "True"}, "lr must be a number like 0.1"),
        ({"lr": "1e999"}, "lr must be finite"),
        ({"depth": "9" * 30}, "depth must be finite and fit 64 bits"),
        ({"depth": "{[]: 1}"}, "depth must be a whole number"),
        ({"depth": "-" * 20_000 + "1"}, "depth must be a whole number"),
        ({"depth": "-1"}, "depth must not be negative"),
        ({"depth": "0"}, "depth must be positive"),
        ({"betas": "(0.9,)"}, r"betas must be two numbers like \(0.9, 0.95\), not \(0.9,\)"),
        ({"betas": "('a', 'b')"}, "betas must be two numbers"),
        ({"betas": "(0.1, 1e999)"}, "betas must be finite"),
        ({"heads": "many"}, "heads must be a whole number or None, not 'many'"),
        ({"data": "nowhere"}, "there is no folder /.*/nowhere"),
        ({"data": ","}, "data must be text like 'simulated'"),
        ({"seed": "1"}, "use --seed"),
        ({"out": "here"}, "use --out"),
        ({"device": "cpu"}, "use --device"),
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


@pytest.mark.parametrize("text, heads", [("none", None), ("3", 3)])
def test_a_field_that_may_be_empty_takes_none_and_its_own_type(chapter, text, heads):
    assert parameters.resolve(chapter, "smoke", 0, {"heads": text})[1].heads == heads


@pytest.mark.parametrize("typed", ["mine", "./mine/", "~/mine", "{full}", "mine,~/mine"])
def test_a_relative_folder_is_the_callers_in_the_kernel_too(chapter, tmp_path, monkeypatch, typed):
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    typed = typed.format(full=tmp_path / "mine")
    job = jobs.plan(chapter, "smoke", 0, {"data": typed})
    assert job.parameters["overrides"] == {"data": str(tmp_path / "mine")}
    assert f"data={tmp_path / 'mine'}" in job.command
    (same,) = batch.plan([chapter], "smoke", [0], [{"data": "mine"}, {"data": typed}], device="auto", out=tmp_path)
    assert same.record.name == job.record.name


def test_a_word_for_data_is_no_folder(chapter, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "simulated").mkdir()
    assert jobs.plan(chapter, "smoke", 0, {"data": "simulated"}).parameters["overrides"] == {"data": "simulated"}


@pytest.mark.parametrize("place", ["a file", "a file/records", "x" * 300, "a folder"])
def test_a_record_that_cannot_be_written_is_refused_before_anything_starts(chapter, tmp_path, place):
    (tmp_path / "a file").write_text("x")
    if place == "a folder":  # where the record itself would lie
        jobs.plan(chapter, "smoke", 0, {}, out=tmp_path / place).record.mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OSError, match="cannot write .*; choose another folder"):
        jobs.plan(chapter, "smoke", 0, {}, out=tmp_path / place)
    assert sorted(tmp_path.rglob("*")) == before


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
    for wrong in ("", "a", "3:1", "-1", str(2**32)):
        with pytest.raises(ValueError, match="--seeds takes"):
            batch.seeds(wrong)
    with pytest.raises(ValueError, match="--grid takes"):
        batch.settings(["lr"])


def test_what_a_grid_names_twice_runs_once(chapter, tmp_path):
    grid = batch.settings(["lr=0.1,0.10,1e-1", "depth=2"])
    how = {"device": "auto", "out": tmp_path}
    assert [job.seed for job in batch.plan([chapter, chapter], "smoke", batch.seeds("0,0,3"), grid, **how)] == [0, 3]
    with pytest.raises(ValueError, match="lr is given twice in --grid"):
        batch.settings(["lr=0.1,0.2", "lr=0.3"])
    with pytest.raises(ValueError, match="would write the same record"):
        batch.plan([chapter], "smoke", [0], batch.settings(["steps=3,4"]), **how)  # no field of the config


def test_a_record_of_another_run_in_the_place_of_this_one_is_not_taken_for_it(chapter, tmp_path):
    first, second = batch.plan([chapter], "smoke", [0, 1], [{}], device="auto", out=tmp_path)
    run = records.start("01_tiny", preset="smoke", seed=0, config=tiny_paper.Config(), out=tmp_path)
    assert run.save() == first.record
    assert batch.split([first, second], force=False)[0] == [second]
    shutil.copy(first.record, second.record)
    with pytest.raises(ValueError, match=f"{second.record.name} is the record of another run"):
        batch.split([second], force=False)


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
