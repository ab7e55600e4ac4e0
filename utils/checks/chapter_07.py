"""Checks of chapter 07, mini-batch size 1."""

import math
from collections.abc import Callable
from itertools import cycle, product

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from utils.checks.framework import (
    Guarded,
    Measured,
    check,
    expect,
    named,
    numbers,
    same,
)
from utils.checks.modules import observe_layer


def _of_two(a: Tensor, b: Tensor, eps: float = 1e-5) -> Tensor:
    half = (a - b) / 2
    return half / (half**2 + eps).sqrt()


_NEARLY = (
    "right for large differences; now mind eps: what if a and b are nearly the same?"
)


@check(
    praise="equal to nn.BatchNorm1d, from large differences down to none",
    cases=named(
        "a and b of shape {}, eps = {}, {}",
        *[((2, 4), (1e-5,)), ((2, 4), (1e-3,)), ((8,), (0.5,)), ((2, 2, 2), (1e-2,))],
        *[((2, 1, 2, 2), (1e-5,)), ((8,), ()), ((2, 4), (1e-2,), "float32")],
    ),
    tolerance=(1e-4, 1e-6),
    right={"in closed form": _of_two},
    edits={
        "a - b -> b - a": "the sign is reversed: when a > b, a lies above the mean",
        "half**2 -> 2 * half**2": "that is the variance divided by N - 1; to "
        "normalise, BN divides by N",
        "(half**2 + eps).sqrt() -> (half.abs() + eps)": "eps is added to the "
        "variance, under the root, not to its root",
        "+ eps -> + 1e-5": "eps is fixed at 1e-5: use the one that is given",
        "half / (half**2 + eps).sqrt() -> torch.sign(half)": _NEARLY,
        " + eps -> ": _NEARLY,
        "return half -> return 2 * half": "half the difference is the distance to the "
        "mean: halve it above, too",
        "(half**2 -> (4 * half**2": "the variance is a quarter of the squared "
        "difference",
    },
)
def batch_of_two(answer: Callable, shape: tuple, eps: tuple, how: str = "") -> dict:
    """Exercise 7.3: the normalised value of a in the batch {a, b}."""
    a = torch.linspace(-2, 2, 8, dtype=torch.float64)
    gaps = torch.tensor([3.0, 0.5, 0.02, 1e-3, 0.0, -1e-3, -0.3, -40.0]).double()
    if how == "float32":  # where small differences of a and b lose their digits
        gaps = 8 * torch.linspace(-1, 1, 8, dtype=torch.float64)
    dtype = torch.float32 if how else torch.float64
    a, b = a.view(shape).to(dtype), (a - gaps).view(shape).to(dtype)
    y = numbers(answer(a, b, *eps), shape, "that shape, one value for each a")
    return {"the normalised a": y.nan_to_num(0.0)}


LAYERS = {  # name: the layer, the shape of its input
    "a dense input": (nn.BatchNorm1d, (6, 4)),
    "one example": (nn.BatchNorm1d, (1, 4)),
    "a sequence": (nn.BatchNorm1d, (2, 4, 5)),
    "an image": (nn.BatchNorm2d, (1, 4, 3, 2)),
    "two images": (nn.BatchNorm2d, (2, 4, 5, 5)),
    "a pooled image": (nn.BatchNorm2d, (1, 4, 1, 1)),
}
OPTIONS = [
    dict(eps=1e-3, momentum=0.3),
    dict(),
    dict(eps=0.2, momentum=None),
    dict(affine=False, eps=0.05),
]


def _stored(layer: nn.Module, x: Tensor, **more: object) -> Tensor:
    settings = dict(weight=layer.weight, bias=layer.bias, eps=layer.eps) | more
    return F.batch_norm(x, layer.running_mean, layer.running_var, **settings)


def _careful(layer: nn.Module, x: Tensor, at_least: int) -> Tensor:
    if layer.training and x.numel() // x.shape[1] >= at_least:
        return layer(x)
    return _stored(layer, x)


def _by_function(layer: nn.Module, x: Tensor) -> Tensor:
    """As the layer does it, without its counter."""
    memory = layer.running_mean, layer.running_var
    rest = layer.weight, layer.bias, True, layer.momentum or 0.1, layer.eps
    return F.batch_norm(x, *memory, *rest)


