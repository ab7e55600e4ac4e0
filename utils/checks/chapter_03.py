"""Checks of chapter 03, train and eval."""

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from utils.checks.framework import (
    Measured,
    as_said,
    check,
    expect,
    named,
    numbers,
    per_seed,
    same,
)
from utils.checks.modules import settings_of


def _operations(y: Tensor) -> set[str]:
    """The names of the operations in the graph behind y."""
    names, nodes = set(), [y.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is not None:
            names.add(node.name())
            nodes += [earlier for earlier, _ in node.next_functions]
    return names


def _norm(x, running_mean, running_var, training, momentum=0.1, eps=1e-5):
    mean, var = x.mean(0), x.var(0, correction=0)
    if not training:
        mean, var = running_mean, running_var
    if training:
        old, new = 1 - momentum, x.detach()
        running_mean.mul_(old).add_(momentum * new.mean(0))
        running_var.mul_(old).add_(momentum * new.var(0, correction=1))
    return (x - mean) / (var + eps).sqrt()


UNBIASED = "to normalise, the variance is divided by N (biased); N - 1 is for storing"
OWN = "it uses PyTorch's own batch norm: write the mean and the variance yourself"
NO_GRAPH = (
    "the running tensors carry the autograd graph along, which grows with each batch: "
    "detach what you store"
)
CUT = (
    "the output is right, but its gradient is not: the mean and the variance of the "
    "batch depend on x, so do not detach them in the normalisation"
)
IN_PLACE = (
    "the running tensors did not change: update them in place, "
    "running_mean.mul_(…).add_(…)"
)


BY_MEMORY = "with training=True it normalises with the running tensors: use the batch"
LEAVE_X = "it changes x itself: only the running tensors may change"
NO_OUTPUT = "the output has no gradient: normalise outside of torch.no_grad()"


@check(
    praise="output, gradient and memory are PyTorch's, in both modes",
    cases=named(
        "batch {}, training={}, (momentum, eps) = {}, {}",
        *[
            (n, training, (m, eps))
            for n, m, eps in [(5, 0.1, 1e-5), (8, 0.3, 1e-2), (2, 0.01, 1e-5)]
            + [(5, 0.7, 0.3)]
            for training in (True, False)
        ],
        (6, True, (0.2, 1e-2), "gradients off"),
        (1, False, (0.2, 1e-2)),
        (5, True, ()),
        (16, True, (0.2, 1e-2), "float32"),
        (6, True, (0.2, 1e-2), "not contiguous"),
    ),
    tolerance=(1e-6, 1e-9),
    hints={
        "the graph of the memory": NO_GRAPH,
        "whether the output has a gradient": NO_OUTPUT,
        "the gradient": CUT,
    },
    right={"by the definition": _norm},
    edits={
        "correction=1 -> correction=0": "the variance that is stored is divided by N "
        "- 1, not by N",
        "correction=0 -> correction=1": UNBIASED,
        "=0 -> =2; =1 -> =0; =2 -> =1": UNBIASED,
        "new.var(0, correction=1) -> new.std(0)": "you store the standard deviation: "
        "running_var is a variance",
        "momentum * -> old *; mul_(old) -> mul_(momentum)": "the momentum is the "
        "other way round: in PyTorch it is the weight of the new batch, and 1 - "
        "momentum that of the past",
        "old, new -> momentum = 0.1\n        old, new": "the momentum is fixed: use "
        "the one that was given",
        "momentum=0.1 -> momentum=0.9": "without momentum and eps it should use 0.1 "
        "and 1e-5",
        ".mul_( -> .mul(; .add_( -> .add(": IN_PLACE,
        "if training: -> if False:": IN_PLACE,
        "if training: -> if len(x) > 1:": "with training=False the running tensors "
        "must stay as they are",
        "if not training: -> if False:": "with training=False it still normalises "
        "with the batch: use the running tensors",
        "if not training: -> if True:": BY_MEMORY,
        "if not training: -> if True:; = running_mean, running_var -> = "
        "running_mean.clone(), running_var.clone()": BY_MEMORY,
        "mean, var = x -> training &= torch.is_grad_enabled()\n    mean, var = x": (
            "under torch.no_grad() it behaves as in evaluation: the argument "
            "training decides, not whether gradients are on"
        ),
        "(var + eps).sqrt() -> (var.sqrt() + eps)": "eps is added to the variance, "
        "under the root, not to its root",
        " + eps -> ": "eps is missing",
        "+ eps -> + 1e-5": "eps is fixed: use the one that was given",
        ".detach() -> ": NO_GRAPH,
        "(x - mean) / (var -> (x - mean.detach()) / (var.detach()": CUT,
        "(x - mean) / (var + eps).sqrt() -> "
        "((x - mean) / (var + eps).sqrt()).detach()": NO_OUTPUT,
        "return -> y =; eps).sqrt() -> eps).sqrt()\n    x.data.sub_(1)\n    "
        "return y": LEAVE_X,
    },
)
def norm_with_memory(
    answer: Callable, n: int, training: bool, more: tuple, how: str = ""
) -> dict:
    """Exercise 3.1: BN over (batch, channels) with running statistics."""
    x = as_said(3 + 2 * torch.randn(n, 5, dtype=torch.float64), how)
    memory = torch.full((5,), 0.5).to(x), torch.full((5,), 2.0).to(x)
    weights = torch.randn(n, 5).to(x)
    x.requires_grad_()
    with torch.set_grad_enabled(how != "gradients off"):
        y = answer(x, *memory, training, *more)
    expect(
        isinstance(y, Tensor) and y.shape == x.shape,
        f"it should return the normalised x, a tensor of shape {tuple(x.shape)}; got "
        f"{tuple(getattr(y, 'shape', ())) or type(y).__name__}",
    )
    expect(not any("BatchNorm" in name for name in _operations(y)), OWN)
    seen = {
        "the graph of the memory": [m.requires_grad for m in memory],
        "the output": y,
        "the running mean": memory[0].detach().clone(),
        "the running variance": memory[1].detach().clone(),
        "whether the output has a gradient": y.requires_grad,
    }
    if y.requires_grad:
        (y * weights).sum().backward()
        seen["the gradient"] = x.grad
    return seen


class _NormalHead(nn.Linear):
    """No norm, whatever its name says."""


def _dense() -> tuple[nn.Module, tuple]:
    inner = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.ReLU())
    layers = [nn.Linear(4, 6), nn.BatchNorm1d(6, eps=1e-2), nn.Dropout(0.5), inner]
    return nn.Sequential(*layers, nn.LayerNorm(6), _NormalHead(6, 3)), (16, 4)


