"""Checks of chapter 10, deployment."""

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from utils.checks.framework import (
    Measured,
    NotYet,
    Wrong,
    check,
    expect,
    expect_written,
    same,
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


def _fold(
    factor: Callable = lambda bn, gamma: gamma / (bn.running_var + bn.eps).sqrt(),
    shift: Callable = lambda b, s, mean, beta: s * (b - mean) + beta,
    rows: Callable = _rows,
    refuses: tuple[str, ...] = ("kind", "mode", "statistics", "channels"),
    end: Callable = lambda new, layer, bn: new,
    promotes: bool = False,
) -> Callable:
    """A right answer, with a part exchanged."""

    def answer(layer: nn.Module, bn: nn.Module) -> nn.Module:
        turned = isinstance(layer, TRANSPOSED)
        wrong = {
            "kind": not isinstance(layer, FOLDABLE),
            "mode": bn.training,
            "statistics": bn.running_mean is None,
        }
        if not wrong["kind"]:
            groups = getattr(layer, "groups", 1)
            outputs = layer.weight.shape[1] * groups if turned else len(layer.weight)
            wrong["channels"] = outputs != bn.num_features
        for reason, holds in wrong.items():
            if holds and reason in refuses:
                raise ValueError(f"this cannot be folded: {reason}")
            if holds:
                return copy.deepcopy(layer)
        one, zero = torch.ones_like(bn.running_var), torch.zeros_like(bn.running_var)
        gamma, beta = (bn.weight, bn.bias) if bn.affine else (one, zero)
        beta = zero if beta is None else beta
        bias, dtype = zero if layer.bias is None else layer.bias, layer.weight.dtype
        s, right = factor(bn, gamma), gamma / (bn.running_var + bn.eps).sqrt()
        h = shift(bias, right, bn.running_mean, beta)
        weight = layer.weight * rows(layer, s)
        if not promotes:
            weight, h = weight.to(dtype), h.to(dtype)
        new = copy.deepcopy(layer)
        new.weight, new.bias = nn.Parameter(weight.detach()), nn.Parameter(h.detach())
        return end(new, layer, bn)

    return answer


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


def _in_place(new: nn.Module, layer: nn.Module, bn: nn.Module) -> nn.Module:
    return _set(layer, weight=new.weight, bias=new.bias)


ARGUMENTS = "it changes its arguments, or leaves them in another mode: make a new layer"
SHARED = (
    "the new layer shares a tensor with its arguments: training one would change the "
    "other; copy it"
)
REFUSED = "this cannot be folded; refuse it with a ValueError"


def _fold_cases() -> dict[str, tuple]:
    groups = dict(groups=2, bias=False, padding=1)
    two, plain = (3, 2, 7, 7), dict(affine=False)
    double, half = torch.float64, torch.float16
    odd = dict(padding=1, padding_mode="circular")
    cases = {
        "a linear layer": (partial(nn.Linear, 5, 4), {}, (3, 5)),
        "a convolution": (partial(nn.Conv2d, 2, 4, 3), {}, two),
        "padding": (partial(nn.Conv2d, 2, 4, 3, padding=1), {}, two),
        "a linear layer without bias": (
            partial(nn.Linear, 5, 4, bias=False),
            {},
            (3, 5),
        ),
        "eps = 0.1": (partial(nn.Linear, 5, 4), dict(eps=0.1), (3, 5)),
        "affine=False": (partial(nn.Linear, 5, 4), plain, (3, 5)),
        "affine=False and no bias": (
            partial(nn.Conv2d, 2, 4, 3, bias=False),
            plain,
            two,
        ),
        "BN with bias=False": (partial(nn.Conv2d, 2, 4, 3), dict(bias=False), two),
        "bias=False in both": (
            *(partial(nn.Linear, 5, 4, bias=False), dict(bias=False), (3, 5)),
        ),
        "groups": (partial(nn.Conv2d, 6, 4, 3, **groups), {}, (3, 6, 7, 7)),
        "a depthwise convolution": (
            partial(nn.Conv2d, 4, 4, 3, groups=4),
            {},
            (3, 4, 7, 7),
        ),
        "stride and dilation": (
            partial(nn.Conv2d, 2, 4, 3, stride=2, dilation=2, padding=2),
            dict(eps=1e-3, momentum=0.3),
            (3, 2, 9, 9),
        ),
        "circular padding": (partial(nn.Conv2d, 2, 4, 3, **odd), {}, two),
        "as many outputs as inputs": (partial(nn.Conv2d, 4, 4, 1), {}, (3, 4, 7, 7)),
        "Conv1d": (partial(nn.Conv1d, 2, 4, 3, dilation=2), {}, (3, 2, 9)),
        "a transposed convolution": (partial(nn.ConvTranspose2d, 2, 4, 3, 2), {}, two),
        "a transposed one, 4 to 4": (
            *(partial(nn.ConvTranspose2d, 4, 4, 3), {}, (3, 4, 5, 5)),
        ),
        "a transposed one in groups": (
            *(
                partial(nn.ConvTranspose2d, 6, 4, 3, groups=2, bias=False),
                {},
                (3, 6, 5, 5),
            ),
        ),
        "ConvTranspose1d": (partial(nn.ConvTranspose1d, 4, 4, 3), plain, (3, 4, 9)),
        "float32": (
            partial(nn.Conv2d, 2, 4, 3),
            {},
            two,
            (torch.float32, torch.float32),
        ),
        "layer in float16, BN too": (
            partial(nn.Conv2d, 4, 4, 3),
            {},
            None,
            (half, half),
        ),
        "layer in float16, BN in float32": (
            *(partial(nn.Conv2d, 4, 4, 3), {}, None, (half, torch.float32)),
        ),
    }
    conv, refuse = partial(nn.Conv2d, 2, 4, 3), (double, double)
    return cases | {
        "BN in train mode": (conv, dict(training=True), None, refuse),
        "no stored statistics": (conv, dict(track_running_stats=False), None, refuse),
        "4 outputs, BN with 2 channels": (conv, dict(channels=2), None, refuse),
        "4 outputs, BN with 1 channel": (conv, dict(channels=1), None, refuse),
        "a ReLU before BN": (nn.ReLU, dict(kind=nn.BatchNorm2d), None, refuse),
        "a group norm before BN": (partial(nn.GroupNorm, 2, 4), {}, None, refuse),
    }


@check(
    praise="equal to the two layers in all that can be folded, also in half precision, "
    "and refused with a reason where it cannot be",
    cases=_fold_cases(),
    tolerance=(1e-9, 1e-9),
    hints={
        "its arguments": ARGUMENTS,
        "shared tensors": SHARED,
        "the formats of its parameters": "keep the layer's own format: its input will "
        "have that one",
        "its kind": "return one layer, of the kind that was given",
        "right to its rounding": "wrong by more than its rounding",
    },
    right={"by the definition": _fold()},
    mistakes={
        "eps is missing under the root": _fold(lambda bn, g: g / bn.running_var.sqrt()),
        "eps belongs under the root": _fold(
            lambda bn, g: g / (bn.running_var.sqrt() + bn.eps)
        ),
        "take eps from bn": _fold(lambda bn, g: g / (bn.running_var + 1e-5).sqrt()),
        "divide by the root of the variance": _fold(
            lambda bn, g: g / (bn.running_var + bn.eps)
        ),
        "the weights are not multiplied by γ": _fold(
            lambda bn, g: torch.rsqrt(bn.running_var + bn.eps)
        ),
        "the weights are unchanged: scale them": _fold(
            lambda bn, g: torch.ones_like(bn.running_var)
        ),
        "wrong weight: which axis of a transposed weight holds the outputs?": _fold(
            rows=_first_axis
        ),
        "wrong weight: the first axis of a transposed weight comes in blocks, one for "
        "each group": _fold(rows=_one_group),
        "scale along the outputs, not along the inputs": _fold(rows=_inputs),
        "the old bias is scaled, too": _fold(
            shift=lambda b, s, mean, beta: b - s * mean + beta
        ),
        "the old bias got lost": _fold(shift=lambda b, s, mean, beta: beta - s * mean),
        "β got lost": _fold(shift=lambda b, s, mean, beta: s * (b - mean)),
        "the stored mean is not subtracted": _fold(
            shift=lambda b, s, mean, beta: s * b + beta
        ),
        "the stored mean has a wrong sign": _fold(
            shift=lambda b, s, mean, beta: s * (b + mean) + beta
        ),
        "the stored mean is scaled, too": _fold(
            shift=lambda b, s, mean, beta: s * b - mean + beta
        ),
        "β is not scaled": _fold(shift=lambda b, s, mean, beta: s * (b - mean + beta)),
        "keep stride": _fold(
            end=lambda new, *_: _set(new, stride=(1, 1)[: new.weight.dim() - 2])
        ),
        "keep padding_mode": _fold(end=lambda new, *_: _set(new, padding_mode="zeros")),
        ARGUMENTS: (
            _fold(end=_in_place),
            _fold(end=lambda new, layer, bn: (_set(layer, bias=None), new)[1]),
            _fold(end=lambda new, layer, bn: (bn.train(), new)[1]),
        ),
        SHARED: _fold(
            end=lambda new, layer, bn: (
                new if bn.bias is None else _set(new, bias=bn.bias)
            ),
            shift=lambda b, s, mean, beta: s * (b - mean) + beta,
        ),
        "keep the layer's own format: its input will have that one": (
            _fold(promotes=True),
            _fold(end=lambda new, *_: new.float()),
        ),
        f"BN in train mode: {REFUSED}": _fold(
            refuses=("kind", "statistics", "channels")
        ),
        f"no stored statistics: {REFUSED}": _fold(refuses=("kind", "mode", "channels")),
        f"4 outputs, BN with 2 channels: {REFUSED}": _fold(
            refuses=("kind", "mode", "statistics")
        ),
        f"a ReLU before BN: {REFUSED}": _fold(
            refuses=("mode", "statistics", "channels")
        ),
    },
)
def fold(
    answer: Callable,
    make: Callable,
    options: dict,
    shape: tuple | None,
    dtypes: tuple = (torch.float64, torch.float64),
) -> dict:
    """Exercise 10.2: a new layer that equals bn(layer(x)) in eval mode, or no."""
    layer, options = make().to(dtypes[0]), dict(options)
    flat = getattr(layer, "weight", torch.ones(1)).dim() < 4
    kind = options.pop("kind", nn.BatchNorm1d if flat else nn.BatchNorm2d)
    training = options.pop("training", False)
    layer.train(len(options) % 2 == 0)  # its mode must not matter
    no_bias = options.pop("bias", True) is False
    bn = kind(options.pop("channels", 4), **options)
    if no_bias:  # as bias=False makes it, an argument that PyTorch 2.11 lacks
        bn.bias = None
    bn = fill(bn).to(dtypes[1]).train(training)
    if shape is None and dtypes[0] == torch.float64:
        return _refused(answer, layer, bn)
    before = [dict(state_of(m)) for m in (layer, bn)]
    new = answer(layer, bn)
    expect_written(new)
    seen = {"its kind": type(new).__name__}
    if not isinstance(new, type(layer)):
        return seen
    own = {p.data_ptr() for p in [*layer.parameters(), *bn.parameters()]}
    after = [dict(state_of(m)) for m in (layer, bn)]
    unchanged = all(
        a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
        for a, b in zip(before, after)
    )
    seen["its arguments"] = new is not layer and unchanged
    seen["shared tensors"] = bool(own & {p.data_ptr() for p in new.parameters()})
    seen["the formats of its parameters"] = [str(p.dtype) for p in new.parameters()]
    if {p.dtype for p in new.parameters()} != {dtypes[0]}:
        return seen
    if shape:
        with torch.no_grad():
            seen["the output"] = new(torch.randn(shape, dtype=dtypes[0]))
        return seen
    exact = _fold()(copy.deepcopy(layer).double(), copy.deepcopy(bn).double())
    pairs = [(new.weight, exact.weight), (new.bias, exact.bias)]
    seen["right to its rounding"] = all(
        same(a.double(), b, 4e-3, 2e-2) for a, b in pairs
    )
    return seen


def _refused(answer: Callable, layer: nn.Module, bn: nn.Module) -> dict:
    """Expect a ValueError with a sentence."""
    try:
        result = answer.function(layer, bn)
    except ValueError as error:
        expect(
            len(str(error).split()) >= 4,
            f"refused, but the message, {str(error)!r}, does not say why",
        )
        return {"refused": True}
    except Exception as error:
        kind = type(error).__name__
        raise NotYet(
            f"refuse with a ValueError that says why; it raised {kind}: {error}"
        ) from None
    expect_written(result)
    raise NotYet(REFUSED)


one_by_one = Measured(
    "one_by_one",  # exercise 10.4: dark images singly minus at once
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
    wrong=[
        Wrong(
            "these look like accuracies, or like all at once minus singly: return "
            "singly minus all at once",
            lambda *m: max(m) >= 30,
            (57, 86, 29),
        ),
        Wrong(
            "measure in points, accuracy in %; does the momentum reach the layers, "
            "and are the images shown one at a time, in train mode?",
            lambda *m: min(m) >= -1.2,
            (-0.31, -0.02, -0.59),
        ),
        Wrong(
            "does the momentum reach every BN layer?",
            lambda *m: len(set(m)) < len(m),
            (-5, -5, -5),
        ),
    ],
)


def _nets() -> dict[str, Callable]:
    def dense() -> nn.Module:
        return nn.Sequential(
            nn.Linear(6, 8),
            nn.BatchNorm1d(8, momentum=0.3),
            nn.Dropout(0.5),
            nn.Linear(8, 8),
            nn.BatchNorm1d(8, momentum=None),
        )

    def conv() -> nn.Module:
        inner = nn.Sequential(
            nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4, momentum=0.01), nn.ReLU()
        )
        body = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout2d(0.5)
        return nn.Sequential(*body, inner)

    def plain() -> nn.Module:
        own = nn.BatchNorm1d(4, affine=False, eps=0.1)
        return nn.Sequential(nn.Linear(6, 4), own, nn.LayerNorm(4))

    def others() -> nn.Module:
        memory = nn.InstanceNorm1d(4, track_running_stats=True)
        first = nn.Conv1d(1, 4, 3), memory, nn.AlphaDropout(0.3), nn.BatchNorm1d(4)
        return nn.Sequential(*first, nn.GroupNorm(2, 4))

    return {"plain": plain, "dense": dense, "conv": conv, "other norms": others}