ENOUGH = (
    "these are enough, and it used the stored statistics. Count images times "
    "positions; `at_least` itself is enough"
)
TOO_FEW = "too few, so the output should be that of eval mode: count values per channel"
MODE = "it leaves the layer in another mode"


@check(
    praise="the layer, where it has enough values; its stored statistics elsewhere",
    cases=named(
        "{}, at_least={}, {} mode, {}, {}",
        *[
            (name, at_least, "train", OPTIONS[k % 4])
            for k, (at_least, name) in enumerate(product((6, 2, 7, 51, 11), LAYERS))
        ],
        *[(name, 6, "eval", options) for name, options in zip(LAYERS, cycle(OPTIONS))],
        ("a dense input", 3, "train", OPTIONS[0], "float32"),
        ("an image", 9, "train", OPTIONS[1], "gradients off"),
    ),
    tolerance=(1e-6, 1e-8),
    hints={
        "the output": "the output is not that of the layer in this mode; mind γ, β "
        "and the layer's own eps",
        "whether*": "no gradient can flow through the output",
        "the gradient*": "the gradient to γ, β or x is not the layer's",
        "the mode of*": MODE,
        "running*": "the running statistics should move on where there are enough "
        "values, and stay as they were where not",
        "num_batches*": "the batch counter should move on where there are enough "
        "values, and stay as it was where not",
    },
    right={"with the function": _careful},
    edits={
        "x.numel() // x.shape[1] -> len(x)": ENOUGH,
        ">= -> >": ENOUGH,
        ">= at_least -> > 1": TOO_FEW,
        "_stored(layer, x) -> _stored(layer, x, eps=1e-5)": "without enough values "
        "take the layer's own eps",
        "_stored(layer, x) -> _stored(layer, x, weight=None, bias=None)": "without "
        "enough values γ and β are missing",
        "_stored(layer, x) -> layer.eval()(x)": MODE,
        "return layer(x) -> y = layer(x), layer.eval()\n        return y[0]": MODE,
        "_stored(layer, x) -> _stored(layer.train(), x)": MODE,
        "_stored(layer, x) -> _stored(layer, x).detach()": "no gradient can flow "
        "through the output",
        "return layer(x) -> return _by_function(layer, x)": "where there are enough "
        "values, let the layer itself run: it counts batches, and momentum None needs "
        "the count",
    },
)
def careful(
    answer: Callable, name: str, at_least: int, mode: str, options: dict, how: str = ""
) -> dict:
    """Exercise 7.2: a BN layer that takes stored statistics for small batches."""
    kind, shape = LAYERS[name]
    layer = kind(4, **options).train(mode == "train")
    return observe_layer(answer, layer, shape, how, at_least)


# Points lost when one BN layer takes its statistics per image, and what we accept
COSTS = {0: (-20.0, 25.0), 1: (-20.0, 25.0)}

layer_cost = Measured(
    "layer_cost",  # exercise 7.4: one early BN layer per image
    calls=[(0,), (1,)],
    ranges=[(f"in layer {place}", *pair) for place, pair in COSTS.items()],
    said="{:.1f} points in the first layer, {:.1f} in the second",
    asked="after 80 updates in batches of 8, each net at the best of its rates",
    right=[(2.0, 8.0), (-1.0, 3.0), (10, 20)],
    wrong={
        "max(map(abs, m)) >= 40: 80 75": "these look like accuracies, or like the "
        "last layer's loss",
        "a == b: 5 5": "does `place` reach the net?",
        "max(map(abs, m)) <= 0.35: 0.02 0.08": "measure in points, with accuracy in %",
    },
)


def _raises(shape: tuple, training: bool, stored: bool) -> bool:
    """What PyTorch's layer does."""
    kind = nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d
    layer = kind(shape[1], track_running_stats=stored).train(training)
    try:
        layer(torch.zeros(shape))
    except ValueError:
        return True
    return False


def _if(
    values: Callable = lambda shape: math.prod(shape) // shape[1],
    few: Callable = lambda values: values == 1,
    by_batch: Callable = lambda training, stored: training or not stored,
) -> Callable:
    """A right answer, with a part exchanged."""
    return lambda shape, training, stored: (
        few(values(shape)) and by_batch(training, stored)
    )


