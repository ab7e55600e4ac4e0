"""Checks of chapter 00, a first look."""

import numpy as np
from scipy import stats

from utils.checks.framework import Measured, check, named, numbers

SHALLOW, DEEP = 2, 20
# Means over 12 seeds, with room for other seeds, rates and a few updates more:
# four seed sets gave 3 to 5 points at 2 layers and 12 to 19 at 20.
SHALLOW_LEAD, DEEP_LEAD = (-1.5, 9), (2, 45)


def _interval(a: np.ndarray, b: np.ndarray) -> tuple:
    n, mean = len(a), (a - b).mean()
    error = (a - b).std(ddof=1) / np.sqrt(n)
    half = stats.t.ppf(0.975, n - 1) * error
    return mean, mean - half, mean + half


_MANY = "1.96 is for many seeds; with few, Student's t is wider"
_APART = "(a - b).std(ddof=1) -> np.sqrt(a.var(ddof=1) + b.var(ddof=1))"


@check(
    praise="right for 2 to 24 seeds, alike and unlike",
    cases=named(
        "{} seeds of spread {}, {} apart",
        *[(12, 6.0, 3.0), (12, 0.0, 3.0), (5, 2.0, -4.0), (24, 1.0, 0.2)],
        (2, 3.0, 1.0),
    ),
    tolerance=(1e-6, 1e-9),
    right={"by hand": _interval},
    edits={
        "(a - b).mean() -> (b - a).mean()": "the difference is a minus b",
        _APART: "take the difference seed by seed first; what both nets of a seed "
        "share must cancel",
        f"{_APART}; n - 1 -> 2 * n - 2": "take the difference seed by seed first, "
        "and then one interval with n - 1 degrees of freedom",
        " / np.sqrt(n) -> ": "divide the standard deviation by the root of the number "
        "of seeds: this is for the mean, not for one more seed",
        "np.sqrt(n) -> n": "divide by the root of n, not by n",
        "stats.t.ppf(0.975, n - 1) -> stats.norm.ppf(0.975)": _MANY,
        "stats.t.ppf(0.975, n - 1) -> 1.96": _MANY,
        "stats.t.ppf(0.975, n - 1) -> 2.0": _MANY,
        "ddof=1 -> ddof=0": "the standard deviation of a sample divides by n - 1 "
        "(ddof=1)",
        "n - 1 -> n": "one error on each side: t for n - 1 degrees of freedom, n seeds",
        "0.975 -> 0.95": "95 % inside leave 2.5 % on each side: t at 0.975",
        "mean - half, mean + half -> mean + half, mean - half": "in this order: mean, "
        "low, high",
        "mean, mean - half -> mean - half, mean": "in this order: mean, then low, "
        "then high",
    },
)
def paired_interval(answer, n: int, spread: float, lead: float) -> dict:
    """Exercise 0.1: mean and 95 % interval of a difference, paired by seed."""
    common = 80 + spread * np.random.normal(size=n)  # what both nets share
    a, b = common + lead + np.random.normal(size=n), common + np.random.normal(size=n)
    what = "three numbers: mean, low, high"
    found = numbers(answer(a, b), (3,), what).tolist()
    return dict(zip(("the mean", "the low end", "the high end"), found))


lead = Measured(
    "lead",  # exercise 0.2: BN's lead at 2 and at 20 layers
    calls=[(SHALLOW,), (DEEP,)],
    ranges=[(f"at {SHALLOW} layers", *SHALLOW_LEAD), (f"at {DEEP} layers", *DEEP_LEAD)],
    said="{:.1f} points at 2 layers, {:.1f} at 20",
    asked="after 50 updates in batches of 32, each net at the rate that is best on the "
    "validation images",
    right=[(2.5, 19), (4.5, 28), (0.8, 15)],
    wrong={
        "a >= 30: 94.6 66": "these look like accuracies; return the difference "
        "between the nets with and without BN",
        "max(map(abs, m)) <= 1.2: 0.025 0.19": "measure in points, with accuracy in %",
        "b <= -5: -2.5 -19": "BN minus no BN, in this order: the lead at 20 layers is "
        "negative",
        "a == b: 12 12": "does the depth reach `dense`, and does each net get its own "
        "rate, after 50 updates?",
    },
)
