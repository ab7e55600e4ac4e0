"""Checks of chapter 06, batch size."""

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from utils.checks.framework import Measured, as_said, check, expect, named, numbers
from utils.checks.modules import observe_layer

# Exercise 6.3: error with this ε minus that with 1e-5, points, over seed sets
EPSILONS = {0.1: (-36, -7), 10: (3, 32)}


def _needed(x: Tensor, error: float) -> int:
    c = x.detach() - x.detach().mean(0)
    kappa = (c**4).mean(0) / (c**2).mean(0) ** 2
    return math.ceil((kappa.max().item() - 1) / error**2)


def _features() -> dict[str, Tensor]:
    n = torch.randn(4000, 1, dtype=torch.float64)
    other = torch.randn(4000, 1, dtype=torch.float64)
    u = torch.rand(4000, 1, dtype=torch.float64)
    return {
        "a normal feature": n,
        "a uniform feature": u,
        "a feature far from 0, of small spread": 50 + 0.1 * n,
        "a heavy tail in the middle": torch.cat([n, n**3, u], 1),
        "a heavy tail of small variance first": torch.cat(
            [0.01 * n**3, 9 * other, u], 1
        ),
        "a heavy tail of small variance last": torch.cat(
            [9 * n, 5 * u, 0.1 * other**3], 1
        ),
        "seven features": torch.cat([n, u, other, n * u, u**2, 5 * u, 7 + n], 1),
    }


def _exact(x: Tensor, error: float) -> int:
    """The exact law of the variance, divided by N: (κ - 1)/N - (κ - 3)/(N (N - 1))."""
    c = x.detach() - x.detach().mean(0)
    kappa = ((c**4).mean(0) / (c**2).mean(0) ** 2).max().item()
    n = 2
    while (kappa - 1) / n - (kappa - 3) / (n * (n - 1)) > error**2:
        n += 1
    return n


@check(
    praise="enough images for the worst feature, whatever its distribution",
    cases=named(
        "{}, error {}, {}",
        *[("a normal feature", 0.1), ("a uniform feature", 0.05)],
        ("a feature far from 0, of small spread", 0.2),
        ("a heavy tail in the middle", 0.1),
        ("a heavy tail of small variance first", 0.2),
        ("a heavy tail of small variance last", 0.15),
        ("seven features", 0.08),
        ("a heavy tail in the middle", 0.2, "float32"),
    ),
    tolerance=(0.0, 4.0),
    right={"the law": _needed, "the exact law": _exact},
    edits={
        "kappa.max().item() - 1 -> 2": "that is right for normal features only: "
        "measure κ",
        "kappa.max().item() - 1 -> 1": "that is the number for the mean, not for the "
        "variance",
        "error**2 -> error": "the relative standard deviation is the root",
        "item() - 1 -> item()": "the law has κ - 1, not κ",
        "item() - 1 -> item() - 4": "κ here is 3 for a normal distribution: it is not "
        "the excess κ - 3",
        "item() - 1 -> item() + 2": "κ is 3 for a normal distribution: add nothing",
        "kappa.max() -> kappa.min()": "it must be enough for every feature, also for "
        "the worst",
        "kappa.max() -> kappa.mean()": "it must be enough for every feature, not on "
        "average",
        "kappa.max() -> kappa[0]": "it must be enough for every feature, not for the "
        "first",
        "kappa.max() -> kappa[c.var(0).argmax()]": "it must be enough for every "
        "feature, not for the one with the largest variance",
        " - x.detach().mean(0) -> ": "take the moments about the mean: subtract it "
        "first",
    },
)
def images_needed(answer, name: str, error: float, how: str = "") -> dict:
    """Exercise 6.2: the smallest batch size for a variance that good."""
    what = "one number, the batch size that is enough for every feature"
    n = float(numbers(answer(as_said(_features()[name], how), error), (), what))
    expect(
        abs(n - round(n)) < 1e-9, f"a batch size is a whole number: got {n:g}; round up"
    )
    return {"the batch size": n}


