"""The kinds of submission: what students do to a notebook, and what it deserves.

For tests/test_grade.py, and for tests/test_nbgrader.py where nbgrader is installed.
"""

import json
from pathlib import Path

import nbformat
import torch
from nbformat.v4 import new_code_cell, new_markdown_cell

from exercises import exercises
from utils import checks

ROOT = Path(__file__).resolve().parent.parent
CHAPTER = "02_mechanics"  # quick to grade, and everything is in it
SOLVED = nbformat.read(ROOT / "chapters" / f"{CHAPTER}.ipynb", as_version=4)
EXERCISES = exercises(SOLVED)
CODE = [e for e in EXERCISES if not e.written]
LABELS = [e.label for e in EXERCISES]
POINTS = {e.label: e.points for e in EXERCISES}
TOTAL = f"total (of {sum(POINTS.values()):g})"
FIRST = CODE[0]  # 2.1
WORDS = next(e for e in EXERCISES if e.written)  # 2.5
SOLUTION = FIRST.solution.source.rpartition("\n\n\nassert")[0].partition("\n")[2]

# Cases: what a student did to a notebook with the right answer to 2.1. -------
# Each returns the mark of 2.1: its points, 0, or None where it can't be graded.

FULL, NONE, UNKNOWN = FIRST.points, 0, None


def cell(notebook, exercise=FIRST):
    return next(c for c in notebook.cells if c.id == exercise.stub.id)


def check(notebook):
    return next(c for c in notebook.cells if c.id == FIRST.check.id)


def place(notebook) -> int:
    return notebook.cells.index(cell(notebook))


def perfect(notebook):
    for exercise in CODE:
        source = exercise.solution.source
        cell(notebook, exercise).source = "from utils import checks\n" + source
    cell(notebook, WORDS).source = "A hundredth; a hundred times the rate."
    return FULL


def as_it_is(notebook):
    return FULL


def empty(notebook):
    cell(notebook).source = FIRST.stub.source
    return NONE


def wrong(notebook):
    cell(notebook).source = SOLUTION.replace("+ eps", "")
    return NONE


def half_right(notebook):
    source = SOLUTION.replace(
        "    dims", "    if x.dim() == 2:\n        return x\n    dims", 1
    )
    cell(notebook).source = source
    names = {"torch": torch}
    exec(source, names)
    right, tried = checks.batch_norm_nd(names["batch_norm_nd"]).cases
    assert 0 < right < tried
    return round(FULL * right / tried, 1)


def crashed(notebook):
    cell(notebook).source = SOLUTION.replace("return", "return (")
    return NONE


def another_cell_crashed(notebook):
    notebook.cells.insert(place(notebook), new_code_cell("1 / 0"))
    return FULL


def crashed_after_the_answer(notebook):
    cell(notebook).source = SOLUTION + "\n\n\n1 / 0"
    return FULL


def sys_exit(notebook):
    cell(notebook).source = SOLUTION + "\n\n\nimport sys\nsys.exit()"
    return FULL


def ends_python(notebook):
    cell(notebook).source = SOLUTION + "\n\n\nimport os\nos._exit(0)"
    return UNKNOWN


def endless(notebook):
    cell(notebook).source = FIRST.stub.source.replace("...", "while True: pass")
    return UNKNOWN


def swallows_all(notebook):
    loop = (
        "while True:\n    try:\n        pass\n    except BaseException:\n        pass"
    )
    cell(notebook).source = SOLUTION + "\n\n\n" + loop
    return UNKNOWN


def too_much_memory(notebook):
    cell(notebook).source = SOLUTION + "\n\n\nx = bytearray(10**10)"
    return FULL  # refused to it, and nothing else suffers


def ids_and_metadata_lost(notebook):
    for c in notebook.cells:
        c.metadata.clear()
        c.id = f"x{notebook.cells.index(c)}"
    return FULL


def colab(notebook):
    for c in notebook.cells:
        c.metadata["id"] = c["id"]
        c.metadata.pop("nbgrader", None)
        c.metadata["executionInfo"] = {"user": {"displayName": "Colab's name"}}
    return FULL


def deleted(notebook):
    notebook.cells.remove(cell(notebook))
    return UNKNOWN


def check_deleted(notebook):
    notebook.cells.remove(check(notebook))
    return FULL


def duplicated(notebook):
    notebook.cells.insert(0, cell(notebook).copy())
    return FULL


def stub_copied_below(notebook):
    copy = cell(notebook).copy()
    copy.source = FIRST.stub.source
    notebook.cells.append(copy)
    return FULL


