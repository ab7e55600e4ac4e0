"""Checks of chapter 10, deployment."""

import copy
from collections.abc import Callable

import torch
from torch import nn

from utils.checks.framework import NotYet, check, expect, expect_written

NORMS = nn.BatchNorm1d, nn.BatchNorm2d


def _fill(bn: nn.Module) -> nn.Module:
    """Values that nobody could take for the defaults."""
    with torch.no_grad():
        bn.running_mean.normal_(1, 2)
        bn.running_var.uniform_(0.1, 4)
        if bn.affine:
            bn.weight.uniform_(0.5, 2).mul_(torch.randn(len(bn.weight)).sign())
            bn.bias.normal_()
    return bn


def _state(module: nn.Module) -> dict[str, torch.Tensor]:
    return copy.deepcopy(module.state_dict())


def _altered(module: nn.Module, before: dict[str, torch.Tensor]) -> list[str]:
    """The names of what is no longer as it was, nan for nan."""
    return [
        name
        for name, now in module.state_dict().items()
        if not torch.equal(now.nan_to_num(7), before[name].nan_to_num(7))
    ]


def _near(a: torch.Tensor, b: torch.Tensor, rtol: float = 1e-9) -> bool:
    return torch.allclose(a.to(b.dtype), b, rtol=rtol, atol=1e-9)


def _mistake(layer: nn.Module, bn: nn.Module, got: nn.Module) -> str:
    """A known mistake, by what it makes of the weight or the bias."""
    shape = -1, *[1] * (layer.weight.dim() - 1)
    std = torch.sqrt(bn.running_var + bn.eps)
    gamma = bn.weight if bn.affine else torch.ones_like(std)
    beta = bn.bias if bn.affine else torch.zeros_like(std)
    bias = torch.zeros_like(std) if layer.bias is None else layer.bias
    scale = gamma / std

    def is_weight(by: torch.Tensor) -> bool:
        return _near(got.weight, layer.weight * by.view(shape))

    if not is_weight(scale):
        known = [
            (gamma / bn.running_var.sqrt(), "eps is missing under the root"),
            (gamma / (bn.running_var.sqrt() + bn.eps), "eps belongs under the root"),
            (gamma / (std**2 - bn.eps + 1e-5).sqrt(), "take eps from bn"),
            (gamma / (std**2), "divide by the root of the variance"),
            (1 / std, "the weights are not multiplied by γ"),
            (torch.ones_like(std), "the weights are unchanged: scale them"),
        ]
        return next((hint for by, hint in known if is_weight(by)), "wrong weight")
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


@check
def fold(answer: Callable) -> str:
    """Exercise 10.2: a new layer that equals bn(layer(x)) in eval mode."""
    groups = dict(groups=2, bias=False, padding=1)
    cases = [
        ("a linear layer", nn.Linear(5, 4), {}, (3, 5)),
        ("a convolution", nn.Conv2d(2, 4, 3), {}, (3, 2, 7, 7)),
        ("padding", nn.Conv2d(2, 4, 3, padding=1), {}, (3, 2, 7, 7)),
        ("a linear layer without bias", nn.Linear(5, 4, bias=False), {}, (3, 5)),
        ("eps = 0.1", nn.Linear(5, 4), dict(eps=0.1), (3, 5)),
        ("affine=False", nn.Linear(5, 4), dict(affine=False), (3, 5)),
        (
            "affine=False and no bias",
            nn.Conv2d(2, 4, 3, bias=False),
            dict(affine=False),
            (3, 2, 7, 7),
        ),
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
            (3, 2, 7, 7),
        ),
        ("as many outputs as inputs", nn.Conv2d(4, 4, 1), {}, (3, 4, 7, 7)),
        ("Conv1d", nn.Conv1d(2, 4, 3, dilation=2), {}, (3, 2, 9)),
    ]
    for name, layer, options, shape in cases:
        kind = nn.BatchNorm2d if layer.weight.dim() == 4 else nn.BatchNorm1d
        layer = layer.double()
        bn = _fill(kind(4, **options).double())
        for training in (False, True):  # the mode of the arguments must not matter
            layer.train(training)
            bn.train(training)
            before = _state(layer), _state(bn)
            new = answer(layer, bn)
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
                (layer.training, bn.training) == (training, training),
                "it leaves its arguments in another mode",
            )
            shared = {p.data_ptr() for p in [*layer.parameters(), *bn.parameters()]}
            expect(
                not shared & {p.data_ptr() for p in new.parameters()},
                f"{name}: the new layer shares a tensor with its arguments: "
                "training one would change the other; copy it",
            )
            expect(
                new.weight.dtype == torch.float64,
                f"{name}: the layers are float64, the new weight is {new.weight.dtype}",
            )
            x = torch.randn(shape, dtype=torch.float64)
            with torch.no_grad():
                right = copy.deepcopy(bn).eval()(layer(x))
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
    return "equal to the two layers in all 13 cases, and the arguments are untouched"


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
            for layer, bn in norms.items():
                old = before[f"{layer}.running_mean"]
                hint = _what_is_stored(bn, old, [r[layer] for r in right])
                expect(not hint, f"{case}: layer {layer}: {hint}")
    return "statistics of x in every layer, and all else as it was"