INPUTS = {
    "plain": (40, 6),
    "dense": (50, 6),
    "conv": (6, 1, 7, 7),
    "other norms": (9, 1, 8),
}


def _norms(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if isinstance(m, _BatchNorm)]


def _adapt(
    momentum: float | None = 1.0,
    reset: bool = False,
    dropout: bool = False,
    restore: str = "each",
    momenta: bool = True,
    grad: bool = False,
    which: Callable = lambda layer, model: True,
    then: Callable = lambda model, modes: None,
) -> Callable:
    """A right answer, with one thing or another done otherwise."""

    def answer(model: nn.Module, x: Tensor) -> nn.Module:
        modes = {m: m.training for m in model.modules()}
        mode, before = model.training, {m: m.momentum for m in _norms(model)}
        chosen = [m for m in before if which(m, model)]
        model.train(dropout)
        for m in _norms(model):
            m.train(m in chosen)
        for m in chosen:
            if reset:
                m.reset_running_stats()
            m.momentum = momentum
        with torch.set_grad_enabled(grad):
            out = model(x)
            if grad:
                out.sum().backward()
        for m, old in before.items() if momenta else ():
            m.momentum = old
        for m, old in modes.items() if restore == "each" else ():
            m.training = old
        if restore == "model":
            model.train(mode)
        then(model, modes)
        return model

    return answer


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


