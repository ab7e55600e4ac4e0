"""Checks of chapter 05, learning rate."""

import copy
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import nn

from utils.checks.legacy import check, expect, expect_written

# name: rates with the accuracies of their seeds, "!" where a seed diverged;
# the answer
TABLES = {
    "best in the middle": ("0.01: 60 62, 0.1: 95 97, 1: 92 94, 10: 10 12", 1),
    "exactly 5 points below the best still counts": (
        "0.01: 60 60, 0.1: 95 95, 1: 90 90, 10: 89 89",
        1,
    ),
    "the best rate is the highest usable one": (
        "0.1: 70 72, 0.3: 90 92, 1: 80 79",
        0.3,
    ),
    "all rates are usable": ("0.1: 90 91, 0.2: 92 93, 0.4: 91 90", 0.4),
    "a dip in the middle, usable beyond it": (
        "0.01: 94 92, 0.1: 80 82, 1: 93 91, 10: 20 22",
        1,
    ),
    "rates from high to low": ("10: 10 10, 1: 90 92, 0.1: 95 93, 0.01: 50 52", 1),
    "rates in no order": ("0.1: 95 93, 10: 10 10, 0.01: 92 94, 1: 60 62", 0.1),
    "one seed diverged, its accuracy is nan": (
        "0.1: 90 91 92, 1: 93 94 92, 10!: 99 98 nan",
        1,
    ),
    "a rate diverged for one seed, though all accuracies are finite": (
        "0.1: 90 91 92, 1: 93 94 92, 10!: 93 92 91",
        1,
    ),
    "the rate with the best mean diverged for one seed": (
        "0.1: 88 87 86, 0.3: 83 82 84, 0.5: 70 71 72, 1!: 97 98 99, 10!: nan nan nan",
        0.3,
    ),
    "one seed is lucky: the mean counts, not the best seed": (
        "0.1: 90 90 90, 1: 87 87 87, 10: 97 70 70",
        1,
    ),
    "one seed is unlucky: the mean counts, not the worst seed": (
        "0.1: 90 90 90, 1: 93 93 79, 10: 40 40 40",
        1,
    ),
    "one seed fails: the mean counts, not the median seed": (
        "0.1: 90 90 90, 1: 88 88 70, 10: 40 40 40",
        0.1,
    ),
    "low accuracies: 5 points, not 5 percent of the best": (
        "0.1: 40 40, 1: 36 36, 10: 34.9 34.9",
        1,
    ),
}


def _arrays(table: str) -> list[np.ndarray]:
    """A table's rates (rates,), accuracy and diverged (rates, seeds)."""
    rows = [row.split(":") for row in table.split(",")]
    rates = np.array([float(name.strip(" !")) for name, _ in rows])
    accuracy = np.array([[float(x) for x in values.split()] for _, values in rows])
    diverged = np.isnan(accuracy)
    diverged[["!" in name for name, _ in rows], -1] = True
    return [rates, accuracy, diverged]


@check
def highest_usable_rate(answer: Callable) -> str:
    """Exercise 5.1: the highest rate within 5 points, no seed diverged."""
    for name, (table, right) in TABLES.items():
        given, (rates, accuracy, diverged) = _arrays(table), _arrays(table)
        result = answer(*given)
        expect_written(result)
        value = np.asarray(result, dtype=float)
        expect(value.size == 1, f"it should return one rate; got {result!r}")
        value = float(value.reshape(()))
        expect(
            value in rates or value not in range(len(rates)),
            "that looks like a rate's position: return the rate",
        )
        alive = np.where(diverged.any(1), -np.inf, accuracy.mean(1))
        best = rates[alive.argmax()]
        hint = f"it should be {right:g}, yours gives {value:g}"
        if value == best and name == "best in the middle":
            hint = "that is the best rate, asked is the highest usable one"
        bad = rates[diverged.any(1)].tolist()
        expect(
            np.isclose(value, right),
            f"{name}: for the rates {rates.tolist()}, mean accuracies "
            f"{np.round(accuracy.mean(1), 1).tolist()} and some seed diverged "
            f"at {bad or 'none'} {hint}",
        )
        expect(
            all(
                np.array_equal(a, b, equal_nan=True)
                for a, b in zip(given, (rates, accuracy, diverged), strict=True)
            ),
            "it changes the arrays that it was given: work on copies",
        )
    return f"right on {len(TABLES)} tables"


