"""Whose file it is, as learning platforms name files; and what is in a download."""

import io
import zipfile

import nbformat
import pytest
from nbformat.v4 import new_markdown_cell, new_notebook

from homework import NAME, NAME_CELL
from submissions import collect, owner

CHAPTER = "07_batch_size_one"
CLEAN = new_notebook(cells=[new_markdown_cell(NAME, id=NAME_CELL)])
MOODLE = "Jane Döe_123456_assignsubmission_file"


@pytest.mark.parametrize(
    "path, student",
    [
        (f"doejane_12345_67890_{CHAPTER}.ipynb", "doejane"),
        (f"doejane_LATE_12345_67890_{CHAPTER}-1.ipynb", "doejane"),
        (f"doejane_12345_67890_Copy of {CHAPTER}.ipynb", "doejane"),
        (f"{MOODLE}_/{CHAPTER}.ipynb", "Jane Döe"),
        (f"{MOODLE}/Copy of {CHAPTER} (1).ipynb", "Jane Döe"),
        (f"{MOODLE}_{CHAPTER}.ipynb", "Jane Döe"),
        (f"class/{MOODLE}_/mine/x.ipynb", "Jane Döe"),
        (f"Jane Doe - {CHAPTER}.ipynb", "Jane Doe"),
        (f"Jane Doe - Copy of {CHAPTER}.ipynb", "Jane Doe"),
        (f"Copy of {CHAPTER} - Jane Doe (2).ipynb", "Jane Doe"),
        (f"submitted/jane/{CHAPTER}/{CHAPTER}.ipynb", "jane"),
        (f"jane/Copy of Copy of {CHAPTER}.ipynb", "jane"),
        ("jane/07 Batch Size One.ipynb", "jane"),
        (f"{CHAPTER}_jane.ipynb", "jane"),
        ("07-batch-size-one-jane/07_batch_size_one.ipynb", "jane"),
        (f"{CHAPTER}.ipynb", ""),
        (f"Copy of {CHAPTER}(3).ipynb", ""),
        (f"Kopie von {CHAPTER}.ipynb", ""),
    ],
)
def test_whose_it_is(path, student):
    assert owner(path, CHAPTER).student == student


def notebook(*cells) -> str:
    return nbformat.writes(new_notebook(cells=list(cells)))


def packed(**files: str | bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


def collected(tmp_path, files: dict) -> dict:
    (tmp_path / "all.zip").write_bytes(packed(**files))
    return collect(tmp_path / "all.zip", CHAPTER, CLEAN)


def test_the_newest_of_several_is_graded(tmp_path):
    names = [f"jane_1_{n}_{CHAPTER}{end}" for n, end in ((5, ""), (7, "-2"), (6, "-1"))]
    files = {f"{name}.ipynb": notebook() for name in names}
    found = collected(tmp_path, files)
    assert list(found) == ["jane"]
    assert [h.attempt for h in found["jane"]] == [2, 1, 0]


def test_two_students_of_one_name_stay_two(tmp_path):
    files = {f"jane_{n}_9_{CHAPTER}.ipynb": notebook() for n in (1, 2)}
    assert list(collected(tmp_path, files)) == ["jane (1)", "jane (2)"]


def test_a_zip_in_the_zip_is_unpacked(tmp_path):
    inner = packed(**{f"hw/{CHAPTER}.ipynb": notebook(), "hw/utils/a.py": "x"})
    files = {"jane_1_2_homework.zip": inner, "__MACOSX/._a": b"", "ann/.DS_Store": b""}
    found = collected(tmp_path, files)
    (several,) = found.values()
    assert several[0].notebook is not None


@pytest.mark.parametrize(
    "name", ["{}_1_2_" + CHAPTER, "{} - " + CHAPTER, "{}_1_assignsubmission_file/x"]
)
def test_a_late_download_beside_the_first(tmp_path, name):
    """The zips' own names, of which platforms make what they like, name nobody."""
    late = {f"{name.format(s)}.ipynb": notebook() for s in ("ann", "bob")}
    files = {
        "hw07.zip": packed(**{f"{name.format('jane')}.ipynb": notebook()} | late),
        "late.zip": packed(**{f"{name.format('jane')}.ipynb": notebook()} | late),
    }
    found = collected(tmp_path, files)
    assert {s: len(several) for s, several in found.items()} == {
        "jane": 2,
        "ann": 2,
        "bob": 2,
    }


def test_the_zip_of_a_student_with_several_files_is_one_students(tmp_path):
    own = {f"hw/{CHAPTER}.ipynb": notebook(), f"hw/old {CHAPTER}.ipynb": notebook()}
    found = collected(tmp_path, {"jane.zip": packed(**own)})
    assert list(found) == ["jane"]


def test_a_damaged_zip_is_one_students(tmp_path):
    files = {"jane_1_2_a.zip": b"PK\x03\x04junk", f"ann/{CHAPTER}.ipynb": notebook()}
    found = collected(tmp_path, files)
    assert found["ann"][0].problem == ""
    assert "is no notebook" in found["jane"][0].problem


@pytest.mark.parametrize(
    "cell, student, problem",
    [
        (new_markdown_cell("**Name:** *Jane Doe*", id=NAME_CELL), "Jane Doe", ""),
        (
            new_markdown_cell(
                "", metadata={"executionInfo": {"user": {"displayName": "Jane"}}}
            ),
            "Jane",
            "",
        ),
        (new_markdown_cell(NAME, id=NAME_CELL), CHAPTER, "whose file is this?"),
    ],
)
def test_without_a_name_the_notebook_may_have_one(tmp_path, cell, student, problem):
    found = collected(tmp_path, {f"{CHAPTER}.ipynb": notebook(cell)})
    assert list(found) == [student]
    assert found[student][0].problem.startswith(problem)


def test_a_name_is_no_formula_in_a_spreadsheet(tmp_path):
    cell = new_markdown_cell("**Name:** =HYPERLINK(1)", id=NAME_CELL)
    found = collected(tmp_path, {f"{CHAPTER}.ipynb": notebook(cell)})
    assert list(found) == ["HYPERLINK(1)"]


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"[]", b'{"cells": [{}]}'])
def test_what_is_no_notebook_is_said(tmp_path, content):
    found = collected(tmp_path, {f"jane/{CHAPTER}.ipynb": content})
    assert found["jane"][0].notebook is None
    assert "cannot be read" in found["jane"][0].problem


def test_what_windows_adds_at_the_beginning_does_no_harm(tmp_path):
    content = b"\xef\xbb\xbf" + notebook().encode()
    found = collected(tmp_path, {f"jane/{CHAPTER}.ipynb": content})
    assert found["jane"][0].notebook is not None
