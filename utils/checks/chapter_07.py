"""Checks of chapter 07, mini-batch size 1."""

import copy
from collections.abc import Callable

import torch
from torch import nn

from utils.checks.legacy import (
    check,
    expect,
    expect_written,
    mean_difference,
)


@check
def batch_of_two(answer: Callable) -> str:
    """Exercise 7.2: the normalised value of a in the batch {a, b}."""
    difference = torch.tensor(
        [[3.0, 0.5, 0.02, 1e-3], [0.0, -1e-3, -0.3, -40.0]], dtype=torch.float64
    )
    a = torch.linspace(-2, 2, 8, dtype=torch.float64).view(2, 4)
    b = a - difference

    def close(result: torch.Tensor, wrong: torch.Tensor) -> bool:
        return torch.allclose(result, wrong, rtol=1e-4, atol=1e-5)

    for eps in (1e-5, 1e-3):
        pair = torch.stack([a.flatten(), b.flatten()])  # (2, 8): 8 features
        layer = nn.BatchNorm1d(8, eps=eps, affine=False, dtype=torch.float64)
        right = layer(pair)[0].view_as(a)
        result = answer(a.clone(), b.clone(), eps)
        expect_written(result)
        result = torch.as_tensor(result, dtype=torch.float64)
        expect(
            result.shape == a.shape,
            f"for a and b of shape {tuple(a.shape)} it should return that "
            f"shape, one value for each a; got {tuple(result.shape)}",
        )
        half = (a - b) / 2
        expect(
            not close(result, -right),
            "the sign is reversed: when a > b, a lies above the mean",
        )
        expect(
            not close(result, half / torch.sqrt(2 * half**2 + eps)),
            "that is the variance divided by N - 1; to normalise, BN divides by N",
        )
        expect(
            not close(result, half / (half.abs() + eps)),
            "eps is added to the variance, under the root, not to its root",
        )
        expect(
            not close(torch.nan_to_num(result), torch.sign(half)),
            "right for large differences; now mind eps: what if a and b are "
            "nearly the same?",
        )
        error = (result - right).abs() - 1e-4 * right.abs()
        worst = error.nan_to_num(nan=torch.inf).argmax()
        gap, expected, got = (t.flatten()[worst] for t in (difference, right, result))
        expect(
            close(result, right),
            f"for a - b = {gap:g} and eps = {eps:g} BN gives "
            f"{expected:.6f}, yours gives {got:.6f}",
        )
    return "equal to nn.BatchNorm1d, from large differences down to none"


LAYERS = {  # name: the layer, the shape of its input, values per channel
    "a dense input": (nn.BatchNorm1d, (6, 4), 6),
    "one example": (nn.BatchNorm1d, (1, 4), 1),
    "a sequence": (nn.BatchNorm1d, (2, 4, 5), 10),
    "an image": (nn.BatchNorm2d, (1, 4, 3, 2), 6),
    "two images": (nn.BatchNorm2d, (2, 4, 5, 5), 50),
    "a pooled image": (nn.BatchNorm2d, (1, 4, 1, 1), 1),
}


def _norm(kind: type[nn.Module]) -> nn.Module:
    """A layer whose γ, β and running statistics are not 0 and 1."""
    layer = kind(4, eps=1e-3, momentum=0.3, dtype=torch.float64)
    with torch.no_grad():
        for tensor, low, high in (
            (layer.weight, 0.5, 2),
            (layer.bias, -1, 1),
            (layer.running_mean, -1, 1),
            (layer.running_var, 0.5, 3),
        ):
            tensor.uniform_(low, high)
    return layer


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-6, atol=1e-8)


def _compare(name: str, answer: Callable, at_least: int, training: bool) -> None:
    kind, shape, values = LAYERS[name]
    ours = _norm(kind).train(training)
    theirs = copy.deepcopy(ours)
    enough = training and values >= at_least
    theirs.train(enough)
    x1 = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    x2 = x1.detach().clone().requires_grad_()
    right = theirs(x2)
    if not enough:
        theirs.train(training)
    stored = copy.deepcopy(ours).eval()(x2).detach()
    try:
        result = answer(ours, x1, at_least)
    except ValueError as error:
        expect(
            "more than 1 value" not in str(error),
            f"{name}, shape {shape}: PyTorch's error; with too few values do not "
            "call the layer in train mode",
        )
        raise
    expect_written(result)
    case = (
        f"{name}, shape {shape}, {values} values per channel, at_least={at_least}, "
        f"{'train' if training else 'eval'} mode"
    )
    expect(isinstance(result, torch.Tensor), f"{case}: return the layer's output")
    expect(
        _same(result.detach(), right.detach()) or not _same(result.detach(), stored),
        f"{case}: these are enough, and it used the stored statistics. Count images "
        "times positions; `at_least` itself is enough",
    )
    expect(
        _same(result.detach(), right.detach()) or enough or not training,
        f"{case}: too few, so the output should be that of eval mode",
    )
    expect(
        _same(result.detach(), right.detach()),
        f"{case}: the output is not that of the layer in this mode; mind γ, β and the "
        "layer's own eps",
    )
    expect(ours.training == training, f"{case}: it leaves the layer in another mode")
    for key, value in theirs.state_dict().items():
        expect(
            torch.equal(ours.state_dict()[key], value)
            or _same(ours.state_dict()[key].double(), value.double()),
            f"{case}: {key} should " + ("move on" if enough else "stay as it was"),
        )
    expect(result.requires_grad, f"{case}: no gradient can flow through the output")
    (right**3).sum().backward()
    (result**3).sum().backward()
    pairs = [(x1, x2), (ours.weight, theirs.weight), (ours.bias, theirs.bias)]
    expect(
        all(a.grad is not None and _same(a.grad, b.grad) for a, b in pairs),
        f"{case}: the gradient to γ, β or x is not the layer's",
    )


@check
def careful(answer: Callable) -> str:
    """Exercise 7.4: a BN layer that takes stored statistics for small batches."""
    for training in (True, False):
        for at_least in (6, 2, 7, 51):
            for name in LAYERS:
                _compare(name, answer, at_least, training)
    return "the layer, where it has enough values; its stored statistics elsewhere"


# Points lost when one BN layer takes its statistics per image, and what we accept
COSTS = {0: (-20.0, 25.0), 1: (-20.0, 25.0)}


@check
def layer_cost(answer: Callable) -> str:
    """Exercise 7.5: one early BN layer per image, by its numbers alone."""
    advice = "choose lower rates"
    first, second = (mean_difference(answer(place), advice) for place in (0, 1))
    found = f"{first:.1f} points in the first layer, {second:.1f} in the second"
    expect(
        max(abs(first), abs(second)) < 40,
        f"{found}: these look like accuracies, or like the last layer's loss",
    )
    expect(first != second, f"{found}: does `place` reach the net?")
    expect(
        max(abs(first), abs(second)) > 0.35,
        f"{found}: measure in points, with accuracy in %",
    )
    for place, loss in ((0, first), (1, second)):
        low, high = COSTS[place]
        expect(
            low < loss < high,
            f"{found}; in layer {place} we expect {low:g} to {high:g} after 128 "
            "updates in batches of 8, each net at the best of the four rates",
        )
    return found
