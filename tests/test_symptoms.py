"""Each entry of chapters/symptoms.md, run as the page has it.

A case below makes the symptom and returns its names. Then the entry's own
code is executed in them: *Was it this?* must print True, *Do this* must cure
the symptom, and *Was it this?* must print False. What a case may return:

    raising   a statement that raises the message which the page quotes
    message   that message, where the page quotes more than one
    symptom   an expression that is true before the fix, and false after it
    after     what is done after the fix, such as training anew; without it
              the raising statement is repeated
    lasting   the answer of *Was it this?* stays True after the fix
    states    {a number on the page: what was measured}, within 10

An entry with several fixes is run once with each; a case that takes a number
is told which. What is not run stands in NOT_RUN, and the entry says so.
"""

import ast
import copy
import inspect
import io
import re
import sys
import warnings
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.func import functional_call, grad
from torch.func import vmap as torch_vmap
from torch.nn.functional import cross_entropy, mse_loss
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, update_bn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from utils.data import load_digits
from utils.processes import run

PAGE = Path(__file__).resolve().parents[1] / "chapters" / "symptoms.md"
BN = nn.modules.batchnorm._BatchNorm
NOT_RUN = {  # whole entries; what of them is tried nevertheless
    "opacus": "its test, with torch alone",
    "keras-trainable": "nothing: needs Keras",
    "flax-immutable": "nothing: needs Flax",
    "data-parallel": "nothing: needs two GPUs",
}
OWN_TEST = {"good-in-training-bad-in-eval", "hangs"}  # further down


@dataclass
class Entry:
    """What an entry of the page says, and its code."""

    heading: str
    text: str

    @property
    def message(self):
        found = re.search(r"^```pytb\n(.+?)\n```$", self.text, flags=re.M | re.S)
        return found and found[1]

    @property
    def fixes(self):
        return python(self.text.partition("<details>")[0])

    @property
    def test(self):
        return "\n".join(python(self.text.partition("<details>")[2]))


def python(text):
    return re.findall(r"^```python\n(.+?)^```$", text, flags=re.M | re.S)


def entries():
    text = PAGE.read_text(encoding="utf8")
    parts = re.split(r"^\((.+)\)=\n### (.+)\n", text, flags=re.M)[1:]
    bodies = (
        re.split(r"^(?:\(.+\)=\n)?## ", body, flags=re.M)[0] for body in parts[2::3]
    )
    return {a: Entry(h, b) for a, h, b in zip(parts[::3], parts[1::3], bodies)}


ENTRIES = entries()
CASES = {}


def case(function):
    CASES[function.__name__.replace("_", "-")] = function
    return function


def from_page(anchor, name, fix=0, **names):
    """A function that an entry's fix defines."""
    names = {"torch": torch, "nn": nn, **names}
    with redirect_stdout(io.StringIO()):
        exec(ENTRIES[anchor].fixes[fix], names)
    return names[name]


def prints(code, names):
    """The last word that the code prints, True or False."""
    said = io.StringIO()
    with redirect_stdout(said):
        exec(code, names)
    return {"True": True, "False": False}[said.getvalue().split()[-1]]


@pytest.fixture(autouse=True)
def alone():
    """The same numbers each time, and no process group is left."""
    torch.manual_seed(0)
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


RUNS = [
    (anchor, fix)
    for anchor, entry in ENTRIES.items()
    if anchor in CASES or anchor not in {*NOT_RUN, *OWN_TEST}
    for fix in range(1 if anchor in NOT_RUN else len(entry.fixes))
]


def fill(case, fix):
    names = case(fix) if inspect.signature(case).parameters else case()
    empty = nn.Sequential()
    for anchor, name in [
        ("replace-by-group-norm", "group_norm_instead"),
        ("sync-batch-norm-without-a-group", "plain_batch_norm"),
    ]:
        names[name] = from_page(anchor, name, model=empty)
    return {"torch": torch, "nn": nn, "same": same, **names}


@pytest.mark.parametrize("anchor, fix", RUNS)
def test_the_symptom_its_test_and_its_fix(anchor, fix):
    entry = ENTRIES[anchor]
    names = fill(CASES[anchor], fix)
    raising, symptom = names.pop("raising", ""), names.pop("symptom", "")
    message = names.pop("message", entry.message)
    after, lasting = names.pop("after", raising), names.pop("lasting", False)
    if raising:
        assert message in f"{entry.heading}\n{entry.text}"
        with pytest.raises(Exception) as caught:
            exec(raising, names)
        assert message in f"{type(caught.value).__name__}: {caught.value}"
    assert not symptom or eval(symptom, names)
    for stated, measured in names.pop("states", {}).items():
        assert f"{stated} %" in entry.text and abs(stated - measured) < 10
    assert prints(entry.test, names)
    if anchor in NOT_RUN:
        return
    with redirect_stdout(io.StringIO()):
        exec(entry.fixes[fix], names)
    exec(after, names)
    assert not symptom or not eval(symptom, names)
    assert prints(entry.test, names) == lasting


