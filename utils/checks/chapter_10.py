"""Checks of chapter 10, deployment."""

import copy
import math
from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from utils.checks.framework import (
    Measured,
    Raised,
    check,
    expect,
    named,
    same,
    with_edit,
)
from utils.checks.modules import fill, state_of

TRANSPOSED = nn.ConvTranspose1d, nn.ConvTranspose2d
FOLDABLE = nn.Linear, nn.Conv1d, nn.Conv2d, *TRANSPOSED


def _rows(layer: nn.Module, by: Tensor) -> Tensor:
    """A number per output channel, in the shape of the layer's weight."""
    weight = layer.weight
    if isinstance(layer, TRANSPOSED):  # (in, out / groups, ...), in blocks
        blocks = by.view(layer.groups, 1, -1)
        inputs = len(weight) // layer.groups
        by = blocks.expand(-1, inputs, -1).reshape(len(weight), -1)
    else:
        by = by[:, None]
    return by.view(*by.shape, *[1] * (weight.dim() - 2))


def _obstacle(layer: nn.Module, bn: nn.Module) -> str:
    if not isinstance(layer, FOLDABLE):
        return "kind"
    if bn.training or bn.running_mean is None:
        return "mode" if bn.training else "statistics"
    turned = isinstance(layer, TRANSPOSED)
    weight = layer.weight
    outputs = weight.shape[1] * layer.groups if turned else len(weight)
    return "" if outputs == bn.num_features else "channels"


def _fold(layer: nn.Module, bn: nn.Module) -> nn.Module:
    obstacle = _obstacle(layer, bn)
    if obstacle:
        raise ValueError(f"this cannot be folded: {obstacle}")
    mean, var, dtype = bn.running_mean, bn.running_var, layer.weight.dtype
    zero = torch.zeros_like(var)
    gamma = zero + 1 if bn.weight is None else bn.weight
    beta = zero if bn.bias is None else bn.bias
    b = zero if layer.bias is None else layer.bias
    s = gamma / (var + bn.eps).sqrt()
    weight = (layer.weight * _rows(layer, s)).to(dtype)
    bias = (s * (b - mean) + beta).to(dtype)
    new = copy.deepcopy(layer)
    new.weight, new.bias = nn.Parameter(weight.detach()), nn.Parameter(bias.detach())
    return new


