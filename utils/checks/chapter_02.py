"""Checks of chapter 02, mechanics: any layout, backward, the mean's share."""

from collections.abc import Callable
from itertools import cycle

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.checks.framework import (
    Measured,
    Raised,
    Wrong,
    check,
    expect,
    expect_written,
    per_seed,
)
from utils.checks.norms import (
    EPSILONS,
    GRAPH,
    common_mistakes,
    examine_norm,
    layer_input,
    norm,
)


def _torchs(x: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-5) -> Tensor:
    return F.batch_norm(x, None, None, gamma, beta, training=True, eps=eps)


def _axes(x: Tensor) -> list[int]:
    return [d for d in range(x.dim()) if d != 1]


def _channels(x: Tensor, groups: object) -> tuple[Tensor, list[int]]:
    return x, _axes(x)


def _where(dims: Callable) -> Callable:
    """Statistics over dims(x), also for an input without positions."""
    return lambda x, groups: (x, dims(x) if x.dim() > 2 else _axes(x))


def _last_axis(values: Tensor, x: Tensor) -> Tensor:
    """Without (1, C, 1, ...): meets the last axis, where the sizes are equal."""
    fits = x.shape[-1] == x.shape[1]
    return values if fits else values.view(1, -1, *[1] * (x.dim() - 2))


def _own_variances(x: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-5) -> Tensor:
    if x.dim() == 2:
        return _torchs(x, gamma, beta, eps)
    var = x.var(dim=_axes(x)[1:], keepdim=True, correction=0).mean(0, keepdim=True)
    layout = norm(_channels, by=lambda _, e: torch.sqrt(var + e))
    return layout(x, gamma, beta, eps)


def _rows(x: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-5) -> Tensor:
    """x.reshape(-1, C): the classic mistake."""
    return _torchs(x.reshape(-1, x.shape[1]), gamma, beta, eps).reshape(x.shape)


def _nd_cases() -> dict[str, tuple]:
    equal = [(4, 4), (4, 4, 4), (4, 4, 4, 4)]  # a wrong axis raises nothing
    shapes = [*equal, (6, 4), (5, 3, 7), (3, 2, 5, 4), (1, 3, 2, 2)]
    cases = {
        f"x of shape {shape}, eps = {eps:g}": (shape, (), (eps,))
        for shape, eps in zip([*shapes, *shapes[1:3]], cycle(EPSILONS))
    }
    double, float_ = torch.float64, torch.float32
    cases["eps not given, so 1e-5"] = ((5, 3, 4), (), ())
    cases["float32"] = ((6, 3, 4), (), (1e-2,), float_)
    cases["x not contiguous"] = ((4, 5, 3, 2), (), (1e-2,), double, "not contiguous")
    cases["no gradients asked"] = ((4, 3, 2, 2), (), (1e-2,), double, "plain")
    return cases


_position = (
    "the statistics run over the batch only, position by position; a channel's "
    "positions belong together"
)
_meets = "gamma and beta meet the last axis: give them the shape (1, C, 1, ...)"


@check(
    praise="right for (N, C), (N, C, L) and (N, C, H, W), gradients too",
    cases=_nd_cases(),
    hints=GRAPH,
    right={"PyTorch": _torchs, "by the definition": norm(_channels)},
    mistakes=common_mistakes(_channels)
    | {
        "the statistics run over the channels; take them over the batch, channel by "
        "channel": norm(lambda x, groups: (x, [1])),
        "the statistics run over everything at once: each channel needs a mean and a "
        "variance of its own": norm(lambda x, groups: (x, [*range(x.dim())])),
        _position: norm(_where(lambda x: [0])),
        "the statistics are taken for each example alone (that is instance norm); "
        "average over the batch too": norm(_where(lambda x: _axes(x)[1:])),
        "the statistics are taken for each example over channels and positions (that "
        "is layer norm)": norm(_where(lambda x: [*range(1, x.dim())])),
        "the channel is axis 1, not the last axis": norm(
            _where(lambda x: [*range(x.dim() - 1)])
        ),
        "reshape(-1, C) mixes channels and positions: each row of it holds neighbours "
        "along the last axis; move axis 1 to the end first": _rows,
        "the variance is not the average of each example's own variance; subtract the "
        "mean over batch and positions": _own_variances,
        _meets: norm(_channels, spread=_last_axis),
        f"{_position}; and {_meets}": norm(_where(lambda x: [0]), spread=_last_axis),
    },
)
def batch_norm_nd(answer: Callable, *case: object) -> dict:
    """Exercise 2.1: the same for (N, C), (N, C, L) and (N, C, H, W)."""
    return examine_norm(answer, *case)


