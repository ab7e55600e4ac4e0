"""Private exercises: what students get of them, how they are graded, the examples."""

import copy
import csv
import importlib.util
import re
import subprocess
import sys
import zipfile
from functools import cache
from pathlib import Path

import nbformat
import pytest

import grade
import homework
import private
import variants
from exercises import exercises
from tests.verdicts import verdict
from utils import checks
from utils.checks.framework import answers

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "instructors" / "variants_example"
FOLDERS = sorted(EXAMPLE.glob("[0-9][0-9]/*"))
CHAPTER = "02_mechanics"
PATH = ROOT / "chapters" / f"{CHAPTER}.ipynb"
PUBLIC = exercises(nbformat.read(PATH, as_version=4))
WORDS = next(e for e in PUBLIC if e.written)


def load(path: Path):
    """A Python file as a module."""
    spec = importlib.util.spec_from_file_location(f"x_{path.parent.name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read(folder: Path) -> private.Private:
    (found,) = [p for p in private.read(EXAMPLE, folder.parent.name)]
    return found


def the_check(folder: Path):
    return getattr(load(folder / "check.py"), private.check_of(read(folder)))


def defined(folder: Path, file: str):
    """The answer of a stub or a solution, in a notebook that has imported torch."""
    names = {}
    exec("import torch\n" + (folder / file).read_text("utf-8"), names)
    return names[private.answer_of(read(folder))]


EACH = pytest.mark.parametrize("folder", FOLDERS, ids=lambda f: f.name)


def test_there_are_two_examples_of_two_chapters():
    assert [f.name for f in FOLDERS] == ["ex-02-1", "ex-07-3"]


@EACH
def test_an_example_s_solution_passes_the_hidden_cases_and_its_stub_no_case(folder):
    check = the_check(folder)
    shown = len(check.cases)
    check.add(load(folder / "hidden.py").CASES)
    passed, said = verdict(check, defined(folder, "solution.py"))
    assert passed, said
    assert passed.cases == (len(check.cases),) * 2 and len(check.cases) > shown
    assert verdict(check, defined(folder, "stub.py"))[0].cases[0] == 0


@EACH
def test_each_mistake_of_an_example_gets_its_own_hint(folder):
    check = the_check(folder)
    for hint, mistakes in check.mistakes.items():
        for answer in answers(mistakes):
            passed, said = verdict(check, answer)
            assert not passed and hint in said, (hint, said)


@EACH
def test_what_students_get_of_an_example_does_not_contain_the_answer(folder):
    solution = (folder / "solution.py").read_text("utf-8").split('"""')[2]
    lines = [line.strip() for line in solution.splitlines() if len(line) > 12]
    shown = (folder / "check.py").read_text("utf-8")
    shown += (folder / "prompt.md").read_text("utf-8")
    assert lines and not [line for line in lines if line in shown]


@pytest.fixture
def secret(monkeypatch):
    monkeypatch.setenv("SECRET", str(EXAMPLE))


@pytest.fixture
def clean(secret):
    return built()


@cache
def built():
    return homework.build(PATH, ROOT)


def test_a_variant_takes_the_place_of_its_exercise(clean):
    public, ours = exercises(nbformat.read(PATH, as_version=4)), exercises(clean)
    assert [e.number for e in ours] == [e.number for e in public]
    assert [e.points for e in ours] == [e.points for e in public]
    assert [e.stub.id for e in ours] == [e.stub.id for e in public]
    assert ours[0].title == "2.1 Channels last" and ours[0].answer == "batch_norm_last"
    assert [e.stub.source for e in ours[1:]] == [e.stub.source for e in public[1:]]


PROBE = """
from utils import checks
print(len(checks.batch_norm_last.cases), "batch_norm_last" in checks.__all__)
"""


def test_hidden_cases_are_in_the_grader_s_copy_alone(clean, tmp_path):
    for hidden, count in ((False, 3), (True, 6)):
        folder = homework.write_folder(CHAPTER, clean, ROOT, tmp_path, hidden=hidden)
        command = [sys.executable, "-c", PROBE]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert done.stdout == f"{count} True\n", done.stderr
        found = [*folder.rglob("*hidden*")]
        assert bool(found) == hidden
    handed_out = homework.write(CHAPTER, clean, ROOT, tmp_path)
    with zipfile.ZipFile(handed_out) as archive:
        names = archive.namelist()
        text = b"".join(archive.read(n) for n in names).decode("utf-8", "replace")
    assert not [n for n in names if "hidden" in n]
    assert "def batch_norm_last(answer" in text  # the check
    for file in ("solution.py", "hidden.py"):
        lines = (EXAMPLE / "02" / "ex-02-1" / file).read_text("utf-8").splitlines()
        for line in (x for x in lines if x.startswith("    ") and '"""' not in x):
            assert line not in text or len(line) < 12, line


def test_without_secret_nothing_is_added(monkeypatch, tmp_path):
    monkeypatch.delenv("SECRET", raising=False)
    public = nbformat.read(PATH, as_version=4)
    folder = homework.write_folder(CHAPTER, public, ROOT, tmp_path, hidden=True)
    own = (ROOT / "utils" / "checks" / "__init__.py").read_text("utf-8")
    assert (folder / "utils" / "checks" / "__init__.py").read_text("utf-8") == own


def test_it_is_graded_with_the_hidden_cases(clean, monkeypatch, tmp_path):
    """Who is right in what the students' copy tries, and not elsewhere, has a part."""
    solution = (EXAMPLE / "02" / "ex-02-1" / "solution.py").read_text("utf-8")
    shown_only = solution.replace("+ eps", "+ (eps if x.shape != (5, 5, 5, 5) else 1)")
    sources = {"all": solution, "shown": shown_only}
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        for student, source in sources.items():
            notebook = copy.deepcopy(clean)
            exercises(notebook)[0].stub.source = source
            archive.writestr(
                f"{student}_1_1_{CHAPTER}.ipynb", nbformat.writes(notebook)
            )
    monkeypatch.setenv("CHAPTER", "02")
    monkeypatch.setenv("FROM", str(tmp_path / "in.zip"))
    monkeypatch.setenv("JOBS", "1")
    grade.main(ROOT, tmp_path)
    text = (tmp_path / CHAPTER / "marks.csv").read_text("utf-8-sig").splitlines()
    points = exercises(clean)[0].points
    column = f"2.1 (of {points:g})"
    marks = {row["student"]: row[column] for row in csv.DictReader(text)}
    assert float(marks["all"]) == points
    assert 0 < float(marks["shown"]) < points
    said = (tmp_path / CHAPTER / "feedback" / "shown.html").read_text("utf-8")
    assert "5 of 6 cases right" in said


CODE = {
    "prompt.md": "### Exercise 2.1 X (★, 5 minutes)",
    "stub.py": "def f(x):\n    ...",
    "check.py": "@check()\ndef f_check(answer):\n    pass",
    "solution.py": "def f(x):\n    return x",
}


@pytest.mark.parametrize(
    "place, files, message",
    [
        ("02/ex-02-1", {}, "expected prompt.md, .*found nothing. Nothing is written"),
        ("02/ex-02-1", {"prompt.md": "x"}, "expected prompt.md.* found prompt.md"),
        ("02/ex-02-1", {"promt.md": "x"}, "promt.md is none of answer.md"),
        ("02/ex-03-1", CODE, "expected a folder such as ex-02-2"),
        ("02/ex-02-99", CODE, "ex-02-99: no such exercise; there are ex-02-1, "),
        ("02/ex-02-1", CODE | {"prompt.md": "x"}, "expected a first line such as"),
        ("02/ex-02-1", CODE | {"stub.py": "x = 1"}, "one function or class, found no"),
        ("02/ex-02-1", CODE | {"check.py": "x = 1"}, r"one check .*, found none"),
        ("02/ex-02-1", CODE | {"check.py": "x ="}, "check.py, line 1: invalid syntax"),
        (WORDS.number, {"hidden.py": "CASES = {}"}, "a written question has no check"),
        (WORDS.number, CODE, "the exercise is written, and its variant is not"),
    ],
)
def test_what_is_wrong_in_the_folder_is_said(
    tmp_path, monkeypatch, place, files, message
):
    place = place if "/" in place else f"02/ex-{place}"
    (tmp_path / place).mkdir(parents=True)
    for name, text in files.items():
        (tmp_path / place / name).write_text(text)
    monkeypatch.setenv("SECRET", str(tmp_path))
    with pytest.raises(SystemExit, match=message):
        private.chapter(PATH)


@pytest.mark.parametrize(
    "value, message",
    [("", "Where are they"), ("nowhere", "there is no such folder")],
)
def test_what_it_needs_it_says(monkeypatch, value, message):
    monkeypatch.setenv("SECRET", value)
    monkeypatch.delenv("CHAPTERS", raising=False)
    with pytest.raises(SystemExit, match=message):
        variants.main()


def test_a_written_question_has_variants_too(tmp_path, monkeypatch):
    place = tmp_path / "02" / f"ex-{WORDS.number}"
    place.mkdir(parents=True)
    prompt = f"### Exercise {WORDS.label} Another (★, 5 minutes)\n\nWhy?"
    (place / "prompt.md").write_text(prompt)
    (place / "answer.md").write_text("Because of ε.")
    monkeypatch.setenv("SECRET", str(tmp_path))
    last = next(e for e in exercises(private.chapter(PATH)) if e.written)
    assert last.title == f"{WORDS.label} Another"
    assert "Because of ε." in last.solution.source
    assert "Because of ε." not in str(homework.build(PATH, ROOT))


def test_there_are_two_ideas_for_each_chapter_about_exercises_that_exist():
    text = (ROOT / "instructors" / "variants.md").read_text("utf-8")
    parts = re.split(r"^### Chapter (\d\d), ", text, flags=re.MULTILINE)[1:]
    ideas = dict(zip(parts[::2], parts[1::2]))
    chapters = sorted((ROOT / "chapters").glob("[0-9][0-9]_*.ipynb"))
    lacks = "instructors/variants.md: '### Chapter NN, …', one for each chapter"
    assert [*ideas] == [path.name[:2] for path in chapters], lacks
    for path in chapters:
        named = re.findall(
            r"^- \*([^*]+?):?\* \*\*", ideas[path.name[:2]], re.MULTILINE
        )
        found = exercises(nbformat.read(path, as_version=4))
        known = {e.title.partition(" ")[2] for e in found}  # numbers may change
        assert len(set(named)) == 2 and {*named} <= known, path.name


def test_what_cannot_be_hidden_is_said():
    with pytest.raises(TypeError, match="lead is an experiment: hide another Measured"):
        checks.lead.add({"more": ()})
    check = the_check(FOLDERS[0])
    with pytest.raises(ValueError, match="batch_norm_last has these cases already"):
        check.add(dict(list(check.cases.items())[:1]))