def _conv() -> tuple[nn.Module, tuple]:
    body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    memory = nn.InstanceNorm2d(4, affine=True, track_running_stats=True)
    rest = [nn.GroupNorm(2, 4), memory, nn.Flatten(), nn.Linear(64, 3)]
    return nn.Sequential(body, *rest), (8, 1, 6, 6)


def _volume() -> tuple[nn.Module, tuple]:
    layers = [nn.Conv3d(1, 2, 2), nn.BatchNorm3d(2, momentum=0.5), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(16, 3)), (8, 1, 3, 3, 3)


def _synced() -> tuple[nn.Module, tuple]:
    model, shape = _volume()
    return nn.SyncBatchNorm.convert_sync_batchnorm(model), shape


def _alone() -> tuple[nn.Module, tuple]:
    return nn.BatchNorm1d(3), (8, 3)


def _train(model: nn.Module, shape: tuple, steps: int, shift: float) -> None:
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(steps):
        x, y = shift + 2 * torch.randn(shape), torch.randint(3, shape[:1])
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()


def _norms(model: nn.Module, kinds: type | tuple = _BatchNorm) -> list[nn.Module]:
    return [m for m in model.modules() if isinstance(m, kinds)]


def _freeze(model: nn.Module) -> nn.Module:
    def train(mode: bool = True) -> nn.Module:
        type(model).train(model, mode)
        for layer in _norms(model):
            layer.training = False
            layer.requires_grad_(False)
        return model

    model.train = train
    return train(model.training)


def _layers_ignore_train(model: nn.Module) -> nn.Module:
    for layer in _norms(model):
        layer.requires_grad_(False).eval()
        layer.train = lambda mode=True, layer=layer: layer
    return model


