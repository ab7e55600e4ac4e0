"""Chapters 00 to 09: unusual answers that the checks' tables do not know.

Right ones pass, wrong ones get a hint that fits.
"""

import math

import numpy as np
import torch
from scipy import stats
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from tests.verdicts import examples
from utils import checks
from utils.checks.norms import wide
from utils.statistics import paired_difference

TABLES = {}


def right(check, *answers):
    """Note answers that pass; also as a decorator."""
    return noted(TABLES.setdefault(check, ({}, {}))[0], answers, lambda answer: answer)


def wrong(check, hint, *answers):
    """Note answers that get this hint; also as a decorator."""
    table = TABLES.setdefault(check, ({}, {}))[1]
    return noted(table, answers, lambda answer: (answer, hint))


def noted(table, answers, entry):
    def note(answer):
        table[f"{len(table)} {answer.__name__}"] = entry(answer)
        return answer

    for answer in answers:
        note(answer)
    return note


for check in [getattr(checks, name) for name in checks.__all__]:
    if check is not checks.NotYet:
        wrong(check, "returned nothing", lambda *a, **k: None, lambda *a, **k: ...)
        wrong(check, "NameError", lambda *a, **k: undefined)  # noqa: F821


# 0.1


@right(checks.paired_interval)
def loops(a, b):
    d = [x - y for x, y in zip(a, b)]
    n, mean = len(d), sum(d) / len(d)
    sd = (sum((x - mean) ** 2 for x in d) / (n - 1)) ** 0.5
    half = stats.t.ppf(0.975, n - 1) * sd / math.sqrt(n)
    return {"mean": mean, "low": mean - half, "high": mean + half}.values()


@right(checks.paired_interval)
def by_the_course(a, b):
    e = paired_difference(a, b)
    return [e.value, e.low, e.high]


wrong(
    checks.paired_interval,
    "three numbers",
    lambda a, b: (a - b).mean(),
    paired_difference,
    lambda a, b: by_the_course(a, b)[1:],
)
wrong(
    checks.paired_interval,
    "should be",
    lambda a, b: ((a - b).mean(), (a - b).min(), (a - b).max()),
    lambda a, b: by_the_course(abs(a - b), 0 * b),
)


# 1.1, 1.2


@right(checks.drift)
def in_numpy(values):
    v = values.numpy()
    return (abs(np.diff(v.mean(1), axis=0)) / v.std(1)[:-1].clip(1e-9)).mean(0)


@right(checks.drift)
def a_list_of_numbers(values):
    mean, sd = values.mean(1), values.std(1).clamp(min=1e-9)
    steps = [abs(b - a) / s for a, b, s in zip(mean, mean[1:], sd)]
    return [float(x) for x in sum(steps) / len(steps)]


wrong(checks.drift, "one number for each unit", lambda v: v.mean(), lambda v: v.mean(1))


@right(checks.noise_drift)
def simulated(size):
    shifts = np.random.default_rng(0).normal(size=400_000) * size
    return abs(np.diff(shifts)).mean()


right(checks.noise_drift, lambda size: torch.tensor([2 * size / math.pi**0.5]))
wrong(checks.noise_drift, "one number", lambda size: [size, size])
wrong(checks.noise_drift, "should be", lambda size: math.sqrt(size))


# 2.2, 8.1: any norm


def axes(x):
    return [d for d in range(x.dim()) if d != 1]


@right(checks.batch_norm_nd)
def channel_last(x, gamma, beta, eps=1e-5):
    z = x.movedim(1, -1)
    over = tuple(range(z.dim() - 1))
    mean, var = z.mean(over), z.var(over, unbiased=False)
    return (gamma * (z - mean) / (var + eps) ** 0.5 + beta).movedim(-1, 1)


@right(checks.batch_norm_nd)
def one_pass(x, gamma, beta, eps=1e-5):
    mean = x.mean(axes(x), keepdim=True)
    var = (x**2).mean(axes(x), keepdim=True) - mean**2
    scale = wide(gamma, x) / torch.sqrt(var + eps)
    return scale * x + (wide(beta, x) - scale * mean)


