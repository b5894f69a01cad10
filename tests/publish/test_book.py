"""The built book is whole and current. `make test` builds it first; alone: python -m jepa_lab book --preset smoke."""

import os
import shutil
import subprocess
import sys
import threading

import pytest
import yaml

from jepa_lab import files
from jepa_lab.publish import ledger, ownership, stage
from jepa_lab.publish.chapters import Chapter

ROW = {
    "chapter": "01_tiny",
    "claim_id": "probe",
    "paper": "A paper",
    "statement": "a | b",
    "paper_value": "81",
    "paper_source": "table 1",
    "metric": "accuracy",
    "values": [0.9, 0.8, 0.85],
    "baseline_values": [0.5, 0.5, 0.5],
    "mean": 0.35,
    "ci_low": 0.23,
    "ci_high": 0.47,
    "direction": "higher",
    "margin": 0.01,
    "verdict": "supported",
    "preset": "laptop",
    "device": "cpu",
    "n_seeds": 3,
}


def test_the_book_was_built_without_warnings_from_what_is_staged(repo):
    assert stage.is_current(repo), "build it: python -m jepa_lab book --preset smoke"


def test_every_page_of_the_table_of_contents_is_in_the_book(repo):
    pages = stage.toc_files(repo)
    assert len(pages) >= 2
    missing = [name for name in ["index", *pages] if not (repo / "_build" / "html" / f"{name}.html").exists()]
    assert missing == []


def test_toc_files_reads_roots_parts_chapters_and_sections(tmp_path):
    (tmp_path / "_toc.yml").write_text(
        "format: jb-book\nroot: book/intro\nparts:\n  - caption: A\n    chapters:\n      - file: notebooks/01_a.ipynb\n"
        "        sections: [{file: book/more.md}]\n"
    )
    assert stage.toc_files(tmp_path) == ["book/intro", "notebooks/01_a", "book/more"]


def test_a_page_with_a_broken_link_stops_the_build_and_keeps_the_old_book(repo, tmp_path):
    root = tmp_path / "a {b}[c]"  # also letters that are a pattern elsewhere
    (root / "book").mkdir(parents=True)
    settings = yaml.safe_load((repo / "_config.yml").read_text())
    kept = {name: settings[name] for name in ("only_build_toc_files", "exclude_patterns", "execute")}
    (root / "_config.yml").write_text(yaml.safe_dump({"title": "t", **kept}))
    (root / "_toc.yml").write_text("format: jb-book\nroot: book/intro\n")
    (root / "book" / "intro.md").write_text("# Hello\n\n{ref}`nowhere`\n")
    old = root / "_build" / "html" / "index.html"
    old.parent.mkdir(parents=True)
    old.write_text("old")
    with pytest.raises(ValueError, match=r"did not build cleanly:\n  .*intro.md:3: WARNING: .*nowhere") as error:
        stage.build(root, "smoke")
    assert "sphinx.log" in str(error.value) and str(error.value).count("WARNING") == 1
    assert old.read_text() == "old" and not stage.is_current(root)


@pytest.fixture
def pages(tmp_path, monkeypatch):
    """A book of one page, whose HTML is the text of the files in this dictionary; it also counts the builds."""
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "intro.md").write_text("# Hello")
    (tmp_path / "_config.yml").write_text("title: t\n")
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: book/intro\n")
    texts = {"index.html": "one", "notebooks/01_a.html": "two"}

    def build(place, work, log):
        texts["builds"] = str(int(texts.get("builds", 0)) + 1)
        for name, text in texts.items():
            files.write_text(work / "_build" / "html" / name, text)

    monkeypatch.setattr(stage, "_run_jupyter_book", build)
    return texts


