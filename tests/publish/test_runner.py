"""Notebooks run in processes of their own, fail by name, resume, and leave nothing half-written."""

import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import time
from types import ModuleType

import nbformat
import psutil
import pytest
from conftest import PARAMETERS, write_notebook

from jepa_lab import records
from jepa_lab.__main__ import main
from jepa_lab.publish import batch, cache, chapters, parameters, runner, stage
from jepa_lab.publish.progress import Progress, clock

RECORDS = """
from jepa_lab import records
run = records.start(CHAPTER, preset=preset, seed=seed, config={"lr": 0.1, "depth": 2, "betas": [0.9, 0.95], **overrides}, out=out)
run.save()
"""
DIES_ONCE = "import os, pathlib\nmark = pathlib.Path(out, 'tried')\nif seed == 1 and not mark.exists():\n    mark.touch(); os.kill(os.getpid(), 9)"


@dataclasses.dataclass(frozen=True)
class Config:
    lr: float = 0.1
    depth: int = 2
    betas: tuple[float, float] = (0.9, 0.95)

    def __post_init__(self):
        if self.depth < 1:
            raise ValueError("depth must be positive")


@pytest.fixture
def paper(monkeypatch):
    """Gives every chapter of the test a tiny paper."""
    module = ModuleType("tiny")
    module.preset, module.CLAIMS = lambda name, **overrides: Config(**overrides), ()
    monkeypatch.setattr(chapters, "paper", lambda slug: module)


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """Four notebooks run side by side: one good, one that raises, one too slow, one whose kernel is killed."""
    root = tmp_path_factory.mktemp("book")
    notebooks = root / "notebooks"
    (root / "jepa_lab").mkdir()  # code of its own, so that editing the real one during a test changes nothing
    write_notebook(
        notebooks / "01_good.ipynb",
        "import os",
        "print(preset, seed, os.environ['OMP_NUM_THREADS'], pairs)",
        parameters=PARAMETERS + "\npairs = (1, 2)",
    )
    write_notebook(notebooks / "02_bad.ipynb", "x = 1", "# a comment\ny = x / 0", "print('never')")
    write_notebook(notebooks / "03_slow.ipynb", "import time", "time.sleep(60)")
    write_notebook(notebooks / "04_killed.ipynb", "import os; os.kill(os.getpid(), 9)")
    jobs = [runner.plan(c, "smoke", 3, {"pairs": "(3, 4)"} if c.slug == "good" else {}) for c in chapters.find(root)]
    outcomes = runner.run(jobs, side_by_side=2, cell_timeout=6)
    return root, {outcome.job.chapter.slug: outcome for outcome in outcomes}


def test_a_good_notebook_is_executed_with_its_parameters_and_one_thread(executed):
    root, outcomes = executed
    path = root / "_build/executed/smoke/notebooks/01_good.ipynb"
    assert outcomes["good"].status == "done" and outcomes["good"].job.output == path
    cells = nbformat.read(path, as_version=4).cells
    assert cells[-1].outputs[0].text == "smoke 3 1 (3, 4)\n"


@pytest.mark.parametrize(
    "slug, status, says",
    [
        ("bad", "failed", "02_bad failed in cell 4 (y = x / 0): ZeroDivisionError: division by zero"),
        ("slow", "failed", "03_slow failed in cell 4 (time.sleep(60)): CellTimeoutError"),
        ("killed", "died", "04_killed failed in cell 3 (import os; os.kill(os.getpid(), 9)): DeadKernelError"),
    ],
)
def test_a_failure_names_cell_and_exception_and_stops_nobody_else(executed, slug, status, says):
    _, outcomes = executed
    outcome = outcomes[slug]
    assert outcome.status == status and outcome.message.startswith(says) and "\n" not in outcome.message
    assert outcome.job.failed.exists() and not outcome.job.output.exists()


