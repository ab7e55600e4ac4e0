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
from utils.checks.chapter_11 import _ema, _norm, _one_pass, _reader, _taken_over, _tune
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
    4: ("sound_layer", "Norm4", "Repaired4", "cannot be put back"),
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
    assert not passed
    assert hint in said


@pytest.mark.parametrize("number", CASES)
def test_the_stub_is_not_the_cure(number):
    name, _, repaired, hint = CASES[number]
    answer = run(f"patient-{number}", f"exercise-11-{number}")[repaired]
    passed, said = verdict(getattr(checks, name), answer)
    assert not passed
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


LAYERS = (
    {
        "one pass in float64": _norm(statistics=in_double),
        "one pass, shifted": _norm(statistics=shifted),
        "with sums": _norm(statistics=with_sums),
        "with torch": WithTorch,
    },
    {
        "nothing": (lambda *_, **__: None, "returned nothing"),
        "a number": (lambda *_, **__: 1, "should be an nn.Module"),
        "no gamma": (WithoutGamma, "two parameters"),
        "other names": (OtherNames, "keep the name running_mean"),
        "a fixed size": (lambda: nn.BatchNorm1d(5), "cannot be made"),
        "layer norm": (
            lambda c, eps=1e-5, momentum=0.1: nn.LayerNorm(c, eps),
            "keep the name",
        ),
        "nan to num": (
            _norm(statistics=lambda x: _one_pass(x, lambda v: v.clamp(min=1e-3))),
            "Not yet",
        ),
    },
)


class AllRows(checks.SoundReader):
    """Rows below each other from the start, and a matrix for the mean."""

    def forward(self, x):
        z = torch.relu(self.norm(self.embed(x.reshape(-1, 8))))
        means = torch.eye(len(x)).repeat_interleave(x.shape[1] // 8, 1).to(z)
        return self.head(means @ z / (x.shape[1] // 8))


class PooledLate(checks.SoundReader):
    def forward(self, x):
        z = self.norm(self.embed(x.unflatten(1, (-1, 8))).transpose(1, 2))
        return self.head(torch.relu(z).transpose(1, 2)).mean(1)  # the head is linear


class Conv(checks.SoundReader):
    def forward(self, x):
        kernel = self.embed.weight[:, None]  # (channels, 1, 8)
        z = F.conv1d(x[:, None], kernel, self.embed.bias, stride=8)
        return self.head(torch.relu(self.norm(z)).mean(2))


class TwoD(checks.SoundReader):
    def __init__(self, channels=8):
        super().__init__(channels)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x):
        z = self.embed(x.unflatten(1, (-1, 8))).permute(0, 2, 1)
        return self.head(torch.relu(self.norm(z[..., None])[..., 0]).mean(2))


class Missing(checks.SoundReader):
    def __init__(self, channels=8):
        super().__init__(channels)
        self.bn, self.norm = self.norm, None


READERS = (
    {
        "movedim": _reader(lambda n, z: n(z.movedim(2, 1)).movedim(1, 2)),
        "rows below each other": AllRows,
        "mean after the head": PooledLate,
        "a convolution": Conv,
        "two-dimensional": TwoD,
    },
    {
        "nothing": (lambda *_: None, "returned nothing"),
        "not transposed": (_reader(lambda n, z: n(z)), "stay with its channel"),
        "not transposed back": (_reader(lambda n, z: n(z.transpose(1, 2))), "8"),
        "batch and rows swapped": (
            _reader(lambda n, z: n(z.transpose(0, 1)).transpose(0, 1)),
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


def in_own_class(body, head, split, seed, epochs=2, lr=0.1):
    """A body whose train() leaves it in eval mode."""
    body.train = lambda mode=True: nn.Module.train(body, False)
    both = _tune(before=lambda body, head: nn.Sequential(body, head).train())
    return both(body, head, split, seed, epochs, lr)


def with_a_score(body, head, split, seed, epochs=2, lr=0.1):
    """Prints an evaluation after each epoch, with gradients on."""

    def score(body, head):
        print("loss", F.cross_entropy(head.eval()(body(split.x)), split.y).item())

    def begin(body, head):
        body.eval()
        score(body, head)
        head.train()

    return _tune(before=begin, after=score)(body, head, split, seed, epochs, lr)


def adam(body, head, split, seed, epochs, lr):
    optimizer = torch.optim.Adam(head.parameters(), lr=lr / 10)
    order = batches(len(split.y), 32, seed)
    body.eval(), head.train()
    for _ in range(epochs * (len(split.y) // 32)):
        i = next(order)
        optimizer.zero_grad()
        F.cross_entropy(head(body(split.x[i])), split.y[i]).backward()
        optimizer.step()
    return nn.Sequential(body, head)


TUNINGS = (
    {
        "features ahead of time": ahead_of_time,
        "its own train()": in_own_class,
        "a score after each epoch": with_a_score,
        "Adam": adam,
    },
    {
        "nothing": (lambda *_, **__: None, "Not yet"),
        "logits returned": (
            _tune(result=lambda body, head: torch.zeros(3)),
            "should return a model",
        ),
        "the head returned": (_tune(result=lambda body, head: head), "Not yet"),
        "the statistics reset": (
            _tune(
                after=lambda body, head: [
                    m.reset_running_stats()
                    for m in body.modules()
                    if isinstance(m, nn.BatchNorm1d)
                ]
            ),
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


class WholeState(_ema(_taken_over)):
    @torch.no_grad()
    def update(self, model):
        state = model.state_dict()
        for name, mine in self.model.state_dict().items():
            mine.copy_(self.decay * mine + (1 - self.decay) * state[name])


class Library(_ema(_taken_over)):
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


AVERAGES = (
    {"the whole state": WholeState, "the library's": Library},
    {"nothing": (lambda *_, **__: None, "returned nothing")},
)
SYNCHRONISED = (
    {},
    {
        "nothing": (lambda *_, **__: None, "returned nothing"),
        "no sizes": (nn.BatchNorm1d, "patient's arguments"),
    },
)
LONGER = (
    {},
    {
        "nothing": (lambda decay: None, "returned nothing"),
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
