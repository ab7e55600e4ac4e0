"""Checks of chapter 07, mini-batch size 1."""

import copy
from collections.abc import Callable

import torch
from torch import nn

from utils.checks.framework import check, expect, expect_written


@check
def batch_of_two(answer: Callable) -> str:
    """Exercise 7.2: the normalised value of a in the batch {a, b}."""
    difference = torch.tensor([3.0, 0.5, 0.02, 1e-3, 0.0, -1e-3, -0.3, -40.0])
    a = torch.linspace(-2, 2, 8, dtype=torch.float64)
    b = a - difference.double()

    def close(result: torch.Tensor, wrong: torch.Tensor) -> bool:
        return torch.allclose(result, wrong, rtol=1e-4, atol=1e-6)

    for eps in (1e-5, 1e-3):
        pair = torch.stack([a, b])  # (2, 8): eight features, two examples
        layer = nn.BatchNorm1d(8, eps=eps, affine=False, dtype=torch.float64)
        right = layer(pair)[0]
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
        worst = int((result - right).abs().nan_to_num(nan=torch.inf).argmax())
        expect(
            close(result, right),
            f"for a - b = {difference[worst]:g} and eps = {eps:g} BN gives "
            f"{right[worst]:.6f}, yours gives {result[worst]:.6f}",
        )
    return "equal to nn.BatchNorm1d, from large differences down to none"


def _head(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), *layers)


@check
def starving_layers(answer: Callable) -> str:
    """Exercise 7.1: names of the BN layers with one value per channel."""
    pooled = nn.Sequential()
    pooled.add_module("body", _head())
    pooled.add_module("pool", nn.AdaptiveAvgPool2d(1))
    pooled.add_module("head", nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)))
    dense = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    series = nn.Sequential(nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4))
    others = nn.Sequential(nn.Linear(3, 4), nn.GroupNorm(2, 4), nn.LayerNorm(4))
    cases = [
        ("a dense net, batch 1", dense, (1, 3), ["1"]),
        ("a dense net, batch 2", dense, (2, 3), []),
        ("a conv net, batch 1", _head(), (1, 1, 7, 7), []),
        ("a pooled branch, batch 1", pooled, (1, 1, 7, 7), ["head.1"]),
        ("a pooled branch, batch 2", pooled, (2, 1, 7, 7), []),
        ("a series of length 1 after the conv", series, (1, 2, 3), ["1"]),
        ("a series of length 2 after the conv", series, (1, 2, 4), []),
        ("group and layer norm, batch 1", others, (1, 3), []),
    ]
    for name, model, shape, right in cases:
        for training in (True, False):
            model.train(training)
            before = copy.deepcopy(model.state_dict())
            result = answer(model, torch.randn(shape))
            expect_written(result)
            expect(
                not isinstance(result, str) and sorted(result) == right,
                f"{name}, input {shape}: expected {right}, got {result!r}",
            )
            modules = list(model.modules())
            expect(
                all(m.training == training for m in modules),
                "it leaves the model in another mode: restore train or eval",
            )
            expect(
                not any(m._forward_hooks or m._forward_pre_hooks for m in modules),
                "it leaves hooks on the layers: remove them in the end",
            )
            expect(
                all(torch.equal(v, before[k]) for k, v in model.state_dict().items()),
                "it changes the running statistics: run the model in eval mode",
            )
    mixed = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.BatchNorm1d(4))
    mixed.train()
    mixed[1].eval()
    answer(mixed, torch.randn(1, 3))
    expect(
        [m.training for m in mixed] == [True, False, True],
        "one layer was frozen in eval mode before, and is in train mode now: "
        "restore the mode of each layer",
    )
    return "all starving layers found, and the model is as it was"
