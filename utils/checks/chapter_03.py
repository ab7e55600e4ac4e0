"""Checks of chapter 03, train and eval."""

import copy
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from utils.checks.framework import (
    Measured,
    Wrong,
    check,
    expect,
    expect_written,
    same,
)
from utils.checks.modules import settings_of
from utils.checks.numbers import number


def _operations(y: Tensor) -> set[str]:
    """The names of the operations in the graph behind y."""
    names, nodes = set(), [y.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is not None:
            names.add(node.name())
            nodes += [earlier for earlier, _ in node.next_functions]
    return names


def _norm(
    used: int = 0,
    stored: int = 1,
    weight: Callable = lambda m: m,
    eps_of: Callable = lambda eps: eps,
    by: Callable = lambda var, eps: torch.sqrt(var + eps),
    store: Callable = lambda var: var,
    mode: Callable = lambda training: training,
    batch: Callable = lambda training: training,
    detach: bool = True,
    cut: bool = False,
    then: Callable = lambda x, mean, var: None,
    default: float = 0.1,
) -> Callable:
    """A right answer, with a part exchanged."""

    def answer(x, running_mean, running_var, training, momentum=default, eps=1e-5):
        mean, var = running_mean, running_var
        if batch(training):
            mean, var = x.mean(0), ((x - x.mean(0)) ** 2).sum(0) / max(len(x) - used, 1)
        if mode(training) and len(x) > 1:
            m, new = weight(momentum), (x.mean(0), store(x.var(0, correction=stored)))
            new = [t.detach() if detach else t for t in new]
            running_mean.mul_(1 - m).add_(m * new[0])
            running_var.mul_(1 - m).add_(m * new[1])
        if cut:
            mean, var = mean.detach(), var.detach()
        y = (x - mean) / by(var, eps_of(eps))
        then(x, running_mean, running_var)
        return y

    return answer


def _rebound(x, running_mean, running_var, training, momentum=0.1, eps=1e-5):
    """Assigns to the names, so that the caller's tensors stay."""
    return _norm()(
        x, running_mean.clone(), running_var.clone(), training, momentum, eps
    )


def _memory_first(x, running_mean, running_var, training, momentum=0.1, eps=1e-5):
    """Normalises with the running tensors in training, too."""
    _norm()(x, running_mean, running_var, training, momentum, eps)
    return (x - running_mean.clone()) / torch.sqrt(running_var.clone() + eps)


def _without_gradients(*arguments):
    with torch.no_grad():
        return _norm()(*arguments)


def _grad_decides(training: bool) -> bool:
    return training and torch.is_grad_enabled()


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


def _memory_cases() -> dict[str, tuple]:
    sizes = [(5, 0.1, 1e-5), (8, 0.3, 1e-2), (2, 0.01, 1e-5), (5, 0.7, 0.3)]
    double, cases = torch.float64, {}
    for n, m, eps in sizes:
        for training in (True, False):
            name = f"training={training}, batch {n}, momentum {m:g}, eps {eps:g}"
            cases[name] = (n, training, (m, eps), double, "")
    cases["training=True under torch.no_grad()"] = (6, True, (0.2, 1e-2), double, "off")
    cases["training=False, one example"] = (1, False, (0.2, 1e-2), double, "")
    cases["momentum and eps not given, so 0.1 and 1e-5"] = (5, True, (), double, "")
    cases["float32"] = (16, True, (0.2, 1e-2), torch.float32, "")
    cases["x not contiguous"] = (6, True, (0.2, 1e-2), double, "strided")
    return cases


@check(
    praise="output, gradient and memory are PyTorch's, in both modes",
    cases=_memory_cases(),
    tolerance=(1e-6, 1e-9),
    hints={
        "x": "it changes x itself: only the running tensors may change",
        "the graph of the memory": NO_GRAPH,
        "whether the output has a gradient": "the output has no gradient: normalise "
        "outside of torch.no_grad()",
        "the gradient": CUT,
    },
    right={"by the definition": _norm()},
    mistakes={
        "the variance that is stored is divided by N - 1, not by N": _norm(stored=0),
        UNBIASED: (_norm(used=1), _norm(used=1, stored=0)),
        "you store the standard deviation: running_var is a variance": _norm(
            store=torch.sqrt
        ),
        "the momentum is the other way round: in PyTorch it is the weight of the new "
        "batch, and 1 - momentum that of the past": _norm(weight=lambda m: 1 - m),
        "the momentum is fixed: use the one that was given": _norm(
            weight=lambda m: 0.1
        ),
        "without momentum and eps it should use 0.1 and 1e-5": _norm(default=0.9),
        IN_PLACE: (_rebound, _norm(mode=lambda training: False)),
        "with training=False the running tensors must stay as they are": _norm(
            mode=lambda training: True
        ),
        "with training=False it still normalises with the batch: use the running "
        "tensors": _norm(batch=lambda training: True),
        "with training=True it normalises with the running tensors: use the batch": (
            _norm(batch=lambda training: False),
            _memory_first,
        ),
        "under torch.no_grad() it behaves as in evaluation: the argument training "
        "decides, not whether gradients are on": _norm(
            mode=_grad_decides, batch=_grad_decides
        ),
        "eps is added to the variance, under the root, not to its root": _norm(
            by=lambda var, eps: var.sqrt() + eps
        ),
        "eps is missing": _norm(eps_of=lambda eps: 0.0),
        "eps is fixed: use the one that was given": _norm(eps_of=lambda eps: 1e-5),
        NO_GRAPH: _norm(detach=False),
        CUT: _norm(cut=True),
        "the output has no gradient: normalise outside of torch.no_grad()": (
            _without_gradients
        ),
        "it changes x itself: only the running tensors may change": _norm(
            then=lambda x, *_: x.data.sub_(1)
        ),
    },
)
def norm_with_memory(
    answer: Callable, n: int, training: bool, more: tuple, dtype: torch.dtype, how: str
) -> dict:
    """Exercise 3.1: BN over (batch, channels) with running statistics."""
    x = 3 + 2 * torch.randn(5, n, dtype=dtype)
    x = x.T if how == "strided" else x.T.contiguous()
    weights, given = torch.randn(n, 5, dtype=dtype), x.clone()
    memory = torch.full((5,), 0.5, dtype=dtype), torch.full((5,), 2.0, dtype=dtype)
    x.requires_grad_()
    with torch.set_grad_enabled(how != "off"):
        y = answer(x, *memory, training, *more)
    expect_written(y)
    expect(
        isinstance(y, Tensor) and y.shape == x.shape,
        f"it should return the normalised x, a tensor of shape {tuple(x.shape)}; got "
        f"{tuple(getattr(y, 'shape', ())) or type(y).__name__}",
    )
    expect(not any("BatchNorm" in name for name in _operations(y)), OWN)
    seen = {
        "x": same(x.detach(), given),
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


def _norms(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if isinstance(m, _BatchNorm)]


def _freeze(
    frozen: Callable = _norms,
    fixed: Callable = lambda layer: list(layer.parameters()),
    then: Callable = lambda model: None,
    keep: bool = True,
) -> Callable:
    """A right answer, with a part exchanged. keep: also after model.train()."""

    def train(model: nn.Module, mode: bool = True) -> nn.Module:
        type(model).train(model, mode)
        for layer in frozen(model):
            layer.training = False
            for p in fixed(layer):
                p.requires_grad_(False)
        return model

    def answer(model: nn.Module) -> nn.Module:
        if keep:
            model.train = partial(train, model)
        train(model, model.training)
        then(model)
        return model

    return answer


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


def _momentum_zero(model: nn.Module) -> nn.Module:
    for layer in _norms(model):
        layer.requires_grad_(False).momentum = 0.0
    return model


def _no_tracking(model: nn.Module) -> nn.Module:
    for layer in _norms(model):
        layer.requires_grad_(False).track_running_stats = False
    return model


def _cut_off(model: nn.Module) -> None:
    for layer in _norms(model):
        layer.register_forward_hook(lambda layer, inputs, output: output.detach())


def _dropout_too(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if isinstance(m, (nn.Dropout, _BatchNorm))]


def _by_name(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if "Norm" in type(m).__name__]


def _of_kind(*kinds: type) -> Callable:
    return lambda model: [m for m in _norms(model) if isinstance(m, kinds)]


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
    right={"the model's own train": _freeze()},
    mistakes={
        ROOT: _freeze(
            frozen=lambda model: [m for m in _norms(model) if m is not model]
        ),
        CONVERTED: (_layers_ignore_train, _before_each_call),
        MOVES: (
            lambda model: model,
            _freeze(keep=False),
            _freeze(frozen=_of_kind(nn.BatchNorm1d)),
            _freeze(frozen=_of_kind(nn.BatchNorm2d)),
            _freeze(frozen=_of_kind(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)),
        ),
        BATCH: (_momentum_zero, _no_tracking),
        LEARNS: (
            _freeze(fixed=lambda layer: []),
            _freeze(fixed=lambda layer: [layer.weight]),
        ),
        OBEY: (_freeze(frozen=_dropout_too), _freeze(frozen=_by_name)),
        OTHERS: (
            _freeze(then=lambda model: model.requires_grad_(False)),
            _freeze(then=_cut_off),
        ),
        RESET: _freeze(
            then=lambda model: [m.reset_running_stats() for m in _norms(model)]
        ),
    },
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
    expect_written(result)
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
    expect_written(result)
    expect(
        isinstance(result, tuple | list) and len(result) == 2,
        "return two arrays: accuracy in eval mode as trained, and with each scanner's "
        "own statistics",
    )
    scores = [np.asarray(values, dtype=float) for values in result]
    for values in scores:
        expect(
            values.ndim == 1 and len(values) >= 12,
            "each array holds one accuracy per seed, 12 or more, (seeds,); got shape "
            f"{values.shape}",
        )
        expect(np.isfinite(values).all(), f"some accuracies are not finite: {asked}")
    return [float(values.mean()) for values in scores]


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
    wrong=[
        Wrong(
            "give the accuracies in %",
            lambda a, b, c, d: max(a, b) <= 1,
            (0.892, 0.936, 0.916, 0.85),
        ),
        Wrong(
            "the same numbers for one guest and four: does k reach the order?",
            lambda a, b, c, d: a == c,
            (89.2, 93.6, 89.2, 93.6),
        ),
        Wrong(
            "that is what no guest brings: does each batch hold images of both "
            "scanners?",
            lambda a, b, c, d: a <= 70,
            (54.6, 93.9, 54.7, 93.9),
        ),
        Wrong(
            "are the batches mixed half and half, or the two scanners swapped?",
            lambda a, b, c, d: min(b, d) <= 50,
            (94, 43, 94.1, 43),
        ),
        Wrong(
            "in this order: eval mode as trained first, then each scanner's own "
            "statistics",
            lambda a, b, c, d: c < d - 2 and AS_TRAINED[4][0] < d < AS_TRAINED[4][1],
            (93.6, 89.2, 85.0, 91.6),
        ),
    ],
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
    return {"the momentum": number(answer(n, noise))}


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
    expect_written(said)
    expect(said in WORDS, f"it should return one of {WORDS}, got {said!r}")
    return {"the diagnosis": said}
