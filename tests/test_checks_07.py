"""Chapter 07: its checks reject what is wrong and accept what is right."""

import copy
from math import gcd
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader, TensorDataset

from tests.resnet import resnet18_like
from tests.verdicts import verdict
from utils import checks


def half(a, b):
    return (a - b) / 2


RIGHT_PAIRS = {
    "closed form": lambda a, b, eps: half(a, b) / torch.sqrt(half(a, b) ** 2 + eps),
    "rsqrt": lambda a, b, eps: half(a, b) * torch.rsqrt((a - b) ** 2 / 4 + eps),
    "power": lambda a, b, eps: (a - b) / (((a - b) ** 2 + 4 * eps) ** 0.5),
    "as a tanh of asinh": lambda a, b, eps: torch.tanh(
        torch.asinh(half(a, b) / eps**0.5)
    ),
    "by the definition": lambda a, b, eps: (
        (a - torch.stack([a, b]).mean(0))
        / torch.sqrt(torch.stack([a, b]).var(0, correction=0) + eps)
    ),
    "with torch's own": lambda a, b, eps: F.batch_norm(
        torch.stack([a.flatten(), b.flatten()]), None, None, training=True, eps=eps
    )[0].view_as(a),
    "in float32": lambda a, b, eps: RIGHT_PAIRS["rsqrt"](a.float(), b.float(), eps),
    "in numpy": lambda a, b, eps: (
        half(a.numpy(), b.numpy()) / np.sqrt(half(a.numpy(), b.numpy()) ** 2 + eps)
    ),
}
WRONG_PAIRS = {
    "the stub": (lambda a, b, eps: None, "returned nothing"),
    "an ellipsis": (lambda a, b, eps: ..., "returned nothing"),
    "the sign only": (lambda a, b, eps: torch.sign(a - b), "mind eps"),
    "no eps": (lambda a, b, eps: half(a, b) / half(a, b).abs(), "mind eps"),
    "sign reversed": (
        lambda a, b, eps: half(b, a) / torch.sqrt(half(a, b) ** 2 + eps),
        "reversed",
    ),
    "unbiased variance": (
        lambda a, b, eps: half(a, b) / torch.sqrt((a - b) ** 2 / 2 + eps),
        "N - 1",
    ),
    "eps outside the root": (
        lambda a, b, eps: half(a, b) / (half(a, b).abs() + eps),
        "under the root",
    ),
    "not halved": (
        lambda a, b, eps: (a - b) / torch.sqrt((a - b) ** 2 + eps),
        "BN gives",
    ),
    "eps fixed": (
        lambda a, b, eps: half(a, b) / torch.sqrt(half(a, b) ** 2 + 1e-5),
        "BN gives",
    ),
    "eps counted twice": (
        lambda a, b, eps: half(a, b) / torch.sqrt(half(a, b) ** 2 + 2 * eps),
        "BN gives",
    ),
    "for vectors only": (
        lambda a, b, eps: F.batch_norm(
            torch.stack([a, b]), None, None, training=True, eps=eps
        )[0],
        "BN gives",
    ),
    "exits": (lambda a, b, eps: exit(), "raised SystemExit"),
    "both values": (
        lambda a, b, eps: F.batch_norm(torch.stack([a, b]), None, None, training=True),
        "one value for each a",
    ),
    "one number": (lambda a, b, eps: torch.tensor(1.0), "one value for each a"),
    "nan": (lambda a, b, eps: a * float("nan"), "BN gives"),
    "raises": (lambda a, b, eps: a / undefined, "NameError"),  # noqa: F821
    "text": (lambda a, b, eps: "plus or minus one", "raised"),
}


def stored(layer, x):
    """What the layer answers in eval mode, without touching it."""
    buffers = layer.running_mean, layer.running_var
    return F.batch_norm(x, *buffers, layer.weight, layer.bias, eps=layer.eps)


def values(x):
    return x.numel() // x.shape[1]


def careful(layer, x, at_least):
    enough = layer.training and values(x) >= at_least
    return layer(x) if enough else stored(layer, x)


def by_mode(layer, x, at_least):
    """Switch to eval mode and back."""
    was = layer.training
    layer.train(was and x.transpose(0, 1).flatten(1).shape[1] >= at_least)
    y = layer(x)
    layer.train(was)
    return y


def by_hand(layer, x, at_least):
    """Everything written out, the running statistics, too."""
    axes = [0, *range(2, x.dim())]
    shape = [1, -1, *[1] * (x.dim() - 2)]
    mean, var = layer.running_mean, layer.running_var
    n = values(x)
    if layer.training and n >= at_least:
        mean, var = x.mean(axes), x.var(axes, correction=0)
        with torch.no_grad():
            layer.running_mean.lerp_(mean, layer.momentum)
            layer.running_var.lerp_(var * n / (n - 1), layer.momentum)
            layer.num_batches_tracked += 1
    x_hat = (x - mean.view(shape)) / torch.sqrt(var.view(shape) + layer.eps)
    return x_hat * layer.weight.view(shape) + layer.bias.view(shape)


