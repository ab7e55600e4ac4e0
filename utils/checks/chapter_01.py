"""Checks of chapter 01, internal covariate shift."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from utils.checks.framework import (
    Guarded,
    Measured,
    as_said,
    check,
    expect,
    named,
    numbers,
    same,
    with_edit,
)

# Exercise 1.4: means over 12 seeds, in points, with room for other seeds, rates
# and a few updates more.
SD_LEAD = {1: (12, 80), 4: (-35, 5)}


def _walk(updates: int, images: int, units: int) -> Tensor:
    """Skewed values whose mean and spread wander: (updates, images, units)."""
    values = -torch.log(torch.rand(updates, images, units, dtype=torch.float64))
    centre = 0.8 * torch.randn(updates, 1, units, dtype=torch.float64)
    spread = torch.exp(0.7 * torch.randn(updates, 1, units, dtype=torch.float64))
    return centre + spread * values


def _drift(values: Tensor) -> Tensor:
    mean, sd = values.mean(1), values.std(1)
    moved = mean.diff(dim=0).abs()
    # where nothing moves, an sd of 0 has nothing to divide
    return (moved / sd[:-1].clamp(min=1e-12)).mean(0)


_SIGN = "mind the sign: movements up and down cancel without the absolute value"


@check(
    praise="right for skewed, wandering and standing values",
    cases=named(
        "values of shape {}, {}",
        *[((6, 400, 4), ""), ((2, 500, 3), ""), ((9, 400, 1), "")],
        *[((4, 50, 3), "standing still"), ((5, 400, 5), "float32")],
        ((7, 400, 2), "not contiguous"),
    ),
    tolerance=(5e-3, 1e-7),  # N or N - 1 in the variance: both are fine
    right={
        "with N - 1": _drift,
        "with N": with_edit(_drift, "std(1) -> std(1, correction=0)"),
    },
    edits={
        ".abs() -> ": _SIGN,
        ".abs() -> ; .mean(0) -> .mean(0).abs()": _SIGN,
        ".mean(0) -> .sum(0)": "the movements are added up: take their mean over the "
        "updates",
        ".mean(0) -> .sum(0) / len(mean)": "that divides by the number of snapshots; "
        "between T snapshots there are T - 1 updates",
        "mean.diff(dim=0) -> (mean[-1:] - mean[:1]); sd[:-1] -> sd[:1]": "that is the "
        "way from the first snapshot to the last; take the mean over single updates",
        " / sd[:-1].clamp(min=1e-12) -> ": "measured in the units of z: divide by the "
        "standard deviation",
        "sd[:-1] -> sd[:-1].square()": "divide by the standard deviation, not by the "
        "variance",
        "sd[:-1] -> sd[1:]": "divide by the standard deviation before the update, not "
        "after it",
        "sd[:-1] -> sd[:1]": "divide each movement by the standard deviation before "
        "it, not all by that of the first snapshot",
        "sd[:-1] -> sd[:-1].mean(0)": "divide each movement by its own standard "
        "deviation, before you take the mean",
        "sd[:-1] -> mean.std(0)": "the standard deviation is taken over images (dim "
        "1), not over updates",
        "mean.diff(dim=0).abs() -> values.diff(dim=0).abs().mean(1)": "that follows "
        "single images; follow the mean over the images",
        "values.mean(1) -> values.median(1).values": "that is the median over the "
        "images; use the mean",
    },
)
def drift(answer, shape: tuple[int, int, int], how: str) -> dict:
    """Exercise 1.1: the mean's movement per update, in sd, for each unit."""
    values = _walk(*shape)
    if how == "standing still":
        values = values[:1].repeat(shape[0], 1, 1)
    result = answer(as_said(values, how))
    return {"the drift": numbers(result, shape[2:], "one number for each unit")}


def _of_shifts(size: float) -> float:
    return 2 / math.sqrt(math.pi) * size


