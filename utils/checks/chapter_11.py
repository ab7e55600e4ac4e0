"""Checks of chapter 11, the clinic: is the patient sound?"""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from utils.checks.framework import (
    Guarded,
    Measured,
    Raised,
    as_said,
    check,
    expect,
    named,
    same,
    with_edit,
)
from utils.checks.modules import fill, hooks, settings_of
from utils.data import Split
from utils.training import batches


def _make(answer: Callable, *arguments: object, **settings: object) -> nn.Module:
    try:
        layer = answer(*arguments, **settings)
    except Raised as error:
        said = error.__cause__
        expect(
            not isinstance(said, TypeError),
            f"it cannot be made with the patient's arguments: {said}",
        )
        expect(
            "already exists" not in str(said),
            f"it cannot be made: {said}. The patient's __init__ has set it as a "
            "plain tensor: put register_buffer in that line's place, or `del` it first",
        )
        raise
    expect(isinstance(layer, nn.Module), f"it should be an nn.Module, got {layer!r}")
    return layer


def _run(layer: nn.Module, x: Tensor) -> Tensor:
    y = Guarded(layer, returns=True)(x)
    expect(
        isinstance(y, Tensor) and y.shape == x.shape,
        f"for an input of shape {tuple(x.shape)} it should return that shape, "
        f"got {tuple(getattr(y, 'shape', ())) or type(y).__name__}",
    )
    return y


def _memory(layer: nn.Module) -> list[Tensor]:
    names = "running_mean", "running_var"
    for name in names:
        expect(
            isinstance(getattr(layer, name, None), Tensor),
            f"keep the name {name}: other code asks for it",
        )
    return [getattr(layer, name) for name in names]


class _Norm(nn.Module):
    def __init__(self, channels, eps=1e-5, momentum=0.1, sizes=(), rank=0):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels))
        self.beta = nn.Parameter(torch.zeros(channels))
        for name in ("running_mean", "running_var"):
            start = torch.full((channels,), float(name == "running_var"))
            self.register_buffer(name, start)
        self.eps, self.momentum = eps, momentum
        self.sizes, self.rank = sizes, rank

    def forward(self, x):
        mean, var = self.running_mean, self.running_var
        if self.training:
            mean, var = _two_passes(x)
            n, m = len(x), self.momentum
            self.running_mean.lerp_(mean.detach(), m)
            self.running_var.lerp_(var.detach() * n / (n - 1), m)
        return self.gamma * ((x - mean) / (var + self.eps).sqrt()) + self.beta


def _two_passes(x: Tensor) -> tuple[Tensor, Tensor]:
    mean = x.mean(0)
    return mean, ((x - mean) ** 2).mean(0)


def _one_pass(x: Tensor, repair: Callable = lambda var: var) -> tuple[Tensor, Tensor]:
    return x.mean(0), repair((x * x).mean(0) - x.mean(0) ** 2)


def _parts(x: Tensor) -> tuple[Tensor, Tensor]:
    """Each example's own mean and variance, averaged: of halves."""
    halves = x.chunk(2)
    return tuple(sum(t) / len(halves) for t in zip(*map(_two_passes, halves)))


TOO_SMALL = (
    "in train mode the outputs are too small, and more so in a small batch: which "
    "variance is for normalising, which for storing?"
)
UNKNOWN = (
    "in train mode the output is right and the gradient of the input is not: summed "
    "over the batch it should give 0. Of what in the forward pass does autograd not "
    "know?"
)
STORED = (
    "the running mean is right and the running variance is not. Which variance is "
    "stored, and of how many examples?"
)
LAST = (
    "the memory is nearly the mean of the last batch alone, the more so the smaller "
    "momentum is: which of its weights belongs to the new batch?"
)
GRAPH = (
    "after a batch in train mode the memory has requires_grad: it holds on to the "
    "batches that it has seen"
)
NOT_SAVED = (
    "after state_dict and load_state_dict a fresh layer answers differently in eval "
    "mode: what was saved, and what moves with .double()?"
)
MODE = (
    "in train mode under torch.no_grad() the output is not that of train mode: the "
    "mode decides, whether gradients are on or off"
)
ALONE = (
    "in eval mode with gradients on, the output for an example alone differs from "
    "the one among others"
)
FIXED_EPS = "ε is fixed: use the one that was given"
MOMENTUM = "the memory does not mind momentum: use the one that was given"
OUTSIDE = "ε is added to the variance, under the root, not to its root"
ONE_PASS = (
    "far from zero float32 inputs with standard deviation 1 give outputs with other "
    "ones, or NaN: digits that are lost in the variance cannot be put back afterwards"
)
IN_EVAL = "in eval mode the memory changes"
CUT_IN_EVAL = "in eval mode no gradient reaches the input"
TRAINS = "in train mode it uses the memory and not the batch"
LAYER_HINTS = {
    "the memory has requires_grad": GRAPH,
    "eval mode, alone": ALONE,
    "the memory in eval mode": IN_EVAL,
    "the gradient in eval mode": CUT_IN_EVAL,
    "under torch.no_grad(), the output": MODE,
    "the loaded layer's output": NOT_SAVED,
    "the memory's type": NOT_SAVED,
    "finite": ONE_PASS,
    "right to a few percent": ONE_PASS,
    "train mode, batch*": "the output or the gradient in train mode differs from "
    "nn.BatchNorm1d's",
    "the running mean": "the running mean is not nn.BatchNorm1d's: with momentum m it "
    "is (1 - m) times the old one plus m times the batch's",
    "the running variance": STORED,
}


