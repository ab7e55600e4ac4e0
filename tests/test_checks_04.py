"""Chapter 04: its checks reject what is wrong and accept what is right."""

import numpy as np
import pytest
import torch
from torch import nn

from tests.verdicts import verdict
from utils import checks


def moments(a):
    return a.mean(dim=0), a.var(dim=0, correction=0)


def by_text(a, p):
    mean, var = moments(a)
    return var / ((var + mean**2) / (1 - p) - mean**2)


def simplified(a, p):
    mean, var = moments(a)
    return (1 - p) * var / (var + p * mean**2)


def in_numpy(a, p):
    a = a.numpy()
    training = (a**2).mean(0) / (1 - p) - a.mean(0) ** 2
    return np.var(a, axis=0) / training


def unbiased(a, p):
    mean, var = a.mean(dim=0), a.var(dim=0)
    return var / (var + (var + mean**2) * p / (1 - p))


def as_a_list(a, p):
    return [float(r) for r in by_text(a, p)]


def both_outcomes(a, p):
    """The mixture itself: each value dropped with weight p, kept with q."""
    q = 1 - p
    values = torch.stack([torch.zeros_like(a), a / q])
    weights = torch.tensor([p, q]).view(2, 1, 1) / len(a)
    mean = (weights * values).sum((0, 1))
    training = (weights * (values - mean) ** 2).sum((0, 1))
    return a.var(0, correction=0) / training


def in_float32(a, p):
    return simplified(a.float(), p)


RIGHT_RATIOS = [
    by_text,
    simplified,
    in_numpy,
    unbiased,
    as_a_list,
    both_outcomes,
    in_float32,
]


def of_moments(formula):
    """An answer from a formula of mean, var and q."""
    return lambda a, p: formula(*moments(a), 1 - p)


WRONG_RATIOS = {
    "the stub": (lambda a, p: None, "returned nothing"),
    "an ellipsis": (lambda a, p: ..., "returned nothing"),
    "upside down": (lambda a, p: 1 / by_text(a, p), "upside down"),
    "q only": (lambda a, p: torch.full((5,), 1 - p), "what does the mean add"),
    "p for q": (lambda a, p: by_text(a, 1 - p), "1 - p units stay"),
    "not inverted": (
        of_moments(lambda m, v, q: v / (q * (v + m**2) - (q * m) ** 2)),
        "inverted dropout",
    ),
    "mean not subtracted": (
        of_moments(lambda m, v, q: v * q / (v + m**2)),
        "subtract the mean's square",
    ),
    "standard deviations": (lambda a, p: by_text(a, p) ** 0.5, "standard deviations"),
    "one number": (lambda a, p: by_text(a, p).mean(), "one ratio per unit"),
    "per example": (lambda a, p: by_text(a.T, p), "one ratio per unit"),
    "over all units": (
        lambda a, p: by_text(a.reshape(-1, 1), p).expand(5),
        "the ratio is",
    ),
    "one draw of few": (
        lambda a, p: a.var(0) / nn.functional.dropout(a[:64], p, training=True).var(0),
        "the ratio is",
    ),
    "p fixed": (lambda a, p: by_text(a, 0.5), "the ratio is"),
    "nan": (lambda a, p: by_text(a, p) * float("nan"), "the ratio is"),
    "raises": (lambda a, p: a / undefined, "NameError"),  # noqa: F821
}


def group(params, decay):
    return {"params": params, "weight_decay": decay}


def split(model, decay, is_weight):
    """Two groups, told apart by module, kind and parameter."""
    weights, others, seen = [], [], set()
    for module in model.modules():
        for kind, p in module.named_parameters(recurse=False):
            if id(p) not in seen:
                seen.add(id(p))
                (weights if is_weight(module, kind, p) else others).append(p)
    return [group(weights, decay), group(others, 0.0)]


LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)


def by_type(model, decay):
    def is_weight(module, kind, p):
        return isinstance(module, LAYERS) and kind == "weight"

    return split(model, decay, is_weight)


def by_axes(model, decay):
    return split(model, decay, lambda module, kind, p: p.dim() >= 2)


def reversed_order(model, decay):
    return by_axes(model, decay)[::-1]


def a_tuple(model, decay):
    return tuple(by_type(model, decay))


def an_iterator(model, decay):
    return [g | {"params": iter(g["params"])} for g in by_axes(model, decay)]


def one_group_each(model, decay):
    return [group([p], decay if p.ndim > 1 else 0) for p in model.parameters()]


def with_a_rate(model, decay):
    return [g | {"lr": 0.1} for g in by_type(model, decay)]


RIGHT_GROUPS = [
    by_type,
    by_axes,
    reversed_order,
    a_tuple,
    an_iterator,
    one_group_each,
    with_a_rate,
]


def doubled(model, decay):
    weights, others = by_axes(model, decay)
    return [weights, others | {"params": others["params"] + weights["params"]}]


def tied_twice(model, decay):
    weights = [m.weight for m in model.modules() if isinstance(m, LAYERS)]
    return [group(weights, decay), by_axes(model, decay)[1]]


def names(model, decay):
    return [
        group([n for n, p in model.named_parameters() if p.ndim > 1], decay),
        group([n for n, p in model.named_parameters() if p.ndim < 2], 0),
    ]


def top_level(model, decay):
    weights = [m.weight for m in model if isinstance(m, LAYERS)]
    ids = {id(p) for p in weights}
    nested = [p for p in model.parameters() if p.ndim > 1 and id(p) not in ids]
    others = by_axes(model, decay)[1]["params"]
    return [group([*{*weights}], decay), group(others + nested, 0)]


