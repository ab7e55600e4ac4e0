"""Chapter 11: each patient is ill as it stands in the notebook, and can be cured.

The patients, stubs and solutions are read from the notebook, so that they and
the checks cannot drift apart.
"""

import copy
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.resnet import resnet18_like
from tests.verdicts import verdict
from utils.checks import chapter_11 as checks
from utils.data import Split
from utils.training import batches

PATH = Path(__file__).resolve().parent.parent / "chapters" / "11_clinic.ipynb"
CELLS = {cell.id: cell.source for cell in nbformat.read(PATH, as_version=4).cells}


def run(*ids):
    """The names that these cells of the notebook define."""
    names = {}
    for cell in ("imports", "norm", *ids):
        exec(CELLS[STANDS_IN.get(cell, cell)], names)
    return names


STANDS_IN = {"patient-1": "patients-1-6", "patient-6": "patients-1-6"}
STANDS_IN |= {"patient-3": "patients-3-4", "patient-4": "patients-3-4"}
STANDS_IN |= {"patient-2": "norm"}


# exercise: check, the patient's name, the repaired one's, a part of the hint
CASES = {
    1: ("reads_rows", "RowReader", "RepairedReader", "stay with its channel"),
    2: ("sound_layer", "Norm2", "Repaired2", "the mean of the last batch"),
    3: ("sound_layer", "Norm3", "Repaired3", "holds on to the batches"),
    4: ("sound_layer", "Norm4", "Repaired4", "give NaN"),
    5: ("frozen_body", "fine_tune", "repaired_fine_tune", "running_mean changed"),
    6: ("sound_layer", "Norm6", "Repaired6", "does autograd not know"),
    7: ("sound_layer", "Norm7", "Repaired7", "differs from the one among others"),
    9: ("averages_all", "EMA", "RepairedEMA", "running_mean is 0.000"),
    10: ("synchronised_layer", "Norm10", "Repaired10", "of how many examples"),
}


@pytest.mark.parametrize("number", CASES)
def test_the_patient_is_ill(number):
    name, patient, _, hint = CASES[number]
    answer = run(f"patient-{number}")[patient]
    passed, said = verdict(getattr(checks, name), answer)
    assert passed is False
    assert hint in said


@pytest.mark.parametrize("number", CASES)
def test_the_stub_is_not_the_cure(number):
    name, _, repaired, hint = CASES[number]
    answer = run(f"patient-{number}", f"exercise-11-{number}")[repaired]
    passed, said = verdict(getattr(checks, name), answer)
    assert passed is False
    assert (hint if number != 5 else "returned nothing") in said


@pytest.mark.parametrize("number", CASES)
def test_the_solution_is_the_cure(number):
    name, _, repaired, _ = CASES[number]
    cells = f"patient-{number}", f"check-11-{number}", f"solution-11-{number}"
    source = CELLS[cells[1]]
    assert source.endswith(f"checks.{name}({repaired});")
    imports = source.partition("\n")[0]
    names = run(cells[0])
    exec(f"{imports}\n{CELLS[cells[2]]}", names)
    passed, said = verdict(getattr(checks, name), names[repaired])
    assert passed, said