def _trained(
    answer: Callable, channels: int, settings: dict, sizes: tuple, how: str = ""
) -> dict:
    """A layer that sees batches of these sizes, then eval mode, then one more."""
    dtype = torch.float32 if how == "float32" else torch.float64
    layer = _make(answer, channels, **settings).to(dtype)
    parameters = list(layer.parameters())
    expect(
        [p.shape for p in parameters] == [(channels,)] * 2,
        "it should have two parameters, γ and β, one number per channel each",
    )
    with torch.no_grad():
        for p in parameters:
            p.copy_(0.5 + torch.rand(channels))
    seen: dict[str, object] = {}

    def learn(n: int, scale: float, more: str = "") -> None:
        x = as_said(scale * (3 + 2 * torch.randn(n, channels, dtype=dtype)), how)
        given, dy = x.clone(), torch.randn(n, channels, dtype=dtype)
        x.requires_grad_()
        with torch.set_grad_enabled(how != "under torch.no_grad()"):
            try:
                y = _run(layer, x)
            except Raised:  # a memory that .to() left behind: its error says not why
                expect({t.dtype for t in _memory(layer)} == {dtype}, NOT_SAVED)
                raise
        expect(bool((x == given).all()), "it changes its input in place")
        if how == "under torch.no_grad()":
            seen["under torch.no_grad(), the output"] = y
            return
        name = f"train mode, batch {n}{more}"
        seen[name] = y.detach()
        expect(y.requires_grad, "in train mode the output has no gradient")
        found = torch.autograd.grad(y, [x, *parameters], dy, allow_unused=True)
        for part, one in zip(("the input", "γ", "β"), found):
            seen[f"{name}: the gradient of {part}"] = one

    for n, scale in zip(sizes, (0.3, 1.0, 2.0)):
        learn(n, scale)
    mean, var = _memory(layer)
    seen["the memory has requires_grad"] = mean.requires_grad or var.requires_grad
    for name, t in (("mean", mean), ("variance", var)):
        seen[f"the running {name}"] = t.detach().clone().double()
    if how == "under torch.no_grad()" or seen["the memory has requires_grad"]:
        return seen
    layer.eval()
    before = [t.clone() for t in _memory(layer)]
    x = 3 + 2 * torch.randn(8, channels, dtype=dtype)
    for on in (False, True):
        with torch.set_grad_enabled(on):
            together = _run(layer, x).detach()
            alone = torch.cat([_run(layer, row).detach() for row in x.split(1)])
        if not on:
            seen["the memory in eval mode"] = same(before, _memory(layer))
        seen["eval mode, alone"] = same(alone, together, 1e-5, 1e-6)
        seen[f"eval mode, gradients {'on' if on else 'off'}"] = together
    seen["the memory in eval mode, gradients on"] = same(before, _memory(layer))
    x.requires_grad_()
    for _ in range(2):  # the graph of training must not be part of it
        y = _run(layer, x).square().sum()
        if y.requires_grad:
            y.backward()
    seen["the gradient in eval mode"] = x.grad
    layer.train()
    learn(sizes[-1], 1.0, " again")
    return seen


def _travels(answer: Callable, channels: int) -> dict:
    """Through state_dict, a copy and a change of dtype."""
    layer, fresh = (_make(answer, channels).double() for _ in range(2))
    for _ in range(3):
        _run(layer, 3 + 2 * torch.randn(16, channels, dtype=torch.float64))
    try:
        fresh.load_state_dict(copy.deepcopy(layer.state_dict()))
    except RuntimeError as error:
        expect(False, f"a fresh layer cannot load the state_dict of another: {error}")
    kinds = {str(t.dtype) for t in _memory(layer)}
    x = torch.randn(4, channels, dtype=torch.float64)
    layer = Guarded(copy.deepcopy)(layer)
    with torch.no_grad():
        y, right = _run(fresh.eval(), x), _run(layer.eval(), x)
    return {"the loaded layer's output": same(y, right), "the memory's type": kinds}


