"""Each entry of chapters/symptoms.md, run: the symptom, then the fix.

An entry names its test, and tests/test_pages.py sees to it that no test
and no entry stands alone. Where the entry quotes an error message, the
test raises it and compares: `quoted` is the text on the page.
"""

import copy
import re
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn.functional import batch_norm, cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval
from torch.optim.swa_utils import AveragedModel, update_bn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from utils.data import Split, load_digits
from utils.training import batches

PAGE = Path(__file__).resolve().parents[1] / "chapters" / "symptoms.md"


@pytest.fixture(autouse=True)
def same_numbers_each_time():
    torch.manual_seed(0)


@pytest.fixture
def quoted(request):
    """The message that the page quotes in the entry that names this test."""
    entries = re.split(r"^### ", PAGE.read_text(encoding="utf8"), flags=re.M)
    (entry,) = (e for e in entries if f"`{request.node.originalname}`" in e)
    return re.search(r"^```pytb\n(.+?)\n```$", entry, flags=re.M | re.S)[1]


@contextmanager
def raises(message):
    """Hold that the block raises what the page quotes, name and all."""
    with pytest.raises(Exception) as caught:
        yield
    assert message in f"{type(caught.value).__name__}: {caught.value}"


def same(a, b):
    return torch.allclose(a, b, atol=1e-5)


def small_net(norm=nn.BatchNorm1d, width=32):
    return nn.Sequential(
        *(nn.Linear(64, width), norm(width), nn.ReLU()),
        *(nn.Linear(width, width), norm(width), nn.ReLU()),
        nn.Linear(width, 10),
    )


def step(model, x, y, lr=0.1):
    """One update by plain gradient descent."""
    model.zero_grad()
    cross_entropy(model(x), y).backward()
    with torch.no_grad():
        for p in model.parameters():
            if p.grad is not None:
                p -= lr * p.grad


def fit(model, split, steps, lr=0.1, order=None):
    """Train on batches of 32; order gives each batch's rows."""
    model.train()
    rows = order or batches(len(split.y), 32, 0)
    for _ in range(steps):
        i = next(rows)
        step(model, split.x[i], split.y[i], lr)
    return model


@torch.no_grad()
def accuracy(model, split, mode):
    model = copy.deepcopy(model).train(mode == "train")
    return (model(split.x).argmax(dim=1) == split.y).float().mean().item()


@pytest.fixture(scope="module")
def digits():
    return load_digits()