def make_norm(**mistakes):
    """A right layer, with a switch for each mistake."""

    class Norm(nn.Module):
        m = mistakes

        def __init__(self, channels, eps=1e-5, momentum=0.1):
            super().__init__()
            self.gamma = nn.Parameter(torch.ones(channels))
            self.beta = nn.Parameter(torch.zeros(channels))
            tensors = torch.zeros(channels), torch.ones(channels)
            for name, tensor in zip(("running_mean", "running_var"), tensors):
                if self.m.get("plain"):
                    setattr(self, name, tensor)
                else:
                    keep = not self.m.get("not_saved")
                    self.register_buffer(name, tensor, persistent=keep)
            self.eps = self.m.get("eps", eps)
            self.momentum = self.m.get("momentum", lambda given: given)(momentum)

        def forward(self, x):
            if not self.m.get("mode", lambda layer: layer.training)(self):
                mean, var = self.running_mean, self.running_var
                return self.normalised(x, mean, var)
            n = len(x)
            mean, var = self.m.get("statistics", two_passes)(x)
            stored_mean, stored = mean.detach(), var.detach() * n / max(n - 1, 1)
            if self.m.get("biased"):
                stored = var.detach()
            if "keeps" in self.m:  # the graph of one of the two
                stored_mean = mean if self.m["keeps"] == "mean" else stored_mean
                stored = var * n / (n - 1) if self.m["keeps"] == "var" else stored
            m = self.momentum
            if "keeps" in self.m or self.m.get("rebound"):
                self.running_mean = (1 - m) * self.running_mean + m * stored_mean
                self.running_var = (1 - m) * self.running_var + m * stored
            else:
                self.running_mean.lerp_(stored_mean.to(self.running_mean), m)
                self.running_var.lerp_(stored.to(self.running_var), m)
            if self.m.get("unbiased"):
                var = var * n / (n - 1)
            for cut in self.m.get("cut", ()):
                mean = mean.detach() if cut == "mean" else mean
                var = var.detach() if cut == "var" else var
            return self.normalised(x, mean, var)

        def normalised(self, x, mean, var):
            if self.m.get("outside"):
                x_hat = (x - mean) / (var.sqrt() + self.eps)
            else:
                x_hat = (x - mean) / torch.sqrt(var + self.eps)
            return self.gamma * x_hat + self.beta

    return Norm


def two_passes(x):
    mean = x.mean(0)
    return mean, ((x - mean) ** 2).mean(0)


def one_pass(x, repair=lambda var: var):
    return x.mean(0), repair((x * x).mean(0) - x.mean(0) ** 2)


def shifted(x):
    """One pass, after the first example has been subtracted."""
    z = x - x[0].detach()
    return x[0].detach() + z.mean(0), (z * z).mean(0) - z.mean(0) ** 2


def in_double(x):
    mean, var = one_pass(x.double())
    return mean.to(x), var.to(x)


class WithTorch(nn.Module):
    """F.batch_norm does the work; other names for γ and β."""

    def __init__(self, channels, eps=1e-5, momentum=0.1):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.settings = momentum, eps

    def forward(self, x):
        memory = self.running_mean, self.running_var
        rest = self.weight, self.bias, self.training, *self.settings
        return F.batch_norm(x, *memory, *rest)


class InPlace(WithTorch):
    def forward(self, x):
        y = super().forward(x)
        x.data.mul_(2)
        return y


class UpdatesInEval(WithTorch):
    def forward(self, x):
        if not self.training:
            with torch.no_grad():
                self.running_mean.lerp_(x.mean(0), 0.1)
        return super().forward(x)


class WithoutGamma(WithTorch):
    def __init__(self, *arguments, **settings):
        super().__init__(*arguments, **settings)
        self.weight = None


class OtherNames(nn.Module):
    def __init__(self, channels, eps=1e-5, momentum=0.1):
        super().__init__()
        self.inner = nn.BatchNorm1d(channels, eps, momentum)

    def forward(self, x):
        return self.inner(x)


class EvalFrozen(WithTorch):
    """No gradient in eval mode."""

    def forward(self, x):
        with torch.set_grad_enabled(self.training):
            return super().forward(x)


def grad_and_training(layer):
    return layer.training and torch.is_grad_enabled()


def grad_or_training(layer):
    return layer.training or torch.is_grad_enabled()


def grad_only(layer):
    return torch.is_grad_enabled()


