"""Write the students' notebooks: every chapter without its solutions.

They stand alone, since the set-up cell fetches the course where it is missing.
`make release` writes them to _release/student/chapters and prints their names.
"""

import shutil
from pathlib import Path

import nbformat
from nbconvert.preprocessors import TagRemovePreprocessor
from nbformat import NotebookNode

from repository import ROOT

RELEASE = Path("_release") / "student" / "chapters"


def has_tag(cell: NotebookNode, tag: str) -> bool:
    return tag in cell.metadata.get("tags", [])


def student_version(notebook: NotebookNode) -> NotebookNode:
    """The notebook without its cells that are tagged `solution`."""
    remover = TagRemovePreprocessor(remove_cell_tags=("solution",))
    student, _ = remover.preprocess(notebook.copy(), {})
    return student


def verify(notebook: NotebookNode, student: NotebookNode) -> None:
    """Raise unless all solutions are gone, and nothing but the solutions."""
    text = "\n".join(cell.source for cell in student.cells)
    for cell in notebook.cells:
        solution = has_tag(cell, "solution")
        if solution and cell.source.strip() in text:
            raise ValueError(f"cell {cell.id}: the solution is still there")
        if not solution and cell not in student.cells:
            raise ValueError(f"cell {cell.id}: lost, and it is no solution")
    for sign in ("# @title Solution", "<summary>Answer</summary>"):
        if sign in text:
            raise ValueError(f"{sign!r} is still there: tag its cell solution")
    nbformat.validate(student)


def release(root: Path) -> list[Path]:
    """Write the students' version of every chapter; return the files."""
    folder = root / RELEASE
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    written = []
    for path in sorted((root / "chapters").glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        student = student_version(notebook)
        verify(notebook, student)
        nbformat.write(student, folder / path.name)
        written.append(folder / path.name)
    return written


if __name__ == "__main__":
    for file in release(ROOT):
        print(file.relative_to(ROOT))
