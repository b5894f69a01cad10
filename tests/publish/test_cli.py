"""Every verb has help with an example, reports an error in one line, and returns the right exit code."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from types import ModuleType

import pytest
from small_notebook import write_notebook

from jepa_lab import image_world, papers, records
from jepa_lab.__main__ import main
from jepa_lab.claims import Claim
from jepa_lab.data import images
from jepa_lab.data.sources import fetch
from jepa_lab.probes.scores import Score
from jepa_lab.publish import browser, chapters

VERBS = [["run"], ["batch"], ["book"], ["claims"], ["train"], ["bench"]]
VERBS += [["data"], ["data", "list"], ["data", "fetch"], ["data", "verify"]]
CLAIM = Claim("probe", "01_tiny", "A paper", "features beat pixels", "accuracy", "higher", 0.0)


@dataclass(frozen=True)
class Tiny:
    lr: float = 0.1


@pytest.fixture
def book(tmp_path, monkeypatch):
    """A checkout with one chapter and, in results/, a study of three seeds."""
    monkeypatch.setenv("JEPA_LAB_ROOT", str(tmp_path))
    write_notebook(tmp_path / "notebooks" / "01_tiny.ipynb", "1")
    module = ModuleType("tiny")
    module.CLAIMS, module.preset = (CLAIM,), lambda name, **overrides: Tiny(**overrides)
    monkeypatch.setattr(chapters, "paper", lambda slug: module if slug == "tiny" else None)
    for seed in range(3):
        record = records.start(
            "01_tiny", preset="laptop", seed=seed, config={"lr": 0.1}, claims=[CLAIM], out=tmp_path / "results"
        )
        record.claim("probe", value=0.9 + seed / 100, baseline=0.5)
        record.save()
    return tmp_path


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_help_of_every_verb_has_an_example(verb, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([*verb, "--help"])
    shown = capsys.readouterr().out
    assert stopped.value.code == 0 and re.search(rf"example: .*python -m jepa_lab {verb[0]} ", shown)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["run", "99"], "no chapter '99'; there are: 01_tiny"),
        (["run", "1", "-p", "lr"], "-p takes name=value"),
        (["batch", "1", "--seeds", "x"], "--seeds takes"),
        (["batch", "1", "--grid", "lr=1", "--grid", "lr=2"], "lr is given twice in --grid"),
        (["run", "1", "-p", "lr=1", "-p", "lr=2"], "lr is given twice with -p"),
        (["run", "1", "-p", "lr=1e999"], "lr must be finite"),
        (["run", "1", "--out", "/dev/null/records"], "cannot write /dev/null/records/01_tiny/laptop-seed0-"),
        (["claims", "--chapter", "nobody"], "no chapter 'nobody'"),
        (["claims", "--records", "/nowhere"], "no folder /nowhere"),
        (["data", "fetch", "nobody"], "no data set is called 'nobody'"),
        (
            ["train", "masking", "--preset", "smoke", "--out", "/dev/null/runs"],
            "cannot write /dev/null/runs/checkpoint.pt",
        ),
        (["train", "nobody"], "'nobody' cannot be trained; papers that can: "),
    ],
)
def test_an_error_is_one_line_and_exit_code_1(book, capsys, arguments, message):
    assert main(arguments) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("jepa-lab: ") and message in shown and shown.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [[], ["nonsense"], ["run"], ["run", "1", "--jobs", "0"], ["batch", "1", "--engine", "moon"]]
    + [["run", "1", "--seed", "-1"], ["run", "1", "--device", "moon"], ["run", "1", "--device", "cuda:99"]]
    + [["train", "masking", "--seed", str(2**32)], ["bench", "--only", "nobody"]],
)
def test_wrong_use_is_exit_code_2(book, arguments):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2


def test_claims_json_is_the_documented_list(book, capsys):
    assert main(["claims", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["claim_id"] == "probe" and row["values"] == [0.9, 0.91, 0.92]
    assert row["verdict"] == "supported" and row["n_seeds"] == 3
    assert main(["claims"]) == 0
    assert "supported: gain 0.41" in capsys.readouterr().out


def test_a_broken_record_is_one_line(book, capsys):
    (book / "results" / "01_tiny" / "broken.json").write_text("{")
    assert main(["claims"]) == 1
    assert "broken.json is not a run record" in capsys.readouterr().err


def test_a_run_record_of_another_version_is_one_line(book, capsys):
    path = next((book / "results" / "01_tiny").iterdir())
    record = json.loads(path.read_text())
    del record["started"]
    path.write_text(json.dumps(record))
    for verb in (["claims"], ["run", "1"]):  # a run reads the study's durations
        assert main(verb) == 1
        shown = capsys.readouterr().err
        assert f"{path.name} is not a run record (it has no 'started')" in shown and shown.count("\n") == 1


def test_relative_folders_of_the_environment_and_options_are_the_callers(book, monkeypatch, capsys):
    monkeypatch.chdir(book)
    monkeypatch.setenv("HOME", str(book))
    for given in (".", "~"):
        monkeypatch.setenv("JEPA_LAB_ROOT", given)
        monkeypatch.setenv("JEPA_LAB_DATA", "cache")
        assert main(["claims", "--records", "~/results"]) == 0 and "over 3 seeds" in capsys.readouterr().out
        assert chapters.root() == book and os.environ["JEPA_LAB_DATA"] == str(book / "cache")
    monkeypatch.setenv("JEPA_LAB_ROOT", "~/nowhere")
    assert main(["claims"]) == 1 and "there is no book in JEPA_LAB_ROOT=" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["1", "01", "tiny", "01_tiny", "notebooks/01_tiny.py", "all"])
def test_a_chapter_may_be_named_in_any_usual_way(book, name):
    assert [c.name for c in chapters.pick([name], book)] == ["01_tiny"]


def test_data_verbs_list_fetch_and_verify(monkeypatch, capsys, tmp_path):
    assert main(["data", "list"]) == 0
    assert all(name in capsys.readouterr().out for name in list(fetch.DATASETS)[:1])
    monkeypatch.setenv("JEPA_LAB_DATA", str(tmp_path))
    assert main(["data", "verify"]) == 1
    assert "missing" in capsys.readouterr().err


def test_train_hands_everything_typed_to_the_paper(book, capsys, monkeypatch, tmp_path):
    seen = {}

    def train_reference(config, out, **how):
        seen.update(config=config, out=out, **how)
        return {"linear": Score(0.5, 0.4, 0.6, 100)}

    paper = chapters.paper("tiny")
    paper.train_reference = train_reference
    monkeypatch.setattr(papers, "all", lambda: {"tiny": paper})
    typed = ["--preset", "smoke", "--out", str(tmp_path / "here"), "--resume", "--seed", "3"]
    typed += ["-p", "lr=0.5", "--micro-batches", "2"]
    assert main(["train", "tiny", *typed]) == 0
    assert seen == {"config": Tiny(0.5), "out": tmp_path / "here", "resume": True, "seed": 3, "micro_batches": 2}
    assert capsys.readouterr().out == f"linear: 0.500 [0.400, 0.600]\n{tmp_path / 'here'}\n"


def test_train_of_a_real_paper_scores_refuses_to_overwrite_and_resumes(monkeypatch, capsys, tmp_path):
    everything, test = images.digits("train"), images.digits("test")
    parts = *images.split(everything, (1200, 300), seed=0), test  # no download
    monkeypatch.setattr(image_world, "garments", lambda cfg: parts)
    typed = ["train", "masking", "--preset", "smoke", "-p", "num_steps=4", "--out", str(tmp_path)]
    assert main(typed) == 0 and (tmp_path / "checkpoint.pt").is_file()
    scores = capsys.readouterr().out
    assert re.search(r"linear: 0\.\d+ \[0\.\d+, 0\.\d+\]\nknn: .*\nfew_label: ", scores) and str(tmp_path) in scores
    assert main(typed) == 1 and "go on with --resume" in capsys.readouterr().err
    assert main([*typed, "--resume"]) == 0 and capsys.readouterr().out == scores
    assert main([*typed, "--resume", "-p", "lr=0.1"]) == 1
    assert "other settings (lr)" in capsys.readouterr().err


def test_train_refuses_an_unknown_field_or_preset_before_anything_starts(capsys):
    assert main(["train", "masking", "--preset", "smoke", "-p", "nose=1"]) == 1
    shown = capsys.readouterr().err
    assert "no parameter 'nose'" in shown and "num_steps" in shown
    assert main(["train", "masking", "--preset", "huge"]) == 1
    assert "unknown preset 'huge'; there are: smoke, laptop" in capsys.readouterr().err


def test_the_installed_command_is_the_module():
    command = shutil.which("jepa-lab", path=str(sys.prefix) + "/bin")
    assert command, "the package is not installed: make env"
    assert subprocess.run([command, "--version"], capture_output=True, text=True).stdout.startswith("jepa_lab ")


def test_a_browser_counts_only_if_it_starts(tmp_path):
    stub = tmp_path / "chromium"
    stub.write_text("#!/bin/sh\necho 'please install the snap' >&2; exit 1\n")
    stub.chmod(0o755)
    assert not browser.starts(str(stub)) and not browser.starts(str(tmp_path / "missing"))
