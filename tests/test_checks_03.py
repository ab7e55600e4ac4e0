"""Chapter 03: its checks reject what is wrong and accept what is right."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.verdicts import verdict
from utils.checks import chapter_03 as checks


def norm(
    x,
    running_mean,
    running_var,
    training,
    momentum=0.1,
    eps=1e-5,
    *,
    used=0,
    stored=1,
    new=lambda m: m,
    detach=True,
    cut=False,
    root=False,
    std=False,
    always=False,
):
    """A right answer, with a switch for each mistake."""
    mean, var = running_mean, running_var
    if training:
        mean, var = x.mean(0), x.var(0, correction=used)
        m, store = new(momentum), x.var(0, correction=stored)
        if std:
            store = store.sqrt()
        m_mean, m_var = (mean.detach(), store.detach()) if detach else (mean, store)
        running_mean.mul_(1 - m).add_(m * m_mean)
        running_var.mul_(1 - m).add_(m * m_var)
        if cut:
            mean, var = mean.detach(), var.detach()
    elif always:
        mean, var = x.mean(0), x.var(0, correction=used)
    if root:
        return (x - mean) / (var.sqrt() + eps)
    return (x - mean) / torch.sqrt(var + eps)


def with_torch(x, running_mean, running_var, training, momentum=0.1, eps=1e-5):
    return F.batch_norm(
        x, running_mean, running_var, None, None, training, momentum, eps
    )


def with_lerp(x, running_mean, running_var, training, momentum=0.1, eps=1e-5):
    """Under no_grad, with lerp_ and copy_."""
    if training:
        var, mean = torch.var_mean(x, dim=0, correction=0)
        with torch.no_grad():
            running_mean.lerp_(mean, momentum)
            new = momentum * x.var(dim=0) + (1 - momentum) * running_var
            running_var.copy_(new)
    else:
        mean, var = running_mean, running_var
    return (x - mean) * (var + eps).rsqrt()


def with_data(x, running_mean, running_var, training, momentum=0.1, eps=1e-5):
    """One example at a time, through .data and slices."""
    if not training:
        return (x - running_mean) / (running_var + eps) ** 0.5
    n = x.shape[0]
    mean = sum(x) / n
    var = sum((row - mean) ** 2 for row in x) / n
    running_mean[:] = (1 - momentum) * running_mean + momentum * mean.data
    running_var[:] = (1 - momentum) * running_var + momentum * var.data * n / (n - 1)
    return torch.stack([(row - mean) / (var + eps).sqrt() for row in x])


def rebound(x, running_mean, running_var, training, momentum=0.1, eps=1e-5):
    """Assigns to the names, so that the caller's tensors stay."""
    if training:
        running_mean = (1 - momentum) * running_mean + momentum * x.mean(0).detach()
        running_var = (1 - momentum) * running_var + momentum * x.var(0).detach()
        return with_torch(x, None, None, True, momentum, eps)
    return with_torch(x, running_mean, running_var, False, momentum, eps)


def mode_from_gradients(x, running_mean, running_var, training, *rest):
    training = training and torch.is_grad_enabled()
    return with_torch(x, running_mean, running_var, training, *rest)


def memory_first(x, running_mean, running_var, training, momentum=0.1, eps=1e-5):
    """Normalises with the running tensors in training, too."""
    norm(x, running_mean, running_var, training, momentum, eps)
    mean, var = running_mean.clone(), running_var.clone()
    return (x - mean) / torch.sqrt(var + eps)


def updates_in_eval(x, running_mean, running_var, training, momentum=0.1, eps=1e-5):
    y = with_torch(
        x, running_mean.clone(), running_var.clone(), training, momentum, eps
    )
    if len(x) > 1:
        norm(x, running_mean, running_var, True, momentum, eps)
    return y


def in_place(x, running_mean, running_var, training, momentum=0.1, eps=1e-5):
    y = with_torch(x, running_mean, running_var, training, momentum, eps)
    x.data.sub_(1)
    return y


def all_without_gradients(*arguments):
    with torch.no_grad():
        return with_torch(*arguments)