def _before_each_call(model: nn.Module) -> nn.Module:
    for layer in _norms(model):
        layer.requires_grad_(False)
        layer.register_forward_pre_hook(lambda layer, inputs: layer.eval() and None)
    return model


MOVES = (
    "the stored statistics of a BN layer change after model.train(): "
    "requires_grad=False does not stop them, and model.train() turns the layer back on"
)
CONVERTED = (
    "after SyncBatchNorm.convert_sync_batchnorm and model.train() the layers change "
    "again: conversion has put new ones in their place, which know nothing of what you "
    "did to the old; the model itself stays"
)
BATCH = (
    "after model.train() the BN layers normalise with the batch: they should go on "
    "using the stored statistics"
)
LEARNS = "γ or β of a BN layer changed: it still gets gradients"
OTHERS = (
    "other layers do not train any more: only BN layers are to be frozen, and "
    "gradients must pass through them"
)
OBEY = (
    "after model.train(mode) a layer that is no BN layer does not obey, or has other "
    "flags than before: only the subclasses of _BatchNorm are to stay in their mode"
)
RESET = "freezing itself changed what a BN layer has learnt: keep it"
ROOT = (
    "a model that is a BN layer itself is not frozen: model.modules() begins with the "
    "model"
)


@check(
    praise="statistics, γ and β stay, model.train() or not, and the rest trains",
    cases={
        "a dense net": (_dense, False),
        "a conv net": (_conv, False),
        "BatchNorm3d": (_volume, False),
        "SyncBatchNorm": (_synced, False),
        "a BN layer alone": (_alone, False),
        "a conv net, then convert_sync_batchnorm": (_conv, True),
    },
    tolerance=(1e-4, 1e-5),
    hints={
        "what BN has learnt": RESET,
        "the others": OTHERS,
        "the statistics*": MOVES,
        "γ and β*": LEARNS,
        "the modes of other layers*": OBEY,
        "the flags of other parameters": OBEY,
        "the output*": BATCH,
        "the settings of other layers": "it changes the settings of other layers",
    },
    right={"the model's own train": _freeze},
    edits={
        "_norms(model): -> _norms(model)[isinstance(model, _BatchNorm) :]:": ROOT,
        "model.train = train -> ": MOVES,
        "(model): -> (model, nn.BatchNorm1d):": MOVES,
        "(model): -> (model, nn.BatchNorm2d):": MOVES,
        "(model): -> (model, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):": (
            MOVES
        ),
        "layer.training = False -> layer.momentum = 0.0": BATCH,
        "layer.training = False -> layer.track_running_stats = False": BATCH,
        "layer.requires_grad_(False) -> pass": LEARNS,
        "layer.requires_grad_(False) -> layer.weight.requires_grad_(False)": LEARNS,
        "(model): -> (model, (nn.Dropout, _BatchNorm)):": OBEY,
        "in _norms(model): -> in model.modules():\n            "
        "if 'Norm' not in type(layer).__name__: continue": OBEY,
        "(model.training) -> (model.training).requires_grad_(False)": OTHERS,
        "model.train = train -> model.train = train\n    for m in _norms(model): "
        "m.register_forward_hook(lambda m, x, y: y.detach())": OTHERS,
        "model.train = train -> model.train = train\n    for m in _norms(model): "
        "m.reset_running_stats()": RESET,
    },
    mistakes={CONVERTED: (_layers_ignore_train, _before_each_call)},
)
def freeze_batch_norm(answer: Callable, make: Callable, convert: bool) -> dict:
    """Exercise 3.3: BN layers that stay frozen whatever mode is set."""
    model, shape = make()
    _train(model, shape, 5, shift=0.0)
    x, right = 3 + 2 * torch.randn(shape), copy.deepcopy(model).eval()
    paths = {n for n, m in model.named_modules() if isinstance(m, _BatchNorm)}

    def inside(path: str) -> bool:
        return any(not p or path == p or path.startswith(p + ".") for p in paths)

    def learnt(names: tuple[str, ...]) -> list[object]:
        state = model.state_dict()  # another layer may have taken BN's place
        keys = [f"{p}.{name}".strip(".") for p in sorted(paths) for name in names]
        return [state.get(k, old[k]).clone() for k in keys]

    def others() -> dict[str, nn.Module]:
        return {n: m for n, m in model.named_modules() if not inside(n)}

    old = copy.deepcopy(model.state_dict())
    parts = ("running_mean", "running_var"), ("weight", "bias")
    start = [learnt(names) for names in parts]
    plain = [settings_of(m, deep=False) for m in others().values()]
    result = answer(model)
    expect(isinstance(result, nn.Module), f"it should return the model, got {result!r}")
    model = result
    seen: dict[str, object] = {"what BN has learnt": same(start, [*map(learnt, parts)])}
    if convert:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    flags = {n: p.requires_grad for n, p in model.named_parameters() if not inside(n)}
    before = {n: p.detach().clone() for n, p in model.named_parameters() if n in flags}
    for epoch in (1, 2):  # the second epoch's model.train()
        model.train()
        if flags and any(flags.values()):
            _train(model, shape, 3, shift=3.0)
        else:
            model(3 + 2 * torch.randn(shape))
        tag = f", epoch {epoch}"
        seen[f"the statistics{tag}"] = same(start[0], learnt(parts[0]))
        seen[f"γ and β{tag}"] = same(start[1], learnt(parts[1]))
        model.eval()
    now = dict(model.named_parameters())
    seen["the others"] = all(not same(now[n].detach(), before[n]) for n in before)
    for mode in (True, False):
        model.train(mode)
        modes = {n: m.training for n, m in others().items()}
        seen[f"the modes of other layers, {mode}"] = modes
    seen["the flags of other parameters"] = flags
    seen["the settings of other layers"] = [
        settings_of(m, deep=False) for m in others().values()
    ] == plain
    fresh = answer(copy.deepcopy(right).train())
    for module in fresh.train().modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
    for net in (fresh, right):  # its own statistics, in both
        for module in net.modules():
            if isinstance(module, nn.InstanceNorm2d):
                module.eval()
    with torch.no_grad():
        seen["the output in train mode"] = same(fresh(x), right(x), 1e-4, 1e-5)
        seen["the output in eval mode"] = same(fresh.eval()(x), right(x), 1e-4, 1e-5)
    return seen


