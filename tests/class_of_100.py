"""A made-up class, graded: do all get what they deserve, and in what time?

    PYTHONPATH=.:tools python tests/class_of_100.py 07 [students]

Each answer is drawn, with a seed: right, wrong, empty, a cell that crashes, and
some endless loops, in the shares of a class that works. Takes minutes, so it is
no test of `make test`: run it after a change of how we grade.
"""

import csv
import os
import random
import sys
import tempfile
import zipfile
from collections import Counter
from pathlib import Path

import nbformat

import grade
import homework
from exercises import Exercise, exercises, needed, statements
from repository import ROOT

SHARES = {"right": 70, "wrong": 14, "empty": 10, "crashed": 5, "endless": 1}


def solved(exercise: Exercise) -> str:
    """The model answer without what the chapter shows of it."""
    parts = statements(exercise.solution.source.partition("\n")[2])  # its title goes
    kept = needed({exercise.answer}, parts)
    return "\n".join(part.source for i, part in enumerate(parts) if i in kept)


def answer(exercise: Exercise, kind: str) -> str:
    right, stub = solved(exercise), exercise.stub.source
    place = stub.rindex("...")
    indent = " " * (place - stub.rindex("\n", 0, place) - 1)
    body = {
        "right": right,
        "wrong": stub[:place] + ("return 0.0" if stub.startswith("def") else "pass"),
        "empty": stub,
        "crashed": right + "\n    return (",
        "endless": stub[:place] + f"while True:\n{indent}    pass",
    }
    return body[kind]


def deserved(exercise: Exercise, kind: str, mark: float | None) -> bool:
    if exercise.written or kind == "endless":
        return mark is None
    if kind == "wrong" and exercise.stub.source.startswith("def"):
        return mark is not None and mark < exercise.points
    return mark == (exercise.points if kind == "right" else 0)


def main(number: str, count: int = 100) -> None:
    path = homework.chapter_path(number, ROOT)
    clean, draw = homework.build(path, ROOT), random.Random(0)
    found = exercises(nbformat.read(path, as_version=4))
    kinds: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        download = Path(folder) / "downloads.zip"
        with zipfile.ZipFile(download, "w") as archive:
            for i in range(count):
                student = f"student{i:03}"
                drawn = draw.choices([*SHARES], [*SHARES.values()], k=len(found))
                kinds[student] = {e.label: k for e, k in zip(found, drawn)}
                notebook = nbformat.from_dict(clean)
                cells = {cell.id: cell for cell in notebook.cells}
                for exercise, kind in zip(found, drawn):
                    text = f"Because of answer {i}."
                    if not exercise.written:
                        text = answer(exercise, kind)
                    cells[exercise.stub.id].source = text
                name = f"{student}_{i}_{i + 1000}_{path.name}"
                archive.writestr(name, nbformat.writes(notebook))
        os.environ |= {"CHAPTER": number, "FROM": str(download)}
        grade.main(into=Path(folder))
        text = (Path(folder) / path.stem / "marks.csv").read_text("utf-8-sig")
    print(Counter(kind for row in kinds.values() for kind in row.values()))
    wrong = 0
    for row in csv.DictReader(text.splitlines()):
        for exercise in found:
            mark = grade.number(row[f"{exercise.label} (of {exercise.points:g})"])
            kind = kinds[row["student"]][exercise.label]
            if not deserved(exercise, kind, mark):
                wrong += 1
                print(f"{row['student']}, {exercise.label}: {kind} got {mark}")
    print(f"{wrong} of {count * len(found)} marks are not what they deserve")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 100)
