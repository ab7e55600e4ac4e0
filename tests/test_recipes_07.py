"""Chapter 07: the code that a reader would copy, on a residual net."""

import copy
from math import gcd
from pathlib import Path

import nbformat
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader, TensorDataset

from tests.resnet import resnet18_like

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
