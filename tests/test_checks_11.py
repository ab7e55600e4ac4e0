"""Chapter 11: each patient is ill as it stands in the notebook, and can be cured.

The patients, stubs and solutions are read from the notebook, so that they and
the checks cannot drift apart.
"""

from pathlib import Path

import nbformat
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.verdicts import verdict
from utils.checks import chapter_11 as checks
from utils.training import batches

PATH = Path(__file__).resolve().parent.parent / "chapters" / "11_clinic.ipynb"
CELLS = {cell.id: cell.source for cell in nbformat.read(PATH, as_version=4).cells}


def run(*ids):
    """The names that these cells of the notebook define."""
    names = {}
    for cell in ("imports", *ids):
        exec(CELLS[cell], names)
    return names


# exercise: check, the patient's name, the repaired one's, a part of the hint
CASES = {
    1: ("reads_rows", "RowReader", "RepairedReader", "stay with its channel"),
    2: ("sound_layer", "Norm2", "Repaired2", "the mean of the last batch"),
    3: ("sound_layer", "Norm3", "Repaired3", "holds on to the batches"),
    4: ("sound_layer", "Norm4", "Repaired4", "give NaN"),
    5: ("frozen_body", "fine_tune", "repaired_fine_tune", "running_mean changed"),
    6: ("sound_layer", "Norm6", "Repaired6", "does autograd not know"),
    7: ("sound_layer", "Norm7", "Repaired7", "differs from the one among others"),
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
        lambda b, h, *rest, **s: tune(b, __import__("copy").deepcopy(h), *rest, **s),
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
