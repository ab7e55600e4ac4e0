"""Each rule of tools/lint.py is quiet on a good chapter and sees a bad one."""

import subprocess
import sys

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output

import file_table
import lint
from rules_exercises import points_due
from tests.notebooks import ROOT, good_cells, hidden, make_project, write_chapter


@pytest.fixture
def project(tmp_path):
    return make_project(tmp_path)


def found(project, change) -> list[str]:
    """What lint finds in the good chapter after a change of its cells by id."""
    cells = good_cells(project)
    change({cell.id: cell for cell in cells}, cells)
    return lint.lint_notebook(write_chapter(project, cells), project)


def test_a_good_chapter_has_no_findings(project):
    assert found(project, lambda by_id, cells: None) == []


def test_ruff_and_nbstripout_accept_the_good_chapter(project):
    """The forms that the rules ask for must please these two as well."""
    path = write_chapter(project, good_cells(project))
    ruff = ["ruff", "check", "--config", ROOT / "chapters" / "ruff.toml"]
    form = ["ruff", "format", "--check", *ruff[2:]]
    strip = ["nbstripout", "--verify", "--keep-id"]
    for command in ruff, form, strip:
        done = subprocess.run(
            [sys.executable, "-m", *command, path], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "text, finding",
    [
        ("```{note}\nA note\n```", "the MyST directive {note}"),
        ("``` {note}\nA note\n```", "the MyST directive {note}"),
        (":::{note}\nA note\n:::", "a MyST fence"),
        ("See {ref}`this <there>`.", "the MyST role on `this <there>`"),
        ("See {doc}`03_chapter`.", "the MyST role on `03_chapter`"),
        ("(there)=\n# Title", "a MyST label"),
        ("Text\n(eq:loss)=\nmore", "a MyST label"),
        ("(fig.x)=\n# Title", "a MyST label"),
        ("(a b)=\n# Title", "a MyST label"),
        ("It is 30\n% of all.", "a line that MyST takes for a comment"),
        ("%hidden", "a line that MyST takes for a comment"),
        ("> % a\n>", "a line that MyST takes for a comment"),
        ("A\n+++\nB", "a line +++"),
        ("\\begin{align}\nx &= 1\n\\end{align}", "outside $$"),
        ("So \\begin{align*} x &= 1 \\end{align*}", "outside $$"),
        ('<img src="plot.png">', "the HTML tag <img>"),
        ('See <a href="https://example.org">this</a>.', "the HTML tag <a>"),
        ("<script>alert(1)</script>", "the HTML tag <script>"),
        ('- <iframe src="x"></iframe>', "the HTML tag <iframe>"),
        (
            "<details><summary>A</summary>\n\n<h3>B</h3>\n\n</details>",
            "the HTML tag <h3>",
        ),
        ("x<SUB>1</SUB>", "the HTML tag <SUB>"),
        ("<DETAILS><SUMMARY>A</SUMMARY>\n\nB\n\n</DETAILS>", "tag <DETAILS>"),
        ("It is {{ number }}.", "a MyST substitution"),
        ("It holds.[^1]\n\n[^1]: In one paper.", "a footnote"),
        ("It holds.[^1]\n\n[^1]: https://example.org", "a footnote"),
        ("> [!NOTE]\n> A note", "an alert"),
        ("- [ ] to do", "a task list"),
        ("- [x] done", "a task list"),
        (r"The mean \(\mu\).", "mathematics in"),
        (r"\[ \mu = 0 \]", "mathematics in"),
        ("It ~~is~~ was.", "strikethrough"),
        ("[here](03_chapter.ipynb#why)", "leads to a section"),
        ("[here](08_unwritten.ipynb)", "08_unwritten.ipynb does not exist"),
        ("[](03_chapter.ipynb)", "has no text"),
        ("![a plot](plot.png)", "03_chapter.ipynb, cell title: an image"),
        ("![a plot](https://example.org/plot.png)", "an image"),
        ("<details><summary>A</summary>\nB\n</details>", "without blank lines"),
        ("<details><summary>A</summary>\n\nB\n</details>", "without blank lines"),
        ("A\n<details><summary>A</summary>\n\nB\n\n</details>", "without blank"),
        ("<details><summary>A</summary>\n\nB", "opened and closed unequally"),
        ("<details open><summary>A</summary>\n\nB", "closed unequally"),
        (
            "</details>\n\nB\n\n<details><summary>A</summary>",
            "opened and closed unequally",
        ),
        (
            "<details><summary>A</summary>\n\n## B\n\n</details>",
            "a heading inside <details>",
        ),
        ("| a | b |\n|---|---|\n| $|x|$ | 1 |", "a table with uneven rows"),
        ("| a | b |\n|---|\n| x | 1 |", "a table that is none"),
    ],
)
def test_markdown_that_does_not_read_everywhere(project, text, finding):
    def change(by_id, cells):
        by_id["title"].source = text

    lines = found(project, change)
    assert any(finding in line for line in lines), lines
    assert all(line.startswith("chapters/03_chapter.ipynb, cell") for line in lines)


