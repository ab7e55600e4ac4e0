"""Every check: each known mistake gets its own hint, what is right passes.

The answers are those of the checks' own tables (`mistakes` and `right`); the
other test_checks_*.py add answers that the tables do not know. And: whatever an
answer does, the check neither breaks nor leaves a trace.
"""

import inspect
import os
import random
import sys
import time
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.verdicts import verdict
from utils import checks
from utils.checks import framework
from utils.checks.framework import Check, Measured, answers

ALL = [c for _, c in inspect.getmembers(checks, lambda c: isinstance(c, Check))]
PAIRS = [
    pytest.param(check, hint, answer, id=f"{check.__name__}: {hint[:50]} {k or ''}")
    for check in ALL
    for hint, mistakes in check.mistakes.items()
    for k, answer in enumerate(answers(mistakes))
]


@pytest.fixture(scope="module", autouse=True)
def warm():
    """The first optimizer loads a part of PyTorch, for seconds."""
    torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1).step()


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


def test_there_is_no_check_without_mistakes_or_cases():
    assert len(ALL) == len(checks.__all__) - 1  # NotYet is none
    assert all(c.mistakes and c.right and c.cases for c in ALL)


# What an answer may do besides, with a right or a wrong value


def ratio(a, p):
    mean, var = a.mean(0), a.var(0, correction=0)
    return var * (1 - p) / (var + p * mean**2)


def always(*_, **__):
    return True


REPLACED = [(torch, "allclose"), (torch, "equal"), (F, "batch_norm"), (os, "getcwd")]
REPLACED += [
    (torch.Tensor, "all"),
    (torch.Tensor, "__eq__"),
    (nn.Module, "train"),
    (np, "allclose"),
]


@pytest.mark.parametrize(("place", "name"), REPLACED, ids=lambda x: str(x)[:30])
@pytest.mark.parametrize("when", ["before", "during"])
def test_a_replaced_function_is_put_back(monkeypatch, place, name, when):
    own = vars(place).get(name)

    def answer(a, p):
        if when == "during":
            setattr(place, name, always)
        return a.mean(0) * 0 + 1

    if when == "before":
        monkeypatch.setattr(place, name, always)
    passed, said = verdict(checks.dropout_ratio, answer)
    assert not passed
    if when == "during":
        assert f"{name}, for the whole program" in said
        assert vars(place).get(name) is own


