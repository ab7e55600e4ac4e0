"""Checks of chapter 01, internal covariate shift."""

import math
from collections.abc import Callable

import torch

from utils.checks.legacy import check, expect, expect_written, mean_difference

# Exercise 1.4: means over 12 seeds, in points, with room for other seeds, rates
# and a few updates more.
SD_LEAD = {1: (12, 80), 4: (-35, 5)}


def _walk(updates: int, images: int, units: int) -> torch.Tensor:
    """Skewed values whose mean and spread wander: (updates, images, units)."""
    values = -torch.log(torch.rand(updates, images, units, dtype=torch.float64))
    centre = 0.8 * torch.randn(updates, 1, units, dtype=torch.float64)
    spread = torch.exp(0.7 * torch.randn(updates, 1, units, dtype=torch.float64))
    return centre + spread * values


@check
def drift(answer: Callable) -> str:
    """Exercise 1.1: the mean's movement per update, in sd, for each unit."""
    for updates, images, units in ((6, 400, 4), (2, 500, 3), (9, 400, 1)):
        values = _walk(updates, images, units)
        mean, sd = values.mean(dim=1), values.std(dim=1)  # (updates, units)
        step = mean.diff(dim=0)
        right = (step.abs() / sd[:-1]).mean(dim=0)  # (units,)
        result = answer(values.clone())
        expect_written(result)
        result = torch.as_tensor(result, dtype=torch.float64)
        expect(
            result.shape == (units,),
            f"for values of shape {tuple(values.shape)} it should return one "
            f"number for each unit, ({units},); got {tuple(result.shape)}",
        )
        mistakes = {
            "mind the sign: movements up and down cancel without the absolute value": (
                (step / sd[:-1]).mean(dim=0)
            ),
            "the movements are added up: take their mean over the updates": (
                (step.abs() / sd[:-1]).sum(dim=0)
            ),
            "that divides by the number of snapshots; between T snapshots "
            "there are T - 1 updates": (step.abs() / sd[:-1]).sum(dim=0) / updates,
            "that is the way from the first snapshot to the last; take the "
            "mean over single updates": (mean[-1] - mean[0]).abs() / sd[0],
            "measured in the units of z: divide by the standard deviation": (
                step.abs().mean(dim=0)
            ),
            "divide by the standard deviation, not by the variance": (
                (step.abs() / sd[:-1] ** 2).mean(dim=0)
            ),
            "divide by the standard deviation before the update, not after it": (
                (step.abs() / sd[1:]).mean(dim=0)
            ),
            "divide each movement by its own standard deviation, before you "
            "take the mean": step.abs().mean(dim=0) / sd[:-1].mean(dim=0),
            "the standard deviation is taken over images (dim 1), not over updates": (
                step.abs().mean(dim=0) / mean.std(dim=0)
            ),
            "that follows single images; follow the mean over the images": (
                (values.diff(dim=0).abs().mean(dim=1) / sd[:-1]).mean(dim=0)
            ),
            "that is the median over the images; use the mean": (
                (values.median(dim=1).values.diff(dim=0).abs() / sd[:-1]).mean(dim=0)
            ),
        }

        def close(wrong: torch.Tensor, result: torch.Tensor = result) -> bool:
            return torch.allclose(result, wrong, rtol=5e-3, atol=1e-9)

        if close(right):  # N or N - 1 in the variance: both are fine
            continue
        for hint, wrong in mistakes.items():
            expect(not close(wrong), hint)
        expect(False, f"for unit 0 expected {right[0]:.4f}, got {result[0]:.4f}")
    still = torch.randn(1, 50, 3, dtype=torch.float64).repeat(4, 1, 1)
    expect(
        torch.as_tensor(answer(still), dtype=torch.float64).abs().max() < 1e-9,
        "values that never change have a drift of 0",
    )
    return "right for skewed, growing and standing values"


@check
def noise_drift(answer: Callable) -> str:
    """Exercise 1.2: the drift that a random shift of a given size causes."""
    for size in (0.0, 0.25, 0.5, 1.0, 2.0, 4.0):
        result = answer(size)
        expect_written(result)
        result = torch.as_tensor(result, dtype=torch.float64)
        expect(result.numel() == 1, "it should return one number")
        result, right = float(result), 2 * size / math.sqrt(math.pi)
        # 3 % of room, so that a simulation passes
        if abs(result - right) <= 0.03 * right:
            continue
        mistakes = {
            "that is the mean distance of one shift from 0; the drift is the "
            "distance between two shifts": size * math.sqrt(2 / math.pi),
            "that is the standard deviation of the difference; the drift "
            "takes the mean of its absolute value": size * math.sqrt(2),
            "that is the mean square of the difference; the drift takes the "
            "mean of its absolute value": 2 * size**2,
            "the shifts are drawn anew at each update, so two of them differ, "
            "and their difference spreads wider than each": size,
            "two independent shifts: variances add, standard deviations do not": (
                2 * size * math.sqrt(2 / math.pi)
            ),
            "up and down do not cancel: the drift takes absolute values": 0.0,
        }
        for hint, wrong in mistakes.items():
            near = abs(result - wrong) <= 0.03 * max(wrong, 1e-9)
            expect(not near, hint)
        expect(False, f"for size {size:g} it should be {right:.3f}, got {result:.3f}")
    return "the drift of shifts of any size, from 0 to 4"


@check
def sd_lead(answer: Callable) -> str:
    """Exercise 1.4: what sd only brings at two initial gains, by its numbers."""
    means = {}
    for gain in SD_LEAD:
        means[gain] = mean_difference(answer(gain), "choose lower rates")
    bad, good = means[1], means[4]
    said = f"{bad:.1f} points at gain 1 and {good:.1f} at gain 4"
    expect(good < 30, f"{said}: these look like accuracies; return a difference")
    expect(
        max(abs(bad), abs(good)) > 1,
        f"{bad:.2f} and {good:.2f}: measure in points, with accuracy in %",
    )
    expect(bad != good, f"{said}: does the gain reach `dense`?")
    expect(bad > -5, f"{said}: sd only minus no norm, in this order")
    for gain, (low, high) in SD_LEAD.items():
        expect(
            low < means[gain] < high,
            f"{said}; at gain {gain} we expect {low} to {high} after 100 updates in "
            "batches of 32, each net at the rate that is best on the validation images",
        )
    return said
