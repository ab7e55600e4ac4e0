"""Checks of chapter 11, the clinic: is the patient sound?"""

import copy
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from utils.checks.legacy import (
    check,
    expect,
    expect_written,
    mean_difference,
)
from utils.data import Split
from utils.training import batches

CHANNELS = 5


def _near(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-5) -> bool:
    """Equal but for rounding, also where a plain tensor stayed in float32."""
    same = a.shape == b.shape
    return same and torch.allclose(a.double(), b, rtol=tolerance, atol=tolerance)


def _make(answer: Callable, *arguments: object, **settings: object) -> nn.Module:
    try:
        layer = answer(*arguments, **settings)
    except TypeError as error:
        expect(False, f"it cannot be made with the patient's arguments: {error}")
    except KeyError as error:
        told = "already exists" in str(error)
        expect(
            not told,
            f"it cannot be made: {error}. The patient's __init__ has set it as a "
            "plain tensor: derive from nn.Module instead, or `del` it first",
        )
        raise
    expect_written(layer)
    expect(isinstance(layer, nn.Module), f"it should be an nn.Module, got {layer!r}")
    return layer


def _run(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    y = layer(x)
    expect_written(y)
    expect(
        isinstance(y, torch.Tensor) and y.shape == x.shape,
        f"for an input of shape {tuple(x.shape)} it should return that shape, "
        f"got {tuple(getattr(y, 'shape', ())) or type(y).__name__}",
    )
    return y


def _memory(layer: nn.Module) -> list[torch.Tensor]:
    names = "running_mean", "running_var"
    for name in names:
        expect(
            isinstance(getattr(layer, name, None), torch.Tensor),
            f"keep the name {name}: other code asks for it",
        )
    return [getattr(layer, name) for name in names]


def _pair(answer: Callable, **settings: float) -> tuple[nn.Module, nn.Module]:
    """The answer's layer and PyTorch's, in float64, with the same γ and β."""
    layer = _make(answer, CHANNELS, **settings).double()
    judge = nn.BatchNorm1d(CHANNELS, **settings).double()
    parameters = list(layer.parameters())
    expect(
        [p.shape for p in parameters] == [(CHANNELS,)] * 2,
        "it should have two parameters, γ and β, one number per channel each",
    )
    with torch.no_grad():
        for mine, its in zip(parameters, judge.parameters(), strict=True):
            its.copy_(0.5 + torch.rand(CHANNELS))
            mine.copy_(its)
    return layer, judge


def _train_batch(layer: nn.Module, judge: nn.Module, x: torch.Tensor) -> None:
    """Output and gradients in train mode."""
    mine, its = (x.clone().requires_grad_() for _ in range(2))
    y, right = _run(layer, mine), judge(its)
    expect(torch.equal(mine.detach(), x), "it changes its input in place")
    n, eps, beta = len(x), judge.eps, judge.bias.detach()
    var = x.var(0, correction=0)
    shrink = ((var + eps) / (var * n / (n - 1) + eps)).sqrt()
    expect(
        not _near(y, (beta + shrink * (right - beta)).detach()),
        f"in train mode, batch {n}, the outputs are too small by a factor of "
        f"{shrink[0]:.3f}: which variance is for normalising, which for storing?",
    )
    expect(
        _near(y, right.detach()),
        f"in train mode, batch {len(x)}, ε = {judge.eps:g}, the output differs from "
        f"nn.BatchNorm1d's by up to {(y - right).abs().max():.2g}",
    )
    dy = torch.randn_like(x)
    expect(y.requires_grad, "in train mode the output has no gradient")
    gradients = torch.autograd.grad(
        y, [mine, *layer.parameters()], dy.to(y.dtype), allow_unused=True
    )
    rights = torch.autograd.grad(right, [its, *judge.parameters()], dy)
    names = "the input", "γ", "β"
    for name, one, best in zip(names, gradients, rights, strict=True):
        expect(one is not None, f"no gradient reaches {name}")
        expect(
            _near(one, best),
            f"in train mode the output is right and the gradient of {name} is not"
            + (
                f": summed over the batch it gives {one.sum(0).abs().max():.2g}, where "
                "it should give 0. Of what in the forward pass does autograd not know?"
                if name == "the input" and one.sum(0).abs().max() > 1e-6
                else ""
            ),
        )


def _expect_memory(layer: nn.Module, judge: nn.Module, x: torch.Tensor) -> None:
    mean, var = _memory(layer)
    expect(
        not (mean.requires_grad or var.requires_grad),
        "after a batch in train mode the memory has requires_grad: it holds on to "
        "the batches that it has seen",
    )
    right_mean, right_var = judge.running_mean, judge.running_var
    expect(
        _near(mean, right_mean),
        f"with momentum {judge.momentum} and three batches the running mean should "
        f"be {right_mean[0]:.4f}, yours is {mean[0]:.4f}; the mean of the last batch "
        f"alone is {x.mean(0)[0]:.4f}",
    )
    expect(
        _near(var, right_var),
        f"the running mean is right and the running variance is not: it should be "
        f"{right_var[0]:.4f}, yours is {var[0]:.4f}. Which variance is stored?",
    )


def _expect_eval(layer: nn.Module, judge: nn.Module, x: torch.Tensor) -> None:
    """Eval mode: the same with gradients on and off, alone and in company."""
    layer.eval(), judge.eval()
    before = [t.clone() for t in _memory(layer)]
    right = judge(x).detach()
    for on in (True, False):
        with torch.set_grad_enabled(on):
            state = "on" if on else "off"
            together = _run(layer, x).detach()
            alone = torch.cat([_run(layer, row).detach() for row in x.split(1)])
        expect(
            _near(together, alone.double()),
            f"in eval mode with gradients {state}, the output for an example alone "
            "differs from the one among others",
        )
        expect(
            _near(together, right),
            f"in eval mode with gradients {state} the output differs from "
            "nn.BatchNorm1d's",
        )
        expect(
            all(map(torch.equal, before, _memory(layer))),
            f"in eval mode with gradients {state} the memory changes",
        )
    mine = x.clone().requires_grad_()
    for _ in range(2):  # the graph of training must not be part of it
        _run(layer, mine).sum().backward()
    expect(
        mine.grad is not None and mine.grad.any(),
        "in eval mode no gradient reaches the input",
    )


def _expect_without_gradients(answer: Callable, x: torch.Tensor) -> None:
    """Train mode under no_grad, as update_bn uses it."""
    layer, judge = _pair(answer)
    with torch.no_grad():
        y, right = _run(layer, x), judge(x)
    expect(
        _near(y, right),
        "in train mode under torch.no_grad() the output is not that of train mode: "
        "the mode decides, whether gradients are on or off",
    )
    expect(
        all(map(_near, _memory(layer), [judge.running_mean, judge.running_var])),
        "in train mode under torch.no_grad() the memory is not updated rightly: "
        "update_bn re-estimates it that way",
    )


def _expect_travels(answer: Callable, layer: nn.Module, x: torch.Tensor) -> None:
    """Through state_dict, a copy and a change of dtype."""
    fresh = _make(answer, CHANNELS).double().eval()
    state = copy.deepcopy(layer.state_dict())
    try:
        fresh.load_state_dict(state)
    except RuntimeError as error:
        expect(False, f"a fresh layer cannot load the state_dict of another: {error}")
    with torch.no_grad():
        expect(
            _near(_run(fresh, x), _run(layer, x).double()),
            "after state_dict and load_state_dict a fresh layer answers differently "
            f"in eval mode; what was saved: {', '.join(state)}",
        )
    expect(
        all(t.dtype == torch.float64 for t in _memory(layer)),
        "after layer.double() the memory is still in float32: it does not move with "
        "the layer, nor would it move to another device",
    )
    copy.deepcopy(layer)


def _expect_far_from_zero(answer: Callable) -> None:
    for mean in (43_200.0, 1_000.0):
        layer, judge = _make(answer, CHANNELS), nn.BatchNorm1d(CHANNELS).double()
        for _ in range(3):
            x = mean + torch.randn(256, CHANNELS)
            y, right = _run(layer, x), judge(x.double())
            expect(
                y.isfinite().all(),
                f"float32 inputs around {mean:g} with standard deviation 1 give NaN",
            )
            sd = y.detach().double().std(0)
            expect(
                _near(y.detach(), right, 0.05),
                f"float32 inputs around {mean:g} with standard deviation 1 give finite "
                f"outputs, with standard deviations of {sd.min():.2f} to "
                f"{sd.max():.2f} where they should be 1: digits that are lost in the "
                "variance cannot be put back afterwards",
            )
        expect(
            _near(layer.running_var, judge.running_var, 0.05),
            f"around {mean:g} the stored variance is off, in float32",
        )


@check
def sound_layer(answer: Callable) -> str:
    """Exercises 11.2, 11.3, 11.4, 11.6, 11.7: a full examination of a layer."""
    for momentum, eps in [(0.3, 1e-2), (0.1, 1e-5), (0.01, 1e-5), (0.9, 1e-5)]:
        layer, judge = _pair(answer, momentum=momentum, eps=eps)
        scales = torch.tensor([0.3, 1.0, 2.0])
        for n, scale in zip((32, 5, 2), scales):
            x = scale * (3 + 2 * torch.randn(n, CHANNELS)).double()
            _train_batch(layer, judge, x)
        _expect_memory(layer, judge, x)
        x = (3 + 2 * torch.randn(8, CHANNELS)).double()
        _expect_eval(layer, judge, x)
        layer.train(), judge.train()
        _train_batch(layer, judge, x)
    layer, judge = _pair(answer)  # the defaults
    for x in (3 + 2 * torch.randn(3, 16, CHANNELS)).double():
        _train_batch(layer, judge, x)
    _expect_memory(layer, judge, x)
    _expect_without_gradients(answer, x)
    _expect_travels(answer, layer.eval(), x)
    _expect_far_from_zero(answer)
    return "output, gradient, memory, modes and file are in order: it may go home"


class SoundReader(nn.Module):
    """What exercise 11.1 asks for, to measure the patient against."""

    def __init__(self, channels: int = 8):
        super().__init__()
        self.embed = nn.Linear(8, channels)
        self.norm = nn.BatchNorm1d(channels)
        self.head = nn.Linear(channels, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (N, rows * 8)
        z = torch.relu(self.norm(self.embed(x.reshape(-1, 8))))  # (N * rows, channels)
        return self.head(z.unflatten(0, (len(x), -1)).mean(1))


@check
def reads_rows(answer: Callable) -> str:
    """Exercise 11.1: channels normalised over all images and rows."""
    for channels, rows, n in [(8, 8, 16), (8, 6, 16), (5, 8, 7), (3, 3, 3), (8, 1, 4)]:
        reader = _make(answer, channels).double()
        where = f"with {rows} rows and {channels} channels "
        state = reader.state_dict()
        names = ["embed.weight", "embed.bias", "norm.weight", "norm.bias"]
        names += ["norm.running_mean", "head.weight", "head.bias"]
        missing = [name for name in names if name not in state]
        expect(not missing, f"keep the layers embed, norm and head; missing: {missing}")
        nn.init.normal_(reader.norm.weight), nn.init.normal_(reader.norm.bias)
        w, b, gamma, beta, _, head_w, head_b = (reader.state_dict()[k] for k in names)
        expect(
            gamma.shape == (channels,),
            f"{where}the norm has {len(gamma)} channels: it is not to depend on the "
            "number of rows",
        )
        x = torch.randn(n, rows * 8).double() * 2 + 1
        x += 0.3 * torch.arange(rows).repeat_interleave(8)
        z = F.linear(x.view(n, rows, 8), w, b).flatten(0, 1)  # (N * rows, channels)
        mean, var = z.mean(0).detach(), z.var(0).detach()
        for mode in ("train", "eval"):
            reader.train(mode == "train")
            try:
                y = reader(x)
            except (RuntimeError, ValueError) as error:
                expect(False, f"{where}it raises: {str(error).splitlines()[0]}")
            expect_written(y)
            expect(
                getattr(y, "shape", None) == (n, 10),
                f"{where}it should return logits of shape {(n, 10)}",
            )
            stored = (None, None) if mode == "train" else (0.1 * mean, 0.9 + 0.1 * var)
            u = F.batch_norm(z, *stored, gamma, beta, training=mode == "train")
            hidden = F.relu(u).unflatten(0, (n, rows)).mean(1)
            expect(
                _near(y, F.linear(hidden, head_w, head_b).detach()),
                f"{where}it runs in {mode} mode, and the output is not that of a net "
                "whose channels are normalised over all images and rows, then ReLU, "
                "then the mean over the rows. Does each number stay with its channel?",
            )
    return "any number of rows, each channel normalised over images and rows"


def _body(old_rate: float = 0.3) -> nn.Module:
    layers = [nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(old_rate)]
    body = nn.Sequential(*layers, nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)))
    for _ in range(20):  # a memory of its own
        body(1 + torch.randn(32, 6))
    return body