@pytest.fixture
def process_group(tmp_path):
    """A process group of one, on the CPU."""
    path = (tmp_path / "store").as_uri()
    dist.init_process_group("gloo", init_method=path, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


# Errors


def test_one_value_per_channel(quoted):
    with raises(quoted):
        nn.BatchNorm2d(256)(torch.randn(1, 256, 1, 1))
    with raises(quoted.split(", got")[0]):
        nn.BatchNorm1d(512)(torch.randn(1, 512))
    nn.BatchNorm2d(256)(torch.randn(1, 256, 2, 2))
    nn.BatchNorm2d(256)(torch.randn(2, 256, 1, 1))
    nn.BatchNorm2d(256).eval()(torch.randn(1, 256, 1, 1))
    nn.GroupNorm(32, 256)(torch.randn(1, 256, 1, 1))


def test_last_batch_of_one():
    data = TensorDataset(torch.randn(33, 8))
    for drop_last, last in [(False, 1), (True, 8)]:
        loader = DataLoader(data, batch_size=8, drop_last=drop_last)
        sizes = [len(x) for (x,) in loader]
        assert sizes[-1] == last
        alone = last == 1
        with pytest.raises(ValueError, match="more than 1") if alone else nullcontext():
            for (x,) in loader:
                nn.BatchNorm1d(8)(x)


def test_eval_without_running_statistics(quoted):
    layer = nn.BatchNorm1d(512, track_running_stats=False).eval()
    with raises(quoted):
        layer(torch.randn(1, 512))
    nn.BatchNorm1d(512).eval()(torch.randn(1, 512))


def test_group_norm_with_groups_of_one(quoted):
    for mode in (True, False):
        with raises(quoted):
            nn.GroupNorm(4, 4).train(mode)(torch.randn(1, 4))
    nn.GroupNorm(2, 4)(torch.randn(1, 4))


def test_instance_norm_of_one_position(quoted):
    with raises(quoted):
        nn.InstanceNorm2d(3)(torch.randn(4, 3, 1, 1))
    nn.GroupNorm(1, 3)(torch.randn(4, 3, 1, 1))


def test_channels_last_layout(quoted):
    layer, x = nn.BatchNorm1d(10), torch.randn(32, 16, 10)  # (N, L, C)
    with raises(quoted):
        layer(x)
    y = layer(x.transpose(1, 2)).transpose(1, 2)
    assert same(y.mean(dim=(0, 1)), torch.zeros(10))
    square = torch.randn(32, 10, 10) + torch.arange(10.0)  # L = C: no error
    assert not same(layer(square).mean(dim=(0, 1)), torch.zeros(10))


def test_wrong_number_of_dimensions(quoted):
    x = torch.randn(8, 3, 5, 5)
    with raises(quoted):
        nn.BatchNorm1d(3)(x)
    nn.BatchNorm2d(3)(x)
    with pytest.raises(ValueError, match=re.escape("expected 4D input (got 2D input)")):
        nn.BatchNorm2d(3)(torch.randn(8, 3))


def test_mixed_dtypes(quoted):
    x = torch.randn(8, 4)
    weight, bias = torch.ones(2, 4).half()
    statistics = torch.zeros(4), torch.ones(4)
    with raises(quoted):
        batch_norm(x.half(), *statistics, weight, bias, training=True)
    with pytest.raises(RuntimeError, match=r"mixed dtype \(CPU\): expect parameter"):
        nn.BatchNorm1d(4).half()(x)
    assert nn.BatchNorm1d(4)(x.half()).dtype == torch.float16


def test_vmap(quoted):
    x = torch.randn(5, 8, 3)  # (nets, batch, channels)
    with raises(quoted):
        vmap(nn.BatchNorm1d(3))(x)
    layer = nn.BatchNorm1d(3, track_running_stats=False)
    assert same(vmap(layer)(x), torch.stack([layer(one) for one in x]))
    layers = [nn.BatchNorm1d(3) for _ in x]
    stacked = stack_module_state(layers)

    def call(weights, buffers, x):
        return functional_call(layer, (weights, buffers), (x,))

    layer = layers[0]
    y = vmap(call)(*stacked, x)
    assert same(y, torch.stack([one(data) for one, data in zip(layers, x)]))
    assert same(stacked[1]["running_mean"][4], layers[4].running_mean)


def test_per_example_gradients(quoted):
    def gradients(norm):
        model = nn.Sequential(nn.Conv2d(1, 4, 3), norm(4), nn.Flatten())
        model.append(nn.Linear(4 * 36, 2))

        def loss(weights, x, y):
            return cross_entropy(functional_call(model, weights, (x[None],)), y[None])

        x, y = torch.randn(3, 1, 8, 8), torch.tensor([0, 1, 0])
        weights = dict(model.named_parameters())
        return vmap(grad(loss), (None, 0, 0))(weights, x, y)

    with raises(quoted):
        gradients(nn.BatchNorm2d)
    assert gradients(partial(nn.GroupNorm, 2))["0.weight"].shape[0] == 3


def test_sync_batch_norm_on_cpu(request, quoted):
    x = torch.randn(8, 3)
    assert same(nn.SyncBatchNorm(3)(x), nn.BatchNorm1d(3)(x))
    request.getfixturevalue("process_group")
    with raises(quoted):
        nn.SyncBatchNorm(3)(x)
    nn.SyncBatchNorm(3).eval()(x)
    nn.BatchNorm1d(3)(x)


def test_two_forwards_in_ddp(process_group, monkeypatch, quoted):
    x = torch.randn(8, 4)

    def two_forwards(**options):
        net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
        model = DistributedDataParallel(net, **options)
        (model(x) + model(x)).sum().backward()

    two_forwards()  # the pinned version keeps the buffers' versions
    monkeypatch.setattr(torch.autograd, "_unsafe_preserve_version_counter", nullcontext)
    with raises(quoted):
        two_forwards()
    with pytest.warns(FutureWarning):
        two_forwards(broadcast_buffers=False)


def test_unexpected_keys(quoted):
    class Own(nn.Module):
        """A BN without the counter of batches."""

        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))
            self.bias = nn.Parameter(torch.zeros(3))
            self.register_buffer("running_mean", torch.zeros(3))
            self.register_buffer("running_var", torch.ones(3))

    theirs, ours = nn.ModuleDict({"bn1": nn.BatchNorm1d(3)}), Own()
    ours = nn.ModuleDict({"bn1": ours})
    with raises(quoted):
        ours.load_state_dict(theirs.state_dict())
    kept = {
        name: tensor
        for name, tensor in theirs.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    ours.load_state_dict(kept)
    theirs.load_state_dict(kept)  # and an old file loads without ado


# Good in training, bad in evaluation


def test_good_in_training_bad_in_eval(digits):
    x, y = digits.train
    raw = Split(20 + 4 * (x - x.min()), y)  # not standardised
    model = fit(small_net(partial(nn.BatchNorm1d, momentum=0.01)), raw, 40)
    assert accuracy(model, raw, "train") > 0.9
    assert accuracy(model, raw, "eval") < 0.7
    update_bn(raw.x.split(128), model)
    assert accuracy(model, raw, "eval") > 0.9


def test_prediction_depends_on_the_batch():
    model, x = small_net(), torch.randn(8, 64)
    assert not same(model(x)[:2], model(x[:2]))
    model.eval()
    assert same(model(x)[:1], model(x[:1]))


def test_no_grad_is_not_eval():
    layer = nn.BatchNorm1d(3)
    for context in (torch.no_grad, torch.inference_mode):
        before = layer.running_mean.clone()
        with context():
            layer(torch.randn(8, 3) + 5)
        assert not same(layer.running_mean, before)
    before = layer.running_mean.clone()
    layer.eval()(torch.randn(8, 3) + 5)
    assert same(layer.running_mean, before)


def test_nan_stays():
    layer = nn.BatchNorm1d(1)
    layer(torch.tensor([[1.0], [torch.nan]]))
    for _ in range(1000):
        layer(torch.randn(8, 1))
    assert layer.running_mean.isnan().all() and layer.running_var.isnan().all()
    layer.reset_running_stats()
    layer(torch.randn(8, 1))
    assert layer.running_mean.isfinite().all()


def test_half_precision_zeros():
    half, kept = nn.BatchNorm1d(3).half(), nn.BatchNorm1d(3)
    for _ in range(100):
        x = (300 * torch.randn(256, 3)).half()
        half(x), kept(x)
    assert half.running_var.isinf().all()
    assert (half.eval()(x) == 0).all()
    assert kept.eval()(x).std() > 0.9
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).half()
    model[1].float()
    assert model(x).dtype == torch.float16


