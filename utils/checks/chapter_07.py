"""Checks of chapter 07, mini-batch size 1."""

import copy
from collections.abc import Callable

import torch
from torch import nn

from utils.checks.framework import check, expect, expect_written


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


def _conv(*layers: nn.Module, kernel: int | tuple[int, int] = 3) -> nn.Module:
    conv = nn.Conv2d(1, 4, kernel)
    return nn.Sequential(conv, nn.BatchNorm2d(4), nn.ReLU(), *layers)


def _left_behind(model: nn.Module) -> str:
    """What an answer has changed on the model besides its state."""
    for m in model.modules():
        hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
        if any(getattr(m, name) for name in hooks):
            return "it leaves hooks on the layers: remove them in the end"
        if "forward" in vars(m):
            return "it leaves a changed forward on a layer: put the old one back"
    if not all(p.requires_grad for p in model.parameters()):
        return "it leaves parameters frozen: restore requires_grad"
    return ""


@check
def starving_layers(answer: Callable) -> str:
    """Exercise 7.1: names of the BN layers with one value per channel."""
    pooled = nn.Sequential()
    pooled.add_module("body", _conv())
    pooled.add_module("pool", nn.AdaptiveAvgPool2d(1))
    pooled.add_module("head", nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)))
    dense = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    deep = nn.Sequential(*dense, nn.BatchNorm1d(2))
    series = nn.Sequential(nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4))
    others = nn.Sequential(nn.Linear(3, 4), nn.GroupNorm(2, 4), nn.LayerNorm(4))
    cases = [
        ("a dense net, batch 1", dense, (1, 3), ["1"]),
        ("a dense net, batch 2", dense, (2, 3), []),
        ("two BN layers, batch 1", deep, (1, 3), ["1", "3"]),
        ("a conv net, batch 1", _conv(), (1, 1, 7, 7), []),
        ("a column of positions", _conv(kernel=(3, 7)), (1, 1, 7, 7), []),
        ("a row of positions", _conv(kernel=(7, 3)), (1, 1, 7, 7), []),
        ("a pooled branch, batch 1", pooled, (1, 1, 7, 7), ["head.1"]),
        ("a pooled branch, batch 2", pooled, (2, 1, 7, 7), []),
        ("a series of length 1 after the conv", series, (1, 2, 3), ["1"]),
        ("a series of length 2 after the conv", series, (1, 2, 4), []),
        ("instance norm", _conv(nn.InstanceNorm2d(4)), (1, 1, 7, 7), []),
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
            expect(
                all(m.training == training for m in model.modules()),
                "it leaves the model in another mode: restore train or eval",
            )
            left = _left_behind(model)
            expect(not left, left)
            expect(
                all(torch.equal(v, before[k]) for k, v in model.state_dict().items()),
                "it changes the running statistics: run the model in eval mode",
            )
    layers = [nn.Linear(3, 4), nn.BatchNorm1d(4), nn.BatchNorm1d(4), nn.Dropout()]
    mixed = nn.Sequential(*layers).train()
    mixed[1].eval()
    mixed[3].eval()
    names = sorted(answer(mixed, torch.randn(1, 3)) or [])
    expect(
        [m.training for m in mixed] == [True, False, True, False],
        "some layers were frozen in eval mode before, and are in train mode "
        "now: restore the mode of each layer",
    )
    expect(
        names == ["1", "2"],
        f"a layer in eval mode counts, too: expected ['1', '2'], got {names}",
    )
    return "all starving layers found, and the model is as it was"