def counts_images(layer, x, at_least):
    enough = layer.training and len(x) >= at_least
    return layer(x) if enough else stored(layer, x)


def more_than(layer, x, at_least):
    enough = layer.training and values(x) > at_least
    return layer(x) if enough else stored(layer, x)


def ignores_mode(layer, x, at_least):
    was = layer.training
    layer.train(values(x) >= at_least)
    y = layer(x)
    layer.train(was)
    return y


def leaves_eval(layer, x, at_least):
    if layer.training and values(x) >= at_least:
        return layer(x)
    return layer.eval()(x)


def leaves_train(layer, x, at_least):
    y = by_mode(layer, x, at_least)
    layer.train()
    return y


def moves_statistics(layer, x, at_least):
    y = careful(layer, x, at_least)
    if layer.training and 1 < values(x) < at_least:
        layer(x)
    return y


def never_moves(layer, x, at_least):
    if layer.training and values(x) >= at_least:
        return F.batch_norm(
            x, None, None, layer.weight, layer.bias, training=True, eps=layer.eps
        )
    return stored(layer, x)


def without_affine(layer, x, at_least):
    if layer.training and values(x) >= at_least:
        return layer(x)
    return F.batch_norm(x, layer.running_mean, layer.running_var, eps=layer.eps)


def default_eps(layer, x, at_least):
    if layer.training and values(x) >= at_least:
        return layer(x)
    buffers = layer.running_mean, layer.running_var
    return F.batch_norm(x, *buffers, layer.weight, layer.bias)


def no_gradient(layer, x, at_least):
    if layer.training and values(x) >= at_least:
        return layer(x)
    with torch.no_grad():
        return stored(layer, x)


def detached_affine(layer, x, at_least):
    if layer.training and values(x) >= at_least:
        return layer(x)
    affine = layer.weight.detach(), layer.bias.detach()
    buffers = layer.running_mean, layer.running_var
    return F.batch_norm(x, *buffers, *affine, eps=layer.eps)


RIGHT_CAREFUL = [careful, by_mode, by_hand]
WRONG_CAREFUL = [
    (lambda layer, x, at_least: None, "returned nothing"),
    (lambda layer, x, at_least: layer(x), "PyTorch's error"),
    (lambda layer, x, at_least: stored(layer, x), "these are enough"),
    (lambda layer, x, at_least: careful(layer, x, 2), "too few"),
    (lambda layer, x, at_least: "text", "return the layer's output"),
    (counts_images, "Count images times positions"),
    (more_than, "`at_least` itself is enough"),
    (ignores_mode, "not that of the layer in this mode"),
    (leaves_eval, "another mode"),
    (leaves_train, "another mode"),
    (moves_statistics, "should stay as it was"),
    (never_moves, "should move on"),
    (without_affine, "should be that of eval mode"),
    (default_eps, "should be that of eval mode"),
    (no_gradient, "no gradient"),
    (detached_affine, "gradient to γ"),
]


def costs(first, second, spread=1.0, shape=12):
    """An answer that returns such costs for the first and the second layer."""
    noise = np.linspace(-spread, spread, shape)
    return lambda place: (first, second)[place] + noise


RIGHT_COSTS = [costs(0.5, 3), costs(-2, 8), costs(4, -1)]
WRONG_COSTS = [
    (lambda place: None, "returned nothing"),
    (costs(70, 68), "accuracies"),
    (costs(2, 47), "last layer"),
    (costs(0.005, 0.03), "in points"),
    (costs(3, 3), "does `place` reach"),
    (costs(3, 33), "we expect"),
    (costs(3, 5, spread=0), "same difference"),
    (costs(3, 5, shape=4), "12 seeds"),
    (lambda place: 3.0, "12 seeds"),
    (lambda place: np.full(12, np.nan), "lower rates"),
]


@pytest.mark.parametrize("name", RIGHT_PAIRS)
def test_batch_of_two_accepts(name):
    passed, said = verdict(checks.batch_of_two, RIGHT_PAIRS[name])
    assert passed, said
    assert said.startswith("Passed: ")


@pytest.mark.parametrize("name", WRONG_PAIRS)
def test_batch_of_two_rejects(name):
    answer, hint = WRONG_PAIRS[name]
    passed, said = verdict(checks.batch_of_two, answer)
    assert passed is False
    assert said.startswith("Not yet: ")
    assert hint in said


@pytest.mark.parametrize("answer", RIGHT_CAREFUL)
def test_careful_accepts(answer):
    passed, said = verdict(checks.careful, answer)
    assert passed, said


@pytest.mark.parametrize(("answer", "hint"), WRONG_CAREFUL)
def test_careful_rejects(answer, hint):
    passed, said = verdict(checks.careful, answer)
    assert passed is False
    assert hint in said


@pytest.mark.parametrize("answer", RIGHT_COSTS)
def test_layer_cost_accepts(answer):
    passed, said = verdict(checks.layer_cost, answer)
    assert passed, said


@pytest.mark.parametrize(("answer", "hint"), WRONG_COSTS)
def test_layer_cost_rejects(answer, hint):
    passed, said = verdict(checks.layer_cost, answer)
    assert passed is False
    assert hint in said