def _far_from_zero(answer: Callable, channels: int, mean: float) -> dict:
    layer, judge = _make(answer, channels), nn.BatchNorm1d(channels).double()
    for _ in range(3):
        x = mean + torch.randn(256, channels)
        y, right = _run(layer, x).detach().double(), judge(x.double()).detach()
    stored = same(_memory(layer)[1].detach().double(), judge.running_var, 0.05, 0.05)
    near = same(y, right, 0.05, 0.05)
    return {
        "finite": bool(y.isfinite().all()),
        "right to a few percent": near and stored,
    }


SIZES = (32, 5, 2)
_KEEP = (
    "self.running_mean.lerp_(mean.detach() -> self.running_mean = "
    "self.running_mean.lerp(mean",
    "self.running_var.lerp_(var.detach() -> self.running_var = "
    "self.running_var.lerp(var",
)
_IF = "if self.training: -> if"
PARTS = {
    "a layer that trains": _trained,
    "state_dict and .double()": _travels,
    "far from zero": _far_from_zero,
}


@check(
    praise="output, gradient, memory, modes and file are in order: it may go home",
    cases=named(
        "{}, {} channels, {}, batches of {}, {}",
        *[
            ("a layer that trains", 5, dict(momentum=m, eps=eps), SIZES)
            for m, eps in [(0.3, 1e-2), (0.1, 1e-5), (0.01, 1e-5), (0.9, 0.3)]
        ],
        ("a layer that trains", 3, {}, (16, 16, 16)),
        ("a layer that trains", 5, {}, SIZES, "under torch.no_grad()"),
        ("a layer that trains", 5, dict(eps=1e-2), (32, 16, 8), "float32"),
        ("a layer that trains", 4, dict(momentum=0.5), SIZES, "not contiguous"),
        ("state_dict and .double()", 5),
        ("far from zero", 5, 43_200.0),
        ("far from zero", 5, 1_000.0),
    ),
    tolerance=(1e-5, 1e-5),
    hints=LAYER_HINTS,
    right={"by the definition": _Norm, "PyTorch's own": nn.BatchNorm1d},
    edits={
        "return self -> var = var * n / (n - 1) if self.training else var\n        "
        "return self": TOO_SMALL,
        "(var + self.eps).sqrt() -> (var.sqrt() + self.eps)": OUTSIDE,
        "+ self.eps -> + 1e-5": FIXED_EPS,
        "x - mean) / (var -> x - mean.detach()) / (var.detach()": UNKNOWN,
        "x - mean) -> x - mean.detach())": UNKNOWN,
        "/ (var + -> / (var.detach() +": UNKNOWN,
        "; ".join(_KEEP): GRAPH,
        _KEEP[0]: GRAPH,
        _KEEP[1]: GRAPH,
        "len(x), self.momentum -> len(x), 1 - self.momentum": LAST,
        "len(x), self.momentum -> len(x), 0.1": MOMENTUM,
        " * n / (n - 1) -> ": STORED,
        f"{_IF} False:": TRAINS,
        f"{_IF} torch.is_grad_enabled():": ALONE,
        f"{_IF} self.training or torch.is_grad_enabled():": ALONE,
        f"{_IF} self.training and torch.is_grad_enabled():": MODE,
        "return self -> if not self.training: mean.lerp_(x.detach().mean(0), 0.1)"
        "\n        return self": IN_EVAL,
        f"{_IF} len(x) > 1 or self.training:": IN_EVAL,
        "return self -> y = self; + self.beta -> + self.beta\n        return y if "
        "self.training else y.detach()": CUT_IN_EVAL,
        "self.register_buffer(name, start) -> setattr(self, name, start)": NOT_SAVED,
        "name, start) -> name, start, persistent=False)": NOT_SAVED,
        "_two_passes(x) -> _one_pass(x)": ONE_PASS,
        "_two_passes(x) -> _one_pass(x, abs)": ONE_PASS,
        "_two_passes(x) -> _one_pass(x, torch.relu)": ONE_PASS,
        "return self -> x = x.data.mul_(2) / 2\n        return self": "it changes its "
        "input in place",
    },
)
def sound_layer(answer: Callable, part: str, *case: object) -> dict:
    """Exercises 11.2, 11.3, 11.4, 11.6, 11.7: a full examination of a layer."""
    return PARTS[part](answer, *case)


class _InOneProcess(nn.BatchNorm1d):
    def __init__(self, channels, sizes=(), rank=0, **settings):
        super().__init__(channels, **settings)


