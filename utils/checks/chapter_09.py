"""Checks of chapter 09, one sample per device."""

from collections.abc import Callable

import torch

from utils.checks.legacy import check, expect, expect_written, mean_difference

Pair = tuple[torch.Tensor, torch.Tensor]


def _near(result: torch.Tensor, other: torch.Tensor, rtol: float = 1e-4) -> bool:
    return torch.allclose(result, other.double(), rtol=rtol, atol=1e-9)


def _as_pair(result: object, channels: int) -> Pair:
    """The answer as two float64 tensors (channels,), or a hint."""
    expect_written(result)
    expect(
        isinstance(result, (tuple, list)) and len(result) == 2,
        "return two things, the mean and the variance",
    )
    pair = [torch.as_tensor(part, dtype=torch.float64) for part in result]
    for name, part in zip(("mean", "variance"), pair):
        expect(
            part.shape == (channels,),
            f"the {name} should have one value per channel, shape "
            f"({channels},); got {tuple(part.shape)}",
        )
    return pair[0], pair[1]


def _examine_merge(answer: Callable, parts: list[torch.Tensor], where: str) -> None:
    """Compare an answer with torch on the samples of some devices."""
    dtype = parts[0].dtype
    counts = torch.tensor([float(len(part)) for part in parts], dtype=dtype)
    exact = [part.double() for part in parts]
    means = torch.stack([part.mean(0) for part in exact])
    variances = torch.stack([part.var(0, correction=0) for part in exact])
    everything, n = torch.cat(exact), counts.sum().item()
    right_mean, right = everything.mean(0), everything.var(0, correction=0)
    given = (counts.clone(), means.to(dtype), variances.to(dtype))
    mean, var = _as_pair(answer(*given), parts[0].shape[1])
    share = (counts.double() / n).unsqueeze(1)
    within, between = share * variances, share * (means - right_mean) ** 2
    expect(
        _near(right_mean, means.mean(0)) or not _near(mean, means.mean(0)),
        f"{where}: weigh each device's mean by its count",
    )
    expect(
        not _near(mean, right) or _near(right_mean, right),
        "the mean comes first, then the variance",
    )
    expect(
        _near(mean, right_mean),
        f"{where}: the mean should be {right_mean[0]:.4f} in channel 0, got "
        f"{mean[0]:.4f}",
    )
    mistakes = {
        "the devices' means differ, and their distance from the common mean is "
        "variance, too": within.sum(0),
        "weigh each device's variance by its count": (
            variances + (means - right_mean) ** 2
        ).mean(0),
        "weigh the squared distances of the means by the counts, too": within.sum(0)
        + ((means - right_mean) ** 2).mean(0),
        "weigh the variances by the counts, too": variances.mean(0) + between.sum(0),
        "divide by the total count, not by the total minus 1": right * n / (n - 1),
        "the variance is wanted, not the standard deviation": right.sqrt(),
        "the deviation of the means is squared": within.sum(0)
        + (share * (means - right_mean).abs()).sum(0),
        "that is the sum of squares: divide by the total count": right * n,
    }
    for hint, wrong in mistakes.items():
        expect(_near(right, wrong) or not _near(var, wrong), f"{where}: {hint}")
    big = means.abs().max() > 1000
    expect(
        _near(var, right, rtol=1e-2 if big else 1e-4),
        f"{where}: the variance should be {right[0]:.4f} in channel 0, got {var[0]:.4f}"
        + ("; does it subtract two large numbers?" if big else ""),
    )


@check
def merge(answer: Callable) -> str:
    """Exercise 9.1: mean and variance of several devices together."""

    def devices(counts: list[int], means: list[float], dtype=torch.float64) -> list:
        spread = torch.tensor([0.5, 2.0, 1.0])
        return [
            (m + (1 + k) * spread * torch.randn(n, 3)).to(dtype)
            for k, (n, m) in enumerate(zip(counts, means))
        ]

    cases = [
        ("equal counts", devices([4, 4, 4, 4], [1.0, 3.0, -2.0, 0.5])),
        ("unequal counts", devices([2, 9, 5, 1], [1.0, 4.0, -2.0, 7.0])),
        ("one sample each", devices([1, 1, 1, 1], [0.0, 1.0, 2.0, 3.0])),
        ("one device", devices([6], [2.0])),
        (
            "float32 and a mean of 10000",
            devices([3, 8, 5], [1e4, 1e4 + 1, 1e4 - 1], torch.float32),
        ),
    ]
    for where, parts in cases:
        _examine_merge(answer, parts, where)
    return "equal to torch for equal and unequal counts, and at large means"


@check
def sorted_devices(answer: Callable) -> str:
    """Exercise 9.4: accuracy with images sorted over the devices, minus shuffled."""
    mean = mean_difference(
        answer(), "take the best rate, `at_best`, which leaves diverged runs out"
    )
    expect(abs(mean) <= 100, "give it in points of accuracy, percent minus percent")
    expect(
        mean < 30,
        "the sorted net cannot be so much better: subtract `accuracy[8]` from it",
    )
    expect(
        mean < 1,
        "sorting does not gain accuracy here: is it sorted *minus* shuffled, and "
        "are there 8 images per device?",
    )
    expect(
        mean < -0.3,
        "that is too little: sort each batch by its labels, `y[i]`, with 8 images "
        "per device",
    )
    expect(
        mean > -15,
        "that is too much: train at the rates of `split[8]`, on as many updates, "
        "with 8 images per device, and keep all devices' statistics",
    )
    return f"sorted by label, the devices lose {-mean:.1f} points"