@pytest.mark.parametrize(
    "source, finding",
    [
        ("!pip install torch", "a shell command"),
        ("%pip install torch", "installs a package"),
        ("%%bash\nls", "a shell command"),
        ("%%!\nls", "a shell command"),
        ("x = !ls", "a shell command"),
        ("x = %sx ls", "a shell command"),
        ("x = %system ls", "a shell command"),
        ('run(["-m", "pip", "install", "torch"])', "installs a package"),
        ("\n".join(f"x{i} = {i}" for i in range(26)), "26 lines of code"),
        ("# @title Hidden\nx = 1", "hidden in some places only"),
    ],
)
def test_code_that_has_no_place_in_a_chapter(project, source, finding):
    def change(by_id, cells):
        by_id["a-figure"].source = source

    lines = found(project, change)
    assert any(finding in line for line in lines), lines


@pytest.mark.parametrize(
    "cells_of_20, sentences, folded, findings",
    [
        (2, 0, False, ["cell code-1: over 30 visible lines of code on end"]),
        (2, 1, False, []),
        (15, 1, True, []),
        (15, 1, False, ["visible lines of code", "words to"]),
        (14, 20, False, []),
    ],
)
def test_what_is_visible_is_the_idea(project, cells_of_20, sentences, folded, findings):
    def change(by_id, cells):
        for k in range(cells_of_20):
            lines = ["# @title Plumbing"] * folded + ["x = 1"] * 20
            metadata = hidden("hide-input") if folded else {}
            code = new_code_cell("\n".join(lines), id=f"code-{k}", metadata=metadata)
            text = [new_markdown_cell("Say what. " * 10 * sentences, id=f"say-{k}")]
            cells += [code, *text[:sentences]]

    lines = found(project, change)
    assert len(lines) == len(findings)
    assert all(a in b for a, b in zip(findings, lines)), lines


@pytest.mark.parametrize("source", ["x != 1", 'print(f"{x=!r}")', "x = y %sx"])
def test_code_that_only_looks_like_a_shell(project, source):
    assert found(project, set_source("a-figure", source)) == []


def set_id(name):
    return lambda by_id, cells: by_id["a-figure"].update(id=name)


def set_source(cell, source):
    return lambda by_id, cells: by_id[cell].update(source=source)


def end_solution(asserted):
    source = f"# @title Solution 3.1\nassert {asserted}"
    return set_source("ex-1-solution", source)


def set_metadata(cell, **metadata):
    return lambda by_id, cells: by_id[cell].metadata.update(metadata)


def set_mark(cell, **marks):
    return lambda by_id, cells: by_id[cell].metadata.nbgrader.update(marks)


def drop(cell):
    return lambda by_id, cells: cells.remove(by_id[cell])


def swap(one, two):
    def change(by_id, cells):
        i, j = cells.index(by_id[one]), cells.index(by_id[two])
        cells[i], cells[j] = cells[j], cells[i]

    return change


def run_cell(by_id, cells):
    by_id["a-figure"].execution_count = 3


def keep_output(by_id, cells):
    by_id["a-figure"].outputs = [new_output("stream", text="2\n")]


def edit_setup(by_id, cells):
    by_id["set-up"].source += "\nimport torch"


