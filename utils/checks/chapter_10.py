"""Checks of chapter 10, deployment."""

import copy
from collections.abc import Callable

import torch
from torch import nn
from torch.nn.modules.conv import _ConvTransposeNd

from utils.checks.legacy import (
    NotYet,
    check,
    expect,
    expect_written,
    mean_difference,
)

NORMS = nn.BatchNorm1d, nn.BatchNorm2d
SINGLY = {1.0: (-75, -3), 0.1: (-12, 4), 0.01: (-85, -25)}  # momentum: points


def _fill(bn: nn.Module) -> nn.Module:
    """Values that nobody could take for the defaults."""
    with torch.no_grad():
        bn.running_mean.normal_(1, 2)
        bn.running_var.uniform_(0.1, 4)
        if bn.weight is not None:
            bn.weight.uniform_(0.5, 2).mul_(torch.randn(len(bn.weight)).sign())
        if bn.bias is not None:
            bn.bias.normal_()
    return bn


def _state(module: nn.Module) -> dict[str, torch.Tensor]:
    return copy.deepcopy(module.state_dict())


def _altered(module: nn.Module, before: dict[str, torch.Tensor]) -> list[str]:
    """The names of what is no longer as it was, nan for nan; new and lost ones."""
    state = module.state_dict()
    return [*(before.keys() ^ state.keys())] + [
        name
        for name in before.keys() & state.keys()
        if state[name].dtype != before[name].dtype
        or state[name].shape != before[name].shape
        or not torch.equal(state[name].nan_to_num(7), before[name].nan_to_num(7))
    ]


def _near(a: torch.Tensor, b: torch.Tensor, rtol: float = 1e-9) -> bool:
    return torch.allclose(a.to(b.dtype), b, rtol=rtol, atol=1e-9)


def _factor(layer: nn.Module, by: torch.Tensor) -> torch.Tensor:
    """A number per output channel, in the shape of the layer's weight."""
    weight = layer.weight
    if isinstance(layer, _ConvTransposeNd):  # (in, out / groups, ...), in blocks
        blocks = by.view(layer.groups, 1, -1)
        inputs = len(weight) // layer.groups
        by = blocks.expand(-1, inputs, -1).reshape(len(weight), -1)
    else:
        by = by[:, None]
    return by.view(*by.shape, *[1] * (weight.dim() - 2))


def _mistake(layer: nn.Module, bn: nn.Module, got: nn.Module) -> str:
    """A known mistake, by what it makes of the weight or the bias."""
    std = torch.sqrt(bn.running_var + bn.eps)
    gamma = torch.ones_like(std) if bn.weight is None else bn.weight
    beta = torch.zeros_like(std) if bn.bias is None else bn.bias
    bias = torch.zeros_like(std) if layer.bias is None else layer.bias
    scale = gamma / std

    def is_weight(by: torch.Tensor) -> bool:
        return _near(got.weight, layer.weight * _factor(layer, by))

    if not is_weight(scale):
        known = [
            (gamma / bn.running_var.sqrt(), "eps is missing under the root"),
            (gamma / (bn.running_var.sqrt() + bn.eps), "eps belongs under the root"),
            (gamma / (std**2 - bn.eps + 1e-5).sqrt(), "take eps from bn"),
            (gamma / (std**2), "divide by the root of the variance"),
            (1 / std, "the weights are not multiplied by γ"),
            (torch.ones_like(std), "the weights are unchanged: scale them"),
        ]
        if isinstance(layer, _ConvTransposeNd):
            ask = "wrong weight: which axis of a transposed weight holds the outputs?"
        else:
            ask = "wrong weight"
        return next((hint for by, hint in known if is_weight(by)), ask)
    known = [
        (bias - scale * bn.running_mean + beta, "the old bias is scaled, too"),
        (beta - scale * bn.running_mean, "the old bias got lost"),
        (scale * (bias - bn.running_mean), "β got lost"),
        (scale * bias + beta, "the stored mean is not subtracted"),
        (scale * (bias + bn.running_mean) + beta, "the stored mean has a wrong sign"),
        (scale * bias - bn.running_mean + beta, "the stored mean is scaled, too"),
    ]
    for wrong, hint in known:
        if got.bias is not None and _near(got.bias, wrong):
            return hint
    return "the weights are right, the bias is not"