def test_keras_momentum():
    layer, mean = nn.BatchNorm1d(3, momentum=1 - 0.9), torch.zeros(3)
    wrong = nn.BatchNorm1d(3, momentum=0.9)
    for _ in range(20):
        x = torch.randn(8, 3)
        mean = 0.9 * mean + (1 - 0.9) * x.mean(dim=0)
        layer(x), wrong(x)
    assert same(layer.running_mean, mean)
    assert not same(wrong.running_mean, mean)
    assert (nn.BatchNorm1d(3).momentum, nn.BatchNorm1d(3).eps) == (0.1, 1e-5)


def test_checkpointing_updates_twice():
    def running_mean(momentum, twice):
        torch.manual_seed(0)
        layer = nn.BatchNorm1d(3, momentum=momentum)
        for _ in range(20):
            x = torch.randn(8, 3).requires_grad_()
            y = checkpoint(layer, x, use_reentrant=False) if twice else layer(x)
            y.square().sum().backward()
        return layer.running_mean

    m = 0.1
    assert same(running_mean(m, True), running_mean(1 - (1 - m) ** 2, False))
    assert same(running_mean(1 - (1 - m) ** 0.5, True), running_mean(m, False))


def test_averaged_weights(digits):
    model = fit(small_net(), digits.train, 100, lr=1.0)
    average, order = AveragedModel(model), batches(1024, 32, 1)
    for _ in range(20):
        average.update_parameters(fit(model, digits.train, 10, 1.0, order))
    assert torch.equal(average.module[1].running_var, model[1].running_var)
    update_bn(digits.train.x.split(1024), average)
    z = average.module[0](digits.train.x)
    assert same(average.module[1].running_var, z.var(dim=0))


