"""Checks of chapter 12, a larger net and larger images."""

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from utils.checks.framework import check, expect, expect_written, mean_difference


class _Shuffled(nn.Module):
    """BN layers whose order of use is not the one of their names."""

    def __init__(self):
        super().__init__()
        self.late, self.early = nn.BatchNorm1d(6), nn.BatchNorm2d(3)
        self.conv = nn.Conv2d(3, 6, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (batch, 3, h, w)
        return self.late(self.conv(self.early(x)).flatten(2))


def _models() -> dict[str, tuple[nn.Module, torch.Tensor, dict[str, int]]]:
    """Nets, a batch for each, and what should be counted."""
    conv = nn.Sequential(
        nn.Conv2d(1, 4, 3, 2, 1),
        nn.BatchNorm2d(4),
        nn.Sequential(nn.Conv2d(4, 5, 3, 2, 1), nn.BatchNorm2d(5), nn.ReLU()),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.BatchNorm1d(5),
    )
    image = torch.randn(1, 1, 8, 8)
    frozen = copy.deepcopy(conv)
    frozen[1].eval()
    dense = nn.Sequential(nn.Linear(7, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    return {
        "a dense net and 6 rows": (dense, torch.randn(6, 7), {"1": 6}),
        "a conv net and 3 images": (
            copy.deepcopy(conv),
            image.repeat(3, 1, 1, 1),
            {"1": 48, "2.1": 12, "5": 3},
        ),
        "a conv net and 1 image": (
            copy.deepcopy(conv),
            image,
            {"1": 16, "2.1": 4, "5": 1},
        ),
        "a net in eval mode": (
            copy.deepcopy(conv).eval(),
            image.repeat(2, 1, 1, 1),
            {"1": 32, "2.1": 8, "5": 2},
        ),
        "a net with one frozen layer": (
            frozen,
            image.repeat(2, 1, 1, 1),
            {"1": 32, "2.1": 8, "5": 2},
        ),
        "BN over a sequence": (
            _Shuffled(),
            torch.randn(2, 3, 4, 5),
            {"early": 40, "late": 40},
        ),
        "a net without BN": (nn.Linear(7, 2), torch.randn(2, 7), {}),
    }


def _hooks(model: nn.Module) -> int:
    return sum(
        len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()
    )


@check
def values_per_channel(answer: Callable) -> str:
    """Exercise 12.1: how many values does each BN layer average over?"""
    for where, (model, x, right) in _models().items():
        modes = [m.training for m in model.modules()]
        state = copy.deepcopy(model.state_dict())
        found = answer(model, x)
        expect_written(found)
        expect(
            isinstance(found, dict), f"return a dictionary, got {type(found).__name__}"
        )
        missing = sorted(set(right) - set(found))
        expect(not missing, f"{where}: no entry for {', '.join(missing)}")
        others = sorted(map(str, set(found) - set(right)))
        expect(not others, f"{where}: {', '.join(others)}: no BN layer of that name")
        for name, count in right.items():
            channels = dict(model.named_modules())[name].num_features
            expect(
                found[name] != count * channels or channels == 1,
                f"{where}: all values of {name} are counted; divide by its channels",
            )
            expect(
                found[name] == count,
                f"{where}: {name} has {count} values per channel, got {found[name]}: "
                "images x positions",
            )
        expect(
            [m.training for m in model.modules()] == modes,
            f"{where}: put each layer back in the mode that it was in",
        )
        after = model.state_dict()
        expect(
            all(torch.equal(state[key], after[key]) for key in state),
            f"{where}: the stored statistics have moved: look in eval mode",
        )
        expect(not _hooks(model), f"{where}: remove the hooks when you are done")
    return "right for dense and conv nets, and each net is as it was"


def _rows(rates: dict[float, list[tuple[float, float]]]) -> list[dict[str, str]]:
    """Rows as csv reads them, the seeds in an order of text: 0, 1, 10, 11, 2."""
    rows = [
        {
            "condition": "bn",
            "seed": str(seed),
            "lr": str(lr),
            "validation": str(validation),
            "test": str(test),
        }
        for lr, scores in rates.items()
        for seed, (validation, test) in enumerate(scores)
    ]
    return sorted(rows, key=lambda row: row["seed"])


@check
def tuned(answer: Callable) -> str:
    """Exercise 12.3: the test scores at the rate that validation chose."""
    rest = [(60.0, 61.0 + k) for k in range(8)]  # seeds 4 to 11, trained at one rate
    nan = float("nan")
    best = [(90.0, 80.0), (91.0, 81.0), (89.0, 82.0), (90.0, 83.0)]
    other = [(80.0, 95.0), (81.0, 95.0), (80.0, 95.0), (80.0, 95.0)]
    cases = {
        "three rates": {0.01: other, 0.1: best + rest, 1.0: other},
        "a diverged net": {
            0.01: other,
            0.1: best + rest,
            1.0: [(nan, nan), *[(99.0, 99.0)] * 3],
        },
        "all rates by all seeds": {0.1: best, 0.01: other},
    }
    for where, rates in cases.items():
        given = _rows(rates)
        kept = copy.deepcopy(given)
        result = answer(given)
        expect_written(result)
        expect(given == kept, "leave the rows as they are")
        scores = np.asarray(result, dtype=float)
        right = np.array([test for _, test in rates[0.1]])
        where = f"{where}: "
        expect(
            not np.isnan(scores).any(),
            f"{where}a rate at which a net diverged (nan) cannot be the best",
        )
        expect(
            set(scores.flat) != {95.0},
            f"{where}that is not the best rate by the seeds that trained at *every* "
            "rate; and the test scores choose nothing",
        )
        expect(
            scores.shape == right.shape,
            f"{where}the scores of {len(right)} seeds, ({len(right)},), got shape "
            f"{scores.shape}; are all seeds there that were trained at that rate?",
        )
        expect(
            not np.array_equal(scores, [flatters for flatters, _ in rates[0.1]]),
            f"{where}those are validation scores: they chose, so they flatter",
        )
        expect(
            sorted(scores) != sorted(right) or np.array_equal(scores, right),
            f"{where}in the order of the seeds, as numbers: 2 comes before 10",
        )
        expect(
            np.array_equal(scores, right),
            f"{where}expected {right}, got {scores}",
        )
    return "chosen on validation, told on test"


@check
def from_zero(answer: Callable) -> str:
    """Exercise 12.2: blocks that begin as their path, by the numbers alone."""
    mean = mean_difference(answer(), "train at the rate of the usual net")
    expect(abs(mean) <= 100, "give it in points of accuracy, percent minus percent")
    expect(
        mean < 20,
        "the net that starts at 0 cannot be so much better: subtract the usual one",
    )
    expect(
        mean < -8,
        "that is too little: is `start=0` passed on to the net, and are there 50 "
        "updates?",
    )
    expect(mean > -50, "that is too much: the same rate, and 50 updates of 32")
    return f"blocks that begin as their path are {-mean:.1f} points behind"