@check(
    praise="the drift of shifts of any size, from 0 to 4",
    cases=named("size {}", *zip((0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 4.0))),
    tolerance=(0.03, 1e-9),  # so that a simulation passes
    right={"the formula": _of_shifts},
    edits={
        "2 / math.sqrt(math.pi) -> math.sqrt(2 / math.pi)": "that is the mean "
        "distance of one shift from 0; the drift is the distance between two shifts",
        "2 / math.sqrt(math.pi) -> math.sqrt(2)": "that is the standard deviation of "
        "the difference; the drift takes the mean of its absolute value",
        "2 / math.sqrt(math.pi) * size -> 2 * size**2": "that is the mean square of "
        "the difference; the drift takes the mean of its absolute value",
        "2 / math.sqrt(math.pi) -> 1": "the shifts are drawn anew at each update, so "
        "two of them differ, and their difference spreads wider than each",
        "2 / -> 2 * math.sqrt(2) /": "two independent shifts: variances add, standard "
        "deviations do not",
        "2 / -> 0 /": "up and down do not cancel: the drift takes absolute values",
        "* size -> * size / math.sqrt(1 + size**2)": "the shift moves the mean only: "
        "the standard deviation of the images, by which the drift divides, stays 1",
    },
)
def noise_drift(answer, size: float) -> dict:
    """Exercise 1.2: the drift that a random shift of a given size causes."""
    return {"the drift": float(numbers(answer(size), (), "one number"))}


sd_lead = Measured(
    "sd_lead",  # exercise 1.4: what sd only brings at two initial gains
    calls=[(1,), (4,)],
    ranges=[(f"at gain {gain}", *pair) for gain, pair in SD_LEAD.items()],
    said="{:.1f} points at gain 1 and {:.1f} at gain 4",
    asked="after 100 updates in batches of 32, each net at the rate that is best on "
    "the validation images",
    right=[(40, -10), (60, -20), (25, 0.5)],
    wrong={
        "b >= 30: 70 75": "these look like accuracies; return a difference",
        "max(map(abs, m)) <= 1: 0.4 -0.1": "measure in points, with accuracy in %",
        "a == b: -10 -10": "does the gain reach `dense`?",
        "a <= -5: -40 10": "sd only minus no norm, in this order",
    },
)


class _Shift(nn.Module):
    """A right answer; subclasses exchange a part."""

    factor = math.sqrt(math.pi) / 2  # of noise_drift: 2 * size / sqrt(pi)

    def __init__(self, drift: float):
        super().__init__()
        self.size = drift * self.factor

    def draw(self, x: Tensor) -> Tensor:
        return self.size * torch.randn(x.shape[1], dtype=x.dtype)

    def sd(self, x: Tensor) -> Tensor:
        return x.detach().std(dim=0, correction=0)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.draw(x) * self.sd(x) if self.training else x


class _Raw(_Shift):
    factor = 1.0


class _Plain(_Shift):
    def sd(self, x):
        return 1.0


class _Walk(_Shift):
    total = 0.0

    def draw(self, x):
        step = torch.randn(x.shape[1], dtype=x.dtype) * math.sqrt(math.pi / 2)
        self.total = self.total + self.size / self.factor * step
        return self.total


class _Held(_Shift):
    def draw(self, x):
        if not hasattr(self, "first"):
            self.first = super().draw(x)
        return self.first


class _Each(_Shift):
    def draw(self, x):
        return self.size * torch.randn_like(x)


class _AsOne(_Shift):
    def draw(self, x):
        return self.size * torch.randn(1, dtype=x.dtype)


class _Through(_Shift):
    def sd(self, x):
        return torch.sqrt(x.var(dim=0, correction=0) + 1e-12)


class _OfOne(_Shift):
    def sd(self, x):
        return x.detach().std(dim=0)


class _InEval(_Shift):
    def forward(self, x):
        return x + self.draw(x) * self.sd(x)