NODES = ("dbeta", "dgamma", "dx_hat", "dvar", "dc", "dmean", "dx")


def _by_hand(eps_of: Callable = lambda eps: eps, **exchanged: Callable) -> Callable:
    """All nodes; name=function of (the right one, what is known) exchanges one."""

    def answer(dy: Tensor, x: Tensor, gamma: Tensor, eps: float = 1e-5) -> dict:
        n, c = len(x), x - x.mean(0)
        s = torch.sqrt((c**2).mean(0) + eps_of(eps))
        k = dict(dy=dy, gamma=gamma, n=n, c=c, s=s, x_hat=c / s)
        k["dx_hat"] = dy * gamma
        k["dvar"] = -(k["dx_hat"] * c).sum(0) / s**3 / 2
        k["dc"] = k["dx_hat"] / s + k["dvar"] * 2 * c / n
        k["dmean"] = -k["dc"].sum(0)
        k["dx"] = k["dc"] + k["dmean"] / n
        k["dbeta"], k["dgamma"] = dy.sum(0), (dy * k["x_hat"]).sum(0)
        return {
            name: exchanged.get(name, lambda right, k: right)(k[name], k)
            for name in NODES
        }

    return answer


def _node_mistakes() -> dict[str, Callable]:
    fixed, missing = _by_hand(lambda eps: 1e-5), _by_hand(lambda eps: 0.0)
    mistakes = {
        "eps is fixed at 1e-5: use the one that is given": fixed,
        "eps is missing: add it to the variance": missing,
    }
    for name in NODES:
        mistakes |= {
            f"{name} has the wrong sign": _by_hand(**{name: lambda t, k: -t}),
            f"{name} is divided by the batch size once too often": _by_hand(
                **{name: lambda t, k: t / k["n"]}
            ),
            f"{name} is multiplied by the batch size once too often": _by_hand(
                **{name: lambda t, k: t * k["n"]}
            ),
        }
    about = {
        "dgamma and dbeta do not contain gamma: this is dbeta": (
            dict(dbeta=lambda t, k: t * k["gamma"])
        ),
        "dgamma and dbeta do not contain gamma: this is dgamma": (
            dict(dgamma=lambda t, k: t * k["gamma"])
        ),
        "dgamma needs x_hat, the normalised input, not the centred one": (
            dict(dgamma=lambda t, k: t * k["s"])
        ),
        "dx_hat: y is gamma times x_hat, so gamma is missing": (
            dict(dx_hat=lambda t, k: k["dy"])
        ),
        "dvar: the derivative of a root has a factor of 1/2": (
            dict(dvar=lambda t, k: 2 * t)
        ),
        "that is the gradient of s; sigma squared comes one node before": (
            dict(dvar=lambda t, k: 2 * k["s"] * t)
        ),
        "dvar: one power of s is missing, d(1/s) is -ds / s**2": (
            dict(dvar=lambda t, k: t * k["s"])
        ),
        "dvar: one power of s too many: with c in the sum it is s**3, with x_hat it "
        "is s**2": dict(dvar=lambda t, k: t / k["s"]),
        "dc is only the path through x_hat: c is used for the variance too": (
            dict(dc=lambda t, k: k["dx_hat"] / k["s"])
        ),
        "dc is only the path through the variance": (
            dict(dc=lambda t, k: t - k["dx_hat"] / k["s"])
        ),
        "dc: the variance is a mean of squares, its path has a factor of 1/N": (
            dict(dc=lambda t, k: k["dx_hat"] / k["s"] + k["dvar"] * 2 * k["c"])
        ),
        "dc: the derivative of a square has a factor of 2": (
            dict(dc=lambda t, k: k["dx_hat"] / k["s"] + k["dvar"] * k["c"] / k["n"])
        ),
        "dc: the two paths add up": (
            dict(dc=lambda t, k: 2 * k["dx_hat"] / k["s"] - t)
        ),
        "dx is only the path through c: x is used for the mean too": (
            dict(dx=lambda t, k: k["dc"])
        ),
        "dx: the mean's path has a factor of 1/N": (
            dict(dx=lambda t, k: k["dc"] + k["dmean"])
        ),
        "dx: the two paths add up, dmean has its sign already": (
            dict(dx=lambda t, k: k["dc"] - k["dmean"] / k["n"])
        ),
    }
    return mistakes | {hint: _by_hand(**parts) for hint, parts in about.items()}


