"""Chapter 10: its checks reject what is wrong and accept what is right."""

import copy

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval
from torch.optim.swa_utils import update_bn

from tests.verdicts import examples
from utils.checks import chapter_10 as checks
from utils.checks.chapter_10 import TRANSPOSED, _adapt, _fold, _rows
from utils.checks.framework import with_edit


def put(new, weight, bias):
    new.weight, new.bias = nn.Parameter(weight.detach()), nn.Parameter(bias.detach())
    return new


def with_torch(layer, bn):
    """PyTorch's functions, where they are right."""
    _fold(layer, bn)  # which refuses what is to be refused
    transposed = isinstance(layer, TRANSPOSED)
    if transposed and layer.groups > 1:
        return _fold(layer, bn)
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
    new = _fold(layer, bn)
    if isinstance(layer, nn.Linear):
        made = nn.Linear(layer.in_features, layer.out_features)
    else:
        names = "in_channels out_channels kernel_size stride padding dilation groups"
        given = {n: getattr(layer, n) for n in [*names.split(), "padding_mode"]}
        if isinstance(layer, TRANSPOSED):
            given["output_padding"] = layer.output_padding
        made = type(layer)(**given)
    return put(made, new.weight, new.bias)


def by_probing(layer, bn):
    """BN's scale and shift from its answers to 0 and 1."""
    new, dtype = _fold(layer, bn), layer.weight.dtype
    shape = (1, -1, 1, 1) if isinstance(bn, nn.BatchNorm2d) else (1, -1)
    zero = torch.zeros(bn.num_features, dtype=bn.running_mean.dtype)
    t = bn(zero.view(shape)).flatten()
    s = bn(zero.add(1).view(shape)).flatten() - t
    bias = zero if layer.bias is None else layer.bias
    weight = layer.weight * _rows(layer, s)
    return put(new, weight.to(dtype), (s * bias + t).to(dtype))


def in_numpy(layer, bn):
    new = _fold(layer, bn)
    return put(new, *(torch.tensor(p.detach().numpy()) for p in new.parameters()))


needs_gamma = with_edit(_fold, "s = gamma / -> s = bn.weight /")


FOLDS = (
    {
        "PyTorch's functions, where they are right": with_torch,
        "made anew": anew,
        "by probing": by_probing,
        "through numpy": in_numpy,
    },
    {
        "a Sequential": (nn.Sequential, "return one layer"),
        "needs gamma": (needs_gamma, "affine=False: your function raised TypeError"),
        "needs a bias": (
            lambda layer, bn: _fold(layer, bn) if layer.bias.dim() else None,
            "bias=False: your function raised AttributeError",
        ),
        "refused without a reason": (
            with_edit(_fold, 'f"this cannot be folded: {obstacle}" -> "no"'),
            "does not say why",
        ),
        "refused by an assertion": (
            with_edit(_fold, "ValueError -> AssertionError"),
            "refuse with a ValueError",
        ),
    },
)


def with_hooks(model, x, correction=1):
    """Compute and store the statistics in a hook, before the layer runs."""

    def store(layer, inputs):
        z = inputs[0].transpose(0, 1).flatten(1)
        layer.running_mean = z.mean(1)
        layer.running_var = z.var(1, correction=correction)

    modes = {m: m.training for m in model.modules()}
    hooks = [m.register_forward_pre_hook(store) for m in checks._norms(model)]
    with torch.no_grad():
        model.eval()(x)
    for hook in hooks:
        hook.remove()
    for m, old in modes.items():
        m.training = old
    return model


def by_a_copy(model, x):
    """Let update_bn work on a copy without dropout, and copy what BN stores."""
    clone = copy.deepcopy(model)
    for m in clone.modules():
        if isinstance(m, (nn.modules.dropout._DropoutNd, nn.InstanceNorm1d)):
            m.eval().train = lambda mode=True, m=m: m
    update_bn([x], clone)
    for mine, its in zip(checks._norms(model), checks._norms(clone)):
        mine.load_state_dict(its.state_dict())
    return model


def with_update_bn(model, x):
    update_bn([x], model)
    return model


def besides(line):
    return with_edit(_adapt, f"modes = -> {line}\n    modes =")


ADAPTS = (
    {
        "hooks": with_hooks,
        "a copy": by_a_copy,
        "reset and 1": with_edit(
            _adapt, "m.train() -> m.reset_running_stats() or m.train()"
        ),
    },
    {
        "the logits": (lambda model, x: model(x), "return the model itself"),
        "update_bn": (with_update_bn, "is dropout off"),
        "resets gamma": (
            besides("[m.reset_parameters() for m in _norms(model)]"),
            "weight is off",
        ),
        "changes x": (besides("x -= x.mean(0)"), "in place"),
        "an attribute": (besides("model.adapted = True"), "adapted is new"),
    },
)
SINGLY = ({}, {"a number": (lambda momentum: -31.0, "(seeds,)")})
test_accepts, test_rejects = examples(
    {checks.fold: FOLDS, checks.adapt: ADAPTS, checks.one_by_one: SINGLY}
)
