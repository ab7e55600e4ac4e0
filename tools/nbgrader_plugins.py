"""What instructors/nbgrader_config.py plugs into nbgrader.

nbgrader keeps its places: source, release, submitted, autograded, feedback, the
database and the formgrader. The marks are those of `make grade`, by its own code:
an answer is found wherever it is, runs in a worker's sandbox, and what could not
be graded waits for a person.
"""

import atexit
import copy
import csv
import os
import sys
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_output
from nbgrader.converters import Autograde, GenerateAssignment
from nbgrader.plugins.export import ExportPlugin
from nbgrader.preprocessors import (
    Execute,
    NbGraderPreprocessor,
    SaveAutoGrades,
)

import grade
import homework
import private
from exercises import exercises, tags
from repository import ROOT
from submissions import Handed

LOST = "*No answer to this question was found in the file. A person has to look.*"
# A name as Canvas or Moodle writes it, and ours, for nbgrader's zip_collect
NAMES = (
    r".*?/(?P<student_id>[^/_]+)_(?:LATE_)?\d+_(?:\d+_|assignsubmission_file_?/)"
    r"(?:Copy of )*(?P<file_id>\d\d_[a-z_]*[a-z])"
)


@cache
def graded(chapter: str) -> tuple:
    """(clean notebook, with solutions, worker, limits) of a chapter.

    The worker ends with nbgrader.
    """
    path = homework.chapter_path(chapter[:2], ROOT)
    clean = homework.build(path, ROOT)
    stack = ExitStack()
    atexit.register(stack.close)
    limits = {"limit": "20", "memory": "2000"}  # as for `make grade`
    set_up = {n: int(os.environ.get(n.upper()) or x) for n, x in limits.items()}
    set_up["jobs"] = 1
    (worker,), limits, how = stack.enter_context(grade.ready(path, clean, set_up))
    print(f"Students' code runs in {how}", file=sys.stderr)
    return clean, private.chapter(path), worker, limits


class Refuse(NbGraderPreprocessor):
    """Stops where a notebook has solutions in it."""

    def preprocess(self, nb: NotebookNode, resources: dict) -> tuple:
        for cell in nb.cells:
            if "solution" in tags(cell):
                raise ValueError(
                    f"cell {cell.get('id')} is a solution: this is a chapter of the "
                    "book. `make course` writes its exercises without solutions."
                )
        return nb, resources


class CleanCopy(NbGraderPreprocessor):
    """The homework as it was handed out, with the student's answers in it."""

    def preprocess(self, nb: NotebookNode, resources: dict) -> tuple:
        clean, solved, _, _ = graded(resources["nbgrader"]["notebook"])
        result = copy.deepcopy(clean)
        handed = Handed("the notebook", notebook=nb)
        answers, _ = grade.prepare([handed], exercises(clean), clean, solved)
        for exercise in exercises(result) if answers else ():
            answer = answers[exercise.number]
            if answer.state == "answered":
                parts = [answer.helpers, answer.source]
                exercise.stub.source = "\n\n\n".join(filter(None, parts))
            elif exercise.written and answer.state == "lost":
                exercise.stub.source = LOST
        return result, resources


class Grade(NbGraderPreprocessor):
    """Runs the answers; what is seen of them becomes the cells' outputs."""

    def preprocess(self, nb: NotebookNode, resources: dict) -> tuple:
        names = resources["nbgrader"]
        chapter = names["notebook"]
        clean, solved, worker, limits = graded(chapter)
        path = Path("submitted", names["student"], names["assignment"])
        handed = Handed(str(path / f"{chapter}.ipynb"))
        handed.notebook = nbformat.read(handed.path, as_version=4)
        found = exercises(clean)
        answers, flags = grade.prepare([handed], found, clean, solved)
        if worker.process.poll() is not None:  # the formgrader's thread has ended
            worker.start()
        job = grade.job_of(found, answers, limits) if answers else {}
        ran = worker.run(job).get("done", {}) if job.get("exercises") else {}
        unearned = limits["unearned"]
        own = exercises(nb)  # with the points that were handed out
        grades, flags = grade.graded(own, answers, flags, ran, unearned)
        for flag in flags:
            self.log.warning("%s: %s", names["student"], flag)
        waiting = resources["waiting"] = set()
        for exercise in own:
            if exercise.written:
                continue
            given = grades[exercise.number]
            said = given.said if not given.flag else f"{given.said} [{given.flag}]"
            exercise.stub.outputs = printed(given.outputs)
            exercise.check.outputs = printed(said)
            if given.mark is None:
                waiting.add(exercise.check.metadata.nbgrader.grade_id)
            else:
                data = {"text/plain": f"{given.mark:g}"}  # read by determine_grade
                result = new_output("execute_result", data, execution_count=None)
                exercise.check.outputs.append(result)
        return nb, resources


def printed(text: str) -> list:
    return [new_output("stream", name="stdout", text=text)] if text else []


class SaveMarks(SaveAutoGrades):
    """What could not be graded is no 0: it waits for a person."""

    def _add_score(self, cell: NotebookNode, resources: dict) -> None:
        super()._add_score(cell, resources)
        name = cell.metadata.nbgrader.grade_id
        if name in resources["waiting"]:
            names = self.notebook_id, self.assignment_id, self.student_id
            found = self.gradebook.find_grade(name, *names)
            found.auto_score, found.needs_manual_grade = None, True
            self.gradebook.db.commit()


def preprocessors_of(which: str) -> list[type]:
    """nbgrader's own list, with ours in their places."""
    if which == "GenerateAssignment":
        return [Refuse, *GenerateAssignment.preprocessors.default()]
    if which == "sanitize":
        return [CleanCopy, *Autograde.sanitize_preprocessors.default()]
    ours = {Execute: Grade, SaveAutoGrades: SaveMarks}
    return [ours.get(pp, pp) for pp in Autograde.autograde_preprocessors.default()]


class Marks(ExportPlugin):
    """A row per student: their marks, and what is still to be marked by a person."""

    def export(self, gradebook: object) -> None:
        rows = []
        for assignment in gradebook.assignments:
            if self.assignment and assignment.name not in self.assignment:
                continue
            for submission in assignment.submissions:
                if self.student and submission.student.id not in self.student:
                    continue
                rows.append(marks_row(assignment, submission))
        target = Path(self.to or "grades.csv")
        with target.open("w", encoding="utf-8-sig", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
        self.log.info("Exported %s rows to %s", len(rows), target)


COLUMNS = ["assignment", "student_id", "score", "max_score", "so far", "to mark"]
COLUMNS += ["marks"]


def marks_row(assignment: object, submission: object) -> dict:
    grades = [g for notebook in submission.notebooks for g in notebook.grades]
    short = {g: g.name.removeprefix("ex-").removesuffix("-check") for g in grades}
    waiting = [g for g in grades if g.needs_manual_grade]
    late = submission.late_submission_penalty
    score = max(0.0, submission.score - late)
    return {
        "assignment": assignment.name,
        "student_id": submission.student.id,
        "score": "" if waiting else f"{score:g}",
        "max_score": f"{assignment.max_score:g}",
        "so far": f"{score:g}",
        "to mark": " ".join(sorted(short[g] for g in waiting)),
        "marks": " ".join(
            f"{short[g]}={g.score:g}"
            for g in sorted(grades, key=short.get)
            if not g.needs_manual_grade
        ),
    }