RIGHT_NORMS = {
    "by the definition": norm,
    "with torch's own": with_torch,
    "with lerp": with_lerp,
    "row by row": with_data,
}
WRONG_NORMS = {
    "the stub": (lambda *_: None, "returned nothing"),
    "an ellipsis": (lambda *_: ..., "returned nothing"),
    "a tuple": (lambda *a: (norm(*a), a[1]), "should return the normalised x"),
    "normalised unbiased": (partial(norm, used=1), "divided by N (biased)"),
    "stored biased": (partial(norm, stored=0), "stores the biased variance"),
    "stored the sd": (partial(norm, std=True), "standard deviation"),
    "both swapped": (partial(norm, used=1, stored=0), "divided by N (biased)"),
    "momentum reversed": (partial(norm, new=lambda m: 1 - m), "other way round"),
    "momentum fixed": (partial(norm, new=lambda m: 0.1), "with momentum 0.3"),
    "momentum 0": (partial(norm, new=lambda m: 0.0), "did not change"),
    "graph kept": (partial(norm, detach=False), "autograd graph"),
    "statistics cut off": (partial(norm, cut=True), "do not detach them"),
    "eps outside the root": (partial(norm, root=True), "under the root"),
    "eps missing": (lambda x, a, b, t, m=0.1, e=0: norm(x, a, b, t, m, 0.0), "eps"),
    "eps fixed": (lambda x, a, b, t, m=0.1, e=0: norm(x, a, b, t, m, 1e-5), "eps"),
    "eval uses the batch": (partial(norm, always=True), "still normalises"),
    "rebound": (rebound, "in place"),
    "mode from gradients": (mode_from_gradients, "argument training decides"),
    "memory in training": (memory_first, "your output differs"),
    "updates in eval": (updates_in_eval, "must stay as they are"),
    "x changed": (in_place, "changes x itself"),
    "no gradient at all": (all_without_gradients, "has no gradient"),
    "always eval": (
        lambda x, a, b, t, m=0.1, e=1e-5: with_torch(x, a, b, False, m, e),
        "your output differs",
    ),
    "default momentum": (
        lambda x, a, b, t, m=0.9, e=1e-5: with_torch(x, a, b, t, m, e),
        "0.1 and 1e-5",
    ),
    "raises": (lambda *_: undefined, "NameError"),  # noqa: F821
}


def batch_norms(model):
    return [
        m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)
    ]


def no_gradients(model):
    for layer in batch_norms(model):
        layer.requires_grad_(False)
    return model


def to_eval(model):
    for layer in batch_norms(model):
        layer.eval()
    return model


def ignore_train(model):
    for layer in batch_norms(no_gradients(to_eval(model))):
        layer.train = lambda mode=True, layer=layer: layer
    return model


def other_class(model):
    """Swap the class for one with its own train."""
    for layer in batch_norms(no_gradients(to_eval(model))):
        kind = type(layer)
        layer.__class__ = type(
            "Frozen", (kind,), {"train": lambda self, mode=True: self}
        )
    return model


def before_each_call(model):
    """A hook that puts the layer into eval mode whenever it is called."""
    for layer in batch_norms(no_gradients(model)):
        layer.register_forward_pre_hook(lambda layer, inputs: layer.eval() and None)
    return model


class Affine(nn.Module):
    """What a frozen BN layer computes, with buffers only."""

    def __init__(self, layer):
        super().__init__()
        scale = layer.weight / torch.sqrt(layer.running_var + layer.eps)
        self.register_buffer("scale", scale.detach())
        shift = layer.bias - layer.running_mean * scale
        self.register_buffer("shift", shift.detach())

    def forward(self, x):
        shape = (1, -1, *[1] * (x.dim() - 2))
        return x * self.scale.view(shape) + self.shift.view(shape)


def replaced(model):
    if isinstance(model, nn.modules.batchnorm._BatchNorm):
        return Affine(model)
    for name, child in model.named_children():
        setattr(model, name, replaced(child))
    return model


def root_train(model):
    """Overrides train of the model, not of the layers."""
    if model in batch_norms(model):
        return ignore_train(model)
    train = type(model).train
    no_gradients(model)

    def keep(mode=True):
        train(model, mode)
        return to_eval(model)

    model.train = keep
    return model.train(model.training)


def momentum_zero(model):
    for layer in batch_norms(no_gradients(model)):
        layer.momentum = 0.0
    return model


def no_tracking(model):
    for layer in batch_norms(no_gradients(model)):
        layer.track_running_stats = False
    return model


def gradients_on(model):
    for layer in batch_norms(to_eval(model)):
        layer.train = lambda mode=True, layer=layer: layer
    return model


def everything(model):
    ignore_train(model)
    return model.requires_grad_(False)


def all_but_the_head(model):
    ignore_train(model)
    for p in next(model.children(), model).parameters():
        p.requires_grad_(False)
    return model


def dropout_too(model):
    for layer in model.modules():
        if not isinstance(layer, nn.Sequential):
            layer.eval()
            layer.train = lambda mode=True, layer=layer: layer
    return no_gradients(model)


def model_in_eval(model):
    """No mode can be set any more."""
    no_gradients(model).eval()
    model.train = lambda mode=True: model
    return model


def cut_off(model):
    """No gradient passes through."""
    for layer in batch_norms(ignore_train(model)):
        layer.register_forward_hook(lambda layer, inputs, output: output.detach())
    return model


def only(kind, model):
    for layer in model.modules():
        if isinstance(layer, kind):
            ignore_train(layer)
    return model


def top_level(model):
    for layer in model.children():
        if layer in batch_norms(model):
            ignore_train(layer)
    return model


def children_only(model):
    for layer in list(model.modules())[1:]:
        if layer in batch_norms(model):
            ignore_train(layer)
    return model


def only_gamma(model):
    ignore_train(model)
    for layer in batch_norms(model):
        layer.bias.requires_grad_(True)
    return model


def reset(model):
    for layer in batch_norms(ignore_train(model)):
        layer.reset_running_stats()
    return model