def _note(seen: list, modes: list, head: nn.Module, inputs: tuple) -> None:
    """What the head is given, and its mode, while it learns."""
    if torch.is_grad_enabled():
        seen.append(inputs[0].detach().clone())
        modes.append(head[0].training)


def sound_head(
    body: nn.Module, head: nn.Module, split: Split, seed: int, epochs: int = 2
) -> nn.Module:
    """The head, trained as exercise 11.5 asks; returned with its body.

    On the body's outputs in eval mode, computed once; as a plain model.
    """
    with torch.no_grad():
        features = copy.deepcopy(body).eval()(split.x)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    order = batches(len(split.y), batch_size=32, seed=seed)
    for _ in range(epochs * (len(split.y) // 32)):
        i = next(order)
        optimizer.zero_grad()
        F.cross_entropy(head(features[i]), split.y[i]).backward()
        optimizer.step()
    return nn.Sequential(copy.deepcopy(body), head).eval()


@check
def frozen_body(answer: Callable) -> str:
    """Exercise 11.5: train the head, and leave the body as it is."""
    for epochs in (1, 3):
        body = _body()
        head = nn.Sequential(nn.Dropout(0.2), nn.Linear(8, 3))
        x, order = 4 + 3 * torch.randn(96, 6), next(batches(96, 96, 0))
        split = Split(x[order], (x[order, 0] > 4).long() + (x[order, 1] > 4).long())
        before = copy.deepcopy(body.state_dict())
        features = copy.deepcopy(body).eval()(split.x).detach()
        first = copy.deepcopy(head)
        seen, modes = [], []
        hook = head.register_forward_pre_hook(partial(_note, seen, modes))
        body.train(), head.train()
        model = answer(body, head, split, 0, epochs=epochs, lr=0.1)
        hook.remove()
        expect_written(model)
        expect(callable(model), f"it should return a model, got {type(model).__name__}")
        for name, value in body.state_dict().items():
            expect(
                "num_batches" in name or torch.equal(value, before[name]),
                f"the body's {name} changed",
            )
        expect(seen, "the head was never run with gradients: it has not been trained")
        expect(
            not all(map(torch.equal, first.parameters(), head.parameters())),
            "the head that was given has not changed: train it, not a copy",
        )
        distance = torch.cat(seen)[:, None] - features
        distance = distance.abs().amax(dim=2).amin(dim=1)  # to the nearest image
        expect(
            distance.max() < 1e-3,
            "the body's state is as it was, and yet, during training, the head is "
            "given other features than the body computes in eval mode. In which mode "
            "is each layer of the body while the head learns?",
        )
        expect(
            all(modes),
            "the head was trained in eval mode: its dropout was not active",
        )
        images = sum(map(len, seen))
        expect(
            images == epochs * 96,
            f"{epochs} epochs of 96 images: the head should see {epochs * 96} images "
            f"in training, it saw {images}",
        )
        head.eval(), body.eval()
        if isinstance(model, nn.Module):
            model.eval()
        expect(
            torch.allclose(model(split.x), head(features), rtol=1e-4, atol=1e-5),
            "the model that it returns, in eval mode, is not the head on the body",
        )
        losses = [F.cross_entropy(h.eval()(features), split.y) for h in (first, head)]
        expect(losses[1] < losses[0], "the head has learned nothing")
    return "the body is as it was, and the head learned from what it will see"


def _net() -> nn.Module:
    body = [nn.Conv1d(1, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*body, nn.Linear(16, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))


def _statistics(model: nn.Module) -> dict[str, torch.Tensor]:
    named = model.named_buffers()
    return {k: b.detach().clone() for k, b in named if b.is_floating_point()}


@check
def averages_all(answer: Callable) -> str:
    """Exercise 11.9: weights averaged, statistics averaged or taken over."""
    for decay in (0.5, 0.9):
        model = _net().train()
        expect_written(ema := answer(model, decay))
        inner = getattr(ema, "model", None)
        expect(isinstance(inner, nn.Module), "keep the averaged model in `.model`")
        weights = [p.detach().clone() for p in model.parameters()]
        averages = _statistics(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
        for _ in range(6):
            x = 5 + 3 * torch.randn(16, 1, 6)
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
            before = copy.deepcopy(model.state_dict())
            ema.update(model)
            expect(ema.model is not model, "the average is the model itself")
            expect(
                all(map(torch.equal, before.values(), model.state_dict().values())),
                "update changes the model that is averaged",
            )
            expect(model.training, "update leaves the model in eval mode")
            new = _statistics(model)
            averages = {
                k: decay * a + (1 - decay) * new[k] for k, a in averages.items()
            }
            weights = [
                decay * w + (1 - decay) * p.detach()
                for w, p in zip(weights, model.parameters(), strict=True)
            ]
        mine = list(ema.model.parameters())
        expect(
            len(mine) == len(weights)
            and all(
                torch.allclose(a, b, atol=1e-5)
                for a, b in zip(mine, weights, strict=True)
            ),
            f"after six updates with decay {decay} the parameters are not the moving "
            "average of the model's: let EMA.update do that part",
        )
        kept = _statistics(ema.model)
        expect(kept.keys() == new.keys(), "the average's buffers have other names")
        for name, value in kept.items():
            expect(
                any(
                    torch.allclose(value, good[name], atol=1e-4)
                    for good in (new, averages)
                ),
                f"after six updates the average's {name} is {value[0]:.3f}, the "
                f"model's is {new[name][0]:.3f}, the average of the model's "
                f"{averages[name][0]:.3f}",
            )
        model(x + 100)  # the model goes on
        expect(
            all(torch.equal(kept[k], b) for k, b in _statistics(ema.model).items()),
            "the average shares its buffers with the model: they move with the next "
            "batch, without an update; copy the numbers",
        )
        try:
            y = ema.model.eval()(x)
            fresh = _net()
            fresh.load_state_dict(ema.model.state_dict())
        except RuntimeError as error:
            expect(False, f"the average cannot be used: {error}")
        expect(y.isfinite().all(), "in eval mode the average's outputs are not finite")
    return "weights and statistics: the average is fit for use in eval mode"


@check
def synchronised_layer(answer: Callable) -> str:
    """Exercise 11.10: BN over all processes, with one memory for all of them."""
    cases = [(4, 4), 8 * (1,), (7, 1), (1, 3, 5), (6,)]
    for sizes in cases:
        for rank in {0, len(sizes) - 1}:
            settings = {"eps": 1e-3, "momentum": 0.3}
            layer = _make(answer, CHANNELS, sizes=sizes, rank=rank, **settings)
            layer = layer.double()
            judge = nn.BatchNorm1d(CHANNELS, **settings).double()
            where = f"shares of {sizes}, process {rank}: "
            for _ in range(3):
                x = (3 + 2 * torch.randn(sum(sizes), CHANNELS)).double()
                _train_batch(layer, judge, x)
            mean, var = _memory(layer)
            right_mean, right = judge.running_mean, judge.running_var
            expect(_near(mean, right_mean), f"{where}the running mean is wrong")
            expect(
                _near(var, right),
                f"{where}the running variance is {var[0]:.4f}, in one process it is "
                f"{right[0]:.4f}: of how many examples is it the variance?",
            )
            _expect_memory(layer, judge, x)
            _expect_eval(layer, judge, x)
    return "one memory, whatever the share of a process"


@check
def longer_memory(answer: Callable) -> str:
    """Exercise 11.11: copied minus new statistics, at a rate of 2."""
    not_finite = "a rate of 2 does not diverge here: which model is scored?"
    short, long = (mean_difference(answer(d), not_finite) for d in (0.95, 0.99))
    expect(
        np.abs([short, long]).max() < 15,
        f"{short:.1f} and {long:.1f} points: that is what statistics cost that were "
        "not set at all. Copy, score, measure anew, score",
    )
    expect(
        long < 0.5,
        f"with decay 0.99 the difference is {long:.1f} points: is it copied minus new?",
    )
    expect(
        abs(short) < 1 and long < -1,
        f"with decay 0.95 it comes to {short:.2f} points, with 0.99 to {long:.2f}; one "
        "of them should be small and the other not. Is the rate 2, and are the "
        "statistics measured after the weights have been averaged?",
    )
    return f"{short:.1f} points with the short memory, {long:.1f} with the long one"
