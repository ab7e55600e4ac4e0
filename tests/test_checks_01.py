"""Chapter 01: its checks reject what is wrong and accept what is right."""

import numpy as np
import pytest
import torch

from tests.verdicts import verdict
from utils.checks import chapter_01 as checks


def steps(values):
    return values.mean(dim=1).diff(dim=0)


def loop(values):
    """Update by update, unit by unit."""
    result = []
    for unit in range(values.shape[2]):
        total = 0.0
        for before, after in zip(values[:-1, :, unit], values[1:, :, unit]):
            total += abs(after.mean() - before.mean()) / before.std()
        result.append(total / (len(values) - 1))
    return torch.stack(result)


def in_numpy(values):
    values = values.numpy()
    mean, sd = values.mean(axis=1), values.std(axis=1)
    return (np.abs(np.diff(mean, axis=0)) / sd[:-1]).mean(axis=0)


RIGHT_DRIFT = {
    "in one line": lambda v: (steps(v).abs() / v.std(dim=1)[:-1]).mean(dim=0),
    "biased standard deviation": lambda v: (
        steps(v).abs() / v.std(dim=1, correction=0)[:-1]
    ).mean(dim=0),
    "by the variance's root": lambda v: (
        (steps(v) ** 2 / v.var(dim=1)[:-1]).sqrt().mean(dim=0)
    ),
    "loop": loop,
    "in numpy": in_numpy,
    "as a list": lambda v: loop(v).tolist(),
}
WRONG_DRIFT = {
    "the stub": (lambda v: None, "returned nothing"),
    "an ellipsis": (lambda v: ..., "returned nothing"),
    "no absolute value": (
        lambda v: (steps(v) / v.std(dim=1)[:-1]).mean(dim=0),
        "mind the sign",
    ),
    "a sum": (
        lambda v: (steps(v).abs() / v.std(dim=1)[:-1]).sum(dim=0),
        "added up",
    ),
    "divided by T": (
        lambda v: (steps(v).abs() / v.std(dim=1)[:-1]).sum(dim=0) / len(v),
        "number of snapshots",
    ),
    "first to last": (
        lambda v: (v[-1].mean(dim=0) - v[0].mean(dim=0)).abs() / v[0].std(dim=0),
        "first snapshot to the last",
    ),
    "not scaled": (lambda v: steps(v).abs().mean(dim=0), "divide by the standard"),
    "by the variance": (
        lambda v: (steps(v).abs() / v.var(dim=1)[:-1]).mean(dim=0),
        "not by the variance",
    ),
    "by the later sd": (
        lambda v: (steps(v).abs() / v.std(dim=1)[1:]).mean(dim=0),
        "before the update",
    ),
    "ratio of means": (
        lambda v: steps(v).abs().mean(dim=0) / v.std(dim=1)[:-1].mean(dim=0),
        "its own standard deviation",
    ),
    "sd over updates": (
        lambda v: steps(v).abs().mean(dim=0) / v.mean(dim=1).std(dim=0),
        "over images",
    ),
    "single images": (
        lambda v: (v.diff(dim=0).abs().mean(dim=1) / v.std(dim=1)[:-1]).mean(dim=0),
        "single images",
    ),
    "median of the images": (
        lambda v: (v.median(dim=1).values.diff(dim=0).abs() / v.std(dim=1)[:-1]).mean(
            dim=0
        ),
        "use the mean",
    ),
    "one sd for all units": (
        lambda v: (steps(v).abs() / v.std(dim=(1, 2))[:-1, None]).mean(dim=0),
        "for unit 0 expected",
    ),
    "one number": (lambda v: loop(v).mean(), "one number for each unit"),
    "not averaged": (
        lambda v: steps(v).abs() / v.std(dim=1)[:-1],
        "one number for each unit",
    ),
    "eps that matters": (
        lambda v: (steps(v).abs() / (v.std(dim=1)[:-1] + 0.1)).mean(dim=0),
        "for unit 0 expected",
    ),
    "raises": (lambda v: v / undefined, "NameError"),  # noqa: F821
}


def simulated(size):
    shifts = size * torch.randn(200_000)
    return shifts.diff().abs().mean()