@right(checks.batch_norm_nd)
def channel_by_channel(x, gamma, beta, eps=1e-5):
    channels = []
    for c in range(x.shape[1]):
        centred = x[:, c] - x[:, c].mean()
        s = torch.sqrt((centred * centred).mean() + eps)
        channels.append(gamma[c] * centred / s + beta[c])
    return torch.stack(channels, dim=1)


@right(checks.batch_norm_nd)
def own_function(x, gamma, beta, eps=1e-5):
    """An autograd.Function with a backward pass by hand."""

    class Norm(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, gamma, beta):
            c = x - x.mean(axes(x), keepdim=True)
            s = torch.sqrt((c**2).mean(axes(x), keepdim=True) + eps)
            ctx.save_for_backward(c / s, s, gamma)
            return wide(gamma, x) * c / s + wide(beta, x)

        @staticmethod
        def backward(ctx, dy):
            x_hat, s, gamma = ctx.saved_tensors
            over, g = axes(dy), dy * wide(gamma, dy)
            mean = g.mean(over, keepdim=True)
            along = x_hat * (g * x_hat).mean(over, keepdim=True)
            return (g - mean - along) / s, (dy * x_hat).sum(over), dy.sum(over)

    return Norm.apply(x, gamma, beta)


@wrong(checks.batch_norm_nd, "not contiguous: your function raised RuntimeError")
def views(x, gamma, beta, eps=1e-5):
    flat = x.view(len(x), x.shape[1], -1)
    return one_pass(flat, gamma, beta, eps).view(x.shape)


wrong(
    checks.batch_norm_nd,
    "keep the precision",
    lambda x, g, b, eps=1e-5: one_pass(x.float(), g.float(), b.float(), eps),
    lambda x, g, b, eps=1e-5: one_pass(x.double(), g.double(), b.double(), eps),
)
wrong(checks.batch_norm_nd, "nan", lambda x, g, b, eps=1e-5: x * float("nan"))
wrong(checks.batch_norm_nd, "a tensor", lambda x, g, b, eps=1e-5: x.detach().numpy())
wrong(checks.batch_norm_nd, "shape", lambda x, g, b, eps=1e-5: one_pass(x, g, b)[0])
wrong(
    checks.batch_norm_nd,
    "gamma is cut off",
    lambda x, g, b, eps=1e-5: one_pass(x, g.detach(), b, eps),
)


@right(checks.group_norm)
def with_chunks(x, groups, gamma, beta, eps=1e-5):
    parts = []
    for part in x.chunk(groups, dim=1):
        dims = tuple(range(1, x.dim()))
        var, mean = torch.var_mean(part, dims, correction=0, keepdim=True)
        parts.append((part - mean) / (var + eps).sqrt())
    return wide(gamma, x) * torch.cat(parts, 1) + wide(beta, x)


@right(checks.group_norm)
def through_batch_norm(x, groups, gamma, beta, eps=1e-5):
    z = x.reshape(1, len(x) * groups, -1)
    z = F.batch_norm(z, None, None, training=True, eps=eps).reshape(x.shape)
    return wide(gamma, x) * z + wide(beta, x)


@wrong(checks.group_norm, "not contiguous: your function raised RuntimeError")
def views_of_groups(x, groups, gamma, beta, eps=1e-5):
    z = x.view(len(x), groups, -1)
    z = (z - z.mean(2, keepdim=True)) / (
        z.var(2, correction=0, keepdim=True) + eps
    ).sqrt()
    return wide(gamma, x) * z.view(x.shape) + wide(beta, x)


# 2.5, 2.6, 8.2


@wrong(checks.backward_nodes, "derive the nodes by hand")
def autograd(dy, x, gamma, eps=1e-5):
    with torch.enable_grad():
        x, g = (t.detach().clone().requires_grad_() for t in (x, gamma))
        b = torch.zeros_like(g, requires_grad=True)
        mean = x.mean(0)
        c = x - mean
        var = (c**2).mean(0)
        x_hat = c / (var + eps).sqrt()
        found = torch.autograd.grad(g * x_hat + b, (b, g, x_hat, var, c, mean, x), dy)
    return dict(zip("dbeta dgamma dx_hat dvar dc dmean dx".split(), found))


