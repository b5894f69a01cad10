"""README lists the chapters that there are, and names no file that does not exist."""

import re

import pytest

from jepa_lab import papers
from jepa_lab.publish import readme


def test_the_table_of_chapters_is_that_of_the_papers(repo):
    text = (repo / "README.md").read_text(encoding="utf-8")
    rows = readme.chapters()
    assert {number for number, _, _ in rows} == {paper.CHAPTER[:2] for paper in papers.all().values()}
    assert "<!-- chapters -->" in text and len(rows) >= 5
    assert readme.with_table(text, rows) == text, "python -m jepa_lab.publish.readme writes the table"
    assert readme.with_table(text, rows[1:]) != text


def test_every_file_that_the_readme_names_exists(repo):
    text = (repo / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:[a-z_]+/)*[a-z_]+(?:\.py|\.txt|\.json|/))`", text))
    assert len(named) > 20
    roots = (repo, repo / "jepa_lab", repo / "jepa_lab" / "papers" / "masking")
    assert [name for name in named if not any((root / name).exists() for root in roots)] == []


def test_a_package_that_does_not_say_its_chapter_is_named(tmp_path):
    (tmp_path / "papers" / "new").mkdir(parents=True)
    (tmp_path / "papers" / "new" / "__init__.py").write_text('"""A paper."""\n')
    with pytest.raises(ValueError, match="new.__init__.py: the docstring must read"):
        readme.chapters(tmp_path)