RIGHT_LAYERS = {
    "by the definition": make_norm(),
    "new tensors": make_norm(rebound=True),
    "one pass in float64": make_norm(statistics=in_double),
    "one pass, shifted": make_norm(statistics=shifted),
    "var_mean": make_norm(
        statistics=lambda x: torch.var_mean(x, 0, correction=0)[::-1]
    ),
    "with torch": WithTorch,
    "torch's own": nn.BatchNorm1d,
    "sums": make_norm(
        statistics=lambda x: (
            sum(x) / len(x),
            sum((row - sum(x) / len(x)) ** 2 for row in x) / len(x),
        )
    ),
}
WRONG_LAYERS = {
    "nothing": (lambda *_, **__: None, "returned nothing"),
    "a number": (lambda *_, **__: 1, "should be an nn.Module"),
    "momentum in the constructor": (
        make_norm(momentum=lambda m: 1 - m),
        "the mean of the last batch",
    ),
    "momentum fixed": (make_norm(momentum=lambda m: 0.1), "with momentum 0.3"),
    "default 0.9": (
        type("Nine", (make_norm(momentum=lambda m: 1 - m),), {"__init__": None}),
        "cannot be made",
    ),
    "the mean keeps the graph": (make_norm(keeps="mean"), "requires_grad"),
    "the variance keeps the graph": (make_norm(keeps="var"), "requires_grad"),
    "cut too early": (
        make_norm(cut=("mean", "var")),
        "does autograd not know",
    ),
    "the mean cut": (make_norm(cut=("mean",)), "does autograd not know"),
    "the variance cut": (make_norm(cut=("var",)), "gradient of the input is not"),
    "clamped": (
        make_norm(statistics=lambda x: one_pass(x, lambda v: v.clamp(min=0))),
        "cannot be put back",
    ),
    "absolute": (make_norm(statistics=lambda x: one_pass(x, abs)), "put back"),
    "nan to num": (
        make_norm(statistics=lambda x: one_pass(x, lambda v: v.clamp(min=1e-3))),
        "Not yet",
    ),
    "one pass": (make_norm(statistics=one_pass), "NaN"),
    "a larger eps": (make_norm(statistics=one_pass, eps=1e-3), "the output differs"),
    "unbiased": (make_norm(unbiased=True), "too small by a factor"),
    "stored biased": (make_norm(biased=True), "Which variance is stored"),
    "eps outside the root": (make_norm(outside=True), "the output differs"),
    "gradients and training": (
        make_norm(mode=grad_and_training),
        "under torch.no_grad() the output is not that of train mode",
    ),
    "gradients or training": (make_norm(mode=grad_or_training), "gradients on"),
    "gradients only": (make_norm(mode=grad_only), "gradients on"),
    "always training": (make_norm(mode=lambda layer: True), "among others"),
    "always eval": (make_norm(mode=lambda layer: False), "in train mode"),
    "plain tensors": (make_norm(plain=True), "what was saved: gamma, beta"),
    "not saved": (make_norm(not_saved=True), "what was saved: gamma, beta"),
    "in place": (InPlace, "input in place"),
    "updates in eval": (UpdatesInEval, "Not yet"),
    "no gamma": (WithoutGamma, "two parameters"),
    "other names": (OtherNames, "keep the name running_mean"),
    "no gradient in eval": (EvalFrozen, "Not yet"),
    "layer norm": (lambda c, eps=1e-5, momentum=0.1: nn.LayerNorm(c, eps), "differs"),
    "a fixed number of channels": (lambda: nn.BatchNorm1d(5), "cannot be made"),
}


@pytest.mark.parametrize("name", RIGHT_LAYERS)
def test_sound_layer_accepts(name):
    passed, said = verdict(checks.sound_layer, RIGHT_LAYERS[name])
    assert passed, said


@pytest.mark.parametrize("name", WRONG_LAYERS)
def test_sound_layer_rejects(name):
    answer, hint = WRONG_LAYERS[name]
    passed, said = verdict(checks.sound_layer, answer)
    assert passed is False
    assert hint in said


class Reader(nn.Module):
    """A right reader, whose parts can be overridden."""

    def __init__(self, channels=8):
        super().__init__()
        self.embed = nn.Linear(8, channels)
        self.norm = nn.BatchNorm1d(channels)
        self.head = nn.Linear(channels, 10)

    def forward(self, x):
        z = self.normalised(self.embed(x.unflatten(1, (-1, 8))))
        return self.head(torch.relu(z).mean(1))

    def normalised(self, z):  # (N, rows, channels)
        return self.norm(z.transpose(1, 2)).transpose(1, 2)


def reader(normalised):
    return type("Other", (Reader,), {"normalised": normalised})


