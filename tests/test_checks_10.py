"""Chapter 10: its checks reject what is wrong and accept what is right."""

import copy
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval
from torch.optim.swa_utils import update_bn

from tests.resnet import resnet18_like
from tests.verdicts import verdict
from utils import checks

ROOT = Path(__file__).resolve().parent.parent
TEXT = {
    cell["id"]: cell.source
    for cell in nbformat.read(
        next((ROOT / "chapters").glob("10_*.ipynb")), as_version=4
    ).cells
}


TRANSPOSED = nn.ConvTranspose1d, nn.ConvTranspose2d


def scale_and_shift(bn):
    s = torch.rsqrt(bn.running_var + bn.eps)
    s = s if bn.weight is None else s * bn.weight
    t = -s * bn.running_mean
    return s, (t if bn.bias is None else t + bn.bias)


def column(s, layer):
    """As many axes as the weight, for what is no transposed convolution."""
    return s.view(-1, *[1] * (layer.weight.dim() - 1))


def scaled(layer, s):
    """The weight times s, output by output."""
    weight = layer.weight
    if not isinstance(layer, TRANSPOSED):
        return weight * column(s, layer)
    parts = zip(weight.chunk(layer.groups), s.chunk(layer.groups), strict=True)
    ones = [1] * (weight.dim() - 2)
    return torch.cat([w * part.view(1, -1, *ones) for w, part in parts])


def put(new, weight, bias):
    new.weight, new.bias = nn.Parameter(weight.detach()), nn.Parameter(bias.detach())
    return new


def refusing(layer, bn):
    """Raise where nothing can be folded."""
    if not isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d, *TRANSPOSED)):
        raise ValueError("only linear layers and convolutions can be folded")
    if bn.training:
        raise ValueError("BN is in train mode: its factor depends on the batch")
    if bn.running_mean is None:
        raise ValueError("BN has no stored statistics to fold")
    outputs = layer.weight.shape[0]
    if isinstance(layer, TRANSPOSED):
        outputs = layer.weight.shape[1] * layer.groups
    if outputs != bn.num_features:
        raise ValueError("BN has other channels than the layer has outputs")


def by_copy(layer, bn):
    refusing(layer, bn)
    (s, t), bias = scale_and_shift(bn), 0 if layer.bias is None else layer.bias
    weight, dtype = scaled(layer, s), layer.weight.dtype
    new = copy.deepcopy(layer)
    return put(new, weight.to(dtype), (s * bias + t).to(dtype))


def with_torch(layer, bn):
    """PyTorch's functions, where they are right."""
    refusing(layer, bn)
    transposed = isinstance(layer, TRANSPOSED)
    if transposed and layer.groups > 1:
        return by_copy(layer, bn)
    layer, bn = copy.deepcopy(layer).eval(), copy.deepcopy(bn)
    dtype = layer.weight.dtype
    if bn.weight is None:  # fuse_linear_bn_eval needs γ and β
        bn.weight = nn.Parameter(torch.ones_like(bn.running_var))
    if bn.bias is None:
        bn.bias = nn.Parameter(torch.zeros_like(bn.running_var))
    if isinstance(layer, nn.Linear):
        return fuse_linear_bn_eval(layer, bn)
    return fuse_conv_bn_eval(layer, bn, transpose=transposed).to(dtype)


def anew(layer, bn):
    """A layer made from the arguments of the old one."""
    refusing(layer, bn)
    (s, t), bias = scale_and_shift(bn), 0 if layer.bias is None else layer.bias
    if isinstance(layer, nn.Linear):
        new = nn.Linear(layer.in_features, layer.out_features)
    else:
        names = "in_channels out_channels kernel_size stride padding dilation groups"
        given = {n: getattr(layer, n) for n in [*names.split(), "padding_mode"]}
        if isinstance(layer, TRANSPOSED):
            given["output_padding"] = layer.output_padding
        new = type(layer)(**given)
    dtype = layer.weight.dtype
    return put(new, scaled(layer, s).to(dtype), (s * bias + t).to(dtype))


def by_probing(layer, bn):
    """BN's scale and shift from its answers to 0 and 1."""
    refusing(layer, bn)
    shape = (1, -1, 1, 1) if isinstance(bn, nn.BatchNorm2d) else (1, -1)
    zero, dtype = torch.zeros(4, dtype=bn.running_mean.dtype), layer.weight.dtype
    t = bn(zero.view(shape)).flatten()
    s = bn(zero.add(1).view(shape)).flatten() - t
    bias = zero if layer.bias is None else layer.bias
    new = copy.deepcopy(layer)
    return put(new, scaled(layer, s).to(dtype), (s * bias + t).to(dtype))


