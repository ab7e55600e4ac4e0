"""Checks of chapter 03, train and eval."""

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from utils.checks.legacy import check, expect, expect_written


def _close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-6, atol=1e-9)


def _output(result: object, right: torch.Tensor) -> torch.Tensor:
    expect_written(result)
    expect(
        isinstance(result, torch.Tensor) and result.shape == right.shape,
        f"it should return the normalised x, a tensor of shape {tuple(right.shape)}; "
        f"got {tuple(getattr(result, 'shape', ())) or type(result).__name__}",
    )
    return result


def _expect_memory(
    mean: torch.Tensor, var: torch.Tensor, x: torch.Tensor, m: float
) -> None:
    """Both running tensors, after one update with x from `start`."""
    start_mean, start_var = torch.full_like(mean, 0.5), torch.full_like(var, 2.0)
    expect(
        not (_close(mean, start_mean) and _close(var, start_var)),
        "the running tensors did not change: update them in place, "
        "running_mean.mul_(…).add_(…)",
    )
    batch_mean, biased = x.mean(0), x.var(0, correction=0)
    unbiased = x.var(0, correction=1)
    expect(
        not _close(mean, m * start_mean + (1 - m) * batch_mean),
        "the momentum is the other way round: in PyTorch it is the weight of "
        "the new batch, and 1 - momentum that of the past",
    )
    right = (1 - m) * start_mean + m * batch_mean
    expect(
        _close(mean, right),
        f"with momentum {m} a running mean of 0.5 and a batch mean of "
        f"{batch_mean[0]:.6f} give {right[0]:.6f}, yours gives {mean[0]:.6f}",
    )
    expect(
        not _close(var, (1 - m) * start_var + m * biased),
        "the running variance stores the biased variance: what is stored is "
        "divided by N - 1",
    )
    expect(
        not _close(var, (1 - m) * start_var + m * unbiased.sqrt()),
        "you store the standard deviation: running_var is a variance",
    )
    right = (1 - m) * start_var + m * unbiased
    expect(
        _close(var, right),
        f"with momentum {m} a running variance of 2 and an unbiased batch variance "
        f"of {unbiased[0]:.6f} give {right[0]:.6f}, yours gives {var[0]:.6f}",
    )


def _expect_normalised(y: torch.Tensor, x: torch.Tensor, eps: float) -> None:
    centred = x - x.mean(0)
    wrong = {
        "to normalise, the variance is divided by N (biased); N - 1 is for storing": (
            centred / torch.sqrt(x.var(0, correction=1) + eps)
        ),
        "eps is added to the variance, under the root, not to its root": (
            centred / (x.std(0, correction=0) + eps)
        ),
        "eps is missing, or not the one that was given": (
            centred / x.std(0, correction=0)
        ),
        "eps is fixed: use the one that was given": (
            centred / torch.sqrt(x.var(0, correction=0) + 1e-5)
        ),
    }
    right = F.batch_norm(x, None, None, training=True, eps=eps)
    for hint, output in wrong.items():
        expect(_close(output, right) or not _close(y, output), hint)
    expect(
        _close(y, right),
        "with training=True, x is normalised with the mean and the biased "
        "variance of the batch, one for each channel; your output differs",
    )


@check
def norm_with_memory(answer: Callable) -> str:
    """Exercise 3.1: BN over (batch, channels) with running statistics."""
    for n, m, eps in [(5, 0.1, 1e-5), (8, 0.3, 1e-2), (2, 0.01, 1e-5), (5, 0.1, 1e-2)]:
        x = (3 + 2 * torch.randn(n, 5, dtype=torch.float64)).requires_grad_()
        weights = torch.randn(n, 5, dtype=torch.float64)
        start = [
            torch.full((5,), 0.5, dtype=torch.float64),
            torch.full((5,), 2.0, dtype=torch.float64),
        ]
        mean, var = (t.clone() for t in start)
        given = x.detach().clone()
        y = _output(answer(x, mean, var, True, m, eps), x)
        expect(
            torch.equal(x.detach(), given),
            "it changes x itself: only the running tensors may change",
        )
        expect(
            mean.grad_fn is None and not mean.requires_grad and not var.requires_grad,
            "the running tensors carry the autograd graph along, which grows "
            "with each batch: detach what you store",
        )
        plain = x.detach()
        _expect_normalised(y.detach(), plain, eps)
        _expect_memory(mean, var, plain, m)

        reference = plain.clone().requires_grad_()
        F.batch_norm(reference, None, None, training=True, eps=eps).mul(
            weights
        ).sum().backward()
        expect(
            y.requires_grad,
            "the output has no gradient: normalise outside of torch.no_grad()",
        )
        y.mul(weights).sum().backward()
        expect(
            torch.allclose(x.grad, reference.grad, rtol=1e-5, atol=1e-8),
            "the output is right, but its gradient is not: the mean and the "
            "variance of the batch depend on x, so do not detach them in the "
            "normalisation",
        )

        mean, var = (t.clone() for t in start)
        with torch.no_grad():
            y = _output(answer(plain.clone(), mean, var, True, m, eps), x)
        expect(
            _close(y, F.batch_norm(plain, None, None, training=True, eps=eps))
            and not _close(mean, start[0]),
            "under torch.no_grad() it behaves as in evaluation: the argument "
            "training decides, not whether gradients are on",
        )

        mean, var = (t.clone() for t in start)
        y = _output(answer(x.detach().requires_grad_(), mean, var, False, m, eps), x)
        expect(
            torch.equal(mean, start[0]) and torch.equal(var, start[1]),
            "with training=False the running tensors must stay as they are",
        )
        right = (plain - start[0]) / torch.sqrt(start[1] + eps)
        expect(
            not _close(
                y.detach(), F.batch_norm(plain, None, None, training=True, eps=eps)
            ),
            "with training=False it still normalises with the batch: use the "
            "running tensors",
        )
        expect(
            _close(y.detach(), right),
            "with training=False the output is (x - running_mean) / "
            "sqrt(running_var + eps); yours differs",
        )
        alone = answer(plain[:1], mean, var, False, m, eps)
        expect(
            _close(_output(alone, plain[:1]), right[:1]),
            "with training=False it must work for one example alone",
        )
    defaults = torch.zeros(5, dtype=torch.float64), torch.ones(5, dtype=torch.float64)
    y = _output(answer(plain, *defaults, True), plain)
    expect(
        _close(y, F.batch_norm(plain, None, None, training=True))
        and _close(defaults[0], 0.1 * plain.mean(0)),
        "without momentum and eps it should use 0.1 and 1e-5",
    )
    return "output, gradient and memory are PyTorch's, in both modes"


