"""Chapter 06: its checks reject what is wrong and accept what is right."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.verdicts import verdict
from utils import checks


def kappas(x):
    z = x - x.mean(dim=0)
    return (z**4).mean(dim=0) / (z**2).mean(dim=0) ** 2


def need(x, error):
    return (kappas(x).max().item() - 1) / error**2


def exact_law(x, error):
    """Count up until the exact law is met."""
    kappa, n = kappas(x).max().item(), 4
    while kappa / n - (n - 3) / (n * (n - 1)) > error**2:
        n += 1
    return n


def in_numpy(x, error):
    x = x.numpy()
    z = (x - x.mean(0)) / x.std(0)
    return math.ceil(((z**4).mean(0) - 1).max() / error**2)


def by_bisection(x, error):
    low, high = 1, 10**6
    while high - low > 1:
        middle = (low + high) // 2
        enough = ((kappas(x) - 1) / middle).sqrt().max() <= error
        low, high = (low, middle) if enough else (middle, high)
    return torch.tensor(high)


def with_scipy(x, error):
    from scipy.stats import kurtosis

    return np.ceil(max((k + 2) / error**2 for k in kurtosis(x.numpy())))


def variance_of_squares(x, error):
    """κ - 1 is the relative variance of the squared deviation."""
    squares = (x - x.mean(dim=0)) ** 2
    ratio = squares.var(dim=0) / squares.mean(dim=0) ** 2
    return torch.ceil(ratio.max() / error**2).int()


RIGHT_NEEDED = {
    "the formula": lambda x, error: math.ceil(need(x, error)),
    "exact law": exact_law,
    "numpy": in_numpy,
    "bisection": by_bisection,
    "scipy's excess": with_scipy,
    "variance of squares": variance_of_squares,
    "rounded down": lambda x, error: int(need(x, error)),
    "in float32": lambda x, error: math.ceil(need(x.float(), error)),
}
WRONG_NEEDED = {
    "the stub": (lambda x, error: None, "returned nothing"),
    "normal": (lambda x, error: round(2 / error**2), "measure κ"),
    "for the mean": (lambda x, error: round(1 / error**2), "not for the variance"),
    "no square": (
        lambda x, error: math.ceil(need(x, error) * error),
        "is the root",
    ),
    "κ alone": (
        lambda x, error: math.ceil(need(x, error) + 1 / error**2),
        "κ - 1, not κ",
    ),
    "excess": (
        lambda x, error: math.ceil(need(x, error) - 3 / error**2),
        "not the excess",
    ),
    "three too many": (
        lambda x, error: math.ceil(need(x, error) + 3 / error**2),
        "add nothing",
    ),
    "mean over features": (
        lambda x, error: math.ceil((kappas(x).mean().item() - 1) / error**2),
        "every feature",
    ),
    "best feature": (
        lambda x, error: math.ceil((kappas(x).min().item() - 1) / error**2),
        "also for the worst",
    ),
    "not centred": (
        lambda x, error: math.ceil(
            (((x**4).mean(0) / (x**2).mean(0) ** 2).max().item() - 1) / error**2
        ),
        "subtract it first",
    ),
    "all features in one": (
        lambda x, error: math.ceil(need(x.reshape(-1, 1), error)),
        "expected about",
    ),
    "one per feature": (
        lambda x, error: torch.ceil((kappas(x) - 1) / error**2),
        "return one number",
    ),
    "a fraction": (lambda x, error: need(x, error), "whole number"),
    "text": (lambda x, error: "many", "raised"),
}


def groups_of(x, size):
    parts = list(x.split(size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


def split(layer, x, size):
    if not layer.training:
        return layer(x)
    return torch.cat([layer(part) for part in groups_of(x, size)])


def by_index(layer, x, size):
    """A loop over starts that looks one example ahead."""
    if not layer.training:
        return layer(x)
    out, start = [], 0
    while start < len(x):
        end = start + size
        if len(x) - end <= 1:
            end = len(x)
        out.append(layer(x[start:end]))
        start = end
    return torch.vstack(out)


def functional(layer, x, size, momentum=0.1, affine=True, keep=False):
    """F.batch_norm with the layer's tensors."""
    training = layer.training
    memory = (None, None) if keep else (layer.running_mean, layer.running_var)
    scale = (layer.weight, layer.bias) if affine else (None, None)
    return torch.cat(
        [
            F.batch_norm(part, *memory, *scale, training, momentum, layer.eps)
            for part in (groups_of(x, size) if training else [x])
        ]
    )


def in_place(layer, x, size):
    """Fills an empty tensor."""
    out, start = torch.empty_like(x), 0
    for part in groups_of(x, size) if layer.training else [x]:
        out[start : start + len(part)] = layer(part)
        start += len(part)
    return out


def by_hand(layer, x, size, correction=0, memory=1, detach=False, eps=None):
    """Statistics, memory and γ, β written out; `memory` is the N - this."""
    if not layer.training:
        return layer(x)
    out, axes = [], [0, *range(2, x.dim())]
    shape = (1, -1, *[1] * (x.dim() - 2))
    for part in groups_of(x, size):
        mean = part.mean(dim=axes)
        var = part.var(dim=axes, correction=correction)
        m = layer.momentum
        with torch.no_grad():
            stored = part.var(dim=axes, correction=memory)
            layer.running_mean.lerp_(mean, m)
            layer.running_var.lerp_(stored, m)
        if detach:
            mean, var = mean.detach(), var.detach()
        root = torch.sqrt(var + (layer.eps if eps is None else eps)).view(shape)
        x_hat = (part - mean.view(shape)) / root
        out.append(x_hat * layer.weight.view(shape) + layer.bias.view(shape))
    return torch.cat(out)