@check(
    praise="as PyTorch's layers do it",
    cases={
        f"{shape}, {'train' if training else 'eval'} mode"
        + ("" if stored else ", without stored statistics"): (shape, training, stored)
        for shape in [(1, 8), (1, 8, 1, 1), (1, 8, 5, 5), (1, 8, 20), (2, 8)]
        + [(8, 1), (1, 1), (0, 8), (2, 3, 1, 1)]
        for training, stored in [(True, True), (False, True), (False, False)]
        if training or len(shape) == 2
    },
    right={"PyTorch's own": _raises},
    mistakes={
        "positions are values, too: one image with several of them is fine": _if(
            values=lambda shape: shape[0]
        ),
        "values *per channel*: other channels do not help": _if(values=math.prod),
        "in eval mode it uses the stored statistics, and needs no batch": _if(
            by_batch=lambda training, stored: True
        ),
        "without stored statistics there is only the batch, in eval mode, too": _if(
            by_batch=lambda training, stored: training
        ),
        "an empty batch passes, and so do two values": (
            _if(few=lambda values: values <= 1),
            _if(few=lambda values: values <= 2),
        ),
        "the other way round: True where it raises": lambda *given: not _if()(*given),
    },
)
def refuses(answer: Callable, shape: tuple, training: bool, stored: bool) -> dict:
    """Exercise 7.1: will a BN layer raise "Expected more than 1 value"?"""
    said = answer(shape, training, stored)
    expect(
        isinstance(said, (bool, np.bool_, Tensor)),
        f"return True or False, got {said!r}",
    )
    return {"whether it raises": bool(said)}


class _Stream(nn.Module):
    """A right answer; subclasses exchange a part."""

    def __init__(self, channels: int, momentum: float = 0.02):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.momentum = momentum
        self.keep(channels)

    def keep(self, channels: int) -> None:
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("var", torch.ones(channels))

    def remembers(self) -> bool:
        return self.training

    def cut(self, x: Tensor) -> Tensor:
        return x.detach()

    def square(self, x: Tensor) -> Tensor:
        return ((x - self.mean) ** 2).mean(dim=0)

    def forward(self, x: Tensor) -> Tensor:  # (batch, channels)
        mean, var = self.mean, self.var
        if self.remembers():
            seen = self.cut(x)
            var = var + self.momentum * (self.square(seen) - var)
            mean = mean + self.momentum * (seen.mean(dim=0) - mean)
            self.mean, self.var = mean, var
        return self.weight * (x - mean) / torch.sqrt(var + 1e-5) + self.bias


class _Count(_Stream):
    """All examples so far count alike, as in Welford's method."""

    def keep(self, channels):
        super().keep(channels)
        self.register_buffer("n", torch.ones(()))

    def forward(self, x):
        if self.training:
            self.n = self.n + 1
            self.momentum = 1 / float(self.n)
        return super().forward(x)


class _Always(_Stream):
    def remembers(self):
        return True


class _Graph(_Stream):
    def cut(self, x):
        return x


class _Lost(_Stream):
    def keep(self, channels):
        self.mean, self.var = torch.zeros(channels), torch.ones(channels)


class _OwnVar(_Stream):
    def square(self, x):
        return x.var(dim=0)


class _Zero(_Stream):
    def square(self, x):
        return x.var(dim=0, correction=0)


class _Plainly(_Stream):
    def keep(self, channels):
        super().keep(channels)
        self.weight.requires_grad_(False), self.bias.requires_grad_(False)


class _Frozen(_Stream):
    def remembers(self):
        return False


