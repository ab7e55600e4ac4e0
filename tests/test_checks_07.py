"""Chapter 07: its checks reject what is wrong and accept what is right."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

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


def is_batch_norm(layer):
    return isinstance(layer, nn.modules.batchnorm._BatchNorm)


def with_hooks(model, x):
    """Forward hooks, eval mode, everything restored."""
    names, handles = [], []
    modes = [(m, m.training) for m in model.modules()]
    for name, layer in model.named_modules():
        if is_batch_norm(layer):

            def hook(layer, inputs, output, name=name):
                if inputs[0].numel() == inputs[0].shape[1]:
                    names.append(name)

            handles.append(layer.register_forward_hook(hook))
    model.eval()(x)
    for handle in handles:
        handle.remove()
    for module, mode in modes:
        module.training = mode
    return names


def with_a_copy(model, x):
    """Work on a deep copy: nothing to restore."""
    import copy

    return with_hooks(copy.deepcopy(model), x)


def by_hand(model, x):
    """Walk a Sequential, no hooks; return a tuple of names."""

    def walk(model, x, prefix):
        names = []
        for name, layer in model.named_children():
            if isinstance(layer, nn.Sequential):
                inner, x = walk(layer, x, f"{prefix}{name}.")
                names += inner
                continue
            if is_batch_norm(layer):
                if x.transpose(0, 1).flatten(1).shape[1] == 1:
                    names.append(prefix + name)
                x = F.batch_norm(x, layer.running_mean, layer.running_var)
            else:
                x = layer(x)
        return names, x

    with torch.no_grad():
        return tuple(walk(model, x, "")[0])


def leaves_eval(model, x):
    names = with_hooks(model, x)
    model.eval()
    return names


def leaves_train(model, x):
    names = with_hooks(model, x)
    model.train()
    return names


def one_mode_for_all(model, x):
    mode = model.training
    names = with_hooks(model, x)
    model.train(mode)
    return names


def leaves_hooks(model, x):
    names = with_hooks(model, x)
    for layer in model.modules():
        if is_batch_norm(layer):
            layer.register_forward_hook(lambda *_: None)
    return names


def only_batch(model, x):
    """Looks at N alone."""
    everything = [n for n, m in model.named_modules() if is_batch_norm(m)]
    return everything if len(x) == 1 else []


def in_train_mode(model, x):
    """Runs in train mode where that does not raise."""
    names = with_hooks(model, x)
    if not names:
        mode = model.training
        model.train()(x)
        model.train(mode)
    return names


def top_level(model, x):
    """Misses nested layers."""
    return [name for name in with_hooks(model, x) if "." not in name]


def first_layer_only(model, x):
    return with_hooks(model, x)[:0]


def first_to_raise(model, x):
    """Trains a copy and catches the error: finds the first layer only."""
    import copy

    clone = copy.deepcopy(model).train()
    h = x
    for layer in clone.children():
        try:
            h = layer(h)
        except ValueError:
            return with_hooks(model, x)[:1]
    return []


def training_layers_only(model, x):
    modes = dict(model.named_modules())
    names = with_hooks(model, x)
    return names if not model.training else [n for n in names if modes[n].training]


def restores_bn_only(model, x):
    mode = model.training
    modes = [(m, m.training) for m in model.modules() if is_batch_norm(m)]
    names = with_hooks(model, x)
    model.train(mode)
    for module, was in modes:
        module.training = was
    return names


def last_axis_only(model, x):
    """Looks at the last axis, not at all positions."""
    seen = []

    def hook(layer, inputs, output):
        shape = inputs[0].shape
        if shape[0] == 1 and (len(shape) == 2 or shape[-1] == 1):
            seen.append(layer)

    names = {m: n for n, m in model.named_modules() if is_batch_norm(m)}
    handles = [m.register_forward_hook(hook) for m in names]
    with_hooks(model, x)
    for handle in handles:
        handle.remove()
    return [names[m] for m in seen]


def leaves_frozen(model, x):
    names = with_hooks(model, x)
    model.requires_grad_(False)
    return names


RIGHT_STARVING = [with_hooks, with_a_copy, by_hand]
WRONG_STARVING = [
    (lambda model, x: None, "returned nothing"),
    (lambda model, x: model(x), "raised ValueError"),
    (lambda model, x: "1", "expected"),
    (leaves_eval, "another mode"),
    (leaves_train, "another mode"),
    (one_mode_for_all, "frozen in eval mode"),
    (leaves_hooks, "hooks"),
    (only_batch, "a conv net, batch 1"),
    (in_train_mode, "running statistics"),
    (top_level, "pooled branch"),
    (first_layer_only, "expected"),
    (first_to_raise, "two BN layers"),
    (training_layers_only, "in eval mode counts"),
    (restores_bn_only, "restore the mode of each layer"),
    (last_axis_only, "a column of positions"),
    (leaves_frozen, "restore requires_grad"),
    (lambda model, x: (n for n in one_mode_for_all(model, x)), "frozen in eval"),
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


@pytest.mark.parametrize("answer", RIGHT_STARVING)
def test_starving_layers_accepts(answer):
    passed, said = verdict(checks.starving_layers, answer)
    assert passed, said


@pytest.mark.parametrize(("answer", "hint"), WRONG_STARVING)
def test_starving_layers_rejects(answer, hint):
    passed, said = verdict(checks.starving_layers, answer)
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
    verdict(checks.starving_layers, with_hooks)
    assert torch.rand(1) == expected
