"""The students' notebooks: the solutions are gone, all else is as it was."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell

import release
import repository
from tests.notebooks import good_cells, make_project, write_chapter


@pytest.fixture
def project(tmp_path):
    return make_project(tmp_path)


def test_only_the_solutions_are_removed(project):
    (written,) = release.release(project)
    assert written == project / "_release" / "student" / "chapters" / "03_chapter.ipynb"
    before = nbformat.read(project / "chapters" / "03_chapter.ipynb", as_version=4)
    after = nbformat.read(written, as_version=4)
    nbformat.validate(after)
    assert after.metadata == before.metadata
    assert after.nbformat_minor == before.nbformat_minor
    assert after.cells == [
        cell for cell in before.cells if not cell.id.endswith("-solution")
    ]
    assert "return 2 * x" not in written.read_text(encoding="utf-8")
    assert "Two is twice one" not in written.read_text(encoding="utf-8")


def test_a_notebook_alone_fetches_the_branch_without_solutions(project, capsys):
    release.release(project)
    assert "make repository URL=" in capsys.readouterr().err
    repository.write(project, address="https://github.com/a/b")
    (written,) = release.release(project)
    assert capsys.readouterr().err == ""
    cells = nbformat.read(written, as_version=4).cells
    setup = next(cell.source for cell in cells if cell.id == "set-up")
    assert 'VERSION = "student"' in setup
    assert 'REPOSITORY = "https://github.com/a/b"' in setup


def test_the_chapters_stay_as_they_are(project):
    path = project / "chapters" / "03_chapter.ipynb"
    before = path.read_bytes()
    release.release(project)
    assert path.read_bytes() == before


def test_what_an_earlier_release_left_is_removed(project):
    old = project / release.RELEASE / "02_renamed.ipynb"
    old.parent.mkdir(parents=True)
    old.write_text("{}")
    release.release(project)
    assert not old.exists()


@pytest.mark.parametrize("name", ["ex-1-solution", "ex-2-solution"])
def test_a_solution_without_its_tag_is_not_handed_out(project, name):
    cells = good_cells(project)
    for cell in cells:
        if cell.id == name:
            cell.metadata.tags = []
    write_chapter(project, cells)
    with pytest.raises(SystemExit, match="not followed by its cells"):
        release.release(project)


def test_a_copied_solution_is_not_handed_out(project):
    cells = good_cells(project)
    solution = next(cell for cell in cells if cell.id == "ex-1-solution")
    cells[2].source = "\n" + solution.source + "\n"
    write_chapter(project, cells)
    with pytest.raises(SystemExit, match="ex-1-solution: the solution is still there"):
        release.release(project)


@pytest.mark.parametrize(
    "source",
    [
        "# @Title solution 3.1",
        "#@title Solution 3.1",
        "<details><summary>ANSWER</summary>\n\nTwo.\n\n</details>",
    ],
)
def test_what_looks_like_a_solution_is_not_handed_out(project, source):
    new = new_code_cell if source.startswith("#") else new_markdown_cell
    write_chapter(project, [*good_cells(project), new(source, id="stray")])
    with pytest.raises(SystemExit, match="cell stray: .*still there"):
        release.release(project)


def test_a_chapter_with_findings_is_refused_and_nothing_changes(project):
    (written,) = release.release(project)
    before = written.read_bytes()
    cells = good_cells(project)
    cells[4].source += "\n    return 2 * x"
    write_chapter(project, cells)
    with pytest.raises(SystemExit, match="ex-1-stub: no place to write at its end"):
        release.release(project)
    assert written.read_bytes() == before


def test_an_emptied_solution_is_named(project):
    cells = good_cells(project)
    cells[6].source = ""
    write_chapter(project, cells)
    with pytest.raises(SystemExit, match="ex-1-solution: the solution is empty"):
        release.release(project)
