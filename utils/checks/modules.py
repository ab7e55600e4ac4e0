"""Everything about a module that an answer may change behind our back."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from utils.checks.framework import expect


def fill(model: nn.Module) -> nn.Module:
    """Give all BN layers, and instance norms, values that are no defaults."""
    with torch.no_grad():
        for bn in model.modules():
            if not isinstance(bn, _NormBase):
                continue
            if bn.running_mean is not None:
                bn.running_mean.normal_(1, 2)
                bn.running_var.uniform_(0.1, 4)
            if bn.weight is not None:
                bn.weight.uniform_(0.5, 2).mul_(torch.randn(len(bn.weight)).sign())
            if bn.bias is not None:
                bn.bias.normal_()
    return model


def hooks(model: nn.Module) -> int:
    """How many hooks hang on its layers."""
    tables = [
        table
        for module in model.modules()
        for name, table in vars(module).items()
        if name.endswith("_hooks") and isinstance(table, dict)
    ]
    return sum(map(len, tables))


def settings_of(model: nn.Module, deep: bool = True) -> dict[str, object]:
    """Plain attributes of all layers, such as eps, p and momentum; no modes.

    deep: of the layers inside, too.
    """
    return {
        f"{path or 'the layer itself'}.{name}": value
        for path, module in (model.named_modules() if deep else [("", model)])
        for name, value in vars(module).items()
        if not name.startswith("_") and name != "training" and _plain(value)
    }


def _plain(value: object) -> bool:
    return value is None or isinstance(value, (bool, int, float, str, tuple))


def state_of(model: nn.Module, modes: bool = True) -> Iterator[tuple[str, object]]:
    """Name and value of all that it holds: values, flags, modes, settings, hooks."""
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        yield name, tensor.detach().clone()
        yield f"{name}'s requires_grad", tensor.requires_grad
        grad = None if tensor.grad is None else tensor.grad.clone()
        yield f"{name}'s gradient", grad
    if modes:
        for path, module in model.named_modules():
            yield f"the mode of {path or 'the layer itself'}", module.training
    yield from settings_of(model).items()
    yield "the number of hooks", hooks(model)
    kinds = {path: type(m).__name__ for path, m in model.named_modules()}
    yield "the kinds of layers", kinds


def observe_layer(
    answer: Callable, layer: nn.Module, shape: tuple, how: str, *more: object
) -> dict[str, object]:
    """answer(layer, x, *more): output, gradients, and all that the layer holds."""
    dtype = torch.float32 if how == "float32" else torch.float64
    layer, x = fill(layer).to(dtype), 1 + 2 * torch.randn(shape, dtype=dtype)
    weights = torch.randn(shape, dtype=dtype)
    x.requires_grad_()
    with torch.set_grad_enabled(how != "gradients off"):
        y = answer(layer, x, *more)
    expect(
        isinstance(y, Tensor) and y.shape == x.shape,
        f"return one tensor, the layer's output, of the shape of x, {tuple(shape)}",
    )
    seen = {"the output": y.detach(), "whether it has a gradient": y.requires_grad}
    if y.requires_grad:
        inputs = [x, *layer.parameters()]
        found = torch.autograd.grad((y * weights).sum(), inputs, allow_unused=True)
        for name, one in zip(("x", "γ", "β"), found):
            seen[f"the gradient of {name}"] = one
    return seen | dict(state_of(layer))


def optimizer_for(groups: object, keys: set[str], asked: str) -> torch.optim.SGD:
    """SGD with an answer's groups of parameters, each with all keys; NotYet if not.

    asked: what the answer should return, as the hint says it.
    """
    fine = isinstance(groups, (list, tuple)) and len(groups) > 0
    fine = fine and all(isinstance(g, dict) and keys <= g.keys() for g in groups)
    expect(fine, f"it should return {asked}")
    filled = []
    for g in groups:
        alone, params = isinstance(g["params"], Tensor), g["params"]
        kind = isinstance(params, (set, frozenset))
        expect(
            not kind,
            "SGD refuses a set of parameters, whose order is not fixed: use a list",
        )
        params = [params] if alone else [*params]
        expect(
            not any(isinstance(p, str) for p in params),
            'the "params" should be the parameters, not their names alone',
        )
        filled += [dict(g, params=params)] if params else []
    try:
        return torch.optim.SGD(filled, lr=0.1)
    except Exception as error:
        expect(False, f"torch.optim.SGD refuses these groups: {error}")
