"""Marks are right, whatever a student or a learning platform did to the file."""

import csv
import io
import re
import shutil
import zipfile
from pathlib import Path

import nbformat
import pytest
import yaml
from axe_playwright_python.sync_playwright import Axe
from markupsafe import escape

import grade
import grade_pages
import homework
import submissions
from exercises import exercises
from tests.kinds import (
    CASES,
    CHAPTER,
    CODE,
    EXERCISES,
    FIRST,
    LABELS,
    POINTS,
    ROOT,
    TOTAL,
    WORDS,
    as_it_is,
    handed_in,
    perfect,
)

CHAPTERS = sorted((ROOT / "chapters").glob("[0-9][0-9]_*.ipynb"))
RUBRICS = yaml.safe_load((ROOT / grade_pages.RUBRICS).read_text("utf-8"))


@pytest.fixture(scope="module")
def clean():
    return homework.build(ROOT / "chapters" / f"{CHAPTER}.ipynb", ROOT)


@pytest.fixture(scope="module")
def graded(clean, tmp_path_factory):
    """The class of all cases, and some files that are none, graded as one zip."""
    folder, expected = tmp_path_factory.mktemp("class"), {}
    with zipfile.ZipFile(folder / "downloads.zip", "w") as archive:
        for i, change in enumerate(CASES):
            student = change.__name__.replace("_", "")
            text, expected[student] = handed_in(clean, change)
            name = "Copy of " * (i % 2) + f"{CHAPTER}.ipynb"
            archive.writestr(f"{student}_{i}_{i + 100}_{name}", text)
        archive.writestr("damaged_90_1_02_mechanics.ipynb", '{"cells": [')
        archive.writestr("report_91_1_report.pdf", b"%PDF")
        archive.writestr("other_92_1_07_batch_size_one.ipynb", '{"cells": []}')
        archive.writestr("__MACOSX/._x_1_1_02_mechanics.ipynb", b"junk")
    environment = {"CHAPTER": "2", "FROM": str(folder / "downloads.zip"), "LIMIT": "5"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        grade.main(ROOT, folder)
    return folder, expected


def rows(folder: Path) -> dict[str, dict[str, str]]:
    """student: column: text."""
    text = (folder / CHAPTER / "marks.csv").read_text(encoding="utf-8-sig")
    return {row["student"]: row for row in csv.DictReader(io.StringIO(text))}


def mark(row: dict[str, str], label: str) -> float | None:
    text = row[f"{label} (of {POINTS[label]:g})"]
    return float(text) if text else None


@pytest.mark.parametrize("change", CASES, ids=lambda change: change.__name__)
def test_gets_the_mark_that_it_deserves(graded, change):
    folder, expected = graded
    student = change.__name__.replace("_", "")
    row = rows(folder)[student]
    assert mark(row, FIRST.label) == expected[student], row
    assert (f"{FIRST.label}: " in row["flags"]) >= (expected[student] is None)
    for exercise in CODE[1:]:  # nothing that happens to 2.1 touches the others
        full = exercise.points if change is perfect else 0
        assert mark(row, exercise.label) == full, row


@pytest.mark.parametrize(
    "share, mark", [(0.5, 0), (0.4, 0), (0.75, 1.5), (1, 3), (0, 0)]
)
def test_what_the_cell_as_handed_out_gets_right_is_no_merit(share, mark):
    ran = {"share": share, "said": "Not yet: …"}
    answer = submissions.Answer("class Repaired: ...")
    assert grade.judge(FIRST, answer, ran, unearned=0.5).mark == mark


def test_written_answers_wait_for_a_person(graded):
    row = rows(graded[0])["perfect"]
    assert mark(row, WORDS.label) is None
    assert row[TOTAL] == ""
    assert float(row["so far"]) == sum(POINTS.values()) - WORDS.points
    row = rows(graded[0])["wholechapterwithsolutions"]
    assert mark(row, WORDS.label) == 0  # the chapter's text is nobody's answer


@pytest.mark.parametrize(
    "student, flag",
    [
        ("damaged", "cannot be read"),
        ("report", "report.pdf is no notebook"),
        ("other", "has no answers of this chapter"),
    ],
)
def test_a_file_that_cannot_be_graded_is_flagged_and_never_zero(graded, student, flag):
    row = rows(graded[0])[student]
    assert flag in row["flags"]
    assert all(mark(row, label) is None for label in LABELS)


def test_every_student_has_a_page_and_the_class_has_two(graded):
    folder = graded[0] / CHAPTER
    assert len(list((folder / "feedback").glob("*.html"))) == len(CASES) + 3
    page = (folder / "feedback" / "wrong.html").read_text("utf-8")
    assert "Not yet" in page and "def batch_norm_nd" in page
    questions = (folder / "questions.html").read_text("utf-8")
    assert "A hundredth" in questions
    assert "$" in WORDS.prompt.source and "$" in WORDS.solution.source
    assert "$" not in questions and questions.count("<math>") > 3
    for level in grade_pages.rubric_of(WORDS, RUBRICS):
        assert escape(level["what"]) in questions
    summary = (folder / "class.html").read_text("utf-8")
    assert ">wrong</a>" in summary.partition("Hints, the most frequent")[2]
    for path in folder.rglob("*.html"):  # one file each, and no network
        found = r"""<(script|link|img|iframe)|url\("?(?!"?data:)|@import"""
        assert not re.search(found, read(path))


def test_what_was_judged_does_not_run_again(graded, monkeypatch, tmp_path):
    """So typed marks enter the pages at once."""
    folder = shutil.copytree(graded[0], tmp_path / "copy")
    clean = homework.build(ROOT / "chapters" / f"{CHAPTER}.ipynb", ROOT)
    text, full = handed_in(clean, as_it_is)
    (folder / "again").mkdir()
    (folder / "again" / f"jane_1_2_{CHAPTER}.ipynb").write_text(text, "utf-8")
    monkeypatch.setattr(grade, "run_all", lambda *_: pytest.fail("it ran again"))
    monkeypatch.setenv("CHAPTER", "2")
    monkeypatch.setenv("FROM", str(folder / "again"))
    grade.main(ROOT, folder)
    assert mark(rows(folder)["jane"], FIRST.label) == full


def test_what_was_not_judged_runs_again_until_a_person_has_given_the_mark(tmp_path):
    job = {"exercises": [{"number": "02-1"}, {"number": "02-2"}]}
    ran = {"02-1": {"stopped": "after 20 s"}, "02-2": {"share": 0, "said": "Not yet"}}
    for _ in range(2):
        known = grade.Before(tmp_path / "ran.json", tmp_path / "homework")
        known.keep(job, ran)
        known.write()
    assert known.find(job, None) == known.find(job, {"02-1": None}) == {}
    assert known.find(job, {"02-1": 0.0}) == ran


def read(path: Path) -> str:
    return path.read_text("utf-8")


def test_the_pages_are_fit_for_phones_the_dark_and_screen_readers(graded, browser):
    folder = graded[0] / CHAPTER
    for name in ("class.html", "questions.html", "feedback/halfright.html"):
        for scheme in ("light", "dark"):
            page = browser.new_page(
                viewport={"width": 390, "height": 800}, color_scheme=scheme
            )
            page.goto((folder / name).as_uri())
            found = Axe().run(page).response["violations"]
            assert not found, (name, scheme, found)
            wide = page.evaluate("document.documentElement.scrollWidth")
            assert wide <= 390, (name, wide)
            page.close()


def test_every_written_question_has_a_rubric_and_each_rubric_a_question():
    questions = []
    for path in CHAPTERS:
        found = exercises(nbformat.read(path, as_version=4))
        questions += [e for e in found if e.written]
    for exercise in questions:
        text = " ".join(exercise.prompt.source.split())
        assert sum(words in text for words in RUBRICS) == 1, exercise.title
    assert len(questions) == len(RUBRICS)
    for label, rubric in RUBRICS.items():
        assert [*rubric] == [*grade_pages.LEVELS], label
        for level in rubric.values():
            assert [*level] == ["what", "example"] and all(level.values()), label


@pytest.mark.parametrize(
    "said, hint",
    [
        ("Not yet: ε is missing (3 of 11 cases right)", "ε is missing"),
        (
            "Not yet: gamma is off: it should be 1, yours is 2",
            "gamma is off: it should be 1",
        ),
        (
            "Not yet: SyntaxError: '(' was never closed (<string>, line 3)",
            "SyntaxError: '(' was never closed",
        ),
    ],
)
def test_what_differs_between_two_with_the_same_mistake_is_left_out(said, hint):
    assert grade_pages.hint_of(said) == hint


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_every_chapter_can_be_graded(path):
    """Its model answers pass in a worker; the cells as handed out do not."""
    clean = homework.build(path, ROOT)
    set_up = {"limit": 20, "memory": 2000, "jobs": 1}
    with grade.ready(path, clean, set_up) as (_, limits, _):
        code = {e.number for e in exercises(clean) if not e.written}
        assert {*limits["unearned"]} == code


# The table, without running anything ------------------------------------------


# Four exercises in code and the written one, however many the chapter has.
FEW = EXERCISES[:4] + EXERCISES[-1:]
TOTAL_OF_FEW = f"total (of {sum(e.points for e in FEW):g})"


def table(tmp_path, results: dict) -> dict[str, dict[str, str]]:
    """Merge the marks of a grading into the table of a folder."""
    folder = tmp_path / CHAPTER
    folder.mkdir(exist_ok=True)
    grades = {
        student: (
            {e.number: grade.Grade(m) for e, m in zip(FEW, marks)},
            ["a flag"],
        )
        for student, marks in results.items()
    }
    grade.merge(folder, grades, FEW)
    return rows(tmp_path)


def retype(tmp_path, old: str, new: str) -> None:
    """What an instructor does in a spreadsheet."""
    path = tmp_path / CHAPTER / "marks.csv"
    text = path.read_text("utf-8-sig")
    assert text.count(old) == 1
    path.write_text(text.replace(old, new), "utf-8")


GRADED = [2, 0, 2, 1.5, None]  # the last is the written one


def test_hand_marks_stay_and_enter_the_total(tmp_path):
    row = table(tmp_path, {"jane": GRADED})["jane"]
    assert (row["so far"], row[TOTAL_OF_FEW], row["flags"]) == ("5.5", "", "a flag")
    retype(tmp_path, "jane,2,0,2,1.5,,", "jane,2,1,2,1.5,2,")
    for _ in range(2):
        row = table(tmp_path, {"jane": GRADED})["jane"]
        assert row[TOTAL_OF_FEW] == "8.5"
        assert mark(row, LABELS[1]) == 1


def test_an_unchanged_mark_is_graded_anew(tmp_path):
    table(tmp_path, {"jane": GRADED})
    row = table(tmp_path, {"jane": [2, 2, 2, 2, None]})["jane"]
    assert row["so far"] == "8"


def test_who_is_not_in_this_download_stays(tmp_path):
    table(tmp_path, {"jane": GRADED, "ann": [0] * 5})
    retype(tmp_path, "jane,2,0,2,1.5,,", "jane,2,0,2,1.5,1,")
    found = table(tmp_path, {"ann": [2] * 5})
    assert found["jane"][TOTAL_OF_FEW] == "6.5"
    assert found["jane"]["flags"] == "a flag"
    assert found["ann"][TOTAL_OF_FEW] == "10"


def test_a_table_with_semicolons_and_commas_is_read(tmp_path):
    """As a spreadsheet in some countries saves it."""
    table(tmp_path, {"jane": GRADED})
    path = tmp_path / CHAPTER / "marks.csv"
    text = path.read_text("utf-8-sig").replace(",", ";").replace("1.5;;", "1,5;0,5;")
    path.write_text(text, "utf-8-sig")
    assert table(tmp_path, {"jane": GRADED})["jane"][TOTAL_OF_FEW] == "6"


@pytest.mark.parametrize("typed", ["4", "-1", "two", "nan"])
def test_what_is_no_mark_stops_it_before_anything_is_written(tmp_path, typed):
    table(tmp_path, {"jane": GRADED})
    retype(tmp_path, "jane,2,0,2,1.5,,", f"jane,2,0,2,1.5,{typed},")
    before = (tmp_path / CHAPTER / "marks.csv").read_text("utf-8")
    with pytest.raises(SystemExit, match=f"'{typed}' for jane, .* is no mark from 0"):
        table(tmp_path, {"jane": GRADED})
    assert (tmp_path / CHAPTER / "marks.csv").read_text("utf-8") == before


@pytest.mark.parametrize(
    "environment, message",
    [
        ({}, "Write: make grade CHAPTER=07"),
        ({"CHAPTER": "07", "FROM": "nowhere.zip"}, "no such file or folder"),
        ({"CHAPTER": "07", "FROM": ".", "LIMIT": "x"}, "LIMIT=x: write a whole number"),
    ],
)
def test_what_it_needs_it_says(monkeypatch, environment, message):
    for name in ("CHAPTER", "FROM", "LIMIT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match=message):
        grade.main()
