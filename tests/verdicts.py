"""What a check says of an answer; shared by the tests of all checks."""

import contextlib
import io

import pytest


def verdict(check, answer):
    """The check's result and what it printed; nothing on stderr."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        passed = check(answer)
    assert err.getvalue() == ""
    return passed, out.getvalue()


def examples(tables):
    """Two tests, test_accepts and test_rejects, of answers outside the checks' tables.

    tables: {check: ({name: right answer}, {name: (wrong answer, part of the hint)})}.
    """
    right = [
        pytest.param(check, answer, id=f"{check.__name__}: {name}")
        for check, (table, _) in tables.items()
        for name, answer in table.items()
    ]
    wrong = [
        pytest.param(check, answer, hint, id=f"{check.__name__}: {name}")
        for check, (_, table) in tables.items()
        for name, (answer, hint) in table.items()
    ]

    @pytest.mark.parametrize(("check", "answer"), right)
    def test_accepts(check, answer):
        passed, said = verdict(check, answer)
        assert passed, said

    @pytest.mark.parametrize(("check", "answer", "hint"), wrong)
    def test_rejects(check, answer, hint):
        passed, said = verdict(check, answer)
        assert passed.passed is False
        assert said.startswith("Not yet: ")
        assert hint in said

    return test_accepts, test_rejects