def code_before_setup(by_id, cells):
    cells.insert(0, new_code_cell("x = 1", id="too-early"))


def second_setup(by_id, cells):
    cells.append(by_id["set-up"].copy())


def hide_in_the_book_only(by_id, cells):
    by_id["a-figure"].metadata.tags = ["hide-input"]


def hide_in_colab_only(by_id, cells):
    by_id["a-figure"].metadata.cellView = "form"


def stray_solution(by_id, cells):
    cells.append(new_markdown_cell("Two.", id="stray", metadata={"tags": ["solution"]}))


def text_between(by_id, cells):
    cells.insert(
        cells.index(by_id["ex-1-check"]), new_markdown_cell("Now check.", id="now")
    )


@pytest.mark.parametrize(
    "change, finding",
    [
        (run_cell, "cell a-figure: stored with outputs"),
        (keep_output, "cell a-figure: stored with outputs"),
        (set_id("3f2a9c01"), "the id is not a name"),
        (set_id("deadbeef"), "the id is not a name"),
        (set_id("a1b2c3d4-0000-4000-8000-0123456789ab"), "the id is not a name"),
        (set_id("A_Figure"), "the id is not a name"),
        (set_id("title"), "the id is not unique"),
        (set_metadata("a-figure", tags=["solutions"]), "unknown tag 'solutions'"),
        (edit_setup, "cell set-up: differs from tools/setup_cell.py"),
        (code_before_setup, "the set-up is not the first code cell"),
        (second_setup, "the set-up is not the first code cell"),
        (drop("set-up"), "the set-up is not the first code cell"),
        (set_metadata("set-up", tags=["hide-cell"]), "is not folded"),
        (set_metadata("set-up", cellView="code"), "hidden in some places only"),
        (set_metadata("set-up", jupyter={}), "hidden in some places only"),
        (hide_in_the_book_only, "hidden in some places only"),
        (hide_in_colab_only, "hidden in some places only"),
        (
            set_metadata("a-figure", mystnb={"image": {"alt": "A figure."}}),
            "a short alternative text",
        ),
        (
            set_metadata("a-figure", mystnb={"image": {"alt": "A long curve. " * 20}}),
            "a long alternative text",
        ),
        (
            set_metadata(
                "a-figure",
                mystnb={
                    "image": {"alt": "Two curves. With BN it rises to 89 percent."}
                },
            ),
            "'9 percent' in an alternative text is typed by hand",
        ),
        (set_source("ex-1", "Double it."), "no prompt before it"),
        (set_source("ex-1", "Double it. (5 min, ★)"), "no prompt before it"),
        (
            set_source("ex-1", "(★, 5 minutes) Double it, then open the solution."),
            "speaks of the solution",
        ),
        (set_mark("ex-1-check", points=3), "3 points for this size -> 1, see"),
        (set_mark("ex-2-answer", points=3), "3 points for this size -> 2, see"),
        (set_source("ex-1-stub", "x = 1"), "no place to write"),
        (
            set_source("ex-1-stub", "...  # your code here, 1 line\nx = 2"),
            "no place to write at its end",
        ),
        (set_mark("ex-1-stub", grade=True), "nbgrader marks: grade solution"),
        (set_mark("ex-1-stub", schema_version=2), "nbgrader marks: none"),
        (set_mark("ex-1-stub", grade_id="double"), "no grade_id of an exercise"),
        (
            set_mark("ex-1-stub", grade_id="ex-04-1"),
            "no grade_id of an exercise of this",
        ),
        (
            set_mark("ex-1-stub", grade_id="ex-03-2"),
            "not numbered in the order of the chapter",
        ),
        (set_mark("ex-1-check", locked=False), "nbgrader marks: grade points"),
        (set_mark("ex-1-check", points=0), "nbgrader marks: grade locked ->"),
        (set_mark("ex-1-check", points=-1), "nbgrader marks: grade locked ->"),
        (set_mark("ex-1-check", points="2"), "nbgrader marks: grade locked ->"),
        (set_mark("ex-1-check", points=True), "nbgrader marks: grade locked ->"),
        (set_mark("ex-1-check", grade_id="ex-03-1-test"), "does not match"),
        (set_mark("ex-1-check", grade_id="ex-03-1"), "its grade_id is not unique"),
        (set_source("ex-1-check", "checks.double(double);"), "not a check"),
        (
            set_source("ex-1-check", "from utils import checks\n\nchecks.double(f)"),
            "not a check",
        ),
        (set_source("ex-1-solution", ""), "ex-1-solution: the solution is empty"),
        (set_source("ex-2-solution", "\n"), "ex-2-solution: the solution is empty"),
        (end_solution("checks.x(x)"), "-> assert checks.double(double)"),
        (end_solution("checks.double(double) or True"), "does not check it"),
        (end_solution("checks.double(abs)"), "does not check it"),
        (end_solution("checks.double(double)\nx = 1"), "does not check it"),
        (end_solution("checks.double(double"), "does not check it"),
        (
            set_source("ex-1-solution", "# @title Answer\nassert checks.double(x)"),
            "the first line is not its title -> # @title Solution 3.1",
        ),
        (
            set_metadata("ex-1-solution", **hidden("solution", "hide-input")),
            "not folded in the book",
        ),
        (set_metadata("ex-1-solution", mystnb={}), "no text to open it"),
        (drop("ex-1-solution"), "not followed by its cells"),
        (drop("ex-1-check"), "not followed by its cells"),
        (drop("ex-1-stub"), "marked, but part of no exercise"),
        (swap("ex-1-check", "ex-1-solution"), "not followed by its cells"),
        (text_between, "not followed by its cells"),
        (stray_solution, "cell stray: marked, but part of no exercise"),
        (set_mark("ex-2-answer", locked=True), "nbgrader marks: grade locked points"),
        (set_metadata("ex-2-answer", tags=["exercise"]), "shown in the book"),
        (set_source("ex-2-solution", "Because."), "the answer is not folded"),
        (drop("ex-2-solution"), "not followed by its cells"),
    ],
)
def test_a_chapter_that_breaks_a_rule(project, change, finding):
    lines = found(project, change)
    assert any(finding in line for line in lines), lines
    assert all(" -> " in line for line in lines)