@right(checks.backward_nodes)
def in_matrices(dy, x, gamma, eps=1e-5):
    n = len(x)
    centre = torch.eye(n, dtype=x.dtype) - 1 / n
    c = centre @ x
    inverse = ((c * c).sum(0) / n + eps) ** -0.5
    nodes = {"dbeta": dy.sum(0), "dgamma": (dy * c * inverse).sum(0)}
    nodes["dx_hat"] = dy * gamma
    nodes["dvar"] = -0.5 * inverse**3 * (nodes["dx_hat"] * c).sum(0)
    nodes["dc"] = nodes["dx_hat"] * inverse + 2 / n * c * nodes["dvar"]
    nodes["dmean"] = -nodes["dc"].sum(0)
    nodes["dx"] = centre @ nodes["dc"]
    return nodes


wrong(
    checks.backward_nodes,
    "Next: dgamma",
    lambda dy, x, gamma, eps=1e-5: {"dbeta": dy.sum(0)},
)
wrong(checks.backward_nodes, "a dict", lambda dy, x, gamma, eps=1e-5: dy.sum(0))
wrong(
    checks.backward_nodes,
    "Next: dbeta",
    lambda dy, x, gamma, eps=1e-5: {"db": dy.sum(0)},
)


@right(checks.norm_backward)
def with_a_projection(dy, x_hat, s, gamma, centred):
    size, g = x_hat.shape[-1], dy * gamma
    dx = g - x_hat * (g * x_hat).sum(-1, keepdim=True) / size
    if centred:
        dx = dx @ (torch.eye(size, dtype=g.dtype) - 1 / size)
    return [dx / s, (dy * x_hat).reshape(-1, size).sum(0)]


wrong(checks.norm_backward, "two tensors", lambda dy, *rest: dy)
wrong(
    checks.norm_backward,
    "every axis but the last",
    lambda dy, x, s, g, c: (with_a_projection(dy, x, s, g, c)[0], (dy * x).sum(0)),
)


@right(checks.renorm_r_d)
@torch.no_grad()
def under_no_grad(mean, var, mu, running_var, r_max, d_max, eps=1e-5):
    s = (running_var + eps).sqrt()
    r = ((var + eps).sqrt() / s).clip(1 / r_max, r_max)
    return [
        r,
        torch.maximum(torch.minimum((mean - mu) / s, s * 0 + d_max), s * 0 - d_max),
    ]


wrong(checks.renorm_r_d, "two things", lambda mean, *rest: mean)


# 3.1


@right(checks.norm_with_memory)
def with_lerp(x, running_mean, running_var, training, momentum=0.1, eps=1e-5):
    if training:
        var, mean = torch.var_mean(x, dim=0, correction=0)
        with torch.no_grad():
            running_mean.lerp_(mean, momentum)
            new = momentum * x.var(dim=0) + (1 - momentum) * running_var
            running_var.copy_(new)
    else:
        mean, var = running_mean, running_var
    return (x - mean) * (var + eps).rsqrt()


@right(checks.norm_with_memory)
def row_by_row(x, running_mean, running_var, training, momentum=0.1, eps=1e-5):
    if not training:
        return (x - running_mean) / (running_var + eps) ** 0.5
    n, m = x.shape[0], momentum
    mean = sum(x) / n
    var = sum((row - mean) ** 2 for row in x) / n
    running_mean[:] = (1 - m) * running_mean + m * mean.data
    running_var[:] = (1 - m) * running_var + m * var.data * n / (n - 1)
    return torch.stack([(row - mean) / (var + eps).sqrt() for row in x])


@wrong(checks.norm_with_memory, "PyTorch's own batch norm")
def torchs(x, running_mean, running_var, training, momentum=0.1, eps=1e-5):
    memory = running_mean, running_var
    return torch.batch_norm(x, None, None, *memory, training, momentum, eps, False)


@wrong(checks.norm_with_memory, "PyTorch's own batch norm")
def native(x, running_mean, running_var, training, momentum=0.1, eps=1e-5):
    memory = running_mean, running_var
    return torch.native_batch_norm(x, None, None, *memory, training, momentum, eps)[0]


wrong(
    checks.norm_with_memory,
    "the normalised x",
    lambda x, *rest: (with_lerp(x, *rest), rest[0]),
)


# 3.2


def norms(model):
    return [m for m in model.modules() if isinstance(m, _BatchNorm)]