class _Starving(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.norm = nn.BatchNorm1d(channels)

    def forward(self, x):
        if self.training and len(x) > 1:
            return self.norm(x)
        y = self.norm.weight * (x - (x.mean(0) if self.training else 0))
        return y + self.norm.bias


class _Blind(_Stream):
    def forward(self, x):
        with torch.no_grad():
            return super().forward(x)


GRAPH = (
    "the memory carries the autograd graph along, which grows with each example: "
    "detach what you store"
)
ALIKE = "two examples give the same output: where is the input left?"
UNIT = (
    "after many examples each channel should come out with mean 0 and standard "
    "deviation 1, as behind BN"
)
SAVED = (
    "a fresh layer with the saved state_dict answers otherwise: keep the memory in "
    "buffers"
)
STILL = "in eval mode the memory should stay as it is"
TRAINS = "γ and β are missing, or do not learn: two parameters, (channels,) each"
PASSES = "no gradient reaches x, or one that is not finite"


@check(
    praise="a norm that can live on single examples",
    cases={"one example at a time": (1,), "three at a time": (3,)},
    hints={
        "finite": "nan or infinite: a batch of one has no variance of its own",
        "two examples differ": ALIKE,
        "mean *": UNIT,
        "standard deviation *": UNIT,
        "the graph": GRAPH,
        "the gradient": PASSES,
        "γ and β": TRAINS,
        "eval mode, alone and among others": "in eval mode the output for one example "
        "depends on its batch-mates",
        "eval mode, the memory": STILL,
        "eval mode agrees": "eval mode gives something else than train mode gave at "
        "the end",
        "saved": SAVED,
    },
    right={"moving averages": _Stream},
    mistakes={
        "nan or infinite: a batch of one has no variance of its own": _OwnVar,
        ALIKE: _Starving,
        UNIT: (lambda channels: nn.LayerNorm(channels), _Frozen, _Zero),
        GRAPH: _Graph,
        PASSES: _Blind,
        TRAINS: _Plainly,
        STILL: _Always,
        SAVED: _Lost,
    },
)
def batch_of_one(answer: Callable, size: int) -> dict:
    """Exercise 7.5: a norm of one's own design that works at batch size 1."""
    layer = answer(6)
    expect(isinstance(layer, nn.Module), "write a class: class StreamNorm(nn.Module)")
    centre = torch.tensor([-2.0, 0.0, 3.0, 1.0, -1.0, 2.0])
    spread = torch.tensor([0.5, 1.0, 4.0, 2.0, 0.7, 3.0])
    x = centre + spread * torch.randn(500, size, 6)
    late, y = [], Guarded(layer.train(), returns=True)(x[0])
    expect(
        isinstance(y, Tensor) and y.shape == (size, 6),
        f"return a tensor of the shape of x, {(size, 6)}",
    )
    with torch.no_grad():
        for batch in x:
            late.append(layer(batch))
    y = torch.cat(late[-250:])
    one, other = layer(x[-1]).detach(), layer(x[-2]).detach()
    seen = {
        "finite": bool(y.isfinite().all()),
        "two examples differ": bool((one - other).abs().min() > 1e-6),
        "mean 0": bool((y.mean(dim=0).abs() < 0.4).all()),
        "standard deviation 1": bool(
            (y.std(dim=0) > 0.6).all() and (y.std(dim=0) < 1.7).all()
        ),
    }
    probe = x[-1].clone().requires_grad_()
    seen["the graph"] = not any(b.requires_grad for b in _tensors(layer))
    y = layer(probe)
    seen["the graph"] &= not any(b.requires_grad for b in _tensors(layer))
    learnt = [p for p in layer.parameters() if p.requires_grad]
    gradients = (
        torch.autograd.grad((y**2).sum(), [probe, *learnt], allow_unused=True)
        if y.requires_grad
        else [None]
    )
    seen["the gradient"] = gradients[0] is not None and bool(
        gradients[0].isfinite().all() and (gradients[0] != 0).any()
    )
    moved = [p.numel() for p, g in zip(learnt, gradients[1:]) if g is not None]
    seen["γ and β"] = sum(moved) >= 12
    layer.eval()
    with torch.no_grad():
        before = {k: v.clone() for k, v in layer.state_dict().items()}
        among = layer(x[:40].flatten(0, 1))[:1]
        seen["eval mode, alone and among others"] = same(
            layer(x[0, :1]), among, 1e-4, 1e-4
        )
        kept = layer.state_dict()
        seen["eval mode, the memory"] = all(same(kept[k], v) for k, v in before.items())
        stored = layer(x[-20:].flatten(0, 1))
        gap = (stored - torch.cat(late[-20:])).abs().mean()
        seen["eval mode agrees"] = bool(gap < 0.4)
        fresh = answer(6)
        fresh.load_state_dict(kept, strict=False)
        seen["saved"] = same(fresh.eval()(x[0]), layer(x[0]), 1e-4, 1e-4)
    return seen


def _tensors(module: nn.Module) -> list[Tensor]:
    """All that it stores and does not learn, buffers or not."""
    return [*module.buffers()] + [
        value for value in vars(module).values() if isinstance(value, Tensor)
    ]
