"""Chapter 10: the code that a reader would copy, on a residual net."""

import copy
import re
from pathlib import Path

import nbformat
import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from tests.resnet import resnet18_like

ROOT = Path(__file__).resolve().parent.parent
TEXT = {
    cell["id"]: cell.source
    for cell in nbformat.read(
        next((ROOT / "chapters").glob("10_*.ipynb")), as_version=4
    ).cells
}


def test_pytorchs_fusion_of_a_linear_layer_needs_gamma_and_beta():
    """As the prompt of exercise 10.2 says."""
    bn = nn.BatchNorm1d(4, affine=False).eval()
    with pytest.raises(TypeError):
        fuse_linear_bn_eval(nn.Linear(5, 4).eval(), bn)
    bn = nn.BatchNorm1d(4, bias=False).eval()
    with pytest.raises(TypeError):
        fuse_linear_bn_eval(nn.Linear(5, 4).eval(), bn)


def test_pytorchs_fusion_takes_the_wrong_axis_of_a_transposed_convolution():
    """As the prompt of exercise 10.2 says: silent where it is square."""
    torch.manual_seed(0)
    bn = nn.BatchNorm2d(4)
    bn(3 * torch.randn(32, 4, 5, 5) * torch.arange(1, 5)[:, None, None])
    layer, x = nn.ConvTranspose2d(4, 4, 3).eval(), torch.randn(2, 4, 5, 5)
    right = bn.eval()(layer(x))
    assert not torch.allclose(fuse_conv_bn_eval(layer, bn)(x), right, atol=1e-2)
    told = fuse_conv_bn_eval(layer, bn, transpose=True)
    assert torch.allclose(told(x), right, atol=1e-5)


# The code that a reader would copy, on a residual net


@pytest.fixture(scope="module")
def recipes():
    """remeasured, blended, fold_net, adapt and fold, as the chapter has them."""
    names = {"_": None}
    exec(TEXT["imports"].split("SEEDS =")[0], names)
    exec("from utils import checks", names)
    names["checks"] = type("", (), {"adapt": lambda f: True, "fold": lambda f: True})
    exec(re.search(r"```python\n(.*?)```", TEXT["shift-text"], re.DOTALL)[1], names)
    cells = ["blended", "fold", "fold-net", "company-test"]
    for cell in [*cells, "solution-10-1", "solution-10-2"]:
        exec(TEXT[cell], names)
    return names


@pytest.fixture
def resnet():
    return resnet18_like().eval()


def images(n=16):
    torch.manual_seed(1)
    return 3 + 0.3 * torch.randn(n, 3, 64, 64)


def inputs_of_norms(model, x):
    """What reaches each BN layer, in one pass: (channels, values)."""
    seen, hooks = {}, []
    for name, layer in model.named_modules():
        if isinstance(layer, _BatchNorm):
            hooks.append(
                layer.register_forward_pre_hook(
                    lambda _, i, name=name: seen.__setitem__(
                        name, i[0].transpose(0, 1).flatten(1)
                    )
                )
            )
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("name", ["remeasured", "adapt"])
def test_measured_again_a_resnet_has_the_statistics_of_the_images(
    recipes, resnet, name
):
    x, before = images(), copy.deepcopy(resnet)
    measured = recipes[name](resnet, x)
    assert (measured is resnet) == (name == "adapt")
    seen = inputs_of_norms(copy.deepcopy(before).train(), x)
    assert len(seen) == 20
    for layer, z in seen.items():
        norm = measured.get_submodule(layer)
        assert not norm.training
        assert torch.allclose(norm.running_mean, z.mean(1), rtol=1e-4, atol=1e-5)
        assert torch.allclose(norm.running_var, z.var(1), rtol=1e-3)
    old, new = dict(before.named_parameters()), dict(measured.named_parameters())
    assert all(torch.equal(old[n], new[n]) for n in old)


def test_blended_statistics_of_a_resnet(recipes, resnet):
    x, kept = images(), copy.deepcopy(resnet.state_dict())
    new = recipes["remeasured"](resnet, x)
    half = recipes["blended"](resnet, x, prior=len(x))
    whole = recipes["blended"](resnet, x, prior=0)
    assert all(torch.equal(kept[k], v) for k, v in resnet.state_dict().items())
    for name, layer in resnet.named_modules():
        if isinstance(layer, _BatchNorm):
            between = (layer.running_var + new.get_submodule(name).running_var) / 2
            got = half.get_submodule(name).running_var
            assert torch.allclose(got, between, rtol=1e-3)
    with torch.no_grad():
        assert torch.allclose(whole(x), new(x), atol=1e-3)
    assert not any(m.training for m in half.modules())


def test_blended_leaves_dropout_off(recipes):
    x = torch.randn(64, 4)
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.BatchNorm1d(4)).eval()
    first, second = (recipes["blended"](model, x, 0)[2].running_var for _ in range(2))
    assert torch.equal(first, second)


def folded_by_hand(resnet, fold):
    """Each conv and the BN layer that its name says belongs to it."""
    model = copy.deepcopy(resnet)
    for block in model.modules():
        for name, layer in list(block.named_children()):
            if name.startswith("conv"):
                norm = name.replace("conv", "bn")
                setattr(block, name, fold(layer, getattr(block, norm)))
                setattr(block, norm, nn.Identity())
            elif name == "downsample" and layer is not None:
                layer[0], layer[1] = fold(*layer), nn.Identity()
    return model


def norms_left(model):
    return sum(isinstance(m, _BatchNorm) for m in model.modules())


@pytest.mark.parametrize("way", ["fold_net", "fold"])
def test_folded_a_resnet_gives_the_same_outputs(recipes, resnet, way):
    x = images(4)
    if way == "fold_net":
        folded = recipes["fold_net"](resnet)
    else:
        folded = folded_by_hand(resnet, recipes["fold"])
    assert norms_left(resnet) == 20
    assert norms_left(folded) == 0
    with torch.no_grad():
        right, got = resnet(x), folded(x)
    assert torch.allclose(got, right, rtol=1e-3, atol=1e-3 * right.std().item())
    assert recipes["company_matters"](folded, x) < 1e-3


def test_the_shown_code_is_the_code_that_runs():
    shown = re.search(r"```python\n(.*?)```", TEXT["shift-text"], re.DOTALL)[1]
    head, *body = shown.strip().splitlines()
    assert head in TEXT["light"]
    assert "\n".join(body) in TEXT["light"]


def test_a_fused_pair_can_be_trained_frozen_and_converted():
    """What the section on quantisation says of `fuse_modules_qat`."""
    from torch.ao.nn.intrinsic import qat
    from torch.ao.quantization import (
        convert,
        fuse_modules_qat,
        get_default_qat_qconfig,
        prepare_qat,
    )

    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).train()
    x = 2 + torch.randn(16, 3, 5, 5)
    right = copy.deepcopy(net)(x)
    fused = fuse_modules_qat(net, ["0", "1"])
    assert torch.equal(fused(x), right)  # only paired
    fused.qconfig = get_default_qat_qconfig("x86")
    ready = prepare_qat(fused)
    before = ready[0].bn.running_mean.clone()
    ready(x)
    assert not torch.equal(ready[0].bn.running_mean, before)
    ready.apply(qat.freeze_bn_stats)
    before = ready[0].bn.running_mean.clone()
    ready(x)
    assert torch.equal(ready[0].bn.running_mean, before)
    assert norms_left(convert(ready.eval())) == 0