def _fold_cases() -> list[tuple[str, nn.Module, dict, tuple]]:
    """Name, layer, options of BN, shape of the input; four channels each."""
    groups = dict(groups=2, bias=False, padding=1)
    two = (3, 2, 7, 7)
    plain = dict(affine=False)
    return [
        ("a linear layer", nn.Linear(5, 4), {}, (3, 5)),
        ("a convolution", nn.Conv2d(2, 4, 3), {}, two),
        ("padding", nn.Conv2d(2, 4, 3, padding=1), {}, two),
        ("a linear layer without bias", nn.Linear(5, 4, bias=False), {}, (3, 5)),
        ("eps = 0.1", nn.Linear(5, 4), dict(eps=0.1), (3, 5)),
        ("affine=False", nn.Linear(5, 4), plain, (3, 5)),
        ("affine=False and no bias", nn.Conv2d(2, 4, 3, bias=False), plain, two),
        ("BN with bias=False", nn.Conv2d(2, 4, 3), dict(bias=False), two),
        ("bias=False in both", nn.Linear(5, 4, bias=False), dict(bias=False), (3, 5)),
        ("groups", nn.Conv2d(6, 4, 3, **groups), {}, (3, 6, 7, 7)),
        ("a depthwise convolution", nn.Conv2d(4, 4, 3, groups=4), {}, (3, 4, 7, 7)),
        (
            "stride and dilation",
            nn.Conv2d(2, 4, 3, stride=2, dilation=2, padding=2),
            {},
            (3, 2, 9, 9),
        ),
        (
            "circular padding",
            nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular"),
            {},
            two,
        ),
        ("as many outputs as inputs", nn.Conv2d(4, 4, 1), {}, (3, 4, 7, 7)),
        ("Conv1d", nn.Conv1d(2, 4, 3, dilation=2), {}, (3, 2, 9)),
        ("a transposed convolution", nn.ConvTranspose2d(2, 4, 3, 2), {}, two),
        ("a transposed one, 4 to 4", nn.ConvTranspose2d(4, 4, 3), {}, (3, 4, 5, 5)),
        (
            "a transposed one in groups",
            nn.ConvTranspose2d(6, 4, 3, groups=2, bias=False),
            {},
            (3, 6, 5, 5),
        ),
        ("ConvTranspose1d", nn.ConvTranspose1d(4, 4, 3), plain, (3, 4, 9)),
    ]


def _refuses(answer: Callable, name: str, layer: nn.Module, bn: nn.Module) -> None:
    """Expect a ValueError with a sentence."""
    layer, bn = layer.double(), bn.double()
    try:
        result = answer(layer, bn)
    except ValueError as error:
        expect(
            len(str(error).split()) >= 4,
            f"{name}: refused, but the message, {str(error)!r}, does not say why",
        )
        return
    except NotYet:
        raise
    except Exception as error:
        kind = type(error).__name__
        raise NotYet(
            f"{name}: refuse with a ValueError that says why; it raised {kind}: {error}"
        ) from None
    expect_written(result)
    raise NotYet(f"{name}: this cannot be folded; refuse it with a ValueError")


@check
def fold(answer: Callable) -> str:
    """Exercise 10.2: a new layer that equals bn(layer(x)) in eval mode, or no."""
    cases = _fold_cases()
    for name, layer, options, shape in cases:
        kind = nn.BatchNorm2d if layer.weight.dim() == 4 else nn.BatchNorm1d
        layer = layer.double()
        bn = _fill(kind(4, **options).double()).eval()
        for training in (False, True):  # the layer's own mode must not matter
            layer.train(training)
            before = _state(layer), _state(bn)
            try:
                new = answer(layer, bn)
            except Exception as error:
                error.args = (f"{name}: {error}",)
                raise
            expect_written(new)
            expect(
                type(new) is type(layer),
                f"{name}: return one {type(layer).__name__}, got {type(new).__name__}",
            )
            changed = [
                *(f"layer.{n}" for n in _altered(layer, before[0])),
                *(f"bn.{n}" for n in _altered(bn, before[1])),
            ]
            expect(
                new is not layer and not changed,
                f"{name}: it changes its arguments ({', '.join(changed) or 'layer'}): "
                "make a new layer",
            )
            expect(
                (layer.training, bn.training) == (training, False),
                "it leaves its arguments in another mode",
            )
            shared = {p.data_ptr() for p in [*layer.parameters(), *bn.parameters()]}
            expect(
                not shared & {p.data_ptr() for p in new.parameters()},
                f"{name}: the new layer shares a tensor with its arguments: "
                "training one would change the other; copy it",
            )
            dtypes = {p.dtype for p in new.parameters()}
            expect(
                dtypes == {torch.float64},
                f"{name}: the layers are float64, the new one has "
                f"{', '.join(map(str, dtypes))}",
            )
            x = torch.randn(shape, dtype=torch.float64)
            with torch.no_grad():
                right = bn(layer(x))
                got = new(x)
            expect(
                got.shape == right.shape,
                f"{name}: the output has shape {tuple(got.shape)} in place of "
                f"{tuple(right.shape)}: keep stride, padding, dilation, groups",
            )
            if not torch.allclose(got, right, rtol=1e-9, atol=1e-9):
                same = new.weight.shape == layer.weight.shape
                why = _mistake(layer, bn, new) if same else "the weight's shape differs"
                off = (got - right).abs().max().item()
                raise NotYet(f"{name}: off by {off:.2g}: {why}")
    _folds_half(answer)
    conv, bn = nn.Conv2d(2, 4, 3), _fill(nn.BatchNorm2d(4))
    _refuses(answer, "BN in train mode", conv, copy.deepcopy(bn).train())
    untracked = nn.BatchNorm2d(4, track_running_stats=False).eval()
    _refuses(answer, "no stored statistics", conv, untracked)
    other = _fill(nn.BatchNorm2d(2)).eval()
    _refuses(answer, "4 outputs, BN with 2 channels", conv, other)
    single = _fill(nn.BatchNorm2d(1)).eval()
    _refuses(answer, "4 outputs, BN with 1 channel", conv, single)
    _refuses(answer, "a ReLU before BN", nn.ReLU(), bn.eval())
    _refuses(answer, "a group norm before BN", nn.GroupNorm(2, 4), bn.eval())
    return (
        f"equal to the two layers in all {len(cases)} cases and in half "
        "precision, and refused with a reason where it cannot be"
    )


