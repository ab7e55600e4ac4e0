"""Homework: exercises that can be solved with what is handed out, no solutions."""

import ast
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import nbformat
import pytest

import homework
import repository
from exercises import exercises, names, needed, statements
from tests.notebooks import make_project

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = sorted((ROOT / "chapters").glob("[0-9][0-9]_*.ipynb"))
NAMES = [path.stem for path in CHAPTERS]

# Runs the homework with each answer in its cell, as a student who has them all.
SOLVE = """
import sys
import nbformat
from IPython.core.interactiveshell import InteractiveShell

notebook, *solutions = sys.argv[1:]
cells = nbformat.read(notebook, as_version=4).cells
shell = InteractiveShell.instance()
solutions = dict(zip(solutions[::2], solutions[1::2]))
for cell in cells:
    if cell.cell_type == "code":
        source = solutions.get(cell.id, cell.source).rstrip(";")
        result = shell.run_cell(source, store_history=False)
        result.raise_error()
        if "check" in cell.metadata.get("tags", []):
            assert result.result, source
"""


@pytest.fixture
def project(tmp_path):
    """A small course with an exercise that needs some of what is before it."""
    root = make_project(tmp_path)
    (root / "requirements.txt").write_text("torch==2.13.0\nnbval==0.11.0\n")
    return root


@pytest.fixture(scope="module")
def built() -> dict[str, nbformat.NotebookNode]:
    return {path.stem: homework.build(path, ROOT) for path in CHAPTERS}


@pytest.mark.parametrize("name", NAMES)
def test_has_every_exercise_and_no_solution(built, name):
    chapter = nbformat.read(ROOT / "chapters" / f"{name}.ipynb", as_version=4)
    before, after = exercises(chapter), exercises(built[name])
    assert [e.number for e in after] == [e.number for e in before]
    for one, other in zip(before, after):
        assert (other.stub, other.check) == (one.stub, one.check)
        assert other.solution is None
        assert one.solution.source not in str(built[name])
    for cell in built[name].cells:  # nor does it speak of one
        assert "solution" not in cell.source.lower(), cell.source


def bodies(source: str, deep: bool = True) -> set[str]:
    """What its functions and classes do, whatever they are called.

    deep: also those inside of others, such as the methods of a class.
    """
    found, tree = set(), ast.parse(source)
    for node in ast.walk(tree) if deep else tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            body = node.body[ast.get_docstring(node) is not None :]
            found.add("\n".join(ast.unparse(n) for n in body))
    return found - {""}


@pytest.mark.parametrize("name", NAMES)
def test_no_solution_stands_in_what_is_handed_out(built, name, tmp_path):
    """Not in another cell, and not in the code of the course beside it."""
    chapter = nbformat.read(ROOT / "chapters" / f"{name}.ipynb", as_version=4)
    cells = [c.source for c in built[name].cells if c.cell_type == "code"]
    homework.copy_course(ROOT, tmp_path)
    files = [path.read_text("utf-8") for path in tmp_path.rglob("*.py")]
    given = set().union(*(bodies(source) for source in [*cells, *files]))
    for exercise in exercises(chapter):
        if not exercise.written:
            solved = bodies(exercise.solution.source, deep=False)
            assert len(solved) and not solved & given, exercise.title


def solve(name: str, folder: Path) -> subprocess.CompletedProcess:
    chapter = nbformat.read(ROOT / "chapters" / f"{name}.ipynb", as_version=4)
    arguments = [str(folder / f"{name}.ipynb")]
    for exercise in exercises(chapter):
        if not exercise.written:
            source = exercise.solution.source.rpartition("assert ")[0]
            arguments += [exercise.stub.id, source]
    return subprocess.run(
        [sys.executable, "-c", SOLVE, *arguments],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("name", NAMES)
def test_every_solution_passes_in_the_unpacked_zip(built, name, tmp_path):
    """Away from the course, without its address."""
    archive = homework.write(name, built[name], ROOT, tmp_path / "out")
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(tmp_path / "student")
    done = solve(name, tmp_path / "student" / name)
    assert done.returncode == 0, (done.stdout + done.stderr)[-2000:]
    assert "github.com" not in str(built[name])


def test_a_student_installs_what_runs_the_homework_and_no_more():
    pins = [line.split("==")[0] for line in homework.requirements(ROOT)]
    assert sorted(pins) == sorted(homework.PACKAGES)


def test_a_notebook_alone_says_what_it_needs(built, tmp_path):
    (tmp_path / "a.py").write_text(built["07_batch_size_one"].cells[2].source)
    done = subprocess.run(
        [sys.executable, "a.py"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "07_batch_size_one.zip are missing: unpack all" in done.stderr


def test_fetching_needs_the_address(project, monkeypatch):
    with pytest.raises(SystemExit, match="FETCH needs the address of your copy"):
        homework.homework_setup("03_chapter", project, "v1")
    repository.write(project, address="https://gitlab.com/a/b/c")
    source = homework.homework_setup("03_chapter", project, "v1")
    assert 'VERSION = "v1"' in source
    assert 'REPOSITORY = "https://gitlab.com/a/b/c"' in source


@pytest.mark.parametrize(
    "chapters, message",
    [("", "Which chapters"), ("3 4", "no chapter '4'; there are 03")],
)
def test_what_it_cannot_do_it_says(project, monkeypatch, chapters, message):
    monkeypatch.setenv("CHAPTERS", chapters)
    with pytest.raises(SystemExit, match=message):
        homework.main(project)
    assert not (project / "_release").exists()


def test_it_prints_the_archive(project, monkeypatch, capsys):
    monkeypatch.setenv("CHAPTERS", "3")
    homework.main(project)
    assert capsys.readouterr().out == "_release/homework/03_chapter.zip\n"
    folder = project / "_release" / "homework"
    assert (folder / "03_chapter" / "03_chapter.ipynb").is_file()


CODE = """# @title A title
import os
a = [1]
b = 2


def f(x):
    # a comment inside
    return a[0] + g(x)


a[0] = 3  # counts
c = b; d = b
b += 1
for a in []:
    pass
"""


def test_statements_and_what_they_bind_and_read():
    parts = statements(CODE)
    assert "\n".join(part.source for part in parts) + "\n" == CODE
    bound = [sorted(part.binds) for part in parts]
    assert bound == [["os"], ["a"], ["b"], ["f"], [], ["c", "d"], [], ["a"]]
    assert parts[3].reads == {"a", "g"}
    assert parts[4].changes == {"a"}
    assert (parts[6].changes, parts[6].reads) == ({"b"}, {"b"})


@pytest.mark.parametrize(
    "wanted, kept",
    [
        ("f", [1, 3, 4]),
        ("d", [2, 5]),
        ("b", [2, 6]),
        ("os", [0]),
        ("nothing", []),
        ("g", []),
    ],
)
def test_what_is_needed_is_what_bound_it_last(wanted, kept):
    """Of `a`, before the loop: the list, and the change that counts."""
    assert sorted(needed({wanted}, statements(CODE)[:7])) == kept


@pytest.mark.parametrize(
    "source, reads",
    [
        ("[y for y in z]", {"z"}),
        ("def f(x, y=z):\n    return x + h", {"z", "h"}),
        ("class A(B):\n    c = d\n    def e(self):\n        return f", set("Bdf")),
        ("x = lambda a: a + b", {"b"}),
    ],
)
def test_names_of_inner_scopes_are_not_read(source, reads):
    assert names(source)[1] == reads
