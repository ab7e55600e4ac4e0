"""Checks of chapter 07, mini-batch size 1."""

from collections.abc import Callable
from itertools import cycle, product

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from utils.checks.framework import Measured, check, named, numbers
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
    """Exercise 7.2: the normalised value of a in the batch {a, b}."""
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
    """Exercise 7.1: a BN layer that takes stored statistics for small batches."""
    kind, shape = LAYERS[name]
    layer = kind(4, **options).train(mode == "train")
    return observe_layer(answer, layer, shape, how, at_least)


# Points lost when one BN layer takes its statistics per image, and what we accept
COSTS = {0: (-20.0, 25.0), 1: (-20.0, 25.0)}

layer_cost = Measured(
    "layer_cost",  # exercise 7.3: one early BN layer per image
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