def parts_of(cut, always=False):
    """The layer over the parts that `cut` makes."""

    def answer(layer, x, size):
        if not (always or layer.training):
            return layer(x)
        return torch.cat([layer(part) for part in cut(x, size)])

    return answer


def interleaved(layer, x, size):
    groups = max(1, len(x) // size)
    if not layer.training or len(x) % groups:
        return split(layer, x, size)
    out = torch.empty_like(x)
    for k in range(groups):
        out[k::groups] = layer(x[k::groups])
    return out


def in_train(layer, x, size):
    layer.train()
    return split(layer, x, size)


def leaves_eval(layer, x, size):
    result = split(layer, x, size)
    layer.eval()
    return result


def forgets(layer, x, size):
    """The memory is put back afterwards."""
    mean, var = layer.running_mean.clone(), layer.running_var.clone()
    result = split(layer, x, size)
    layer.running_mean.copy_(mean)
    layer.running_var.copy_(var)
    return result


# split in eval mode, too: it changes nothing there
always_split = parts_of(groups_of, always=True)
RIGHT_GHOST = [split, by_index, functional, in_place, by_hand, always_split]
WRONG_GHOST = [
    (lambda layer, x, size: None, "returned nothing"),
    (lambda layer, x, size: layer(x), "one batch"),
    (lambda layer, x, size: [layer(p) for p in groups_of(x, size)], "one tensor"),
    (parts_of(lambda x, size: x.chunk(size)), "number of examples in a group"),
    (parts_of(lambda x, size: x.split(size)), "Expected more than 1 value"),
    (parts_of(lambda x, size: x[: len(x) // size * size].split(size)), "shape of x"),
    (in_train, "stored statistics"),
    (interleaved, "consecutive"),
    (leaves_eval, "another mode"),
    (forgets, "was not updated"),
    (lambda layer, x, size: functional(layer, x, size, keep=True), "not updated"),
    (lambda layer, x, size: functional(layer, x, size, 0.9), "once per group"),
    (lambda layer, x, size: functional(layer, x, size, affine=False), "γ and β"),
    (lambda layer, x, size: by_hand(layer, x, size, correction=1), "group by group"),
    (lambda layer, x, size: by_hand(layer, x, size, memory=0), "once per group"),
    (lambda layer, x, size: by_hand(layer, x, size, detach=True), "its gradient is"),
    (lambda layer, x, size: by_hand(layer, x, size, eps=0.1), "group by group"),
    (lambda layer, x, size: split(layer, x, size).detach(), "cut off"),
    (lambda layer, x, size: F.normalize(x), "group by group"),
]


@pytest.mark.parametrize("name", RIGHT_NEEDED)
def test_images_needed_accepts(name):
    passed, said = verdict(checks.images_needed, RIGHT_NEEDED[name])
    assert passed, said


@pytest.mark.parametrize("name", WRONG_NEEDED)
def test_images_needed_rejects(name):
    answer, hint = WRONG_NEEDED[name]
    passed, said = verdict(checks.images_needed, answer)
    assert passed is False
    assert hint in said


@pytest.mark.parametrize("answer", RIGHT_GHOST)
def test_ghost_forward_accepts(answer):
    passed, said = verdict(checks.ghost_forward, answer)
    assert passed, said


@pytest.mark.parametrize(("answer", "hint"), WRONG_GHOST)
def test_ghost_forward_rejects(answer, hint):
    passed, said = verdict(checks.ghost_forward, answer)
    assert passed is False
    assert hint in said


def test_ghost_forward_accepts_a_module():
    class Ghost(nn.Module):
        def forward(self, layer, x, size):
            return split(layer, x, size)

    assert verdict(checks.ghost_forward, Ghost())[0]


def gains(small, large, n=12):
    """An answer to exercise 6.4 that has measured these means."""
    noise = np.linspace(-2, 2, n)
    return lambda eps: noise + (small if eps < 1 else large)


RIGHT_GAINS = [
    gains(-20, 16),
    gains(-12, 8, n=24),
    lambda eps: torch.linspace(-3, 3, 12) + (-20 if eps < 1 else 16),
]
WRONG_GAINS = [
    (lambda eps: None, "returned nothing"),
    (gains(20, -16), "not the accuracy"),
    (gains(43, 79), "look like errors"),
    (lambda eps: gains(-20, 16)(eps) / 100, "error in %"),
    (gains(-4, 1), "we expect"),
    (gains(-20, -16), "we expect"),
    (lambda eps: gains(-20, -20)(eps), "does ε reach"),
    (lambda eps: gains(-20, 16)(eps).mean(), "one difference for each"),
    (gains(-20, 16, n=1), "12 seeds or more"),
    (lambda eps: np.full(12, -20.0 if eps < 1 else 16), "are they trained"),
    (lambda eps: gains(-20, 16)(eps) * np.nan, "not finite"),
]


@pytest.mark.parametrize("answer", RIGHT_GAINS)
def test_epsilon_gain_accepts(answer):
    passed, said = verdict(checks.epsilon_gain, answer)
    assert passed, said


@pytest.mark.parametrize(("answer", "hint"), WRONG_GAINS)
def test_epsilon_gain_rejects(answer, hint):
    passed, said = verdict(checks.epsilon_gain, answer)
    assert passed is False
    assert hint in said
