"""What each chapter asks for: objectives, exercises, points, minutes, prerequisites.

All of it is read from the notebooks, so that the tables for instructors
(theme/teaching.py) say what the chapters say.
"""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import nbformat

from exercises import Exercise, exercises

HEADING = re.compile(r"\((★+), (\d+) minutes?\)")


@dataclass(frozen=True)
class Row:
    """One chapter."""

    name: str  # 07_batch_size_one
    title: str
    reading: int  # minutes
    objectives: list[str]  # Markdown
    needs: str  # Markdown
    exercises: list[Exercise]

    @property
    def number(self) -> str:
        return self.name[:2]

    @property
    def minutes(self) -> int:
        return sum(minutes(exercise) for exercise in self.exercises)

    @property
    def points(self) -> float:
        return sum(exercise.points for exercise in self.exercises)


def stars(exercise: Exercise) -> str:
    return HEADING.search(exercise.prompt.source)[1]


def minutes(exercise: Exercise) -> int:
    return int(HEADING.search(exercise.prompt.source)[2])


def words(exercise: Exercise) -> str:
    """The title without its number."""
    title = exercise.title.partition(" ")[2]
    return title.replace("A question to answer in writing", "Written question")


@cache
def rows(root: Path) -> list[Row]:
    """The chapters in reading order; ValueError where one does not say enough."""
    paths = sorted((root / "chapters").glob("[0-9][0-9]_*.ipynb"))
    return [_row(path) for path in paths]


def _row(path: Path) -> Row:
    notebook = nbformat.read(path, as_version=4)
    text = "\n\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    title = re.search(r"^# (.+)$", text, re.M)
    reading = re.search(r"\*(\d+) minutes of reading", text)
    can = re.search(r"After this chapter you can\n\n((?:- .*\n(?:  .*\n)*)+)", text)
    needs = re.search(r"^You need: (.*(?:\n.+)*)", text, re.M)
    if not (title and reading and can and needs):
        raise ValueError(
            f"{path.name}: expected a title, minutes of reading, objectives below "
            "'After this chapter you can' and a paragraph 'You need: …'"
        )
    items = re.split(r"^- ", can[1], flags=re.M)[1:]
    return Row(
        path.stem,
        title[1].partition(":")[0].strip(),
        int(reading[1]),
        [" ".join(item.split()).rstrip(";.") for item in items],
        " ".join(needs[1].split()),
        exercises(notebook),
    )
