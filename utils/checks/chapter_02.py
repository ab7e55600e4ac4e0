"""Checks of chapter 02, mechanics: any layout, backward, the mean's share."""

from collections.abc import Callable
from itertools import cycle

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.checks.framework import (
    Measured,
    Raised,
    as_said,
    check,
    expect,
    named,
    per_seed,
)
from utils.checks.norms import COMMON, EPSILONS, GRAPH, examine_norm, layer_input, wide


def _torchs(x: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-5) -> Tensor:
    return F.batch_norm(x, None, None, gamma, beta, training=True, eps=eps)


def _axes(x: Tensor) -> list[int]:
    return [d for d in range(x.dim()) if d != 1]


def _batch_norm(x: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-5) -> Tensor:
    v, dims = x, _axes(x)
    mean = v.mean(dims, keepdim=True)
    var = ((v - mean) ** 2).mean(dims, keepdim=True)
    x_hat = ((v - mean) / (var + eps).sqrt()).reshape(x.shape)
    return wide(gamma, x) * x_hat + wide(beta, x)


def _last_axis(values: Tensor, x: Tensor) -> Tensor:
    """Without (1, C, 1, ...): meets the last axis, where the sizes are equal."""
    return values if x.shape[-1] == x.shape[1] else wide(values, x)


_EQUAL = (4, 4), (4, 4, 4), (4, 4, 4, 4)  # a wrong axis raises nothing
_SHAPES = [*_EQUAL, (6, 4), (5, 3, 7), (3, 2, 5, 4), (1, 3, 2, 2)]
_POSITION = (
    "the statistics run over the batch only, position by position; a channel's "
    "positions belong together"
)
_MEETS = "gamma and beta meet the last axis: give them the shape (1, C, 1, ...)"


@check(
    praise="right for (N, C), (N, C, L) and (N, C, H, W), gradients too",
    cases=named(
        "x of shape {}, eps = {}, {}",
        *zip(_SHAPES, cycle(zip(EPSILONS))),
        ((4, 4, 4), (0.3,)),
        ((4, 4, 4, 4), (1e-5,)),
        ((5, 3, 4), ()),
        ((6, 3, 4), (1e-2,), "float32"),
        ((4, 5, 3, 2), (1e-2,), "not contiguous"),
        ((4, 3, 2, 2), (1e-2,), "no gradients asked"),
    ),
    hints=GRAPH,
    right={"by the definition": _batch_norm, "PyTorch": _torchs},
    edits=COMMON
    | {
        "_axes(x) -> [1]": "the statistics run over the channels; take them over the "
        "batch, channel by channel",
        "_axes(x) -> [*range(x.dim())]": "the statistics run over everything at once: "
        "each channel needs a mean and a variance of its own",
        "_axes(x) -> [0]": _POSITION,
        "_axes(x) -> _axes(x)[1:] or [0]": "the statistics are taken for each example "
        "alone (that is instance norm); average over the batch too",
        "_axes(x) -> [*range(1, x.dim())] if x.dim() > 2 else [0]": "the statistics "
        "are taken for each example over channels and positions (that is layer norm)",
        "_axes(x) -> [*range(x.dim() - 1)]": "the channel is axis 1, not the last axis",
        "x, _axes(x) -> x.reshape(-1, x.shape[1]), 0; wide(gamma, x) * x_hat + "
        "wide(beta, x) -> (gamma * x_hat.view_as(v) + beta).view_as(x)": "reshape(-1, "
        "C) mixes channels and positions: each row of it holds neighbours along the "
        "last axis; move axis 1 to the end first",
        "((v - mean) ** 2).mean(dims, -> v.var(dims[1:] or 0, correction=0, "
        "keepdim=True).mean(0,": "the variance is not the average of each example's "
        "own variance; subtract the mean over batch and positions",
        "wide( -> _last_axis(": _MEETS,
        "_axes(x) -> [0]; wide( -> _last_axis(": f"{_POSITION}; and {_MEETS}",
    },
)
def batch_norm_nd(answer, shape: tuple, eps: tuple, how: str = "") -> dict:
    """Exercise 2.1: the same for (N, C), (N, C, L) and (N, C, H, W)."""
    return examine_norm(answer, shape, (), eps, how)


