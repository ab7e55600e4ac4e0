"""What the checks of norms share: classic mistakes, inputs, and the examination."""

from collections.abc import Callable

import torch
from torch import Tensor

from utils.checks.framework import as_said, expect

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


# For right answers that say it in these words
COMMON = {
    "((v - mean) ** 2).mean(dims, keepdim=True) -> v.var(dims, keepdim=True)": "that "
    "is the variance divided by the count minus 1; to normalise, divide by the count",
    "(var + eps).sqrt() -> var.sqrt()": "eps is missing: add it to the variance",
    "(var + eps).sqrt() -> (var.sqrt() + eps)": "eps is added to the variance, under "
    "the root, not to its root",
    "+ eps -> + 1e-5": "eps is fixed at 1e-5: use the one that is given",
    "(var + eps).sqrt() -> (var + eps)": "divide by the root of the variance, not by "
    "the variance",
    "** 2).mean -> ** 2).sum": "the variance is a mean of squares, not a sum",
    "wide(gamma, x) * x_hat + wide(beta, x) -> x_hat": "gamma and beta are missing",
    "wide(gamma, x) * -> ": "gamma is missing",
    " + wide(beta, x) -> ": "beta is missing",
    "(gamma, x) -> (_, x); (beta, x) -> (gamma, x); (_, x) -> (beta, x)": "gamma and "
    "beta are swapped",
    "x_hat + wide(beta, x) -> (x_hat + wide(beta, x))": "scale first, then shift: "
    "gamma * x_hat + beta",
    "((v - mean) / -> (v /": "the mean is missing: subtract it from x",
    "v - mean -> v": "without the mean, and with the mean square: that is RMS norm",
    "((v - mean) ** 2) -> (v**2)": "the variance is the mean square of x minus its "
    "mean, not of x itself",
    "v.mean(dims, keepdim=True) -> v.detach().mean(dims, keepdim=True); var + -> "
    "var.detach() +": "the output is right, but its gradient skips the mean and the "
    "variance: they are functions of x, do not detach them",
    "var + -> var.detach() +": "the output is right, but its gradient skips the "
    "variance: it is a function of x, do not detach it",
    "v.mean(dims, keepdim=True) -> v.detach().mean(dims, keepdim=True)": "the output "
    "is right, but its gradient skips the mean: it is a function of x, do not detach "
    "it",
}


def layer_input(shape: tuple[int, ...], how: str = "") -> Tensor:
    """Channels of unlike mean and spread.

    In float64 one is quieter than eps; in float32 it would lose its digits.
    """
    channels = torch.arange(shape[1], dtype=torch.float64)
    across = [1, -1] + [1] * (len(shape) - 2)
    quiet = 0.8 if how == "float32" else 2e-3
    sd = torch.where(channels == 1, quiet, 0.5 + channels).view(across)
    mean = (2 * channels - 3).view(across)
    return mean + sd * torch.randn(shape, dtype=torch.float64)


def examine_norm(
    answer: Callable, shape: tuple, groups: tuple, eps: tuple = (), how: str = ""
) -> dict[str, object]:
    """Output and gradients of a norm; groups and eps: empty where not given."""
    plain = how == "no gradients asked"
    x = as_said(layer_input(shape, how), how)
    gamma, beta = torch.randn(shape[1]).to(x) - 1.2, torch.randn(shape[1]).to(x) + 0.7
    dy, inputs = torch.randn(shape).to(x), (x, gamma, beta)
    for t in inputs:
        t.requires_grad_(not plain)
    with torch.set_grad_enabled(not plain):
        y = answer(x, *groups, gamma, beta, *eps)
    kind = type(y).__name__
    expect(isinstance(y, Tensor), f"the output should be a tensor, got {kind}")
    seen = {"the output": y}
    for name, t in zip(NAMES, inputs):
        seen[f"whether the given {name} has a gradient"] = t.requires_grad
    if plain:
        return seen | {"a gradient that nobody asked for": y.requires_grad}
    seen["whether the output has a gradient"] = y.requires_grad
    if not y.requires_grad or (y.shape, y.dtype) != (x.shape, x.dtype):
        return seen
    gradients = torch.autograd.grad(y, inputs, dy, allow_unused=True)
    reached = {f"reaches {n}": g is not None for n, g in zip(NAMES, gradients)}
    named = {f"the gradient of {n}": g for n, g in zip(NAMES, gradients)}
    return seen | reached | named
