"""A new chapter passes lint, runs, and is in the contents as it is made."""

import shutil
import subprocess
import sys

import nbformat
import pytest
import yaml
from nbclient import NotebookClient

import course_table
import lint
import new_chapter
from tests.notebooks import ROOT

WHOLE = ["chapters", "utils", "data", "tools"]
FILES = ["_toc.yml", "_config.yml", "pyproject.toml"]


@pytest.fixture
def course(tmp_path):
    """A copy of what a chapter needs."""
    for name in WHOLE:
        skip = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "scale")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=skip)
    for name in FILES:
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def contents(root):
    toc = yaml.safe_load((root / "_toc.yml").read_text())
    return [entry["file"] for part in toc["parts"] for entry in part["chapters"]]


def test_it_passes_lint_and_runs(course, monkeypatch):
    new_chapter.new_chapter("13_my_topic", course)
    path = course / "chapters" / "13_my_topic.ipynb"
    assert lint.lint_notebook(path, course) == []
    command = [sys.executable, "-m", "ruff", "check", "--quiet"]
    made = [path, course / "utils" / "checks" / "chapter_13.py"]
    assert subprocess.run([*command, *made], cwd=course).returncode == 0
    command[-2:] = ["format", "--check"]
    assert subprocess.run([*command, *made], cwd=course).returncode == 0
    assert "99" not in made[1].read_text()
    rows = {row.number: row for row in course_table.rows(course)}
    assert rows["13"].points == 1  # the tables for instructors have it
    before = contents(course)
    at = before.index("chapters/13_my_topic")
    assert before[at - 1].startswith("chapters/12_")
    for key, value in {"COURSE_STRICT": "1", "OMP_NUM_THREADS": "1"}.items():
        monkeypatch.setenv(key, value)
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, timeout=120, resources=resources).execute()
    text = str([cell.get("outputs") for cell in notebook.cells])
    assert "Passed: right for one value and many" in text


@pytest.mark.parametrize(
    "name, says",
    [
        ("", "no chapter's name"),
        ("my_topic", "no chapter's name"),
        ("13-My-Topic", "no chapter's name"),
        ("07_again", "There is a chapter 07"),
        ("13_batch_norm_nd", "chapter_02.py has a batch_norm_nd"),
    ],
)
def test_a_wrong_name_writes_nothing(course, name, says):
    before = {p: p.read_bytes() for p in course.rglob("*") if p.is_file()}
    with pytest.raises(SystemExit, match=says):
        new_chapter.new_chapter(name, course)
    assert before == {p: p.read_bytes() for p in course.rglob("*") if p.is_file()}


def test_a_chapter_that_is_not_in_the_contents_is_found(course):
    """The book would leave it out without a word."""
    assert lint.lint_contents(course) == []
    (course / "chapters" / "13_lost.ipynb").write_text("{}")
    (course / "chapters" / "lost.md").write_text("# Lost\n")
    found = lint.lint_contents(course)
    assert len(found) == 2 and all(
        "_toc.yml does not list it" in line for line in found
    )