class AllRows(Reader):
    """Rows below each other from the start, and a matrix for the mean."""

    def forward(self, x):
        z = torch.relu(self.norm(self.embed(x.reshape(-1, 8))))
        means = torch.eye(len(x)).repeat_interleave(x.shape[1] // 8, 1).to(z)
        return self.head(means @ z / (x.shape[1] // 8))


class PooledLate(Reader):
    def forward(self, x):
        z = self.normalised(self.embed(x.unflatten(1, (-1, 8))))
        return self.head(torch.relu(z)).mean(1)  # the head is linear


class Conv(Reader):
    def forward(self, x):
        kernel = self.embed.weight[:, None]  # (channels, 1, 8)
        z = F.conv1d(x[:, None], kernel, self.embed.bias, stride=8)
        return self.head(torch.relu(self.norm(z)).mean(2))


class TwoD(Reader):
    def __init__(self, channels=8):
        super().__init__(channels)
        self.norm = nn.BatchNorm2d(channels)

    def normalised(self, z):
        return self.norm(z.permute(0, 2, 1)[..., None])[..., 0].permute(0, 2, 1)


class FixedRows(Reader):
    def __init__(self, channels=8):
        super().__init__(channels)
        self.norm = nn.BatchNorm1d(8)


class Mode(Reader):
    def normalised(self, z):
        flat = z.flatten(0, 1)
        y = F.batch_norm(
            flat, None, None, self.norm.weight, self.norm.bias, training=True
        )
        return y.view_as(z)


class Missing(Reader):
    def __init__(self, channels=8):
        super().__init__(channels)
        self.bn, self.norm = self.norm, None

    def normalised(self, z):
        return self.bn(z.transpose(1, 2)).transpose(1, 2)


class NoActivation(Reader):
    def forward(self, x):
        return self.head(self.normalised(self.embed(x.unflatten(1, (-1, 8)))).mean(1))


RIGHT_READERS = {
    "the measure of the chapter": checks.SoundReader,
    "transposed": Reader,
    "flat": reader(lambda self, z: self.norm(z.flatten(0, 1)).view_as(z)),
    "movedim": reader(lambda s, z: s.norm(z.movedim(2, 1)).movedim(1, 2)),
    "rows below each other": AllRows,
    "mean after the head": PooledLate,
    "a convolution": Conv,
    "two-dimensional": TwoD,
}
WRONG_READERS = {
    "nothing": (lambda *_: None, "returned nothing"),
    "reshaped": (
        reader(lambda s, z: s.norm(z.reshape(len(z), z.shape[2], -1)).reshape(z.shape)),
        "stay with its channel",
    ),
    "not transposed": (reader(lambda s, z: s.norm(z)), "stay with its channel"),
    "not transposed back": (
        reader(lambda s, z: s.norm(z.transpose(1, 2))),
        "Not yet",
    ),
    "batch and rows swapped": (
        reader(lambda s, z: s.norm(z.transpose(0, 1)).transpose(0, 1)),
        "Not yet",
    ),
    "rows for channels": (FixedRows, "number of rows"),
    "each row on its own": (
        reader(lambda s, z: torch.stack([s.norm(r) for r in z.unbind(1)], 1)),
        "not that of a net",
    ),
    "always the batch": (Mode, "in eval mode"),
    "another name": (Missing, "keep the layers"),
    "the ReLU forgotten": (NoActivation, "then ReLU"),
    "no norm": (reader(lambda s, z: z), "not that of a net"),
    "a layer norm": (
        reader(lambda s, z: F.layer_norm(z, z.shape[-1:])),
        "not that of a net",
    ),
    "padded to 8 rows": (
        reader(
            lambda s, z: s.norm(F.pad(z, (0, 0, 0, max(0, 8 - z.shape[1]))))[
                :, : z.shape[1]
            ]
        ),
        "Not yet",
    ),
}


@pytest.mark.parametrize("name", RIGHT_READERS)
def test_reads_rows_accepts(name):
    passed, said = verdict(checks.reads_rows, RIGHT_READERS[name])
    assert passed, said


@pytest.mark.parametrize("name", WRONG_READERS)
def test_reads_rows_rejects(name):
    answer, hint = WRONG_READERS[name]
    passed, said = verdict(checks.reads_rows, answer)
    assert passed is False
    assert hint in said


def tune(
    body,
    head,
    split,
    seed,
    epochs=2,
    lr=0.1,
    *,
    before=lambda body, head: (body.eval(), head.train()),
    each=lambda body, head: None,
    after=lambda body, head: None,
    frozen=True,
    trained=lambda body, head: head.parameters(),
    forward=lambda body, head, x: head(body(x)),
    result=lambda body, head: nn.Sequential(body, head),
    learns=True,
):
    """A right answer, with a place for each mistake."""
    body.requires_grad_(not frozen)
    optimizer = torch.optim.SGD(trained(body, head), lr=lr)
    order = batches(len(split.y), 32, seed)
    before(body, head)
    for _ in range(epochs):
        each(body, head)
        for _ in range(len(split.y) // 32):
            i = next(order)
            loss = F.cross_entropy(forward(body, head, split.x[i]), split.y[i])
            optimizer.zero_grad()
            loss.backward()
            if learns:
                optimizer.step()
    after(body, head)
    return result(body, head)


def tuned(**changes):
    return lambda *arguments, **settings: tune(*arguments, **settings, **changes)


def without_gradients(body, head, x):
    with torch.no_grad():
        z = body(x)
    return head(z)


def norms(body):
    return [m for m in body.modules() if isinstance(m, nn.BatchNorm1d)]


def norms_in_eval(body, head):
    body.train(), head.train()
    for layer in norms(body):
        layer.eval()


def quiet(body, head):
    """Momentum 0: nothing is stored, and the batch is used."""
    body.train(), head.train()
    for layer in norms(body):
        layer.momentum = 0.0
    for layer in body.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0


def ahead_of_time(body, head, split, seed, epochs=2, lr=0.1):
    """Features once, then the head alone."""
    body.eval()
    with torch.no_grad():
        features = body(split.x)
    optimizer = torch.optim.SGD(head.parameters(), lr)
    for _ in range(epochs):
        for i in torch.randperm(len(features)).split(16):
            optimizer.zero_grad()
            F.cross_entropy(head.train()(features[i]), split.y[i]).backward()
            optimizer.step()
    return lambda x: head.eval()(body(x))


def restored(body, head, split, *rest, **settings):
    state = {k: v.clone() for k, v in body.state_dict().items()}
    both = {"before": lambda body, head: (body.train(), head.train())}
    model = tune(body, head, split, *rest, **settings, **both)
    body.load_state_dict(state)
    return model


def in_own_class(body, head, split, seed, epochs=2, lr=0.1):
    """A body whose train() leaves it in eval mode."""
    body.train = lambda mode=True: nn.Module.train(body, False)
    each = {"each": lambda body, head: nn.Sequential(body, head).train()}
    return tune(body, head, split, seed, epochs, lr, **each)


def again_each_epoch(body, head):
    nn.Sequential(body, head).train()
    body.eval()


RIGHT_TUNINGS = {
    "the head in train mode": tune,
    "without gradients": tuned(forward=without_gradients),
    "eval again each epoch": tuned(each=again_each_epoch),
    "features ahead of time": ahead_of_time,
    "its own train()": in_own_class,
    "no requires_grad": tuned(frozen=False, forward=without_gradients),
    "a function": tuned(result=lambda body, head: lambda x: head(body(x))),
    "Adam-free, all handed over": tuned(
        trained=lambda body, head: [
            p for p in [*body.parameters(), *head.parameters()] if p.requires_grad
        ]
    ),
}
WRONG_TUNINGS = {
    "nothing": (lambda *_, **__: None, "Not yet"),
    "train for all": (
        tuned(each=lambda body, head: nn.Sequential(body, head).train()),
        "running_mean changed",
    ),
    "eval in the end": (
        tuned(
            before=lambda body, head: (body.train(), head.train()),
            after=lambda body, head: body.eval(),
        ),
        "running_mean changed",
    ),
    "momentum 0": (tuned(before=quiet), "other features"),
    "restored": (restored, "other features"),
    "the body's dropout on": (tuned(before=norms_in_eval), "other features"),
    "the head in eval mode": (
        tuned(before=lambda body, head: (body.eval(), head.eval())),
        "trained in eval mode",
    ),
    "no epoch but one": (
        lambda b, h, s, seed, epochs=2, lr=0.1: tune(b, h, s, seed, 1, lr),
        "the head should see 288",
    ),
    "not trained": (tuned(learns=False), "has not changed"),
    "the body trained": (
        tuned(
            frozen=False,
            trained=lambda body, head: [*body.parameters(), *head.parameters()],
        ),
        "weight changed",
    ),
    "only γ and β": (
        tuned(
            frozen=False,
            trained=lambda body, head: [
                *head.parameters(),
                *(p for m in norms(body) for p in m.parameters()),
            ],
        ),
        "changed",
    ),
    "the statistics reset": (
        tuned(before=lambda b, h: [m.reset_running_stats() for m in norms(b.eval())]),
        "changed",
    ),
    "the head returned": (tuned(result=lambda body, head: head), "Not yet"),
    "a copy trained": (
        lambda b, h, *rest, **s: tune(b, copy.deepcopy(h), *rest, **s),
        "Not yet",
    ),
    "logits returned": (
        tuned(result=lambda body, head: torch.zeros(3)),
        "should return a model",
    ),
}


@pytest.mark.parametrize("name", RIGHT_TUNINGS)
def test_frozen_body_accepts(name):
    passed, said = verdict(checks.frozen_body, RIGHT_TUNINGS[name])
    assert passed, said


@pytest.mark.parametrize("name", WRONG_TUNINGS)
def test_frozen_body_rejects(name):
    answer, hint = WRONG_TUNINGS[name]
    passed, said = verdict(checks.frozen_body, answer)
    assert passed is False
    assert hint in said


SUPER = """
class Repaired7(Norm7):
    def __init__(self, channels, eps=1e-5, momentum=0.1):
        super().__init__(channels, eps, momentum)
        {more}
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x):
        mean, var = self.running_mean, self.running_var
        if self.training:
            n, m = len(x), self.momentum
            mean, var = x.mean(dim=0), x.var(dim=0, correction=0)
            self.running_mean.lerp_(mean.detach(), m)
            self.running_var.lerp_(var.detach() * n / (n - 1), m)
        return self.gamma * (x - mean) / (var + self.eps).sqrt() + self.beta
"""


def test_exercise_7_is_solved_by_mending_the_stub():
    """The natural repair: two lines that store, and the one that asks."""
    stub = CELLS["exercise-11-7"]
    for name, value in [("mean", "torch.zeros"), ("var", "torch.ones")]:
        plain = f"self.running_{name} = {value}(channels)"
        assert plain in stub
        buffer = f'self.register_buffer("running_{name}", {value}(channels))'
        stub = stub.replace(plain, buffer)
    names = run("patient-7")
    exec(stub, names)
    passed, said = verdict(checks.sound_layer, names["Repaired7"])
    assert passed is False and "gradients on" in said  # one of two defects
    exec(stub.replace("torch.is_grad_enabled()", "self.training"), names)
    passed, said = verdict(checks.sound_layer, names["Repaired7"])
    assert passed, said


def test_exercise_7_by_inheritance():
    names = run("patient-7")
    exec(SUPER.format(more="del self.running_mean, self.running_var"), names)
    passed, said = verdict(checks.sound_layer, names["Repaired7"])
    assert passed, said
    exec(SUPER.format(more=""), names)
    passed, said = verdict(checks.sound_layer, names["Repaired7"])
    assert passed is False and "derive from nn.Module" in said


def ema(buffers, weights=lambda a, p, decay: a.mul_(decay).add_((1 - decay) * p)):
    """An average whose buffers are treated by buffers(mine, its, decay)."""

    class Other:
        def __init__(self, model, decay=0.95):
            self.model, self.decay = copy.deepcopy(model), decay

        @torch.no_grad()
        def update(self, model):
            for a, p in zip(self.model.parameters(), model.parameters()):
                weights(a, p, self.decay)
            for mine, its in zip(self.model.buffers(), model.buffers()):
                buffers(mine, its, self.decay)

    return Other


def taken_over(mine, its, decay):
    mine.copy_(its)


def averaged(mine, its, decay):
    if mine.is_floating_point():
        mine.lerp_(its, 1 - decay)


class WholeState(ema(taken_over)):
    @torch.no_grad()
    def update(self, model):
        state = model.state_dict()
        for name, mine in self.model.state_dict().items():
            mine.copy_(self.decay * mine + (1 - self.decay) * state[name])


class Library(ema(taken_over)):
    def __init__(self, model, decay=0.95):
        averaging = torch.optim.swa_utils.get_ema_multi_avg_fn(decay)
        self.inner = torch.optim.swa_utils.AveragedModel(
            model, multi_avg_fn=averaging, use_buffers=True
        )
        self.inner.module.load_state_dict(model.state_dict())
        self.inner.n_averaged.fill_(1)
        self.model = self.inner.module

    def update(self, model):
        self.inner.update_parameters(model)


class Shared(ema(taken_over)):
    def update(self, model):
        super().update(model)
        for mine, its in zip(self.model.modules(), model.modules()):
            for name, buffer in its._buffers.items():
                mine._buffers[name] = buffer


class ChangesTheModel(ema(taken_over)):
    def update(self, model):
        super().update(model)
        model.load_state_dict(self.model.state_dict())


class LeavesEval(ema(taken_over)):
    def update(self, model):
        super().update(model.eval())


class NotACopy(ema(taken_over)):
    def __init__(self, model, decay=0.95):
        self.model, self.decay = model, decay


RIGHT_AVERAGES = {
    "taken over": ema(taken_over),
    "averaged": ema(averaged),
    "the whole state": WholeState,
    "the library's": Library,
}
WRONG_AVERAGES = {
    "nothing": (lambda *_, **__: None, "returned nothing"),
    "buffers left": (ema(lambda *_: None), "running_mean is 0.000"),
    "buffers averaged the wrong way round": (
        ema(lambda a, b, d: a.lerp_(b, d) if a.is_floating_point() else None),
        "the average's",
    ),
    "weights taken over": (
        ema(taken_over, lambda a, p, decay: a.copy_(p)),
        "not the moving average",
    ),
    "weights the wrong way round": (
        ema(taken_over, lambda a, p, decay: a.mul_(1 - decay).add_(decay * p)),
        "Not yet",
    ),
    "buffers shared": (Shared, "shares its buffers"),
    "the model changed": (ChangesTheModel, "changes the model"),
    "left in eval mode": (LeavesEval, "in eval mode"),
    "no copy": (NotACopy, "the model itself"),
}


@pytest.mark.parametrize("name", RIGHT_AVERAGES)
def test_averages_all_accepts(name):
    passed, said = verdict(checks.averages_all, RIGHT_AVERAGES[name])
    assert passed, said


@pytest.mark.parametrize("name", WRONG_AVERAGES)
def test_averages_all_rejects(name):
    answer, hint = WRONG_AVERAGES[name]
    passed, said = verdict(checks.averages_all, answer)
    assert passed is False
    assert hint in said


def synchronised(count=lambda layer: sum(layer.sizes), stored=None, whole=True):
    """BN over all processes, with a place for each mistake."""
    base = run("patient-10")["Norm10"]

    class Other(base):
        def forward(self, x):
            if not self.training:
                return self.normalise(x, self.running_mean, self.running_var)
            mean, var = x.mean(0), x.var(0, correction=0)
            if not whole:  # an average over the parts
                parts = x.split(self.sizes)
                mean = torch.stack([p.mean(0) for p in parts]).mean(0)
                var = torch.stack([p.var(0, correction=0) for p in parts]).mean(0)
            n = count(self)
            unbiased = var.detach() * n / (n - 1) if stored is None else stored(var)
            self.running_mean.lerp_(mean.detach(), self.momentum)
            self.running_var.lerp_(unbiased.detach(), self.momentum)
            return self.normalise(x, mean, var)

    return Other


class SyncedByTorch(nn.BatchNorm1d):
    def __init__(self, channels, sizes=8 * (1,), rank=0, **settings):
        super().__init__(channels, **settings)


WRONG_SYNCHRONISED = {
    "nothing": (lambda *_, **__: None, "returned nothing"),
    "clamped": (
        synchronised(lambda layer: max(layer.sizes[layer.rank], 2)),
        "of how many examples",
    ),
    "the largest share": (
        synchronised(lambda layer: max(2, *layer.sizes, 2)),
        "of how many examples",
    ),
    "biased": (synchronised(stored=lambda var: var), "of how many examples"),
    "parts averaged": (synchronised(whole=False), "Not yet"),
    "no sizes": (nn.BatchNorm1d, "patient's arguments"),
}


@pytest.mark.parametrize("answer", [synchronised(), SyncedByTorch])
def test_synchronised_layer_accepts(answer):
    passed, said = verdict(checks.synchronised_layer, answer)
    assert passed, said


@pytest.mark.parametrize("name", WRONG_SYNCHRONISED)
def test_synchronised_layer_rejects(name):
    answer, hint = WRONG_SYNCHRONISED[name]
    passed, said = verdict(checks.synchronised_layer, answer)
    assert passed is False
    assert hint in said


@pytest.mark.parametrize(
    "long, short, hint",
    [
        (-2.4, 0.1, "Passed"),
        (-1.4, -0.2, "Passed"),
        (2.4, -0.1, "copied minus new"),
        (-0.1, 0.1, "Is the rate 2"),
        (-2.4, -2.3, "Is the rate 2"),
        (-30, -25, "not set at all"),
    ],
)
def test_longer_memory(long, short, hint):
    spread = np.linspace(-0.5, 0.5, 12)
    given = {0.95: short + spread, 0.99: long + spread}
    passed, said = verdict(checks.longer_memory, given.get)
    assert passed == (hint == "Passed")
    assert hint in said


@pytest.mark.parametrize(
    "answer, hint",
    [
        (lambda decay: None, "returned nothing"),
        (lambda decay: -2.4, "one difference for each"),
        (lambda decay: np.full(12, -2.4), "are they trained"),
        (lambda decay: [float("nan")] * 12, "not finite"),
    ],
)
def test_longer_memory_rejects(answer, hint):
    passed, said = verdict(checks.longer_memory, answer)
    assert passed is False
    assert hint in said


def images(n=64):
    x = torch.rand(n, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return Split(x, (x.mean((1, 2, 3)) > 0.5).long())


def test_fine_tune_on_a_resnet():
    """The patient moves the statistics of a real ResNet, the repair nothing."""
    for number, name in [(None, "fine_tune"), (5, "repaired_fine_tune")]:
        names = run("patient-5")
        if number:
            exec("from utils import checks\n" + CELLS["solution-11-5"], names)
        body = resnet18_like()
        head, body.fc = nn.Linear(body.fc.in_features, 2), nn.Identity()
        before = copy.deepcopy(body.state_dict())
        first = copy.deepcopy(head.state_dict())
        names[name](body, head, images(), seed=0, epochs=1)
        moved = [k for k, v in body.state_dict().items() if not v.equal(before[k])]
        assert (moved == []) is bool(number)
        assert all("running" in k or "num_batches" in k for k in moved)
        assert not head.weight.equal(first["weight"])


def test_average_of_a_resnet():
    """Without the buffers a real ResNet's average answers otherwise in eval mode."""
    names = run("patient-9")
    exec("from utils import checks\n" + CELLS["solution-11-9"], names)
    model = resnet18_like().train()
    averages = [names[name](model, decay=0.5) for name in ("EMA", "RepairedEMA")]
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    x, y = images(32)
    for _ in range(30):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        for average in averages:
            average.update(model)
    with torch.no_grad():
        right = model.eval()(x)
        ill, sound = ((a.model.eval()(x) - right).abs().max() for a in averages)
    assert sound < 0.1 * ill
