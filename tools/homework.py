"""Write a chapter's exercises as homework: a folder and its zip.

    make homework CHAPTERS="07 09"
    make homework CHAPTERS=07 FETCH=student   # see below

In _release/homework/07_batch_size_one: a notebook with the exercises and what
they need, no solutions, and `utils/` and `data/` beside it, so that it needs
neither network nor address. With FETCH, a branch or tag of the repository, the
notebook alone is enough: its set-up cell fetches that version, which must be
one without solutions, as `make release` writes it (branch `student`).
"""

import ast
import copy
import os
import re
import shutil
import sys
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

import lint
import private
from exercises import (
    Statement,
    exercises,
    needed,
    statements,
    tags,
    wanted_by,
)
from homework_cells import SMALLER
from release import copy_course, problems
from repository import ROOT, checked_version, published_address, setup_source

HOMEWORK = Path("_release") / "homework"
IMPORTS = re.compile(r"# @title .*\b[Ii]mports\b")
NAME_CELL = "student-name"
NAME = "**Name:** *write yours here*"
PACKAGES = ("torch", "numpy", "scipy", "matplotlib", "joblib", "cloudpickle")
PACKAGES += ("jupyterlab",)
LINK = re.compile(r"\[([^\]]+)\]\((?!https?:)[^)]+\)")
TITLE = """# Homework: {title}

The exercises of chapter {number}, {points:g} points. Run the cells from the top.
Where it says `# your code here`, write your answer in that cell; the check below
says what is still wrong. Run it as often as you like: more cases passed, more
points. Written questions are read by a person. Text and figures that a question
means by "above" are the chapter's.

Hand in this notebook, under the name that it has: `{name}.ipynb`."""
NEEDED = """## What the exercises use

Taken from the chapter, which explains it. Nothing is to be changed here."""


def imports(statement: Statement) -> bool:
    return statement.kind in (ast.Import, ast.ImportFrom)


def given_before(notebook: NotebookNode, stub: NotebookNode) -> list:
    """(cell, statement) of all the code before an exercise that is of no exercise."""
    found = []
    for cell in notebook.cells[: notebook.cells.index(stub)]:
        own = {"exercise", "check", "solution"} & {*tags(cell)}
        if cell.cell_type != "code" or own or cell.id == "set-up":
            continue
        if not cell.source.startswith("%"):  # %%writefile, say
            found += [(cell, statement) for statement in statements(cell.source)]
    return found


def needed_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """The chapter's cells that exercises need, cut down to what they need."""
    kept: dict[str, set[int]] = {}  # cell id: positions of its statements
    for exercise in exercises(notebook):
        before = given_before(notebook, exercise.stub)
        if exercise.written:
            continue
        kinds = {name: s.kind for _, s in before for name in s.binds}
        wanted = wanted_by(exercise, kinds)
        chosen = needed(wanted, [statement for _, statement in before])
        for i, (cell, statement) in enumerate(before):
            if i in chosen or imports(statement) and IMPORTS.match(cell.source):
                position = [s for c, s in before if c is cell].index(statement)
                kept.setdefault(cell.id, set()).add(position)
    cells = [cell for cell in notebook.cells if cell.id in kept]
    found = [cut(cell, kept[cell.id]) for cell in cells]
    refuse_two_meanings(found)
    return found


def smaller(notebook: NotebookNode, sources: dict[str, str]) -> NotebookNode:
    """The notebook with the sources of some cells, by id, replaced."""
    result = copy.deepcopy(notebook)
    cells = {cell.id: cell for cell in result.cells}
    for cell_id, source in sources.items():
        cells[cell_id].source = source.strip("\n")
    return result


def cut(cell: NotebookNode, kept: set[int]) -> NotebookNode:
    """The cell with the statements that are kept, and its title."""
    pieces = [s.source for i, s in enumerate(statements(cell.source)) if i in kept]
    source = "\n".join(pieces).strip("\n")
    title = cell.source.partition("\n")[0]
    if title.startswith("# @title") and not source.startswith(title):
        source = f"{title}\n{source}"
    return new_code_cell(source, id=cell.id)


def refuse_two_meanings(cells: list[NotebookNode]) -> None:
    """All stand above the first exercise, so a name may be bound only once."""
    bound: dict[str, str] = {}
    for cell in cells:
        for statement in statements(cell.source):
            for name in statement.binds if not imports(statement) else ():
                if bound.setdefault(name, cell.id) != cell.id:
                    sys.exit(
                        f"The exercises need `{name}` of cell {bound[name]} and that "
                        f"of cell {cell.id}: give one of them another name."
                    )


