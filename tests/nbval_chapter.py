"""What the chapters are told when nbval runs them (`-p tests.nbval_chapter`).

Claims must hold (COURSE_STRICT) and are recorded in _build/claims.jsonl, which
tests/test_margins.py reads, under their chapter's name (COURSE_CHAPTER). nbval
starts a kernel per notebook, which inherits the environment of that moment.
"""

import os
from pathlib import Path

import pytest

RECORD = Path(__file__).resolve().parent.parent / "_build" / "claims.jsonl"


def pytest_sessionstart(session):
    RECORD.parent.mkdir(exist_ok=True)
    RECORD.write_text("")
    os.environ |= {"COURSE_STRICT": "1", "COURSE_RECORD": str(RECORD)}


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Before nbval's own set-up of the notebook, in which the kernel starts."""
    os.environ["COURSE_CHAPTER"] = item.path.stem
