"""Checks of chapter 02, mechanics: forward, any layout, backward."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import batch_norm as reference

from utils.checks.framework import check, expect, expect_written

EPSILONS = (1e-5, 0.3)
CUT_OFF = (
    "cut off from the graph: no .detach(), .item(), no_grad or numpy "
    "on the way from x, gamma and beta to the result"
)


def close(result: Tensor, right: Tensor) -> bool:
    return torch.allclose(result, right, rtol=1e-7, atol=1e-9)


def expect_tensor(result: object, right: Tensor, what: str) -> None:
    """A float64 tensor of the right shape."""
    expect(
        isinstance(result, Tensor),
        f"{what} should be a tensor, got {type(result).__name__}",
    )
    expect(
        result.shape == right.shape,
        f"{what} should have shape {tuple(right.shape)}, got {tuple(result.shape)}",
    )
    expect(
        result.dtype == right.dtype,
        f"{what} should keep the precision of the input, float64: got {result.dtype}",
    )


def expect_close(result: Tensor, right: Tensor, suspects: dict, what: str) -> None:
    """Equal to `right`; if not, name the suspect that it equals."""
    if close(result, right):
        return
    for hint, wrong in suspects.items():
        expect(not close(result, wrong), hint)
    expect(result.isfinite().all(), f"{what} is nan or infinite")
    off = int((result - right).abs().argmax())
    expect(
        False,
        f"{what} is off: PyTorch gives {right.flatten()[off]:.6g}, "
        f"yours gives {result.flatten()[off]:.6g}",
    )


def layer_input(shape: tuple[int, ...]) -> Tensor:
    """Channels of unlike mean and spread, one of them quieter than eps."""
    channels = torch.arange(shape[1], dtype=torch.float64)
    across = [1, -1] + [1] * (len(shape) - 2)
    mean = (2 * channels - 3).view(across)
    sd = torch.where(channels == 1, 2e-3, 0.5 + channels).view(across)
    return mean + sd * torch.randn(shape, dtype=torch.float64)


def wrong_outputs(x: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> dict:
    """{hint: what the mistake would give}."""
    dims = [d for d in range(x.dim()) if d != 1]
    later = dims[1:]
    g, b = (t.view([1, -1] + [1] * len(later)) for t in (gamma, beta))
    n = x.numel() // x.shape[1]  # values per channel
    mean = x.mean(dim=dims, keepdim=True)
    c = x - mean
    var = (c**2).mean(dim=dims, keepdim=True)
    x_hat = c / torch.sqrt(var + eps)

    def divided(by: Tensor) -> Tensor:
        return g * c / by + b

    def over(dims: list[int], g: Tensor = g, b: Tensor = b) -> Tensor:
        mean = x.mean(dim=dims, keepdim=True)
        var = ((x - mean) ** 2).mean(dim=dims, keepdim=True)
        return g * (x - mean) / torch.sqrt(var + eps) + b

    wrong = {
        "that is the variance divided by N - 1; to normalise, BN divides by N, "
        "the number of values per channel": divided(
            torch.sqrt(var * n / max(n - 1, 1) + eps)
        ),
        "eps is missing: add it to the variance": divided(torch.sqrt(var)),
        "eps is added to the variance, under the root, not to its root": divided(
            torch.sqrt(var) + eps
        ),
        "divide by the root of the variance, not by the variance": divided(var + eps),
        "the variance is a mean of squares, not a sum": divided(
            torch.sqrt(var * n + eps)
        ),
        "the variance is the mean square of x minus its mean, not of x itself": divided(
            torch.sqrt(var + mean**2 + eps)
        ),
        "gamma and beta are missing": x_hat,
        "gamma is missing": x_hat + b,
        "beta is missing": g * x_hat,
        "gamma and beta are swapped": b * x_hat + g,
        "scale first, then shift: gamma * x_hat + beta": g * (x_hat + b),
        "the mean is missing: subtract it from x": g * x / torch.sqrt(var + eps) + b,
        "the statistics run over the channels; take them over the batch, "
        "channel by channel": over([1]),
        "the statistics run over everything at once: each channel needs a mean "
        "and a variance of its own": over([*range(x.dim())]),
    }
    if not later:
        return wrong
    own = x.var(dim=later, keepdim=True, correction=0).mean(dim=0, keepdim=True)
    batch_only = (
        "the statistics run over the batch only, position by position; a "
        "channel's positions belong together"
    )
    wrong |= {
        batch_only: over([0]),
        "the statistics are taken for each example alone (that is instance "
        "norm); average over the batch too": over(later),
        "the statistics are taken for each example over channels and "
        "positions (that is layer norm)": over([1, *later]),
        "the channel is axis 1, not the last axis": over([*range(x.dim() - 1)]),
        "the variance is not the average of each example's own variance; "
        "subtract the mean over batch and positions": divided(torch.sqrt(own + eps)),
    }
    if x.shape[-1] == x.shape[1]:  # without .view they broadcast all the same
        last = "gamma and beta meet the last axis: give them the shape (1, C, 1, ...)"
        wrong[last] = gamma * x_hat + beta
        wrong[f"{batch_only}; and {last}"] = over([0], gamma, beta)
    return wrong


def wrong_gradients(x: Tensor, gamma: Tensor, eps: float, dy: Tensor) -> dict:
    """{hint: gradient of x when statistics are treated as constants}."""
    dims = [d for d in range(x.dim()) if d != 1]
    g = gamma.detach().view([1, -1] + [1] * (x.dim() - 2))
    wrong = {}
    for hint, fix_mean, fix_var in [
        ("the mean and the variance", True, True),
        ("the variance", False, True),
        ("the mean", True, False),
    ]:
        x = x.detach().requires_grad_()
        mean = x.mean(dim=dims, keepdim=True)
        mean = mean.detach() if fix_mean else mean
        var = ((x - mean) ** 2).mean(dim=dims, keepdim=True)
        var = var.detach() if fix_var else var
        y = g * (x - mean) / torch.sqrt(var + eps)
        wrong[
            f"the output is right, but its gradient skips {hint}: they are "
            "functions of x, do not detach them"
        ] = torch.autograd.grad(y, x, dy)[0]
    return wrong


def expect_forward(answer: Callable, shape: tuple[int, ...]) -> None:
    for eps in EPSILONS:
        x = layer_input(shape).requires_grad_()
        before = x.detach().clone()
        gamma = (torch.randn(shape[1]).double() - 1.2).requires_grad_()
        beta = (torch.randn(shape[1]).double() + 0.7).requires_grad_()
        inputs = x, gamma, beta
        right = reference(x, None, None, gamma, beta, training=True, eps=eps)
        result = answer(*inputs, eps)
        expect_written(result)
        where = f"for x of shape {shape} and eps = {eps:g} the output"
        expect_tensor(result, right, where)
        with torch.no_grad():
            wrong = wrong_outputs(*inputs, eps)
            expect_close(result, right, wrong, where)
        expect(torch.equal(x, before), "it changes x in place: work on new tensors")
        expect(result.requires_grad, f"the result is {CUT_OFF}")
        dy = torch.randn(shape).double()
        right_gradients = torch.autograd.grad(right, inputs, dy)
        gradients = torch.autograd.grad(result, inputs, dy, allow_unused=True)
        names = "x", "gamma", "beta"
        for name, one, best in zip(names, gradients, right_gradients, strict=True):
            expect(one is not None, f"{name} is {CUT_OFF}")
            suspects = wrong_gradients(x, gamma, eps, dy) if name == "x" else {}
            expect_close(one, best, suspects, f"the gradient of {name}")


@check
def batch_norm_forward(answer: Callable) -> str:
    """Exercise 2.1: BN of (batch, channels) with batch statistics."""
    for shape in [(6, 4), (2, 3), (5, 5), (64, 2)]:
        expect_forward(answer, shape)
    return "output and gradients equal PyTorch's"


@check
def batch_norm_nd(answer: Callable) -> str:
    """Exercise 2.2: the same for (N, C), (N, C, L) and (N, C, H, W)."""
    equal = [(4, 4), (4, 4, 4), (4, 4, 4, 4)]  # a wrong axis raises nothing
    for shape in [*equal, (6, 4), (5, 3, 7), (3, 2, 5, 4), (1, 3, 2, 2)]:
        expect_forward(answer, shape)
    return "right for (N, C), (N, C, L) and (N, C, H, W), gradients too"


def wrong_dx(dy: Tensor, x_hat: Tensor, s: Tensor, gamma: Tensor) -> dict:
    """{hint: the gradient of x that the mistake would give}."""
    g = dy * gamma
    mean, slope = g.mean(dim=0), (g * x_hat).mean(dim=0)
    n = len(dy)
    return {
        "dx is only the direct path: x also acts through the mean and the variance": g
        / s,
        "dx: the term of the mean is missing": (g - x_hat * slope) / s,
        "dx: the term along x_hat is missing": (g - mean) / s,
        "dx: both terms are means over the batch, not sums": (
            g - n * mean - n * x_hat * slope
        )
        / s,
        "dx: the term of the mean is a mean over the batch, not a sum": (
            g - n * mean - x_hat * slope
        )
        / s,
        "dx: the term along x_hat is a mean over the batch, not a sum": (
            g - mean - n * x_hat * slope
        )
        / s,
        "dx: gamma is missing": (dy - dy.mean(dim=0) - x_hat * (dy * x_hat).mean(dim=0))
        / s,
        "dx: divide by s": g - mean - x_hat * slope,
        "dx: divide by s, do not multiply with it": (g - mean - x_hat * slope) * s,
        "dx: divide by s once; it is the root already": (g - mean - x_hat * slope)
        / s**2,
        "dx: subtract both terms": (g + mean + x_hat * slope) / s,
        "dx: subtract the term of the mean": (g + mean - x_hat * slope) / s,
        "dx: subtract the term along x_hat": (g - mean + x_hat * slope) / s,
        "dx: the last term is x_hat times the mean, example by example": (
            g - mean - slope
        )
        / s,
        "dx: nearly, but the mean of x_hat squared is not 1 when eps is large; do "
        "not divide by it": (g - mean - x_hat * slope / (x_hat**2).mean(dim=0)) / s,
        "dx: the terms average over the channels; average over the batch": (
            g
            - g.mean(dim=1, keepdim=True)
            - x_hat * (g * x_hat).mean(dim=1, keepdim=True)
        )
        / s,
    }


@check
def batch_norm_backward(answer: Callable) -> str:
    """Exercise 2.3: dx, dgamma, dbeta from dy, x_hat, s and gamma."""
    for shape in [(6, 4), (5, 5), (2, 3), (64, 2)]:
        for eps in EPSILONS:
            x = layer_input(shape).requires_grad_()
            gamma = (torch.randn(shape[1]).double() - 1.2).requires_grad_()
            beta = torch.randn(shape[1]).double().requires_grad_()
            dy = torch.randn(shape).double() + 0.5
            y = reference(x, None, None, gamma, beta, training=True, eps=eps)
            right = torch.autograd.grad(y, (x, gamma, beta), dy)
            c = (x - x.mean(dim=0)).detach()
            s = torch.sqrt((c**2).mean(dim=0) + eps)
            given = dy, c / s, s, gamma.detach()
            before = [t.clone() for t in given]
            result = answer(*given)
            expect_written(result)
            expect(
                isinstance(result, tuple | list) and len(result) == 3,
                "it should return three tensors: dx, dgamma, dbeta",
            )
            expect(
                all(torch.equal(a, b) for a, b in zip(given, before, strict=True)),
                "it changes its inputs in place: work on new tensors",
            )
            where = f"shape {shape}, eps = {eps:g}: "
            for name, one, best in zip(("dx", "dgamma", "dbeta"), result, right):
                expect_tensor(one, best, name)
                n, others = shape[0], right[1:]
                suspects = {
                    f"{name} is a sum over the batch, not a mean": best / n,
                    f"{name} has the wrong sign": -best,
                    "dgamma and dbeta are swapped: return dx, dgamma, dbeta": others[
                        name == "dgamma"
                    ],
                }
                if name == "dgamma":
                    suspects |= {
                        "dgamma needs x_hat, the normalised input, not the centred "
                        "one": (dy * c).sum(dim=0),
                        "dgamma and dbeta do not contain gamma": best * gamma,
                    }
                if name == "dbeta":
                    suspects["dgamma and dbeta do not contain gamma"] = best * gamma
                if name == "dx":
                    suspects = wrong_dx(*given)
                suspects = {h: t.detach() for h, t in suspects.items()}
                expect_close(one.detach(), best, suspects, where + name)
    return "dx, dgamma and dbeta equal autograd's, for a small ε and a large one"
