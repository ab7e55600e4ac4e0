"""Chapter 05: its checks reject what is wrong and accept what is right."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from tests.verdicts import verdict
from utils import checks


def usable(rates, accuracy, diverged):
    """Indices of the usable rates, with plain loops."""
    alive = [i for i in range(len(rates)) if not any(diverged[i])]
    means = {i: sum(accuracy[i]) / len(accuracy[i]) for i in alive}
    return [i for i in alive if means[i] >= max(means.values()) - 5]


def with_nanmax(rates, accuracy, diverged):
    mean = np.where(diverged.any(1), np.nan, accuracy.mean(1))
    return rates[mean >= np.nanmax(mean) - 5].max()


def sorted_first(rates, accuracy, diverged):
    order = np.argsort(rates)[::-1]
    for i in order:
        if i in usable(rates, accuracy, diverged):
            return rates[i]


def in_torch(rates, accuracy, diverged):
    rates, accuracy, bad = map(torch.as_tensor, (rates, accuracy, diverged))
    mean = accuracy.mean(1).masked_fill(bad.any(1), -torch.inf)
    return rates[mean >= mean.max() - 5].max()


RIGHT_RATES = {
    "loops": lambda r, a, d: max(r[i] for i in usable(r, a, d)),
    "nanmax": with_nanmax,
    "from the top": sorted_first,
    "a torch scalar": in_torch,
    "an array of one": lambda r, a, d: np.array([with_nanmax(r, a, d)]),
    "a float": lambda r, a, d: float(with_nanmax(r, a, d)),
}


def means_of(a, d):
    return np.where(d.any(1), -np.inf, a.mean(1))


def stops_at_the_dip(r, a, d):
    """Walks up from the lowest rate until one is not usable."""
    last = None
    for i in np.argsort(r):
        if i in usable(r, a, d):
            last = r[i]
        elif last is not None:
            break
    return last


def best_of_all(r, a, d):
    """Takes the best among the diverged rates, too."""
    mean = np.nanmean(a, axis=1) if not np.isnan(a).all(1).any() else np.nan_to_num(a)
    mean = mean if mean.ndim == 1 else mean.mean(1)
    ok = ~d.any(1) & (mean >= mean.max() - 5)
    return r[ok].max() if ok.any() else r[~d.any(1)].max()


def writes_on_them(r, a, d):
    a[d] = -np.inf
    m = a.mean(1)
    return r[m >= m.max() - 5].max()


WRONG_RATES = {
    "the stub": (lambda r, a, d: None, "returned nothing"),
    "an ellipsis": (lambda r, a, d: ..., "returned nothing"),
    "the position": (lambda r, a, d: max(usable(r, a, d)), "position"),
    "all usable rates": (lambda r, a, d: r[usable(r, a, d)], "one rate"),
    "the best rate": (lambda r, a, d: r[means_of(a, d).argmax()], "the best rate"),
    "strictly within": (
        lambda r, a, d: r[means_of(a, d) > means_of(a, d).max() - 5].max(),
        "exactly 5 points",
    ),
    "the highest that lives": (lambda r, a, d: r[~d.any(1)].max(), "in the middle"),
    "the lowest usable": (
        lambda r, a, d: min(r[i] for i in usable(r, a, d)),
        "the best rate",
    ),
    "stops at a dip": (stops_at_the_dip, "a dip in the middle"),
    "the last in the table": (
        lambda r, a, d: r[usable(r, a, d)[-1]],
        "from high to low",
    ),
    "the first in the table": (
        lambda r, a, d: r[usable(r, a, d)[0]],
        "the best rate",
    ),
    "ignores diverged, skips nan": (
        lambda r, a, d: r[np.nanmean(a, 1) >= np.nanmax(np.nanmean(a, 1)) - 5].max(),
        "is nan",
    ),
    "only nan counts as diverged": (
        lambda r, a, d: with_nanmax(r, a, np.isnan(a)),
        "all accuracies are finite",
    ),
    "out only where all diverged": (
        lambda r, a, d: r[
            ~d.all(1) & (np.nanmean(a, 1) >= np.nanmean(a, 1)[~d.any(1)].max() - 5)
        ].max(),
        "is nan",
    ),
    "best among diverged rates, too": (best_of_all, "best mean diverged"),
    "the best seed": (
        lambda r, a, d: with_nanmax(r, a.max(1, keepdims=True), d),
        "lucky",
    ),
    "the median seed": (
        lambda r, a, d: with_nanmax(r, np.median(a, 1, keepdims=True), d),
        "not the median",
    ),
    "the worst seed": (
        lambda r, a, d: with_nanmax(r, a.min(1, keepdims=True), d),
        "not the worst",
    ),
    "5 percent": (
        lambda r, a, d: r[means_of(a, d) >= 0.95 * means_of(a, d).max()].max(),
        "exactly 5 points",
    ),
    "raises": (lambda r, a, d: undefined, "NameError"),  # noqa: F821
    "changes its arrays": (writes_on_them, "work on copies"),
}


def before_bn(model):
    pairs = zip(model, list(model)[1:], strict=False)
    return [
        one.weight
        for one, two in pairs
        if isinstance(one, nn.Linear) and isinstance(two, nn.BatchNorm1d)
    ]


def answer(
    rate=lambda lr, a: lr * a * a,
    decay=lambda wd, a: wd / a / a,
    scale=lambda w, a: w.mul_(a),
    which=before_bn,
    others=lambda model, scaled: scaled,
    other_lr=lambda lr, a: lr,
    other_decay=lambda wd, a: wd,
):
    """An answer to exercise 5.3 with one part changed."""

    @torch.no_grad()
    def rescale(model, a, lr, weight_decay=0.0):
        scaled = list(which(model))
        for w in scaled:
            scale(w, a)
        ids = {id(w) for w in others(model, scaled)}
        rest = [p for p in model.parameters() if id(p) not in ids]
        return [
            dict(params=scaled, lr=rate(lr, a), weight_decay=decay(weight_decay, a)),
            dict(
                params=rest,
                lr=other_lr(lr, a),
                weight_decay=other_decay(weight_decay, a),
            ),
        ]

    return rescale


def one_group_each(model, a, lr, weight_decay=0.0):
    groups = answer()(model, a, lr, weight_decay)
    return tuple(
        dict(params=p, lr=g["lr"], weight_decay=g["weight_decay"])
        for g in groups
        for p in g["params"]
    )


def idle_biases_left_out(model, a, lr, weight_decay=0.0):
    groups = answer()(model, a, lr, weight_decay)
    pairs = zip(model, list(model)[1:], strict=False)
    idle = {
        id(one.bias)
        for one, two in pairs
        if isinstance(two, nn.BatchNorm1d) and one.bias is not None
    }
    groups[1]["params"] = [p for p in groups[1]["params"] if id(p) not in idle]
    return [g for g in groups if g["params"]]


def default_lr(model, a, lr, weight_decay=0.0):
    """Says nothing of the weight decay where it is 0."""
    groups = answer()(model, a, lr, weight_decay)
    for group in groups:
        if not weight_decay:
            del group["weight_decay"]
    return groups


def a_generator(model, a, lr, weight_decay=0.0):
    for group in answer()(model, a, lr, weight_decay):
        group["params"] = iter(group["params"])
        yield group


def linears(model):
    return [m.weight for m in model if isinstance(m, nn.Linear)]


def works_on_a_copy(model, a, lr, weight_decay=0.0):
    return answer()(copy.deepcopy(model), a, lr, weight_decay)


def copied_tensors(model, a, lr, weight_decay=0.0):
    groups = answer()(model, a, lr, weight_decay)
    groups[0]["params"] = [nn.Parameter(p.clone()) for p in groups[0]["params"]]
    return groups


RIGHT_GROUPS = {
    "two groups": answer(),
    "the data": answer(scale=lambda w, a: w.data.mul_(a)),
    "copied in": answer(scale=lambda w, a: w.copy_(a * w)),
    "one group for each tensor": one_group_each,
    "without the idle biases": idle_biases_left_out,
    "by the defaults": default_lr,
    "biases before BN at the new rate, too": answer(
        which=before_bn, decay=lambda wd, a: wd * a**-2.0
    ),
    "list of a generator": lambda *given: list(a_generator(*given)),
}
WRONG_GROUPS = {
    "the stub": (lambda model, a, lr, weight_decay=0.0: None, "returned nothing"),
    "no scaling": (answer(scale=lambda w, a: w), "is unchanged"),
    "on a copy": (works_on_a_copy, "is unchanged"),
    "divided": (answer(scale=lambda w, a: w.div_(a)), "should be a times"),
    "twice": (answer(scale=lambda w, a: w.mul_(a * a)), "should be a times"),
    "the last layer, too": (answer(which=linears), "has changed"),
    "linears without BN, too": (
        answer(which=lambda model: linears(model)[:-1]),
        "has changed",
    ),
    "the same rate": (answer(rate=lambda lr, a: lr), "that of the original"),
    "a times the rate": (answer(rate=lambda lr, a: lr * a), "must be a times larger"),
    "a smaller rate": (answer(rate=lambda lr, a: lr / a), "raise the rate"),
    "inverted": (answer(rate=lambda lr, a: lr / a**2), "raise the rate"),
    "too high a rate": (answer(rate=lambda lr, a: lr * a**3), "another angle"),
    "one rate for all": (
        answer(other_lr=lambda lr, a: lr * a**2),
        "only the scaled weights need another rate",
    ),
    "the same decay": (answer(decay=lambda wd, a: wd), "must stay as it was"),
    "half the decay's change": (
        answer(decay=lambda wd, a: wd / a),
        "must stay as it was",
    ),
    "no decay elsewhere": (
        answer(other_decay=lambda wd, a: 0.0),
        "keep their weight_decay",
    ),
    "decay changed elsewhere": (
        answer(other_decay=lambda wd, a: wd / a**2),
        "keep their weight_decay",
    ),
    "γ and β not trained": (
        answer(
            others=lambda model, scaled: [
                *scaled,
                *(
                    p
                    for m in model
                    if isinstance(m, nn.BatchNorm1d)
                    for p in [m.weight]
                ),
            ]
        ),
        "in no group",
    ),
    "scaled weights only": (
        lambda *given: answer()(*given)[:1],
        "in no group",
    ),
    "in two groups": (
        answer(others=lambda model, scaled: []),
        "in two groups",
    ),
    "copies of the tensors": (copied_tensors, "no parameter of the model"),
    "a list of tensors": (
        lambda model, a, lr, wd: [*answer()(model, a, lr, wd)[0]["params"]],
        "list of dictionaries",
    ),
    "the model": (
        lambda model, a, lr, wd: (answer()(model, a, lr, wd), model)[1],
        "list of dictionaries",
    ),
    "no params": (
        lambda model, a, lr, wd: (answer()(model, a, lr, wd), [dict(lr=lr)])[1],
        "has no params",
    ),
}


@pytest.mark.parametrize("name", RIGHT_RATES)
def test_highest_usable_rate_accepts(name):
    passed, said = verdict(checks.highest_usable_rate, RIGHT_RATES[name])
    assert passed, said


@pytest.mark.parametrize("name", WRONG_RATES)
def test_highest_usable_rate_rejects(name):
    wrong, hint = WRONG_RATES[name]
    passed, said = verdict(checks.highest_usable_rate, wrong)
    assert passed is False
    assert hint in said, said


@pytest.mark.parametrize("name", RIGHT_GROUPS)
def test_rescale_accepts(name):
    passed, said = verdict(checks.rescale, RIGHT_GROUPS[name])
    assert passed, said


@pytest.mark.parametrize("name", WRONG_GROUPS)
def test_rescale_rejects(name):
    wrong, hint = WRONG_GROUPS[name]
    passed, said = verdict(checks.rescale, wrong)
    assert passed is False
    assert hint in said, said


SPREAD = np.exp(np.random.default_rng(0).normal(0, 0.2, 12))  # of the seeds


def held(at_one=1.0, ratio=2.8):
    return lambda a: at_one * SPREAD * (ratio if a == 3 else 1)


RIGHT_HELD = {
    "as measured": held(),
    "other seeds": held(0.8, 2.0),
    "a coarser grid": held(1.0, 3.16),
    "a list": lambda a: list(held()(a)),
    "24 seeds": lambda a: np.tile(held()(a), 2),
    "a tensor": lambda a: torch.tensor(held()(a)),
}
WRONG_HELD = {
    "the stub": (lambda a: None, "returned nothing"),
    "an ellipsis": (lambda a: ..., "returned nothing"),
    "one number": (lambda a: 2.8, "one rate for each"),
    "all rates": (lambda a: np.ones((4, 12)), "one rate for each"),
    "logarithms": (lambda a: np.log10(held()(a)), "logarithms"),
    "accuracies": (lambda a: 96 + 10 * SPREAD, "accuracies"),
    "the brake left in": (held(2.6, 1.2), "are the lengths held"),
    "the best rate": (held(0.32, 3.16), "not the best rate"),
    "a grid that ends at 0.3": (lambda a: np.full(12, 0.316), "high enough"),
    "a is not used": (held(ratio=1.0), "does `a` reach"),
    "divided by a": (held(ratio=1 / 8), "do not divide"),
    "a grid that ends at 1": (held(0.9, 1.1), "up to 10"),
    "the prediction, not the run": (held(1.0, 9.0), "do you run the nets"),
    "raises": (lambda a: undefined, "NameError"),  # noqa: F821
}


@pytest.mark.parametrize("name", RIGHT_HELD)
def test_held_at_accepts(name):
    passed, said = verdict(checks.held_at, RIGHT_HELD[name])
    assert passed, said


@pytest.mark.parametrize("name", WRONG_HELD)
def test_held_at_rejects(name):
    wrong, hint = WRONG_HELD[name]
    passed, said = verdict(checks.held_at, wrong)
    assert passed is False
    assert hint in said, said