def test_sorted_batches(digits):
    by_class = digits.train.y.argsort()

    def in_order():
        while True:
            yield from by_class.split(32)

    fresh = {order: small_net() for order in ("sorted", "shuffled")}
    fit(fresh["sorted"], digits.train, 200, order=in_order())
    fit(fresh["shuffled"], digits.train, 200)
    assert accuracy(fresh["sorted"], digits.test, "eval") < 0.7
    assert accuracy(fresh["shuffled"], digits.test, "eval") > 0.85


# Freezing


def frozen_net():
    net = nn.Sequential(nn.Linear(64, 8), nn.BatchNorm1d(8))
    return nn.Sequential(net, nn.Linear(8, 10))


def test_frozen_backbone_changes():
    x, y = torch.randn(32, 64), torch.arange(32) % 10
    model = frozen_net()
    model[0].requires_grad_(False)
    before = copy.deepcopy(model[0].state_dict())
    step(model.train(), x, y)
    assert torch.equal(before["0.weight"], model[0][0].weight)
    assert not same(before["1.running_mean"], model[0][1].running_mean)

    model = frozen_net()
    model[0].eval()  # alone: statistics stay, γ and β learn
    step(model, x, y)
    assert same(model[0][1].running_mean, torch.zeros(8))
    assert not same(model[0][1].bias, torch.zeros(8))

    model = frozen_net()
    model[0].eval().requires_grad_(False)
    model[0].train = lambda mode=True: model[0]
    before = copy.deepcopy(model[0].state_dict())
    step(model.train(), x, y)
    assert all(torch.equal(before[k], v) for k, v in model[0].state_dict().items())


def test_frozen_statistics_ignore_the_batch():
    x = torch.randn(32, 64)
    model = frozen_net().train()
    assert not same(model(x)[:2], model(x[:2]))
    model[0].eval()
    assert same(model(x)[:2], model(x[:2]))


# Batches that mix, split or pad


def gradient(norm, sizes):
    """The gradient for 32 examples, in micro-batches of these sizes."""
    torch.manual_seed(0)
    model = small_net(norm)
    x, y = torch.randn(32, 64), torch.arange(32) % 10
    for part_x, part_y in zip(x.split(sizes), y.split(sizes)):
        cross_entropy(model(part_x), part_y, reduction="sum").backward()
    return model[0].weight.grad


def test_accumulation():
    for norm, equal in [(nn.BatchNorm1d, False), (partial(nn.GroupNorm, 4), True)]:
        assert (
            torch.allclose(gradient(norm, 32), gradient(norm, 4), 1e-3, 1e-3) == equal
        )


def test_padding():
    lengths = torch.tensor([2, 5, 9, 20])
    mask = torch.arange(20) < lengths[:, None]  # (N, L)
    x = (3 + torch.randn(4, 20, 6)) * mask[..., None]  # zeros where padded
    y = nn.BatchNorm1d(6)(x.transpose(1, 2)).transpose(1, 2)
    assert not same(y[mask].mean(dim=0), torch.zeros(6))
    masked = nn.BatchNorm1d(6)(x[mask])  # (real positions, C)
    assert same(masked.mean(dim=0), torch.zeros(6))
    layer_norm = nn.LayerNorm(6)
    assert same(layer_norm(x)[0, :2], layer_norm(x[0, :2]))


def test_real_and_fake_in_one_batch():
    real, fake = torch.randn(16, 3) + 5, torch.randn(16, 3)
    layer = nn.BatchNorm1d(3)
    joint = layer(torch.cat([real, fake]))[:16]
    assert joint.mean() > 0.8
    assert same(layer(real).mean(dim=0), torch.zeros(3))
    group = nn.GroupNorm(1, 3)
    assert same(group(torch.cat([real, fake]))[:16], group(real))