def batch_norm_only(module, kind, p):
    return not isinstance(module, nn.modules.batchnorm._BatchNorm) and p.ndim > 0


def has_bn_in_its_name(model, decay):
    yes = [p for n, p in model.named_parameters() if "bn" not in n]
    return [group(yes, decay), group([], 0)]


WRONG_GROUPS = {
    "the stub": (lambda model, decay: None, "returned nothing"),
    "a dictionary": (lambda model, decay: by_axes(model, decay)[0], "list of two"),
    "lists": (
        lambda model, decay: [g["params"] for g in by_axes(model, decay)],
        "list of two",
    ),
    "no decay given": (
        lambda model, decay: [{"params": list(model.parameters())}],
        "list of two",
    ),
    "all decay": (
        lambda model, decay: [group(model.parameters(), decay), group([], 0)],
        "bias has weight decay",
    ),
    "none decay": (
        lambda model, decay: [group(model.parameters(), 0), group([], 0)],
        "weight has weight decay",
    ),
    "weights only": (lambda model, decay: by_axes(model, decay)[:1], "are missing"),
    "doubled": (doubled, "appears twice"),
    "shared twice": (tied_twice, "appears twice"),
    "swapped": (
        lambda model, decay: [
            group(by_axes(model, decay)[1]["params"], decay),
            group(by_axes(model, decay)[0]["params"], 0),
        ],
        "has weight decay",
    ),
    "biases decay": (
        lambda model, decay: split(model, decay, batch_norm_only),
        "bias has weight decay",
    ),
    "by the word weight": (
        lambda model, decay: split(model, decay, lambda m, kind, p: kind == "weight"),
        "BatchNorm1d 1, its weight",
    ),
    "by the word bn": (has_bn_in_its_name, "bias has weight decay"),
    "top level": (top_level, "a nested conv net"),
    "names": (names, "not their names"),
    "copies": (
        lambda model, decay: [
            group([nn.Parameter(p.clone()) for p in g["params"]], g["weight_decay"])
            for g in by_axes(model, decay)
        ],
        "are missing",
    ),
    "decay fixed": (lambda model, decay: by_axes(model, 0.01), "expected 0.3"),
    "bias of linear forgotten": (
        lambda model, decay: split(
            model, decay, lambda m, kind, p: isinstance(m, LAYERS)
        ),
        "bias has weight decay",
    ),
}


@pytest.mark.parametrize("answer", RIGHT_RATIOS)
def test_dropout_ratio_accepts(answer):
    passed, said = verdict(checks.dropout_ratio, answer)
    assert passed, said


@pytest.mark.parametrize("name", WRONG_RATIOS)
def test_dropout_ratio_rejects(name):
    answer, hint = WRONG_RATIOS[name]
    passed, said = verdict(checks.dropout_ratio, answer)
    assert passed is False
    assert hint in said


@pytest.mark.parametrize("answer", RIGHT_GROUPS)
def test_decay_groups_accepts(answer):
    passed, said = verdict(checks.decay_groups, answer)
    assert passed, said


@pytest.mark.parametrize("name", WRONG_GROUPS)
def test_decay_groups_rejects(name):
    answer, hint = WRONG_GROUPS[name]
    passed, said = verdict(checks.decay_groups, answer)
    assert passed is False
    assert hint in said


def costs(narrow, wide, n=12, spread=2.0):
    """An answer with these means, and some spread over the seeds."""
    noise = spread * np.random.default_rng(0).normal(size=n)
    noise -= noise.mean()

    def answer(width):
        return noise + {16: narrow, 64: wide}[width]

    return answer


RIGHT_COSTS = {
    "as measured": costs(-33, -7),
    "other seeds": costs(-26, -5),
    "24 seeds": costs(-35, -2, n=24),
    "a tensor": lambda width: torch.tensor(costs(-33, -7)(width)),
    "a list": lambda width: list(costs(-33, -7)(width)),
}
WRONG_COSTS = {
    "the stub": (lambda width: None, "returned nothing"),
    "a mean": (lambda width: costs(-33, -7)(width).mean(), "one difference for each"),
    "three seeds": (costs(-33, -3, n=3), "one difference for each"),
    "diverged": (lambda width: costs(-33, np.nan)(width), "not finite"),
    "constant": (costs(-33, -3, spread=0), "are they trained"),
    "accuracies": (costs(61, 94), "look like accuracies"),
    "shares": (costs(-0.33, -0.03, spread=0.01), "in points"),
    "reversed": (costs(33, 3), "minus without"),
    "width not used": (costs(-9, -9), "does the width reach"),
    "one dropout": (costs(-3, -0.8), "a dropout behind each ReLU"),
    "no dropout but one": (costs(-33, 0.3), "at 64 we expect"),
    "without BN": (costs(-60, -6), "at 16 we expect"),
}


@pytest.mark.parametrize("name", RIGHT_COSTS)
def test_dropout_cost_accepts(name):
    passed, said = verdict(checks.dropout_cost, RIGHT_COSTS[name])
    assert passed, said


@pytest.mark.parametrize("name", WRONG_COSTS)
def test_dropout_cost_rejects(name):
    answer, hint = WRONG_COSTS[name]
    passed, said = verdict(checks.dropout_cost, answer)
    assert passed is False
    assert hint in said
