"""Checks of chapter 00, a first look."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy import stats

from utils.checks.framework import Measured, Wrong, check, expect, expect_written
from utils.checks.numbers import number, tensor

SHALLOW, DEEP = 2, 20
# Means over 12 seeds, with room for other seeds, rates and a few updates more:
# four seed sets gave 3 to 5 points at 2 layers and 12 to 19 at 20.
SHALLOW_LEAD, DEEP_LEAD = (-1.5, 9), (2, 45)


def _interval(
    error: Callable = lambda a, b, n: (a - b).std(ddof=1) / np.sqrt(n),
    factor: Callable = lambda n: stats.t.ppf(0.975, n - 1),
    order: Sequence[int] = (0, 1, 2),
    sign: int = 1,
) -> Callable:
    """A right answer, with a part exchanged."""

    def answer(a: np.ndarray, b: np.ndarray) -> tuple:
        n, mean = len(a), sign * (a - b).mean()
        half = factor(n) * error(a, b, n)
        numbers = mean, mean - half, mean + half
        return tuple(numbers[k] for k in order)

    return answer


def _apart(a: np.ndarray, b: np.ndarray, n: int) -> float:
    return np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / n)


@check(
    praise="right for 2 to 24 seeds, alike and unlike",
    cases={
        f"{n} seeds of spread {spread:g}, {lead:g} apart": (n, spread, lead)
        for n, spread, lead in [
            (12, 6.0, 3.0),
            (12, 0.0, 3.0),
            (5, 2.0, -4.0),
            (24, 1.0, 0.2),
            (2, 3.0, 1.0),
        ]
    },
    tolerance=(1e-6, 1e-9),
    hints={"the given scores": "it changes the scores that it was given: leave them"},
    right={"by hand": _interval()},
    mistakes={
        "the difference is a minus b": _interval(sign=-1),
        "take the difference seed by seed first; what both nets of a seed share must "
        "cancel": _interval(_apart),
        "take the difference seed by seed first, and then one interval with n - 1 "
        "degrees of freedom": _interval(
            _apart, lambda n: stats.t.ppf(0.975, 2 * n - 2)
        ),
        "divide the standard deviation by the root of the number of seeds: this is for "
        "the mean, not for one more seed": _interval(
            lambda a, b, n: (a - b).std(ddof=1)
        ),
        "divide by the root of n, not by n": _interval(
            lambda a, b, n: (a - b).std(ddof=1) / n
        ),
        "1.96 is for many seeds; with few, Student's t is wider": (
            _interval(factor=lambda n: stats.norm.ppf(0.975)),
            _interval(factor=lambda n: 1.96),
            _interval(factor=lambda n: 2.0),
        ),
        "the standard deviation of a sample divides by n - 1 (ddof=1)": _interval(
            lambda a, b, n: (a - b).std() / np.sqrt(n)
        ),
        "one error on each side: t for n - 1 degrees of freedom, n seeds": _interval(
            factor=lambda n: stats.t.ppf(0.975, n)
        ),
        "95 % inside leave 2.5 % on each side: t at 0.975": _interval(
            factor=lambda n: stats.t.ppf(0.95, n - 1)
        ),
        "in this order: mean, low, high": _interval(order=(0, 2, 1)),
        "in this order: mean, then low, then high": _interval(order=(1, 0, 2)),
    },
)
def paired_interval(answer: Callable, n: int, spread: float, lead: float) -> dict:
    """Exercise 0.3: mean and 95 % interval of a difference, paired by seed."""
    common = 80 + spread * np.random.normal(size=n)  # what both nets share
    given = [
        common + lead + np.random.normal(size=n),
        common + np.random.normal(size=n),
    ]
    before = [scores.copy() for scores in given]
    result = answer(*given)
    expect_written(result)
    try:
        numbers = [float(x) for x in result]
    except TypeError:
        numbers = []
    expect(len(numbers) == 3, "return three numbers: mean, low, high")
    unchanged = all((a == b).all() for a, b in zip(given, before, strict=True))
    seen = dict(zip(("the mean", "the low end", "the high end"), numbers))
    return seen | {"the given scores": bool(unchanged)}


lead = Measured(
    "lead",  # exercise 0.4: BN's lead at 2 and at 20 layers
    calls=[(SHALLOW,), (DEEP,)],
    ranges=[
        (f"at {SHALLOW} layers", *SHALLOW_LEAD),
        (f"at {DEEP} layers", *DEEP_LEAD),
    ],
    said="{:.1f} points at 2 layers, {:.1f} at 20",
    asked="after 50 updates in batches of 32, each net at the rate that is best on the "
    "validation images",
    right=[(2.5, 19), (4.5, 28), (0.8, 15)],
    wrong=[
        Wrong(
            "these look like accuracies; return the difference between the nets with "
            "and without BN",
            lambda a, b: a >= 30,
            (94.6, 66),
        ),
        Wrong(
            "measure in points, with accuracy in %",
            lambda a, b: max(abs(a), abs(b)) <= 1.2,
            (0.025, 0.19),
        ),
        Wrong(
            "BN minus no BN, in this order: the lead at 20 layers is negative",
            lambda a, b: b <= -5,
            (-2.5, -19),
        ),
        Wrong(
            "does the depth reach `dense`, and does each net get its own rate, after "
            "50 updates?",
            lambda a, b: a == b,
            (12, 12),
        ),
    ],
)


def _means(over: Callable) -> Callable:
    """over: x -> the axes that are averaged."""
    return lambda x: x.mean(over(x)) if over(x) else x


@check(
    praise="one mean for each channel, over all the values that it has",
    cases={
        "32 examples of 8 units": ((32, 8),),
        "as many examples as units": ((5, 5),),
        "2 images, 3 channels of 4 x 6": ((2, 3, 4, 6),),
        "all sizes alike": ((4, 4, 4, 4),),
        "one image": ((1, 3, 4, 4),),
    },
    tolerance=(1e-4, 1e-5),
    hints={"the given x": "it changes x: leave it as it is"},
    right={"all axes but 1": _means(lambda x: [0, *range(2, x.dim())])},
    mistakes={
        "in a convolutional layer the positions count, too: average over the height "
        "and the width as well": _means(lambda x: (0,)),
        "average over the images, too: a channel has one mean in the whole "
        "batch": _means(lambda x: [*range(2, x.dim())]),
        "that is a mean for each image; it should be one for each channel, and "
        "channels stand on axis 1": _means(lambda x: [*range(1, x.dim())]),
        "that is one mean for all channels together": _means(
            lambda x: [*range(x.dim())]
        ),
        "each channel's mean should be a plain number, (channels,): drop the axes of "
        "size 1": lambda x: x.mean([0, *range(2, x.dim())], keepdim=True),
    },
)
def channel_means(answer: Callable, shape: tuple) -> dict:
    """Exercise 0.1: the means that BN takes, of a dense or a conv layer's output."""
    across = [1, -1] + [1] * (len(shape) - 2)
    x = torch.randn(shape, dtype=torch.float64) + torch.arange(shape[1]).view(across)
    before = x.clone()
    means = tensor(answer(x), "one mean for each channel")
    return {"the given x": bool((x == before).all()), "the means": means}