def test_every_entry_has_its_case_or_says_that_it_is_not_run():
    say_so = {a for a, entry in ENTRIES.items() if "**Not run here" in entry.text}
    assert say_so == set(NOT_RUN)
    assert set(CASES) - set(NOT_RUN) == set(ENTRIES) - set(NOT_RUN) - OWN_TEST
    for anchor in NOT_RUN:  # at least it is Python
        for code in [*ENTRIES[anchor].fixes, ENTRIES[anchor].test]:
            ast.parse(code)


# Nets, data and training that the cases share


def same(a, b):
    return torch.allclose(a, b, atol=1e-5)


def changes(model, x):
    """Whether two examples' outputs depend on their batch."""
    return not same(model(x)[:2], model(x[:2]))


def dense(inputs=64, width=32, outputs=10, norm=nn.BatchNorm1d):
    return nn.Sequential(
        *(nn.Linear(inputs, width), norm(width), nn.ReLU()),
        *(nn.Linear(width, width), norm(width), nn.ReLU()),
        nn.Linear(width, outputs),
    )


def conv(**options):
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4, **options))


def step(model, x, y, lr=0.1, loss=cross_entropy):
    """One update by plain gradient descent, in the mode that model is in."""
    model.zero_grad()
    loss(model(x), y).backward()
    with torch.no_grad():
        for p in model.parameters():
            if p.grad is not None:
                p -= lr * p.grad


def train(model, batches, *options, then=lambda: None):
    model.train()
    for x, y in batches:
        step(model, x, y, *options)
        then()
    return model


@torch.no_grad()
def right(model, x, y):
    """Accuracy in %, in the mode that model is in."""
    return 100 * (model(x).argmax(dim=1) == y).float().mean().item()


def blobs(n, centre, spread=1.0, shift=0.0):
    y = torch.randint(len(centre), (n,))
    return centre[y] + spread * torch.randn(n, centre.shape[1]) + shift, y


