"""Checks of chapter 02, mechanics: any layout, backward, the mean's share."""

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
def batch_norm_nd(answer: Callable) -> str:
    """Exercise 2.2: the same for (N, C), (N, C, L) and (N, C, H, W)."""
    equal = [(4, 4), (4, 4, 4), (4, 4, 4, 4)]  # a wrong axis raises nothing
    for shape in [*equal, (6, 4), (5, 3, 7), (3, 2, 5, 4), (1, 3, 2, 2)]:
        expect_forward(answer, shape)
    return "right for (N, C), (N, C, L) and (N, C, H, W), gradients too"


NODES = ("dbeta", "dgamma", "dx_hat", "dvar", "dc", "dmean", "dx")


def right_nodes(dy: Tensor, x: Tensor, gamma: Tensor, eps: float) -> dict:
    """The gradient of each node, by autograd."""
    beta = torch.zeros_like(gamma)
    leaves = [t.detach().clone().requires_grad_() for t in (x, gamma, beta)]
    mean = leaves[0].mean(dim=0)
    c = leaves[0] - mean
    var = (c**2).mean(dim=0)
    x_hat = c / torch.sqrt(var + eps)
    y = leaves[1] * x_hat + leaves[2]
    wanted = leaves[2], leaves[1], x_hat, var, c, mean, leaves[0]
    return dict(zip(NODES, torch.autograd.grad(y, wanted, dy), strict=True))


def wrong_node(
    name: str, right: dict, dy: Tensor, x: Tensor, gamma: Tensor, eps: float
) -> dict:
    """{hint: what the mistake would give for this node}."""
    n, best = len(x), right[name]
    c = x - x.mean(dim=0)
    s = torch.sqrt((c**2).mean(dim=0) + eps)
    dx_hat, dvar = dy * gamma, right["dvar"]
    wrong = {
        f"{name} has the wrong sign": -best,
        f"{name} is divided by the batch size once too often": best / n,
        f"{name} is multiplied by the batch size once too often": best * n,
    }
    if name in ("dbeta", "dgamma"):
        wrong["dgamma and dbeta do not contain gamma"] = best * gamma
    if name == "dgamma":
        wrong["dgamma needs x_hat, the normalised input, not the centred one"] = (
            dy * c
        ).sum(dim=0)
    if name == "dx_hat":
        wrong["dx_hat: y is gamma times x_hat, so gamma is missing"] = dy
    if name == "dvar":
        wrong |= {
            "dvar: the derivative of a root has a factor of 1/2": 2 * best,
            "that is the gradient of s; sigma squared comes one node before": (
                2 * s * best
            ),
            "dvar: one power of s is missing, d(1/s) is -ds / s**2": best * s,
            "dvar: one power of s too many: with c in the sum it is s**3, with "
            "x_hat it is s**2": best / s,
        }
    if name == "dc":
        wrong |= {
            "dc is only the path through x_hat: c is used for the variance too": (
                dx_hat / s
            ),
            "dc is only the path through the variance": dvar * 2 * c / n,
            "dc: the variance is a mean of squares, its path has a factor of 1/N": (
                dx_hat / s + dvar * 2 * c
            ),
            "dc: the derivative of a square has a factor of 2": (
                dx_hat / s + dvar * c / n
            ),
            "dc: the two paths add up": dx_hat / s - dvar * 2 * c / n,
        }
    if name == "dx":
        dc, dmean = right["dc"], right["dmean"]
        wrong |= {
            "dx is only the path through c: x is used for the mean too": dc,
            "dx: the mean's path has a factor of 1/N": dc + dmean,
            "dx: the two paths add up, dmean has its sign already": dc - dmean / n,
        }
    return wrong


@check
def backward_nodes(answer: Callable) -> str:
    """Exercise 2.5: the backward pass by hand, node by node."""
    for shape in [(6, 4), (5, 5), (2, 3), (64, 2)]:
        for eps in EPSILONS:
            x = layer_input(shape)
            gamma = torch.randn(shape[1]).double() - 1.2
            dy = torch.randn(shape).double() + 0.5
            given = dy, x, gamma
            before = [t.clone() for t in given]
            result = answer(*given, eps)
            expect_written(result)
            expect(
                isinstance(result, dict),
                "it should return a dict, {'dbeta': ..., 'dgamma': ..., ...}",
            )
            expect(
                all(torch.equal(a, b) for a, b in zip(given, before, strict=True)),
                "it changes its inputs in place: work on new tensors",
            )
            right = right_nodes(*given, eps)
            for i, name in enumerate(NODES):
                so_far = f"right so far: {', '.join(NODES[:i])}. " if i else ""
                expect(name in result, f"{so_far}Next: {name}")
                what = f"{so_far}Then, for shape {shape} and eps = {eps:g}, {name}"
                expect_tensor(result[name], right[name], what)
                suspects = wrong_node(name, right, *given, eps)
                suspects = {so_far + hint: t for hint, t in suspects.items()}
                expect_close(result[name].detach(), right[name], suspects, what)
    return "all seven nodes equal autograd's, for a small ε and a large one"