def _folds_half(answer: Callable) -> None:
    """A layer in half precision, BN in half or in float32."""
    for bn_dtype in (torch.float16, torch.float32):
        name = f"layer in float16, BN in {bn_dtype}"
        layer = nn.Conv2d(4, 4, 3).half()
        bn = _fill(nn.BatchNorm2d(4)).to(bn_dtype).eval()
        new = answer(layer, bn)
        expect_written(new)
        dtypes = {p.dtype for p in new.parameters()}
        expect(
            dtypes == {torch.float16},
            f"{name}: the new layer has {', '.join(map(str, dtypes))}: its input "
            "will be float16",
        )
        exact, norm = copy.deepcopy(layer).double(), copy.deepcopy(bn).double()
        factor = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        weight = exact.weight * _factor(exact, factor)
        bias = factor * (exact.bias - norm.running_mean) + norm.bias
        for got, right in ((new.weight, weight), (new.bias, bias)):
            expect(
                torch.allclose(got.double(), right, rtol=4e-3, atol=2e-2),
                f"{name}: wrong by more than its rounding",
            )


@check
def one_by_one(answer: Callable) -> str:
    """Exercise 10.4: dark images singly minus at once, by its numbers alone."""
    means = {
        m: mean_difference(answer(m), "scores are finite: is the variance?")
        for m in SINGLY
    }
    told = ", ".join(f"{v:.1f} at momentum {m:g}" for m, v in means.items())
    expect(
        max(means.values()) < 30,
        f"{told}: these look like accuracies, or like all at once minus singly: "
        "return singly minus all at once",
    )
    expect(
        min(means.values()) < -1.2,
        f"{told}: measure in points, with accuracy in %; does the momentum reach "
        "the layers, and are the images shown one at a time, in train mode?",
    )
    expect(
        len(set(means.values())) == len(means),
        f"{told}: does the momentum reach every BN layer?",
    )
    for m, (low, high) in SINGLY.items():
        expect(
            low < means[m] < high,
            f"{means[m]:.1f} points at momentum {m:g}; we expect {low} to {high} for "
            "64 dark images, one at a time in train mode, scored in eval mode on "
            "all dark test images",
        )
    return told


def _nets() -> list[tuple[str, nn.Module, torch.Tensor]]:
    dense = nn.Sequential(
        nn.Linear(6, 8),
        nn.BatchNorm1d(8, momentum=0.3),
        nn.Dropout(0.5),
        nn.Linear(8, 8),
        nn.BatchNorm1d(8, momentum=None),
    )
    inner = nn.Sequential(
        nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4, momentum=0.01), nn.ReLU()
    )
    conv = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout2d(0.5), inner
    )
    plain = nn.Sequential(
        nn.Linear(6, 4), nn.BatchNorm1d(4, affine=False), nn.LayerNorm(4)
    )
    return [
        ("a plain net", plain, 3 + 2 * torch.randn(40, 6)),
        ("a dense net", dense, 1 + 3 * torch.randn(50, 6)),
        ("a conv net", conv, 1 + 3 * torch.randn(6, 1, 7, 7)),
    ]