@check(
    praise="all seven nodes equal autograd's, for a small ε and a large one",
    cases={
        f"x of shape {shape}, eps = {eps:g}{', float32' * (kind == 'float32')}": (
            *(shape, (eps,), getattr(torch, kind)),
        )
        for shape, eps, kind in [
            *[((6, 4), eps, "float64") for eps in EPSILONS],
            ((5, 5), 1e-5, "float64"),
            ((2, 3), 0.3, "float64"),
            ((64, 2), 1e-2, "float64"),
            ((6, 4), 1e-2, "float32"),
        ]
    }
    | {"eps not given, so 1e-5": ((6, 4), (), torch.float64)},
    right={"by hand": _by_hand()},
    mistakes=_node_mistakes(),
    steps=True,
)
def backward_nodes(
    answer: Callable, shape: tuple, eps: tuple, dtype: torch.dtype
) -> dict:
    """Exercise 2.2: the backward pass by hand, node by node."""
    x, dy = layer_input(shape, dtype), torch.randn(shape, dtype=dtype) + 0.5
    given = dy, x, torch.randn(shape[1], dtype=dtype) - 1.2
    before = [t.clone() for t in given]
    nodes = answer(*given, *eps)
    expect_written(nodes)
    expect(
        isinstance(nodes, dict),
        "it should return a dict, {'dbeta': ..., 'dgamma': ..., ...}",
    )
    expect(
        all(bool((a == b).all()) for a, b in zip(given, before)),
        "it changes its inputs in place: work on new tensors",
    )
    with torch.inference_mode():  # autograd cannot be turned on here
        given = [t.clone() for t in before]
        try:
            answer(*given, *eps)
        except Raised as error:
            expect(
                "grad" not in str(error),
                "it is right with autograd and fails without: derive the nodes by hand",
            )
            raise
    return {name: nodes[name] for name in NODES if name in nodes}