def _first_axis(layer: nn.Module, by: Tensor) -> Tensor:
    """The first axis of a transposed weight taken for the outputs."""
    if not isinstance(layer, TRANSPOSED):
        return _rows(layer, by)
    by = by[: len(layer.weight)] if len(layer.weight) < len(by) else by
    by = by.repeat(-(-len(layer.weight) // len(by)))[: len(layer.weight)]
    return by.view(-1, *[1] * (layer.weight.dim() - 1))


def _one_group(layer: nn.Module, by: Tensor) -> Tensor:
    """Right for transposed convolutions in one group only."""
    if not isinstance(layer, TRANSPOSED):
        return _rows(layer, by)
    width = layer.weight.shape[1]
    return by[:width].view(1, -1, *[1] * (layer.weight.dim() - 2))


def _inputs(layer: nn.Module, by: Tensor) -> Tensor:
    """Scales along the inputs, where there are as many."""
    if layer.weight.shape[1] != len(by):
        return _rows(layer, by)
    return by.view(1, -1, *[1] * (layer.weight.dim() - 2))


def _set(new: nn.Module, **values: object) -> nn.Module:
    for name, value in values.items():
        if hasattr(new, name):
            setattr(new, name, value)
    return new


ARGUMENTS = "it changes its arguments, or leaves them in another mode: make a new layer"
SHARED = (
    "the new layer shares a tensor with its arguments: training one would change the "
    "other; copy it"
)
REFUSED = "this cannot be folded; refuse it with a ValueError"


FORMAT = "keep the layer's own format: its input will have that one"
FACTORS = {
    "gamma / var.sqrt()": "eps is missing under the root",
    "gamma / (var.sqrt() + bn.eps)": "eps belongs under the root",
    "gamma / (var + 1e-5).sqrt()": "take eps from bn",
    "gamma / (var + bn.eps)": "divide by the root of the variance",
    "(var + bn.eps).rsqrt()": "the weights are not multiplied by γ",
    "torch.ones_like(var)": "the weights are unchanged: scale them",
}
_PLAIN, _NO_BIAS, _REFUSE = dict(affine=False), dict(bias=False), "to be refused"


def _unless(obstacle: str) -> str:
    """An edit: it returns the layer where there is this obstacle."""
    return (
        f"if obstacle: -> if obstacle == '{obstacle}': return layer\n    if obstacle:"
    )


@check(
    praise="equal to the two layers in all that can be folded, also in half precision, "
    "and refused with a reason where it cannot be",
    cases=named(
        "{} {}, {}, bn: {}, {}",
        (nn.Linear, (5, 4), {}, {}),
        (nn.Conv2d, (2, 4, 3), {}, {}),
        (nn.Conv2d, (2, 4, 3), dict(padding=1), {}),
        (nn.Linear, (5, 4), _NO_BIAS, {}),
        (nn.Linear, (5, 4), {}, dict(eps=0.1)),
        (nn.Linear, (5, 4), {}, _PLAIN),
        (nn.Conv2d, (2, 4, 3), _NO_BIAS, _PLAIN),
        (nn.Conv2d, (2, 4, 3), {}, _NO_BIAS),
        (nn.Linear, (5, 4), _NO_BIAS, _NO_BIAS),
        (nn.Conv2d, (6, 4, 3), dict(groups=2, bias=False, padding=1), {}),
        (nn.Conv2d, (4, 4, 3), dict(groups=4), {}),
        (
            *(nn.Conv2d, (2, 4, 3), dict(stride=2, dilation=2, padding=2)),
            dict(eps=1e-3, momentum=0.3),
        ),
        (nn.Conv2d, (2, 4, 3), dict(padding=1, padding_mode="circular"), {}),
        (nn.Conv2d, (4, 4, 1), {}, {}),
        (nn.Conv1d, (2, 4, 3), dict(dilation=2), {}),
        (nn.ConvTranspose2d, (2, 4, 3, 2), {}, {}),
        (nn.ConvTranspose2d, (4, 4, 3), {}, {}),
        (nn.ConvTranspose2d, (6, 4, 3), dict(groups=2, bias=False), {}),
        (nn.ConvTranspose1d, (4, 4, 3), {}, _PLAIN),
        (nn.Conv2d, (2, 4, 3), {}, {}, "float32"),
        (nn.Conv2d, (4, 4, 3), {}, {}, "in float16"),
        (nn.Conv2d, (4, 4, 3), {}, {}, "in float16, BN in float32"),
        (nn.Conv2d, (2, 4, 3), {}, dict(training=True), _REFUSE),
        (nn.Conv2d, (2, 4, 3), {}, dict(track_running_stats=False), _REFUSE),
        (nn.Conv2d, (2, 4, 3), {}, dict(channels=2), _REFUSE),
        (nn.Conv2d, (2, 4, 3), {}, dict(channels=1), _REFUSE),
        (nn.LeakyReLU, (0.01,), {}, {}, _REFUSE),
        (nn.GroupNorm, (2, 4), {}, {}, _REFUSE),
    ),
    tolerance=(1e-9, 1e-9),
    hints={
        "its arguments": ARGUMENTS,
        "shared tensors": SHARED,
        "the formats of its parameters": FORMAT,
        "its kind": "return one layer, of the kind that was given",
        "right to its rounding": "wrong by more than its rounding",
    },
    right={"by the definition": _fold},
    edits=(
        {f"s = gamma / (var + bn.eps).sqrt() -> s = {s}": h for s, h in FACTORS.items()}
        | {f"(layer, s) -> (layer, {s})": h for s, h in FACTORS.items()}
        | {
            "_rows( -> _first_axis(": "wrong weight: which axis of a transposed "
            "weight holds the outputs?",
            "_rows( -> _one_group(": "wrong weight: the first axis of a transposed "
            "weight comes in blocks, one for each group",
            "_rows( -> _inputs(": "scale along the outputs, not along the inputs",
            "s * (b - mean) -> b - s * mean": "the old bias is scaled, too",
            "s * (b - mean) -> -s * mean": "the old bias got lost",
            "(s * (b - mean) + beta) -> (s * (b - mean))": "β got lost",
            "(b - mean) -> b": "the stored mean is not subtracted",
            "(b - mean) -> (b + mean)": "the stored mean has a wrong sign",
            "s * (b - mean) -> s * b - mean": "the stored mean is scaled, too",
            "(b - mean) + beta -> (b - mean + beta)": "β is not scaled",
            "return new -> return _set(new, stride=(1, 1)[: weight.dim() - 2])": (
                "keep stride"
            ),
            "return new -> return _set(new, padding_mode='zeros')": "keep padding_mode",
            "copy.deepcopy(layer) -> layer": ARGUMENTS,
            "return new -> layer.bias = None\n    return new": ARGUMENTS,
            "return new -> bn.train()\n    return new": ARGUMENTS,
            "return new -> new.bias = new.bias if bn.bias is None else bn.bias\n    "
            "return new": SHARED,
            ".to(dtype) -> ": FORMAT,
            "return new -> return new.float()": FORMAT,
            _unless("mode"): f"training=True, {_REFUSE}: {REFUSED}",
            _unless("statistics"): f"running_stats=False, {_REFUSE}: {REFUSED}",
            _unless("channels"): f"channels=2, {_REFUSE}: {REFUSED}",
            _unless("kind"): f"LeakyReLU 0.01, {_REFUSE}: {REFUSED}",
        }
    ),
)
def fold(
    answer: Callable, kind: type, sizes: tuple, options: dict, norm: dict, how: str = ""
) -> dict:
    """Exercise 10.2: a new layer that equals bn(layer(x)) in eval mode, or no."""
    dtype = torch.float64 if how in ("", _REFUSE) else torch.float32
    layer, norm = kind(*sizes, **options).to(dtype), dict(norm)
    dims = layer.weight.dim() if hasattr(layer, "weight") else 4
    bn_kind, training = (
        nn.BatchNorm1d if dims < 4 else nn.BatchNorm2d,
        norm.pop("training", False),
    )
    layer.train(len(norm) % 2 == 0)  # its mode must not matter
    no_bias = norm.pop("bias", True) is False
    bn = bn_kind(norm.pop("channels", 4), **norm)
    if no_bias:  # as bias=False makes it, an argument that PyTorch 2.11 lacks
        bn.bias = None
    bn = fill(bn).to(dtype).train(training)
    half = how.startswith("in float16")
    layer, bn = (
        layer.half() if half else layer,
        bn.half() if how == "in float16" else bn,
    )
    before = [dict(state_of(m)) for m in (layer, bn)]
    try:
        new = answer(layer, bn)
    except Raised as error:
        if how != _REFUSE:
            raise
        return _refused(error.__cause__)
    expect(how != _REFUSE, REFUSED)
    seen = {"its kind": type(new).__name__}
    if not isinstance(new, kind):
        return seen
    own = {p.data_ptr() for p in [*layer.parameters(), *bn.parameters()]}
    after = [dict(state_of(m)) for m in (layer, bn)]
    unchanged = all(
        a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
        for a, b in zip(before, after)
    )
    formats = [str(p.dtype) for p in new.parameters()]
    seen["its arguments"] = new is not layer and unchanged
    seen["shared tensors"] = bool(own & {p.data_ptr() for p in new.parameters()})
    seen["the formats of its parameters"] = formats
    if {*formats} != {str(layer.weight.dtype)}:
        return seen
    if not half:
        x = torch.randn(3, sizes[0], *[9] * (dims - 2)).to(dtype)
        with torch.no_grad():
            return seen | {"the output": new(x)}
    exact = _fold(copy.deepcopy(layer).double(), copy.deepcopy(bn).double())
    pairs = [(new.weight, exact.weight), (new.bias, exact.bias)]
    near = all(same(a.double(), b, 4e-3, 2e-2) for a, b in pairs)
    return seen | {"right to its rounding": near}


def _refused(error: BaseException) -> dict:
    """Expect a ValueError with a sentence."""
    kind, said = type(error).__name__, str(error)
    wanted = f"refuse with a ValueError that says why; it raised {kind}: {error}"
    expect(isinstance(error, ValueError), wanted)
    expect(
        len(said.split()) >= 4, f"refused, but the message, {said!r}, does not say why"
    )
    return {"refused": True}


one_by_one = Measured(
    "one_by_one",  # exercise 10.5: dark images singly minus at once
    calls=[(1.0,), (0.1,), (0.01,)],
    ranges=[
        ("at momentum 1", -75, -3),
        ("at momentum 0.1", -12, 4),
        ("at momentum 0.01", -85, -25),
    ],
    said="{:.1f} points at momentum 1, {:.1f} at 0.1, {:.1f} at 0.01",
    asked="for 64 dark images, one at a time in train mode, scored in eval mode on all "
    "dark test images",
    not_finite="scores are finite: is the variance?",
    right=[(-31, -2, -59)],
    wrong={
        "max(m) >= 30: 57 86 29": "these look like accuracies, or like all at once "
        "minus singly: return singly minus all at once",
        "min(m) >= -1.2: -0.31 -0.02 -0.59": "measure in points, accuracy in %; does "
        "the momentum reach the layers, and are the images shown one at a time, in "
        "train mode?",
        "len(set(m)) < len(m): -5 -5 -5": "does the momentum reach every BN layer?",
    },
)


def _dense() -> nn.Module:
    first = nn.Linear(6, 8), nn.BatchNorm1d(8, momentum=0.3), nn.Dropout(0.5)
    return nn.Sequential(*first, nn.Linear(8, 8), nn.BatchNorm1d(8, momentum=None))


def _conv() -> nn.Module:
    inner = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4, momentum=0.01), nn.ReLU()
    body = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout2d(0.5)
    return nn.Sequential(*body, nn.Sequential(*inner))


def _plain() -> nn.Module:
    own = nn.BatchNorm1d(4, affine=False, eps=0.1)
    return nn.Sequential(nn.Linear(6, 4), own, nn.LayerNorm(4))


def _others() -> nn.Module:
    memory = nn.InstanceNorm1d(4, track_running_stats=True)
    first = nn.Conv1d(1, 4, 3), memory, nn.AlphaDropout(0.3), nn.BatchNorm1d(4)
    return nn.Sequential(*first, nn.GroupNorm(2, 4))


NETS = {  # name: how it is made, the shape of its input
    "plain": (_plain, (40, 6)),
    "dense": (_dense, (50, 6)),
    "conv": (_conv, (6, 1, 7, 7)),
    "other norms": (_others, (9, 1, 8)),
}


def _norms(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if isinstance(m, _BatchNorm)]


def _adapt(model: nn.Module, x: Tensor) -> nn.Module:
    modes = {m: m.training for m in model.modules()}
    momenta = {m: m.momentum for m in _norms(model)}
    model.eval()
    for m in momenta:
        m.train()
        m.momentum = 1.0
    with torch.no_grad():
        model(x)
    for m, momentum in momenta.items():
        m.momentum = momentum
    for m, mode in modes.items():
        m.training = mode
    return model


def _layer_by_layer(
    model: nn.Module, x: Tensor, correction: int = 1, at_once: bool = False
) -> nn.Module:
    """As many passes as layers, each in eval mode; at_once: with old statistics."""
    modes, stored = {m: m.training for m in model.modules()}, {}
    model.eval()
    for layer in _norms(model):
        seen: list[Tensor] = []
        hook = layer.register_forward_pre_hook(
            lambda m, i, seen=seen: seen.append(i[0])
        )
        with torch.no_grad():
            model(x)
        hook.remove()
        z = seen[0].transpose(0, 1).flatten(1)
        stored[layer] = z.mean(1), z.var(1, correction=correction)
        if not at_once:
            layer.running_mean, layer.running_var = stored[layer]
    for layer, pair in stored.items():
        layer.running_mean, layer.running_var = pair
    for m, old in modes.items():
        m.training = old
    return model


PART = (
    "a part of the old mean is kept: use momentum 1, or reset the statistics and use "
    "momentum None"
)
ADAPT_HINTS = {
    "the model itself": "return the model itself, changed in place",
    "*momentum": "a layer's momentum is not what it was: restore each",
    "the mode of *": "a layer is not in the mode it was in: restore each",
    "*'s gradient": "it touches gradients: nothing is to be trained here",
    "*running_*'s requires_grad": "what it stores drags the autograd graph along: "
    "measure under torch.no_grad()",
    "*'s requires_grad": "it leaves parameters frozen: restore requires_grad",
    "*track_running_stats": "it leaves track_running_stats off",
    "the number of hooks": "it leaves hooks on the layers: remove them",
    "*.p": "a dropout has another rate than before: restore it",
    "measured*": "that is not what x gives: is dropout off, are the layers before it "
    "measured on x too, and is the layer in train mode for x?",
}


@check(
    praise="statistics of x in every layer, and all else as it was",
    cases=named(
        "a {} net, {}, {}",
        *product(NETS, ("eval mode", "train mode")),
        *product(("dense", "conv"), ("one BN in eval mode",)),
        ("dense", "train mode", "float32"),
        ("conv", "train mode", "gradients off"),
    ),
    tolerance=(1e-6, 1e-8),
    hints=ADAPT_HINTS,
    right={
        "in one pass": _adapt,
        "layer by layer": _layer_by_layer,
        "reset and None": with_edit(
            _adapt, "momentum = 1.0 -> momentum = None\n        m.reset_running_stats()"
        ),
    },
    edits={
        "model.eval() -> model.train()": "is dropout off while it measures?",
        "m.training = mode -> pass": ADAPT_HINTS["the mode of *"],
        "m.training = mode -> model.train(modes[model])": (
            ADAPT_HINTS["the mode of *"]
        ),
        "m.momentum = momentum -> pass": ADAPT_HINTS["*momentum"],
        "1.0 -> 0.1": PART,
        "1.0 -> 0.3": PART,
        "1.0 -> 0.5": PART,
        "in momenta: -> in [m for m in momenta if modes[m] or not modes[model]]:": (
            "the old mean is still stored in a layer that is in eval mode: it is "
            "to be measured, too"
        ),
        "in momenta: -> in [m for m in momenta if m in [*model]]:": "the old mean is "
        "still stored in nested layers: model.modules() reaches them",
        "in momenta: -> in []:": "the old mean is still stored: is the layer in train "
        "mode for x?",
        "no_grad() -> enable_grad(); model(x) -> model(x).sum().backward()": (
            ADAPT_HINTS["*'s gradient"]
        ),
        "return -> model.zero_grad()\n    return": ADAPT_HINTS["*'s gradient"],
        "return -> for m in momenta: m.running_mean = m.running_mean + 0 * "
        "model[0].weight.sum()\n    return": (
            ADAPT_HINTS["*running_*'s requires_grad"]
        ),
        "model.eval() -> return _layer_by_layer(model, x, correction=0)": "the mean "
        "is right, the variance is not: divide by N - 1",
        "model.eval() -> return _layer_by_layer(model, x, at_once=True)": "each layer "
        "is measured on what the layers before make with the old statistics: use "
        "those of x",
        "return -> model.requires_grad_(False)\n    return": (
            ADAPT_HINTS["*'s requires_grad"]
        ),
        "return -> m.register_forward_hook(print)\n    return": (
            ADAPT_HINTS["the number of hooks"]
        ),
        "return -> for m in modes: m.__dict__.update({'p': 0.0} if hasattr(m, 'p') "
        "else {})\n    return": ADAPT_HINTS["*.p"],
        "return -> for m in momenta: m.track_running_stats = False\n    return": (
            ADAPT_HINTS["*track_running_stats"]
        ),
        "modes = -> model = copy.deepcopy(model)\n    modes =": (
            ADAPT_HINTS["the model itself"]
        ),
    },
)
def adapt(answer: Callable, name: str, mode: str, how: str = "") -> dict:
    """Exercise 10.1: statistics of x in all BN layers, all else as it was."""
    make, shape = NETS[name]
    dtype = torch.float32 if how == "float32" else torch.float64
    model, x = fill(make()).to(dtype), (1 + 3 * torch.randn(shape)).to(dtype)
    model.train(mode != "eval mode")
    if mode == "one BN in eval mode":
        _norms(model)[0].eval()
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    with torch.set_grad_enabled(how != "gradients off"):
        result = answer(model, x)
    seen = {"the model itself": result is model}
    measured = {
        f"{path}.{part}"
        for path, m in model.named_modules()
        if isinstance(m, _BatchNorm)
        for part in ("running_mean", "running_var", "num_batches_tracked")
    }
    state = dict(state_of(model))
    seen |= {k: v for k, v in state.items() if k not in measured}
    kept = sorted(name for name in measured if "num_batches" not in name)
    return seen | {f"measured in {name}": state[name] for name in kept}


def _small() -> nn.Module:
    body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    head = nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.BatchNorm1d(3))
    untold = nn.BatchNorm2d(4, track_running_stats=False)
    return fill(nn.Sequential(body, nn.GroupNorm(2, 4), untold, head))


