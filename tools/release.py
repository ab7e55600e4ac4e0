"""Write the students' notebooks: every chapter without its solutions.

`make release` writes them to _release/student/chapters and prints their names,
with what they import and read beside them. The folder is what stands on the
branch `student` of the repository (`student-term-2027a` for that version), and a
notebook that finds itself alone fetches that branch, since the version itself has
the solutions. Where nobody has set the repository's address there is nothing to
fetch, and we say so.
It writes nothing when lint finds something in a chapter, since a solution that
is marked wrongly would be handed out.
"""

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
from nbconvert.preprocessors import TagRemovePreprocessor
from nbformat import NotebookNode

import lint
from repository import (
    PLACEHOLDER,
    ROOT,
    current_address,
    current_version,
    setup_source,
    student_branch,
)

RELEASE = Path("_release") / "student" / "chapters"
# What a notebook needs beside it: not what chapter 12's long run does.
COURSE = [
    "LICENSE",
    "requirements.txt",
    "utils/*.py",
    "utils/course.mplstyle",
    "utils/checks/*.py",
    "utils/widgets/*.*",
]
COURSE += ["data/README.md", "data/digits.*"]
COURSE += ["utils/scale/*.py", "data/mnist5k/mnist5k.*", "data/scale/*.csv"]
# How a solution begins, in code and in words.
SOLUTION = re.compile(
    r"#\s*@title\s+solution\b|<summary>\s*answer\s*</summary>", re.IGNORECASE
)


def has_tag(cell: NotebookNode, tag: str) -> bool:
    return tag in cell.metadata.get("tags", [])


def student_version(notebook: NotebookNode) -> NotebookNode:
    """The notebook without its cells that are tagged `solution`."""
    remover = TagRemovePreprocessor(remove_cell_tags=("solution",))
    student, _ = remover.preprocess(notebook.copy(), {})
    return student


def copy_course(root: Path, folder: Path) -> None:
    """Copy what a notebook imports and reads into a folder."""
    for pattern in COURSE:
        for path in sorted(root.glob(pattern)):
            target = folder / path.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


def problems(notebook: NotebookNode, student: NotebookNode) -> Iterator[str]:
    """Solutions that are still there, and cells that should be and are not."""
    text = "\n".join(cell.source for cell in student.cells)
    for cell in notebook.cells:
        solution = has_tag(cell, "solution")
        if solution and cell.source.strip() in text:
            yield f"cell {cell.id}: the solution is still there -> remove its copy"
        if not solution and cell not in student.cells:
            yield f"cell {cell.id}: lost, and it is no solution -> report this"
    for cell in student.cells:
        if found := SOLUTION.search(cell.source):
            yield f"cell {cell.id}: {found[0]!r} is still there -> tag it solution"


def release(root: Path) -> list[Path]:
    """Write the students' version of every chapter; return the files."""
    found, students = [], {}
    for path in sorted((root / "chapters").glob("*.ipynb")):
        lines = lint.lint_notebook(path, root)
        if not lines:
            notebook = nbformat.read(path, as_version=4)
            students[path.name] = student_version(notebook)
            wrong = problems(notebook, students[path.name])
            lines = [f"{path.relative_to(root)}, {line}" for line in wrong]
        found += lines
    if found:
        sys.exit("\n".join([*found, "Nothing is released: mend this first."]))
    folder = root / RELEASE
    shutil.rmtree(folder.parent, ignore_errors=True)
    folder.mkdir(parents=True)
    copy_course(root, folder.parent)
    branch = student_branch(current_version(root))
    published = current_address(root) != PLACEHOLDER
    for name, student in students.items():
        for cell in student.cells:
            if published and cell.id == "set-up":
                cell.source = setup_source(root, version=branch)
        nbformat.validate(student)
        nbformat.write(student, folder / name)
    if not published:
        print(
            "These notebooks need the folders beside them: alone, as in Colab, they "
            f"would fetch {PLACEHOLDER}, which is nobody's. Set the address of your "
            "copy first: make repository URL=https://github.com/you/name",
            file=sys.stderr,
        )
    return [folder / name for name in students]


if __name__ == "__main__":
    for file in release(ROOT):
        print(file.relative_to(ROOT))