@pytest.mark.parametrize(
    "size, points",
    [
        ("(★, 1 minutes)", 1),
        ("(★, 5 minutes)", 1),
        ("(★, 8 minutes)", 2),
        ("(★★, 12 minutes)", 3),
        ("(★★★, 25 minutes)", 7),
        ("(12 minutes, ★)", None),
    ],
)
def test_points_follow_minutes_and_stars(size, points):
    assert points_due(f"### Exercise 3.1 Double it {size}") == points


def test_an_old_format_is_seen(project):
    path = write_chapter(project, good_cells(project))
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"nbformat_minor": 5', '"nbformat_minor": 4'))
    assert any("format 4.4" in line for line in lint.lint_notebook(path, project))


def test_a_call_on_several_lines_is_the_same_call(project):
    def change(by_id, cells):
        by_id[
            "ex-1-check"
        ].source = "from utils import checks\n\nchecks.double(\n    double,\n    2,\n);"
        solution = "# @title Solution 3.1\nassert checks.double(double, 2)"
        by_id["ex-1-solution"].source = solution

    assert found(project, change) == []


@pytest.mark.parametrize(
    "change, finding",
    [
        (set_metadata("a-figure", tags=None), "metadata.tags: None is not of type"),
        (set_metadata("a-figure", mystnb=None), "metadata.mystnb: None is not"),
        (set_metadata("a-figure", mystnb={"image": None}), "mystnb.image: None is"),
        (
            set_metadata("a-figure", mystnb={"image": {"alt": 3}}),
            "mystnb.image.alt: 3 is not of type 'string'",
        ),
        (set_metadata("a-figure", nbgrader=None), "metadata.nbgrader: None is not"),
        (set_mark("ex-1-stub", grade_id=3), "metadata.nbgrader.grade_id: 3 is not"),
    ],
)
def test_a_cell_whose_form_is_wrong_is_named(project, change, finding):
    (line,) = found(project, change)
    assert "03_chapter.ipynb, cell " in line and finding in line