def _stored(**values: tuple) -> nn.Module:
    """A model with BN layers at 0.1 and 3.2, with these numbers stored in channel 1."""
    model = _small()
    for name, (mean, var) in values.items():
        bn = model.get_submodule(name.strip("_").replace("_", "."))
        bn.running_mean[1], bn.running_var[1] = mean, var
    model[0][0].weight.data[0] = 1e5  # no statistics: not asked for
    return model


MODELS = {
    "small statistics": dict(_0_1=(3, 4), _3_2=(-100, 6e4)),
    "a variance of 300²": dict(_0_1=(0, 300.0**2), _3_2=(0, 255.0**2)),
    "two layers": dict(_0_1=(2, 1e6), _3_2=(1, 7e4)),
    "a mean of -90000": dict(_0_1=(1, 2), _3_2=(-9e4, 2)),
    "a mean of 70000": dict(_0_1=(7e4, 2), _3_2=(0, 2)),
    "infinite already": dict(_0_1=(0, math.inf), _3_2=(0, 2)),
}


def _overflowing(
    bad: Callable = lambda bn: bool(
        bn.running_mean.half().isinf().any() or bn.running_var.half().isinf().any()
    ),
    all_of: Callable = torch.any,
    then: Callable = lambda model: None,
) -> Callable:
    """A right answer, with a part exchanged."""

    def answer(model: nn.Module) -> list[str]:
        found = [
            name
            for name, m in model.named_modules()
            if isinstance(m, _BatchNorm) and m.running_var is not None and bad(m)
        ]
        then(model)
        return found

    return answer