def _net(sizes: Iterable[int], norms: Iterable[bool], bias: bool) -> nn.Sequential:
    """Linear layers with, or without, BN behind each; ReLU; a last layer."""
    layers, sizes = [], list(sizes)
    for inputs, outputs, norm in zip(sizes, sizes[1:], norms, strict=False):
        layers.append(nn.Linear(inputs, outputs, bias=bias or not norm))
        if norm:
            layers.append(nn.BatchNorm1d(outputs, eps=1e-30))
            nn.init.normal_(layers[-1].weight, 1, 0.2)
        layers.append(nn.ReLU())
    return nn.Sequential(*layers, nn.Linear(sizes[-1], 3)).double()


def _before_bn(model: nn.Sequential) -> list[nn.Linear]:
    return [
        layer
        for layer, following in zip(model, model[1:], strict=False)
        if isinstance(layer, nn.Linear) and isinstance(following, nn.BatchNorm1d)
    ]


def _examine_scaling(old: nn.Sequential, new: nn.Sequential, a: float) -> None:
    """The weights before BN, and only they, are a times what they were."""
    to_scale = {id(layer.weight) for layer in _before_bn(new)}
    for (name, was), (_, now) in zip(
        old.named_parameters(), new.named_parameters(), strict=True
    ):
        if id(now) in to_scale:
            expect(
                not torch.equal(now, was),
                f"{name} stands before BN and is unchanged: multiply it by a, in place",
            )
            expect(
                torch.allclose(now, a * was),
                f"{name} should be a times what it was (a = {a:g})",
            )
        else:
            expect(
                torch.equal(now, was),
                f"{name} has changed: multiply only the weights of linear "
                "layers that are directly followed by BN",
            )


def _examine_groups(model: nn.Sequential, groups: object) -> list[dict]:
    if isinstance(groups, dict):
        groups = [groups]
    expect(
        isinstance(groups, (list, tuple)) and all(isinstance(g, dict) for g in groups),
        "it should return a list of dictionaries with params, lr and weight_decay",
    )
    own = {id(p): name for name, p in model.named_parameters()}
    groups = [dict(g) for g in groups]
    found: list[int] = []
    for group in groups:
        expect("params" in group, "a group has no params")
        params = group["params"]
        params = [params] if isinstance(params, torch.Tensor) else list(params)
        group["params"] = params
        found += [id(p) for p in params]
    groups = [group for group in groups if group["params"]]
    expect(
        set(found) <= set(own),
        "a group holds a tensor that is no parameter of the model: "
        "multiply the weights in place, without a copy",
    )
    expect(len(found) == len(set(found)), "a parameter is in two groups")
    # a bias before BN has no gradient: it may be left out
    idle = {id(layer.bias) for layer in _before_bn(model)}
    missing = [own[i] for i in set(own) - set(found) - idle]
    expect(
        not missing,
        f"{', '.join(sorted(missing))} in no group: it would not be trained",
    )
    return groups


