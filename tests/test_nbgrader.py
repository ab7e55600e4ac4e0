"""nbgrader gives the marks that `make grade` gives, to the same submissions.

Where nbgrader is installed: `make nbgrader` does that, in a folder of its own.
"""

import csv
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import nbformat
import pytest

pytest.importorskip(
    "nbgrader", reason="nbgrader is not installed here: `make nbgrader` runs these"
)

import homework
import nbgrader_course as course
from tests.kinds import (
    CASES,
    CHAPTER,
    CODE,
    FIRST,
    ROOT,
    SOLVED,
    WORDS,
    handed_in,
    perfect,
)

NBGRADER = Path(sys.executable).with_name("nbgrader")


def nbgrader(folder: Path, *arguments: str) -> str:
    """Its output, on success; not from an activated environment, nor a known one."""
    kept = {"HOME", "LANG", "TMPDIR"}
    done = subprocess.run(
        [NBGRADER, *arguments],
        cwd=folder,
        env={name: os.environ[name] for name in kept & {*os.environ}}
        | {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "LIMIT": "5"},
        capture_output=True,
        text=True,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-3000:]
    return said


def answer_lost(notebook):
    notebook.cells = [c for c in notebook.cells if c.id != WORDS.stub.id]


def names_of(i: int, student: str) -> str:
    """As Canvas, Moodle and others name files, by turns."""
    return [
        f"{student}_{i}_{i + 100}_{CHAPTER}.ipynb",
        f"{student}_LATE_{i}_{i + 100}_Copy of {CHAPTER}-1.ipynb",
        f"{student}_{i}_assignsubmission_file_/Copy of {CHAPTER}.ipynb",
        f"{student}/{CHAPTER} (1).ipynb",
    ][i % 4]


@pytest.fixture(scope="module")
def clean():
    return homework.build(ROOT / "chapters" / f"{CHAPTER}.ipynb", ROOT)


def make_course(monkeypatch, folder: Path, **more: str) -> None:
    for name, value in {"CHAPTERS": "02", "COURSE": str(folder), **more}.items():
        monkeypatch.setenv(name, value)
    course.main(ROOT)


@pytest.fixture(scope="module")
def graded(clean, tmp_path_factory):
    """(the course's folder, the mark that each student deserves), graded."""
    folder, expected = tmp_path_factory.mktemp("course"), {}
    downloads = folder / "downloads.zip"
    with zipfile.ZipFile(downloads, "w") as archive:
        for i, change in enumerate([*CASES, answer_lost]):
            student = change.__name__.replace("_", "")
            text, expected[student] = handed_in(clean, change)
            archive.writestr(names_of(i, student), text)
        archive.writestr(f"damaged_90_1_{CHAPTER}.ipynb", '{"cells": [')
    with pytest.MonkeyPatch.context() as patch:
        make_course(patch, folder)
        nbgrader(folder, "generate_assignment", CHAPTER)
        make_course(patch, folder, FROM=str(downloads))
    nbgrader(folder, "autograde", CHAPTER)
    nbgrader(folder, "generate_feedback", CHAPTER)
    nbgrader(folder, "export")
    return folder, expected


def row_of(folder: Path, student: str) -> tuple[dict, dict[str, float], list[str]]:
    """Of grades.csv: the row, the marks by exercise, and what is still to mark."""
    text = (folder / "grades.csv").read_text("utf-8-sig").splitlines()
    (row,) = [r for r in csv.DictReader(text) if r["student_id"] == student]
    pairs = re.findall(r"(\S+)=(\S+)", row["marks"])
    return row, {n: float(mark) for n, mark in pairs}, row["to mark"].split()


@pytest.mark.parametrize("change", CASES, ids=lambda change: change.__name__)
def test_gets_the_mark_that_it_deserves(graded, change):
    folder, expected = graded
    student = change.__name__.replace("_", "")
    row, marks, to_mark = row_of(folder, student)
    assert marks.get(FIRST.number) == expected[student], row
    assert (FIRST.number in to_mark) == (expected[student] is None), row
    for exercise in CODE[1:]:
        assert marks[exercise.number] == (exercise.points if change is perfect else 0)
    assert (row["score"] == "") == bool(to_mark)  # no total without all marks


def test_a_written_answer_waits_for_a_person_and_so_does_a_lost_one(graded):
    assert WORDS.number in row_of(graded[0], "perfect")[2]
    assert WORDS.number in row_of(graded[0], "answerlost")[2]
    assert row_of(graded[0], "asitis")[1][WORDS.number] == 0  # left as it was


def test_every_student_gets_feedback_with_what_the_check_says(graded):
    pages = [*graded[0].glob(f"feedback/*/{CHAPTER}/{CHAPTER}.html")]
    assert len(pages) == len(CASES) + 1
    page = graded[0] / "feedback" / "wrong" / CHAPTER / f"{CHAPTER}.html"
    text = re.sub("<[^>]+>", "", page.read_text("utf-8"))
    assert "Not yet" in text and "def batch_norm_nd" in text


def test_students_get_what_make_homework_writes_and_no_solution(graded, clean):
    folder = graded[0] / "release" / CHAPTER
    released = nbformat.read(folder / f"{CHAPTER}.ipynb", as_version=4)
    assert [c.source for c in released.cells] == [c.source for c in clean.cells]
    for exercise in CODE:
        assert exercise.solution.source not in str(released)
    assert (folder / "utils" / "checks" / "chapter_02.py").is_file()


def test_a_chapter_of_the_book_is_refused(graded):
    place = graded[0] / "source" / "x"
    place.mkdir()
    nbformat.write(SOLVED, place / f"{CHAPTER}.ipynb")
    with pytest.raises(AssertionError, match="is a solution: this is a chapter"):
        nbgrader(graded[0], "generate_assignment", "x")
    assert not (graded[0] / "release" / "x").exists()


@pytest.mark.parametrize(
    "name",
    [
        "doejane_12345_67890_07_batch_size_one.ipynb",
        "doejane_LATE_12345_67890_Copy of 07_batch_size_one-1.ipynb",
        "doejane_12345_assignsubmission_file_/07_batch_size_one.ipynb",
        "doejane_12345_assignsubmission_file/Copy of 07_batch_size_one (1).ipynb",
    ],
)
def test_zip_collect_knows_the_names_of_platforms(name):
    import nbgrader_plugins

    found = re.match(nbgrader_plugins.NAMES, f"/course/downloaded/{name}")
    assert (found["student_id"], found["file_id"]) == ("doejane", "07_batch_size_one")


def test_a_moved_repository_is_named(graded, tmp_path):
    for name in ("nbgrader_config.py", "course.json"):
        (tmp_path / name).write_text((graded[0] / name).read_text())
    made = json.loads((tmp_path / "course.json").read_text())
    (tmp_path / "course.json").write_text(json.dumps(made | {"clone": "/nowhere"}))
    with pytest.raises(AssertionError, match="is in /nowhere, and it is not there"):
        nbgrader(tmp_path, "list")
