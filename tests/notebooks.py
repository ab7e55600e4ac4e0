"""A small project with one chapter that follows every rule, for the tests."""

import shutil
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from repository import setup_source

ROOT = Path(__file__).resolve().parent.parent

GOOD_TEXT = """\
# What does a batch of two do?

Code `[^1]`, `{ref}`, `\\(x\\)` and mathematics, $x_{[^1]}$, $\\|x\\|$ are fine, as is
a [link](03_chapter.ipynb), *this*, [ ] and `~~`; the range [0, 1] (too); ~3 s.
As are **30**% of x<sub>1</sub><sup>2</sup>,<br>`<img>`, `\\begin{align}`, 1 < 2 + 3
<https://example.org>.

$$
\\begin{aligned} y &= \\gamma \\hat x + \\beta \\\\[4pt] z &= y \\end{aligned}
$$

| norm | error |
|---|---|
| none | 3.1 |
| batch | `a \\| b` |

```python
# a fence with [^1] and :::
```

<details><summary>Why?</summary>

Because.

</details>

<details open><summary>And?</summary>

Also.

</details>"""

DEFINITION = 'def double(x):\n    """Twice x."""\n    '


def hidden(*tags: str, **more: dict) -> dict:
    """The metadata of a cell that is hidden everywhere."""
    jupyter = {"source_hidden": True}
    return {"tags": list(tags), "jupyter": jupyter, "cellView": "form", **more}


def marks(grade_id: str, *names: str, points: int = 0) -> dict:
    """nbgrader's metadata, with the named marks set."""
    flags = {name: name in names for name in ("grade", "locked", "solution", "task")}
    pointed = {"points": points} if points else {}
    return {"schema_version": 3, "grade_id": grade_id, **flags, **pointed}


def good_cells(root: Path) -> list[NotebookNode]:
    """A set-up, text, a figure, an exercise in code and one in words."""
    stub = {"tags": ["exercise"], "nbgrader": marks("ex-03-1", "solution")}
    check = marks("ex-03-1-check", "grade", "locked", points=1)
    answer = marks("ex-03-2", "grade", "solution", points=2)
    alt = "Two lines; the one with batch normalization is lower throughout."
    code, text = new_code_cell, new_markdown_cell
    return [
        text(GOOD_TEXT, id="title"),
        code(setup_source(root), id="set-up", metadata=hidden("hide-input")),
        code("n = 2", id="a-figure", metadata={"mystnb": {"image": {"alt": alt}}}),
        text("**Exercise 3.1** (★, 5 minutes) Double it.", id="ex-1"),
        code(
            DEFINITION + "...  # your code here, 1 line",
            id="ex-1-stub",
            metadata=stub,
        ),
        code(
            "from utils import checks\n\nchecks.double(double);",
            id="ex-1-check",
            metadata={"tags": ["check"], "nbgrader": check},
        ),
        code(
            "# @title Solution 3.1\n"
            f"{DEFINITION}return 2 * x\n\n\nassert checks.double(double)",
            id="ex-1-solution",
            metadata=hidden(
                *("solution", "hide-cell"),
                mystnb={"code_prompt_show": "Show the solution"},
            ),
        ),
        text("**Exercise 3.2** (★★, 3 minutes) Why?", id="ex-2"),
        text(
            "*Your answer here.*",
            id="ex-2-answer",
            metadata={"tags": ["exercise", "remove-cell"], "nbgrader": answer},
        ),
        text(
            "<details><summary>Answer</summary>\n\nTwo is twice one.\n\n</details>",
            id="ex-2-solution",
            metadata={"tags": ["solution"]},
        ),
        text("Four is more than two and more than one. " * 60, id="reading"),
    ]


def write_chapter(root: Path, cells: list[NotebookNode]) -> Path:
    """Store a notebook as chapter 03 of a project; return its path."""
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = new_notebook(metadata={"kernelspec": kernel})
    notebook.cells = cells
    notebook.nbformat_minor = 5
    path = root / "chapters" / "03_chapter.ipynb"
    # nbformat.write and new_notebook would mend ids that a test breaks on purpose.
    path.write_text(nbformat.v4.writes(notebook) + "\n", encoding="utf-8")
    return path


def make_project(root: Path) -> Path:
    """A project with the real configuration and one good chapter."""
    for name in ("_config.yml", "CITATION.cff", "tools/setup_cell.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    (root / "chapters").mkdir()
    write_chapter(root, good_cells(root))
    return root
