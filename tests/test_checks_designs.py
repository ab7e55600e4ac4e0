"""The shortest and the longest exercises: answers that the checks' tables do not know.

A number comes in many forms; a design may be any that has the properties.
"""

import copy
import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from tests.verdicts import examples
from utils import checks


class Alternating(nn.Module):
    """There and back, by half of the drift; each unit with a sign of its own."""

    def __init__(self, drift):
        super().__init__()
        self.drift, self.side = drift, 1

    def forward(self, x):
        if not self.training:
            return x
        self.side = -self.side
        signs = 2.0 * (torch.arange(x.shape[1]) % 3 == 0) - 1
        with torch.no_grad():
            offset = self.side * self.drift / 2 * signs * x.std(0, correction=0)
        return x + offset


class Silent(nn.Module):
    def forward(self, x):
        """Still a stub."""


class InStep(Alternating):
    def forward(self, x):
        if not self.training:
            return x
        self.side = -self.side
        return x + self.side * self.drift / 2 * x.detach().std(0, correction=0)


class TooSeldom(Alternating):
    def forward(self, x):
        if self.training:
            self.side = 1 if torch.rand(1) < 0.5 else -1
            signs = 2.0 * (torch.arange(x.shape[1]) % 3 == 0) - 1
            sd = x.detach().std(0, correction=0)
            return x + self.side * self.drift / 2 * signs * sd
        return x


class ZeroStart(nn.Module):
    def __init__(self, width, depth):
        super().__init__()
        self.body = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, width), nn.GELU()
        )
        self.gain = nn.Parameter(torch.zeros(width))

    def forward(self, x):
        return x + self.gain * self.body(x)


class Averaged(nn.Module):
    """x + f(x), and back to the size that it had: no shortcut of its own."""

    def __init__(self, width, depth):
        super().__init__()
        self.a, self.b = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.scale = 1 / depth

    def forward(self, x):
        return x + self.scale * self.b(torch.tanh(self.a(x)))


class FromBatchNorm(nn.BatchNorm1d):
    """PyTorch's layer in eval mode, with a memory that is written by hand."""

    def forward(self, x):
        if self.training:
            with torch.no_grad():
                far = (x - self.running_mean).square().mean(0)
                self.running_var.mul_(0.98).add_(0.02 * far)
                self.running_mean.mul_(0.98).add_(0.02 * x.mean(0))
        memory = self.running_mean.clone(), self.running_var.clone()
        return F.batch_norm(x, *memory, self.weight, self.bias, eps=self.eps)


class Moments(nn.Module):
    """The mean and the mean square; γ and β in one parameter."""

    def __init__(self, channels):
        super().__init__()
        self.affine = nn.Parameter(
            torch.stack([torch.ones(channels), torch.zeros(channels)])
        )
        self.register_buffer("sums", torch.zeros(2, channels))
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x):
        if self.training:
            with torch.no_grad():
                self.sums = self.sums + torch.stack([x.sum(0), (x**2).sum(0)])
                self.count = self.count + len(x)
        mean, square = self.sums / self.count.clamp(min=1)
        var = (square - mean**2).clamp(min=0.01)
        return self.affine[0] * (x - mean) / var.sqrt() + self.affine[1]


class Borrowed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a, b):
        return a.clone()

    @staticmethod
    def backward(ctx, dy):
        return None, dy


class ByFunction(nn.Module):
    def __init__(self, output, gradient):
        super().__init__()
        self.layers = nn.ModuleList([output, gradient])

    def forward(self, x):
        with torch.no_grad():
            a = self.layers[0](x)
        return Borrowed.apply(a, self.layers[1](x))


class Forgetful(nn.BatchNorm1d):
    """Never stores a thing: eval mode gives the input, scaled."""

    def __init__(self, channels, **settings):
        super().__init__(channels, **settings | dict(momentum=0.0))


class ByTheBatch(nn.BatchNorm1d):
    """Reads the batch in eval mode, too, and turns it round."""

    def forward(self, x):
        y = super().forward(x)
        return y if self.training else -y


def by_bisection(batch_size, noise):
    low, high = 0.0, 1.0
    for _ in range(60):
        m = (low + high) / 2
        fits = math.sqrt(m / ((2 - m) * batch_size)) <= noise
        low, high = (m, high) if fits else (low, m)
    return low


def block_by_block(blocks, scale, bn):
    variance = torch.tensor(1.0, dtype=torch.float64)
    for _ in range(blocks):
        variance = variance + scale**2 * (1 if bn else variance)
    return variance


def plan(**other):
    cells = [(1, 16), (16, 1), (16, 16)]
    run = dict(way="train", lr=0.1, seed=0)
    return [
        run | dict(batch=b, positions=p, way=w, lr=r, seed=s, updates=3200 / b) | other
        for b, p in cells
        for w in ("frozen", "train")
        for r in (0.1 * b**0.5, 0.03, 0.01)
        for s in np.arange(5, 18)
    ]


def in_a_copy(model):
    halved = copy.deepcopy(model).half()
    bad = [n for n, b in halved.named_buffers() if b.isinf().any()]
    return {n.rpartition(".")[0] for n in bad}


def batch(*rows, dtype=torch.float32):
    return lambda: torch.tensor(rows, dtype=dtype)


def numpys(x):
    return x.numpy().mean(axis=tuple(d for d in range(x.dim()) if d != 1))


def centred_in_place(x):
    x -= x.mean()
    return numpys(x)


