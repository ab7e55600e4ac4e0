"""Every check: each known mistake gets its own hint, what is right passes.

The answers are those of the checks' own tables (`mistakes` and `right`); the
other test_checks_*.py add answers that the tables do not know.
"""

import inspect
import time

import pytest

from tests.verdicts import verdict
from utils import checks
from utils.checks.framework import Check, answers

ALL = [c for _, c in inspect.getmembers(checks, lambda c: isinstance(c, Check))]
PAIRS = [
    pytest.param(check, hint, answer, id=f"{check.__name__}: {hint[:50]} {k or ''}")
    for check in ALL
    for hint, mistakes in check.mistakes.items()
    for k, answer in enumerate(answers(mistakes))
]


@pytest.mark.parametrize("check", ALL, ids=lambda c: c.__name__)
def test_what_is_right_passes_in_every_case_and_in_time(check):
    for answer in check.right.values():
        begin = time.process_time()
        passed, said = verdict(check, answer)
        assert passed, said
        assert said.startswith("Passed: ")
        assert passed.cases == (len(check.cases), len(check.cases))
        assert time.process_time() - begin < 2


@pytest.mark.parametrize(("check", "hint", "answer"), PAIRS)
def test_each_mistake_gets_its_own_hint(check, hint, answer):
    begin = time.process_time()
    passed, said = verdict(check, answer)
    assert not passed
    assert said.startswith("Not yet: ")
    assert hint in said
    assert time.process_time() - begin < 2