class _Stretched(_Shift):
    def forward(self, x):
        return super().forward(x) * (1 + 0.2 * torch.randn(1)) if self.training else x


@check(
    praise="the drift that was asked for, in every unit, and nothing else",
    cases={
        "drift 0.5, 32 images": (0.5, 32),
        "drift 3, 16 images": (3.0, 16),
        "drift 0": (0.0, 16),
        "one image": (0.5, 1),
    },
    tolerance=(0.06, 1e-6),
    hints={
        "in eval mode": "in eval mode the layer should change nothing",
        "finite": "nan or infinite: with one image the standard deviation with N - 1 "
        "is 0/0. Divide by N",
        "all images alike": "all images of a batch should move by the same offset, and "
        "the spread should stay: nothing but the mean may change",
        "the gradient": "the gradient should pass as it comes: to move the values is "
        "all that the layer does",
        "stays near": "the offsets add up: after many updates the mean is far from "
        "where it was. Draw each anew, or come back",
        "every unit moves": "some units move less than others: count in each unit's "
        "own standard deviation",
        "the units": "all units move in step: give each unit an offset of its own",
    },
    right={"fresh offsets": _Shift},
    mistakes={
        "two neighbouring offsets differ by more than the size of one: what is "
        "the mean of |difference|? (Exercise 1.2.)": _Raw,
        "drift is counted in the unit's own standard deviation: a unit with a larger "
        "one has to move further": _Plain,
        "the offsets add up: after many updates the mean is far from where it was. "
        "Draw each anew, or come back": _Walk,
        "an offset that is held moves nothing from one update to the next": _Held,
        "all units move in step: give each unit an offset of its own": _AsOne,
        "in eval mode the layer should change nothing": _InEval,
        "the gradient should pass as it comes: the standard deviation is only a "
        "measure here, so detach it": _Through,
        "nan or infinite: with one image the standard deviation with N - 1 is 0/0. "
        "Divide by N": _OfOne,
        "all images of a batch should move by the same offset, and the spread should "
        "stay: nothing but the mean may change": (_Each, _Stretched),
    },
)
def shift_of(answer: Callable, drift: float, images: int) -> dict:
    """Exercise 1.3: a layer that causes a given drift and changes nothing else."""
    layer = answer(drift)
    expect(isinstance(layer, nn.Module), "write a class: class Shift(nn.Module)")
    sd = torch.linspace(0.3, 4, 24)
    x = 1 + sd * torch.randn(images, 24)
    x = x.requires_grad_()
    unit = x.detach().std(dim=0, correction=0)
    weights, offsets = torch.randn(images, 24), []
    y = Guarded(layer.train(), returns=True)(x)
    expect(
        isinstance(y, Tensor) and y.shape == x.shape,
        f"return a tensor of the shape of x, {tuple(x.shape)}",
    )
    gradient = None
    if y.requires_grad:
        (gradient,) = torch.autograd.grad((y * weights).sum(), x)
    x = x.detach()
    with torch.no_grad():
        for _ in range(200 if drift and images > 1 else 4):
            offsets.append(layer(x) - x)
    moved = torch.stack(offsets)  # (updates, images, units)
    mean = moved.mean(dim=1)
    seen = {
        "in eval mode": same(layer.eval()(x).detach(), x.detach()),
        "finite": bool(moved.isfinite().all()),
        "all images alike": bool((moved - mean[:, None]).abs().max() < 1e-4),
        "the gradient": same(gradient, weights),
    }
    if images > 1:
        steps = (mean.diff(dim=0) / unit).abs()
        seen["the drift"] = float(steps.mean())
        least = float(steps.mean(dim=0).min())
        seen["every unit moves"] = drift == 0 or least > 0.7 * drift
        far = float((mean / unit).abs().max())
        seen["stays near"] = drift == 0 or far < 9 * drift
        in_step = (mean > 0) == (mean[:, :1] > 0)
        seen["the units"] = drift == 0 or not bool(in_step.all())
    return seen
