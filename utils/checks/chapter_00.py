"""Checks of chapter 00, a first look."""

from collections.abc import Callable

import numpy as np
from scipy import stats

from utils.checks.legacy import check, expect, expect_written, mean_difference

SHALLOW, DEEP = 2, 20
# Means over 12 seeds, with room for other seeds, rates and a few updates more:
# four seed sets gave 3 to 5 points at 2 layers and 12 to 19 at 20.
SHALLOW_LEAD, DEEP_LEAD = (-1.5, 9), (2, 45)


def _ends(mean: float, error: float) -> np.ndarray:
    return np.array([mean, mean - error, mean + error])


@check
def paired_interval(answer: Callable) -> str:
    """Exercise 0.1: mean and 95 % interval of a difference, paired by seed."""
    rng = np.random.default_rng(0)
    for n, spread in ((12, 6.0), (12, 0.0), (5, 2.0), (24, 1.0)):
        common = 80 + spread * rng.normal(size=n)  # what both nets share
        a = common + 3 + rng.normal(size=n)
        b = common + rng.normal(size=n)
        result = answer(a.copy(), b.copy())
        expect_written(result)
        try:
            result = np.array([float(x) for x in result])
        except TypeError:
            result = np.array([])
        expect(len(result) == 3, "return three numbers: mean, low, high")
        difference = a - b
        mean, sd = difference.mean(), difference.std(ddof=1)
        factor, root = stats.t.ppf(0.975, n - 1), np.sqrt(n)
        right = _ends(mean, factor * sd / root)
        if np.allclose(result, right, rtol=1e-6):
            continue
        apart = np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / n)
        mistakes = {
            "the difference is a minus b": _ends(-mean, factor * sd / root),
            "take the difference seed by seed first; what both nets of a seed "
            "share must cancel": _ends(mean, factor * apart),
            "take the difference seed by seed first, and then one interval "
            "with n - 1 degrees of freedom": (
                _ends(mean, stats.t.ppf(0.975, 2 * n - 2) * apart)
            ),
            "divide the standard deviation by the root of the number of seeds: "
            "the interval is for the mean, not for one more seed": (
                _ends(mean, factor * sd)
            ),
            "divide by the root of n, not by n": _ends(mean, factor * sd / n),
            "1.96 is for many seeds; with few, Student's t is wider": (
                _ends(mean, stats.norm.ppf(0.975) * sd / root)
            ),
            "the standard deviation of a sample divides by n - 1 (ddof=1)": (
                _ends(mean, factor * difference.std() / root)
            ),
            "one error on each side: t for n - 1 degrees of freedom, n seeds": (
                _ends(mean, stats.t.ppf(0.975, n) * sd / root)
            ),
            "95 % inside leave 2.5 % on each side: t at 0.975": (
                _ends(mean, stats.t.ppf(0.95, n - 1) * sd / root)
            ),
            "in this order: mean, low, high": right[[0, 2, 1]],
            "in this order: mean, then low, then high": right[[1, 0, 2]],
        }
        for hint, wrong in mistakes.items():
            expect(not np.allclose(result, wrong, rtol=2e-3), hint)
        text = ", ".join(f"{x:.3f}" for x in right)
        expect(False, f"for {n} seeds expected {text}; got {result.round(3)}")
    return "right for 5, 12 and 24 seeds, alike and unlike"


@check
def lead(answer: Callable) -> str:
    """Exercise 0.2: BN's lead at 2 and at 20 layers, by its numbers alone."""
    means = {}
    for depth in (SHALLOW, DEEP):
        means[depth] = mean_difference(answer(depth), "choose lower rates")
    shallow, deep = means[SHALLOW], means[DEEP]
    expect(
        shallow < 30,
        f"{shallow:.0f} and {deep:.0f}: these look like accuracies; return the "
        "difference between the nets with and without BN",
    )
    expect(
        max(abs(shallow), abs(deep)) > 1.2,
        f"{shallow:.2f} and {deep:.2f}: measure in points, with accuracy in %",
    )
    expect(
        deep > -5, "BN minus no BN, in this order: the lead at 20 layers is negative"
    )
    expect(
        deep != shallow,
        f"{shallow:.1f} points at 2 layers and {deep:.1f} at 20: does the depth "
        "reach `dense`, and does each net get its own rate, after 50 updates?",
    )
    for depth, (low, high) in ((SHALLOW, SHALLOW_LEAD), (DEEP, DEEP_LEAD)):
        expect(
            low < means[depth] < high,
            f"{means[depth]:.1f} points at {depth} layers; we expect {low} to {high} "
            "after 50 updates in batches of 32, each net at the rate that is best "
            "on the validation images",
        )
    return f"{shallow:.1f} points at 2 layers, {deep:.1f} at 20"
