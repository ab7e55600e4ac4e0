"""What tools/lint.py asks of exercises, so that one source serves all readers.

In code: prompt, stub, check, solution. Written: prompt, answer cell, answer.
The book folds the solutions, the students' release leaves them out, and
nbgrader finds its metadata in place.
"""

import ast
import re
from collections import Counter
from collections.abc import Iterator

from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell

from rules import Chapter, Finding, tags

STUB = re.compile(r"(.* )?\.\.\.  # your code here.*")
CHECK = re.compile(r"from utils import checks\s+checks\.\w+\(.*\);", re.DOTALL)
ANSWER = "<details><summary>Answer</summary>"
NO_SOLUTION = re.compile(r"\bsolution\b", re.IGNORECASE)
SIZE = re.compile(r"\((★{1,3}), (\d+) minutes\)")


def nbgrader(cell: NotebookNode) -> dict:
    return cell.metadata.get("nbgrader", {})


def marks(cell: NotebookNode) -> str:
    """nbgrader's marks that are set: `grade locked points`, say."""
    have = nbgrader(cell)
    if have.get("schema_version") != 3:
        return "none"
    names = ("grade", "locked", "points", "solution", "task")
    points = have.get("points")
    positive = type(points) in (int, float) and points > 0
    have = {**have, "points": positive}
    return " ".join(name for name in names if have.get(name) is True)


def title(number: str) -> str:
    """07-1 is solution 7.1."""
    chapter, exercise = number.split("-")
    return f"# @title Solution {int(chapter)}.{exercise}"


def last_statement(source: str) -> str:
    """A cell's last statement in one form: on one line, without comments."""
    try:
        return ast.unparse(ast.parse(source).body[-1])
    except (SyntaxError, IndexError):
        return ""


def points_due(prompt: str) -> int | None:
    """What an exercise is worth; None where the prompt does not tell its size.

    A point for every five minutes, and one for each star after the first.
    """
    size = SIZE.search(prompt)
    return size and max(1, round(int(size[2]) / 5)) + len(size[1]) - 1


def prompt(
    before: NotebookNode, stub: NotebookNode, marked: NotebookNode
) -> Iterator[Finding]:
    """The cell before a stub, and the points that `marked` has for it."""
    due, points = points_due(before.source), nbgrader(marked).get("points")
    if before.cell_type != "markdown" or due is None:
        yield stub, "no prompt before it", "a Markdown cell with (★★, 10 minutes)"
    elif points != due and type(points) in (int, float):
        yield marked, f"{points} points for this size", f"{due}, see points_due"
    if NO_SOLUTION.search(before.source):
        yield stub, "its prompt speaks of the solution", "homework has none: reword"


def in_code(
    number: str, stub: NotebookNode, check: NotebookNode, solution: NotebookNode
) -> Iterator[Finding]:
    if marks(stub) != "solution":
        yield stub, f"nbgrader marks: {marks(stub)}", "only solution (schema 3)"
    if not STUB.fullmatch(stub.source.strip().split("\n")[-1]):
        yield stub, "no place to write at its end", "...  # your code here, 3 lines"
    if marks(check) != "grade locked points":
        yield check, f"nbgrader marks: {marks(check)}", "grade, locked, points > 0"
    if nbgrader(check).get("grade_id") != f"ex-{number}-check":
        yield check, "its grade_id does not match", f"ex-{number}-check"
    call = last_statement(check.source)
    if not CHECK.fullmatch(check.source.strip()) or not call.startswith("checks."):
        yield check, "not a check", "from utils import checks, then checks.name(…);"
    elif last_statement(solution.source) != f"assert {call}":
        yield solution, "the last line does not check it", f"assert {call}"
    if solution.source.partition("\n")[0] != title(number):
        yield solution, "the first line is not its title", title(number)
    if sorted(tags(solution)) != ["hide-cell", "solution"]:
        yield solution, "not folded in the book", "the tags solution and hide-cell"
    if "code_prompt_show" not in solution.metadata.get("mystnb", {}):
        yield solution, "no text to open it", "mystnb.code_prompt_show"


def in_words(answer: NotebookNode, solution: NotebookNode) -> Iterator[Finding]:
    if marks(answer) != "grade points solution":
        yield answer, f"nbgrader marks: {marks(answer)}", "grade, solution, points > 0"
    if sorted(tags(answer)) != ["exercise", "remove-cell"]:
        yield answer, "shown in the book", "the tags exercise and remove-cell"
    if not solution.source.startswith(ANSWER):
        yield solution, "the answer is not folded", "begin with " + ANSWER


def exercises(chapter: Chapter) -> Iterator[Finding]:
    """Each exercise has its cells, in their order; nothing else is marked."""
    none = new_markdown_cell()
    cells = [none, *chapter.cells, none, none]
    expected = set()  # ids of the cells that belong to an exercise
    stubs = [i for i, cell in enumerate(cells) if "exercise" in tags(cell)]
    for count, i in enumerate(stubs, 1):
        stub = cells[i]
        grade_id = nbgrader(stub).get("grade_id", "")
        name = re.fullmatch(rf"ex-({chapter.number}-\d+)", grade_id)
        if name is None:
            what = "no grade_id of an exercise of this chapter"
            yield stub, what, f"ex-{chapter.number}-<number>"
        elif name[1] != f"{chapter.number}-{count}":
            yield stub, "not numbered in the order of the chapter", f"its {count}"
        yield from prompt(cells[i - 1], stub, cells[i + (stub.cell_type == "code")])
        order = ["check", "solution"] if stub.cell_type == "code" else ["solution"]
        rest = cells[i + 1 : i + 1 + len(order)]
        expected |= {stub.get("id"), *(cell.get("id") for cell in rest)}
        if any(tag not in tags(cell) for tag, cell in zip(order, rest)):
            yield stub, "not followed by its cells", " and ".join(order)
        elif not rest[-1].source.strip():
            yield rest[-1], "the solution is empty", "write it, or drop the exercise"
        elif name and stub.cell_type == "code":
            yield from in_code(name[1], stub, *rest)
        elif name:
            yield from in_words(stub, *rest)
    for cell in chapter.cells:
        marked = {"check", "solution"} & {*tags(cell)} or nbgrader(cell)
        if marked and cell.get("id") not in expected:
            yield (
                cell,
                "marked, but part of no exercise",
                "a stub before it, or no mark",
            )


def grade_ids_are_unique(chapter: Chapter) -> Iterator[Finding]:
    graded = [cell for cell in chapter.cells if nbgrader(cell)]
    counts = Counter(nbgrader(cell).get("grade_id") for cell in graded)
    for cell in graded:
        if counts[nbgrader(cell).get("grade_id")] > 1:
            yield cell, "its grade_id is not unique", "number the exercises"


RULES = [exercises, grade_ids_are_unique]
