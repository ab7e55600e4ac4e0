"""Make a course for nbgrader, or add to one.

    make course CHAPTERS="07 09" COURSE=../course
    make course CHAPTERS=07 COURSE=../course FROM=downloads.zip

The first writes COURSE/nbgrader_config.py and, for each chapter, the assignment
source/07_batch_size_one: its homework, as `make homework` makes it. The second puts
what students handed in where nbgrader looks for it, whatever the learning platform
made of the names. In COURSE, with nbgrader of instructors/requirements.txt:

    nbgrader generate_assignment 07_batch_size_one     # hand out release/
    nbgrader autograde 07_batch_size_one
    nbgrader generate_feedback 07_batch_size_one
    nbgrader export

With SECRET=folder the exercises of `make variants`, and their hidden cases.
"""

import json
import os
import shutil
import sys
from pathlib import Path

import nbformat

import homework
import private
from repository import ROOT
from submissions import collect

CONFIG = Path("instructors") / "nbgrader_config.py"


def target(root: Path) -> Path:
    """COURSE, where it may be written to."""
    text = os.environ.get("COURSE", "")
    if not text:
        sys.exit('Where? Write: make course CHAPTERS="07 09" COURSE=../course')
    folder = (root / Path(text).expanduser()).resolve()
    own = folder / CONFIG.name
    if own.exists() and not (folder / "course.json").exists():
        sys.exit(
            f"{own} is not of `make course`: move it away, or name another COURSE. "
            "Nothing is written."
        )
    return folder


def set_up(folder: Path, root: Path) -> None:
    """The settings of nbgrader, and where their code is."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(root / CONFIG, folder / CONFIG.name)
    secret = private.secret()
    made = {"clone": str(root), "secret": str(secret) if secret else ""}
    (folder / "course.json").write_text(json.dumps(made, indent=1) + "\n")


def submit(source: Path, folder: Path, path: Path, clean) -> None:
    """Put what was handed in under COURSE/submitted, and say what could not be."""
    students = collect(source, path.stem, clean)
    count = 0
    for student, several in students.items():
        handed = several[0]
        if handed.notebook is None:
            print(f"{student}: {handed.problem}; not graded", file=sys.stderr)
            continue
        if len(several) > 1:
            print(f"{student}: {len(several)} files, taken {handed.path}")
        name = student.replace("[", "(").replace("]", ")").replace("/", "-")
        place = folder / "submitted" / name / path.stem
        place.mkdir(parents=True, exist_ok=True)
        nbformat.write(handed.notebook, place / path.name)
        count += 1
    print(f"{count} notebooks in {folder / 'submitted'}")


def main(root: Path = ROOT) -> None:
    folder = target(root)
    chapters = os.environ.get("CHAPTERS", "").split()
    if not chapters:
        sys.exit('Which chapters? Write: make course CHAPTERS="07 09" COURSE=../course')
    paths = [homework.chapter_path(number, root) for number in chapters]
    source = os.environ.get("FROM", "")
    if source and len(paths) != 1:
        sys.exit("FROM has what was handed in for one chapter: name one in CHAPTERS.")
    if source and not (root / source).exists():
        sys.exit(f"FROM={source}: there is no such file or folder.")
    built = {path: homework.build(path, root) for path in paths}
    set_up(folder, root)
    for path, notebook in built.items():
        if source:
            submit(root / source, folder, path, notebook)
        else:
            homework.write_folder(path.stem, notebook, root, folder / "source")
            print(folder / "source" / path.stem)


if __name__ == "__main__":
    main()