def one_process():
    """Join a process group of one, on the CPU."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)


# Building


@case
def wrong_number_of_dimensions(fix):
    if fix == 0:
        layer, x = nn.BatchNorm1d(3), torch.randn(8, 3, 5, 5)
        return {"layer": layer, "x": x, "raising": "layer(x)"}
    layer = model = nn.BatchNorm2d(3)
    x, message = torch.randn(3, 5, 5), "expected 4D input (got 3D input)"
    raising, after, lasting = "layer(x)", "assert y.shape == (1, 3, 5, 5)", True
    return locals()


@case
def channels_last_layout(fix):
    layer, x = nn.BatchNorm1d(10), torch.randn(32, 16, 10)  # (N, L, C)
    raising, lasting = "layer(x)", fix == 0
    if fix == 0:
        after = "assert same(y.mean(dim=(0, 1)), torch.zeros(10))"
    square = torch.randn(32, 10, 10) + torch.arange(10.0)  # L = C: no error
    assert not same(layer(square).mean(dim=(0, 1)), torch.zeros(10))
    return locals()


@case
def replace_by_group_norm():
    channels, groups, lasting = 48, 32, True
    model, x = conv().append(nn.BatchNorm2d(4)), torch.randn(1, 3, 5, 5)
    raising, after = "nn.GroupNorm(groups, channels)", "assert len(model(x)) == 1"
    return locals()


@case
def made_in_forward():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 8)

        def forward(self, x):
            return nn.BatchNorm1d(8)(self.linear(x))

    model, x, different = Net(), torch.randn(6, 4), changes
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        model.eval()(x[:1])
    symptom = "different(model.eval(), x)"
    return locals()


@case
def own_layer(fix):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.running_var = torch.ones(3)  # no buffer

    layer, x, raised = Own(), torch.randn(32, 3), pytest.raises
    if fix == 0:
        layer.register_buffer("running_mean", torch.zeros(3))
        for n in (32, 1, 32, 32):
            x = torch.randn(n, 3)
            layer.running_var = 0.9 * layer.running_var + 0.1 * x.var(dim=0)
        x, lasting = x[:1], True
        after = "with raised(ValueError): two_values_at_least(x)"
    return locals()


@case
def bias_before_batch_norm():
    linear, norm, x = nn.Linear(64, 32), nn.BatchNorm1d(32), torch.randn(16, 64)
    pushed = copy.deepcopy(linear)
    pushed.bias.data += 10
    assert torch.allclose(norm(pushed(x)), norm(linear(x)), atol=1e-4)
    backward = "loss = norm(linear(x)).pow(3).sum()"
    loss = norm(linear(x)).pow(3).sum()
    after = backward
    return locals()


@case
def dropout_before_batch_norm():
    x = torch.randn(20_000, 8) + 1
    model = nn.Sequential(
        *(nn.Linear(8, 32), nn.ReLU(), nn.Dropout(0.5)),
        *(nn.BatchNorm1d(32, momentum=1), nn.Linear(32, 2)),
    )
    model(x)
    before_norm, layer = model[:3], model[3]
    after = "model[1].momentum = 1; model(x); before_norm, layer = model[:1], model[1]"
    return locals()


@case
def batch_norm_on_the_output():
    w = torch.randn(6)
    some = [torch.randn(4, 6) for _ in range(2000)]
    batches = [(x, (x @ w)[:, None]) for x in some]
    model, learn = nn.Sequential(nn.Linear(6, 1), nn.BatchNorm1d(1)), train

    def error(model):  # of the variance, by batches of 4 as in training
        lost = [mse_loss(model(x), y).item() for x, y in batches[-200:]]
        return sum(lost) / len(lost) / w.square().sum().item()

    train(model, batches, 0.02, mse_loss)
    symptom, loss = "error(model) > 0.2", mse_loss
    after = "learn(model, batches, 0.02, loss)"
    return locals()


@case
def keras_momentum():
    layer, mean = nn.BatchNorm1d(3, momentum=0.9), torch.zeros(3)
    xs = [torch.randn(8, 3) for _ in range(20)]
    for x in xs:
        mean = 0.9 * mean + 0.1 * x.mean(dim=0)  # Keras's formula
        layer(x)
    symptom = "not same(layer.running_mean, mean)"
    after = "for x in xs: layer(x)"
    assert (nn.BatchNorm1d(3).momentum, nn.BatchNorm1d(3).eps) == (0.1, 1e-5)
    return locals()


# Training


@case
def one_value_per_channel(fix):
    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 256, 1))
    model = nn.Sequential()
    model.pooled = pooled.append(nn.BatchNorm2d(256))
    layer, x = pooled[2], torch.randn(1, 256, 1, 1)  # x: the layer's input
    data, lasting = torch.randn(33, 3, 5, 5), fix > 0
    raising = "model(data[:1])"
    if fix == 1:
        after = "for batch in loader: model(batch)"
    nn.BatchNorm2d(3)(data[:1])  # one image, with positions
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        nn.BatchNorm1d(512)(torch.randn(1, 512))
    return locals()


@case
def last_batch_of_one():
    data, model = torch.randn(33, 8), nn.BatchNorm1d(8)
    loader = DataLoader(data, 8)
    raising = "for x in loader: model(x)"
    message = "Expected more than 1 value per channel"
    return locals()


@case
def group_norm_with_groups_of_one():
    layer, x = nn.GroupNorm(4, 4), torch.randn(1, 4)
    assert layer(torch.randn(5, 4)).abs().max() < 1e-3  # the bias alone
    raising = "layer.eval()(x)"
    return locals()


@case
def instance_norm_of_one_position():
    layer, x, lasting = nn.InstanceNorm2d(3), torch.randn(4, 3, 1, 1), True
    raising = "layer(x)"
    return locals()


@case
def mixed_dtypes(fix):
    model, x = conv(), torch.randn(2, 3, 5, 5)
    layer = model[1]
    if fix == 0:
        layer.weight.data, layer.bias.data = torch.ones(2, 4).half()
        raising = "layer(model[0](x).half())"
        assert nn.BatchNorm1d(4)(torch.randn(8, 4).half()).dtype == torch.float16
        with pytest.raises(RuntimeError, match=r"mixed dtype \(CPU\)"):
            nn.BatchNorm1d(4).half()(torch.randn(8, 4))
        return locals()
    one_process()
    policy = MixedPrecisionPolicy(param_dtype=torch.float16)
    broken = fully_shard(conv(), mp_policy=policy)
    broken.unshard()  # what the policy makes of the layer
    layer = broken[1]
    raising, after = "broken(x)", "model(x).sum().backward()"
    return locals()


@case
def vmap(fix):
    models = [nn.BatchNorm1d(3) for _ in range(5)]
    layer, x, per = models[0], torch.randn(5, 8, 3), torch_vmap
    raising, lasting = "per(layer)(x)", fix == 0
    if fix == 0:
        after = """
