"""Chapter 00: its checks reject what is wrong and accept what is right."""

import numpy as np
import pytest
import torch
from scipy import stats

from tests.verdicts import verdict
from utils.checks import chapter_00 as checks
from utils.statistics import paired_difference


def interval(mean, error):
    return mean, mean - error, mean + error


def t(n, level=0.975):
    return stats.t.ppf(level, n - 1)


def right(a, b):
    d, n = a - b, len(a)
    return interval(d.mean(), t(n) * d.std(ddof=1) / np.sqrt(n))


def with_scipy(a, b):
    d = a - b
    low, high = stats.t.interval(0.95, len(d) - 1, d.mean(), stats.sem(d))
    return np.array([d.mean(), low, high])


def in_torch(a, b):
    d = torch.as_tensor(a - b)
    return torch.stack(interval(d.mean(), t(len(d)) * d.std() / len(d) ** 0.5))


def by_the_course(a, b):
    e = paired_difference(a, b)
    return [e.value, e.low, e.high]


def not_paired(a, b, df=None):
    n = len(a)
    error = np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / n)
    return interval(a.mean() - b.mean(), stats.t.ppf(0.975, df or n - 1) * error)


def scaled(factor):
    """The difference with another error, as a function of n and the sd."""
    return lambda a, b: interval((a - b).mean(), factor(len(a), (a - b).std(ddof=1)))


RIGHT_INTERVAL = {
    "by hand": right,
    "scipy": with_scipy,
    "torch": in_torch,
    "the course's own": by_the_course,
}
WRONG_INTERVAL = {
    "the stub": (lambda a, b: None, "returned nothing"),
    "an ellipsis": (lambda a, b: ..., "returned nothing"),
    "one number": (lambda a, b: (a - b).mean(), "three numbers"),
    "two numbers": (lambda a, b: right(a, b)[1:], "three numbers"),
    "an estimate": (paired_difference, "three numbers"),
    "b minus a": (lambda a, b: right(b, a), "a minus b"),
    "not paired": (not_paired, "seed by seed"),
    "two samples": (lambda a, b: not_paired(a, b, 2 * len(a) - 2), "seed by seed"),
    "the sd": (scaled(lambda n, sd: t(n) * sd), "by the root of the number"),
    "divided by n": (scaled(lambda n, sd: t(n) * sd / n), "not by n"),
    "1.96": (scaled(lambda n, sd: 1.96 * sd / n**0.5), "1.96 is for many"),
    "biased": (
        scaled(lambda n, sd: t(n) * sd * ((n - 1) / n) ** 0.5 / n**0.5),
        "ddof=1",
    ),
    "n degrees of freedom": (
        scaled(lambda n, sd: t(n + 1) * sd / n**0.5),
        "degrees of freedom",
    ),
    "one-sided": (scaled(lambda n, sd: t(n, 0.95) * sd / n**0.5), "each side"),
    "high before low": (lambda a, b: np.array(right(a, b))[[0, 2, 1]], "order"),
    "low first": (lambda a, b: np.array(right(a, b))[[1, 0, 2]], "order"),
    "range": (
        lambda a, b: ((a - b).mean(), (a - b).min(), (a - b).max()),
        "expected",
    ),
    "twice the standard error": (
        scaled(lambda n, sd: 2.6 * sd / n**0.5),
        "expected",
    ),
    "raises": (lambda a, b: a / undefined, "NameError"),  # noqa: F821
}

rng = np.random.default_rng(1)


def of_size(shallow, deep, spread=3.0):
    """A lead that somebody measured; the check looks at the numbers only."""
    means = {2: shallow, 20: deep}
    return lambda depth: means[depth] + spread * rng.normal(size=12)


RIGHT_LEAD = {
    "as measured": of_size(2.5, 19),
    "another rate": of_size(4.5, 28),
    "a smaller lead": of_size(0.8, 15),
    "as a tensor": lambda depth: torch.from_numpy(of_size(2.5, 19)(depth)),
    "as a list": lambda depth: of_size(2.5, 19)(depth).tolist(),
}
WRONG_LEAD = {
    "the stub": (lambda depth: None, "returned nothing"),
    "the mean": (lambda depth: float(of_size(2.5, 19)(depth).mean()), "(seeds,)"),
    "the grid": (lambda depth: rng.normal(size=(4, 12)), "(seeds,)"),
    "one seed": (lambda depth: of_size(2.5, 19)(depth)[:1], "(seeds,)"),
    "no BN minus BN": (of_size(-2.5, -19), "in this order"),
    "depth does not arrive": (lambda depth: 12 + np.arange(12.0), "does the depth"),
    "accuracy": (of_size(94.6, 66), "look like accuracies"),
    "accuracy without BN": (of_size(92, 47), "look like accuracies"),
    "share instead of points": (of_size(0.025, 0.19, 0.03), "in points"),
    "a rate that fails without BN": (of_size(2, 60), "we expect"),
    "no lead at 20 layers": (of_size(2, 0, 0.1), "we expect"),
    "a diverged run": (
        lambda depth: np.append(of_size(2.5, 19)(depth)[:11], np.nan),
        "not finite",
    ),
    "nothing trained": (lambda depth: np.zeros(12), "same difference"),
    "raises": (lambda depth: {}[depth], "KeyError"),
}


@pytest.mark.parametrize("name", RIGHT_INTERVAL)
def test_paired_interval_accepts(name):
    passed, said = verdict(checks.paired_interval, RIGHT_INTERVAL[name])
    assert passed, said
    assert said.startswith("Passed: ")


@pytest.mark.parametrize("name", WRONG_INTERVAL)
def test_paired_interval_rejects(name):
    answer, hint = WRONG_INTERVAL[name]
    passed, said = verdict(checks.paired_interval, answer)
    assert passed is False
    assert hint in said


@pytest.mark.parametrize("name", RIGHT_LEAD)
def test_lead_accepts(name):
    passed, said = verdict(checks.lead, RIGHT_LEAD[name])
    assert passed, said


@pytest.mark.parametrize("name", WRONG_LEAD)
def test_lead_rejects(name):
    answer, hint = WRONG_LEAD[name]
    passed, said = verdict(checks.lead, answer)
    assert passed is False
    assert hint in said