def _by(**parts: Callable) -> Callable:
    """The layers in whose stored statistics one of the parts is so."""
    return _overflowing(
        bad=lambda bn: any(bool(f(getattr(bn, k)).any()) for k, f in parts.items())
    )


@check(
    praise="all that float16 cannot hold, and the model as it was",
    cases={name: (name,) for name in MODELS},
    hints={
        "the layers": "not these layers",
        "*": "the model should stay as it was; `.half()` of a module changes it",
    },
    right={"both tensors in float16": _overflowing()},
    mistakes={
        "look at the stored means, too": _by(running_var=lambda t: t.half().isinf()),
        "it is the variance that overflows first: look at it, and not at the means "
        "alone": _by(running_mean=lambda t: t.half().isinf()),
        "a mean may be negative, and large": _by(
            running_mean=lambda t: t > 65504, running_var=lambda t: t > 65504
        ),
        "stored is the variance, not the standard deviation": _by(
            running_mean=lambda t: t.half().isinf(),
            running_var=lambda t: t.sqrt() > 65504,
        ),
        "65504 is the largest number in float16: 256² is just beyond it, 255² is "
        "not": _by(
            running_mean=lambda t: t.half().isinf(), running_var=lambda t: t >= 6e4
        ),
        "the model should stay as it was; `.half()` of a module changes it": (
            _overflowing(then=lambda model: model.half())
        ),
    },
)
def overflowing(answer: Callable, name: str) -> dict:
    """Exercise 10.3: BN layers whose statistics float16 cannot hold."""
    model = _stored(**MODELS[name])
    before = dict(state_of(model))
    found = answer(model)
    expect(
        isinstance(found, (list, tuple, set)),
        f"it should return the names as a list, got {type(found).__name__}",
    )
    left = dict(state_of(model))
    kept = left.keys() == before.keys() and all(
        same(left[k], v) for k, v in before.items()
    )
    return {"the layers": sorted(map(str, found)), "the model": kept}
