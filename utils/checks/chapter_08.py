"""Checks of chapter 08, other norms: group norm, batch renorm, small groups."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.checks.chapter_02 import (
    CUT_OFF,
    EPSILONS,
    close,
    expect_close,
    expect_tensor,
    layer_input,
)
from utils.checks.framework import check, expect, expect_written, mean_difference

# Points of error over layer norm's, 128 updates at batch 32: several seed sets
# gave about 0.5 with 8 features in a group, and 75 with 2.
EIGHT_COST, TWO_COST = (-2.0, 4.0), (45.0, 95.0)


def _wrong_groups(x: Tensor, groups: int, gamma: Tensor, beta: Tensor, eps: float):
    """{hint: what the mistake would give}."""
    n, channels = x.shape[:2]
    g, b = (t.view([1, -1] + [1] * (x.dim() - 2)) for t in (gamma, beta))
    split = x.view(n, groups, channels // groups, -1)

    def over(dims, values=split, correction=0, divide=None):
        c = values - values.mean(dim=dims, keepdim=True)
        var = values.var(dim=dims, correction=correction, keepdim=True)
        by = divide(var) if divide else torch.sqrt(var + eps)
        return c / by

    def affine(x_hat: Tensor) -> Tensor:
        return g * x_hat.reshape(x.shape) + b

    spread = x.view(n, channels // groups, groups, -1).transpose(1, 2)
    right = over((2, 3)).reshape(x.shape)
    wrong = {
        "that is the variance divided by the count minus 1; divide by the "
        "count": affine(over((2, 3), correction=1)),
        "eps is missing: add it to the variance": affine(
            over((2, 3), divide=torch.sqrt)
        ),
        "eps is added to the variance, under the root, not to its root": affine(
            over((2, 3), divide=lambda var: torch.sqrt(var) + eps)
        ),
        "divide by the root of the variance, not by the variance": affine(
            over((2, 3), divide=lambda var: var + eps)
        ),
        "gamma and beta are missing": right,
        "gamma is missing": right + b,
        "beta is missing": g * right,
        "gamma and beta are swapped": b * right + g,
        "the mean is missing: subtract it from x": affine(
            split / torch.sqrt(split.var(dim=(2, 3), correction=0, keepdim=True) + eps)
        ),
        "without the mean, and with the mean square: that is RMS norm in groups": (
            affine(split / torch.sqrt((split**2).mean(dim=(2, 3), keepdim=True) + eps))
        ),
        "the statistics run over the examples, too; each example has its own": affine(
            over((0, 2, 3))
        ),
        "the statistics are taken for each channel (that is instance norm); a "
        "group's channels belong together": affine(over((3,))),
        "the statistics run position by position; a group's positions belong "
        "together": affine(over((2,))),
        "the statistics run over all channels (that is layer norm); each group has "
        "its own": affine(over((1, 2, 3))),
        "a group is a run of neighbouring channels (0, 1, 2, ...), not channels "
        "far apart": affine(over((2, 3), spread).transpose(1, 2)),
        "`groups` is the number of groups, not of channels in one": affine(
            over((2, 3), x.view(n, channels // groups, groups, -1))
        ),
        "that is batch norm": affine(over((0, 3))),
    }
    if x.shape[-1] == channels:  # without .view they broadcast all the same
        hint = "gamma and beta meet the last axis: give them the shape (1, C, 1, ...)"
        wrong[hint] = gamma * right + beta
    return wrong


@check
def group_norm(answer: Callable) -> str:
    """Exercise 8.1: group norm of (N, C) or (N, C, positions...)."""
    cases = [
        ((4, 6), 2),
        ((4, 4, 4), 2),
        ((3, 6, 5), 3),
        ((2, 6, 3, 4), 2),
        ((1, 4, 2, 3), 4),
        ((3, 4, 3), 1),
        ((2, 8, 2, 2, 3), 2),
    ]
    for shape, groups in cases:
        for eps in EPSILONS:
            x = layer_input(shape).requires_grad_()
            before = x.detach().clone()
            gamma = (torch.randn(shape[1]).double() - 1.2).requires_grad_()
            beta = (torch.randn(shape[1]).double() + 0.7).requires_grad_()
            inputs = x, gamma, beta
            right = F.group_norm(x, groups, gamma, beta, eps)
            result = answer(x, groups, gamma, beta, eps)
            expect_written(result)
            where = f"for x of shape {shape}, {groups} groups, eps = {eps:g} the output"
            expect_tensor(result, right, where)
            with torch.no_grad():
                wrong = _wrong_groups(x, groups, gamma, beta, eps)
                expect_close(result, right, wrong, where)
            expect(torch.equal(x, before), "it changes x in place: work on new tensors")
            expect(result.requires_grad, f"the result is {CUT_OFF}")
            dy = torch.randn(shape).double()
            best = torch.autograd.grad(right, inputs, dy)
            ours = torch.autograd.grad(result, inputs, dy, allow_unused=True)
            for name, one, other in zip(("x", "gamma", "beta"), ours, best):
                expect(one is not None, f"{name} is {CUT_OFF}")
                detached = "it is off, as when the mean or the variance is detached"
                expect(
                    close(one, other),
                    f"the output is right, the gradient of {name} is not: {detached}",
                )
    return "output and gradients equal PyTorch's, from 1 group to one per channel"


def _wrong_corrections(
    mean: Tensor, var: Tensor, mu: Tensor, running_var: Tensor, top: tuple, eps: float
) -> tuple[dict, dict]:
    """{hint: what the mistake would give}, for r and for d."""
    (r_max, d_max), s_batch = top, torch.sqrt(var + eps)
    s = torch.sqrt(running_var + eps)
    r, d = s_batch / s, (mean - mu) / s
    bare = torch.sqrt(running_var)
    wrong_r = {
        "r is upside down: it is the batch's standard deviation over the running one": (
            s / s_batch
        ).clamp(1 / r_max, r_max),
        "r is not clipped": r,
        "r has no lower bound: it is 1 / r_max, not -r_max": r.clamp(max=r_max),
        "r has a lower bound only; the upper one is r_max": r.clamp(min=1 / r_max),
        "r is a ratio of standard deviations, not of variances": (
            (var + eps) / (running_var + eps)
        ).clamp(1 / r_max, r_max),
        "r: eps is missing; add it to both variances": (torch.sqrt(var) / bare).clamp(
            1 / r_max, r_max
        ),
        "r: eps belongs under the root": ((torch.sqrt(var) + eps) / (bare + eps)).clamp(
            1 / r_max, r_max
        ),
        "r and d are swapped: return r, d": d.clamp(-d_max, d_max),
    }
    wrong_d = {
        "d has the wrong sign: the batch's mean minus the running one": -d.clamp(
            -d_max, d_max
        ),
        "d is divided by the running standard deviation, not by the batch's": (
            (mean - mu) / s_batch
        ).clamp(-d_max, d_max),
        "d is divided by the standard deviation, not by the variance": (
            (mean - mu) / (running_var + eps)
        ).clamp(-d_max, d_max),
        "d is not divided by the running standard deviation": (mean - mu).clamp(
            -d_max, d_max
        ),
        "d is not clipped": d,
        "d has an upper bound only; the lower one is -d_max": d.clamp(max=d_max),
        "the bounds of d are -d_max and d_max, not 0 and d_max": d.clamp(0, d_max),
        "the bounds of d are -d_max and d_max, not 1 / d_max and d_max": d.clamp(
            1 / d_max if d_max else 0, d_max
        ),
        "d: eps is missing; add it to the variance": ((mean - mu) / bare).clamp(
            -d_max, d_max
        ),
        "d: eps belongs under the root": ((mean - mu) / (bare + eps)).clamp(
            -d_max, d_max
        ),
    }
    return wrong_r, wrong_d


@check
def renorm_r_d(answer: Callable) -> str:
    """Exercise 8.2: the correction of batch renormalization, without gradient."""
    mu = torch.tensor([0.0, 1.0, -2.0, 0.5, 0.0, 3.0]).double()
    running_var = torch.tensor([1.0, 4.0, 0.25, 0.01, 9.0, 1.0]).double()
    spread = torch.tensor([1.3, 0.2, 3.0, 0.3, 3.0, 0.7]).double()
    shift = torch.tensor([0.4, -9.0, 3.0, 0.1, -2.5, -1.5]).double()
    for r_max, d_max in [(3.0, 5.0), (1.5, 0.5), (1.0, 0.0)]:
        for eps in EPSILONS:
            x = (mu + shift + spread * torch.randn(8, 6).double()).requires_grad_()
            mean, var = x.mean(dim=0), x.var(dim=0, correction=0)
            given = mean, var, mu.clone(), running_var.clone()
            before = [t.detach().clone() for t in given]
            result = answer(*given, r_max, d_max, eps)
            expect_written(result)
            expect(
                isinstance(result, tuple | list) and len(result) == 2,
                "it should return two things: r, d",
            )
            expect(
                all(torch.equal(a, b) for a, b in zip(given, before, strict=True)),
                "it changes its inputs in place: work on new tensors",
            )
            s = torch.sqrt(running_var + eps)
            right = (
                (torch.sqrt(var + eps) / s).clamp(1 / r_max, r_max),
                ((mean - mu) / s).clamp(-d_max, d_max),
            )
            where = f"for r_max = {r_max:g}, d_max = {d_max:g}, eps = {eps:g}"
            with torch.no_grad():
                suspects = _wrong_corrections(
                    mean, var, mu, running_var, (r_max, d_max), eps
                )
            for name, one, best, wrong in zip("rd", result, right, suspects):
                value = torch.as_tensor(one, dtype=torch.float64)
                expect(
                    value.shape == best.shape,
                    f"{name} should have one value per channel, shape "
                    f"{tuple(best.shape)}; got {tuple(value.shape)}",
                )
                expect_close(value.detach(), best.detach(), wrong, f"{where} {name}")
                expect(
                    not value.requires_grad,
                    f"{name} is right, but a gradient flows through it: batch renorm "
                    "treats it as a constant; use .detach()",
                )
    return "r and d are right, within their bounds, and pass no gradient"


@check
def group_cost(answer: Callable) -> str:
    """Exercise 8.4: what groups of 8 and of 2 features cost, by the numbers."""
    means = {}
    for values in (8, 2):
        means[values] = mean_difference(answer(values), "choose lower rates")
    eight, two = means[8], means[2]
    found = f"{eight:.1f} points with groups of 8, {two:.1f} with groups of 2"
    expect(eight != two, f"{found}: does `values` reach the norm?")
    expect(
        abs(two) > 1.2 or abs(eight) > 1.2,
        f"{found}: is `values` the number of groups? It is that of the features in "
        "one; a layer has 32. (And measure in points.)",
    )
    expect(
        two > -5,
        f"{found}: the error of group norm minus that of layer norm, in this order",
    )
    low, high = EIGHT_COST
    expect(
        not (eight > high and two > TWO_COST[0]),
        f"{found}: these look like errors; subtract those of layer norm, at the same "
        "budget of 128 updates",
    )
    expect(
        eight < 30,
        f"{found}: these look like accuracies; return a difference of errors",
    )
    expect(
        two > TWO_COST[0],
        f"{found}: groups of 2 features should do much worse. `values` is the number "
        "of features in a group, and a layer of 32 has 32 // values groups",
    )
    expect(
        low < eight < high and two < TWO_COST[1],
        f"{found}; we expect {low:g} to {high:g} with 8 and {TWO_COST[0]:g} to "
        f"{TWO_COST[1]:g} with 2, after 128 updates in batches of 32, each net at the "
        "rate that is best on the validation images",
    )
    return found