BATCH_NORMS = nn.modules.batchnorm._BatchNorm  # of PyTorch, all of them


def _dense() -> tuple[nn.Module, tuple]:
    inner = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.ReLU())
    layers = [nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), inner]
    return nn.Sequential(*layers, nn.Linear(6, 3)), (16, 4)


def _conv() -> tuple[nn.Module, tuple]:
    body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    return nn.Sequential(body, nn.Flatten(), nn.Linear(64, 3)), (8, 1, 6, 6)


def _volume() -> tuple[nn.Module, tuple]:
    layers = [nn.Conv3d(1, 2, 2), nn.BatchNorm3d(2), nn.Flatten(), nn.Linear(16, 3)]
    return nn.Sequential(*layers), (8, 1, 3, 3, 3)


def _synced() -> tuple[nn.Module, tuple]:
    model, shape = _conv()
    return nn.SyncBatchNorm.convert_sync_batchnorm(model), shape


def _others(model: nn.Module, names: set[str]) -> dict[str, torch.Tensor]:
    return {
        name: p.detach().clone()
        for name, p in model.named_parameters()
        if name.rpartition(".")[0] not in names
    }


def _train(model: nn.Module, shape: tuple, steps: int, shift: float) -> None:
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1
    )
    for _ in range(steps):
        x, y = shift + 2 * torch.randn(shape), torch.randint(3, shape[:1])
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()


@check
def freeze_batch_norm(answer: Callable) -> str:
    """Exercise 3.2: BN layers that stay frozen whatever mode is set."""
    for make in (_dense, _conv, _volume, _synced):
        model, shape = make()
        _train(model, shape, 5, shift=0.0)
        layers = {n for n, m in model.named_modules() if isinstance(m, BATCH_NORMS)}
        before = {
            f"{name}.{key}": getattr(model.get_submodule(name), key).detach().clone()
            for key in ("running_mean", "running_var", "weight", "bias")
            for name in sorted(layers)
        }
        result = answer(model)
        expect_written(result)
        expect(
            isinstance(result, nn.Module), f"it should return the model, got {result!r}"
        )
        model = result
        state = model.state_dict()
        for name, value in before.items():
            expect(
                name not in state or torch.equal(state[name], value),
                f"freezing itself changed {name}: keep what was learnt",
            )
        expect(
            any(p.requires_grad for p in model.parameters()),
            "no parameter is left to train: only BN layers are to be frozen",
        )
        others = _others(model, layers)
        for _ in range(2):  # the second epoch's model.train()
            model.train()
            _train(model, shape, 3, shift=3.0)
            _expect_frozen(model, before)
            model.eval()
        moved = _others(model, layers)
        expect(
            all(not torch.equal(moved[name], others[name]) for name in others),
            "other layers do not train any more: only BN layers are to be frozen, "
            "and gradients must pass through them",
        )
        _expect_modes(model, layers)
        fresh, _ = make()
        _train(fresh, shape, 5, shift=0.0)
        right = copy.deepcopy(fresh).eval()
        frozen = answer(fresh)
        for module in frozen.train().modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        x = 3 + 2 * torch.randn(shape)
        with torch.no_grad():
            expect(
                torch.allclose(frozen(x), right(x), rtol=1e-4, atol=1e-5),
                "after model.train() the BN layers normalise with the batch: they "
                "should go on using the stored statistics",
            )
            expect(
                torch.allclose(frozen.eval()(x), right(x), rtol=1e-4, atol=1e-5),
                "in eval mode the model computes something else than before",
            )
    alone = answer(nn.BatchNorm1d(3)).train()
    alone(5 + torch.randn(8, 3))
    state = alone.state_dict()
    expect(
        "running_mean" not in state or not state["running_mean"].any(),
        "a model that is a BN layer itself is not frozen: model.modules() begins "
        "with the model",
    )
    _expect_survives_conversion(answer)
    return "statistics, γ and β stay, model.train() or not, and the rest trains"


