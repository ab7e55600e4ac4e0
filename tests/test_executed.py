"""A chapter runs again when what it depends on changes, and only then."""

import os
import subprocess
import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

import executed
from tests.notebooks import ROOT

FILES = {
    "utils/__init__.py": "",
    "utils/course.mplstyle": "",
    "utils/used.py": "from utils.behind import x\n",
    "utils/behind.py": "x = 1\n",
    "utils/other.py": "y = 1\n",
    "utils/checks/__init__.py": "from utils.checks import chapter_07, chapter_08\n",
    "utils/checks/chapter_07.py": "from utils.checks.framework import f\n",
    "utils/checks/chapter_08.py": "",
    "utils/checks/framework.py": "f = 1\n",
    "utils/scale/__init__.py": "",
    "utils/scale/findings.py": "",
    "data/digits.csv": "1\n",
    "data/scale/shift.csv": "1\n",
}
CODE = "from utils import checks\nfrom utils.used import x\nprint(x)"


@pytest.fixture
def root(tmp_path):
    """A course of one chapter, 07, with its executed outputs stored."""
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    write(tmp_path, CODE)
    notebook = nbformat.read(chapter(tmp_path), as_version=4)
    notebook.cells[0].execution_count = 1
    executed.store(notebook, chapter(tmp_path), tmp_path)
    executed.record(chapter(tmp_path), tmp_path, "book", "nbval")
    executed.file_of.cache_clear()
    return tmp_path


def chapter(root):
    return root / "chapters" / "07_one.ipynb"


def write(root, code):
    chapter(root).parent.mkdir(exist_ok=True)
    nbformat.write(new_notebook(cells=[new_code_cell(code)]), chapter(root))


def test_nothing_changed_nothing_runs(root):
    assert executed.drop_stale(root) == []
    assert executed.is_fresh(chapter(root), root, "nbval")


def test_a_new_time_is_no_change(root):
    for path in root.rglob("*.*"):
        os.utime(path, (1, 1))
    assert executed.drop_stale(root) == []


@pytest.mark.parametrize(
    "name",
    [
        "utils/__init__.py",
        "utils/used.py",
        "utils/behind.py",  # imported by a module that it imports
        "utils/checks/chapter_07.py",
        "utils/checks/framework.py",
        "data/digits.csv",
    ],
)
def test_it_runs_again_when_this_changes(root, name):
    path = root / name
    path.write_text(path.read_text() + "# changed\n")
    assert executed.drop_stale(root) == [chapter(root)]
    assert executed.outputs(chapter(root), root) is None


@pytest.mark.parametrize(
    "name",
    ["utils/other.py", "utils/checks/chapter_08.py", "data/scale/shift.csv"],
)
def test_it_does_not_run_when_that_changes(root, name):
    """What it does not import: another chapter's check, chapter 12's long run."""
    path = root / name
    path.write_text(path.read_text() + "# changed\n")
    assert executed.drop_stale(root) == []


def test_the_long_run_counts_for_who_imports_it(root):
    write(root, CODE + "\nimport utils.scale.findings")
    before = executed.key(chapter(root), root)
    (root / "data/scale/shift.csv").write_text("2\n")
    assert executed.key(chapter(root), root) != before


def test_other_code_other_seeds_another_python(root, monkeypatch):
    before = executed.key(chapter(root), root)
    monkeypatch.setenv("COURSE_SEED", "7")
    assert executed.key(chapter(root), root) != before
    monkeypatch.delenv("COURSE_SEED")
    monkeypatch.setattr(sys, "version", "3.99")
    assert executed.key(chapter(root), root) != before
    monkeypatch.undo()
    monkeypatch.setattr(
        executed, "version", lambda name: "99" if name == "torch" else ""
    )
    assert executed.key(chapter(root), root) != before
    monkeypatch.undo()
    write(root, CODE + "\nprint(x + 1)")
    assert executed.drop_stale(root) == [chapter(root)]


def test_every_module_that_a_chapter_imports_is_found():
    """An import that `imported` cannot see would leave old outputs in the book."""
    for path in sorted((ROOT / "chapters").glob("*.ipynb")):
        cells = nbformat.read(path, as_version=4).cells
        sources = [cell.source for cell in cells if cell.cell_type == "code"]
        named = {file.name for file in executed.files(path, sources, ROOT)}
        assert {"claims.py", "training.py", f"chapter_{path.name[:2]}.py"} <= named


NOTEBOOK = """
import sys
print("out")
print("err" if {fails} else "", file=sys.stderr)
if {fails}: raise ValueError("it fails")
"hidden";
"""


@pytest.mark.parametrize("fails", [False, True])
def test_nbval_keeps_what_passed_and_runs_it_once(tmp_path, fails, monkeypatch):
    """The plugin on a notebook of its own: a failed chapter leaves nothing behind."""
    for folder in ("tests", "tools"):
        (tmp_path / folder).mkdir()
    for name in ("tests/nbval_chapter.py", "tools/executed.py", "tools/stored_runs.py"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    (tmp_path / "pyproject.toml").write_text(
        '[tool.pytest.ini_options]\npythonpath = [".", "tools"]\n'
    )
    write(tmp_path, NOTEBOOK.format(fails=fails))
    (tmp_path / "utils").mkdir()
    monkeypatch.delenv("PYTHONPATH", raising=False)
    options = "--nbval-lax -p tests.nbval_chapter --nbval-current-env chapters"
    command = [sys.executable, "-m", "pytest", "-q", *options.split()]
    first, second = (
        subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        for _ in range(2)
    )
    kept = executed.outputs(chapter(tmp_path), tmp_path)
    if fails:
        assert first.returncode == second.returncode == 1 and kept is None
    else:
        assert first.returncode == second.returncode == 0, first.stdout
        assert "1 passed" in first.stdout
        assert "passed as they are: 07_one" in second.stdout
        assert kept.cells[0].outputs[0].text == "out\n"
        assert "hidden" not in str(kept.cells[0].outputs)