def test_averaging_parameters_only():
    clients = [nn.BatchNorm1d(3) for _ in range(2)]
    for shift, client in enumerate(clients):
        for _ in range(100):
            client(torch.randn(64, 3) + 10 * shift)
    server = nn.BatchNorm1d(3)
    for name, p in server.named_parameters():
        p.data = torch.stack([c.state_dict()[name] for c in clients]).mean(dim=0)
    assert same(server.running_mean, torch.zeros(3))
    average = {
        name: torch.stack([c.state_dict()[name] for c in clients]).double().mean(dim=0)
        for name in server.state_dict()
    }
    server.load_state_dict(average)
    assert (server.running_mean - 5).abs().max() < 0.5
    assert (server.running_var - 1).abs().max() < 0.5  # of all data it is 26


def test_an_example_moves_its_batch_mates():
    x = torch.randn(8, 4, requires_grad=True)
    for norm, others in [(nn.BatchNorm1d(4), True), (nn.GroupNorm(2, 4), False)]:
        (moved,) = torch.autograd.grad(norm(x)[0].square().sum(), x)
        assert bool(moved[1:].any()) == others


# Building and converting


def test_dropout_before_batch_norm():
    z = torch.randn(100_000, 2) + 1

    def shift(*layers):  # variance of BN's input, eval over stored
        net = nn.Sequential(*layers, nn.BatchNorm1d(2, momentum=1))
        net(z)
        inside = nn.Sequential(*layers).eval()(z)
        return (inside.var(dim=0) / net[-1].running_var).mean().item()

    assert shift(nn.ReLU(), nn.Dropout(0.5)) < 0.7
    assert abs(shift(nn.ReLU()) - 1) < 0.01


def test_bias_before_batch_norm():
    linear, norm = nn.Linear(4, 4).double(), nn.BatchNorm1d(4).double()
    x = torch.randn(16, 4).double()
    y = norm(linear(x))
    y.pow(3).sum().backward()
    assert linear.bias.grad.abs().max() < 1e-10
    assert linear.weight.grad.abs().max() > 0.1
    linear.bias.data += 100
    assert same(norm(linear(x)), y)


def test_epsilon_lost_in_conversion():
    x, keras_eps = 0.01 * torch.randn(8, 4), 1e-3
    theirs, ours = nn.BatchNorm1d(4, eps=keras_eps), nn.BatchNorm1d(4)
    ours.load_state_dict(theirs.state_dict())  # ε is not in the file
    assert ours(x).std() > 2 * theirs(x).std()
    ours.eps = keras_eps
    assert same(ours(x), theirs(x))


def test_fusion():
    x, norm = torch.randn(2, 3, 8, 8), nn.BatchNorm2d(4)
    conv = nn.Conv2d(3, 4, 3, padding=1)
    for _ in range(50):
        norm(conv(torch.randn(16, 3, 8, 8)) + 1)
    fused = fuse_conv_bn_eval(conv.eval(), norm.eval())
    assert same(fused(x), norm(conv(x)))
    assert not same(fused(x), norm.train()(conv(x)))  # not in train mode
    linear, norm = nn.Linear(4, 4).eval(), nn.BatchNorm1d(4).eval()
    assert same(
        fuse_linear_bn_eval(linear, norm)(x[0, 0, :, :4]), norm(linear(x[0, 0, :, :4]))
    )


def test_batch_norm_before_a_padded_convolution():
    x, norm = torch.randn(2, 3, 8, 8), nn.BatchNorm2d(3, affine=False).eval()
    norm.running_mean += 1
    conv = nn.Conv2d(3, 4, 3, padding=1)
    folded = copy.deepcopy(conv)  # W(x - m)/s + b = (W/s)x + b - ΣWm/s
    folded.weight.data /= (norm.running_var + norm.eps).sqrt()[None, :, None, None]
    mean = norm.running_mean[None, :, None, None]
    folded.bias.data -= (folded.weight.data * mean).sum(dim=(1, 2, 3))
    expected, got = conv(norm(x)), folded(x)
    assert same(got[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1])
    assert not same(got, expected)