def wrong_norm_dx(
    dy: Tensor, x_hat: Tensor, s: Tensor, gamma: Tensor, centred: bool
) -> dict:
    """{hint: the gradient of x that the mistake would give}."""
    kind = "layer norm" if centred else "RMS norm"

    def along(t: Tensor, dim: int = -1, of: Callable = torch.mean) -> Tensor:
        return of(t, dim=dim, keepdim=True)

    def formula(g: Tensor, mean: bool = centred, slope: bool = True, **how) -> Tensor:
        first = along(g, **how) if mean else 0
        second = x_hat * along(g * x_hat, **how) if slope else 0
        return (g - first - second) / s

    g = dy * gamma
    wrong = {
        f"{kind}: dx is only the direct path; x also acts through the statistics": (
            g / s
        ),
        f"{kind}: the term along x_hat is missing": formula(g, slope=False),
        f"{kind}: gamma is missing": formula(dy),
        f"{kind}: gamma differs along the features, so it stands inside the means": (
            gamma * formula(dy)
        ),
        f"{kind}: the means run over the features, the last axis, not over the "
        "examples": formula(g, dim=0),
        f"{kind}: the terms are means over the features, not sums": formula(
            g, of=torch.sum
        ),
        f"{kind}: divide by s": formula(g) * s,
        f"{kind}: divide by s once": formula(g) / s,
        f"{kind}: divide by s, do not multiply with it": formula(g) * s**2,
    }
    other = (
        "layer norm subtracts a mean forward, so backward too"
        if centred
        else "RMS norm subtracts no mean forward, so none backward"
    )
    return wrong | {other: formula(g, mean=not centred)}


@check
def norm_backward(answer: Callable) -> str:
    """Exercise 2.6: backward of layer norm and of RMS norm."""
    cases = [
        (shape, eps, centred)
        for shape in [(6, 4), (5, 5), (2, 3, 4), (4, 4, 4), (1, 7), (2, 3, 2, 5)]
        for eps in EPSILONS
        for centred in (True, False)
    ]
    for shape, eps, centred in cases:
        kind = "layer norm" if centred else "RMS norm"
        x = (1.5 + 2 * torch.randn(shape).double()).requires_grad_()
        gamma = (torch.randn(shape[-1]).double() - 1.2).requires_grad_()
        dy = torch.randn(shape).double() + 0.5
        c = x - x.mean(dim=-1, keepdim=True) if centred else x
        s = torch.sqrt((c**2).mean(dim=-1, keepdim=True) + eps)
        right = torch.autograd.grad(gamma * c / s, (x, gamma), dy)
        x_hat, s = (c / s).detach(), s.detach()
        given = dy, x_hat, s, gamma.detach()
        before = [t.clone() for t in given]
        result = answer(*given, centred)
        expect_written(result)
        expect(
            isinstance(result, tuple | list) and len(result) == 2,
            "it should return two tensors: dx, dgamma",
        )
        expect(
            all(torch.equal(a, b) for a, b in zip(given, before, strict=True)),
            "it changes its inputs in place: work on new tensors",
        )
        where = f"{kind}, shape {shape}, eps = {eps:g}: "
        examples = x.numel() // shape[-1]
        suspects = {
            "dx": wrong_norm_dx(*given, centred),
            "dgamma": {
                "dgamma is a sum over the examples, not a mean": right[1] / examples,
                "dgamma does not contain gamma": right[1] * gamma.detach(),
                "dgamma has the wrong sign": -right[1],
                "dgamma is the sum of dy times x_hat; that is dbeta": dy.flatten(
                    0, -2
                ).sum(dim=0),
            },
        }
        for name, one, best in zip(("dx", "dgamma"), result, right, strict=True):
            shape_hint = where + name
            if name == "dgamma" and isinstance(one, Tensor) and one.dim() > 1:
                expect(
                    one.shape == best.shape,
                    "dgamma has the shape of gamma: sum over every axis but the last",
                )
            expect_tensor(one, best, shape_hint)
            expect_close(one.detach(), best, suspects[name], shape_hint)
    return "dx and dgamma of both norms equal autograd's"


@check
def mean_share(answer: Callable) -> str:
    """Exercise 2.7: the mean's share of the first weights' gradient, in %."""
    found = {}
    for centred in (False, True):
        result = answer(centred)
        expect_written(result)
        shares = torch.as_tensor(result, dtype=torch.float64)
        where = "centred" if centred else "as they are"
        expect(
            shares.dim() == 1 and len(shares) >= 8,
            f"one share per seed, (seeds,): got the shape {tuple(shares.shape)}",
        )
        expect(shares.isfinite().all(), f"images {where}: a share is nan or infinite")
        found[centred] = float(shares.mean())
    plain, centred = found[False], found[True]
    said = f"{plain:.1f} % as they are, {centred:.1f} % centred"
    expect(not 0 < plain < 0.7, f"{said}: give the share in %")
    expect(
        plain > 8,
        f"{said}: that is the share at the layer, or the slope's: take the row "
        '"of the weights" and the column "mean"',
    )
    expect(plain < 60, f"{said}: the first is too large; are the nets fresh?")
    expect(
        centred < plain / 2,
        f"{said}: centring has changed little; subtract from each pixel its own "
        "mean over the images, x.mean(dim=0)",
    )
    expect(
        centred < 1.5,
        f"{said}: part of the mean is left, or this is the line's share and not "
        "the mean's; subtract each pixel's mean over the images",
    )
    return f"the mean's share is {said}"
