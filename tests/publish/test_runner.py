"""Notebooks run in processes of their own, fail by name, resume, and leave no partial files."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time

import nbformat
import psutil
import pytest
import tiny_paper
from small_notebook import PARAMETERS, write_notebook

from jepa_lab import records
from jepa_lab.__main__ import main
from jepa_lab.publish import cache, chapters, jobs, runner, stage, worker_process

LONG = 1200  # seconds: a limit against hanging, never reached on a machine that works
RECORDS = f"""
from jepa_lab import records
config = {dataclasses.asdict(tiny_paper.Config())} | overrides
record = records.start("01_tiny", preset=preset, seed=seed, config=config, out=out)
record.save()
"""
DIES_ONCE = """
import os, pathlib
mark = pathlib.Path(out, "tried")
if seed == 1 and not mark.exists():
    mark.touch()
    os.kill(os.getpid(), 9)
"""


def plan(root, name="01_tiny", **given) -> jobs.Job:
    return jobs.plan(chapters.Chapter(name, root), "smoke", 0, given)


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """Four executed notebooks: one good, one that raises, one whose kernel is killed, one too slow for its limit."""
    root = tmp_path_factory.mktemp("book")
    notebooks = root / "notebooks"
    (root / "jepa_lab").mkdir()  # a package of its own, so that editing the real one during a test changes nothing
    write_notebook(
        notebooks / "01_good.ipynb",
        "import os",
        "print(preset, seed, os.environ['OMP_NUM_THREADS'], pairs)",
        parameters=PARAMETERS + "\npairs = (1, 2)",
    )
    write_notebook(notebooks / "02_bad.ipynb", "x = 1", "# a comment\ny = x / 0", "print('never')")
    write_notebook(notebooks / "03_killed.ipynb", "import os; os.kill(os.getpid(), 9)")
    write_notebook(notebooks / "04_slow.ipynb", f"import time; time.sleep({LONG})")
    good, *others = chapters.find(root)
    planned = [jobs.plan(good, "smoke", 3, {"pairs": "(3, 4)"})]
    planned += [jobs.plan(chapter, "smoke", 3, {}) for chapter in others]
    outcomes = runner.run(planned[:3], side_by_side=2, cell_timeout=LONG) + runner.run(planned[3:], cell_timeout=1)
    return root, {outcome.job.chapter.slug: outcome for outcome in outcomes}


def test_a_good_notebook_is_executed_with_its_parameters_and_one_thread(executed):
    root, outcomes = executed
    path = root / "_build/executed/smoke/notebooks/01_good.ipynb"
    assert outcomes["good"].status == "done" and outcomes["good"].job.output == path
    cells = nbformat.read(path, as_version=4).cells
    assert cells[-1].outputs[0].text == "smoke 3 1 (3, 4)\n"


@pytest.mark.parametrize(
    "slug, status, message",
    [
        ("bad", "failed", r"02_bad failed in cell 4 \(y = x / 0\): ZeroDivisionError: division by zero"),
        ("killed", "died", r"03_killed failed in cell 3 \(import os; .*\): DeadKernelError: .* \(out of memory\?\)"),
        ("slow", "failed", r"04_slow failed in cell \d .*: CellTimeoutError"),
    ],
)
def test_a_failure_names_cell_and_exception_and_stops_no_other_run(executed, slug, status, message):
    _, outcomes = executed
    outcome = outcomes[slug]
    assert outcome.status == status and re.match(message, outcome.message) and "\n" not in outcome.message
    assert outcome.job.failed.exists() and not outcome.job.output.exists()


def test_nothing_temporary_is_left(executed):
    root, _ = executed
    found = {p.name for p in (root / "_build").rglob("*") if p.is_file()}
    assert found == {"01_good.ipynb", "02_bad.failed.ipynb", "03_killed.failed.ipynb", "04_slow.failed.ipynb"}


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


def test_a_page_is_stale_without_its_record_or_with_another_or_with_other_data(executed, tmp_path, monkeypatch):
    _, outcomes = executed
    job, record = outcomes["good"].job, tmp_path / "record.json"
    record.write_text("{}")
    key, copy = cache.key(job.chapter, job.parameters), tmp_path / "copy.ipynb"
    notebook = nbformat.read(job.output, as_version=4)
    notebook.metadata["jepa_lab"]["records"] = cache.record_state(record)
    nbformat.write(notebook, copy)
    assert cache.is_fresh(copy, key, record) and not cache.is_fresh(copy, "another key", record)
    assert not cache.is_fresh(copy, key, tmp_path / "asked_for_elsewhere.json")
    record.write_text("{ }")
    assert not cache.is_fresh(copy, key, record)
    record.unlink()
    assert not cache.is_fresh(copy, key, record)
    assert cache.is_fresh(job.output, key)
    monkeypatch.setattr(cache, "data_state", lambda: {"a": "stand-in"})
    assert not cache.is_fresh(job.output, key)


def test_a_notebook_that_forgets_its_record_fails(tmp_path, monkeypatch):
    tiny_paper.use_as_every_paper(monkeypatch)
    write_notebook(tmp_path / "notebooks" / "01_tiny.ipynb", "print(1)")
    (outcome,) = runner.run([plan(tmp_path)])
    assert outcome.status == "failed" and "it wrote no record" in outcome.message


def progress_files(root) -> list:
    return list((root / "_build" / "running").glob("*/1/progress.txt"))


def start_slow_run(root):
    """A run in a process of its own, in its third cell; returns it with its worker and kernel."""
    write_notebook(root / "notebooks" / "01_slow.ipynb", f"import time; time.sleep({LONG})")
    command = [sys.executable, "-m", "jepa_lab", "run", "all", "--preset", "smoke"]
    environment = os.environ | {"JEPA_LAB_ROOT": str(root)}
    run = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    give_up = time.monotonic() + LONG
    while not any(cell.read_text().startswith("3 ") for cell in progress_files(root)):
        assert run.poll() is None and time.monotonic() < give_up, "the run never reached its third cell"
        time.sleep(0.1)
    family = psutil.Process(run.pid).children(recursive=True)
    assert len(family) >= 2, "worker and kernel should be running"
    return run, family


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_run_ends_its_children_and_leaves_nothing(tmp_path, sent):
    run, family = start_slow_run(tmp_path)
    run.send_signal(sent)
    assert run.wait(LONG) == 130 and "all runs were stopped; no partial files remain" in run.stderr.read()
    _, alive = psutil.wait_procs(family, timeout=LONG)
    assert alive == [] and [p for p in (tmp_path / "_build").rglob("*") if p.is_file()] == []


def test_children_of_a_killed_run_end_and_the_next_run_clears_up(tmp_path):
    run, family = start_slow_run(tmp_path)
    run.kill()
    run.wait()
    _, alive = psutil.wait_procs(family, timeout=LONG)
    assert alive == [] and list((tmp_path / "_build" / "running").iterdir()) != []
    write_notebook(tmp_path / "notebooks" / "01_slow.ipynb", "1")
    (outcome,) = runner.run([plan(tmp_path, "01_slow")])
    assert outcome.ok and list((tmp_path / "_build" / "running").iterdir()) == []


def test_a_second_run_leaves_the_first_alone(tmp_path):
    first, _ = start_slow_run(tmp_path)
    try:
        write_notebook(tmp_path / "notebooks" / "02_quick.ipynb", "1")
        (outcome,) = runner.run([plan(tmp_path, "02_quick")])
        assert outcome.ok and first.poll() is None and len(progress_files(tmp_path)) == 1
    finally:
        first.terminate()
    assert first.wait(LONG) == 130


def test_no_clock_ends_a_run_or_denies_its_record(tmp_path, monkeypatch):
    tiny_paper.use_as_every_paper(monkeypatch)
    longer_ago = """