def second_try_below(notebook):
    notebook.cells.insert(place(notebook) + 1, new_code_cell(SOLUTION))
    wrong(notebook)
    return FULL


def in_a_new_cell(notebook):
    empty(notebook)
    notebook.cells.append(new_code_cell(SOLUTION))
    return FULL


def in_a_text_cell(notebook):
    empty(notebook)
    notebook.cells.append(new_markdown_cell(f"```python\n{SOLUTION}\n```"))
    return UNKNOWN


def timed_in_a_new_cell(notebook):
    empty(notebook)
    notebook.cells.append(new_code_cell(f"%%time\n{SOLUTION}"))
    return UNKNOWN


def check_edited(notebook):
    empty(notebook)
    check(notebook).source = "print('Passed')"
    return NONE


def check_rebound(notebook):
    cell(notebook).source = (
        f"{FIRST.stub.source}\n\n\nfrom utils import checks\n"
        "checks.batch_norm_nd = lambda answer: True"
    )
    return UNKNOWN


def checks_call_replaced(notebook):
    cell(notebook).source = (
        "from utils import checks\n\n"
        "type(checks.batch_norm_nd).__call__ = lambda self, answer: True\n\n\n"
        f"{FIRST.stub.source}"
    )
    return UNKNOWN


def cases_removed(notebook):
    cell(notebook).source = (
        "from utils import checks\n\nchecks.batch_norm_nd.cases.clear()\n\n\n"
        f"{FIRST.stub.source.replace('...', 'return x')}"
    )
    return UNKNOWN


def tells_the_check_what_is_right(notebook):
    source = FIRST.stub.source.replace("...", "return x")
    cell(notebook).source = f"{source}\n\n\n" + (
        "from utils import checks\n\nown = checks.batch_norm_nd\n"
        "own.rights |= {case: [own.see(batch_norm_nd, case)] for case in own.cases}"
    )
    return NONE


def comparison_rebound(notebook):
    cell(notebook).source = (
        "import torch\n\ntorch.allclose = lambda *a, **b: True\n\n\n"
        f"{FIRST.stub.source.replace('...', 'return x')}"
    )
    return UNKNOWN


def environment_changed(notebook):
    cell(notebook).source = (
        "import os\nos.environ.clear()\nprint('Passed: all')\n"
        + FIRST.stub.source
        + "\n    return x"
    )
    return NONE


def prints_to_stderr(notebook):
    body = SOLUTION.replace("    dims", "    print(1, file=sys.stderr)\n    dims", 1)
    cell(notebook).source = "import sys\n" + body
    return FULL


def helper_in_another_cell(notebook):
    helper = new_code_cell(
        "import math as m\n\n\ndef my_mean(x, **k):\n    m.pi\n    return x.mean(**k)"
    )
    notebook.cells.insert(place(notebook), helper)
    cell(notebook).source = SOLUTION.replace("x.mean(", "my_mean(x, ")
    return FULL


def helper_nowhere(notebook):
    cell(notebook).source = SOLUTION.replace("x.mean(", "my_mean(x, ")
    return UNKNOWN


def renamed(notebook):
    cell(notebook).source = SOLUTION.replace("batch_norm_nd", "mine")
    return UNKNOWN


def magics(notebook):
    cell(notebook).source = "%matplotlib inline\n!true\n" + SOLUTION
    return FULL


def network(notebook):
    cell(notebook).source = "import socket\n\n\n" + SOLUTION.replace(
        "    dims",
        "    socket.create_connection(('1.1.1.1', 53), timeout=5)\n    dims",
        1,
    )
    return NONE  # it raises: there is no network


def whole_chapter_with_solutions(notebook):
    notebook.cells = [c.copy() for c in SOLVED.cells]
    return NONE


CASES = [
    perfect, as_it_is, empty, wrong, half_right, crashed, another_cell_crashed,
    crashed_after_the_answer, sys_exit, ends_python, endless, swallows_all,
    too_much_memory, ids_and_metadata_lost, colab, deleted, check_deleted, duplicated,
    stub_copied_below, second_try_below, in_a_new_cell, in_a_text_cell,
    timed_in_a_new_cell, check_edited, check_rebound, checks_call_replaced,
    cases_removed, tells_the_check_what_is_right,
    comparison_rebound, environment_changed, prints_to_stderr, helper_in_another_cell,
    helper_nowhere, renamed, magics, network, whole_chapter_with_solutions,
]  # fmt: skip


def handed_in(clean, change) -> tuple[str, float | None]:
    notebook = nbformat.from_dict(json.loads(nbformat.writes(clean)))
    cell(notebook).source = SOLUTION
    mark = change(notebook)
    return json.dumps(notebook), mark