# Test accuracy in % by guests among 32 images: in eval mode as trained, and
# with each scanner's own statistics (400 updates, twelve seeds)
AS_TRAINED = {1: (79.0, 96.0), 4: (86.0, 96.0)}
OWN_STATISTICS = {1: (89.5, 97.0), 4: (79.0, 90.0)}


def _two_arrays(result: object, asked: str) -> list[float]:
    expect(
        isinstance(result, tuple | list) and len(result) == 2,
        "return two arrays: accuracy in eval mode as trained, and with each scanner's "
        "own statistics",
    )
    return [per_seed(values, asked, alike=True)[0] for values in result]


with_guests = Measured(
    "with_guests",  # exercise 3.5: guests from the other scanner
    calls=[(1,), (4,)],
    ranges=[
        (f"{name} with {k} of 32 as guests", *table[k])
        for k in (1, 4)
        for name, table in (
            ("in eval mode as trained,", AS_TRAINED),
            ("with each scanner's own statistics,", OWN_STATISTICS),
        )
    ],
    said="one guest: {:.1f} % as trained and {:.1f} % with own statistics; "
    "four: {:.1f} and {:.1f} %",
    asked="on the test images of both scanners, 400 updates at a rate of 0.3",
    not_finite="choose lower rates",
    read=_two_arrays,
    fake=lambda means: tuple(m + np.linspace(-1, 1, 12) * m / 50 for m in means),
    right=[(89.2, 93.6, 91.6, 85.0), (86, 92.7, 90.1, 83), (91.5, 94.4, 93, 87)],
    wrong={
        "max(a, b) <= 1: 0.892 0.936 0.916 0.85": "give the accuracies in %",
        "a == c: 89.2 93.6 89.2 93.6": "the same numbers for one guest and four: does "
        "k reach the order?",
        "a <= 70: 54.6 93.9 54.7 93.9": "that is what no guest brings: does each "
        "batch hold images of both scanners?",
        "min(b, d) <= 50: 94 43 94.1 43": "are the batches mixed half and half, or "
        "the two scanners swapped?",
        f"c < d - 2 and {AS_TRAINED[4][0]} < d < {AS_TRAINED[4][1]}: 93.6 89.2 "
        "85.0 91.6": "in this order: eval mode as trained first, then each "
        "scanner's own statistics",
    },
)