assert same(y, torch.stack([m(data) for m, data in zip(models, x)]))
assert same(buffers["running_mean"], torch.stack([m.running_mean for m in models]))"""
    return locals()


@case
def per_example_gradients(fix):
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten())
    model.append(nn.Linear(4 * 36, 2))
    x, y = torch.randn(3, 1, 8, 8), torch.tensor([0, 1, 0])

    def gradients(model):
        def loss(weights, x, y):
            return cross_entropy(functional_call(model, weights, (x[None],)), y[None])

        weights = dict(model.named_parameters())
        return torch_vmap(grad(loss), (None, 0, 0))(weights, x, y)

    raising = "assert len(gradients(model)['0.weight']) == 3"
    return locals()


@case
def opacus():
    return {"model": nn.BatchNorm1d(4), "symptom": "True"}


def net_with_backbone():
    model = nn.Sequential()
    model.backbone = nn.Sequential(nn.Linear(64, 8), nn.BatchNorm1d(8))
    model.head = nn.Linear(8, 10)
    return model


@case
def frozen_backbone_changes():
    model, x, y = net_with_backbone(), torch.randn(32, 64), torch.arange(32) % 10
    half = copy.deepcopy(model)  # eval() alone: γ and β learn
    half.backbone.eval()
    step(half, x, y)
    assert same(half.backbone[1].running_mean, torch.zeros(8))
    assert half.backbone[1].bias.any()
    model.backbone.requires_grad_(False)  # alone: the statistics move

    def train_one_step():
        step(model, x, y)

    return locals()


@case
def tracking_flag_set_later():
    backbone, x = nn.BatchNorm1d(3), 5 + torch.randn(32, 3)
    for _ in range(200):
        backbone(torch.randn(32, 3))
    backbone.track_running_stats = False
    symptom = "backbone(x).mean().abs() < 0.1"  # by the batch; frozen, it is 5
    return locals()


@case
def unfreezing():
    model = net_with_backbone()
    for _ in range(100):
        model(torch.randn(64, 64) + 1)
    model.backbone.requires_grad_(False)
    x = torch.randn(4, 64) + 1  # small batches
    model.train()
    return locals()


@case
def frozen_statistics_ignore_the_batch():
    return {"model": dense(), "x": torch.randn(8, 64)}


@case
def accumulation():
    model, x, y = dense(), torch.randn(32, 64), torch.arange(32) % 10

    def gradient(sizes):
        model.zero_grad()
        for part, target in zip(x.split(sizes), y.split(sizes)):
            cross_entropy(model(part), target, reduction="sum").backward()
        return model[0].weight.grad

    symptom = "not torch.allclose(gradient(32), gradient(4), 1e-3, 1e-3)"
    return locals()


@case
def sorted_batches():
    (x, y), test = load_digits().train, load_digits().test
    order, classes = y.argsort(), 10
    data, learn, score = TensorDataset(x, y), train, right
    loader = DataLoader(TensorDataset(x[order], y[order]), 32)
    model = train(dense(), [batch for _ in range(6) for batch in loader])
    symptom = "score(model.eval(), *test) < 75"
    after = """
torch.manual_seed(0)
model = learn(new(), [batch for _ in range(6) for batch in loader])"""
    new = dense
    return locals()


@case
def padding():
    mask = torch.arange(20) < torch.tensor([2, 5, 9, 20])[:, None]  # (N, L)
    x = (3 + torch.randn(4, 20, 6)) * mask[..., None]  # zeros where padded
    layer, lasting = nn.BatchNorm1d(6), True
    y = layer(x.transpose(1, 2)).transpose(1, 2)
    symptom = "not same(y[mask].mean(dim=0), torch.zeros(6))"
    assert same(nn.LayerNorm(6)(x)[0, :2], nn.LayerNorm(6)(x[0, :2]))
    return locals()


@case
def gradient_penalty():
    critic = nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32))
    critic.extend([nn.LeakyReLU(0.2), nn.Linear(32, 1)])
    x = torch.randn(16, 8)

    def share(critic):  # the penalized norm over the one that is meant
        z = x.detach().requires_grad_()
        usual = torch.autograd.grad(critic(z).sum(), z)[0].norm(dim=1)
        own = torch.autograd.functional.jacobian(lambda v: critic(v)[:, 0], x)
        return usual / torch.stack([own[i, i].norm() for i in range(16)])

    symptom = "share(critic).min() < 0.4 and share(critic).max() < 0.95"
    return locals()


@case
def real_and_fake_in_one_batch(fix):
    discriminator = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8))
    real, fake, lasting = torch.randn(16, 3) + 5, torch.randn(16, 3), fix == 0
    joint = discriminator(torch.cat([real, fake]))
    assert ((joint[:16].mean(dim=0) - joint[16:].mean(dim=0)).abs() > 0.5).any()
    if fix == 0:
        after = "assert same(d_real.mean(dim=0), d_fake.mean(dim=0))"
    return locals()


@case
def contrastive_cheating():
    encoder = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8))
    return {"encoder": encoder, "x": torch.randn(4, 8)}


@case
def checkpointing_updates_twice():
    block = nn.Sequential(nn.BatchNorm1d(3))
    once, layer, lasting = nn.BatchNorm1d(3), block[0], True
    xs = [torch.randn(8, 3).requires_grad_() for _ in range(20)]

    def train_one_step(x=xs[0]):
        checkpoint(block, x, use_reentrant=False).square().sum().backward()

    def moved():
        layer.reset_running_stats()
        once.reset_running_stats()
        for x in xs:
            train_one_step(x), once(x)
        return not same(layer.running_mean, once.running_mean)

    symptom = "moved()"
    return locals()


# Validating


def domains(scale=0.1):
    """The loaders of two domains, and both in turn."""
    centre = torch.randn(4, 8)

    def batch(domain, n=64):
        x, y = blobs(n, centre, 0.5)
        return (x, y) if domain == "source" else (scale * x + 4, y)

    loaders = {d: [batch(d) for _ in range(50)] for d in ("source", "target")}
    alternate = [b for pair in zip(*loaders.values()) for b in pair]
    return loaders, alternate


@case
def two_domains(fix):
    loaders, alternate = domains(scale=1 if fix == 1 else 0.1)
    model = train(dense(8, 32, 4), alternate * 4, 0.3)
    accuracy = from_page(TREE, "accuracy", model=model, loader=alternate)
    for part in loaders.values():  # each good by its own statistics
        assert accuracy(model, part, batch_statistics=True) > 0.9
    nets, lasting = {}, fix == 0
    symptom = "min(accuracy(nets.get(d, model), loaders[d]) for d in loaders) < 0.8"
    update_bn(alternate, model)  # and new ones of both do not help
    if fix == 1:
        (source, _), (target, _) = alternate[:2]
        learn, new = train, dense
        after = """