def in_numpy(layer, bn):
    new = by_copy(layer, bn)
    return put(new, *(torch.tensor(p.detach().numpy()) for p in new.parameters()))


def in_place_on_the_copy(layer, bn):
    """No new parameter but the bias that was missing."""
    refusing(layer, bn)
    s, t = scale_and_shift(bn)
    new = copy.deepcopy(layer)
    with torch.no_grad():
        new.weight.copy_(scaled(layer, s))
        if new.bias is None:
            new.bias = nn.Parameter(torch.zeros_like(t).to(new.weight.dtype))
        new.bias.mul_(s).add_(t)
    return new


def wrong_fold(weight=None, bias=None):
    """by_copy with another scale of the weights, or another bias."""

    def answer(layer, bn):
        new, (s, t) = by_copy(layer, bn), scale_and_shift(bn)
        b = torch.zeros_like(s) if layer.bias is None else layer.bias
        gamma = torch.ones_like(s) if bn.weight is None else bn.weight
        if weight:
            by = weight(bn, gamma)
            return put(new, scaled(layer, by), by * b + t)
        beta = torch.zeros_like(s) if bn.bias is None else bn.bias
        return put(new, new.weight, bias(b, s, bn.running_mean, beta))

    return answer


def needs_affine(layer, bn):
    s = bn.weight / torch.sqrt(bn.running_var + bn.eps)
    return by_copy(layer, bn) if s is not None else None


def forgets_stride(layer, bn):
    new = anew(layer, bn)
    if not isinstance(layer, nn.Linear):
        new.stride = tuple(1 for _ in layer.stride)
    return new


def zero_padding(layer, bn):
    new = anew(layer, bn)
    return new if isinstance(layer, nn.Linear) else plain_padding(new)


def plain_padding(new):
    new.padding_mode = "zeros"
    return new


def in_place(layer, bn):
    new = by_copy(layer, bn)
    return put(layer, new.weight, new.bias)


def input_channels(layer, bn):
    """Scales along the input."""
    (s, _), new = scale_and_shift(bn), by_copy(layer, bn)
    row = s.view(1, -1, *[1] * (layer.weight.dim() - 2))
    square = layer.weight.shape[1] == len(s)
    return put(new, layer.weight * row if square else new.weight, new.bias)


def shares_the_bias(layer, bn):
    new = by_copy(layer, bn)
    if bn.affine:
        with torch.no_grad():
            bn_bias = bn.bias
        new.bias = bn_bias
    return new


def keeps_eval(layer, bn):
    layer.eval()
    return by_copy(layer, bn)


def transposed_as_usual(layer, bn):
    """The first axis of the weight taken for the outputs."""
    if not isinstance(layer, TRANSPOSED):
        return by_copy(layer, bn)
    refusing(layer, bn)
    s, t = scale_and_shift(bn)
    bias = 0 if layer.bias is None else layer.bias
    by = s if len(layer.weight) == len(s) else s[: len(layer.weight)]
    return put(copy.deepcopy(layer), layer.weight * column(by, layer), s * bias + t)


def groups_forgotten(layer, bn):
    """Right for transposed convolutions in one group only."""
    if not isinstance(layer, TRANSPOSED) or layer.groups == 1:
        return by_copy(layer, bn)
    new, (s, _) = by_copy(layer, bn), scale_and_shift(bn)
    by = s[: layer.weight.shape[1]].view(1, -1, *[1] * (layer.weight.dim() - 2))
    return put(new, layer.weight * by, new.bias)


def promotes_half(layer, bn):
    """float16 times float32 is float32."""
    refusing(layer, bn)
    (s, t), bias = scale_and_shift(bn), 0 if layer.bias is None else layer.bias
    return put(copy.deepcopy(layer), scaled(layer, s), s * bias + t)


def refuses_without(*sentences):
    """Refuses, but not in the cases whose message holds one of these."""

    def answer(layer, bn):
        try:
            return by_copy(layer, bn)
        except ValueError as error:
            if not any(sentence in str(error) for sentence in sentences):
                raise
            bn = copy.deepcopy(bn).eval()
            if isinstance(layer, nn.ReLU | nn.GroupNorm) or bn.running_mean is None:
                return copy.deepcopy(layer)
            return put(
                copy.deepcopy(layer),
                layer.weight * scale_and_shift(bn)[0].mean(),
                layer.bias,
            )

    return answer


