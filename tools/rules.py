"""What tools/lint.py asks of a stored notebook and of its code cells.

A rule is a function that takes a `Chapter` and yields findings: the cell, what
is wrong, what to do. The last line lists the rules. They take the notebook's
form for granted: `form` comes first.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from nbformat import NotebookNode
from nbformat.validator import iter_validate

from repository import setup_source

Finding = tuple[dict | None, str, str]

TAGS = {
    *("hide-input", "hide-cell", "hide-output"),
    *("remove-input", "remove-cell", "remove-output"),
    *("exercise", "check", "solution"),
    "table",  # printed columns: the book scrolls them, it does not wrap
}
FOLDED = {"hide-input", "hide-cell", "remove-input", "remove-cell"}
NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
RANDOM = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){0,3}(-[0-9a-f]{12})?")
MAGIC = r"^\s*(!|%%!|%%?(pip|conda|bash|sh|script|sx|system)\b)"
ASSIGNED = r"=\s*(!(?![rsa][:}])|%(sx|system)\b)"  # but f"{x=!r}" is fine
SHELL = re.compile(f"{MAGIC}|{ASSIGNED}", re.MULTILINE)
INSTALL = re.compile(r"\b(pip|conda)\b[\s\"',]+install\b")


def fields(**types: dict) -> dict:
    """The JSON schema of an object, by its fields that may not be anything."""
    return {"type": "object", "properties": types}


# What the rules read of a cell's metadata, on top of nbformat's own schema.
TEXT = {"type": "string"}
METADATA = fields(mystnb=fields(image=fields(alt=TEXT)), nbgrader=fields(grade_id=TEXT))
MEASURED = re.compile(r"\d (?:percent|per cent|%|points)\b")
CELLS = fields(cells={"items": fields(metadata=METADATA)})


@dataclass
class Chapter:
    """A notebook, and the folder of the project that it is part of."""

    path: Path
    notebook: NotebookNode
    root: Path

    @property
    def number(self) -> str:
        """03 for chapters/03_statistics.ipynb."""
        return self.path.stem.partition("_")[0]

    @property
    def cells(self) -> list[NotebookNode]:
        return self.notebook.cells

    @property
    def code(self) -> list[NotebookNode]:
        return [cell for cell in self.cells if cell.cell_type == "code"]

    @property
    def markdown(self) -> list[NotebookNode]:
        return [cell for cell in self.cells if cell.cell_type == "markdown"]


def tags(cell: NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def form(stored: Any) -> Iterator[Finding]:
    """What is wrong with the form of a notebook, as it was read from JSON."""
    if isinstance(stored, dict):
        version = f"{stored.get('nbformat')}.{stored.get('nbformat_minor')}"
        if version != "4.5":
            yield None, f"format {version}", "store it as 4.5"
            return
    errors = [*iter_validate(stored, version=4, version_minor=5)]
    for error in errors or Draft202012Validator(CELLS).iter_errors(stored):
        path = list(error.absolute_path)
        cell = stored["cells"][path[1]] if path[1:] and path[0] == "cells" else None
        cell = cell if isinstance(cell, dict) else None
        what = f"{'.'.join(map(str, path))}: {error.message:.60}"
        yield cell, f"not a valid notebook: {what}", "mend or save it anew"


def stored_clean(chapter: Chapter) -> Iterator[Finding]:
    for cell in chapter.code:
        if cell.outputs or cell.execution_count is not None:
            yield cell, "stored with outputs", "run nbstripout --keep-id on it"


def ids_are_names(chapter: Chapter) -> Iterator[Finding]:
    counts = Counter(cell.get("id") for cell in chapter.cells)
    for cell in chapter.cells:
        name = cell.get("id", "")
        if not NAME.fullmatch(name) or RANDOM.fullmatch(name):
            yield cell, "the id is not a name", "one such as batch-of-two"
        if counts[name] > 1:
            yield cell, "the id is not unique", "name each cell differently"


def tags_are_known(chapter: Chapter) -> Iterator[Finding]:
    """A misspelt tag would show, or hand out, what it should hide."""
    for cell in chapter.cells:
        for tag in set(tags(cell)) - TAGS:
            yield cell, f"unknown tag {tag!r}", f"one of {', '.join(sorted(TAGS))}"


def setup_cell(chapter: Chapter) -> Iterator[Finding]:
    found = [cell for cell in chapter.cells if cell.get("id") == "set-up"]
    if len(found) != 1 or chapter.code[:1] != found:
        yield None, "the set-up is not the first code cell", "one cell with id set-up"
    for cell in found:
        if cell.source != setup_source(chapter.root):
            yield cell, "differs from tools/setup_cell.py", "run make setup-cells"
        if tags(cell) != ["hide-input"]:
            yield cell, "is not folded", "the tag hide-input, and no other"


def hidden_everywhere(chapter: Chapter) -> Iterator[Finding]:
    """A cell is hidden in the book, JupyterLab and Colab, or in none of them."""
    for cell in chapter.code:
        jupyter = cell.metadata.get("jupyter", {})
        signs = {
            "the tag hide-input or hide-cell": {"hide-input", "hide-cell"}
            & {*tags(cell)},
            "jupyter.source_hidden true": jupyter.get("source_hidden"),
            'cellView "form"': cell.metadata.get("cellView") == "form",
            "a first line # @title …": cell.source.startswith("# @title "),
        }
        missing = [sign for sign, there in signs.items() if not there]
        if 0 < len(missing) < len(signs):
            yield cell, "hidden in some places only", "add " + ", ".join(missing)


def code_is_short(chapter: Chapter) -> Iterator[Finding]:
    for cell in chapter.code:
        lines = len([line for line in cell.source.splitlines() if line.strip()])
        if lines > 25:
            yield cell, f"{lines} lines of code", "split it: 25 at most"


def ideas_before_code(chapter: Chapter) -> Iterator[Finding]:
    """What is not folded is the idea, and a sentence is never far."""
    lines = words = since = 0
    for cell in chapter.cells:
        if cell.cell_type == "markdown":
            words, since = words + len(cell.source.split()), 0
        elif not FOLDED & {*tags(cell)}:
            new = len([line for line in cell.source.splitlines() if line.strip()])
            lines, since = lines + new, since + new
            if since > 30 >= since - new:
                yield cell, "over 30 visible lines of code on end", "fold, or explain"
    if lines > 300:
        yield None, f"{lines} visible lines of code", "fold: 300 at most"
    if words < 8 * lines:
        yield None, f"{words} words to {lines} visible lines", "fold: 8 to a line"


def no_shell(chapter: Chapter) -> Iterator[Finding]:
    """nbval does not notice when a shell command fails; Colab has the packages."""
    for cell in chapter.code:
        if SHELL.search(cell.source):
            yield cell, "a shell command", "subprocess.run(…, check=True), or none"
        if INSTALL.search(cell.source):
            yield cell, "installs a package", "remove it"


def alt_text_says_something(chapter: Chapter) -> Iterator[Finding]:
    """Whether each figure has one is seen when the book is built.

    That adds the values which the run measured (tools/figure_values.py).
    """
    for cell in chapter.code:
        alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt")
        if alt is None:
            continue
        if len(alt.strip()) < 40:
            yield cell, "a short alternative text", "40 letters: what the figure shows"
        if len(alt) > 250:
            yield (
                cell,
                "a long alternative text",
                "250 letters: the build adds the claims beside the figure",
            )
        if typed := MEASURED.search(alt):
            yield (
                cell,
                f"{typed[0]!r} in an alternative text is typed by hand",
                "the shape, as 'far below': the build adds the values of the run",
            )


RULES = [
    *(stored_clean, ids_are_names, tags_are_known, setup_cell, hidden_everywhere),
    *(code_is_short, ideas_before_code, no_shell, alt_text_says_something),
]