import os, pathlib, time
os.utime(pathlib.Path(os.environ["IPYTHONDIR"]).parent / "progress.txt", (0, 0))
os.utime(record.path, (0, 0))
time.sleep(1)
"""
    write_notebook(tmp_path / "notebooks" / "01_tiny.ipynb", RECORDS, longer_ago)
    job = plan(tmp_path)
    (outcome,) = runner.run([job])
    assert outcome.status == "done", outcome.message
    (again,) = runner.run([job])
    assert again.status == "cached"


def test_notebooks_that_change_while_others_run_fail_by_name_and_alone(tmp_path):
    notebooks = tmp_path / "notebooks"
    edits = f"""
import pathlib
folder = pathlib.Path({str(notebooks)!r})
for name, text in (("01_edited", "half"), ("02_saved_by_half", '{{"cells": ['), ("03_emptied", "[]")):
    (folder / f"{{name}}.ipynb").write_text(text)
(folder / "04_gone.ipynb").unlink()
"""
    write_notebook(notebooks / "01_edited.ipynb", edits, "1 / 0")
    for name in ("02_saved_by_half", "03_emptied", "04_gone", "05_other"):
        write_notebook(notebooks / f"{name}.ipynb", "1")
    outcomes = runner.run([plan(tmp_path, chapter.name) for chapter in chapters.find(tmp_path)], side_by_side=1)
    edited, *unreadable, other = outcomes
    assert "01_edited failed in cell 4 (1 / 0): ZeroDivisionError" in edited.message and edited.job.failed.exists()
    for outcome in unreadable:
        assert outcome.status == "failed" and f"{outcome.job.name} failed before its start: " in outcome.message
    assert len(unreadable) == 3 and other.status == "done" and other.job.name == "05_other"


def test_a_page_that_cannot_be_kept_fails_alone(tmp_path):
    for name in ("01_first", "02_second"):
        write_notebook(tmp_path / "notebooks" / f"{name}.ipynb", "1")
    first, second = (plan(tmp_path, name) for name in ("01_first", "02_second"))
    first.output.mkdir(parents=True)  # a folder has the page's name
    outcomes = runner.run([first, second], side_by_side=1)
    assert [outcome.status for outcome in outcomes] == ["failed", "done"]
    assert "01_first failed at its end: " in outcomes[0].message


@pytest.mark.parametrize("number, words", [(9, "out of memory?"), (15, "Terminated")])
def test_a_killed_worker_is_said_to_be_killed_by_a_signal(tmp_path, number, words):
    write_notebook(tmp_path / "notebooks" / "01_dies.ipynb", f"import os; os.kill(os.getppid(), {number})")
    (outcome,) = runner.run([plan(tmp_path, "01_dies")])
    assert outcome.status == "died" and outcome.message.endswith(f": killed by signal {number} ({words})")


def test_a_folder_whose_name_holds_letters_of_a_pattern_is_a_folder_like_any_other(tmp_path):
    root = tmp_path / "a{preset}[b] {c}* d"
    write_notebook(root / "notebooks" / "01_plain.ipynb", "1")
    (outcome,) = runner.run([plan(root, "01_plain")])
    assert outcome.status == "done", outcome.message
    assert outcome.job.output.is_relative_to(root) and outcome.job.output.exists()


def test_a_worker_that_hangs_is_ended_from_outside(tmp_path, monkeypatch):
    monkeypatch.setattr(worker_process, "GRACE", 3 - LONG)
    hang = f"import os, signal, time; os.kill(os.getppid(), signal.SIGSTOP); time.sleep({LONG})"
    write_notebook(tmp_path / "notebooks" / "01_hang.ipynb", hang)
    (outcome,) = runner.run([plan(tmp_path, "01_hang")], cell_timeout=LONG, start_timeout=2 * LONG)
    assert outcome.status == "died" and outcome.message.startswith("01_hang failed in cell ")
    assert "no sign of life" in outcome.message


def test_a_batch_resumes_and_retries_a_run_whose_process_died(tmp_path, monkeypatch, capsys):
    tiny_paper.use_as_every_paper(monkeypatch)
    monkeypatch.setenv("JEPA_LAB_ROOT", str(tmp_path))
    write_notebook(tmp_path / "notebooks" / "01_tiny.ipynb", DIES_ONCE, RECORDS)
    out = tmp_path / "study"
    out.mkdir()
    command = ["batch", "1", "--seeds", "0:2", "--preset", "smoke", "--out", str(out)]
    assert main(command) == 0
    assert "2 runs: 0 finished, 2 to do" in capsys.readouterr().out and (out / "tried").exists()
    assert sorted(r["seed"] for r in records.load(root=out)) == [0, 1]
    assert main([*command, "--grid", "lr=0.1,0.2", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "4 runs: 2 finished, 2 to do" in shown and "-p lr=0.2" in shown and "-p lr=0.1" not in shown


def test_time_left_is_learnt_from_the_last_run_or_the_study(executed, tmp_path):
    _, outcomes = executed
    assert jobs.expected_seconds(outcomes["good"].job) == outcomes["good"].seconds
    for seed, wall in enumerate([10, 30, 20]):
        path = records.start("01_tiny", preset="laptop", seed=seed, config={}, out=tmp_path / "results").save()
        path.write_text(json.dumps(json.loads(path.read_text()) | {"wall_s": wall}))
    write_notebook(tmp_path / "notebooks" / "01_tiny.ipynb")
    job = jobs.plan(chapters.Chapter("01_tiny", tmp_path), "laptop", 0, {})
    assert jobs.expected_seconds(job) == 28