def says_nothing(layer, bn):
    try:
        return by_copy(layer, bn)
    except ValueError:
        raise ValueError("no") from None


def asserts(layer, bn):
    try:
        return by_copy(layer, bn)
    except ValueError as error:
        raise AssertionError(str(error)) from None


def drops_the_bias(layer, bn):
    """Deletes a parameter of its argument."""
    new = by_copy(layer, bn)
    layer.bias = None
    return new


def in_float32(layer, bn):
    return by_copy(layer, bn).float()


RIGHT_FOLDS = [
    by_copy,
    with_torch,
    anew,
    by_probing,
    in_numpy,
    in_place_on_the_copy,
]
WRONG_FOLDS = {
    "the stub": (lambda layer, bn: None, "returned nothing"),
    "a Sequential": (nn.Sequential, "return one Linear"),
    "no eps": (wrong_fold(lambda bn, g: g / bn.running_var.sqrt()), "eps is missing"),
    "eps outside the root": (
        wrong_fold(lambda bn, g: g / (bn.running_var.sqrt() + bn.eps)),
        "eps belongs under",
    ),
    "eps of 1e-5": (
        wrong_fold(lambda bn, g: g / (bn.running_var + 1e-5).sqrt()),
        "take eps from bn",
    ),
    "no root": (wrong_fold(lambda bn, g: g / (bn.running_var + bn.eps)), "the root"),
    "no gamma": (
        wrong_fold(lambda bn, g: torch.rsqrt(bn.running_var + bn.eps)),
        "multiplied by γ",
    ),
    "weights as they were": (
        wrong_fold(lambda bn, g: torch.ones_like(g)),
        "weights are unchanged",
    ),
    "bias not scaled": (
        wrong_fold(bias=lambda b, s, mean, beta: b - s * mean + beta),
        "old bias is scaled",
    ),
    "bias lost": (
        wrong_fold(bias=lambda b, s, mean, beta: beta - s * mean),
        "old bias got lost",
    ),
    "beta lost": (
        wrong_fold(bias=lambda b, s, mean, beta: s * (b - mean)),
        "β got lost",
    ),
    "mean lost": (
        wrong_fold(bias=lambda b, s, mean, beta: s * b + beta),
        "not subtracted",
    ),
    "mean added": (
        wrong_fold(bias=lambda b, s, mean, beta: s * (b + mean) + beta),
        "wrong sign",
    ),
    "mean not scaled": (
        wrong_fold(bias=lambda b, s, mean, beta: s * b - mean + beta),
        "stored mean is scaled",
    ),
    "beta scaled": (
        wrong_fold(bias=lambda b, s, mean, beta: s * (b - mean + beta)),
        "bias is not",
    ),
    "needs affine": (needs_affine, "raised TypeError"),
    "needs a bias": (
        lambda layer, bn: by_copy(layer, bn) if layer.bias.sum() else None,
        "raised AttributeError",
    ),
    "for linear layers": (
        lambda layer, bn: put(
            copy.deepcopy(layer),
            layer.weight * scale_and_shift(bn)[0][:, None],
            by_copy(layer, bn).bias,
        ),
        "must match the size",
    ),
    "the input's channels": (input_channels, "as many outputs"),
    "stride forgotten": (forgets_stride, "keep stride"),
    "padding mode forgotten": (zero_padding, "circular padding"),
    "in place": (in_place, "changes its arguments"),
    "shares beta": (shares_the_bias, "shares a tensor"),
    "the layer left in eval mode": (keeps_eval, "another mode"),
    "transposed as usual": (transposed_as_usual, "which axis"),
    "groups forgotten": (groups_forgotten, "a transposed one in groups"),
    "half promoted": (promotes_half, "its input will be float16"),
    "train mode folded": (refuses_without("train mode"), "BN in train mode"),
    "no statistics folded": (refuses_without("no stored"), "no stored statistics"),
    "other channels folded": (refuses_without("other channels"), "2 channels"),
    "a ReLU folded": (refuses_without("only linear"), "a ReLU before BN"),
    "refused without a reason": (says_nothing, "does not say why"),
    "refused by an assertion": (asserts, "refuse with a ValueError"),
    "the argument's bias deleted": (drops_the_bias, "changes its arguments"),
    "in float32": (in_float32, "float64"),
}


def norms_of(model):
    kinds = nn.BatchNorm1d, nn.BatchNorm2d
    return [m for m in model.modules() if isinstance(m, kinds)]


