"""Checks of chapter 09, one sample per device."""

import torch
from torch import Tensor

from utils.checks.framework import Measured, check, expect, named, numbers


def _merge(counts: Tensor, means: Tensor, variances: Tensor) -> tuple:
    n = counts.sum()
    share = (counts / n).unsqueeze(1)
    mean = (share * means).sum(0)
    gap = means - (share * means).sum(0)
    var = (share * variances).sum(0) + (share * gap**2).sum(0)
    return mean, var


def _squares(counts: Tensor, means: Tensor, variances: Tensor) -> tuple:
    """E[x²] - E[x]²."""
    share = (counts / counts.sum()).unsqueeze(1)
    mean = (share * means).sum(0)
    return mean, (share * (variances + means**2)).sum(0) - mean**2


@check(
    praise="equal to torch for equal and unequal counts, and at large means",
    cases=named(
        "counts {}, means {}, {} channels, {}",
        ((4, 4, 4, 4), (1.0, 3.0, -2.0, 0.5), 3),
        ((2, 9, 5, 1), (1.0, 4.0, -2.0, 7.0), 3),
        ((1, 1, 1, 1), (0.0, 1.0, 2.0, 3.0), 2),
        ((6,), (2.0,), 3),
        ((3, 30), (1.0, 1.0), 1),
        ((2, 7, 3), (5.0, -1.0, 0.0), 3),
        ((2, 9, 5), (1.0, 4.0, -2.0), 3, "whole numbers for counts"),
        ((8, 3, 5), (1.0, -4.0, 2.0), 4, "float32"),
        ((3, 8, 5), (1e4, 1e4 + 1, 1e4 - 1), 3, "float32"),
    ),
    tolerance=(1e-4, 1e-9),
    right={"by shares": _merge},
    edits={
        "mean, var -> var, mean": "the mean comes first, then the variance",
        "mean = (share * means).sum(0) -> mean = means.mean(0)": "weigh each device's "
        "mean by its count",
        " + (share * gap**2).sum(0) -> ": "the devices' means differ, and their "
        "distance from the common mean is variance, too",
        "(share * variances).sum(0) + (share * gap**2).sum(0) -> variances.mean(0) + "
        "(gap**2).mean(0)": "weigh each device's variance by its count",
        "(share * gap**2).sum(0) -> (gap**2).mean(0)": "weigh the squared distances "
        "of the means by the counts, too",
        "(share * variances).sum(0) -> variances.mean(0)": "weigh the variances by "
        "the counts, too",
        "mean, var -> mean, var * n / (n - 1)": "divide by the total count, not by "
        "the total minus 1",
        "mean, var -> mean, var.sqrt()": "the variance is wanted, not the standard "
        "deviation",
        "gap**2 -> gap.abs()": "the deviation of the means is squared",
        "mean, var -> mean, var * n": "that is the sum of squares: divide by the "
        "total count",
    },
    mistakes={
        "at a large mean it subtracts two large numbers: the digits are lost": _squares
    },
)
def merge(answer, counts: tuple, at: tuple, channels: int, how: str = "") -> dict:
    """Exercise 9.1: mean and variance of several devices together."""
    dtype = torch.float32 if how == "float32" else torch.float64
    spread = torch.tensor([0.5, 2.0, 1.0, 0.1])[:channels]
    parts = [
        (m + (1 + k) * spread * torch.randn(n, channels)).double()
        for k, (n, m) in enumerate(zip(counts, at))
    ]
    means = torch.stack([part.mean(0) for part in parts]).to(dtype)
    variances = torch.stack([part.var(0, correction=0) for part in parts]).to(dtype)
    whole = how == "whole numbers for counts"
    result = answer(
        torch.tensor(counts, dtype=torch.int64 if whole else dtype), means, variances
    )
    expect(
        isinstance(result, (tuple, list)) and len(result) == 2,
        "return two things, the mean and the variance",
    )
    mean, var = (numbers(r, (channels,), "one value per channel") for r in result)
    if max(at) > 1000:  # as many digits as float32 leaves there
        var = (var * 50).round() / 50
    return {"the mean": mean, "the variance": var}


sorted_devices = Measured(
    "sorted_devices",  # exercise 9.3: images sorted over the devices, minus shuffled
    calls=[()],
    ranges=[("sorted minus shuffled", -15, -0.3)],
    said="sorted by label, the devices change the accuracy by {:.1f} points",
    asked="at the rates of `split[8]`, on as many updates, with 8 images per device, "
    "and all devices' statistics kept",
    not_finite="take the best rate, `at_best`, which leaves diverged runs out",
    right=[(-3.0,), (-1.0,), (-8.0,)],
    wrong={
        "a >= 30: 85": "the sorted net cannot be so much better: subtract "
        "`accuracy[8]` from it",
        "a >= 1: 3": "sorting does not gain accuracy here: is it sorted *minus* "
        "shuffled, and are there 8 images per device?",
        "a >= -0.3: 0.1": "that is too little: sort each batch by its labels, `y[i]`, "
        "with 8 images per device",
    },
)
