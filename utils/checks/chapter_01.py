"""Checks of chapter 01, internal covariate shift."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from utils.checks.framework import Measured, Wrong, check, expect, expect_written

# Exercise 1.3: means over 12 seeds, in points, with room for other seeds, rates
# and a few updates more.
SD_LEAD = {1: (12, 80), 4: (-35, 5)}


def _walk(updates: int, images: int, units: int) -> Tensor:
    """Skewed values whose mean and spread wander: (updates, images, units)."""
    values = -torch.log(torch.rand(updates, images, units, dtype=torch.float64))
    centre = 0.8 * torch.randn(updates, 1, units, dtype=torch.float64)
    spread = torch.exp(0.7 * torch.randn(updates, 1, units, dtype=torch.float64))
    return centre + spread * values


def _drift(
    by: Callable = lambda sd, mean: sd[:-1],
    size: Callable = torch.abs,
    over: Callable = lambda moved: moved.mean(0),
    centre: Callable = lambda v: v.mean(1),
    correction: int = 1,
) -> Callable:
    """A right answer, with a part exchanged."""

    def answer(values: Tensor) -> Tensor:
        mean, sd = centre(values), values.std(1, correction=correction)
        divisor = by(sd, mean)  # where nothing moves, an sd of 0 has nothing to divide
        return over(size(mean.diff(dim=0)) / divisor.clamp(min=1e-12))

    return answer


def _single_images(values: Tensor) -> Tensor:
    return (values.diff(dim=0).abs().mean(1) / values.std(1)[:-1]).mean(0)


def _first_to_last(values: Tensor) -> Tensor:
    mean = values.mean(1)
    return (mean[-1] - mean[0]).abs() / values.std(1)[0]


@check(
    praise="right for skewed, wandering and standing values",
    cases={
        f"values of shape {shape}{', ' + how if how else ''}": (shape, how)
        for shape, how in [
            ((6, 400, 4), ""),
            ((2, 500, 3), ""),
            ((9, 400, 1), ""),
            ((4, 50, 3), "standing still"),
            ((5, 400, 5), "float32"),
            ((7, 400, 2), "not contiguous"),
        ]
    },
    tolerance=(5e-3, 1e-7),  # N or N - 1 in the variance: both are fine
    hints={"the given values": "it changes the values that it was given: leave them"},
    right={"with N - 1": _drift(), "with N": _drift(correction=0)},
    mistakes={
        "mind the sign: movements up and down cancel without the absolute value": (
            _drift(size=lambda moved: moved),
            _drift(over=lambda moved: moved.mean(0).abs(), size=lambda moved: moved),
        ),
        "the movements are added up: take their mean over the updates": _drift(
            over=lambda moved: moved.sum(0)
        ),
        "that divides by the number of snapshots; between T snapshots there are T - 1 "
        "updates": _drift(over=lambda moved: moved.sum(0) / (len(moved) + 1)),
        "that is the way from the first snapshot to the last; take the mean over "
        "single updates": _first_to_last,
        "measured in the units of z: divide by the standard deviation": _drift(
            by=lambda sd, mean: torch.ones_like(sd[:-1])
        ),
        "divide by the standard deviation, not by the variance": _drift(
            by=lambda sd, mean: sd[:-1] ** 2
        ),
        "divide by the standard deviation before the update, not after it": _drift(
            by=lambda sd, mean: sd[1:]
        ),
        "divide each movement by the standard deviation before it, not all by that of "
        "the first snapshot": _drift(by=lambda sd, mean: sd[:1]),
        "divide each movement by its own standard deviation, before you take the "
        "mean": _drift(by=lambda sd, mean: sd[:-1].mean(0, keepdim=True)),
        "the standard deviation is taken over images (dim 1), not over updates": _drift(
            by=lambda sd, mean: mean.std(0, keepdim=True)
        ),
        "that follows single images; follow the mean over the images": _single_images,
        "that is the median over the images; use the mean": _drift(
            centre=lambda v: v.median(1).values
        ),
    },
)
def drift(answer: Callable, shape: tuple[int, int, int], how: str) -> dict:
    """Exercise 1.1: the mean's movement per update, in sd, for each unit."""
    values = _walk(*shape)
    if how == "standing still":
        values = values[:1].repeat(shape[0], 1, 1)
    if how == "not contiguous":
        values = values.transpose(0, 2).contiguous().transpose(0, 2)
    values = values.float() if how == "float32" else values
    before = values.clone()
    result = answer(values)
    expect_written(result)
    result = torch.as_tensor(result).detach().double()
    expect(
        result.shape == (shape[2],),
        f"it should return one number for each unit, ({shape[2]},); got "
        f"{tuple(result.shape)}",
    )
    return {"the drift": result, "the given values": bool((values == before).all())}


def _of_size(factor: float, power: int = 1) -> Callable:
    return lambda size: factor * size**power


@check(
    praise="the drift of shifts of any size, from 0 to 4",
    cases={
        f"size {size:g}": (size,) for size in (0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 3, 4.0)
    },
    tolerance=(0.03, 0.0),  # so that a simulation passes
    right={"the formula": _of_size(2 / math.sqrt(math.pi))},
    mistakes={
        "that is the mean distance of one shift from 0; the drift is the distance "
        "between two shifts": _of_size(math.sqrt(2 / math.pi)),
        "that is the standard deviation of the difference; the drift takes the mean of "
        "its absolute value": _of_size(math.sqrt(2)),
        "that is the mean square of the difference; the drift takes the mean of its "
        "absolute value": _of_size(2, 2),
        "the shifts are drawn anew at each update, so two of them differ, and their "
        "difference spreads wider than each": _of_size(1),
        "two independent shifts: variances add, standard deviations do not": _of_size(
            2 * math.sqrt(2 / math.pi)
        ),
        "up and down do not cancel: the drift takes absolute values": _of_size(0),
        "the shift moves the mean only: the standard deviation of the images, by which "
        "the drift divides, stays 1": lambda size: (
            2 * size / math.sqrt(math.pi * (1 + size**2))
        ),
    },
)
def noise_drift(answer: Callable, size: float) -> dict:
    """Exercise 1.2: the drift that a random shift of a given size causes."""
    result = answer(size)
    expect_written(result)
    result = torch.as_tensor(result).detach()
    expect(result.numel() == 1, "it should return one number")
    return {"the drift": float(result)}


sd_lead = Measured(
    "sd_lead",  # exercise 1.3: what sd only brings at two initial gains
    calls=[(1,), (4,)],
    ranges=[(f"at gain {gain}", *pair) for gain, pair in SD_LEAD.items()],
    said="{:.1f} points at gain 1 and {:.1f} at gain 4",
    asked="after 100 updates in batches of 32, each net at the rate that is best on "
    "the validation images",
    right=[(40, -10), (60, -20), (25, 0.5)],
    wrong=[
        Wrong(
            "these look like accuracies; return a difference",
            lambda a, b: b >= 30,
            (70, 75),
        ),
        Wrong(
            "measure in points, with accuracy in %",
            lambda a, b: max(abs(a), abs(b)) <= 1,
            (0.4, -0.1),
        ),
        Wrong("does the gain reach `dense`?", lambda a, b: a == b, (-10, -10)),
        Wrong("sd only minus no norm, in this order", lambda a, b: a <= -5, (-40, 10)),
    ],
)