def adapt_with(
    momentum=1.0,
    *,
    reset=False,
    dropout=False,
    restore="each",
    momenta=True,
    grad=False,
    frozen=True,
):
    """The solution, with one thing or another done otherwise."""

    def answer(model, x):
        modes = {m: m.training for m in model.modules()}
        mode, norms = model.training, norms_of(model)
        before = [m.momentum for m in norms]
        if not frozen:
            norms = [m for m in norms if m.training or not mode]
        model.train(dropout)
        for m in norms:
            if reset:
                m.reset_running_stats()
            m.train()
            m.momentum = momentum
        with torch.set_grad_enabled(grad):
            out = model(x)
            if grad:
                out.sum().backward()
        if momenta:
            for m, old in zip(norms_of(model), before, strict=True):
                m.momentum = old
        if restore == "each":
            for m, old in modes.items():
                m.training = old
        elif restore == "model":
            model.train(mode)
        return model

    return answer


def with_hooks(model, x, correction=1):
    """Compute and store the statistics in a hook, before the layer runs."""

    def store(layer, inputs):
        z = inputs[0].transpose(0, 1).flatten(1)
        layer.running_mean = z.mean(1)
        layer.running_var = z.var(1, correction=correction)

    modes = {m: m.training for m in model.modules()}
    hooks = [m.register_forward_pre_hook(store) for m in norms_of(model)]
    with torch.no_grad():
        model.eval()(x)
    for hook in hooks:
        hook.remove()
    for m, old in modes.items():
        m.training = old
    return model


def by_a_copy(model, x):
    """Let update_bn work on a copy without dropout, and load its buffers."""
    clone = copy.deepcopy(model)
    for m in clone.modules():
        if isinstance(m, (nn.Dropout, nn.Dropout2d)):
            m.p = 0.0
    update_bn([x], clone)
    model.load_state_dict(clone.state_dict())
    return model


def layer_by_layer(model, x):
    """As many passes as layers, each in eval mode."""
    modes = {m: m.training for m in model.modules()}
    model.eval()
    for layer in norms_of(model):
        seen = []
        hook = layer.register_forward_pre_hook(lambda m, i, seen=seen: seen.append(i))
        with torch.inference_mode():
            model(x)
        hook.remove()
        z = seen[0][0].transpose(0, 1).flatten(1)
        layer.running_mean.copy_(z.mean(1))
        layer.running_var.copy_(z.var(1))
    for m, old in modes.items():
        m.training = old
    return model


def with_update_bn(model, x):
    update_bn([x], model)
    return model


def on_a_copy(model, x):
    return adapt_with()(copy.deepcopy(model), x)


def drags_the_graph(model, x):
    adapt_with()(model, x)
    for m in norms_of(model):
        m.running_mean = m.running_mean + 0 * model[0].weight.sum()
    return model


def resets_gamma(model, x):
    for m in norms_of(model):
        m.reset_parameters()
    return adapt_with()(model, x)


def leaves_hooks(model, x):
    norms_of(model)[0].register_forward_hook(lambda *_: None)
    return adapt_with()(model, x)


def leaves_frozen(model, x):
    return adapt_with()(model.requires_grad_(False), x)


def clears_gradients(model, x):
    model.zero_grad()
    return adapt_with()(model, x)


def without_dropout(model, x):
    for m in model.modules():
        if isinstance(m, (nn.Dropout, nn.Dropout2d)):
            m.p = 0.0
    return adapt_with(dropout=True)(model, x)


def drops_statistics(model, x):
    """Batch statistics for ever."""
    adapt_with()(model, x)
    for m in norms_of(model):
        m.track_running_stats = False
    return model


def in_eval(model, x):
    with torch.no_grad():
        modes = {m: m.training for m in model.modules()}
        model.eval()(x)
    for m, old in modes.items():
        m.training = old
    return model


def top_level_only(model, x):
    """Misses nested layers."""
    before = [copy.deepcopy(m.state_dict()) for m in norms_of(model)]
    adapt_with()(model, x)
    for m, old in zip(norms_of(model), before, strict=True):
        if m not in [*model]:
            m.load_state_dict(old)
    return model


def normalises_x(model, x):
    x -= x.mean(0)
    return adapt_with()(model, x)