assert len(out_source) == len(out_target) == 64
pairs = zip(*loaders.values())
mixed = [tuple(map(torch.cat, zip(a, b))) for a, b in pairs]
model = learn(new(8, 32, 4), mixed * 8, 0.3)"""
    return locals()


TREE = "good-in-training-bad-in-eval"


@case
def image_to_image(fix):
    def pair(size):  # the light differs; the target does not contain it
        y = torch.randn(1, 1, size, size)
        return 3 * torch.rand(1) * y + 4 * torch.randn(1), y

    def generator(norm):
        blocks = [(nn.Conv2d(a, 8, 3, padding=1), norm(8), nn.ReLU()) for a in (1, 8)]
        return nn.Sequential(*sum(blocks, ()), nn.Conv2d(8, 1, 3, padding=1))

    def learn(model):
        optimizer = torch.optim.Adam(model.train().parameters(), 3e-3)
        for _ in range(600):
            x, y = pair(12)
            optimizer.zero_grad()
            mse_loss(model(x), y).backward()
            optimizer.step()
        return model.eval()

    @torch.no_grad()
    def error(model):
        return sum(mse_loss(model(x), y).item() for x, y in test) / len(test)

    test = [pair(12) for _ in range(100)]
    model, lasting = learn(generator(nn.BatchNorm2d)), True
    loader = DataLoader(TensorDataset(torch.zeros(5)), 1)
    update_bn([pair(12)[0] for _ in range(300)], model)  # does not help
    symptom, after = "error(model) > 0.5", "learn(model)" if fix else "pass"
    return locals()


@case
def meta_learning():
    return {"model": dense(), "queries": torch.randn(8, 64)}


@case
def prediction_depends_on_the_batch():
    return {"model": dense(), "x": torch.randn(8, 64)}


@case
def no_grad_is_not_eval():
    model = nn.Sequential(nn.BatchNorm1d(3))
    layer, x = model[0], torch.randn(8, 3) + 5
    with torch.inference_mode():
        model(x)
    assert layer.running_mean.any()
    return locals()


@case
def nan_stays(fix):
    x, y = torch.randn(32, 8), torch.randint(2, (32,))
    model, loader, loss_function = dense(8, 8, 2), [(x, y)] * 5, cross_entropy
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scaler = torch.amp.GradScaler("cpu")

    def step_in_half(x):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.float16):
            loss = cross_entropy(model(x).float(), y)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    before = [p.clone() for p in model.parameters()]
    if fix == 0:
        model(x * torch.tensor([torch.nan] + [1] * 7))
        symptom = "model.eval()(x).isnan().any()"
    else:
        step_in_half(1e6 * x)
        symptom, big = "model.eval()(x).isnan().any()", 1e6 * x
        after = """
with torch.autocast("cpu", dtype=torch.bfloat16):  # the batch that overflowed
    model(big)
update_bn(loader, model)"""
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters()))
    for _ in range(200):
        step_in_half(x)
    return locals()


@case
def half_precision_zeros(fix):
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    x = 300 * torch.randn(256, 3)
    model[0].weight.data, model[0].bias.data = 2 * torch.eye(3), torch.zeros(3)
    model.half()
    x = x.half()
    for _ in range(200):
        model(x)
    loader, symptom = [x] * 5, "(model.eval()(x) == 0).all()"
    if fix == 0:  # the same training, repaired from its beginning
        after = "model[1].reset_running_stats()\nfor _ in range(200): model.train()(x)"
    return locals()


@case
def eval_without_running_statistics():
    bare = nn.BatchNorm1d(512, track_running_stats=False)
    model = nn.Sequential(nn.Linear(8, 512), bare).eval()
    x, loader = torch.randn(1, 8), [torch.randn(32, 8)] * 5
    raising = "model(x)"
    return locals()


@case
def padding_in_eval_mode():
    net = nn.Sequential(nn.Conv1d(4, 8, 3, padding=1), nn.BatchNorm1d(8), nn.ReLU())
    net.append(nn.Conv1d(8, 8, 3, padding=1))
    for _ in range(100):
        net(1 + torch.randn(16, 4, 20))
    x, mask, lasting = 1 + torch.randn(1, 4, 20), torch.ones(1, 1, 20), True
    after = """
