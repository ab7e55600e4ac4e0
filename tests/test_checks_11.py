"""Chapter 11: each patient is ill as it stands in the notebook, and can be cured.

The patients, stubs and solutions are read from the notebook, so that they and
the checks cannot drift apart.
"""

import copy
from pathlib import Path

import nbformat
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.resnet import resnet18_like
from tests.verdicts import examples, verdict
from utils.checks import chapter_11 as checks
from utils.checks.chapter_11 import _NORMALISE, SoundReader, _Average, _Norm, _tune
from utils.checks.framework import with_edit
from utils.data import Split

PATH = Path(__file__).resolve().parent.parent / "chapters" / "11_clinic.ipynb"
CELLS = {cell.id: cell.source for cell in nbformat.read(PATH, as_version=4).cells}


def run(*ids):
    """The names that these cells of the notebook define."""
    names = {"checks": checks}
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
    4: ("sound_layer", "Norm4", "Repaired4", "cannot be put back"),
    5: ("frozen_body", "fine_tune", "repaired_fine_tune", "running_mean changed"),
    6: ("sound_layer", "Norm6", "Repaired6", "does autograd not know"),
    7: ("sound_layer", "Norm7", "Repaired7", "differs from the one among others"),
    9: ("averages_all", "EMA", "RepairedEMA", "running_mean is 0.000"),
    10: ("synchronised_layer", "Norm10", "Repaired10", "of how many examples"),
}


@pytest.mark.parametrize("number", CASES)
def test_the_patient_and_the_stub_are_ill_and_the_solution_is_the_cure(number):
    check, patient, repaired, hint = CASES[number]
    cells = [f"patient-{number}", f"exercise-11-{number}", f"solution-11-{number}"]
    for k, name in enumerate([patient, repaired, repaired]):
        names = run(*cells[: min(k, 1) + 1], *cells[2 : k + 1])
        passed, said = verdict(getattr(checks, check), names[name])
        assert bool(passed) == (k == 2), said
        wanted = "returned nothing" if (number, k) == (5, 1) else hint
        assert wanted in said or k == 2


def with_sums(x):
    mean = sum(x) / len(x)
    return mean, sum((row - mean) ** 2 for row in x) / len(x)


def shifted(x):
    """One pass, after the first example has been subtracted."""
    z = x - x[0].detach()
    return x[0].detach() + z.mean(0), (z * z).mean(0) - z.mean(0) ** 2


def in_double(x):
    z = x.double()
    return x.mean(0), ((z * z).mean(0) - z.mean(0) ** 2).to(x)


def clamped(x):
    return x.mean(0), ((x * x).mean(0) - x.mean(0) ** 2).clamp(min=1e-3)


def summed(statistics):
    return with_edit(_Norm, "_two_passes -> statistics", statistics=statistics)


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


LAYERS = (
    {f.__name__: summed(f) for f in (in_double, shifted, with_sums)}
    | {"with torch": WithTorch},
    {
        "a number": (lambda *_, **__: 1, "should be an nn.Module"),
        "no gamma": (
            with_edit(_Norm, "nn.Parameter(torch.ones(channels)) -> 1"),
            "two parameters",
        ),
        "other names": (
            lambda *a, **k: nn.Sequential(nn.BatchNorm1d(*a, **k)),
            "keep the name running_mean",
        ),
        "a fixed size": (lambda: nn.BatchNorm1d(5), "cannot be made"),
        "layer norm": (
            lambda c, eps=1e-5, momentum=0.1: nn.LayerNorm(c, eps),
            "keep the name",
        ),
        "nan to num": (summed(clamped), "Not yet"),
    },
)


