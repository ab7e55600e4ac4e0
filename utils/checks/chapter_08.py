"""Checks of chapter 08, other norms: group norm, batch renorm, small groups."""

import copy
from collections.abc import Callable
from itertools import cycle

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from utils.checks.framework import (
    Guarded,
    Measured,
    as_said,
    check,
    expect,
    named,
    numbers,
)
from utils.checks.modules import fill
from utils.checks.norms import COMMON, EPSILONS, GRAPH, examine_norm, wide

# Points of error over layer norm's, 128 updates at batch 32: several seed sets
# gave about 0.5 with 8 features in a group, and 75 with 2.
EIGHT_COST, TWO_COST = (-2.0, 4.0), (45.0, 95.0)


def _group_norm(
    x: Tensor, groups: int, gamma: Tensor, beta: Tensor, eps: float = 1e-5
) -> Tensor:
    v, dims = x.reshape(len(x), groups, x.shape[1] // groups, -1), (2, 3)
    mean = v.mean(dims, keepdim=True)
    var = ((v - mean) ** 2).mean(dims, keepdim=True)
    x_hat = ((v - mean) / (var + eps).sqrt()).reshape(x.shape)
    return wide(gamma, x) * x_hat + wide(beta, x)


def _far_apart(x: Tensor, groups: int, *rest: object) -> Tensor:
    """Channel k belongs to group k mod groups."""
    order = torch.arange(x.shape[1]).view(-1, groups).T.flatten()
    gamma, beta, *eps = rest
    y = F.group_norm(x[:, order], groups, gamma[order], beta[order], *eps)
    return y[:, order.argsort()]


_SHAPES = [((4, 6), 2), ((4, 4, 4), 2), ((3, 6, 5), 3), ((2, 6, 3, 4), 2)]
_SHAPES += [((1, 4, 2, 3), 4), ((3, 4, 3), 1), ((2, 8, 2, 2, 3), 2)]


@check(
    praise="output and gradients equal PyTorch's, from 1 group to one per channel",
    cases=named(
        "x of shape {}, {} groups, eps = {}, {}",
        *[(*row, (eps,)) for row, eps in zip(_SHAPES, cycle(EPSILONS))],
        ((4, 6, 3), 3, ()),
        ((4, 6, 3), 3, (1e-2,), "float32"),
        ((4, 6, 3), 2, (1e-2,), "not contiguous"),
        ((4, 6), 3, (1e-2,), "no gradients asked"),
    ),
    hints=GRAPH,
    right={"by the definition": _group_norm, "PyTorch": F.group_norm},
    edits=COMMON
    | {
        "(2, 3) -> (0, 2, 3)": "the statistics run over the examples, too; each "
        "example has its own",
        "(2, 3) -> (3,)": "the statistics are taken for each channel (that is "
        "instance norm); a group's channels belong together",
        "(2, 3) -> (2,)": "the statistics run position by position; a group's "
        "positions belong together",
        "(2, 3) -> (1, 2, 3)": "the statistics run over all channels (that is layer "
        "norm); each group has its own",
        "groups, x.shape[1] // groups -> x.shape[1] // groups, groups": "`groups` is "
        "the number of groups, not of channels in one",
        "(2, 3) -> (0, 3)": "that is batch norm",
    },
    mistakes={
        "a group is a run of neighbouring channels (0, 1, 2, ...), not channels "
        "far apart": _far_apart
    },
)
def group_norm(answer, shape: tuple, groups: int, eps: tuple, how: str = "") -> dict:
    """Exercise 8.2: group norm of (N, C) or (N, C, positions...)."""
    return examine_norm(answer, shape, (groups,), eps, how)


def _renorm(mean, var, running_mean, running_var, r_max, d_max, eps=1e-5):
    s_batch, s = (var + eps).sqrt(), (running_var + eps).sqrt()
    r = (s_batch / s).clamp(1 / r_max, r_max)
    d = ((mean - running_mean) / s).clamp(-d_max, d_max)
    return r.detach(), d.detach()


@check(
    praise="r and d are right, within their bounds, and pass no gradient",
    cases=named(
        "r_max = {}, d_max = {}, eps = {}, {}",
        *[
            (r_max, d_max, *rest)
            for r_max, d_max in [(3.0, 5.0), (1.5, 0.5), (1.0, 0.0), (2.0, 1.0)]
            for rest in [*zip(zip(EPSILONS)), ((),), ((1e-2,), "float32")]
        ],
    ),
    right={"by the definition": _renorm},
    edits={
        "(s_batch / s) -> (s / s_batch)": "r is upside down: it is the batch's "
        "standard deviation over the running one",
        ".clamp(1 / r_max, r_max) -> ": "r is not clipped",
        "(1 / r_max, r_max) -> (None, r_max)": "r has no lower bound: it is 1 / "
        "r_max, not -r_max",
        "(1 / r_max, r_max) -> (1 / r_max)": "r has a lower bound only; the upper one "
        "is r_max",
        "(s_batch / s) -> (s_batch / s).square()": "r is a ratio of standard "
        "deviations, not of variances",
        " + eps -> ": "eps is missing; add it to both variances",
        "(var + eps).sqrt(), (running_var + eps).sqrt() -> var.sqrt() + eps, "
        "running_var.sqrt() + eps": "eps belongs under the root",
        "+ eps -> + 1e-5": "eps is fixed at 1e-5: use the one that is given",
        "r.detach(), d.detach() -> d.detach(), r.detach()": "r and d are swapped: "
        "return r, d",
        "mean - running_mean -> running_mean - mean": "d has the wrong sign: the "
        "batch's mean minus the running one",
        "running_mean) / s -> running_mean) / s_batch": "d is divided by the running "
        "standard deviation, not by the batch's",
        "running_mean) / s -> running_mean) / s**2": "d is divided by the standard "
        "deviation, not by the variance",
        "running_mean) / s -> running_mean)": "d is not divided by the running "
        "standard deviation",
        ".clamp(-d_max, d_max) -> ": "d is not clipped",
        "(-d_max, d_max) -> (None, d_max)": "d has an upper bound only; the lower one "
        "is -d_max",
        "(-d_max, d_max) -> (0, d_max)": "the bounds of d are -d_max and d_max, not 0 "
        "and d_max",
        "(-d_max, d_max) -> (1 / d_max if d_max else 0, d_max)": "the bounds of d are "
        "-d_max and d_max, not 1 / d_max and d_max",
        ".detach() -> ": "r and d are right, but a gradient flows through them: batch "
        "renorm treats them as constants; use .detach()",
    },
)
def renorm_r_d(answer, r_max: float, d_max: float, eps: tuple, how: str = "") -> dict:
    """Exercise 8.3: the correction of batch renormalization, without gradient."""
    mu = as_said(torch.tensor([0.0, 1.0, -2.0, 0.5, 0.0, 3.0]).double(), how)
    running_var = torch.tensor([1.0, 4.0, 0.25, 0.01, 9.0, 1.0]).to(mu)
    spread = torch.tensor([1.3, 0.2, 3.0, 0.3, 3.0, 0.7]).to(mu)
    shift = torch.tensor([0.4, -9.0, 3.0, 0.1, -2.5, -1.5]).to(mu)
    x = (mu + shift + spread * torch.randn(8, 6).to(mu)).requires_grad_()
    mean, var = x.mean(dim=0), x.var(dim=0, correction=0)
    result = answer(mean, var, mu, running_var, r_max, d_max, *eps)
    expect(
        isinstance(result, tuple | list) and len(result) == 2,
        "it should return two things: r, d",
    )
    r, d = (torch.as_tensor(t) for t in result)
    grads = [r.requires_grad, d.requires_grad]
    return {"r": r, "d": d, "whether a gradient flows through r and d": grads}


group_cost = Measured(
    "group_cost",  # exercise 8.6
    calls=[(8,), (2,)],
    ranges=[("with 8", *EIGHT_COST), ("with 2", *TWO_COST)],
    said="{:.1f} points with groups of 8, {:.1f} with groups of 2",
    asked="after 128 updates in batches of 32, each net at the rate that is best on "
    "the validation images",
    right=[(0.5, 75), (-0.6, 60)],
    wrong={
        "a == b: 3 3": "does `values` reach the norm?",
        "max(map(abs, m)) <= 1.2: 0.4 0.6": "is `values` the number of groups? It is "
        "that of the features in one; a layer has 32. (And measure in points.)",
        "b <= -5: -0.5 -75": "the error of group norm minus that of layer norm, in "
        "this order",
        "a >= 30: 90 15": "these look like accuracies; return a difference of errors",
        f"a > {EIGHT_COST[1]} and b > {TWO_COST[0]}: 9 84": "these look like "
        "errors; subtract those of layer norm, at the same budget of 128 updates",
        f"b <= {TWO_COST[0]}: 1.5 2.5": "groups of 2 features should do much "
        "worse. `values` is the number of features in a group, and a layer of 32 "
        "has 32 // values groups",
    },
)


def _cells(**other: Callable) -> Callable:
    """A right answer, with some of its entries exchanged."""
    right = {
        "batch norm": lambda n, c, p, groups: n * p,
        "layer norm": lambda n, c, p, groups: c * p,
        "instance norm": lambda n, c, p, groups: p,
        "group norm": lambda n, c, p, groups: c // groups * p,
        "RMS norm": lambda n, c, p, groups: c,
    }
    table = right | {k.replace("_", " "): v for k, v in other.items()}
    return lambda norm, *sizes: table[norm](*sizes)


@check(
    praise="for every norm, also where there is one example, or one position",
    cases={
        f"{norm}, {n} examples, {c} channels, {p} positions, {g} groups": (
            *(norm, n, c, p, g),
        )
        for norm in ("batch norm", "layer norm", "instance norm", "group norm")
        + ("RMS norm",)
        for n, c, p, g in [(3, 10, 7, 2), (1, 12, 1, 4), (5, 6, 2, 6)]
    },
    right={"as in the picture": _cells()},
    mistakes={
        "batch norm: over the examples and over the positions": _cells(
            batch_norm=lambda n, c, p, g: n
        ),
        "layer norm, as drawn: over the channels and over the positions": _cells(
            layer_norm=lambda n, c, p, g: c
        ),
        "instance norm looks at one channel of one example": (
            _cells(instance_norm=lambda n, c, p, g: n * p),
            _cells(instance_norm=lambda n, c, p, g: c * p),
        ),
        "`groups` is the number of groups, not of channels in a group": _cells(
            group_norm=lambda n, c, p, g: g * p
        ),
        "group norm averages over the positions, too": _cells(
            group_norm=lambda n, c, p, g: c // g
        ),
        "RMS norm: over the channels of one position": (
            _cells(**{"RMS_norm": lambda n, c, p, g: c * p}),
        ),
    },
)
def values_averaged(answer: Callable, *given: object) -> dict:
    """Exercise 8.1: how many values share one mean, or one mean square."""
    return {"the number of values": numbers(answer(*given), (), "one number")}


class _TwoHalves(nn.Module):
    """A right answer; subclasses exchange a part."""

    def __init__(self, output: nn.Module, gradient: nn.Module):
        super().__init__()
        self.output, self.gradient = output, gradient

    def forward(self, x: Tensor) -> Tensor:
        return self.join(self.output(x), self.gradient(x))

    def join(self, a: Tensor, b: Tensor) -> Tensor:
        return b + (a - b).detach()


class _Swapped(_TwoHalves):
    def join(self, a, b):
        return a + (b - a).detach()


class _OneOnly(_TwoHalves):
    def forward(self, x):
        return self.output(x)


class _Mean(_TwoHalves):
    def join(self, a, b):
        return (a + b) / 2


class _Both(_TwoHalves):
    def join(self, a, b):
        return a + b - b.detach()


class _NoGradient(_TwoHalves):
    def join(self, a, b):
        return (b + (a - b)).detach()


class _Twice(_TwoHalves):
    def forward(self, x):
        y = self.gradient(x)
        return y + (self.output(x) - self.gradient(x)).detach()


class _Copies(_TwoHalves):
    def __init__(self, output, gradient):
        super().__init__(copy.deepcopy(output), copy.deepcopy(gradient))


class _Hidden(nn.Module):
    def __init__(self, output, gradient):
        super().__init__()
        self.pair = output, gradient

    def forward(self, x):
        a, b = (layer(x) for layer in self.pair)
        return b + (a - b).detach()


def _pair(kind: str) -> tuple[nn.Module, nn.Module]:
    bn, gn = nn.BatchNorm1d(8, momentum=0.3), nn.GroupNorm(2, 8)
    stored = nn.BatchNorm1d(8, eps=0.1).eval()
    pairs = {
        "BN's output, group norm's gradient": (bn, gn),
        "group norm's output, BN's gradient": (gn, bn),
        "the output of stored statistics, BN's gradient": (stored, bn),
        "a linear layer's gradient": (bn, nn.Linear(8, 8)),
    }
    pair = pairs[kind]
    for layer in pair:
        fill(layer)
    return pair


@check(
    praise="values of the one, gradients of the other, and both keep their memory",
    cases={
        kind + ("" if training else ", eval mode"): (kind, training)
        for kind in (
            "BN's output, group norm's gradient",
            "group norm's output, BN's gradient",
            "the output of stored statistics, BN's gradient",
            "a linear layer's gradient",
        )
        for training in (True, False)
    },
    tolerance=(1e-6, 1e-8),
    hints={
        "the output": "the output should be that of the layer `output`",
        "the gradient of x": "the gradient of x should be that of the layer `gradient`",
        "the parameters of gradient": "the parameters of `gradient` should learn as if "
        "it stood alone",
        "the parameters of output": "the layer `output` should get no gradient",
        "whether*": "no gradient comes back at all",
        "the memory*": "each of the two layers should run once per batch, so that its "
        "running statistics move on once",
        "the modes": "the given layers should be parts of the module, so that "
        "train(), eval() and state_dict() reach them",
    },
    right={"one added, one detached": _TwoHalves},
    mistakes={
        "the two are swapped: values of `output`, gradient of `gradient`": _Swapped,
        "that is the one layer alone: where does the gradient of the other come "
        "in?": _OneOnly,
        "that is half of both: take the values of the one and the gradient of the "
        "other": _Mean,
        "the values are right, but the gradient is that of both layers: detach the "
        "first": _Both,
        "no gradient comes back at all": _NoGradient,
        "each of the two layers should run once per batch, so that its running "
        "statistics move on once": _Twice,
        "use the given layers themselves, no copies": _Copies,
        "the given layers should be parts of the module, so that train(), eval() and "
        "state_dict() reach them": _Hidden,
    },
)
def two_halves(answer: Callable, kind: str, training: bool) -> dict:
    """Exercise 8.4: the output of one layer with the gradient of another."""
    output, gradient = (layer.double() for layer in _pair(kind))
    module = answer(output, gradient)
    expect(isinstance(module, nn.Module), "write a class: class TwoHalves(nn.Module)")
    if "stored" not in kind:
        module.train(training)
    elif not training:
        module.eval()
    x = 1 + 2 * torch.randn(12, 8, dtype=torch.float64)
    dy = torch.randn(12, 8, dtype=torch.float64)
    y = Guarded(module, returns=True)(x.requires_grad_())
    expect(
        isinstance(y, Tensor) and y.shape == x.shape,
        f"return a tensor of the shape of x, {tuple(x.shape)}",
    )
    seen = {"the output": y.detach(), "whether it has a gradient": y.requires_grad}
    if y.requires_grad:
        (dx,) = torch.autograd.grad(y, x, dy, retain_graph=True)
        seen["the gradient of x"] = dx
        for name, layer in (("gradient", gradient), ("output", output)):
            seen[f"the parameters of {name}"] = list(
                torch.autograd.grad(
                    y, [*layer.parameters()], dy, retain_graph=True, allow_unused=True
                )
            )
    for name, layer in (("output", output), ("gradient", gradient)):
        seen[f"the memory of {name}"] = [b.clone() for b in layer.buffers()]
    module.eval()
    modes = not (output.training or gradient.training)
    seen["the modes"] = modes and len(module.state_dict()) >= 4
    return seen