NODES = ("dbeta", "dgamma", "dx_hat", "dvar", "dc", "dmean", "dx")


def _by_hand(dy: Tensor, x: Tensor, gamma: Tensor, eps: float = 1e-5) -> dict:
    n, c = len(x), x - x.mean(0)
    s = ((c**2).mean(0) + eps).sqrt()
    x_hat = c / s
    dbeta, dgamma = dy.sum(0), (dy * x_hat).sum(0)
    dx_hat = dy * gamma
    dvar = -(dx_hat * c).sum(0) / s**3 / 2
    dc = dx_hat / s + 2 * dvar * c / n
    dmean = -dc.sum(0)
    dx = dc + dmean / n
    first = dict(dbeta=dbeta, dgamma=dgamma, dx_hat=dx_hat)
    return first | dict(dvar=dvar, dc=dc, dmean=dmean, dx=dx)


_NODE_EDITS = {
    "+ eps -> + 1e-5": "eps is fixed at 1e-5: use the one that is given",
    "+ eps -> ": "eps is missing: add it to the variance",
}
for _node in NODES:
    _more = {
        "-{0}": "has the wrong sign",
        "{0} / n": "is divided by the batch size once too often",
        "{0} * n": "is multiplied by the batch size once too often",
    }
    _NODE_EDITS |= {
        f"{_node}={_node} -> {_node}={how.format(_node)}": f"{_node} {what}"
        for how, what in _more.items()
    }
_NODE_EDITS |= {
    "dbeta=dbeta -> dbeta=dbeta * gamma": "dgamma and dbeta do not contain gamma: "
    "this is dbeta",
    "dgamma=dgamma -> dgamma=dgamma * gamma": "dgamma and dbeta do not contain gamma: "
    "this is dgamma",
    "dy * x_hat -> dy * c": "dgamma needs x_hat, the normalised input, not the "
    "centred one",
    "dy * gamma -> dy": "dx_hat: y is gamma times x_hat, so gamma is missing",
    "s**3 / 2 -> s**3": "dvar: the derivative of a root has a factor of 1/2",
    "s**3 / 2 -> s**2": "that is the gradient of s; sigma squared comes one node "
    "before",
    "s**3 -> s**2": "dvar: one power of s is missing, d(1/s) is -ds / s**2",
    "s**3 -> s**4": "dvar: one power of s too many: with c in the sum it is s**3, "
    "with x_hat it is s**2",
    " + 2 * dvar * c / n -> ": "dc is only the path through x_hat: c is used for the "
    "variance too",
    "dx_hat / s + 2 -> 2": "dc is only the path through the variance",
    "dvar * c / n -> dvar * c": "dc: the variance is a mean of squares, its path has "
    "a factor of 1/N",
    "2 * dvar -> dvar": "dc: the derivative of a square has a factor of 2",
    "/ s + 2 -> / s - 2": "dc: the two paths add up",
    "dc + dmean / n -> dc": "dx is only the path through c: x is used for the mean too",
    "dmean / n -> dmean": "dx: the mean's path has a factor of 1/N",
    "dc + dmean -> dc - dmean": "dx: the two paths add up, dmean has its sign already",
}


@check(
    praise="all seven nodes equal autograd's, for a small ε and a large one",
    cases=named(
        "x of shape {}, eps = {}, {}",
        *[((6, 4), (eps,)) for eps in EPSILONS],
        *[((5, 5), (1e-5,)), ((2, 3), (0.3,)), ((64, 2), (1e-2,))],
        *[((6, 4), (1e-2,), "float32"), ((6, 4), ())],
    ),
    right={"by hand": _by_hand},
    edits=_NODE_EDITS,
    steps=True,
)
def backward_nodes(answer, shape: tuple, eps: tuple, how: str = "") -> dict:
    """Exercise 2.2: the backward pass by hand, node by node."""
    x = as_said(layer_input(shape, how), how)
    given = torch.randn(shape).to(x) + 0.5, x, torch.randn(shape[1]).to(x) - 1.2
    before = [t.clone() for t in given]
    nodes = answer(*given, *eps)
    expect(
        isinstance(nodes, dict),
        "it should return a dict, {'dbeta': ..., 'dgamma': ..., ...}",
    )
    with torch.inference_mode():  # autograd cannot be turned on here
        try:
            answer(*[t.clone() for t in before], *eps)
        except Raised as error:
            expect(
                "grad" not in str(error),
                "it is right with autograd and fails without: derive the nodes by hand",
            )
            raise
    return {name: nodes[name] for name in NODES if name in nodes}


