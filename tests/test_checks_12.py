"""Chapter 12: its checks reject what is wrong and accept what is right."""

from functools import partial

import numpy as np
import pytest
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from tests.verdicts import verdict
from utils import checks


def rejected(check, answer):
    passed, text = verdict(check, answer)
    assert not passed and text.startswith("Not yet")
    return text


def bn_layers(model):
    return {n: m for n, m in model.named_modules() if isinstance(m, _BatchNorm)}


def count(model, x, *, mode="eval", per_channel=True, tidy=True, only=None):
    """The right way, and with one thing wrong."""
    counts, handles, modes = {}, [], {m: m.training for m in model.modules()}

    def note(layer, inputs, name):
        channels = layer.num_features if per_channel else 1
        counts[name] = inputs[0].numel() // channels

    for name, layer in bn_layers(model).items():
        if only is None or isinstance(layer, only):
            hook = layer.register_forward_pre_hook(partial(note, name=name))
            handles.append(hook)
    with torch.no_grad():
        if mode:
            model.train(mode == "train")
        model(x)
    for handle in handles if tidy else ():
        handle.remove()
    if mode != "leave":
        for module, was in modes.items():
            module.training = was
    return counts


def by_outputs(model, x):
    """With hooks on the outputs, whose size BN does not change."""
    counts, handles, modes = {}, [], [(m, m.training) for m in model.modules()]
    for name, layer in bn_layers(model).items():

        def note(layer, inputs, output, name=name):
            counts[name] = output.transpose(0, 1)[0].numel()

        handles.append(layer.register_forward_hook(note))
    model.eval()
    model(x)
    [handle.remove() for handle in handles]
    for module, was in modes:
        module.training = was
    return counts


@pytest.mark.parametrize("answer", [count, by_outputs])
def test_right_ways_to_count(answer):
    assert verdict(checks.values_per_channel, answer)[0]


@pytest.mark.parametrize(
    "answer, hint",
    [
        (partial(count, per_channel=False), "divide by its channels"),
        (partial(count, tidy=False), "remove the hooks"),
        (partial(count, mode="train"), ""),  # one value raises
        (partial(count, only=torch.nn.BatchNorm2d), "no entry for 1"),
        (lambda model, x: {n: len(x) for n in bn_layers(model)}, "images x positions"),
        (lambda model, x: None, "returned nothing"),
        (lambda model, x: [1], "return a dictionary"),
        (lambda model, x: count(model, x) | {"0": 1}, "no BN layer of that name"),
    ],
)
def test_wrong_ways_to_count(answer, hint):
    assert hint in rejected(checks.values_per_channel, answer)


def tuned(rows, *, by="validation", tell="test", every=True, order=int, skip=True):
    """The right way, and with one thing wrong."""
    rates = {}
    for row in rows:
        rates.setdefault(float(row["lr"]), {})[order(row["seed"])] = row
    common = set.intersection(*map(set, rates.values()))

    def mean(rate):
        seeds = common if every else rates[rate]
        return np.mean([float(rates[rate][seed][by]) for seed in seeds])

    usable = [r for r in rates if np.isfinite(mean(r))] if skip else list(rates)
    key = mean if skip else lambda rate: -1e9 if mean(rate) < 0 else mean(rate)
    best = rates[max(usable, key=key)]
    return np.array([float(best[seed][tell]) for seed in sorted(best)])


def test_the_right_choice():
    assert verdict(checks.tuned, tuned)[0]
    assert verdict(checks.tuned, lambda rows: list(tuned(rows)))[0]


@pytest.mark.parametrize(
    "answer, hint",
    [
        (partial(tuned, by="test"), "test scores choose nothing"),
        (partial(tuned, tell="validation"), "they chose, so they flatter"),
        (partial(tuned, every=False), "trained at *every* rate"),
        (partial(tuned, order=str), "2 comes before 10"),
        (lambda rows: tuned(rows)[:4], "are all seeds there"),
        (lambda rows: None, "returned nothing"),
        (lambda rows: rows.clear() or tuned(rows), ""),
    ],
)
def test_wrong_choices(answer, hint):
    assert hint in rejected(checks.tuned, answer)


def measured(mean, n=12):
    return lambda: mean + np.linspace(-8, 8, n)


@pytest.mark.parametrize("mean", [-35, -24, -15])
def test_a_measured_start(mean):
    assert verdict(checks.from_zero, measured(mean))[0]


@pytest.mark.parametrize(
    "answer, hint",
    [
        (measured(24), "subtract the usual one"),
        (measured(0), "is `start=0` passed on"),
        (measured(-60), "that is too much"),
        (measured(-24, 3), "12 seeds or more"),
        (lambda: np.full(12, -24.0), "are they trained"),
        (lambda: None, "returned nothing"),
    ],
)
def test_a_wrong_start(answer, hint):
    assert hint in rejected(checks.from_zero, answer)
