"""Checks of chapter 00, a first look."""

from collections.abc import Callable

import numpy as np
import torch
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
    """Exercise 0.3: mean and 95 % interval of a difference, paired by seed."""
    common = 80 + spread * np.random.normal(size=n)  # what both nets share
    a, b = common + lead + np.random.normal(size=n), common + np.random.normal(size=n)
    what = "three numbers: mean, low, high"
    found = numbers(answer(a, b), (3,), what).tolist()
    return dict(zip(("the mean", "the low end", "the high end"), found))


lead = Measured(
    "lead",  # exercise 0.4: BN's lead at 2 and at 20 layers
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
    return {"the means": torch.as_tensor(answer(x)).detach().double()}


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
    return {"the share": numbers(answer(*scores), (), "one number")}