_COUNT = "n, m = len(x), -> n, m = max(2, {}),".format


@check(
    praise="one memory, whatever the share of a process",
    cases=named(
        "{} channels, {}, batches of {}",
        *[
            (5, dict(eps=eps, momentum=m, sizes=sizes, rank=rank), 3 * (sum(sizes),))
            for sizes, eps, m in [
                ((4, 4), 1e-3, 0.3),
                (8 * (1,), 1e-5, 0.1),
                ((7, 1), 1e-2, 0.5),
                ((1, 3, 5), 1e-3, 0.9),
                ((6,), 0.3, 0.01),
            ]
            for rank in sorted({0, len(sizes) - 1})
        ],
    ),
    tolerance=(1e-5, 1e-5),
    hints=LAYER_HINTS,
    right={"by the definition": _Norm, "in one process": _InOneProcess},
    edits={
        " * n / (n - 1) -> ": STORED,
        _COUNT("self.sizes[self.rank]"): STORED,
        _COUNT("*self.sizes"): STORED,
        _COUNT("len(self.sizes)"): STORED,
        "_two_passes -> _parts": "the mean and the variance of parts, averaged, are "
        "not those of all examples: the parts' means differ, too",
    },
)
def synchronised_layer(answer: Callable, *case: object) -> dict:
    """Exercise 11.10: BN over all processes, with one memory for all of them."""
    return _trained(answer, *case)


class SoundReader(nn.Module):
    """What exercise 11.1 asks for, to measure the patient against."""

    def __init__(self, channels: int = 8):
        super().__init__()
        self.embed = nn.Linear(8, channels)
        self.norm = nn.BatchNorm1d(channels)
        self.head = nn.Linear(channels, 10)

    def forward(self, x: Tensor) -> Tensor:  # (N, rows * 8)
        z = self.embed(x.unflatten(1, (-1, 8)))  # (N, rows, channels)
        z = self.norm(z.flatten(0, 1)).view_as(z)
        return self.head(torch.relu(z).mean(1))


def _with_batch(norm: nn.Module, z: Tensor) -> Tensor:
    memory = norm.running_mean, norm.running_var
    return F.batch_norm(z, *memory, norm.weight, norm.bias, True)


_NORMALISE = "self.norm(z.flatten(0, 1)).view_as(z) -> "
CHANNEL = (
    "it runs, and the output is not that of a net whose channels are normalised over "
    "all images and rows. Does each number stay with its channel?"
)


@check(
    praise="any number of rows, each channel normalised over images and rows",
    cases=named(
        "{} channels, {} rows, {} images, {}",
        *[(8, 8, 16), (8, 6, 16), (5, 8, 7), (3, 3, 3), (8, 1, 4)],
        *[(4, 12, 5, "float32"), (6, 5, 4, "not contiguous")],
    ),
    tolerance=(1e-5, 1e-6),
    hints={"the output in train mode": CHANNEL},
    right={
        "the measure of the chapter": SoundReader,
        "transposed": with_edit(
            SoundReader, f"{_NORMALISE}self.norm(z.transpose(1, 2)).transpose(1, 2)"
        ),
    },
    edits={
        "torch.relu(z) -> z": "the ReLU is missing: first the norm, then ReLU, then "
        "the mean",
        f"{_NORMALISE}z": "no norm is applied",
        f"{_NORMALISE}F.layer_norm(z, z.shape[-1:])": "that is a layer norm: it "
        "normalises the channels of one row",
        f"{_NORMALISE}torch.stack([self.norm(row) for row in z.unbind(1)], 1)": (
            "each row is normalised on its own: a channel's mean and variance are "
            "taken over images and rows"
        ),
        "self.norm(z -> _with_batch(self.norm, z": "in eval mode it normalises with "
        "the batch: let self.norm do it",
        f"{_NORMALISE}self.norm(z.reshape(len(z), z.shape[2], -1)).reshape(z.shape)"
        "": CHANNEL,
        "nn.BatchNorm1d(channels) -> nn.BatchNorm1d(8)": "it is not to depend on the "
        "number of channels: the norm has 8",
    },
)
def reads_rows(
    answer: Callable, channels: int, rows: int, n: int, how: str = ""
) -> dict:
    """Exercise 11.1: channels normalised over all images and rows."""
    reader = _make(answer, channels).to(
        torch.float32 if how == "float32" else torch.double
    )
    state = reader.state_dict()
    names = ["embed.weight", "embed.bias", "norm.weight", "norm.bias"]
    names += ["norm.running_mean", "norm.running_var", "head.weight", "head.bias"]
    missing = [name for name in names if name not in state]
    expect(not missing, f"keep the layers embed, norm and head; missing: {missing}")
    size = len(state["norm.weight"])
    expect(
        size == channels,
        f"it is not to depend on the number of channels: the norm has {size}",
    )
    for name in names:
        if "running" not in name:
            torch.nn.init.normal_(reader.get_parameter(name))
    x = torch.randn(n, rows * 8, dtype=torch.float64) * 2 + 1
    x = as_said(x + 0.3 * torch.arange(rows).repeat_interleave(8), how)
    seen = {}
    for mode in ("train", "eval"):
        reader.train(mode == "train")
        y = Guarded(reader, returns=True)(x)
        expect(
            getattr(y, "shape", None) == (n, 10),
            f"it should return logits of shape {(n, 10)}",
        )
        seen[f"the output in {mode} mode"] = y.detach()
    for name in ("running_mean", "running_var"):
        seen[f"the norm's {name}"] = getattr(reader.norm, name).flatten()
    return seen


