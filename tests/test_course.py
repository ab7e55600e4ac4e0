"""A course for nbgrader and an assignment for otter, without either of them.

tests/test_nbgrader.py lets nbgrader grade, where it is installed.
"""

import ast
import copy
import json
import zipfile
from pathlib import Path

import nbformat
import pytest
import torch
from nbformat import NotebookNode

import build
import homework
import nbgrader_course as course
import otter_export
from exercises import exercises
from tests.kinds import CHAPTER, FIRST, ROOT, SOLUTION

PATH = ROOT / "chapters" / f"{CHAPTER}.ipynb"


@pytest.fixture(scope="module")
def clean() -> NotebookNode:
    return homework.build(PATH, ROOT)


@pytest.fixture
def made(tmp_path, monkeypatch, clean) -> Path:
    """The folder of a course that does not exist yet."""
    for name in ("FROM", "SECRET"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CHAPTERS", "2")
    monkeypatch.setenv("COURSE", str(tmp_path / "course"))
    monkeypatch.setattr(homework, "build", lambda path, root: clean)
    return tmp_path / "course"


def pins(path: str) -> dict[str, str]:
    lines = (ROOT / path).read_text("utf-8").splitlines()
    return dict(line.split("==") for line in lines if "==" in line[1:])


@pytest.mark.parametrize("name", ["requirements", "requirements-otter", "constraints"])
def test_a_mark_does_not_depend_on_what_runs_it(name):
    """The course's versions wherever both have a package; nbgrader apart from it."""
    ours, theirs = pins("constraints.txt"), pins(f"instructors/{name}.txt")
    assert "torch" in theirs and not {"nbgrader", "otter-grader"} & {*ours}
    shared = {*ours} & {*theirs}
    assert {n: theirs[n] for n in shared} == {n: ours[n] for n in shared}


def test_it_writes_settings_and_an_assignment(made, clean):
    course.main(ROOT)
    told = json.loads((made / "course.json").read_text("utf-8"))
    assert told == {"clone": str(ROOT), "secret": ""}
    own = ROOT / "instructors" / "nbgrader_config.py"
    assert (made / "nbgrader_config.py").read_text() == own.read_text()
    source = made / "source" / CHAPTER
    assert nbformat.read(source / PATH.name, as_version=4).cells == clean.cells
    assert (source / "utils" / "checks").is_dir() and (source / "data").is_dir()
    assert not [*(made / "source").glob("*.zip")]


def test_what_was_handed_in_is_put_where_nbgrader_looks(
    made, clean, tmp_path, monkeypatch, capsys
):
    text = nbformat.writes(clean)
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        archive.writestr(f"ann_LATE_1_2_Copy of {CHAPTER}-1.ipynb", text)
        archive.writestr(f"ann_1_1_{CHAPTER}.ipynb", text)
        archive.writestr(f"Bo [x]_7_assignsubmission_file_/{CHAPTER} (1).ipynb", text)
        archive.writestr(f"cy_1_4_{CHAPTER}.ipynb", '{"cells": [')
    monkeypatch.setenv("FROM", str(tmp_path / "in.zip"))
    course.main(ROOT)
    found = [p.relative_to(made / "submitted") for p in made.rglob("*.ipynb")]
    assert sorted(map(str, found)) == [
        f"Bo (x)/{CHAPTER}/{CHAPTER}.ipynb",
        f"ann/{CHAPTER}/{CHAPTER}.ipynb",
    ]
    told = capsys.readouterr()
    assert "ann: 2 files, taken ann_LATE_1_2_Copy of" in told.out
    assert "cy: " in told.err and "cannot be read" in told.err


@pytest.mark.parametrize(
    "environment, message",
    [
        ({"COURSE": ""}, "Where. Write: make course CHAPTERS="),
        ({"CHAPTERS": ""}, "Which chapters. Write: make course"),
        ({"CHAPTERS": "99"}, "There is no chapter '99'; there are 00"),
        ({"FROM": "nowhere.zip"}, "FROM=nowhere.zip: there is no such"),
        ({"FROM": "x", "CHAPTERS": "2 7"}, "for one chapter: name one in CHAPTERS"),
    ],
)
def test_what_it_needs_it_says(made, monkeypatch, environment, message):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match=message):
        course.main(ROOT)
    assert not made.exists()


def test_settings_of_somebody_s_own_are_kept(made):
    made.mkdir()
    (made / "nbgrader_config.py").write_text("c = get_config()")
    with pytest.raises(SystemExit, match="is not of `make course`: move it away"):
        course.main(ROOT)
    assert (made / "nbgrader_config.py").read_text() == "c = get_config()"


def test_otter_gets_the_points_the_hints_and_the_solutions_in_their_places(clean):
    notebook = otter_export.assignment(PATH, clean)
    text = "\n".join(cell.source for cell in notebook.cells)
    found = exercises(clean)
    assert text.count("# BEGIN QUESTION") == text.count("# END QUESTION") == len(found)
    solved = exercises(nbformat.read(PATH, as_version=4))
    for cell in notebook.cells:
        if cell.cell_type == "code":
            ast.parse(cell.source)
        before, _, hidden = cell.source.partition("# BEGIN SOLUTION NO PROMPT\n")
        if hidden:  # otter takes it out, up to the mark at the end
            assert hidden.endswith("\n# END SOLUTION")
            name = next(e for e in solved if e.stub.source in before).answer
            assert f"def {name}(" in hidden and "assert" not in hidden
    for e in found:
        if not e.written:
            assert text.count(f"checks.{e.call.func.attr}(") == 1  # students' test
    quarters = [c for c in notebook.cells if "hidden: true" in c.source]
    assert len(quarters) == 4 * sum(not e.written for e in found)


def test_what_the_cell_as_handed_out_gets_right_is_no_merit_in_otter():
    """As in the clinic, where it has one defect."""
    half = SOLUTION.replace(
        "    dims", "    if x.dim() == 2:\n        return x\n    dims"
    )
    exercise = copy.deepcopy(FIRST)
    exercise.stub.source = half
    cells = otter_export.question(exercise, FIRST, hidden="")
    quarters = [c.source for c in cells if "hidden: true" in c.source]
    for answer, passed in ((half, 0), (SOLUTION, 4)):
        env = {"torch": torch}
        exec(answer, env)
        assert sum(passes(source, env) for source in quarters) == passed


def passes(source: str, env: dict) -> bool:
    names = {}
    exec(source, names)
    (test,) = [f for name, f in names.items() if name.startswith("test_")]
    try:
        test(env)
    except AssertionError:
        return False
    return True


def test_a_book_without_solutions_is_made_of_files_without_them(tmp_path):
    """Whatever the book is built of: pages, sources, search, downloads."""
    folder = build.without_solutions(tmp_path)
    assert "\n  branch: student\n" in (folder / "_config.yml").read_text("utf-8")
    for path in sorted((ROOT / "chapters").glob("*.ipynb")):
        text = (folder / "chapters" / path.name).read_text("utf-8")
        assert "@title Solution" not in text and "<summary>Answer<" not in text
        own = nbformat.read(path, as_version=4)
        solutions = [exercise.solution for exercise in exercises(own)]
        left = nbformat.reads(text, as_version=4).cells
        assert solutions and left == [c for c in own.cells if c not in solutions]


def test_a_misspelled_no_does_not_publish_solutions(monkeypatch):
    monkeypatch.setenv("SOLUTIONS", "No")
    monkeypatch.setattr(build, "clean", lambda: pytest.fail("it begins to build"))
    with pytest.raises(SystemExit, match="SOLUTIONS=No: write yes or no"):
        build.main()