def _no_dropout(model: nn.Module, modes: dict) -> None:
    for m in model.modules():
        if isinstance(m, nn.modules.dropout._DropoutNd):
            m.p = 0.0


def _hooked(model: nn.Module, modes: dict) -> None:
    _norms(model)[0].register_forward_hook(lambda *_: None)


def _graph(model: nn.Module, modes: dict) -> None:
    for m in _norms(model):
        m.running_mean = m.running_mean + 0 * model[0].weight.sum()


def _on_a_copy(model: nn.Module, x: Tensor) -> nn.Module:
    return _adapt()(copy.deepcopy(model), x)


ADAPT_HINTS = {
    "the model itself": "return the model itself, changed in place",
    "x": "it changes x",
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
    cases={
        f"a {name} net, {mode}{more}": (name, mode, more)
        for name, mode, more in [
            *(
                (name, mode, "")
                for name in _nets()
                for mode in ("eval mode", "train mode")
            ),
            *((name, "one BN in eval mode", "") for name in ("dense", "conv")),
            ("dense", "train mode", ", float32"),
            ("conv", "train mode", ", gradients off"),
        ]
    },
    tolerance=(1e-6, 1e-8),
    hints=ADAPT_HINTS,
    right={
        "in one pass": _adapt(),
        "layer by layer": _layer_by_layer,
        "reset and None": _adapt(None, reset=True),
    },
    mistakes={
        "is dropout off while it measures?": _adapt(dropout=True),
        ADAPT_HINTS["the mode of *"]: (
            _adapt(restore="no"),
            _adapt(restore="model"),
        ),
        ADAPT_HINTS["*momentum"]: _adapt(momenta=False),
        "a part of the old mean is kept: use momentum 1, or reset the statistics and "
        "use momentum None": (_adapt(0.1), _adapt(0.3), _adapt(0.5)),
        "the old mean is still stored in a layer that is in eval mode: it is to be "
        "measured, too": _adapt(
            which=lambda m, model: m.training or not model.training
        ),
        "the old mean is still stored in nested layers: model.modules() reaches "
        "them": _adapt(which=lambda m, model: m in [*model]),
        "the old mean is still stored: is the layer in train mode for x?": _adapt(
            which=lambda m, model: False
        ),
        ADAPT_HINTS["*'s gradient"]: (
            _adapt(grad=True),
            _adapt(then=lambda model, modes: model.zero_grad()),
        ),
        ADAPT_HINTS["*running_*'s requires_grad"]: _adapt(then=_graph),
        "the mean is right, the variance is not: divide by N - 1": partial(
            _layer_by_layer, correction=0
        ),
        "each layer is measured on what the layers before make with the old "
        "statistics: use those of x": partial(_layer_by_layer, at_once=True),
        ADAPT_HINTS["*'s requires_grad"]: _adapt(
            then=lambda model, modes: model.requires_grad_(False)
        ),
        ADAPT_HINTS["the number of hooks"]: _adapt(then=_hooked),
        ADAPT_HINTS["*.p"]: _adapt(then=_no_dropout),
        ADAPT_HINTS["*track_running_stats"]: _adapt(
            then=lambda model, modes: [
                setattr(m, "track_running_stats", False) for m in _norms(model)
            ]
        ),
        ADAPT_HINTS["the model itself"]: lambda model, x: _adapt()(
            copy.deepcopy(model), x
        ),
    },
)
def adapt(answer: Callable, name: str, mode: str, more: str) -> dict:
    """Exercise 10.1: statistics of x in all BN layers, all else as it was."""
    dtype = torch.float32 if "float32" in more else torch.float64
    model, x = fill(_nets()[name]()).to(dtype), 1 + 3 * torch.randn(INPUTS[name])
    x = x.to(dtype)
    model.train(mode != "eval mode")
    if mode == "one BN in eval mode":
        _norms(model)[0].eval()
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    given = x.clone()
    with torch.set_grad_enabled("gradients off" not in more):
        result = answer(model, x)
    expect_written(result)
    seen = {"the model itself": result is model, "x": bool((x == given).all())}
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