def _share(
    part: Callable = lambda bad, good, bn: good.mean() - bad.mean(),
    whole: Callable = lambda bad, good, bn: bn.mean() - bad.mean(),
) -> Callable:
    return lambda *scores: 100 * part(*scores) / whole(*scores)


@check(
    praise="right, from a share below 0 to one above 100 %",
    cases={
        "most of it": (60, 85, 92),
        "a half": (40, 60, 80),
        "all, and more": (30, 93, 90),
        "none": (70, 70, 82),
        "it harms": (75, 72, 80),
    },
    tolerance=(1e-5, 1e-5),
    hints={"the given scores": "it changes the given scores: leave them as they are"},
    right={"ratio of the mean leads": _share()},
    mistakes={
        "in percent: multiply by 100": lambda *s: _share()(*s) / 100,
        "that is the mean of the ratios, seed by seed: a seed in which BN leads by "
        "little would decide. Average the two leads first": lambda bad, good, bn: (
            100 * ((good - bad) / (bn - bad)).mean()
        ),
        "upside down: the initialisation's part, over BN's lead": lambda *s: (
            1e4 / _share()(*s)
        ),
        "that is BN's own part: what is asked is the part that the good initial "
        "weights bring without it": _share(
            lambda bad, good, bn: bn.mean() - good.mean()
        ),
        "compare leads over the badly initialised net, not accuracies": (
            _share(lambda bad, good, bn: good.mean(), lambda bad, good, bn: bn.mean())
        ),
        "that is the lead itself, in points: divide it by BN's lead": (
            lambda bad, good, bn: (good - bad).mean()
        ),
    },
)
def init_share(answer: Callable, *means: float) -> dict:
    """Exercise 0.2: how much of BN's lead a good initialisation brings alone."""
    scores = [m + 2 * np.random.randn(12) for m in means]
    before = np.stack(scores)
    share = number(answer(*scores))
    kept = bool((np.stack(scores) == before).all())
    return {"the given scores": kept, "the share": share}
