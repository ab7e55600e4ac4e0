"""Checks of chapter 09, one sample per device."""

from collections.abc import Callable

import torch
from torch import Tensor

from utils.checks.framework import Measured, Wrong, check, expect, expect_written


def _merge(
    mean: Callable = lambda share, means: (share * means).sum(0),
    within: Callable = lambda share, var: (share * var).sum(0),
    between: Callable = lambda share, gap: (share * gap**2).sum(0),
    end: Callable = lambda var, n: var,
    swap: bool = False,
) -> Callable:
    """A right answer, with a part exchanged."""

    def answer(counts: Tensor, means: Tensor, variances: Tensor) -> tuple:
        n = counts.sum()
        share = (counts / n).unsqueeze(1)
        own = mean(share, means)
        gap = means - (share * means).sum(0)
        var = end(within(share, variances) + between(share, gap), n)
        return (var, own) if swap else (own, var)

    return answer


def _squares(counts: Tensor, means: Tensor, variances: Tensor) -> tuple:
    """E[x²] - E[x]²."""
    share = (counts / counts.sum()).unsqueeze(1)
    mean = (share * means).sum(0)
    return mean, (share * (variances + means**2)).sum(0) - mean**2


@check(
    praise="equal to torch for equal and unequal counts, and at large means",
    cases={
        "equal counts": ((4, 4, 4, 4), (1.0, 3.0, -2.0, 0.5), 3, torch.float64),
        "unequal counts": ((2, 9, 5, 1), (1.0, 4.0, -2.0, 7.0), 3, torch.float64),
        "one sample each": ((1, 1, 1, 1), (0.0, 1.0, 2.0, 3.0), 2, torch.float64),
        "one device": ((6,), (2.0,), 3, torch.float64),
        "means that are alike": ((3, 30), (1.0, 1.0), 1, torch.float64),
        "as many devices as channels": ((2, 7, 3), (5.0, -1.0, 0.0), 3, torch.float64),
        "whole numbers for counts": (
            (2, 9, 5),
            (1.0, 4.0, -2.0),
            3,
            torch.float64,
            "int",
        ),
        "float32": ((8, 3, 5), (1.0, -4.0, 2.0), 4, torch.float32),
        "float32 and a mean of 10000": (
            *((3, 8, 5), (1e4, 1e4 + 1, 1e4 - 1), 3, torch.float32),
        ),
    },
    tolerance=(1e-4, 1e-9),
    hints={"the given tensors": "it changes what it was given: work on new tensors"},
    right={"by shares": _merge()},
    mistakes={
        "the mean comes first, then the variance": _merge(swap=True),
        "weigh each device's mean by its count": (
            _merge(mean=lambda share, means: means.mean(0)),
            lambda counts, means, variances: (
                means.mean(0),
                _merge()(counts, means, variances)[1],
            ),
        ),
        "the devices' means differ, and their distance from the common mean is "
        "variance, too": _merge(between=lambda share, gap: 0),
        "weigh each device's variance by its count": _merge(
            within=lambda share, var: var.mean(0),
            between=lambda s, gap: (gap**2).mean(0),
        ),
        "weigh the squared distances of the means by the counts, too": _merge(
            between=lambda share, gap: (gap**2).mean(0)
        ),
        "weigh the variances by the counts, too": _merge(
            within=lambda share, var: var.mean(0)
        ),
        "divide by the total count, not by the total minus 1": _merge(
            end=lambda var, n: var * n / (n - 1)
        ),
        "the variance is wanted, not the standard deviation": _merge(
            end=lambda var, n: var.sqrt()
        ),
        "the deviation of the means is squared": _merge(
            between=lambda share, gap: (share * gap.abs()).sum(0)
        ),
        "that is the sum of squares: divide by the total count": _merge(
            end=lambda var, n: var * n
        ),
        "at a large mean it subtracts two large numbers: the digits are lost": _squares,
    },
)
def merge(
    answer: Callable,
    counts: tuple,
    at: tuple,
    channels: int,
    dtype: torch.dtype,
    how: str = "",
) -> dict:
    """Exercise 9.1: mean and variance of several devices together."""
    spread = torch.tensor([0.5, 2.0, 1.0, 0.1])[:channels]
    parts = [
        m + (1 + k) * spread * torch.randn(n, channels)
        for k, (n, m) in enumerate(zip(counts, at))
    ]
    exact = [part.double() for part in parts]
    means = torch.stack([part.mean(0) for part in exact]).to(dtype)
    variances = torch.stack([part.var(0, correction=0) for part in exact]).to(dtype)
    given = torch.tensor(counts, dtype=torch.int64 if how else dtype), means, variances
    before = [t.clone() for t in given]
    result = answer(*given)
    expect_written(result)
    expect(
        isinstance(result, (tuple, list)) and len(result) == 2,
        "return two things, the mean and the variance",
    )
    seen = {}
    for name, part in zip(("the mean", "the variance"), result):
        part = torch.as_tensor(part).detach()
        expect(
            part.shape == (channels,),
            f"{name} should have one value per channel, shape ({channels},); got "
            f"{tuple(part.shape)}",
        )
        seen[name] = part.double()
    if max(at) > 1000:  # as many digits as float32 leaves there
        seen["the variance"] = (seen["the variance"] * 50).round() / 50
    pairs = zip(given, before, strict=True)
    return seen | {"the given tensors": all(bool((a == b).all()) for a, b in pairs)}


sorted_devices = Measured(
    "sorted_devices",  # exercise 9.3: images sorted over the devices, minus shuffled
    calls=[()],
    ranges=[("sorted minus shuffled", -15, -0.3)],
    said="sorted by label, the devices change the accuracy by {:.1f} points",
    asked="at the rates of `split[8]`, on as many updates, with 8 images per device, "
    "and all devices' statistics kept",
    not_finite="take the best rate, `at_best`, which leaves diverged runs out",
    right=[(-3.0,), (-1.0,), (-8.0,)],
    wrong=[
        Wrong(
            "the sorted net cannot be so much better: subtract `accuracy[8]` from it",
            lambda a: a >= 30,
            (85,),
        ),
        Wrong(
            "sorting does not gain accuracy here: is it sorted *minus* shuffled, and "
            "are there 8 images per device?",
            lambda a: a >= 1,
            (3.0,),
        ),
        Wrong(
            "that is too little: sort each batch by its labels, `y[i]`, with 8 images "
            "per device",
            lambda a: a >= -0.3,
            (0.1,),
        ),
    ],
)