def _logits(model: nn.Module, groups: object, lr: float) -> list[torch.Tensor]:
    """Logits in train mode before each of six SGD updates."""
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.SGD(groups, lr=lr)
    logits = []
    for _ in range(6):
        x = torch.randn(16, 5, generator=generator, dtype=torch.float64)
        y = torch.randint(3, (16,), generator=generator)
        logits.append(model(x))
        loss = nn.functional.cross_entropy(logits[-1], y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return [step.detach() for step in logits]


def _why_not(
    model: nn.Sequential, groups: list[dict], a: float, lr: float, decay: float
) -> str:
    """A hint from the rates that an answer has chosen."""
    scaled = {id(layer.weight) for layer in _before_bn(model)}
    idle = {id(layer.bias) for layer in _before_bn(model)}
    for group in groups:
        rate, loss = group.get("lr", lr), group.get("weight_decay", 0.0)
        for p in group["params"]:
            if id(p) in idle:
                continue
            if id(p) in scaled:
                if np.isclose(rate, lr * a):
                    return (
                        "the rate is a times larger; but the gradient is 1/a, "
                        "and the update must be a times larger"
                    )
                if np.isclose(rate, lr / a) or np.isclose(rate, lr / a**2):
                    return "longer weights have a smaller gradient: raise the rate"
                if np.isclose(rate, lr):
                    return "the rate of the scaled weights is that of the original"
                if not np.isclose(rate, lr * a**2):
                    return (
                        "the scaled weights turn by another angle than before: "
                        "look at lr / |W|²"
                    )
                if decay and not np.isclose(loss, decay / a**2):
                    return (
                        "an update takes the share lr * weight_decay from W: "
                        "that product must stay as it was"
                    )
            else:
                if not np.isclose(rate, lr):
                    return "only the scaled weights need another rate"
                if not np.isclose(loss, decay):
                    return "the other parameters keep their weight_decay"
    return "the two runs differ"


@check
def rescale(answer: Callable) -> str:
    """Exercise 5.3: scaled weights, and groups that train the same."""
    cases = [
        ((5, 8), (True,), True),
        ((5, 8, 6), (True, True), False),
        ((5, 8, 6, 6), (True, False, True), True),
        ((5, 8), (False,), True),
    ]
    for a in (10.0, 0.5):
        for decay in (0.0, 0.1):
            for sizes, norms, bias in cases:
                torch.manual_seed(len(sizes))
                old, lr = _net(sizes, norms, bias), 0.2
                new = copy.deepcopy(old)
                groups = answer(new, a, lr, decay)
                expect_written(groups)
                _examine_scaling(old, new, a)
                groups = _examine_groups(new, groups)
                everything = [dict(params=[*old.parameters()], weight_decay=decay)]
                theirs, ours = _logits(new, groups, lr), _logits(old, everything, lr)
                expect(
                    all(
                        torch.allclose(x, y, rtol=1e-6, atol=1e-6)
                        for x, y in zip(theirs, ours, strict=True)
                    ),
                    f"a = {a:g}, weight_decay = {decay:g}: "
                    + _why_not(new, groups, a, lr, decay),
                )
    return "six updates give the same logits, for a = 10 and 0.5"


# The ratio of highest usable rates, a = 3 over a = 1, mean over the seeds: two
# seed sets gave 2.5 to 3.2, and the identities' 9 holds for no grid.
HELD_RATIO, HELD_AT_ONE = (1.4, 6.0), (0.4, 2.5)


@check
def held_at(answer: Callable) -> str:
    """Exercise 5.2: the highest usable rate with longer weights, by its numbers."""
    found = {}
    for a in (1, 3):
        result = answer(a)
        expect_written(result)
        values = np.asarray(result, dtype=float)
        expect(
            values.ndim == 1 and len(values) >= 12,
            "return one rate for each of 12 seeds or more, (seeds,); got shape "
            f"{values.shape}",
        )
        expect(
            np.isfinite(values).all() and (values > 0).all(),
            "a rate is a positive number: return the rates, not their logarithms",
        )
        expect(
            (values < 100).all(),
            "these are no rates of this net (accuracies?): return highest(...)",
        )
        found[a] = float(np.exp(np.log(values).mean()))
    ratio = found[3] / found[1]
    told = f"{found[1]:.2g} at a = 1 and {found[3]:.2g} at a = 3"
    low, high = HELD_AT_ONE
    expect(
        found[1] < high,
        f"{told}: with He's length and without the brake it is about 1; are the "
        "lengths held?",
    )
    expect(
        found[1] > low,
        f"{told}: with He's length it is about 1; does your grid reach high "
        "enough, is it `highest` (not the best rate), after 200 updates?",
    )
    expect(
        ratio != 1, f"{told}: the same for both; does `a` reach the initial weights?"
    )
    expect(
        ratio > 1,
        f"{told}: longer weights turn less at the same rate, so they bear a larger "
        "one; multiply by a, do not divide",
    )
    low, high = HELD_RATIO
    expect(
        ratio > low,
        f"{told}: does your grid reach high enough for a = 3, up to 10?",
    )
    expect(
        ratio < high,
        f"{told}: we expect a smaller step up; do you run the nets, at a = 3, not 9?",
    )
    return f"{told}: {ratio:.1f} times"