pad = lambda t: nn.functional.pad(t, (0, 10))
assert same(masked(net, pad(x), pad(mask))[..., :20], net(x))"""
    return locals()


@case
def score_depends_on_the_batch_size():
    model, lasting = dense(20, 64, 5).eval(), True
    x, total, batch_size = torch.randn(1003, 20), 1003, 500
    y = model(x).argmax(dim=1)
    y[:800] = (y[:800] + 1) % 5  # the last 203 are right
    loader = list(zip(x.split(batch_size), y.split(batch_size)))
    means = [right(model, a, b) for a, b in loader]
    hits = total * sum(means) / len(means) / 100
    states = {47: 100 * hits / total, 20: right(model, x, y)}
    symptom = "hits != 203"
    return locals()


@case
def validation_better_than_training():
    x, y = blobs(512, 1.2 * torch.randn(5, 16), 1.5)
    model = nn.Sequential(nn.Linear(16, 64), nn.BatchNorm1d(64), nn.ReLU())
    model.extend([nn.Dropout(0.5), nn.Linear(64, 5)])
    train_loader = list(zip(x.split(8), y.split(8)))
    seen = []
    for a, b in train_loader:
        seen.append((model(a).argmax(dim=1) == b).float().mean().item())
        train(model, [(a, b)])
    printed, in_eval_mode, lasting = sum(seen) / len(seen), 1.0, True
    in_eval_mode = right(copy.deepcopy(model).eval(), x, y) / 100
    states = {66: 100 * printed, 93: 100 * in_eval_mode}
    return locals()


@case
def averaged_weights():
    x, y = load_digits().train
    batches, loader = list(zip(x.split(32), y.split(32))), [x]
    model = train(dense(), batches * 3, 1.0)
    average = AveragedModel(model)
    train(model, batches, 1.0, then=lambda: average.update_parameters(model))
    inner = average.module
    symptom = "not same(inner[1].running_var, inner[0](x).var(dim=0))"
    return locals()


@case
def averages_without_buffers(fix):
    centre = 3 * torch.randn(4, 8)
    batches = [blobs(32, centre, shift=5.0) for _ in range(400)]
    test, score = blobs(2000, centre, shift=5.0), right
    model = dense(8, 32, 4)
    average = copy.deepcopy(model)

    def lerp():
        with torch.no_grad():
            for a, b in zip(average.parameters(), model.parameters()):
                a.lerp_(b, 0.01)

    train(model, batches, 0.3, then=lerp)
    states = {40: right(average.eval(), *test), 99: right(model.eval(), *test)}
    symptom = "score(average.eval(), *test) < 60"

    def train_with(average):
        again = copy.deepcopy(model)
        then = partial(average.update_parameters, again)
        train(again, batches, 0.3, then=then)

    return locals()


@case
def averaging_parameters_only():
    clients = [nn.BatchNorm1d(3) for _ in range(2)]
    for shift, client in enumerate(clients):
        for _ in range(100):
            client(torch.randn(64, 3) + 10 * shift)
    server = nn.BatchNorm1d(3)
    for p, *ps in zip(server.parameters(), *(c.parameters() for c in clients)):
        p.data = torch.stack(ps).mean(dim=0)
    after = """
assert (server.running_mean - 5).abs().max() < 0.5
assert (server.running_var - 1).abs().max() < 0.5  # of all data it is 26"""
    return locals()


# Saving and loading


@case
def unexpected_keys():
    class Own(nn.Module):
        """A BN without the counter of batches."""

        def __init__(self):
            super().__init__()
            for name in ("weight", "bias", "running_mean", "running_var"):
                self.register_buffer(name, torch.ones(3))

    model = nn.ModuleDict({"bn1": Own()})
    theirs = nn.ModuleDict({"bn1": nn.BatchNorm1d(3)})
    state, raising = theirs.state_dict(), "model.load_state_dict(state)"
    theirs.load_state_dict(model.state_dict())  # an old file loads without ado
    return locals()


@case
def missing_keys():
    x, lasting = 5 + torch.randn(64, 3), True
    state = nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False)).state_dict()
    model, loader = nn.Sequential(nn.BatchNorm1d(3)), x.split(32)
    raising = "model.load_state_dict(state)"
    after = "assert model(x).mean().abs() < 0.1"  # 5 with 0 and 1
    return locals()


@case
def prefixed_keys():
    def net():
        return nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))

    model, raising = net(), "model.load_state_dict(state)"
    state = torch.compile(nn.DataParallel(net())).state_dict()
    with pytest.raises(RuntimeError, match='Unexpected.*"_orig_mod.module.0.weight"'):
        model.load_state_dict(state)
    state = torch.compile(net()).state_dict()
    return locals()