def test_nothing_temporary_is_left(executed):
    root, _ = executed
    found = {p.name for p in (root / "_build").rglob("*") if p.is_file()}
    assert found == {"01_good.ipynb", "02_bad.failed.ipynb", "03_slow.failed.ipynb", "04_killed.failed.ipynb"}


def test_an_unchanged_notebook_is_not_run_again(executed):
    root, outcomes = executed
    before = outcomes["good"].job.output.stat().st_mtime_ns
    (again,) = runner.run([outcomes["good"].job])
    assert again.status == "cached" and outcomes["good"].job.output.stat().st_mtime_ns == before


def test_a_page_says_when_and_with_what_it_was_executed_and_hides_the_injected_cell(executed):
    _, outcomes = executed
    page = stage.presentable(outcomes["good"].job.output)
    assert not any("injected-parameters" in c.metadata.get("tags", []) for c in page.cells)
    last = page.cells[-1].source
    for part in (
        "Executed 2",
        "preset smoke",
        "seed 3",
        "torch ",
        "python -m jepa_lab run 01_good --preset smoke --seed 3 -p 'pairs=(3, 4)'",
    ):
        assert part in last


def test_staging_refuses_failed_and_missing_notebooks_by_name(executed):
    root, _ = executed
    (root / "_toc.yml").write_text(
        "root: book/intro\nchapters: [{file: notebooks/01_good}, {file: notebooks/02_bad}, {file: notebooks/09_none}]"
    )
    with pytest.raises(ValueError, match="02_bad failed .*02_bad.failed.ipynb.*09_none was not run"):
        stage.stage(root, "smoke")


def test_every_ingredient_of_a_result_changes_the_cache_key(tmp_path, monkeypatch):
    chapter = chapters.Chapter("01_tiny", tmp_path)
    package = tmp_path / "jepa_lab"
    (package / "papers").mkdir(parents=True)
    (package / "masks.py").write_text("a = 1")
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
    (package / "masks.py").write_text("a = 2")
    assert changed()
    (tmp_path / "results" / "01_tiny").mkdir(parents=True)
    (tmp_path / "results" / "01_tiny" / "laptop-seed0-a.json").write_text("{}")
    assert changed()
    (tmp_path / "results" / "01_tiny" / "laptop-seed0-a.json").write_text("{ }")
    assert changed()
    monkeypatch.setattr(records, "versions", lambda: {"torch": "0.0"})
    assert changed()


def test_a_cached_notebook_is_stale_without_its_record_or_with_other_data(executed, tmp_path, monkeypatch):
    _, outcomes = executed
    job = outcomes["good"].job
    key = cache.key(job.chapter, job.parameters)
    assert cache.fresh(job.output, key) and not cache.fresh(job.output, "another key")
    notebook = nbformat.read(job.output, as_version=4)
    notebook.metadata["jepa_lab"]["records"] = [str(tmp_path / "gone.json")]
    nbformat.write(notebook, tmp_path / "copy.ipynb")
    assert not cache.fresh(tmp_path / "copy.ipynb", key)
    monkeypatch.setattr(cache, "data_state", lambda: {"a": "stand-in"})
    assert not cache.fresh(job.output, key)


def test_a_notebook_that_forgets_its_record_fails(tmp_path, paper):
    write_notebook(tmp_path / "notebooks" / "01_tiny.ipynb", "print(1)")
    (outcome,) = runner.run([runner.plan(chapters.Chapter("01_tiny", tmp_path), "smoke", 0, {})])
    assert outcome.status == "failed" and "it wrote no record" in outcome.message