def handed_out(cell: NotebookNode) -> NotebookNode:
    """A prompt, stub or check as it is, but for links into the course."""
    if cell.cell_type != "markdown":
        return cell
    plain = cell.copy()
    plain.source = LINK.sub(r"\1", cell.source)
    return plain


def homework(notebook: NotebookNode, name: str, set_up: str) -> NotebookNode:
    """The notebook with the exercises of a chapter and without their solutions."""
    notebook = smaller(notebook, SMALLER.get(name, {}))
    found = exercises(notebook)
    title = TITLE.format(
        title=notebook.cells[0].source.partition("\n")[0].lstrip("# "),
        number=name[:2],
        points=sum(exercise.points for exercise in found),
        name=name,
    )
    cells = [
        new_markdown_cell(title, id="homework"),
        new_markdown_cell(NAME, id=NAME_CELL),
        new_code_cell(set_up, id="set-up"),
        new_markdown_cell(NEEDED, id="needed"),
        *needed_cells(notebook),
    ]
    for exercise in found:
        parts = (exercise.prompt, exercise.stub, exercise.check)
        cells += [handed_out(cell) for cell in parts if cell is not None]
    result = new_notebook(metadata=notebook.metadata.copy(), cells=cells)
    nbformat.validate(result)
    return result


def homework_setup(name: str, root: Path, fetch: str) -> str:
    """The source of the set-up cell; with `fetch` it knows where to look."""
    if fetch:
        address = published_address(root, "FETCH")
        return setup_source(root, address, checked_version(fetch))
    text = Path(__file__).with_name("setup_homework.py").read_text(encoding="utf-8")
    return text.replace("NAME", name, 1).rstrip("\n")


def chapter_path(number: str, root: Path) -> Path:
    """The notebook of chapter 07, or exit with those that there are."""
    paths = sorted((root / "chapters").glob("[0-9][0-9]_*.ipynb"))
    for path in paths:
        if path.name[:2] == number.zfill(2):
            return path
    known = " ".join(path.name[:2] for path in paths)
    sys.exit(f"There is no chapter {number!r}; there are {known}.")


def build(path: Path, root: Path, fetch: str = "") -> NotebookNode:
    """The homework of a chapter; exits where the chapter breaks a rule."""
    wrong = lint.lint_notebook(path, root)
    notebook = private.chapter(path)
    if not wrong:
        set_up = homework_setup(path.stem, root, fetch)
        result = homework(notebook, path.stem, set_up)
        wrong = [
            f"{path.name}, {line}"
            for line in problems(notebook, result)
            if "lost" not in line
        ]
    if wrong:
        sys.exit("\n".join([*wrong, "Nothing is written: mend this first."]))
    return result


def requirements(root: Path) -> list[str]:
    """What runs the homework, as the course pins it: not what builds the book."""
    pins = (root / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in pins if line.startswith(PACKAGES)]


def write_folder(
    name: str, notebook: NotebookNode, root: Path, into: Path, hidden: bool = False
) -> Path:
    """Write the folder; hidden: with what only a grader may have."""
    folder = into / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    copy_course(root, folder)
    lines = "\n".join([*requirements(root), ""])
    (folder / "requirements.txt").write_text(lines, encoding="utf-8")
    private.add_checks(folder, notebook, hidden)
    nbformat.write(notebook, folder / f"{name}.ipynb")
    return folder


def write(name: str, notebook: NotebookNode, root: Path, into: Path) -> Path:
    """Write the folder and its zip; return the zip."""
    folder = write_folder(name, notebook, root, into)
    archive = shutil.make_archive(str(folder), "zip", folder.parent, name)
    return Path(archive)


def main(root: Path = ROOT) -> None:
    chapters = os.environ.get("CHAPTERS", "").split()
    if not chapters:
        sys.exit('Which chapters? Write: make homework CHAPTERS="07 09"')
    paths = [chapter_path(number, root) for number in chapters]
    fetch = os.environ.get("FETCH", "")
    built = {path.stem: build(path, root, fetch) for path in paths}
    for name, notebook in built.items():
        archive = write(name, notebook, root, root / HOMEWORK)
        print(archive.relative_to(root))


if __name__ == "__main__":
    main()
