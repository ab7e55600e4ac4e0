"""What nbval is told, and what becomes of its runs (`-p tests.nbval_chapter`).

Claims must hold (COURSE_STRICT) and are recorded in _build/claims/NAME.jsonl, which
tests/test_margins.py reads. A chapter all of whose cells passed is put into the
book's cache with its outputs, so that the build need not run it again; and as long as
nothing changes that it depends on (tools/executed.py), it is not run again here.
"""

import os
from pathlib import Path

import nbformat
import pytest
from IPython.core.displayhook import DisplayHook

ROOT = Path(__file__).resolve().parent.parent
CLAIMS = ROOT / "_build" / "claims"
failed = set()  # chapters with a cell that failed
unchanged = []


def pytest_configure():
    """Import what stands in tools, which pytest has put on the path by now."""
    global executed
    import executed


def claims_of(chapter: Path) -> Path:
    return CLAIMS / f"{chapter.stem}.jsonl"


def pytest_ignore_collect(collection_path):
    """Leave out the chapters that passed as they are; the last lines name them."""
    if collection_path.suffix != ".ipynb":
        return None
    if claims_of(collection_path).exists() and executed.is_fresh(
        collection_path, ROOT, "nbval"
    ):
        unchanged.append(collection_path.stem)
        return True
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Before nbval's own set-up of the notebook, in which the kernel starts."""
    record = claims_of(item.path)
    if item.cell_num == 0:
        CLAIMS.mkdir(parents=True, exist_ok=True)
        record.write_text("")
    os.environ |= {"COURSE_STRICT": "1", "COURSE_RECORD": str(record)}
    os.environ["COURSE_CHAPTER"] = item.path.stem


def pytest_runtest_logreport(report):
    if report.failed:
        failed.add(Path(report.fspath).name)


def pytest_runtest_teardown(item, nextitem):
    """Behind a chapter's last cell: keep its outputs, where all cells passed."""
    if nextitem is not None and nextitem.parent is item.parent:
        return
    cells = [i for i in item.session.items if i.parent is item.parent]
    notebook = nbformat.read(item.path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if item.path.name in failed or len(cells) < len(code):
        return
    for count, (cell, ran) in enumerate(zip(code, cells), start=1):
        # nbval keeps no history of inputs, in which IPython would look for the `;`.
        hidden = DisplayHook.semicolon_at_end_of_expression(cell.source)
        cell.outputs = [
            output
            for output in ran.test_outputs
            if not (hidden and output.output_type == "execute_result")
        ]
        cell.execution_count = count
    executed.store(notebook, item.path, ROOT)
    executed.record(item.path, ROOT, "book", "nbval")


def pytest_terminal_summary(terminalreporter):
    if unchanged:
        terminalreporter.write_line(
            f"not run, since they passed as they are: {', '.join(unchanged)}"
        )


def pytest_sessionfinish(session, exitstatus):
    """Nothing to run is no failure here (pytest's code 5)."""
    if exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and unchanged:
        session.exitstatus = pytest.ExitCode.OK