def _reached(model: nn.Module, x: torch.Tensor, in_one_pass: bool) -> dict:
    """{name: (mean, variance)} that each BN layer should store, dropout off.

    In one pass in train mode a layer normalises with the biased variance;
    layer by layer, in eval mode, with what was stored before. Both are right.
    """
    model, stats = copy.deepcopy(model).eval(), {}
    norms = {n: m for n, m in model.named_modules() if isinstance(m, NORMS)}
    for name, layer in norms.items():

        def note(layer: nn.Module, inputs: tuple, name: str = name) -> None:
            z = inputs[0].transpose(0, 1).flatten(1)  # (channels, values)
            stats[name] = z.mean(1), z.var(1)

        hook = layer.register_forward_pre_hook(note)
        if in_one_pass:
            for m in norms.values():
                m.train()
        with torch.no_grad():
            model(x)
        hook.remove()
        if not in_one_pass:
            layer.running_mean, layer.running_var = stats[name]
    return stats


def _what_is_stored(bn: nn.Module, old: torch.Tensor, right: list) -> str:
    """What is wrong with the stored mean and variance, or nothing."""
    mean, var = bn.running_mean, bn.running_var
    if mean.requires_grad or var.requires_grad:
        return (
            "what it stores drags the autograd graph along: measure under "
            "torch.no_grad()"
        )
    if torch.equal(mean, old):
        return "the old mean is still stored: is the layer in train mode for x?"
    if any(_near(mean, m, 1e-6) and _near(var, v, 1e-6) for m, v in right):
        return ""
    if any(_near(mean, m, 1e-6) for m, _ in right):
        return (
            "the mean is right, the variance is not: divide by N - 1, and keep "
            "nothing of the old one"
        )
    for new, _ in right:
        share = (mean - old) / (new - old)  # of the new mean, by channel
        if _near(share, share.mean().expand_as(share), 1e-4):
            return (
                "a part of the old mean is kept: use momentum 1, or reset the "
                "statistics and use momentum None"
            )
    return (
        "this is the mean of something else: is dropout off, and do the layers "
        "before it use the statistics of x?"
    )


@check
def adapt(answer: Callable) -> str:
    """Exercise 10.1: statistics of x in all BN layers, all else as it was."""
    for name, model, x in _nets():
        model, x = model.double(), x.double()
        for mode in ("eval", "train", "mixed"):
            for layer in model.modules():
                if isinstance(layer, NORMS):
                    _fill(layer)
            model.train(mode != "eval")
            norms = {n: m for n, m in model.named_modules() if isinstance(m, NORMS)}
            if mode == "mixed":  # one BN layer is frozen
                next(iter(norms.values())).eval()
            for p in model.parameters():
                p.grad = torch.ones_like(p)
            modes = [m.training for m in model.modules()]
            momenta = [m.momentum for m in norms.values()]
            settings = {n: m.extra_repr() for n, m in model.named_modules()}
            right = [_reached(model, x, in_one_pass) for in_one_pass in (True, False)]
            before, given = _state(model), x.clone()
            case = (
                f"{name}, {mode} mode"
                if mode != "mixed"
                else f"{name}, one BN in eval mode"
            )
            result = answer(model, x)
            expect_written(result)
            expect(
                result is model,
                "return the model itself, changed in place; got "
                + ("another model" if isinstance(result, nn.Module) else "no model"),
            )
            expect(torch.equal(x, given), "it changes x")
            kept = [n for n in _altered(model, before) if "running" not in n]
            kept = [n for n in kept if "num_batches" not in n]
            expect(not kept, f"{case}: it changes {', '.join(kept)}")
            expect(
                [m.momentum for m in norms.values()] == momenta,
                f"{case}: a layer's momentum is not what it was "
                f"({momenta} before): restore each",
            )
            expect(
                [m.training for m in model.modules()] == modes,
                f"{case}: a layer is not in the mode it was in: restore each",
            )
            expect(
                all(
                    p.grad is not None and (p.grad == 1).all()
                    for p in model.parameters()
                ),
                f"{case}: it touches gradients: nothing is to be trained here",
            )
            expect(
                all(p.requires_grad for p in model.parameters()),
                f"{case}: it leaves parameters frozen: restore requires_grad",
            )
            expect(
                all(m.track_running_stats for m in norms.values()),
                f"{case}: it leaves track_running_stats off",
            )
            expect(
                not any(
                    m._forward_hooks or m._forward_pre_hooks for m in model.modules()
                ),
                f"{case}: it leaves hooks on the layers: remove them",
            )
            for n, m in model.named_modules():
                expect(
                    m.extra_repr() == settings[n],
                    f"{case}: layer {n} was ({settings[n]}) and is now "
                    f"({m.extra_repr()}): restore it",
                )
            for layer, bn in norms.items():
                old = before[f"{layer}.running_mean"]
                hint = _what_is_stored(bn, old, [r[layer] for r in right])
                expect(not hint, f"{case}: layer {layer}: {hint}")
    return "statistics of x in every layer, and all else as it was"