@case
def instance_norm_old_buffers(fix):
    def net(**options):
        layer = nn.InstanceNorm2d(4, affine=True, **options)
        return nn.Sequential(nn.Conv2d(3, 4, 1), layer)

    state = dict(net(track_running_stats=True).state_dict())
    del state["1.num_batches_tracked"]
    model, raising = net(), "model.load_state_dict(dict(state))"
    return locals()


@case
def float_to_long():
    other = nn.BatchNorm1d(3).state_dict()
    total, lasting = {k: v.clone() for k, v in other.items()}, True
    raising = "for name, value in other.items(): total[name] += 0.5 * value"
    after = "assert same(total['weight'], torch.full((3,), 2.0))"
    return locals()


@case
def epsilon_lost_in_conversion():
    x = 0.01 * torch.randn(8, 4)
    theirs, model = nn.BatchNorm1d(4, eps=1e-3), nn.BatchNorm1d(4)
    for _ in range(100):
        theirs(x)
    model.load_state_dict(theirs.state_dict())
    theirs.eval(), model.eval()
    symptom = "model(x).std() > 2 * theirs(x).std()"
    return locals()


# Exporting


@case
def fusion():
    model, x = conv(), torch.randn(2, 3, 8, 8)
    for _ in range(50):
        model(torch.randn(16, 3, 8, 8) + 1)
    clone, fuse = copy.deepcopy, torch.nn.utils.fusion.fuse_conv_bn_eval
    fused = fuse(*copy.deepcopy(model).eval())
    symptom = "not same(fused(x), model(x))"
    linear, norm = nn.Linear(4, 4).eval(), nn.BatchNorm1d(4).eval()
    both = torch.nn.utils.fusion.fuse_linear_bn_eval(linear, norm)
    assert same(both(x[0, 0, :, :4]), norm(linear(x[0, 0, :, :4])))
    return locals()


@case
def fusion_modes(fix):
    model, x = conv().train(), torch.randn(4, 3, 5, 5) + 1
    model[1].eval()
    fuse = torch.ao.quantization.fuse_modules_qat
    raising, lasting = "fuse(model, ['0', '1'])", False
    if fix == 1:  # the other message
        model[1].train()
        with pytest.raises(AssertionError, match="Fusion only for eval!"):
            torch.ao.quantization.fuse_modules(model, ["0", "1"])
        model[1].eval()
        after = "assert isinstance(model[1], nn.Identity)"
    else:
        lasting = True  # frozen inside, and so it should be
        after = """
before = model[0].bn.running_mean.clone()
model.train()(x)
assert torch.equal(before, model[0].bn.running_mean)"""
    return locals()


@case
def quantization_aware_training():
    model, x = conv().train(), torch.randn(4, 3, 5, 5) + 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated
        model = torch.ao.quantization.fuse_modules_qat(model, ["0", "1"])
        model.qconfig = torch.ao.quantization.get_default_qat_qconfig("x86")
        model = torch.ao.quantization.prepare_qat(model)
    return locals()


@case
def batch_norm_before_a_padded_convolution():
    x, norm = torch.randn(2, 3, 8, 8), nn.BatchNorm2d(3, affine=False).eval()
    norm.running_mean += 1
    conv, lasting = nn.Conv2d(3, 4, 3, padding=1), True
    scale = (norm.running_var + norm.eps).sqrt()[None, :, None, None]
    weight = conv.weight / scale
    mean = norm.running_mean[None, :, None, None]
    bias = conv.bias - (weight * mean).sum(dim=(1, 2, 3))
    y = nn.functional.conv2d(x, weight, bias, padding=1)  # the usual folding
    symptom = "not same(y, conv(norm(x)))"
    return locals()


@case
def exported_in_training_form():
    model = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False)).eval()
    x, different = 5 * torch.randn(4, 3, 4, 4), changes
    loader = [x]

    def export():
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            torch.onnx.export(model, (x,), io.BytesIO(), dynamo=False)
        for warning in seen:
            if "batch_norm" in str(warning.message):
                raise warning.message

    raising, symptom = "export()", "different(model, x)"
    return locals()


@case
def exported_mode_is_fixed():
    model, x = nn.Sequential(nn.BatchNorm2d(3)), torch.randn(4, 3, 4, 4)
    program = torch.export.export(model, (x,))
    raising, after = "program.module().eval()", "assert same(module(x), model(x))"
    return locals()


@case
def compile_momentum_none():
    model = nn.Sequential(nn.BatchNorm1d(3, momentum=None))
    x = torch.randn(8, 3)
    raising = "torch.compile(model, fullgraph=True, backend='eager')(x)"
    return locals()


# Several devices


@case
def sync_batch_norm_on_cpu(fix):
    model, x = nn.Sequential(nn.SyncBatchNorm(3)), torch.randn(8, 3, 2, 2)
    assert same(model(x), nn.BatchNorm2d(3)(x))  # without a group: plain BN
    one_process()
    with pytest.raises(ValueError, match="SyncBatchNorm layers only work with GPU"):
        DistributedDataParallel(model)
    raising = "model(x)"
    return locals()


