"""Chapter 08: batch renorm, as the chapter has it, on a residual net."""

from pathlib import Path

import nbformat
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from tests.resnet import resnet18_like

CHAPTER = Path(__file__).parents[1] / "chapters" / "08_other_norms.ipynb"


@pytest.fixture
def batch_renorm():
    """The chapter's layer, as it stands there to be copied."""
    cells = {cell.id: cell for cell in nbformat.read(CHAPTER, as_version=4).cells}
    names = dict(torch=torch, _BatchNorm=_BatchNorm)
    for cell_id in ("renorm-correction", "renorm-code"):
        exec(cells[cell_id].source, names)
    torch.manual_seed(0)
    return names["BatchRenorm"]


def with_renorm(model, layer, **options):
    """The model with batch renorm for BN, its weights kept."""
    state = model.state_dict()
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, _BatchNorm):
                setattr(module, name, layer(child.num_features, **options))
    model.load_state_dict(state)
    return model


def test_batch_renorm_takes_the_place_of_bn_in_a_resnet(batch_renorm):
    x = torch.randn(4, 3, 64, 64)
    model = resnet18_like().eval()
    expected = model(x)
    free = dict(r_max=1e6, d_max=1e6, warm_up=0)
    with_renorm(model, batch_renorm, **free).eval()
    torch.testing.assert_close(model(x), expected, atol=1e-4, rtol=1e-4)
    model.train()  # the first pass moves the running statistics afterwards
    torch.testing.assert_close(model(x), expected, atol=1e-3, rtol=1e-3)
    with_renorm(model, batch_renorm).train()
    F.cross_entropy(model(x), torch.arange(4)).backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("shape", [(8, 4), (8, 4, 5), (8, 4, 3, 3)])
def test_batch_renorm_without_bounds_to_loosen_is_bn(batch_renorm, shape):
    kind = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}[len(shape)]
    bn, layer = kind(4), batch_renorm(4, r_max=1.0, d_max=0.0)
    for _ in range(3):
        x = torch.randn(shape) * 2 + 1
        torch.testing.assert_close(layer(x), bn(x))
    torch.testing.assert_close(layer.state_dict(), bn.state_dict())
    torch.testing.assert_close(layer.eval()(x), bn.eval()(x))