class AllRows(SoundReader):
    """Rows below each other from the start, and a matrix for the mean."""

    def forward(self, x):
        z = torch.relu(self.norm(self.embed(x.reshape(-1, 8))))
        means = torch.eye(len(x)).repeat_interleave(x.shape[1] // 8, 1).to(z)
        return self.head(means @ z / (x.shape[1] // 8))


class PooledLate(SoundReader):
    def forward(self, x):
        z = self.norm(self.embed(x.unflatten(1, (-1, 8))).transpose(1, 2))
        return self.head(torch.relu(z).transpose(1, 2)).mean(1)  # the head is linear


class Conv(SoundReader):
    def forward(self, x):
        kernel = self.embed.weight[:, None]  # (channels, 1, 8)
        z = F.conv1d(x[:, None], kernel, self.embed.bias, stride=8)
        return self.head(torch.relu(self.norm(z)).mean(2))


class TwoD(SoundReader):
    def __init__(self, channels=8):
        super().__init__(channels)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x):
        z = self.embed(x.unflatten(1, (-1, 8))).permute(0, 2, 1)
        return self.head(torch.relu(self.norm(z[..., None])[..., 0]).mean(2))


class Missing(SoundReader):
    def __init__(self, channels=8):
        super().__init__(channels)
        self.bn, self.norm = self.norm, None


def normalised(by):
    return with_edit(SoundReader, f"{_NORMALISE}{by}")


READERS = (
    {
        "movedim": normalised("self.norm(z.movedim(2, 1)).movedim(1, 2)"),
        "rows below each other": AllRows,
        "mean after the head": PooledLate,
        "a convolution": Conv,
        "two-dimensional": TwoD,
    },
    {
        "not transposed": (normalised("self.norm(z)"), "stay with its channel"),
        "not transposed back": (normalised("self.norm(z.transpose(1, 2))"), "8"),
        "batch and rows swapped": (
            normalised("self.norm(z.transpose(0, 1)).transpose(0, 1)"),
            "your function raised",
        ),
        "another name": (Missing, "keep the layers"),
    },
)


def ahead_of_time(body, head, split, seed, epochs=2, lr=0.1):
    """Features once, then the head alone."""
    body.eval()
    with torch.no_grad():
        features = body(split.x)
    optimizer = torch.optim.SGD(head.parameters(), lr)
    order = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for i in torch.randperm(len(features), generator=order).split(16):
            optimizer.zero_grad()
            F.cross_entropy(head.train()(features[i]), split.y[i]).backward()
            optimizer.step()
    return lambda x: head.eval()(body(x))


OWN_TRAIN = "body.train = lambda mode=True: nn.Module.train(body, False)"
SCORE = "print('loss', F.cross_entropy(head.eval()(body(split.x)), split.y).item())"
ADAM = "torch.optim.Adam(head.parameters(), lr=lr / 10)"
MODES = "body.eval(), head.train()"
TUNINGS = (
    {
        "features ahead of time": ahead_of_time,
        "its own train()": with_edit(
            _tune,
            f"optimizer = torch -> {OWN_TRAIN}\n    optimizer = torch; "
            f"{MODES} -> nn.Sequential(body, head).train()",
        ),
        "a score after each epoch, with gradients on": with_edit(
            _tune,
            f"{MODES} -> body.eval()\n        {SCORE}\n        head.train(); "
            f"return -> {SCORE}\n    return",
        ),
        "Adam": with_edit(
            _tune, f"torch.optim.SGD(head.parameters(), lr=lr) -> {ADAM}"
        ),
    },
    {
        "logits returned": (
            with_edit(_tune, "return -> return torch.zeros(3) #"),
            "should return a model",
        ),
        "the head returned": (with_edit(_tune, "return -> return head #"), "Not yet"),
        "the statistics reset": (
            with_edit(_tune, "return -> body[1].reset_running_stats()\n    return"),
            "running_mean changed",
        ),
    },
)


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
    assert not passed and "gradients on" in said  # one of two defects
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
    assert not passed and "or `del` it first" in said


class WholeState(_Average):
    @torch.no_grad()
    def update(self, model):
        state = model.state_dict()
        for name, mine in self.model.state_dict().items():
            mine.copy_(self.decay * mine + (1 - self.decay) * state[name])


class Library(_Average):
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


AVERAGES = ({"the whole state": WholeState, "the library's": Library}, {})
SYNCHRONISED = ({}, {"no sizes": (nn.BatchNorm1d, "patient's arguments")})
LONGER = (
    {},
    {
        "one number": (lambda decay: -2.4, "one number for each"),
        "alike": (lambda decay: [-2.4] * 12, "are they trained"),
        "nan": (lambda decay: [float("nan")] * 12, "not finite"),
    },
)
test_accepts, test_rejects = examples(
    {
        checks.sound_layer: LAYERS,
        checks.reads_rows: READERS,
        checks.frozen_body: TUNINGS,
        checks.averages_all: AVERAGES,
        checks.synchronised_layer: SYNCHRONISED,
        checks.longer_memory: LONGER,
    }
)


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