@case
def sync_batch_norm_without_a_group():
    model, x = nn.Sequential(nn.SyncBatchNorm(3)), torch.randn(8, 3, 2, 2)
    raising, wrap = "wrap(model)", DistributedDataParallel
    model(x + 1)
    after = "assert same(model.eval()(x), (x - stored[0]) / (stored[1] + 1e-5).sqrt())"
    stored = [t[:, None, None].clone() for t in [*model.buffers()][:2]]
    return locals()


class TakeTurns(nn.Module):
    """A linear layer and a BN for each of two domains."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.norms = nn.ModuleList([nn.BatchNorm1d(3), nn.BatchNorm1d(3)])

    def forward(self, x, domain):
        return self.norms[domain](self.linear(x))


@case
def unused_parameters(fix):
    one_process()
    net = TakeTurns()
    copied, x = copy.deepcopy(net), torch.randn(8, 3)
    net(x, 0).sum().backward()  # unwrapped, for the test
    model = DistributedDataParallel(copied)
    raising = "for domain in domains: model(x, domain).sum().backward()"
    domains = (0, 1, 0) if fix == 0 else (0, 0)
    return locals()


@case
def two_forwards_in_ddp():
    one_process()
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    x, model = torch.randn(8, 4), DistributedDataParallel(copy.deepcopy(net))
    pinned = DistributedDataParallel(copy.deepcopy(net))
    (pinned(x) + pinned(x)).sum().backward()  # this version does not raise

    def older_torch(model):  # without what it does about it
        keep = "_unsafe_preserve_version_counter"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.autograd, keep, nullcontext)
            (model(x) + model(x)).sum().backward()

    raising = "older_torch(model)"
    return locals()


# The two that need more than one try


def situations():
    """Nets, each with its batches, and what the two steps say: good or bad."""
    x, y = load_digits().train
    raw = 20 + 4 * (x - x.min())  # not standardized
    slow = dense(norm=partial(nn.BatchNorm1d, momentum=0.01))
    order = torch.randperm(len(y))
    stale = [(raw[i], y[i]) for i in order.split(32)]
    yield "out of date", train(slow, stale), stale, (True, False, True)
    few = list(zip(x[:64].split(32), torch.randint(10, (64,)).split(32)))
    yield "overfitting", train(dense(), few * 200), few, (True, True, True)
    _, alternate = domains()
    two = train(dense(8, 32, 4), alternate * 8)
    yield "two domains", two, alternate, (True, False, False)
    noise = [(torch.randn(32, 64), torch.randint(10, (32,))) for _ in range(9)]
    yield "not trained", dense(), noise, (False, False, False)


def test_the_tree_tells_the_causes_apart():
    entry = ENTRIES[TREE]
    for name, model, loader, expected in situations():
        names = {"torch": torch, "nn": nn, "model": model, "loader": loader}
        before = copy.deepcopy(model.state_dict())
        with redirect_stdout(io.StringIO()):
            for code in entry.fixes:
                exec(code, names)
        found = [names["by_batch"], names["by_stored"]]
        found.append(names["accuracy"](names["renewed"], loader))
        assert tuple(score > 0.85 for score in found) == expected, (name, found)
        assert prints(entry.test, names) == (expected[0] and not expected[1]), name
        after = model.state_dict()
        assert all(torch.equal(before[k], after[k]) for k in before), name


PROCESSES = """
import multiprocessing
import os
import time
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

def work(rank, fixed):
    meet = f"file://{folder}/store-{{fixed}}"
    dist.init_process_group("gloo", meet, timedelta(minutes=3), 2, rank)
    data = torch.randn(20, 8)
    names = dict(data=data, loader=DataLoader(data[12 * rank :][:12], 4))
    if fixed:
        exec({fix!r}, names)
    exec({test!r}, names)  # 3 batches, and 2
    net = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8))
    model = DistributedDataParallel(net)
    try:
        for x in names["loader"]:
            start = time.monotonic()
            model(x).sum().backward()
        print("done", flush=True)
        time.sleep(4)  # alive, and busy with other things
    except RuntimeError:  # the other one is gone
        waited = time.monotonic() - start > 2
        print("waited" if waited else "failed", flush=True)
    os._exit(0)


for fixed in (False, True):
    fork = multiprocessing.get_context("fork")
    both = [fork.Process(target=work, args=(rank, fixed)) for rank in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    print("next", flush=True)
"""


def test_hangs(tmp_path):
    """Two processes, unequal numbers of batches, a time limit."""
    entry, script = ENTRIES["hangs"], tmp_path / "hangs.py"
    names = {"folder": tmp_path, "fix": entry.fixes[0], "test": entry.test}
    script.write_text(PROCESSES.format(**names))
    tries = run([sys.executable, script], 300).split("next\n")
    words = re.compile("True|False|done|waited")  # two processes may share a line
    first, second = (sorted(words.findall(said)) for said in tries[:2])
    assert first == ["True", "True", "done", "waited"]
    assert second == ["False", "False", "done", "done"]