@pytest.mark.parametrize(
    "text, finding",
    [
        ("", "not a notebook (Expecting value"),
        ("\ufeff{}", "not a notebook (Unexpected UTF-8 BOM"),
        ("<<<<<<< HEAD\n{}", "not a notebook (Expecting value"),
        ("\udcff", "not a notebook ('utf-8' codec"),
        ("[]", "not a valid notebook"),
        ("{}", "format None.None"),
        ('{"nbformat": 4, "nbformat_minor": 5}', "not a valid notebook"),
        (
            '{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [null]}',
            "not a valid notebook: cells.0",
        ),
    ],
)
def test_a_file_that_is_no_notebook_is_named(project, text, finding):
    path = project / "chapters" / "03_chapter.ipynb"
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    lines = lint.lint_notebook(path, project)
    assert lines
    assert all(line.startswith("chapters/03_chapter.ipynb: ") for line in lines)
    assert any(finding in line for line in lines), lines


# Each | stands for the separator: written out, lint would find it here.
@pytest.mark.parametrize(
    "text",
    [
        *("|home|me|data.csv", "|Users|me", "|root", "|root|x", "|work|x"),
        *("file:||home|me", "C:|Users|me"),
    ],
)
def test_a_path_of_one_machine_is_seen(tmp_path, text):
    path = tmp_path / "notes.txt"
    place = text.replace("|", "\\\\" if "C:" in text else "/")
    path.write_text(f"fine\nopen('{place}')\n")
    assert lint.lint_text(path, tmp_path) == [
        "notes.txt, line 2: a path of one machine -> make it relative"
    ]


@pytest.mark.parametrize(
    "text",
    [
        *("https://example.org/home/page", "frame/work/x", "~/work/x"),
        *("at home/work", "'/tmp'", "'/content'", "/content/bn-measured", "</root>"),
    ],
)
def test_other_paths_are_fine(tmp_path, text):
    (tmp_path / "notes.txt").write_text(text)
    assert lint.lint_text(tmp_path / "notes.txt", tmp_path) == []


def test_data_is_not_read_as_text(tmp_path):
    (tmp_path / "data.bin").write_bytes(b"\xff\xfe\x00")
    assert lint.lint_text(tmp_path / "data.bin", tmp_path) == []


def test_a_project_is_searched_for_notebooks_pages_and_texts(project):
    """Tracked files and new ones, but not what git ignores."""
    subprocess.run(["git", "init", "--quiet", project], check=True)
    (project / ".gitignore").write_text("ignored/\n")
    (project / "ignored").mkdir()
    (project / "ignored" / "README.md").write_text("[gone](gone.md)")
    (project / "README.md").write_text("[gone](gone.md), [here](CITATION.cff)")
    (project / "index.md").write_text("[a label of the book](a-label)")
    assert lint.findings(project) == [
        "README.md: gone.md does not exist -> link to what is there"
    ]


def test_outside_a_git_checkout_one_sentence_says_so(project):
    with pytest.raises(SystemExit, match="Lint needs a git clone.*not a git repos"):
        lint.findings(project)


def test_the_list_of_files_is_that_of_the_files(project):
    """It is the last answer to "where would I change?", so no file is left out."""
    made = [project / "tools" / "made.py", project / "theme" / "mute.css"]
    for path in made:
        path.parent.mkdir(exist_ok=True)
    made[0].write_text('"""Makes it: all of it. Slowly."""\n')
    made[1].write_text("a { color: red; }\n")
    (project / "CONTRIBUTING.md").write_text("# Contributing\n\nDo.\n")
    stale = "CONTRIBUTING.md: its list of files is out of date -> make tidy"
    mute = "theme/mute.css: no word of what it is for -> begin with it"
    assert file_table.findings(made, project) == [mute, stale]
    made[1].write_text("/* The look of it. */\n")
    file_table.write(made, project)
    text = (project / "CONTRIBUTING.md").read_text()
    assert text.startswith("# Contributing\n\nDo.\n\n## Every file")
    assert "- `mute.css`: The look of it\n" in text
    assert text.endswith("- `made.py`: Makes it: all of it\n")
    assert file_table.findings(made, project) == []
    file_table.write(made, project)
    assert (project / "CONTRIBUTING.md").read_text() == text