class Affine(nn.Module):
    """What a frozen BN layer computes, with buffers only."""

    def __init__(self, layer):
        super().__init__()
        scale = layer.weight / torch.sqrt(layer.running_var + layer.eps)
        self.register_buffer("scale", scale.detach())
        shift = layer.bias - layer.running_mean * scale
        self.register_buffer("shift", shift.detach())

    def forward(self, x):
        return x * wide(self.scale, x) + wide(self.shift, x)


@right(checks.freeze_batch_norm)
def replaced(model):
    if isinstance(model, _BatchNorm):
        return Affine(model)
    for name, child in model.named_children():
        setattr(model, name, replaced(child))
    return model


@right(checks.freeze_batch_norm)
def root_hook(model):
    """The model's own hook puts all BN layers into eval mode before each pass."""

    def to_eval(model, inputs):
        for layer in norms(model):
            layer.eval()

    for layer in norms(model):
        layer.requires_grad_(False)
    model.register_forward_pre_hook(to_eval)
    return model


wrong(checks.freeze_batch_norm, "return the model", lambda model: True)


# 4.1, 4.2


def moments(a):
    return a.mean(0), a.var(0, correction=0)


@right(checks.dropout_ratio)
def with_numpy(a, p):
    a = np.asarray(a)
    return a.var(0) / ((a**2).mean(0) / (1 - p) - a.mean(0) ** 2)


@right(checks.dropout_ratio)
def simplified(a, p):
    mean, var = moments(a)
    return [float(r) for r in (1 - p) * var / (var + p * mean**2)]


wrong(
    checks.dropout_ratio,
    "one ratio per unit",
    lambda a, p: with_numpy(a, p).mean(),
    lambda a, p: simplified(a.T, p),
)
wrong(checks.dropout_ratio, "the ratio", lambda a, p: simplified(a, 0.5))


def weights_of(model):
    return {m.weight for m in model.modules() if isinstance(m, (nn.Linear, _ConvNd))}


@right(checks.decay_groups)
def generators(model, decay):
    w, ps = weights_of(model), list(model.parameters())
    return (
        dict(params=(p for p in ps if p in w), weight_decay=decay),
        dict(params=(p for p in ps if p not in w), weight_decay=0),
    )


@wrong(checks.decay_groups, "use a list")
def sets(model, decay):
    w = weights_of(model)
    return [
        {"params": w, "weight_decay": decay},
        {"params": set(model.parameters()) - w, "weight_decay": 0.0},
    ]


@wrong(checks.decay_groups, "not their names")
def names(model, decay):
    found = [name for name, _ in model.named_parameters()]
    return [{"params": found, "weight_decay": decay}, {"params": [], "weight_decay": 0}]


wrong(
    checks.decay_groups,
    "list of two dictionaries",
    lambda model, decay: list(model.parameters()),
    lambda model, decay: {"params": list(model.parameters()), "weight_decay": decay},
)
wrong(
    checks.decay_groups,
    "SGD refuses",
    lambda model, decay: 2 * [{"params": [*model.parameters()], "weight_decay": decay}],
)


# 5.1, 5.3


@right(checks.highest_usable_rate)
def from_the_top(rates, accuracy, diverged):
    mean = np.where(diverged.any(1), -np.inf, accuracy.mean(1))
    for k in np.argsort(rates)[::-1]:
        if mean[k] >= mean.max() - 5:
            return np.array([rates[k]])


@right(checks.highest_usable_rate)
def in_torch(rates, accuracy, diverged):
    rates, accuracy, bad = map(torch.as_tensor, (rates, accuracy, diverged))
    mean = accuracy.mean(1).masked_fill(bad.any(1), -torch.inf)
    return rates[mean >= mean.max() - 5].max()


@wrong(checks.highest_usable_rate, "as soon as one seed diverged")
def tolerates_a_tenth(rates, accuracy, diverged):
    alive = diverged.mean(1) <= 0.1
    rates, mean = rates[alive], np.nanmean(accuracy[alive], 1)
    return rates[mean >= mean.max() - 5].max()


wrong(checks.highest_usable_rate, "one rate", lambda r, a, d: r)


