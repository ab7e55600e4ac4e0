"""Every chapter runs alone in an empty folder, as it does in Colab.

Colab has the notebook and nothing else of the course: the set-up cell fetches
the rest. Here git is told to fetch it from a repository that is made out of the
working tree, so that what is tested is what is here, without a network.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell

import lint
from repository import ROOT, current_address, setup_source

CHAPTERS = sorted((ROOT / "chapters").glob("*.ipynb"))
CLONE = "bn-measured"

# Colab has neither of these; Python runs this file when it starts.
SITECUSTOMIZE = """
import sys


class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("myst_nb", "jupyter_book"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Missing())
"""
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


def git(folder: Path, *arguments: str) -> str:
    """What git prints, run in a folder and as somebody."""
    names = ["-c", "user.name=Course", "-c", "user.email=course@example.org"]
    command = ["git", *names, *arguments]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return done.stdout.decode()


WHOLE = ["02_mechanics"]  # the quickest, and one with exercises and figures


@pytest.fixture(scope="module")
def remote(tmp_path_factory) -> Path:
    """A repository with one commit: the files of the working tree."""
    folder = tmp_path_factory.mktemp("remote")
    for path in lint.files_of(ROOT):
        copy = folder / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message=The working tree")
    return folder


@pytest.fixture
def colab(remote, tmp_path) -> dict[str, str]:
    """The environment: git finds the remote, and `google.colab` is there."""
    packages = tmp_path / "packages"
    (packages / "google" / "colab").mkdir(parents=True)
    (packages / "google" / "colab" / "__init__.py").touch()
    (packages / "sitecustomize.py").write_text(SITECUSTOMIZE)
    return os.environ | {
        "PYTHONPATH": str(packages),
        "COURSE_PROGRESS": "0",
        "OMP_NUM_THREADS": "1",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{remote.as_uri()}.insteadOf",
        "GIT_CONFIG_VALUE_0": current_address(ROOT),
    }


@pytest.fixture
def folder(tmp_path) -> Path:
    """Where the notebook is opened: an empty folder."""
    (tmp_path / "content").mkdir()
    return tmp_path / "content"


def set_up(folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess:
    """Run the set-up cell in a folder, in a Python of its own."""
    command = [sys.executable, "-c", setup_source(ROOT)]
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


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_runs_alone(path, folder, colab):
    """Whole, where that is quick; of the others all up to their first training.

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
    client = NotebookClient(
        notebook,
        timeout=180,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute(env=colab)  # raises at the first error

    *cells, last = notebook.cells
    assert texts(last) == [f"{folder / CLONE / 'utils' / '__init__.py'}\n"]
    assert {item.name for item in folder.iterdir()} == {path.name, CLONE}
    assert git(folder / CLONE, "status", "--porcelain") == ""
    for cell in cells:
        for text in texts(cell):
            assert not REMNANT.search(text), f"cell {cell.id}: {text}"


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
    assert "CalledProcessError" in done.stderr
    assert "'clone'" in done.stderr
    assert list(folder.iterdir()) == []
    again = set_up(folder, colab)
    assert again.returncode == 0, again.stderr