@pytest.mark.parametrize(
    "given, says",
    [
        ({"stepz": "3"}, "no parameter 'stepz'; it knows: device, out, steps, lr, depth, betas"),
        ({"steps": "many"}, "steps must be int like 3, not 'many'"),
        ({"depth": "2.5"}, "depth must be int like 2"),
        ({"lr": "True"}, "lr must be float"),
        ({"seed": "1"}, "use --seed"),
        ({"depth": "-1"}, "depth must be positive"),
    ],
)
def test_wrong_parameters_are_errors_before_anything_starts(tmp_path, paper, given, says):
    write_notebook(tmp_path / "notebooks" / "01_tiny.ipynb", "print(1)", parameters=PARAMETERS + "\nsteps = 3")
    with pytest.raises(ValueError, match=says):
        runner.plan(chapters.Chapter("01_tiny", tmp_path), "smoke", 0, given)
    assert not (tmp_path / "_build").exists()


def test_config_fields_travel_as_overrides_of_the_right_type(tmp_path, paper):
    write_notebook(tmp_path / "notebooks" / "01_tiny.ipynb", "print(1)", parameters=PARAMETERS + "\nsteps = 3")
    given = {"steps": "5", "lr": "1", "betas": "[0, 0.5]"}
    found, config = parameters.resolve(chapters.Chapter("01_tiny", tmp_path), "smoke", 2, given, "cpu", "here")
    assert found == {
        "preset": "smoke",
        "seed": 2,
        "device": "cpu",
        "out": "here",
        "steps": 5,
        "overrides": {"lr": 1.0, "betas": (0.0, 0.5)},
    }
    assert config == Config(lr=1.0, betas=(0.0, 0.5))


@pytest.mark.parametrize("cell, says", [("seed = input()", "name = constant"), (None, "0 cells tagged")])
def test_a_notebook_without_a_plain_parameters_cell_is_refused(tmp_path, cell, says):
    path = write_notebook(tmp_path / "01_tiny.ipynb", parameters=cell or "")
    if cell is None:
        notebook = nbformat.read(path, as_version=4)
        notebook.cells[1].metadata["tags"] = []
        nbformat.write(notebook, path)
    with pytest.raises(ValueError, match=says):
        parameters.tagged(path)