def _expect_survives_conversion(answer: Callable) -> None:
    """What SyncBatchNorm.convert_sync_batchnorm puts in is frozen, too."""
    model, shape = _conv()
    _train(model, shape, 5, shift=0.0)
    model = nn.SyncBatchNorm.convert_sync_batchnorm(answer(model))
    layers = [m for m in model.modules() if isinstance(m, BATCH_NORMS)]
    before = [copy.deepcopy(m.state_dict()) for m in layers]
    model.train()
    _train(model, shape, 3, shift=3.0)
    for layer, old in zip(layers, before):
        new = layer.state_dict()
        expect(
            all(torch.equal(new[name], old[name]) for name in old),
            "after SyncBatchNorm.convert_sync_batchnorm and model.train() the "
            "layers change again: conversion has put new ones in their place, "
            "which know nothing of what you did to the old; the model itself stays",
        )


def _expect_frozen(model: nn.Module, before: dict[str, torch.Tensor]) -> None:
    state = model.state_dict()
    for name, value in before.items():
        if name not in state:  # another layer took its place: outputs are compared
            continue
        what = name.rpartition(".")[2]
        if torch.equal(state[name], value):
            continue
        expect(
            not what.startswith("running"),
            f"{name} changed after model.train(): the statistics still move; "
            "requires_grad=False does not stop them, and model.train() turns "
            "the layer back on",
        )
        symbol = "γ" if what == "weight" else "β"
        expect(False, f"{name} ({symbol}) changed: it still gets gradients")


def _expect_modes(model: nn.Module, layers: set[str]) -> None:
    for mode in (True, False):
        model.train(mode)
        for name, module in model.named_modules():
            frozen = any(name == n or name.startswith(n + ".") for n in layers)
            expect(
                frozen or module.training == mode,
                f"after model.train({mode}) the layer {name or 'model'!s} "
                f"({type(module).__name__}) does not obey: only BN layers are to "
                "stay in their mode",
            )


# Test accuracy in % by guests among 32 images: in eval mode as trained, and
# with each scanner's own statistics (400 updates, twelve seeds)
AS_TRAINED = {1: (79.0, 96.0), 4: (86.0, 96.0)}
OWN = {1: (89.5, 97.0), 4: (79.0, 90.0)}


@check
def with_guests(answer: Callable) -> str:
    """Exercise 3.4: guests from the other scanner, by the numbers alone."""
    means = {}
    for k in (1, 4):
        result = answer(k)
        expect_written(result)
        expect(
            isinstance(result, tuple | list) and len(result) == 2,
            "return two arrays: accuracy in eval mode as trained, and with each "
            "scanner's own statistics",
        )
        scores = [np.asarray(values, dtype=float) for values in result]
        for values in scores:
            expect(
                values.ndim == 1 and len(values) >= 12,
                "each array holds one accuracy per seed, 12 or more, (seeds,); "
                f"got shape {values.shape}",
            )
            expect(np.isfinite(values).all(), "some accuracies are not finite")
        means[k] = [values.mean() for values in scores]
    (one, own_one), (four, own_four) = means.values()
    expect(max(one, own_one) > 1, f"{one:.2f}: give the accuracies in %")
    expect(
        one != four,
        "one guest and four give the same numbers: does k reach the order?",
    )
    expect(
        one > 70,
        f"{one:.0f} % with one guest is what no guest brings: does each batch hold "
        "images of both scanners?",
    )
    expect(
        own_one > 50 and own_four > 50,
        f"{own_one:.0f} and {own_four:.0f} % with each scanner's own statistics: "
        "are the batches mixed half and half, or the two scanners swapped?",
    )
    expect(
        not (four < own_four - 2 and AS_TRAINED[4][0] < own_four < AS_TRAINED[4][1]),
        "in this order: eval mode as trained first, then each scanner's own statistics",
    )
    for k, (as_trained, own) in means.items():
        for name, value, (low, high) in (
            ("in eval mode as trained", as_trained, AS_TRAINED[k]),
            ("with each scanner's own statistics", own, OWN[k]),
        ):
            expect(
                low < value < high,
                f"{value:.1f} % {name} with {k} of 32 as guests; we expect {low:.0f} "
                f"to {high:.0f} on the test images of both scanners, 400 updates "
                "at a rate of 0.3",
            )
    return (
        f"as trained {one:.1f} and {four:.1f} %, own {own_one:.1f} and {own_four:.1f}"
    )
