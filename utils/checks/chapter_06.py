"""Checks of chapter 06, batch size."""

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from utils.checks.framework import (
    Measured,
    Wrong,
    check,
    expect,
    expect_written,
)
from utils.checks.modules import fill, state_of
from utils.checks.numbers import tensor

# Exercise 6.3: error with this ε minus that with 1e-5, points, over seed sets
EPSILONS = {0.1: (-36, -7), 10: (3, 32)}


def _needed(
    law: Callable = lambda kappa, error: (kappa - 1) / error**2,
    worst: Callable = lambda kappa, var: kappa.max(),
    centre: Callable = lambda x: x - x.mean(0),
    end: Callable = math.ceil,
) -> Callable:
    """A right answer, with a part exchanged."""

    def answer(x: Tensor, error: float) -> float:
        c = centre(x.detach())
        kappa = (c**4).mean(0) / (c**2).mean(0) ** 2
        return end(law(worst(kappa, c.var(0)).item(), error))

    return answer


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
    cases={
        f"{name}, error {error:g}{', ' + how if how else ''}": (name, error, how)
        for name, error, how in [
            ("a normal feature", 0.1, ""),
            ("a uniform feature", 0.05, ""),
            ("a feature far from 0, of small spread", 0.2, ""),
            ("a heavy tail in the middle", 0.1, ""),
            ("a heavy tail of small variance first", 0.2, ""),
            ("a heavy tail of small variance last", 0.15, ""),
            ("seven features", 0.08, ""),
            ("a heavy tail in the middle", 0.2, "float32"),
        ]
    },
    tolerance=(0.0, 4.0),
    hints={"the given x": "it changes the x that it was given: work on new tensors"},
    right={"the law": _needed(), "the exact law": _exact},
    mistakes={
        "that is right for normal features only: measure κ": _needed(
            law=lambda kappa, error: 2 / error**2
        ),
        "that is the number for the mean, not for the variance": _needed(
            law=lambda kappa, error: 1 / error**2
        ),
        "the relative standard deviation is the root": _needed(
            law=lambda kappa, error: (kappa - 1) / error
        ),
        "the law has κ - 1, not κ": _needed(law=lambda kappa, error: kappa / error**2),
        "κ here is 3 for a normal distribution: it is not the excess κ - 3": _needed(
            law=lambda kappa, error: (kappa - 4) / error**2
        ),
        "κ is 3 for a normal distribution: add nothing": _needed(
            law=lambda kappa, error: (kappa + 2) / error**2
        ),
        "it must be enough for every feature, also for the worst": _needed(
            worst=lambda kappa, var: kappa.min()
        ),
        "it must be enough for every feature, not on average": _needed(
            worst=lambda kappa, var: kappa.mean()
        ),
        "it must be enough for every feature, not for the first": _needed(
            worst=lambda kappa, var: kappa[0]
        ),
        "it must be enough for every feature, not for the one with the largest "
        "variance": _needed(worst=lambda kappa, var: kappa[var.argmax()]),
        "take the moments about the mean: subtract it first": _needed(
            centre=lambda x: x
        ),
    },
)
def images_needed(answer: Callable, name: str, error: float, how: str) -> dict:
    """Exercise 6.2: the smallest batch size for a variance that good."""
    x = _features()[name]
    x = x.float() if how == "float32" else x
    before = x.clone()
    result = answer(x, error)
    expect_written(result)
    result = torch.as_tensor(result).detach()
    expect(
        result.numel() == 1,
        "return one number, the batch size that is enough for every feature; got shape "
        f"{tuple(result.shape)}",
    )
    n = float(result)
    expect(
        abs(n - round(n)) < 1e-9, f"a batch size is a whole number: got {n:g}; round up"
    )
    return {"the batch size": n, "the given x": bool((x == before).all())}


