"""Chapter 10: its checks reject what is wrong and accept what is right."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval
from torch.optim.swa_utils import update_bn

from tests.verdicts import verdict
from utils import checks


def scale_and_shift(bn):
    s = torch.rsqrt(bn.running_var + bn.eps)
    t = -s * bn.running_mean
    return (s * bn.weight, t * bn.weight + bn.bias) if bn.affine else (s, t)


def column(s, layer):
    return s.view(-1, *[1] * (layer.weight.dim() - 1))


def put(new, weight, bias):
    new.weight, new.bias = nn.Parameter(weight.detach()), nn.Parameter(bias.detach())
    return new


def by_copy(layer, bn):
    (s, t), bias = scale_and_shift(bn), 0 if layer.bias is None else layer.bias
    return put(copy.deepcopy(layer), layer.weight * column(s, layer), s * bias + t)


def with_torch(layer, bn):
    layer, bn = copy.deepcopy(layer).eval(), copy.deepcopy(bn).eval()
    linear = isinstance(layer, nn.Linear)
    if not bn.affine:  # fuse_linear_bn_eval needs γ and β
        bn.weight = nn.Parameter(torch.ones_like(bn.running_var))
        bn.bias = nn.Parameter(torch.zeros_like(bn.running_var))
    return (fuse_linear_bn_eval if linear else fuse_conv_bn_eval)(layer, bn)


def anew(layer, bn):
    """A layer made from the arguments of the old one."""
    (s, t), bias = scale_and_shift(bn), 0 if layer.bias is None else layer.bias
    if isinstance(layer, nn.Linear):
        new = nn.Linear(layer.in_features, layer.out_features)
    else:
        names = "in_channels out_channels kernel_size stride padding dilation groups"
        given = {n: getattr(layer, n) for n in [*names.split(), "padding_mode"]}
        new = type(layer)(**given)
    return put(new, torch.einsum("o,o...->o...", s, layer.weight), s * bias + t)


def by_probing(layer, bn):
    """BN's scale and shift from its answers to 0 and 1."""
    bn = copy.deepcopy(bn).eval()
    shape = (1, -1, 1, 1) if isinstance(bn, nn.BatchNorm2d) else (1, -1)
    zero = torch.zeros(4, dtype=bn.running_mean.dtype)
    t = bn(zero.view(shape)).flatten()
    s = bn(zero.add(1).view(shape)).flatten() - t
    bias = zero if layer.bias is None else layer.bias
    return put(copy.deepcopy(layer), layer.weight * column(s, layer), s * bias + t)


def as_a_matrix(layer, bn):
    """The weights as rows, and a diagonal matrix."""
    (s, t), rows = scale_and_shift(bn), layer.weight.flatten(1)
    weight = (torch.diag(s) @ rows).view_as(layer.weight)
    bias = torch.zeros_like(s) if layer.bias is None else layer.bias
    return put(copy.deepcopy(layer), weight, torch.addcmul(t, s, bias))


def in_numpy(layer, bn):
    new = by_copy(layer, bn)
    return put(new, *(torch.tensor(p.detach().numpy()) for p in new.parameters()))


def in_place_on_the_copy(layer, bn):
    """No new parameter but the bias that was missing."""
    s, t = scale_and_shift(bn)
    new = copy.deepcopy(layer)
    with torch.no_grad():
        new.weight.mul_(column(s, layer))
        if new.bias is None:
            new.bias = nn.Parameter(torch.zeros_like(t))
        new.bias.mul_(s).add_(t)
    return new


def wrong_fold(weight=None, bias=None):
    """by_copy with another scale of the weights, or another bias."""

    def answer(layer, bn):
        new, (s, t) = by_copy(layer, bn), scale_and_shift(bn)
        b = torch.zeros_like(s) if layer.bias is None else layer.bias
        gamma = bn.weight if bn.affine else torch.ones_like(s)
        if weight:
            by = weight(bn, gamma)
            return put(new, layer.weight * column(by, layer), by * b + t)
        beta = bn.bias if bn.affine else torch.zeros_like(s)
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
    bn.eval()
    return by_copy(layer, bn)


def in_float32(layer, bn):
    return by_copy(layer, bn).float()


RIGHT_FOLDS = [
    by_copy,
    with_torch,
    anew,
    by_probing,
    as_a_matrix,
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
    "bn left in eval mode": (keeps_eval, "another mode"),
    "in float32": (in_float32, "float64"),
    "only in eval mode": (
        lambda layer, bn: (
            fuse_linear_bn_eval if isinstance(layer, nn.Linear) else fuse_conv_bn_eval
        )(layer, bn),
        "raised AssertionError",
    ),
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


def test_pytorchs_fusion_of_a_linear_layer_needs_gamma_and_beta():
    """As the prompt of exercise 10.2 says."""
    bn = nn.BatchNorm1d(4, affine=False).eval()
    with pytest.raises(TypeError):
        fuse_linear_bn_eval(nn.Linear(5, 4).eval(), bn)
