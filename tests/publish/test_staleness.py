"""A page is stale when anything it was made from changed: folders of data, data sets, packages."""

import os
import shutil

from small_notebook import write_notebook

from jepa_lab.publish import cache, chapters


def test_a_run_used_the_data_of_its_start_but_for_what_it_fetched_itself(monkeypatch):
    monkeypatch.setattr(cache, "data_state", lambda: {"fetched": "yes", "came later": "yes", "new": "no"})
    before = {"fetched": "no", "came later": "digits stand in", "gone": "yes"}
    assert cache.data_used(before) == {"fetched": "yes", "came later": "digits stand in", "new": "no"}


def test_a_page_is_stale_when_a_folder_that_a_parameter_names_changed(tmp_path):
    write_notebook(tmp_path / "notebooks" / "01_data.ipynb", "1")
    folder, chapter = tmp_path / "mine", chapters.Chapter("01_data", tmp_path)
    (folder / "deep").mkdir(parents=True)
    (tmp_path / "linked").mkdir()
    (folder / "link").symlink_to(tmp_path / "linked")
    (folder / "deep" / "circle").symlink_to(folder)

    def key(data=f"{tmp_path / 'other'}, {folder}") -> str:
        return cache.key(chapter, {"overrides": {"data": data, "sizes": (1, 2)}})

    def add(name):
        (folder / name).write_text("x")

    def replace_by_one_of_the_same_size_and_date():
        times = (folder / "a").stat()
        (tmp_path / "new").write_text("y")
        os.utime(tmp_path / "new", ns=(times.st_atime_ns, times.st_mtime_ns))
        os.replace(tmp_path / "new", folder / "a")

    keys, relative = [key()], [key("../mine")]
    for change in (
        lambda: add("a"),
        lambda: add("deep/b"),
        lambda: add("link/c"),
        replace_by_one_of_the_same_size_and_date,
        lambda: (folder / "deep" / "b").unlink(),
        lambda: shutil.rmtree(folder),
    ):
        change()
        keys.append(key())
        relative.append(key("../mine"))
        assert len(set(keys)) == len(keys) and len(set(relative)) == len(relative)
        if folder.exists():
            add(".DS_Store")
        assert key() == keys[-1]
    assert key("x" * 5000) == key("x" * 5000)  # longer than any file name


def test_a_page_is_stale_when_a_package_changed_that_made_it(tmp_path, monkeypatch):
    write_notebook(tmp_path / "notebooks" / "01_tools.ipynb", "%matplotlib inline\nfrom PIL import Image")
    chapter, changed, real = chapters.Chapter("01_tools", tmp_path), set(), cache.installed.version
    (tmp_path / "jepa_lab").mkdir()
    monkeypatch.setattr(cache.installed, "version", lambda name: "0" if name in changed else real(name))
    before = cache.key(chapter, {})
    changed |= {"sphinx", "duckdb"}  # what this chapter does not use
    assert cache.key(chapter, {}) == before
    for name in ("pillow", "papermill", "numpy"):
        changed.clear()
        changed.add(name)
        assert cache.key(chapter, {}) != before