def start_slow_run(root):
    """A run in a process of its own, in its third cell; returns it with its worker and kernel."""
    write_notebook(root / "notebooks" / "01_slow.ipynb", "import time; time.sleep(300)")
    environment = os.environ | {"JEPA_LAB_ROOT": str(root)}
    run = subprocess.Popen(
        [sys.executable, "-m", "jepa_lab", "run", "all", "--preset", "smoke"],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    cell = root / "_build" / "running" / str(run.pid) / "1" / "progress.txt"
    for _ in range(600):
        if cell.exists() and cell.read_text().startswith("3 "):
            break
        time.sleep(0.1)
    family = psutil.Process(run.pid).children(recursive=True)
    assert len(family) >= 2, "worker and kernel should be running"
    return run, family


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_run_ends_its_children_and_leaves_nothing(tmp_path, sent):
    run, family = start_slow_run(tmp_path)
    run.send_signal(sent)
    assert run.wait(30) == 130 and "nothing half-written" in run.stderr.read()
    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == [] and [p for p in (tmp_path / "_build").rglob("*") if p.is_file()] == []


def test_children_of_a_killed_run_end_and_the_next_run_clears_up(tmp_path):
    run, family = start_slow_run(tmp_path)
    run.kill()
    run.wait()
    _, alive = psutil.wait_procs(family, timeout=20)
    assert alive == [] and list((tmp_path / "_build" / "running").iterdir()) != []
    write_notebook(tmp_path / "notebooks" / "01_slow.ipynb", "1")
    (outcome,) = runner.run([runner.plan(chapters.Chapter("01_slow", tmp_path), "smoke", 0, {})])
    assert outcome.ok and list((tmp_path / "_build" / "running").iterdir()) == []


def test_the_watchdog_ends_a_worker_that_hangs(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "GRACE", 1)
    write_notebook(
        tmp_path / "notebooks" / "01_hang.ipynb",
        "import os, signal, time",
        "os.kill(os.getppid(), signal.SIGSTOP); time.sleep(300)",
    )
    (outcome,) = runner.run([runner.plan(chapters.Chapter("01_hang", tmp_path), "smoke", 0, {})], cell_timeout=3)
    assert outcome.status == "died" and outcome.message.startswith(
        "01_hang failed in cell 4 (os.kill(os.getppid(), signal.SIGSTOP)"
    )
    assert "no sign of life" in outcome.message


def test_a_script_that_was_edited_alone_is_not_run(tmp_path):
    write_notebook(tmp_path / "notebooks" / "01_tiny.ipynb", "print(1)")
    (tmp_path / "notebooks" / "01_tiny.py").write_text("# %%\nprint(2)\n")
    with pytest.raises(ValueError, match="jupytext --sync"):
        chapters.in_sync(chapters.find(tmp_path))


def test_a_batch_resumes_and_retries_a_run_whose_process_died(tmp_path, paper, monkeypatch, capsys):
    monkeypatch.setenv("JEPA_LAB_ROOT", str(tmp_path))
    write_notebook(tmp_path / "notebooks" / "01_tiny.ipynb", DIES_ONCE, RECORDS.replace("CHAPTER", "'01_tiny'"))
    out = tmp_path / "study"
    out.mkdir()
    command = ["batch", "1", "--seeds", "0:2", "--preset", "smoke", "--out", str(out)]
    assert main(command) == 0
    assert "2 runs: 0 finished, 2 to do" in capsys.readouterr().out and (out / "tried").exists()
    assert sorted(r["seed"] for r in records.load(root=out)) == [0, 1]
    assert main([*command, "--grid", "lr=0.1,0.2", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "4 runs: 2 finished, 2 to do" in said and "-p lr=0.2" in said and "-p lr=0.1" not in said


def test_a_broken_record_stops_a_batch_by_name(tmp_path, paper):
    write_notebook(tmp_path / "notebooks" / "01_tiny.ipynb", "1")
    (job,) = batch.plan([chapters.Chapter("01_tiny", tmp_path)], "smoke", [0], [{}], device="auto", out=tmp_path)
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


def test_time_left_shares_the_work_but_never_below_the_longest_job():
    progress = Progress(side_by_side=2, stream=io.StringIO())
    progress.begin({1: 100.0, 2: 20.0, 3: 20.0})
    assert progress.seconds_left() == pytest.approx(100, abs=1)
    progress.left.pop(1)
    assert progress.seconds_left() == pytest.approx(20, abs=1)


def test_a_finished_run_teaches_how_long_its_like_take(tmp_path):
    progress = Progress(side_by_side=1, stream=io.StringIO())
    progress.begin({1: 300.0, 2: 300.0, 3: 50.0}, 0, {1: "a", 2: "a", 3: "b"})
    progress.started(1, "a/0")
    job = runner.plan(
        chapters.Chapter("01_tiny", write_notebook(tmp_path / "notebooks" / "01_tiny.ipynb").parent.parent),
        "smoke",
        0,
        {},
    )
    progress.finished(1, runner.Outcome(job, "done", 10.0))
    assert progress.seconds_left() == 60


def test_durations_are_written_for_people():
    assert [clock(s) for s in (5, 75, 3700)] == ["5 s", "1 min 15 s", "1 h 01 min"]


def test_time_left_is_learnt_from_the_last_run_or_the_study(executed, tmp_path):
    _, outcomes = executed
    assert runner.expected_seconds(outcomes["good"].job) == outcomes["good"].seconds
    study = tmp_path / "results" / "01_tiny"
    study.mkdir(parents=True)
    for seed, wall in enumerate([10, 30, 20]):
        (study / f"laptop-seed{seed}-a.json").write_text(json.dumps({"wall_s": wall}))
    write_notebook(tmp_path / "notebooks" / "01_tiny.ipynb")
    job = runner.plan(chapters.Chapter("01_tiny", tmp_path), "laptop", 0, {})
    assert runner.expected_seconds(job) == 28