CHANGES = {
    "the default dtype": lambda: torch.set_default_dtype(torch.float64),
    "whether gradients are on": lambda: torch.set_grad_enabled(False),
    "the number of threads": lambda: torch.set_num_threads(3),
    "os.environ": lambda: os.environ.pop("NBGRADER_EXECUTION", os.environ.clear()),
    "the working folder": lambda: os.chdir("/"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_setting_of_the_process_is_put_back_and_refused(name):
    def state():
        return (
            torch.get_default_dtype(),
            torch.is_grad_enabled(),
            torch.get_num_threads(),
            dict(os.environ),
            os.getcwd(),
        )

    def answer(a, p):
        result = ratio(a, p)
        CHANGES[name]()
        return result

    before = state()
    passed, said = verdict(checks.dropout_ratio, answer)
    assert not passed
    assert f"it changes {name}" in said
    assert state() == before


def test_an_experiment_may_set_threads_and_environment():
    def answer(depth):  # as `train_conditions` does in one process
        torch.set_num_threads(2)
        os.environ["COURSE_PROGRESS"] = "0"
        return np.linspace(-1, 1, 12) + {2: 2.5, 20: 19}[depth]

    before = torch.get_num_threads(), dict(os.environ)
    assert verdict(checks.lead, answer)[0]
    assert (torch.get_num_threads(), dict(os.environ)) == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("on", [True, False])
def test_the_notebook_may_have_its_own_settings(dtype, on):
    torch.set_default_dtype(dtype)
    try:
        with torch.set_grad_enabled(on):
            assert verdict(checks.dropout_ratio, ratio)[0]
            assert verdict(checks.group_norm, F.group_norm)[0]
            assert torch.is_grad_enabled() == on
        assert torch.get_default_dtype() == dtype
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("how", ["deleted", "kept"])
def test_a_failed_check_raises_under_nbgrader_only(monkeypatch, how):
    def answer(a, p):
        if how == "deleted":
            del os.environ["NBGRADER_EXECUTION"]

    assert not verdict(checks.dropout_ratio, lambda a, p: None)[0]
    monkeypatch.setenv("NBGRADER_EXECUTION", "autograde")
    with pytest.raises(checks.NotYet, match="Not yet"):
        checks.dropout_ratio(answer)
    assert "NBGRADER_EXECUTION" in os.environ
    assert checks.dropout_ratio(ratio)
    monkeypatch.delenv("NBGRADER_EXECUTION")
    monkeypatch.setattr(framework, "GRADING", True)  # it was set as the checks loaded
    with pytest.raises(checks.NotYet, match="Not yet"):
        checks.dropout_ratio(lambda a, p: None)


def reference(check):
    return next(iter(check.right.values()))


@pytest.mark.parametrize("check", ALL, ids=lambda c: c.__name__)
def test_an_answer_may_print_warn_and_draw_but_change_no_setting(check):
    def answer(*given, **named):
        print("look", torch.rand(1), np.random.rand(), random.random(), file=sys.stderr)
        warnings.warn("look", stacklevel=1)
        return reference(check)(*given, **named)

    def careless(*given, **named):
        torch.set_default_dtype(torch.float64)
        return reference(check)(*given, **named)

    passed, said = verdict(check, answer)
    assert passed, said
    assert "look" in said
    passed, said = verdict(check, careless)
    assert bool(passed) == isinstance(check, Measured)
    assert passed or "changes the default dtype" in said


@pytest.mark.parametrize("check", ALL, ids=lambda c: c.__name__)
def test_what_an_answer_was_given_stays_as_it_was(check):
    found = []

    def answer(*given, **named):
        result = reference(check)(*given, **named)
        for value in given:
            if isinstance(value, (torch.Tensor, np.ndarray)):
                value = value.data if isinstance(value, torch.Tensor) else value
                value[...] = value == value[(0,) * value.ndim]
                found.append(value)
        return result

    passed, said = verdict(check, answer)
    assert bool(passed) == (not found)
    if found:
        assert "in place" in said or "changes x itself" in said


def test_random_numbers_are_left_alone():
    def draw():
        return torch.rand(1).item(), np.random.rand(), random.random()

    def seed():
        torch.manual_seed(7), np.random.seed(7), random.seed(7)

    def answer(a, p):
        draw()
        torch.manual_seed(1)
        return ratio(a, p)

    seed()
    expected = draw()
    seed()
    assert verdict(checks.dropout_ratio, answer)[0]
    assert draw() == expected


def test_an_endless_loop_ends(monkeypatch):
    def answer(a, p):
        while True:
            try:
                time.sleep(0.01)
            except Exception:
                pass  # an answer that swallows everything

    monkeypatch.setattr(Check, "seconds", 0.2)
    passed, said = verdict(checks.dropout_ratio, answer)
    assert not passed
    assert "endless loop" in said


def test_what_the_answer_raises_is_told_with_its_input():
    def answer(a, p):
        raise KeyError("bias")

    said = verdict(checks.dropout_ratio, answer)[1]
    assert "p = 0.2: your function raised KeyError: 'bias', for an input of" in said
    assert "shape (2048, 6)" in said


def test_what_fails_in_the_check_is_not_blamed_on_the_code(monkeypatch):
    class Odd:
        def __array__(self, *_, **__):
            raise KeyError("bias")

    said = verdict(checks.lead, lambda *_: Odd())[1]
    assert "your function raised" not in said
    assert "cannot use what it returned (KeyError: 'bias')" in said
    broken = {"by hand": lambda a, p: 1 / 0}
    monkeypatch.setattr(checks.dropout_ratio, "right", broken)
    monkeypatch.setattr(checks.dropout_ratio, "rights", {})
    said = verdict(checks.dropout_ratio, ratio)[1]
    assert "the check itself fails" in said


def test_a_grader_reads_how_many_cases_are_right():
    def answer(a, p):
        return ratio(a, p) if p < 0.5 else ratio(a, 0.5)

    result = verdict(checks.dropout_ratio, answer)[0]
    assert framework.results["dropout_ratio"] is result
    right, tried = result.cases
    assert tried == len(checks.dropout_ratio.cases)
    assert right == sum(case[0] <= 0.5 for case in checks.dropout_ratio.cases.values())
    assert result.hint.startswith("p = 0.7")
    assert not result.passed