def old_statistics_before(model, x):
    """Each layer sees what the layers before make with the old statistics."""
    seen, modes = {}, {m: m.training for m in model.modules()}
    for m in norms_of(model):
        m.register_forward_pre_hook(lambda m, i: seen.__setitem__(m, i[0]))
    with torch.no_grad():
        model.eval()(x)
    for m, z in seen.items():
        m._forward_pre_hooks.clear()
        z = z.transpose(0, 1).flatten(1)
        m.running_mean, m.running_var = z.mean(1), z.var(1)
    for m, old in modes.items():
        m.training = old
    return model


RIGHT_ADAPTS = {
    "momentum 1": adapt_with(),
    "reset and None": adapt_with(None, reset=True),
    "reset and 1": adapt_with(1.0, reset=True),
    "hooks": with_hooks,
    "a copy": by_a_copy,
    "layer by layer": layer_by_layer,
}
WRONG_ADAPTS = {
    "the stub": (lambda model, x: None, "returned nothing"),
    "the logits": (lambda model, x: model(x), "return the model itself"),
    "on a copy": (on_a_copy, "another model"),
    "update_bn": (with_update_bn, "restore each"),
    "dropout on": (adapt_with(dropout=True), "is dropout off"),
    "left in train mode": (adapt_with(restore="no", dropout=True), "restore each"),
    "left in eval mode": (adapt_with(restore="no"), "restore each"),
    "one mode for all": (adapt_with(restore="model"), "one BN in eval mode"),
    "momentum left": (adapt_with(momenta=False), "momentum is not"),
    "old momentum": (adapt_with(0.3), "part of the old mean"),
    "default momentum": (adapt_with(0.1), "part of the old mean"),
    "None without reset": (adapt_with(None), "layer"),
    "frozen layer skipped": (adapt_with(frozen=False), "the old mean is still"),
    "with gradients": (adapt_with(grad=True), "touches gradients"),
    "gradients cleared": (clears_gradients, "touches gradients"),
    "drags the graph": (drags_the_graph, "autograd graph"),
    "biased variance": (lambda m, x: with_hooks(m, x, 0), "divide by N - 1"),
    "resets gamma": (resets_gamma, "it changes"),
    "leaves hooks": (leaves_hooks, "leaves hooks"),
    "leaves frozen": (leaves_frozen, "restore requires_grad"),
    "dropout's rate left at 0": (without_dropout, "restore it"),
    "batch statistics for ever": (drops_statistics, "track_running_stats"),
    "eval mode all along": (in_eval, "still stored"),
    "top level only": (top_level_only, "still stored"),
    "changes x": (normalises_x, "changes x"),
    "old statistics before it": (old_statistics_before, "use the statistics of x"),
}


@pytest.mark.parametrize("answer", RIGHT_FOLDS)
def test_fold_accepts(answer):
    passed, said = verdict(checks.fold, answer)
    assert passed, said


@pytest.mark.parametrize("name", RIGHT_ADAPTS)
def test_adapt_accepts(name):
    passed, said = verdict(checks.adapt, RIGHT_ADAPTS[name])
    assert passed, said


REJECTED = [
    *((checks.fold, *case) for case in WRONG_FOLDS.values()),
    *((checks.adapt, *case) for case in WRONG_ADAPTS.values()),
]


@pytest.mark.parametrize(
    ("check", "answer", "hint"), REJECTED, ids=[*WRONG_FOLDS, *WRONG_ADAPTS]
)
def test_rejects(check, answer, hint):
    passed, said = verdict(check, answer)
    assert passed is False, said
    assert said.startswith("Not yet: ")
    assert hint in said


def singly(values, spread=3.0):
    """An answer to exercise 10.4 with these means."""
    noise = np.linspace(-spread, spread, 12)
    return lambda momentum: values[momentum] + noise


SEEN = {1.0: -31, 0.1: -2, 0.01: -59}


def test_one_by_one_accepts():
    passed, said = verdict(checks.one_by_one, singly(SEEN))
    assert passed, said


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda momentum: None, "returned nothing"),
        (singly({m: v + 88 for m, v in SEEN.items()}), "look like accuracies"),
        (singly({m: -v for m, v in SEEN.items()}), "look like accuracies"),
        (singly({m: v / 100 for m, v in SEEN.items()}, 0.1), "in points"),
        (singly(dict.fromkeys(SEEN, -5.0)), "reach every BN layer"),
        (singly({1.0: -31, 0.1: -31.5, 0.01: -32.0}), "-31.5 points at momentum 0.1"),
        (lambda momentum: SEEN[momentum], "(seeds,)"),
    ],
)
def test_one_by_one_rejects(answer, hint):
    passed, said = verdict(checks.one_by_one, answer)
    assert passed is False
    assert hint in said


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