def _norm_dx(
    mean: Callable = lambda centred: centred,
    slope: bool = True,
    gamma_in: bool = True,
    gamma_out: bool = False,
    dim: int = -1,
    of: Callable = torch.mean,
    end: Callable = lambda dx, s: dx / s,
    dgamma: Callable = lambda right, gamma, n: right,
) -> Callable:
    """norm_backward with one part exchanged."""

    def answer(dy, x_hat, s, gamma, centred):
        g = dy * gamma if gamma_in else dy
        dx = g - (of(g, dim=dim, keepdim=True) if mean(centred) else 0)
        if slope:
            dx = dx - x_hat * of(g * x_hat, dim=dim, keepdim=True)
        dx = end(dx * gamma if gamma_out else dx, s)
        right = (dy * x_hat).flatten(0, -2).sum(dim=0)
        return dx, dgamma(right, gamma, dy.numel() // dy.shape[-1])

    return answer


def _dgamma_as_dbeta(dy, x_hat, s, gamma, centred):
    dx, _ = _norm_dx()(dy, x_hat, s, gamma, centred)
    return dx, dy.flatten(0, -2).sum(dim=0)


@check(
    praise="dx and dgamma of both norms equal autograd's",
    cases={
        f"{'layer' if centred else 'RMS'} norm, shape {shape}, eps = {eps:g}{more}": (
            *(shape, eps, centred, torch.float32 if more else torch.float64),
        )
        for shape, eps, more in [
            ((6, 4), 1e-5, ""),
            ((5, 5), 0.3, ""),
            ((2, 3, 4), 1e-5, ""),
            ((4, 4, 4), 1e-2, ""),
            ((1, 7), 0.3, ""),
            ((2, 3, 2, 5), 1e-5, ""),
            ((2, 3, 4), 1e-2, ", float32"),
        ]
        for centred in (True, False)
    },
    right={"by hand": _norm_dx()},
    mistakes={
        "dx is only the direct path; x also acts through the statistics": _norm_dx(
            mean=lambda centred: False, slope=False
        ),
        "dx: the term along x_hat is missing": _norm_dx(slope=False),
        "dx: gamma is missing": _norm_dx(gamma_in=False),
        "dx: gamma differs along the features, so it stands inside the means": _norm_dx(
            gamma_in=False, gamma_out=True
        ),
        "dx: the means run over the features, the last axis, not over the "
        "examples": _norm_dx(dim=0),
        "dx: the terms are means over the features, not sums": _norm_dx(of=torch.sum),
        "dx: divide by s": _norm_dx(end=lambda dx, s: dx),
        "dx: divide by s once": _norm_dx(end=lambda dx, s: dx / s**2),
        "dx: divide by s, do not multiply with it": _norm_dx(end=lambda dx, s: dx * s),
        "layer norm subtracts a mean forward, so backward too": _norm_dx(
            mean=lambda centred: False
        ),
        "RMS norm subtracts no mean forward, so none backward": _norm_dx(
            mean=lambda centred: True
        ),
        "layer norm and RMS norm are the other way round: centred is layer "
        "norm": _norm_dx(mean=lambda centred: not centred),
        "dgamma is a sum over the examples, not a mean": _norm_dx(
            dgamma=lambda right, gamma, n: right / n
        ),
        "dgamma does not contain gamma": _norm_dx(
            dgamma=lambda right, gamma, n: right * gamma
        ),
        "dgamma has the wrong sign": _norm_dx(dgamma=lambda right, gamma, n: -right),
        "dgamma is the sum of dy times x_hat; that is dbeta": _dgamma_as_dbeta,
    },
)
def norm_backward(
    answer: Callable, shape: tuple, eps: float, centred: bool, dtype: torch.dtype
) -> dict:
    """Exercise 2.3: backward of layer norm and of RMS norm."""
    x = 1.5 + 2 * torch.randn(shape, dtype=dtype)
    gamma = torch.randn(shape[-1], dtype=dtype) - 1.2
    dy = torch.randn(shape, dtype=dtype) + 0.5
    c = x - x.mean(dim=-1, keepdim=True) if centred else x
    s = torch.sqrt((c**2).mean(dim=-1, keepdim=True) + eps)
    given = dy, c / s, s, gamma
    before = [t.clone() for t in given]
    result = answer(*given, centred)
    expect_written(result)
    expect(
        isinstance(result, tuple | list) and len(result) == 2,
        "it should return two tensors: dx, dgamma",
    )
    dx, dgamma = result
    expect(
        all(bool((a == b).all()) for a, b in zip(given, before)),
        "it changes its inputs in place: work on new tensors",
    )
    expect(
        not isinstance(dgamma, Tensor) or dgamma.dim() <= 1,
        "dgamma has the shape of gamma: sum over every axis but the last",
    )
    return {"dx": dx, "dgamma": dgamma}


mean_share = Measured(
    "mean_share",  # exercise 2.4: of the first weights' gradient, in %
    calls=[(False,), (True,)],
    ranges=[("as they are", 8, 60), ("centred", -1, 1.5)],
    said="the mean's share is {:.1f} % as they are, {:.1f} % centred",
    asked="",
    not_finite="a share is nan or infinite",
    read=lambda result, asked: per_seed(result, asked, alike=True, seeds=8),
    right=[(29.6, 1e-12), (29.6, 0.15), (23.0, 0.0), (33.0, 0.1)],
    wrong=[
        Wrong("give the share in %", lambda a, b: 0 < a < 0.7, (0.296, 0.0015)),
        Wrong(
            "that is the share at the layer, or the slope's: take the row "
            '"of the weights" and the column "mean"',
            lambda a, b: a <= 8,
            (1.0, 1.0),
        ),
        Wrong(
            "the first is too large; are the nets fresh?", lambda a, b: a >= 60, (80, 0)
        ),
        Wrong(
            "centring has changed little; subtract from each pixel its own mean over "
            "the images, x.mean(dim=0)",
            lambda a, b: b >= a / 2,
            (29.6, 28.0),
        ),
        Wrong(
            "part of the mean is left, or this is the line's share and not the mean's; "
            "subtract each pixel's mean over the images",
            lambda a, b: b >= 1.5,
            (33.7, 5.7),
        ),
    ],
)


def _bn(x: Tensor, count: int = 0, by: Callable | None = None) -> Tensor:
    """The sound layer, or one with a part exchanged; x: (batch, channels)."""
    c = x - x.mean(dim=0)
    var = (c**2).sum(dim=0) / (len(x) - count)
    return c / (by(var) if by else torch.sqrt(var + 1e-5))


def _one_pass(x: Tensor) -> Tensor:
    var = (x**2).mean(dim=0) - x.mean(dim=0) ** 2
    return (x - x.mean(dim=0)) / torch.sqrt(var + 1e-5)


def _half(x: Tensor) -> Tensor:
    c = x - x.mean(dim=0)
    var = (c.half() ** 2).mean(dim=0).float()
    return c / torch.sqrt(var + 1e-5)


BUGS = {
    "the mean and the variance of each row": lambda x: _bn(x.T).T,
    "divided by N - 1": lambda x: _bn(x, count=1),
    "no eps": lambda x: _bn(x, by=torch.sqrt),
    "eps outside the root": lambda x: _bn(x, by=lambda var: var.sqrt() + 1e-5),
    "E[x²] - E[x]²": _one_pass,
    "squares in float16": _half,
}


def _columns(
    examples: int = 8, means: tuple = (0, 3e4, 0), sds: tuple = (1e-3, 1, 500)
) -> Callable:
    """The answer: a quiet channel, a far one and a loud one."""

    def answer() -> Tensor:
        ramp = torch.linspace(-1.5, 1.5, examples)[:, None]
        return torch.tensor(means) + torch.tensor(sds) * ramp

    return answer


QUIET = (
    "no channel is quiet: eps can only be seen where the variance is not much larger "
    "than eps"
)
FAR = (
    "no channel is far from 0: what do the squares of large numbers leave of a small "
    "variance?"
)
LOUD = "no channel is loud: which numbers have squares beyond float16?"
MANY = "many examples hide it: with how many do N and N - 1 differ most?"


@check(
    praise="one batch, and no bug gets past it",
    cases={bug: (bug,) for bug in BUGS},
    hints={
        "found": "this bug gets through: on your batch it stays within 0.05 of the "
        "right output",
    },
    right={"three channels": _columns()},
    mistakes={
        "mean 0 and standard deviation 1 everywhere: there most of them agree with the "
        "sound layer. Where does the arithmetic break?": _columns(
            means=(0, 0, 0), sds=(1, 1, 1)
        ),
        QUIET: _columns(sds=(1, 1, 500)),
        FAR: _columns(means=(0, 0, 0)),
        LOUD: _columns(sds=(1e-3, 1, 1)),
        MANY: _columns(examples=21, means=(0, 3e4, 0)),
    },
)
def revealing_batch(answer: Callable, bug: str) -> dict:
    """Exercise 2.5: a batch on which six broken layers differ from a sound one."""
    x = answer()
    expect_written(x)
    expect(isinstance(x, Tensor), f"return one tensor, got {type(x).__name__}")
    expect(x.dim() == 2, f"it should be (batch, channels), got {tuple(x.shape)}")
    expect(x.dtype == torch.float32, f"it should be float32, got {x.dtype}")
    expect(x.numel() <= 64, f"at most 64 numbers, got {x.numel()}")
    expect(bool(x.isfinite().all()), "some of its numbers are not finite")
    x = x.detach()
    right = _bn(x.double())
    off = float((_bn(x) - right).abs().max())
    expect(
        off < 0.01,
        f"the sound layer, in float32, is off by {off:.2g} on your batch: nobody could "
        "pass. Less extreme numbers, please",
    )
    wrong = (BUGS[bug](x) - right).abs()
    return {"found": not bool((wrong <= 0.05).all())}