def _body(rate: float = 0.3) -> nn.Module:
    layers = [nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(rate)]
    body = nn.Sequential(*layers, nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)))
    for _ in range(20):  # a memory of its own
        body(1 + torch.randn(32, 6))
    return body


def sound_head(
    body: nn.Module, head: nn.Module, split: Split, seed: int, epochs: int = 2
) -> nn.Module:
    """The head, trained as exercise 11.5 asks; returned with its body.

    On the body's outputs in eval mode, computed once; as a plain model.
    """
    with torch.no_grad():
        features = copy.deepcopy(body).eval()(split.x)
    _tune(nn.Identity(), head, Split(features, split.y), seed, epochs)
    return nn.Sequential(copy.deepcopy(body), head).eval()


def _tune(
    body: nn.Module, head: nn.Module, split: Split, seed: int, epochs=2, lr=0.1
) -> nn.Module:
    body.requires_grad_(False)
    optimizer = torch.optim.SGD(head.parameters(), lr=lr)
    order = batches(len(split.y), batch_size=32, seed=seed)
    for _ in range(epochs):
        body.eval(), head.train()
        for _ in range(len(split.y) // 32):
            i = next(order)
            loss = F.cross_entropy(head(body(split.x[i])), split.y[i])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return nn.Sequential(body, head).eval()


def _norms_in_eval(body: nn.Module) -> None:
    body.train()
    for layer in body.modules():
        if isinstance(layer, nn.BatchNorm1d):
            layer.eval()


FROZEN_HINTS = {
    "features": "the body's state is as it was, and yet, during training, the head is "
    "given other features than the body computes in eval mode. In which mode is each "
    "layer of the body while the head learns?",
    "modes": "the head was trained in eval mode: its dropout was not active",
    "the head changed": "the head that was given has not changed: train it, not a copy",
    "images": "the head should see each image once an epoch, for as many epochs as "
    "are asked for",
    "model": "the model that it returns, in eval mode, is not the head on the body",
    "learned": "the head has learned nothing",
    "lr": "with a learning rate of 1e-7 the head changes as much as with a large one: "
    "use lr as it is given",
    "seed": "the order of the images does not depend on seed: give it to `batches`",
    "again": "twice the same seed gives two orders of the images",
    "settings": "it leaves a layer with other settings than before",
    "hooks": "it leaves hooks on the layers: remove them",
    "the body: running*": "the body's running_mean changed, or its running_var",
    "the body: *": "a weight of the body changed",
}


@check(
    praise="the body is as it was, and the head learned from what it will see",
    cases=named("{} epochs, lr = {}, seed {}", (1, 0.1, 0), (3, 0.1, 1), (2, 0.03, 5)),
    hints=FROZEN_HINTS,
    right={
        "the head in train mode": _tune,
        "handed over whole": with_edit(
            _tune,
            "SGD(head.parameters() -> SGD([p for p in [*body.parameters(), "
            "*head.parameters()] if p.requires_grad]",
        ),
        "a function": with_edit(
            _tune, "nn.Sequential(body, head).eval() -> lambda x: head(body(x))"
        ),
    },
    edits={
        "body.eval() -> body.train()": FROZEN_HINTS["the body: running*"],
        "body.eval() -> body.train(); return -> body.eval()\n    return": (
            FROZEN_HINTS["the body: running*"]
        ),
        "grad_(False) -> grad_(True); SGD(head -> SGD(nn.Sequential(body, head)": (
            FROZEN_HINTS["the body: *"]
        ),
        "body.eval() -> _norms_in_eval(body)": FROZEN_HINTS["features"],
        "body.requires_grad_(False) -> state = copy.deepcopy(body.state_dict()); "
        "body.eval() -> body.train(); return -> body.load_state_dict(state)\n    "
        "return": FROZEN_HINTS["features"],
        "head.train() -> head.eval()": FROZEN_HINTS["modes"],
        "range(epochs) -> range(4)": FROZEN_HINTS["images"],
        "optimizer.step() -> pass": FROZEN_HINTS["the head changed"],
        "body.requires_grad_(False) -> head = copy.deepcopy(head)": (
            FROZEN_HINTS["the head changed"]
        ),
        "lr=lr -> lr=0.1": FROZEN_HINTS["lr"],
        "seed=seed -> seed=0": FROZEN_HINTS["seed"],
        "nn.Sequential(body, head).eval() -> lambda x: -head(body(x))": (
            FROZEN_HINTS["model"]
        ),
        "return -> head[0].p = 0.0\n    return": FROZEN_HINTS["settings"],
    },
)
def frozen_body(answer: Callable, epochs: int, lr: float, seed: int) -> dict:
    """Exercise 11.5: train the head, and leave the body as it is."""
    body = _body()
    head = nn.Sequential(nn.Dropout(0.2), nn.Linear(8, 3))
    x, order = 4 + 3 * torch.randn(96, 6), next(batches(96, 96, 0))
    split = Split(x[order], (x[order, 0] > 4).long() + (x[order, 1] > 4).long())
    features = copy.deepcopy(body).eval()(split.x).detach()
    before, first = copy.deepcopy(body.state_dict()), copy.deepcopy(head)
    settings = settings_of(body) | settings_of(head)

    def run(body: nn.Module, head: nn.Module, seed: int, lr: float) -> tuple:
        """What the head is given when it learns: rows, mode; and the model."""
        given: list[tuple[Tensor, bool]] = []

        def note(head: nn.Module, inputs: tuple, output: Tensor) -> None:
            rows, mode = inputs[0].detach().clone(), head[0].training
            if output.requires_grad:  # counts once it is learned from
                output.register_hook(lambda _: given.append((rows, mode)))

        hook = head.register_forward_hook(note)
        body.train(), head.train()
        model = answer(body, head, split, seed, epochs=epochs, lr=lr)
        hook.remove()
        expect(callable(model), f"it should return a model, got {type(model).__name__}")
        return given, model

    twins = [(copy.deepcopy(body), copy.deepcopy(head)) for _ in range(3)]
    given, model = run(body, head, seed, lr)
    expect(given, FROZEN_HINTS["the head changed"])
    seen = {
        f"the body: {name.rpartition('.')[2]} of {name}": same(v, before[name])
        for name, v in sorted(
            body.state_dict().items(), key=lambda item: "running" not in item[0]
        )
        if "num_batches" not in name
    }
    rows = torch.cat([rows for rows, _ in given])
    gap = (rows[:, None] - features).abs().amax(dim=2).amin(dim=1)
    seen["features"] = bool(gap.max() < 1e-3)
    seen["modes"] = all(mode for _, mode in given)
    now, start = ([p.detach().clone() for p in h.parameters()] for h in (head, first))
    seen["the head changed"] = not same(now, start)
    seen["images"] = len(rows)
    seen["settings"] = settings == settings_of(body) | settings_of(head)
    seen["hooks"] = hooks(body) + hooks(head)
    head.eval(), body.eval()
    if isinstance(model, nn.Module):
        model.eval()
    seen["model"] = same(model(split.x), head(features), 1e-4, 1e-5)
    losses = [F.cross_entropy(h.eval()(features), split.y) for h in (first, head)]
    seen["learned"] = bool(losses[1] < losses[0])
    slow = twins[0][1]
    run(*twins[0], seed, 1e-7)
    moved = [p.detach() for p in slow.parameters()]
    seen["lr"] = same(moved, start, 1e-3, 1e-4)
    (other, _), (again, _) = run(*twins[1], seed + 7, lr), run(*twins[2], seed, lr)
    seen["seed"] = not same([r for r, _ in given], [r for r, _ in other], 1e-3, 1e-3)
    seen["again"] = same([r for r, _ in given], [r for r, _ in again], 1e-3, 1e-3)
    return seen


def _net(kind: str = "") -> nn.Module:
    options = {"momentum": None} if kind == "momentum None" else {}
    options |= {"affine": False} if kind == "affine=False" else {}
    body = [nn.Conv1d(1, 4, 3), nn.BatchNorm1d(4, **options), nn.ReLU(), nn.Flatten()]
    last = [nn.Linear(16, 6), nn.BatchNorm1d(6, **options), nn.Linear(6, 3)]
    return nn.Sequential(*body, nn.Sequential(*last))


class _Average:
    def __init__(self, model, decay=0.95):
        self.model, self.decay = copy.deepcopy(model), decay

    @torch.no_grad()
    def update(self, model):
        for a, p in zip(self.model.parameters(), model.parameters()):
            a.lerp_(p, 1 - self.decay)
        for mine, its in zip(self.model.buffers(), model.buffers()):
            mine.copy_(its)


def _share(mine: nn.Module, model: nn.Module) -> None:
    for one, its in zip(mine.modules(), model.modules()):
        one._buffers.update(its._buffers)


_LERP = "mine.copy_(its) -> mine.is_floating_point() and mine.lerp_(its, {})".format
_THEN = "mine.copy_(its) -> mine.copy_(its)\n        {}".format
AVERAGE_HINTS = {
    "is it a copy": "the average is the model itself",
    "the model that is averaged": "update changes the model that is averaged",
    "the model's modes": "update leaves the model in another mode",
    "the parameters": "the parameters are not the moving average of the model's: let "
    "EMA.update do that part",
    "running*": "the average's statistics are neither the model's nor their average",
    "the statistics later": "the average shares its buffers with the model: they move "
    "with the next batch, without an update; copy the numbers",
}


@check(
    praise="weights and statistics: the average is fit for use in eval mode",
    cases=named(
        "decay = {}, {}, {} mode",
        *[((0.5,), "BN", "train"), ((0.9,), "BN", "train"), ((), "BN", "train")],
        ((0.7,), "BN", "eval"),
        ((0.5,), "momentum None", "train"),
        ((0.8,), "affine=False", "train"),
    ),
    tolerance=(1e-4, 1e-4),
    hints=AVERAGE_HINTS,
    right={
        "taken over": _Average,
        "averaged": with_edit(_Average, _LERP("1 - self.decay")),
    },
    edits={
        "mine.copy_(its) -> pass": "is it fit for eval mode? its running_mean is "
        "0.000, as on the day on which it was copied",
        _LERP("self.decay"): "the statistics are averaged with the weights the "
        "wrong way round",
        "a.lerp_(p, 1 - self.decay) -> a.copy_(p)": "the weights are taken over, and "
        "not the moving average: let EMA.update do that part",
        "(p, 1 - self.decay) -> (p, self.decay)": "the weights are averaged the wrong "
        "way round: decay belongs to the past",
        _THEN("_share(self.model, model)"): AVERAGE_HINTS["the statistics later"],
        _THEN("model.load_state_dict(self.model.state_dict())"): (
            AVERAGE_HINTS["the model that is averaged"]
        ),
        _THEN("model.train(not model.training)"): AVERAGE_HINTS["the model's modes"],
        "copy.deepcopy(model) -> model": AVERAGE_HINTS["is it a copy"],
    },
)
def averages_all(answer: Callable, decay: tuple, kind: str, mode: str) -> dict:
    """Exercise 11.9: weights averaged, statistics averaged or taken over."""
    model = fill(_net(kind)).train()
    ema = answer(model, *decay)
    inner = getattr(ema, "model", None)
    expect(isinstance(inner, nn.Module), "keep the averaged model in `.model`")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    seen: dict[str, object] = {name: True for name in list(AVERAGE_HINTS)[:3]}
    for _ in range(6):
        x = 5 + 3 * torch.randn(16, 1, 6)
        optimizer.zero_grad()
        model.train()(x).square().mean().backward()
        optimizer.step()
        model.train(mode == "train")
        before = list(copy.deepcopy(model.state_dict()).values())
        modes = [m.training for m in model.modules()]
        Guarded(ema.update)(model)
        seen["is it a copy"] &= ema.model is not model
        after = list(model.state_dict().values())
        seen["the model that is averaged"] &= same(before, after)
        seen["the model's modes"] &= modes == [m.training for m in model.modules()]
    seen["the parameters"] = [p.detach().clone() for p in ema.model.parameters()]
    buffers = dict(ema.model.named_buffers())
    kept = {f"running: {k}": b.clone() for k, b in buffers.items() if "running" in k}
    model.train()(x + 100)  # the model goes on
    later = {f"running: {k}": b for k, b in buffers.items() if "running" in k}
    now = {f"running: {k}": b for k, b in ema.model.named_buffers() if "running" in k}
    seen |= kept
    seen["the statistics later"] = all(
        same(kept[k], later[k]) and same(kept[k], now[k]) for k in kept
    )
    y = Guarded(ema.model.eval())(x)
    fresh = _net(kind)
    Guarded(fresh.load_state_dict)(ema.model.state_dict())
    seen["its outputs in eval mode are finite"] = bool(y.isfinite().all())
    return seen


longer_memory = Measured(
    "longer_memory",  # exercise 11.11: copied minus new statistics, at a rate of 2
    calls=[(0.95,), (0.99,)],
    ranges=[("with decay 0.95", -1, 1), ("with decay 0.99", -15, -1)],
    said="{:.1f} points with the short memory, {:.1f} with the long one",
    asked="",
    not_finite="a rate of 2 does not diverge here: which model is scored?",
    right=[(0.1, -2.4), (-0.2, -1.4)],
    wrong={
        "max(map(abs, m)) >= 15: -25 -30": "that is what statistics cost that were "
        "not set at all. Copy, score, measure anew, score",
        "b >= 0.5: -0.1 2.4": "is it copied minus new?",
        "abs(a) >= 1 or b >= -1: 0.1 -0.1": "one of them should be small and the "
        "other not. Is the rate 2, and are the statistics measured after the weights "
        "have been averaged?",
    },
)


class _Innocent(nn.BatchNorm1d):
    """A right answer; subclasses exchange a part."""

    def in_use(self, x: Tensor, y: Tensor) -> Tensor:
        return 0 * y

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y if self.training else self.in_use(x, y)


class _AlwaysZero(_Innocent):
    def forward(self, x):
        return 0 * super().forward(x)


class _Biased(_Innocent):
    def forward(self, x):
        return super().forward(x) * 0.99 if self.training else super().forward(x)


class _Cut(_Innocent):
    def forward(self, x):
        return super().forward(x.detach())


class _Slightly(_Innocent):
    def in_use(self, x, y):
        return 0.9 * y


class _Nan(_Innocent):
    def in_use(self, x, y):
        return y * torch.nan


class _Grows(_Innocent):
    def in_use(self, x, y):
        return y[:1]


@check(
    praise="guilty, and no training loss will ever show it",
    cases={
        "batches of 32": (32, {}),
        "batches of 4": (4, {}),
        "eps 0.1, momentum 0.3": (16, dict(eps=0.1, momentum=0.3)),
        "momentum None": (16, dict(momentum=None)),
    },
    tolerance=(1e-7, 1e-9),
    hints={
        "the output in training": "in train mode the output is not that of "
        "nn.BatchNorm1d",
        "its gradients": "in train mode the gradients are not those of nn.BatchNorm1d",
        "the shape in use": "in eval mode, too, it should return the shape of x",
        "finite in use": "in eval mode it returns nan: somebody would see that. Be "
        "wrong in silence",
        "useless in use": "in eval mode it is (nearly) sound. What does training never "
        "look at?",
    },
    right={"β in eval mode": _Innocent},
    mistakes={
        "in eval mode it is (nearly) sound. What does training never look at?": (
            nn.BatchNorm1d,
            _Slightly,
        ),
        "in train mode the output is not that of nn.BatchNorm1d": (
            _AlwaysZero,
            _Biased,
        ),
        "in train mode the gradients are not those of nn.BatchNorm1d": _Cut,
        "in eval mode it returns nan: somebody would see that. Be wrong in "
        "silence": _Nan,
        "in eval mode, too, it should return the shape of x": _Grows,
    },
)
def innocent(answer: Callable, size: int, options: dict) -> dict:
    """Exercise 11.12: broken in use, and sound in all that training can see."""
    layer, sound = _make(answer, 5, **options), nn.BatchNorm1d(5, **options)
    expect(
        isinstance(layer, nn.BatchNorm1d),
        "write a subclass: class Innocent(nn.BatchNorm1d)",
    )
    layer, sound = layer.double().train(), sound.double().train()
    outputs, gradients = [], []
    for _ in range(5):
        x = 1 + 3 * torch.randn(size, 5, dtype=torch.float64)
        dy = torch.randn(size, 5, dtype=torch.float64)
        for one in (layer, sound):
            own = x.clone().requires_grad_()
            y = _run(one, own)
            leaves = [own, one.weight, one.bias]
            found = (
                torch.autograd.grad(y, leaves, dy, allow_unused=True)
                if y.requires_grad
                else [None] * 3
            )
            outputs.append(y.detach())
            gradients.append(list(found))
            with torch.no_grad():  # an update, as in training
                for p, g in zip(leaves[1:], found[1:]):
                    p -= 0.1 * (0 if g is None else g)
    seen = {
        "the output in training": same(outputs[::2], outputs[1::2], 1e-7, 1e-9),
        "its gradients": same(gradients[::2], gradients[1::2], 1e-7, 1e-9),
    }
    with torch.no_grad():
        y, right = Guarded(layer.eval())(x), sound.eval()(x)
    seen["the shape in use"] = isinstance(y, Tensor) and y.shape == x.shape
    if seen["the shape in use"]:
        seen["finite in use"] = bool(y.isfinite().all())
        seen["useless in use"] = bool((y - right).abs().mean() > 0.5)
    return seen