def _parts(x: Tensor, size: int) -> list[Tensor]:
    parts = list(x.split(size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


def _by_hand(layer: nn.Module, x: Tensor, **more: object) -> Tensor:
    settings = dict(momentum=layer.momentum, eps=layer.eps) | more
    memory = layer.running_mean, layer.running_var
    return F.batch_norm(
        x, *memory, layer.weight, layer.bias, layer.training, **settings
    )


def _ghost(
    cut: Callable = _parts,
    run: Callable = lambda layer, part: layer(part),
    in_eval: Callable = lambda layer, x: layer(x),
) -> Callable:
    """A right answer, with a part exchanged."""

    def answer(layer: nn.Module, x: Tensor, size: int) -> Tensor:
        if not layer.training:
            return in_eval(layer, x)
        return torch.cat([run(layer, part) for part in cut(x, size)])

    return answer


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
    return (
        torch.cat([other(part) for part in _parts(x, size)])
        if layer.training
        else layer(x)
    )


def _interleaved(layer: nn.Module, x: Tensor, size: int) -> Tensor:
    groups = max(1, len(x) // size)
    if not layer.training or len(x) % groups:
        return _ghost()(layer, x, size)
    y = torch.empty_like(x)
    for k in range(groups):
        y[k::groups] = layer(x[k::groups])
    return y


def _left_in_eval(layer: nn.Module, x: Tensor, size: int) -> Tensor:
    y = _ghost()(layer, x, size)
    layer.eval()
    return y


def _as_if_training(layer: nn.Module, x: Tensor) -> Tensor:
    mode = layer.training
    y = layer.train()(x)
    layer.train(mode)
    return y


def _ghost_cases() -> dict[str, tuple]:
    own = dict(eps=0.1, momentum=0.4)
    return {
        "6 groups of 2": ((12, 3), 2, True, {}),
        "3 groups of 4": ((12, 3), 4, True, own),
        "groups of 4, 4, 3": ((11, 3), 4, True, dict(eps=1e-2)),
        "groups of 4 and 5: one example is left over": ((9, 3), 4, True, own),
        "a size larger than the batch": ((5, 3), 8, True, dict(momentum=0.3)),
        "images, groups of 2": ((6, 3, 4, 4), 2, True, own),
        "images, groups of 2 and 3": ((5, 3, 4, 4), 2, True, {}),
        "sequences": ((8, 3, 5), 3, True, own),
        "momentum None": ((12, 3), 4, True, dict(momentum=None)),
        "affine=False": ((12, 3), 4, True, dict(affine=False, eps=0.2)),
        "no stored statistics": ((8, 3), 4, True, dict(track_running_stats=False)),
        "float32": ((12, 3), 4, True, own, torch.float32),
        "gradients off": ((12, 3), 4, True, own, torch.float64, "off"),
        "eval mode": ((12, 3), 4, False, own),
        "eval mode, one example": ((1, 3), 4, False, own),
    }


@check(
    praise="equal to the layer group by group: output, gradient, memory",
    cases=_ghost_cases(),
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
    right={"the layer on each group": _ghost()},
    mistakes={
        "that is one batch: normalise each group by itself": _ghost(
            cut=lambda x, size: [x]
        ),
        "`size` is the number of examples in a group, not the number of groups": _ghost(
            cut=lambda x, size: (
                [p for p in x.chunk(size)] if len(x) >= 2 * size else [x]
            )
        ),
        "a group is consecutive examples, not every k-th one": _interleaved,
        "a last group of one example joins the group before it; a longer one stays by "
        "itself": _ghost(
            cut=lambda x, size: (
                list(x.split(size))
                if len(x) % size == 0 or len(x) < size
                else [*x[: len(x) // size * size - size].split(size)]
                + [x[len(x) // size * size - size :]]
            )
        ),
        "it uses ε = 1e-5: take the layer's own": _ghost(
            run=lambda layer, x: _by_hand(layer, x, eps=1e-5)
        ),
        "the layer's γ and β are missing": _ghost(
            run=lambda layer, x: F.batch_norm(
                x,
                layer.running_mean,
                layer.running_var,
                None,
                None,
                True,
                layer.momentum or 0.1,
                layer.eps,
            )
        ),
        "in eval mode it should use the stored statistics": _ghost(
            in_eval=lambda layer, x: (
                _as_if_training(layer, x) if len(x) > 1 else layer(x)
            )
        ),
        "the memory should be updated once per group, not once per batch": _once,
        "the memory should be updated once per group, not left alone": _without_memory,
        "it leaves the layer in another mode": _left_in_eval,
    },
)
def ghost_forward(
    answer: Callable,
    shape: tuple,
    size: int,
    training: bool,
    options: dict,
    dtype: torch.dtype = torch.float64,
    how: str = "",
) -> dict:
    """Exercise 6.4: a batch-norm layer applied to groups of examples."""
    kind = nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d
    layer = fill(kind(shape[1], **options)).to(dtype).train(training)
    x = 1 + 2 * torch.randn(shape, dtype=dtype)
    before, weights = x.clone(), torch.randn(shape, dtype=dtype)
    x.requires_grad_()
    with torch.set_grad_enabled(how != "off"):
        y = answer(layer, x, size)
    expect_written(y)
    expect(
        isinstance(y, Tensor) and y.shape == x.shape,
        f"return one tensor of the shape of x, {tuple(shape)}",
    )
    seen = {"the output": y.detach(), "whether it has a gradient": y.requires_grad}
    seen["the given x"] = bool((x == before).all())
    if y.requires_grad:
        inputs = [x, *layer.parameters()]
        found = torch.autograd.grad((y * weights).sum(), inputs, allow_unused=True)
        for name, one in zip(("x", "γ", "β"), found):
            seen[f"the gradient of {name}"] = one
    return seen | dict(state_of(layer))


epsilon_gain = Measured(
    "epsilon_gain",  # exercise 6.3: what a larger ε does to a batch of 2
    calls=[(eps,) for eps in EPSILONS],
    ranges=[(f"at {eps:g}", *pair) for eps, pair in EPSILONS.items()],
    said="{:.1f} points at ε = 0.1, {:.1f} at ε = 10",
    asked="after 128 updates in batches of 2, each net at the best of the four rates",
    not_finite="use the rates of `rates(-3, 0)`",
    right=[(-20, 15), (-10, 25), (-30, 6)],
    wrong=[
        Wrong("does ε reach the layers?", lambda a, b: a == b, (-20, -20)),
        Wrong(
            "measure in points, error in %",
            lambda a, b: max(abs(a), abs(b)) <= 1.2,
            (-0.2, 0.15),
        ),
        Wrong(
            "these look like errors; return the difference to the nets with ε = 1e-5, "
            "seed by seed",
            lambda a, b: min(a, b) >= 33,
            (40, 75),
        ),
        Wrong(
            "the other way round; it is the error, not the accuracy, with ε minus that "
            "with 1e-5",
            lambda a, b: a > 0 > b,
            (20, -15),
        ),
    ],
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
    both = tensor(answer(*given), "two numbers")
    expect(both.shape == (2,), f"it should return two numbers, got {tuple(both.shape)}")
    names = "the updates at equal images", "the epochs at equal updates"
    return dict(zip(names, both.tolist()))