def _norm_dx(
    dy: Tensor, x_hat: Tensor, s: Tensor, gamma: Tensor, centred: bool
) -> tuple:
    g = dy * gamma
    along = x_hat * (g * x_hat).mean(-1, keepdim=True)
    mean = g.mean(-1, keepdim=True) if centred else 0
    dx = (g - mean - along) / s
    return dx, (dy * x_hat).flatten(0, -2).sum(0)


@check(
    praise="dx and dgamma of both norms equal autograd's",
    cases=named(
        "{} norm, shape {}, eps = {}, {}",
        *[
            (kind, *row)
            for row in [
                *[((6, 4), 1e-5), ((5, 5), 0.3), ((2, 3, 4), 1e-5), ((4, 4, 4), 1e-2)],
                *[((1, 7), 0.3), ((2, 3, 2, 5), 1e-5), ((2, 3, 4), 1e-2, "float32")],
            ]
            for kind in ("layer", "RMS")
        ],
    ),
    right={"by hand": _norm_dx},
    edits={
        "g - mean - along -> g": "dx is only the direct path; x also acts through the "
        "statistics",
        " - along -> ": "dx: the term along x_hat is missing",
        "g = dy * gamma -> g = dy": "dx: gamma is missing",
        "dy * gamma -> dy; (g - mean -> gamma * (g - mean": "dx: gamma differs along "
        "the features, so it stands inside the means",
        "mean(-1, -> mean(0, ": "dx: the means run over the features, the last axis, "
        "not over the examples",
        "mean(-1, -> sum(-1, ": "dx: the terms are means over the features, not sums",
        ") / s -> )": "dx: divide by s",
        ") / s -> ) / s**2": "dx: divide by s once",
        ") / s -> ) * s": "dx: divide by s, do not multiply with it",
        "if centred else 0 -> * 0": "layer norm subtracts a mean forward, so backward "
        "too",
        " if centred else 0 -> ": "RMS norm subtracts no mean forward, so none "
        "backward",
        "if centred -> if not centred": "layer norm and RMS norm are the other way "
        "round: centred is layer norm",
        ".sum(0) -> .mean(0)": "dgamma is a sum over the examples, not a mean",
        ".sum(0) -> .sum(0) * gamma": "dgamma does not contain gamma",
        "(dy * x_hat).flatten -> -(dy * x_hat).flatten": "dgamma has the wrong sign",
        "(dy * x_hat).flatten -> dy.flatten": "dgamma is the sum of dy times x_hat; "
        "that is dbeta",
    },
)
def norm_backward(answer, kind: str, shape: tuple, eps: float, how: str = "") -> dict:
    """Exercise 2.3: backward of layer norm and of RMS norm."""
    x = as_said(1.5 + 2 * torch.randn(shape, dtype=torch.float64), how)
    gamma, dy = torch.randn(shape[-1]).to(x) - 1.2, torch.randn(shape).to(x) + 0.5
    c = x - x.mean(dim=-1, keepdim=True) if kind == "layer" else x
    s = torch.sqrt((c**2).mean(dim=-1, keepdim=True) + eps)
    result = answer(dy, c / s, s, gamma, kind == "layer")
    expect(
        isinstance(result, tuple | list) and len(result) == 2,
        "it should return two tensors: dx, dgamma",
    )
    dx, dgamma = result
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
    wrong={
        "0 < a < 0.7: 0.296 0.0015": "give the share in %",
        "a <= 8: 1 1": "that is the share at the layer, or the slope's: take the row "
        '"of the weights" and the column "mean"',
        "a >= 60: 80 0": "the first is too large; are the nets fresh?",
        "b >= a / 2: 29.6 28": "centring has changed little; subtract from each pixel "
        "its own mean over the images, x.mean(dim=0)",
        "b >= 1.5: 33.7 5.7": "part of the mean is left, or this is the line's share "
        "and not the mean's; subtract each pixel's mean over the images",
    },
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