RIGHT_NOISE = {
    "formula": lambda size: 2 * size / np.pi**0.5,
    "sigma root two over pi": lambda size: 2**0.5 * size * (2 / np.pi) ** 0.5,
    "as a tensor": lambda size: torch.tensor([2 * size / np.pi**0.5]),
    "simulation": simulated,
}
WRONG_NOISE = {
    "the stub": (lambda size: None, "returned nothing"),
    "one shift": (lambda size: size * (2 / np.pi) ** 0.5, "one shift from 0"),
    "the sd": (lambda size: size * 2**0.5, "standard deviation of the difference"),
    "the mean square": (lambda size: 2 * size**2, "mean square"),
    "the size": (lambda size: size, "drawn anew"),
    "sds added": (lambda size: 2 * size * (2 / np.pi) ** 0.5, "variances add"),
    "zero": (lambda size: 0.0, "do not cancel"),
    "one": (lambda size: 1.0, "it should be"),
    "many": (lambda size: torch.ones(3) * size, "one number"),
    "nan": (lambda size: float("nan"), "it should be"),
    "raises": (lambda size: size / 0, "ZeroDivisionError"),
}


rng = np.random.default_rng(0)


def of_size(bad, good, spread=4.0):
    """Leads that somebody measured; the check looks at the numbers only."""
    noise = spread * rng.normal(size=12)
    noise -= noise.mean()
    return lambda gain: (bad if gain == 1 else good) + noise


RIGHT_SD = {
    "as measured": of_size(44, -11),
    "another seed set": of_size(55, -5),
    "coarser rates": of_size(25, -20),
    "as a tensor": lambda gain: torch.from_numpy(of_size(44, -11)(gain)),
    "as a list": lambda gain: of_size(44, -11)(gain).tolist(),
}
WRONG_SD = {
    "the stub": (lambda gain: None, "returned nothing"),
    "the mean": (lambda gain: float(of_size(44, -11)(gain).mean()), "(seeds,)"),
    "the grid": (lambda gain: rng.normal(size=(5, 12)), "(seeds,)"),
    "one seed": (lambda gain: of_size(44, -11)(gain)[:1], "(seeds,)"),
    "no norm minus sd only": (of_size(-44, 11), "in this order"),
    "the gain does not arrive": (lambda gain: np.arange(12.0) - 16, "does the gain"),
    "the gain is always 1": (lambda gain: np.arange(12.0) + 20, "does the gain"),
    "accuracy": (of_size(72, 75), "look like accuracies"),
    "accuracy without norm": (of_size(22, 86), "look like accuracies"),
    "share instead of points": (of_size(0.44, -0.11, 0.04), "in points"),
    "no help at gain 1": (of_size(2, -11), "we expect"),
    "all of BN": (of_size(72, 9), "we expect"),
    "a diverged run": (
        lambda gain: np.append(of_size(44, -11)(gain)[:11], np.nan),
        "not finite",
    ),
    "nothing trained": (lambda gain: np.zeros(12), "same difference"),
    "raises": (lambda gain: {}[gain], "KeyError"),
}


@pytest.mark.parametrize("name", RIGHT_DRIFT)
def test_drift_accepts(name):
    passed, said = verdict(checks.drift, RIGHT_DRIFT[name])
    assert passed, said
    assert said.startswith("Passed: ")


@pytest.mark.parametrize("name", WRONG_DRIFT)
def test_drift_rejects(name):
    answer, hint = WRONG_DRIFT[name]
    passed, said = verdict(checks.drift, answer)
    assert passed is False
    assert hint in said


@pytest.mark.parametrize("name", RIGHT_NOISE)
def test_noise_drift_accepts(name):
    passed, said = verdict(checks.noise_drift, RIGHT_NOISE[name])
    assert passed, said


@pytest.mark.parametrize("name", WRONG_NOISE)
def test_noise_drift_rejects(name):
    answer, hint = WRONG_NOISE[name]
    passed, said = verdict(checks.noise_drift, answer)
    assert passed is False
    assert hint in said


@pytest.mark.parametrize("name", RIGHT_SD)
def test_sd_lead_accepts(name):
    passed, said = verdict(checks.sd_lead, RIGHT_SD[name])
    assert passed, said


@pytest.mark.parametrize("name", WRONG_SD)
def test_sd_lead_rejects(name):
    answer, hint = WRONG_SD[name]
    passed, said = verdict(checks.sd_lead, answer)
    assert passed is False
    assert hint in said