def names(*answers):
    return {f"{k} {getattr(a, '__name__', '')}": a for k, a in enumerate(answers)}


def hints(*pairs):
    return {
        f"{k} {hint[:30]}": (answer, hint) for k, (hint, answer) in enumerate(pairs)
    }


def degrees(lr, weight_decay):
    return torch.rad2deg(2 * torch.asin(torch.tensor(lr * weight_decay / 2).sqrt()))


# check: right answers, wrong ones with a part of their hint
TABLES = {
    checks.channel_means: (
        names(numpys, lambda x: [float(c.mean()) for c in x.transpose(0, 1)]),
        hints(
            ("changes what it was given in place", centred_in_place),
            ("should have shape (8,)", lambda x: x.mean(1)),
            ("cannot use what it returned", lambda x: "0"),
        ),
    ),
    checks.init_share: (
        names(
            lambda bad, good, bn: np.array(
                [(sum(good) - sum(bad)) / (sum(bn) - sum(bad)) * 100]
            ),
        ),
        hints(
            ("one number; got (12,)", lambda bad, good, bn: good - bad),
        ),
    ),
    checks.shift_of: (
        names(Alternating),
        hints(
            ("in step", InStep),
            ("drift should be", TooSeldom),
            ("write a class", lambda drift: lambda x: x),
            ("returned nothing", lambda drift: Silent()),
        )
        | hints(("tensor of the shape of x", lambda drift: nn.Flatten(0))),
    ),
    checks.revealing_batch: (
        names(batch([1e-3, 2e4, 700], [-1e-3, 20001, -700], [2e-3, 20003, 10])),
        hints(
            ("one tensor, got list", lambda: [[1.0, 2.0]]),
            ("float32", batch([1e-3, 2e4, 700], [0, 1, 2], dtype=torch.float64)),
            ("at most 64", lambda: torch.randn(33, 2)),
            ("off by", batch([1e30, 0], [-1e30, 1])),
            ("not finite", batch([math.inf, 0], [1, 1])),
            ("(batch, channels)", lambda: torch.randn(8)),
        ),
    ),
    checks.largest_momentum: (
        names(by_bisection),
        hints(("should return one number", lambda batch_size, noise: "0.1")),
    ),
    checks.diagnosis: ({}, hints(("one of", lambda *scores: "the memory"))),
    checks.stream_variance: (
        names(block_by_block),
        hints(("should be", lambda *given: block_by_block(*given) ** 0.5)),
    ),
    checks.quiet_block: (
        names(ZeroStart, Averaged),
        hints(
            ("write a class", lambda width, depth: torch.relu),
            ("the stream leaves", lambda width, depth: nn.Linear(width, width)),
            ("a block has none", lambda width, depth: nn.Identity()),
            ("shape of x", lambda width, depth: nn.Linear(width, 2)),
        ),
    ),
    checks.degrees_per_update: (
        names(
            degrees, lambda lr, weight_decay: np.degrees((2 * lr * weight_decay) ** 0.5)
        ),
        {},
    ),
    checks.budgets: (
        names(
            lambda images, epochs, size, new_size: [
                images // new_size * epochs,
                np.float32(epochs / size * new_size),
            ],
        ),
        hints(
            ("two numbers, (2,); got (3,)", lambda *given: (1, 2, 3)),
            ("should return two numbers", lambda *given: {}),
        ),
    ),
    checks.refuses: (
        names(
            lambda shape, training, stored: np.bool_(
                math.prod(shape) == shape[1] and (training or not stored)
            ),
        ),
        hints(("True or False", lambda *given: "no")),
    ),
    checks.batch_of_one: (
        names(FromBatchNorm, Moments),
        hints(
            ("Expected more than 1 value per channel", nn.BatchNorm1d),
            (
                "each channel should come out",
                lambda channels: nn.GroupNorm(2, channels),
            ),
            ("each channel should come out", lambda channels: nn.RMSNorm(channels)),
            ("write a class", lambda channels: torch.tanh),
        ),
    ),
    checks.values_averaged: (
        names(
            lambda norm, n, c, p, groups: torch.tensor(
                (n if norm[0] == "b" else 1)
                * (c if norm[0] in "lR" else c / groups if norm[0] == "g" else 1)
                * (1 if norm[0] == "R" else p)
            ),
        ),
        hints(("one number", lambda *given: "n * p")),
    ),
    checks.two_halves: (
        names(ByFunction),
        hints(("write a class", lambda output, gradient: lambda x: output(x))),
    ),
    checks.overflowing: (
        names(in_a_copy, lambda model: sorted(in_a_copy(model), reverse=True)),
        hints(
            ("as a list, got generator", lambda model: (n for n in in_a_copy(model))),
            (
                "NoneType",
                lambda model: [
                    name
                    for name, m in model.named_modules()
                    if isinstance(m, _BatchNorm) and (m.running_var > 65504).any()
                ],
            ),
        ),
    ),
    checks.innocent: (
        names(Forgetful, ByTheBatch),
        hints(
            ("write a subclass", nn.LayerNorm),
        ),
    ),
    checks.follow_up: (
        names(plan, lambda: tuple(plan())),
        hints(
            ("list of dictionaries", lambda: np.zeros(3)),
            ("the list is empty", lambda: []),
            ("the keys", lambda: [dict(batch=1)]),
            ("none of them twice", lambda: 2 * plan()),
            ("3200 images", lambda: plan(updates=200)),
            ("two with the same number of values", lambda: plan(positions=16)),
        ),
    ),
}

test_accepts, test_rejects = examples(TABLES)