def _largest(
    squared: Callable = lambda n, noise: n * noise**2,
    solve: Callable = lambda q: 2 * q / (1 + q),
    most: float = 1.0,
) -> Callable:
    return lambda n, noise: min(most, solve(squared(n, noise)))


@check(
    praise="right for all batch sizes and noises that we tried",
    cases={
        f"batch size {n}, noise {noise:g}": (n, noise)
        for n, noise in [(32, 0.05), (4, 0.1), (256, 0.01), (9, 1 / 3), (4, 0.75)]
    },
    tolerance=(1e-4, 1e-7),
    right={"solved for m": _largest()},
    mistakes={
        "a momentum is at most 1: there the layer stores the last batch": _largest(
            most=1e9
        ),
        "noise is a standard deviation: square it before you solve for m": _largest(
            squared=lambda n, noise: n * noise
        ),
        "do not forget the 2 - m: at a large m it matters": _largest(
            solve=lambda q: 2 * q
        ),
        "m / (2 - m) = q gives m = 2 q / (1 + q)": (
            _largest(solve=lambda q: q / (1 + q)),
            _largest(solve=lambda q: q),
        ),
        "that is one minus it, as Keras counts: in PyTorch the momentum is the weight "
        "of the new batch": lambda n, noise: 1 - _largest()(n, noise),
        "a larger batch allows a larger momentum: multiply by N": _largest(
            squared=lambda n, noise: noise**2 / n
        ),
    },
)
def largest_momentum(answer: Callable, n: int, noise: float) -> dict:
    """Exercise 3.2: the largest momentum whose noise floor is low enough."""
    return {"the momentum": numbers(answer(n, noise), (), "one number")}


WORDS = ("not BN", "memory", "batches", "training")


def _diagnosis(
    words: tuple = WORDS,
    above: Callable = lambda score, good: score >= good,
    order: str = "train eval",
) -> Callable:
    """A right answer, with a part exchanged."""

    def answer(train: float, stored: float, anew: float, good: float) -> str:
        train, stored, anew = (above(s, good) for s in (train, stored, anew))
        if order == "anew first" and anew:
            return words[0] if stored else words[1]
        if not train and order != "no train":
            return words[3]
        if stored:
            return words[0]
        return words[1] if anew else words[2]

    return answer


@check(
    praise="all rows of the table",
    cases={
        "97, 96, 96; good from 90": (97, 96, 96, 90),
        "97, 31, 96; good from 90": (97, 31, 96, 90),
        "97, 31, 60; good from 90": (97, 31, 60, 90),
        "45, 40, 41; good from 90": (45, 40, 41, 90),
        "90, 90, 90; good from 90": (90.0, 90.0, 90.0, 90),
        "71, 20, 70; good from 65": (71, 20, 70, 65),
        "85, 60, 84; good from 90": (85, 60, 84, 90),
        "62, 10, 91; good from 90": (62, 10, 91, 90),
    },
    right={"from left to right": _diagnosis()},
    mistakes={
        "good is what `good` says, and no fixed number": _diagnosis(
            above=lambda score, good: score >= 90
        ),
        "a score of just `good` is good": _diagnosis(
            above=lambda score, good: score > good
        ),
        "look at train mode first: where it is bad, the training itself is to blame, "
        "whatever the others are": (_diagnosis(order="anew first"),),
        "bad in train mode as well: then it is the training": _diagnosis(
            order="no train"
        ),
        "the other way round: what new statistics repair was the memory, and what they "
        "do not was the batches": _diagnosis(
            words=("not BN", "batches", "memory", "training")
        ),
    },
)
def diagnosis(answer: Callable, *scores: float) -> dict:
    """Exercise 3.6: from three scores of the training images to the cause."""
    said = answer(*scores)
    expect(said in WORDS, f"it should return one of {WORDS}, got {said!r}")
    return {"the diagnosis": said}