def test_raises_only_under_nbgrader(monkeypatch):
    wrong, right = WRONG_PAIRS["the sign only"][0], RIGHT_PAIRS["rsqrt"]
    monkeypatch.setenv("NBGRADER_EXECUTION", "autograde")
    with pytest.raises(checks.NotYet, match="mind eps"):
        checks.batch_of_two(wrong)
    assert checks.batch_of_two(right)


def test_an_answer_that_warns_stays_silent_on_stderr():
    def warns(a, b, eps):
        import warnings

        warnings.warn("look at me", stacklevel=1)
        return RIGHT_PAIRS["rsqrt"](a, b, eps)

    assert verdict(checks.batch_of_two, warns)[0]


def test_the_random_state_is_left_alone():
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    verdict(checks.careful, careful)
    assert torch.rand(1) == expected


CHAPTER = Path(__file__).parents[1] / "chapters" / "07_batch_size_one.ipynb"
RECIPES = ["replace-bn", "freeze-statistics", "accumulate", "update-statistics"]


@pytest.fixture
def recipe():
    """The chapter's functions to copy, by name, as they stand there."""
    names = dict(nn=nn, gcd=gcd, torch=torch, cross_entropy=F.cross_entropy)
    names |= dict(DataLoader=DataLoader, update_bn=update_bn)
    cells = {cell.id: cell for cell in nbformat.read(CHAPTER, as_version=4).cells}
    for cell_id in RECIPES:
        assert "tags" not in cells[cell_id].metadata  # shown, to be copied
        exec(cells[cell_id].source, names)
    torch.manual_seed(0)
    return names


def batch_norms(model):
    kind = nn.modules.batchnorm._BatchNorm
    return [layer for layer in model.modules() if isinstance(layer, kind)]


def images(n):
    return torch.randn(n, 3, 32, 32), torch.randint(10, (n,))


def test_replace_bn_lets_a_resnet_train_on_one_image(recipe):
    model = resnet18_like().train()
    x, y = images(1)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        model(x)  # 1 x 1 positions in the last stage
    count = len(batch_norms(model))
    assert recipe["replace_bn"](model) is model
    assert not batch_norms(model)
    groups = [m for m in model.modules() if isinstance(m, nn.GroupNorm)]
    assert len(groups) == count == 20
    F.cross_entropy(model(x), y).backward()
    assert all(p.grad is not None for p in model.parameters())
    model.eval()
    x, _ = images(4)
    torch.testing.assert_close(
        model(x), torch.cat([model(one) for one in x.split(1)]), atol=1e-4, rtol=1e-4
    )


def test_replace_bn_finds_groups_for_any_number_of_channels(recipe):
    model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6), nn.BatchNorm2d(6))
    recipe["replace_bn"](model)
    assert [m.num_groups for m in model[1:]] == [2, 2]
    recipe["replace_bn"](nn.Sequential(nn.BatchNorm1d(7)))


def test_frozen_statistics_stay_and_the_rest_learns(recipe):
    model = resnet18_like()
    x, y = images(1)
    before = copy.deepcopy(dict(model.named_buffers()))
    recipe["freeze_statistics"](model.train())
    F.cross_entropy(model(x), y).backward()
    assert all(torch.equal(b, before[k]) for k, b in model.named_buffers())
    assert model.training
    assert not any(layer.training for layer in batch_norms(model))
    assert all(p.grad is not None for p in model.parameters())


def test_accumulating_with_frozen_statistics_is_the_joint_batch(recipe):
    x, y = images(6)
    models = [resnet18_like().double() for _ in range(3)]
    for model, size in zip(models, (1, 4, 6)):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        recipe["accumulate"](model, optimizer, x.double(), y, size)
    joint = models[2].state_dict()
    for model in models[:2]:
        for key, value in model.state_dict().items():
            torch.testing.assert_close(value, joint[key], atol=1e-9, rtol=1e-7)
    start = resnet18_like().double().state_dict()
    assert not torch.equal(joint["fc.weight"], start["fc.weight"])


def test_new_statistics_are_those_of_the_data(recipe):
    model = resnet18_like()
    weights = copy.deepcopy(dict(model.named_parameters()))
    x, y = images(128)
    model = recipe["new_statistics"](model, TensorDataset(3 * x + 2, y), size=64)
    assert all(torch.equal(p, weights[k]) for k, p in model.named_parameters())
    with torch.no_grad():
        z = model.conv1(3 * x + 2)
    torch.testing.assert_close(
        model.bn1.running_mean, z.mean(dim=(0, 2, 3)), atol=1e-3, rtol=1e-2
    )
    torch.testing.assert_close(
        model.bn1.running_var, z.var(dim=(0, 2, 3)), atol=1e-2, rtol=2e-2
    )


def test_converted_layers_are_synchronised():
    model = nn.SyncBatchNorm.convert_sync_batchnorm(resnet18_like())
    layers = batch_norms(model)
    assert len(layers) == 20
    assert all(isinstance(layer, nn.SyncBatchNorm) for layer in layers)