def found(folder) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("place", ["a folder", "a link", "a broken link", "a mounted disk"])
def test_the_new_pages_replace_the_old_ones_wherever_they_lie(pages, place, tmp_path, monkeypatch):
    html, elsewhere = tmp_path / "_build" / "html", tmp_path / "www"
    stage.build(tmp_path, "smoke")
    assert found(html) == pages
    if place == "a link":
        html.rename(elsewhere)
        (elsewhere / "theirs.txt").write_text("no page of the book")
    if "link" in place:
        shutil.rmtree(html, ignore_errors=True)
        html.symlink_to(elsewhere)
    if place == "a mounted disk":
        monkeypatch.setattr(os.path, "ismount", lambda path: path == html)
    del pages["notebooks/01_a.html"]
    pages["notebooks/02_b.html"] = "new"
    assert stage.build(tmp_path, "smoke", force=True) == (html / "index.html", True)
    theirs = {"theirs.txt": "no page of the book"} if place == "a link" else {}
    assert found(elsewhere if "link" in place else html) == pages | theirs and html.is_symlink() == ("link" in place)
    assert list((tmp_path / "_build" / "running").iterdir()) == []


def test_pages_that_could_not_be_written_are_an_error_before_the_build(pages, tmp_path):
    html = tmp_path / "_build" / "html"
    html.parent.mkdir()
    html.write_text("a file has the name of the folder")
    with pytest.raises(OSError, match=f"cannot write {html}"):
        stage.build(tmp_path, "smoke")
    assert "builds" not in pages


def test_a_book_is_stale_when_a_package_changed_that_builds_it(pages, tmp_path, monkeypatch):
    stage.build(tmp_path, "smoke")
    assert stage.is_current(tmp_path) and stage.build(tmp_path, "smoke")[1] is False
    packages = [*stage.metadata.distributions()]
    monkeypatch.setattr(stage.metadata, "distributions", lambda: [p for p in packages if p.name != "sphinx-book-theme"])
    assert not stage.is_current(tmp_path) and stage.build(tmp_path, "smoke")[1] is True


def test_a_second_build_at_the_same_time_waits_for_the_first(pages, tmp_path):
    built = []
    with ownership.alone(tmp_path / "_build" / "book"):
        second = threading.Thread(target=lambda: built.append(stage.build(tmp_path, "smoke")))
        second.start()
        second.join(1)
        assert built == [] and not (tmp_path / "_build" / "stage").exists()
    second.join(1200)
    assert len(built) == 1


def test_the_claims_table_shows_values_margin_and_verdict():
    lines = ledger.claims_table([ROW], {("01_tiny", "probe"): "raw pixels"}).splitlines()
    assert len(lines) == 3 and lines[0].count("|") == lines[1].count("|") == lines[2].replace("\\|", "").count("|")
    for part in (
        "[01_tiny](../notebooks/01_tiny.ipynb)",
        "a \\| b",
        "81 (table 1)",
        "0.9, 0.8, 0.85",
        "raw pixels: 0.5, 0.5, 0.5",
        "0.35 [0.23, 0.47]",
        "0.01",
        "supported",
    ):
        assert part in lines[2]
    unmeasured = ROW | {
        "values": [],
        "baseline_values": [],
        "mean": None,
        "ci_low": None,
        "ci_high": None,
        "n_seeds": 0,
        "preset": None,
        "device": None,
        "verdict": "inconclusive",
    }
    assert "not measured" in ledger.claims_table([unmeasured], {}) and "not measured yet" in ledger.text([unmeasured])


def test_the_status_table_counts_verdicts_and_admits_what_was_not_run(tmp_path):
    noted = {"01_tiny": {"executed": "2026-01-02T03:04:05+00:00", "preset": "smoke", "seed": 0, "seconds": 12.3}}
    table = ledger.status_table([Chapter("01_tiny", tmp_path), Chapter("02_none", tmp_path)], noted, [ROW, ROW])
    assert (
        "| smoke | 0 | 2026-01-02 03:04 | 12 s | 2 supported |" in table and "`02_none`" in table and "not run" in table
    )


def test_a_second_build_of_an_unchanged_book_builds_nothing(repo):
    run = subprocess.run(
        [sys.executable, "-m", "jepa_lab", "book", "--preset", "smoke"],
        cwd=repo,
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert run.returncode == 0 and run.stdout.rstrip().endswith("index.html (unchanged)"), run.stderr