@right(checks.rescale)
def one_group_each(model, a, lr, weight_decay=0.0):
    groups = checks.rescale.right["by the identities"](model, a, lr, weight_decay)
    return tuple(dict(g, params=p) for g in groups for p in g["params"])


@right(checks.rescale)
def without_idle_biases(model, a, lr, weight_decay=0.0):
    groups = checks.rescale.right["by the identities"](model, a, lr, weight_decay)
    pairs = zip(model, model[1:], strict=False)
    idle = [
        one.bias
        for one, two in pairs
        if isinstance(two, nn.BatchNorm1d) and isinstance(one, nn.Linear)
    ]
    groups[1]["params"] = [
        p for p in groups[1]["params"] if not any(p is b for b in idle)
    ]
    return [g for g in groups if g["params"]]


wrong(
    checks.rescale, "a list of dictionaries", lambda model, *rest: [*model.parameters()]
)


# 6.1, 6.2


@right(checks.images_needed)
def with_scipy(x, error):
    return np.ceil(max((k + 2) / error**2 for k in stats.kurtosis(x.double().numpy())))


@right(checks.images_needed)
def by_squares(x, error):
    squares = (x - x.mean(dim=0)) ** 2
    ratio = squares.var(dim=0) / squares.mean(dim=0) ** 2
    return torch.ceil(ratio.max() / error**2).int()


wrong(checks.images_needed, "one number", lambda x, error: x.mean(1))
wrong(checks.images_needed, "whole number", lambda x, error: 2.5)


@right(checks.ghost_forward)
def with_indices(layer, x, size):
    if not layer.training:
        return layer(x)
    cuts = list(range(0, len(x), size))
    if len(cuts) > 1 and len(x) - cuts[-1] == 1:
        cuts.pop()
    ends = [*cuts[1:], len(x)]
    return torch.cat([layer(x[a:b]) for a, b in zip(cuts, ends)])


@wrong(checks.ghost_forward, "counts its batches")
def without_the_counter(layer, x, size):
    if not layer.training or layer.momentum is None or layer.running_mean is None:
        return with_indices(layer, x, size)
    count = layer.num_batches_tracked.clone()
    y = with_indices(layer, x, size)
    layer.num_batches_tracked.copy_(count)
    return y


class Ghost(nn.Module):
    __name__ = "a module"

    def forward(self, layer, x, size):
        return with_indices(layer, x, size)


right(checks.ghost_forward, Ghost())
wrong(checks.ghost_forward, "one tensor", lambda layer, x, size: [*x.split(size)])


# 7.2, 7.1


right(
    checks.batch_of_two,
    lambda a, b, eps=1e-5: (a - b) / ((a - b) ** 2 + 4 * eps) ** 0.5,
    lambda a, b, eps=1e-5: torch.tanh(torch.asinh((a - b) / 2 / eps**0.5)),
    lambda a, b, eps=1e-5: ((a - b) / ((a - b) ** 2 + 4 * eps) ** 0.5).numpy(),
)
wrong(checks.batch_of_two, "that shape", lambda a, b, eps=1e-5: torch.stack([a, b]))


@right(checks.careful)
def in_eval_mode(layer, x, at_least):
    if not layer.training or x[:, 0].numel() >= at_least:
        return layer(x)
    layer.eval()
    y = layer(x)
    layer.train()
    return y


@wrong(checks.careful, "seen is new")
def leaves_a_mark(layer, x, at_least):
    layer.seen = len(x)
    return in_eval_mode(layer, x, at_least)


@wrong(checks.careful, "more than 1 value per channel")
def counts_all_values(layer, x, at_least):
    return in_eval_mode(layer, x, at_least if x.numel() < at_least else 0)


# 9.1


@right(checks.merge)
def one_after_the_other(counts, means, variances):
    counts, means, variances = counts.double(), means.double(), variances.double()
    n, mean, total = counts[0], means[0], variances[0] * counts[0]
    for count, m, var in zip(counts[1:], means[1:], variances[1:]):
        gap, both = m - mean, n + count
        mean = mean + gap * count / both
        total, n = total + var * count + gap**2 * n * count / both, both
    return mean, total / n


wrong(checks.merge, "two things", lambda counts, means, variances: means)
wrong(checks.merge, "per channel", lambda counts, means, variances: (means, variances))


test_accepts, test_rejects = examples(TABLES)
