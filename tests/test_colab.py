"""Every chapter runs alone in an empty folder, as it does in Colab.

Colab has the notebook and nothing else of the course: the set-up cell fetches
the rest. Here git is told to fetch it from a repository that is made out of the
working tree, so that what is tested is what is here, without a network.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell

import alone
from alone import git
from environment import COLAB, program
from repository import ROOT, current_version, setup_source

CHAPTERS = sorted((ROOT / "chapters").glob("*.ipynb"))
CLONE = f"bn-measured-{current_version(ROOT)}"
LAST_CELL = """
import google.colab
import utils

try:
    import myst_nb
except ModuleNotFoundError:
    print(utils.__file__)
"""
# What is left of MyST where only the book would have rendered it.
REMNANT = re.compile(r"```\{|:::|\{[a-z][\w:-]*\}`|\{\{.*\}\}|\[\^\w+\]")
WHOLE = ["02_mechanics"]  # the quickest, and one with exercises and figures


@pytest.fixture(scope="module")
def remote(tmp_path_factory) -> Path:
    return alone.make_remote(tmp_path_factory.mktemp("remote"))


@pytest.fixture
def colab(remote, tmp_path) -> dict[str, str]:
    return alone.environment(remote, tmp_path / "packages")


@pytest.fixture
def folder(tmp_path) -> Path:
    """Where the notebook is opened: an empty folder."""
    (tmp_path / "content").mkdir()
    return tmp_path / "content"


def set_up(
    folder: Path, environment: dict[str, str], version: str = ""
) -> subprocess.CompletedProcess:
    """Run the set-up cell in a folder, in a Python of its own."""
    command = [sys.executable, "-c", setup_source(ROOT, version=version)]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True
    )


def texts(cell: nbformat.NotebookNode) -> list[str]:
    """Everything that a reader of a cell's outputs sees as text."""
    shown = [output.get("text", "") for output in cell.get("outputs", [])]
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        shown += [
            data[kind] for kind in ("text/plain", "text/markdown") if kind in data
        ]
    return shown


def check_runs_alone(path, folder, colab, python):
    """Run a chapter in a folder: whole, or up to its first training.

    nbval and the book run every chapter to its end: a third time would only
    cost time. What can differ here is where utils and data come from.
    """
    shutil.copy(path, folder)
    notebook = nbformat.read(path, as_version=4)
    if path.stem not in WHOLE:
        code = [i for i, c in enumerate(notebook.cells) if c.cell_type == "code"]
        load = re.compile(r"load_(digits|mnist5k)\(")
        first = next(i for i in code if load.search(notebook.cells[i].source))
        notebook.cells = notebook.cells[: first + 1]
    notebook.cells.append(new_code_cell(LAST_CELL))
    alone.execute(notebook, folder, colab, python)  # raises the first error

    *cells, last = notebook.cells
    assert texts(last) == [f"{folder / CLONE / 'utils' / '__init__.py'}\n"]
    assert {item.name for item in folder.iterdir()} == {path.name, CLONE}
    assert git(folder / CLONE, "status", "--porcelain") == ""
    for cell in cells:
        for text in texts(cell):
            assert not REMNANT.search(text), f"cell {cell.id}: {text}"


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_runs_alone(path, folder, colab):
    check_runs_alone(path, folder, colab, sys.executable)


@pytest.mark.skipif(
    not (COLAB / "installed").is_file(),
    reason="no .colab, the environment with Colab's versions: make colab makes it",
)
@pytest.mark.parametrize("name", WHOLE)
def test_a_chapter_runs_with_the_versions_of_colab(name, folder, colab):
    path = ROOT / "chapters" / f"{name}.ipynb"
    check_runs_alone(path, folder, colab, program(COLAB))


def test_the_set_up_fetches_the_course_once(folder, colab):
    first = set_up(folder, colab)
    assert first.returncode == 0, first.stderr
    (folder / CLONE / "mine.txt").write_text("kept")
    without_git = colab | {"GIT_CONFIG_VALUE_0": "", "PATH": ""}
    second = set_up(folder, without_git)
    assert second.returncode == 0, second.stderr
    assert (folder / CLONE / "mine.txt").read_text() == "kept"


def test_the_set_up_fetches_nothing_inside_the_course(colab, remote):
    inside = remote / "chapters"
    before = set(inside.iterdir())
    done = set_up(inside, colab | {"PATH": ""})
    assert done.returncode == 0, done.stderr
    assert set(inside.iterdir()) == before


def test_another_project_around_it_is_not_taken_for_the_course(folder, colab):
    """Many projects have a utils/training.py."""
    (folder.parent / "utils").mkdir()
    (folder.parent / "utils" / "training.py").touch()
    done = set_up(folder, colab)
    assert done.returncode == 0, done.stderr
    assert (folder / CLONE / "utils").is_dir()


def test_a_failed_fetch_says_so_and_can_be_tried_again(folder, colab, tmp_path):
    nowhere = f"url.{(tmp_path / 'nowhere').as_uri()}.insteadOf"
    done = set_up(folder, colab | {"GIT_CONFIG_KEY_0": nowhere})
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()
    assert any(
        "Could not fetch version main of the course: is there a network? Run me again."
        in line
        for line in last
    )
    assert "nowhere" in done.stderr  # what git says
    assert list(folder.iterdir()) == []
    again = set_up(folder, colab)
    assert again.returncode == 0, again.stderr


def test_a_version_that_is_not_there_is_named(folder, colab):
    done = set_up(folder, colab, version="term-1999")
    assert done.returncode != 0
    assert "Could not fetch version term-1999" in done.stderr
    assert list(folder.iterdir()) == []


def test_old_notebooks_meet_old_utils(folder, colab, tmp_path):
    """A term's version stays beside the version that goes on, in its own folder."""
    own = alone.make_remote(tmp_path / "own")
    colab = colab | {"GIT_CONFIG_KEY_0": f"url.{own.as_uri()}.insteadOf"}
    git(own, "tag", "term-2027a")
    old = (own / "utils" / "__init__.py").read_text()
    (own / "utils" / "__init__.py").write_text(old + "\nNEW = True\n")
    git(own, "commit", "--quiet", "--all", "--message=The course goes on")
    for version in (current_version(ROOT), "term-2027a"):
        done = set_up(folder, colab, version)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        stored = folder / f"bn-measured-{version}" / "utils" / "__init__.py"
        assert (stored.read_text() == old) == (version == "term-2027a")


def test_half_a_fetch_leaves_nothing(folder, colab, tmp_path):
    """Interrupted while git works, it leaves no folder that looks like the course."""
    fakes = tmp_path / "fakes"
    fakes.mkdir()
    (fakes / "git").write_text(
        '#!/bin/sh\nfor last; do :; done\nmkdir -p "$last/data"\n'
        "kill -INT $PPID\nsleep 20\n"
    )
    (fakes / "git").chmod(0o755)
    done = set_up(folder, colab | {"PATH": f"{fakes}:{colab['PATH']}"})
    assert "KeyboardInterrupt" in done.stderr
    assert list(folder.iterdir()) == []
