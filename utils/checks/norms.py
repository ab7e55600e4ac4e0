"""Norms with parts to be exchanged: the right ones, and their classic mistakes.

What chapters 02 and 08 share. A norm is made by `norm(statistics, ...)`, where
statistics(x, groups) gives a view of x and the axes of its mean and variance.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from utils.checks.framework import expect, expect_written

EPSILONS = (1e-5, 1e-2, 0.3)
CUT_OFF = (
    "cut off from the graph: no .detach(), .item(), no_grad or numpy "
    "on the way from x, gamma and beta to the result"
)
NAMES = "x", "gamma", "beta"
GRAPH = {f"reaches {name}": f"{name} is {CUT_OFF}" for name in NAMES}
GRAPH["a gradient that nobody asked for"] = (
    "where no input asks for a gradient, the output should not either"
)
GRAPH["whether the output has a gradient"] = f"the result is {CUT_OFF}"


def wide(values: Tensor, x: Tensor) -> Tensor:
    """One value per channel, (C,), as (1, C, 1, ...)."""
    return values.view(1, -1, *[1] * (x.dim() - 2))


def root(var: Tensor, eps: float) -> Tensor:
    return torch.sqrt(var + eps)


def affine(gamma: Tensor, x_hat: Tensor, beta: Tensor) -> Tensor:
    return gamma * x_hat + beta


def norm(
    statistics: Callable,
    correction: int = 0,
    by: Callable = root,
    apply: Callable = affine,
    spread: Callable = wide,
    subtract: bool = True,
    square: bool = False,
    detach: str = "",
    middle: Callable = torch.mean,
) -> Callable:
    """answer(x, [groups,] gamma, beta, eps) with one part exchanged.

    subtract: the mean from x; square: the mean square for the variance.
    detach: "mean", "var" or both.
    """

    def forward(x: Tensor, *rest: object) -> Tensor:
        groups = next((r for r in rest if isinstance(r, int)), None)
        gamma, beta = (r for r in rest if isinstance(r, Tensor))
        eps = rest[-1] if isinstance(rest[-1], float) else 1e-5
        v, dims = statistics(x, groups)
        mean = middle(v, dim=dims, keepdim=True)
        mean = mean.detach() if "mean" in detach else mean
        squares = (v - (0 if square else mean)) ** 2
        count = v.numel() // mean.numel()
        var = squares.sum(dim=dims, keepdim=True) / max(count - correction, 1e-30)
        var = var.detach() if "var" in detach else var
        x_hat = (v - mean if subtract else v) / by(var, eps)
        return apply(spread(gamma, x), x_hat.reshape(x.shape), spread(beta, x))

    return forward


def common_mistakes(statistics: Callable) -> dict[str, Callable]:
    """{hint: answer}: what can go wrong in every norm."""

    def wrong(**parts: object) -> Callable:
        return norm(statistics, **parts)

    return {
        "that is the variance divided by the count minus 1; to normalise, divide "
        "by the count": wrong(correction=1),
        "eps is missing: add it to the variance": wrong(by=lambda v, e: v.sqrt()),
        "eps is added to the variance, under the root, not to its root": wrong(
            by=lambda v, e: v.sqrt() + e
        ),
        "eps is fixed at 1e-5: use the one that is given": wrong(
            by=lambda v, e: torch.sqrt(v + 1e-5)
        ),
        "divide by the root of the variance, not by the variance": wrong(
            by=lambda v, e: v + e
        ),
        "the variance is a mean of squares, not a sum": wrong(correction=1e9),
        "gamma and beta are missing": wrong(apply=lambda g, x_hat, b: x_hat),
        "gamma is missing": wrong(apply=lambda g, x_hat, b: x_hat + b),
        "beta is missing": wrong(apply=lambda g, x_hat, b: g * x_hat),
        "gamma and beta are swapped": wrong(apply=lambda g, x_hat, b: b * x_hat + g),
        "scale first, then shift: gamma * x_hat + beta": wrong(
            apply=lambda g, x_hat, b: g * (x_hat + b)
        ),
        "the mean is missing: subtract it from x": wrong(subtract=False),
        "without the mean, and with the mean square: that is RMS norm": wrong(
            subtract=False, square=True
        ),
        "the variance is the mean square of x minus its mean, not of x itself": wrong(
            square=True
        ),
        "the output is right, but its gradient skips the mean and the variance: "
        "they are functions of x, do not detach them": wrong(detach="mean var"),
        "the output is right, but its gradient skips the variance: it is a "
        "function of x, do not detach it": wrong(detach="var"),
        "the output is right, but its gradient skips the mean: it is a function "
        "of x, do not detach it": wrong(detach="mean"),
    }


def layer_input(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Channels of unlike mean and spread.

    In float64 one is quieter than eps; in float32 it would lose its digits.
    """
    channels = torch.arange(shape[1], dtype=torch.float64)
    across = [1, -1] + [1] * (len(shape) - 2)
    quiet = 2e-3 if dtype == torch.float64 else 0.8
    sd = torch.where(channels == 1, quiet, 0.5 + channels).view(across)
    mean = (2 * channels - 3).view(across)
    return (mean + sd * torch.randn(shape, dtype=torch.float64)).to(dtype)


def same_kind(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype


def examine_norm(
    answer: Callable,
    shape: tuple[int, ...],
    groups: tuple[int, ...],
    eps: tuple[float, ...],
    dtype: torch.dtype = torch.float64,
    how: str = "with gradients",
) -> dict[str, object]:
    """Output and gradients of a norm; groups and eps: empty where not given."""
    x = layer_input(shape, dtype)
    if how == "not contiguous":
        x = x.transpose(0, -1).contiguous().transpose(0, -1)
    gamma = torch.randn(shape[1], dtype=dtype) - 1.2
    beta = torch.randn(shape[1], dtype=dtype) + 0.7
    dy = torch.randn(shape, dtype=dtype)
    inputs = x, gamma, beta
    before = [t.clone() for t in inputs]
    if how != "plain":
        for t in inputs:
            t.requires_grad_()
    with torch.set_grad_enabled(how != "plain"):
        y = answer(x, *groups, gamma, beta, *eps)
    expect_written(y)
    expect(
        isinstance(y, Tensor),
        f"the output should be a tensor, got {type(y).__name__}",
    )
    seen = {"the output": y}
    for name, t, old in zip(NAMES, inputs, before):
        seen[f"the given {name}"] = [t.detach().clone(), t.requires_grad]
        expect(
            bool((t == old).all()), f"it changes {name} in place: work on new tensors"
        )
    if how == "plain":
        seen["a gradient that nobody asked for"] = y.requires_grad
        return seen
    seen["whether the output has a gradient"] = y.requires_grad
    if not y.requires_grad or not same_kind(y, x):
        return seen
    gradients = torch.autograd.grad(y, inputs, dy, allow_unused=True)
    reached = {f"reaches {n}": g is not None for n, g in zip(NAMES, gradients)}
    named = {f"the gradient of {n}": g for n, g in zip(NAMES, gradients)}
    return seen | reached | named