def _parts(x: Tensor, size: int) -> list[Tensor]:
    parts = list(x.split(size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


def _long_last(x: Tensor, size: int) -> list[Tensor]:
    """Whatever is left over joins the group before it."""
    last = (max(len(x) // size, 1) - 1) * size
    return [*(x[:last].split(size) if last else ()), x[last:]]


def _by_hand(layer: nn.Module, x: Tensor, eps: float, **more: object) -> Tensor:
    settings = dict(weight=layer.weight, bias=layer.bias)
    settings |= dict(momentum=layer.momentum or 0.1) | more
    memory = layer.running_mean, layer.running_var
    return F.batch_norm(x, *memory, training=True, eps=eps, **settings)


def _ghost(layer: nn.Module, x: Tensor, size: int) -> Tensor:
    if not layer.training:
        return layer(x)
    parts = _parts(x, size)
    y = torch.cat([layer(part) for part in parts])
    return y


def _once(layer: nn.Module, x: Tensor, size: int) -> Tensor:
    """Group by group, with the memory of the whole batch."""
    if not layer.training:
        return layer(x)
    other = copy.deepcopy(layer)
    with torch.no_grad():
        layer(x)
    other.weight, other.bias = layer.weight, layer.bias
    return torch.cat([other(part) for part in _parts(x, size)])


def _without_memory(layer: nn.Module, x: Tensor, size: int) -> Tensor:
    other = copy.deepcopy(layer)
    other.weight, other.bias = layer.weight, layer.bias
    return _ghost(other, x, size)


def _interleaved(layer: nn.Module, x: Tensor, size: int) -> Tensor:
    groups = max(1, len(x) // size)
    if not layer.training or len(x) % groups:
        return _ghost(layer, x, size)
    y = torch.empty_like(x)
    for k in range(groups):
        y[k::groups] = layer(x[k::groups])
    return y


FIXED = "it uses ε = 1e-5: take the layer's own"


def _as_if_training(layer: nn.Module, x: Tensor, size: int) -> Tensor:
    mode = layer.training
    parts = _parts(x, size) if mode else [x]
    y = torch.cat([layer.train(mode or len(x) > 1)(part) for part in parts])
    layer.train(mode)
    return y


OWN = dict(eps=0.1, momentum=0.4)


@check(
    praise="equal to the layer group by group: output, gradient, memory",
    cases=named(
        "x of shape {}, groups of {}, {} mode, {}, {}",
        ((12, 3), 2, "train", {}),
        ((12, 3), 4, "train", OWN),
        ((11, 3), 4, "train", dict(eps=1e-2)),
        ((9, 3), 4, "train", OWN),  # one example is left over
        ((5, 3), 8, "train", dict(momentum=0.3)),
        ((6, 3, 4, 4), 2, "train", OWN),
        ((5, 3, 4, 4), 2, "train", {}),
        ((8, 3, 5), 3, "train", OWN),
        ((12, 3), 4, "train", dict(momentum=None)),
        ((12, 3), 4, "train", dict(affine=False, eps=0.2)),
        ((8, 3), 4, "train", dict(track_running_stats=False)),
        ((12, 3), 4, "train", OWN, "float32"),
        ((12, 3), 4, "train", OWN, "gradients off"),
        ((12, 3), 4, "eval", OWN),
        ((1, 3), 4, "eval", OWN),
    ),
    tolerance=(1e-6, 1e-8),
    hints={
        "the output": "the output is not that of the layer, group by group",
        "whether*": "the output is cut off from the gradient",
        "the gradient*": "the output is right and its gradient is not",
        "running*": "the memory should be updated once per group, as the layer does "
        "it, with its momentum",
        "num_batches_tracked": "the layer counts its batches, one for each group: let "
        "the layer itself run, or count",
        "the mode of*": "it leaves the layer in another mode",
    },
    right={"the layer on each group": _ghost},
    edits={
        "_parts(x, size) -> [x]": "that is one batch: normalise each group by itself",
        "_parts(x, size) -> x.chunk(size) if len(x) >= 2 * size else [x]": "`size` is "
        "the number of examples in a group, not the number of groups",
        "_parts( -> _long_last(": "a last group of one example joins the group before "
        "it; a longer one stays by itself",
        "layer(part) -> _by_hand(layer, part, 1e-5)": FIXED,
        "layer(part) -> _by_hand(layer, part, 1e-5, momentum=layer.momentum)": (FIXED),
        "layer(part) -> _by_hand(layer, part, layer.eps, weight=None, bias=None)": (
            "the layer's γ and β are missing"
        ),
        "return y -> layer.eval()\n    return y": "it leaves the layer in another mode",
    },
    mistakes={
        "a group is consecutive examples, not every k-th one": _interleaved,
        "in eval mode it should use the stored statistics": _as_if_training,
        "the memory should be updated once per group, not once per batch": _once,
        "the memory should be updated once per group, not left alone": _without_memory,
    },
)
def ghost_forward(
    answer: Callable, shape: tuple, size: int, mode: str, options: dict, how: str = ""
) -> dict:
    """Exercise 6.4: a batch-norm layer applied to groups of examples."""
    kind = nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d
    layer = kind(shape[1], **options).train(mode == "train")
    return observe_layer(answer, layer, shape, how, size)


epsilon_gain = Measured(
    "epsilon_gain",  # exercise 6.3: what a larger ε does to a batch of 2
    calls=[(eps,) for eps in EPSILONS],
    ranges=[(f"at {eps:g}", *pair) for eps, pair in EPSILONS.items()],
    said="{:.1f} points at ε = 0.1, {:.1f} at ε = 10",
    asked="after 128 updates in batches of 2, each net at the best of the four rates",
    not_finite="use the rates of `rates(-3, 0)`",
    right=[(-20, 15), (-10, 25), (-30, 6)],
    wrong={
        "a == b: -20 -20": "does ε reach the layers?",
        "max(map(abs, m)) <= 1.2: -0.2 0.15": "measure in points, error in %",
        "min(a, b) >= 33: 40 75": "these look like errors; return the difference to "
        "the nets with ε = 1e-5, seed by seed",
        "a > 0 > b: 20 -15": "the other way round; it is the error, not the accuracy, "
        "with ε minus that with 1e-5",
    },
)


def _two(
    updates: Callable = lambda images, epochs, size, new: images * epochs / new,
    epochs: Callable = lambda images, epochs, size, new: epochs * new / size,
) -> Callable:
    """A right answer, with a part exchanged."""
    return lambda *given: (updates(*given), epochs(*given))


@check(
    praise="both budgets, for larger and for smaller batches",
    cases={
        f"{epochs} epochs of {images} images, batches of {size}, then of {new}": (
            *(images, epochs, size, new),
        )
        for images, epochs, size, new in [
            (1024, 1, 32, 512),
            (1024, 10, 32, 4),
            (4096, 3, 128, 128),
            (60000, 20, 100, 1000),
        ]
    },
    tolerance=(1e-5, 1e-9),
    right={"images, then updates": _two()},
    mistakes={
        "the two are swapped: first the updates, then the epochs": lambda *given: (
            _two()(*given)[::-1]
        ),
        "all epochs count, for the updates": _two(
            updates=lambda images, epochs, size, new: images / new
        ),
        "those are the updates of the old batch size: at equal images a batch of the "
        "new size makes others": _two(
            updates=lambda images, epochs, size, new: images * epochs / size
        ),
        "equal updates: a larger batch passes through the images more often, not "
        "less": _two(epochs=lambda images, epochs, size, new: epochs * size / new),
        "at equal updates the epochs change: each update takes other numbers of "
        "images": _two(epochs=lambda images, epochs, size, new: epochs),
        "the second number is one of epochs: divide the images seen by the images of "
        "an epoch": _two(
            epochs=lambda images, epochs, size, new: images * epochs * new / size
        ),
    },
)
def budgets(answer: Callable, *given: int) -> dict:
    """Exercise 6.1: what another batch size means at equal images, equal updates."""
    both = numbers(answer(*given), (2,), "two numbers")
    names = "the updates at equal images", "the epochs at equal updates"
    return dict(zip(names, both.tolist()))