def root_hook(model):
    """The model's own hook puts all layers into eval mode before each pass."""
    no_gradients(model)
    model.register_forward_pre_hook(lambda model, inputs: to_eval(model) and None)
    return model


def root_swapped(model):
    """Another class for the model, with its own train."""
    if model in batch_norms(model):
        return ignore_train(model)
    kind = type(no_gradients(model))

    def train(self, mode=True):
        return to_eval(kind.train(self, mode))

    model.__class__ = type("Frozen", (kind,), {"train": train})
    return model.train(model.training)


RIGHT_FREEZES = [replaced, root_train, root_hook, root_swapped]
CONVERTED = "conversion has put new ones"
WRONG_FREEZES = [
    (ignore_train, CONVERTED),
    (other_class, CONVERTED),
    (before_each_call, CONVERTED),
    (lambda model: None, "returned nothing"),
    (lambda model: ignore_train(model) and None, "returned nothing"),
    (lambda model: True, "should return the model"),
    (lambda model: model, "statistics still move"),
    (no_gradients, "statistics still move"),
    (to_eval, "statistics still move"),
    (lambda model: no_gradients(to_eval(model)), "statistics still move"),
    (momentum_zero, "normalise with the batch"),
    (no_tracking, "normalise with the batch"),
    (gradients_on, "still gets gradients"),
    (only_gamma, "(β) changed"),
    (everything, "no parameter is left"),
    (all_but_the_head, "other layers do not train"),
    (cut_off, "other layers do not train"),
    (dropout_too, "does not obey"),
    (model_in_eval, "does not obey"),
    (partial(only, nn.BatchNorm1d), "statistics still move"),
    (partial(only, nn.BatchNorm2d), "statistics still move"),
    (partial(only, (nn.BatchNorm1d, nn.BatchNorm2d)), "statistics still move"),
    (
        partial(only, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)),
        "statistics still move",  # SyncBatchNorm is none of these
    ),
    (top_level, "statistics still move"),
    (children_only, "a BN layer itself"),
    (reset, "freezing itself changed"),
]


@pytest.mark.parametrize("name", RIGHT_NORMS)
def test_norm_with_memory_accepts(name):
    passed, said = verdict(checks.norm_with_memory, RIGHT_NORMS[name])
    assert passed, said
    assert said.startswith("Passed: ")


@pytest.mark.parametrize("name", WRONG_NORMS)
def test_norm_with_memory_rejects(name):
    answer, hint = WRONG_NORMS[name]
    passed, said = verdict(checks.norm_with_memory, answer)
    assert passed is False
    assert said.startswith("Not yet: ")
    assert hint in said


@pytest.mark.parametrize("answer", RIGHT_FREEZES)
def test_freeze_batch_norm_accepts(answer):
    passed, said = verdict(checks.freeze_batch_norm, answer)
    assert passed, said


@pytest.mark.parametrize(("answer", "hint"), WRONG_FREEZES)
def test_freeze_batch_norm_rejects(answer, hint):
    passed, said = verdict(checks.freeze_batch_norm, answer)
    assert passed is False
    assert hint in said


def guests(means, shape=12, scale=1.0, wrap=tuple):
    """An answer with these means, {k: (as trained, own)}."""
    spread = np.linspace(-2, 2, shape)
    return lambda k: wrap(scale * (m + spread) for m in means[k])


GUESTS = {1: (89.2, 93.6), 4: (91.6, 85.0)}
RIGHT_GUESTS = [
    guests(GUESTS),
    guests(GUESTS, wrap=list),
    guests(GUESTS, 24),
    guests({1: (86.0, 92.7), 4: (90.1, 83.0)}),
    guests({1: (91.5, 94.4), 4: (93.0, 87.0)}),
]
WRONG_GUESTS = [
    (lambda k: None, "returned nothing"),
    (lambda k: guests(GUESTS)(k)[0], "two arrays"),
    (lambda k: (89.0, 93.0), "one accuracy per seed"),
    (guests(GUESTS, 5), "one accuracy per seed"),
    (guests(GUESTS, scale=0.01), "in %"),
    (guests(GUESTS, scale=np.nan), "not finite"),
    (guests({1: GUESTS[1], 4: GUESTS[1]}), "does k reach"),
    (guests({k: v[::-1] for k, v in GUESTS.items()}), "in this order"),
    (guests({1: (54.6, 93.9), 4: (54.7, 93.9)}), "no guest"),
    (guests({1: (94.0, 43.0), 4: (94.1, 43.0)}), "half and half"),
    (guests({1: (91.1, 92.6), 4: (93.9, 70.0)}), "with 4 of 32"),
    (guests({1: (89.2, 93.6), 4: (91.1, 92.6)}), "with 4 of 32"),
]


@pytest.mark.parametrize("answer", RIGHT_GUESTS)
def test_with_guests_accepts(answer):
    passed, said = verdict(checks.with_guests, answer)
    assert passed, said


@pytest.mark.parametrize(("answer", "hint"), WRONG_GUESTS)
def test_with_guests_rejects(answer, hint):
    passed, said = verdict(checks.with_guests, answer)
    assert passed is False
    assert hint in said
