"""Many nets are one wide net.

Twelve nets of one shape, each with its own weights and inputs, stand side by
side in the channel axis: where one net has (batch, channels), the wide one has
(batch, nets * channels). A layer that treats each channel by itself (batch
norm, ReLU, dropout, pooling) does not care whose channel it is and runs as it
is. A linear layer becomes one batched product, a convolution a grouped one. So
an update of twelve nets costs about as many calls as an update of one, and
calls are what small nets spend their time on.

`side_by_side` builds the wide net, `Vmapped` is the slower way for whatever
has no such form, and `stack` decides, by comparing with the plain nets on one
batch.
"""

import copy
from collections.abc import Sequence

import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

# What draws random numbers, and what reads the value of a tensor
DRAWS = {"rand", "randn", "rand_like", "randn_like", "randint", "randperm"}
DRAWS |= {"normal", "normal_", "uniform_", "bernoulli", "bernoulli_"}
DROPS = {"dropout", "dropout1d", "dropout2d", "alpha_dropout"}
READS = {"__bool__", "__float__", "__int__", "__index__", "item", "tolist", "numpy"}


class WideLinear(nn.Linear):
    """`in_features` and `out_features` are those of one net."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (batch, nets * in)
        weight = self.weight.view(-1, self.out_features, self.in_features)
        x = x.view(len(x), len(weight), self.in_features).transpose(0, 1)
        if self.bias is None:
            y = torch.bmm(x, weight.transpose(1, 2))  # (nets, batch, out)
        else:
            bias = self.bias.view(-1, 1, self.out_features)
            y = torch.baddbmm(bias, x, weight.transpose(1, 2))
        return y.transpose(0, 1).flatten(1)  # (batch, nets * out)


class WideLayerNorm(nn.LayerNorm):
    """`normalized_shape` is that of one net."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shape = self.normalized_shape
        if x.shape[2:] != shape[1:]:
            raise ValueError("not in the channel axis")
        each = x.view(len(x), -1, *shape)  # (batch, nets, channels, ...)
        y = F.layer_norm(each, shape, eps=self.eps)
        if self.weight is not None:
            y = y * self.weight.view(-1, *shape)
        if self.bias is not None:
            y = y + self.bias.view(-1, *shape)
        return y.view_as(x)


def _widen(layer: nn.Module, nets: int) -> None:
    """Let a layer of one net serve `nets` of them; most need no change.

    Subclasses may compute anything: they are left as they are.
    """
    kind = type(layer)
    if kind is nn.Linear:
        layer.__class__ = WideLinear
    elif kind is nn.LayerNorm:
        layer.__class__ = WideLayerNorm
    elif kind in (nn.Conv1d, nn.Conv2d):
        layer.groups *= nets
    elif kind is nn.GroupNorm:
        layer.num_groups *= nets
    elif kind in (nn.InstanceNorm1d, nn.InstanceNorm2d):
        layer.num_features *= nets
    elif kind is nn.Unflatten and layer.dim == 1:
        first, *rest = layer.unflattened_size
        layer.unflattened_size = (nets * first, *rest)


def side_by_side(models: Sequence[nn.Module]) -> nn.Module:
    """One module for all models, its tensors joined along their first axis.

    It takes (batch, nets * channels, ...) and returns (batch, nets * classes).
    """
    wide = copy.deepcopy(models[0])
    for layer, *each in zip(wide.modules(), *(m.modules() for m in models)):
        for tensors in ("_parameters", "_buffers"):
            for name, own in getattr(layer, tensors).items():
                if own is None:
                    continue
                joined = torch.stack([getattr(e, tensors)[name] for e in each])
                own.data = joined.flatten(0, 1) if own.dim() else joined
    for layer in wide.modules():
        _widen(layer, len(models))
    return wide


def _named(model: nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]


class Stack(nn.Module):
    """Many nets as one module: (nets, batch, ...) to (nets, batch, classes)."""

    def __init__(self, models: Sequence[nn.Module]):
        super().__init__()
        self.shapes = {name: t.shape for name, t in _named(models[0])}
        self.draws = False  # does a pass draw random numbers?

    def tensors(self) -> dict[str, torch.Tensor]:
        """Parameters and buffers, by the plain net's names."""
        raise NotImplementedError

    def each(self) -> dict[str, torch.Tensor]:
        """The same, one net after the other: views, (nets, ...)."""
        tensors = self.tensors().items()
        return {k: t.detach().view(-1, *self.shapes[k]) for k, t in tensors}


class SideBySide(Stack):
    """The nets as one wide net."""

    def __init__(self, models: Sequence[nn.Module]):
        super().__init__(models)
        self.wide = side_by_side(models)
        self.with_buffers = [m for m in self.wide.modules() if m._buffers]

    def tensors(self) -> dict[str, torch.Tensor]:
        return dict(_named(self.wide))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        nets = len(x)
        logits = self.wide(x.transpose(0, 1).flatten(1, 2))
        for layer in self.with_buffers:
            for buffer in layer._buffers.values():
                if buffer is not None:  # a layer may have bound a new one,
                    buffer.detach_()  # with the graph that it comes from
        return logits.view(len(logits), nets, -1).transpose(0, 1)


class Vmapped(Stack):
    """The plain net, each operation of which `vmap` makes one for all nets.

    Slower, and for whatever has no side-by-side form. The net must not
    branch on the values of tensors.
    """

    def __init__(self, models: Sequence[nn.Module]):
        super().__init__(models)
        self.template = [copy.deepcopy(models[0])]  # in a list: no submodule
        parameters, buffers = stack_module_state(list(models))
        first = {id(t): k for k, t in _named(models[0])}
        self.tied = {  # each name of a tensor, once a module: its first name
            f"{prefix}.{name}".lstrip("."): first[id(t)]
            for prefix, module in models[0].named_modules()
            for name, t in [*module._parameters.items(), *module._buffers.items()]
            if t is not None
        }
        for name, t in parameters.items():
            p = nn.Parameter(t.detach(), requires_grad=t.requires_grad)
            self.register_parameter(name.replace(".", "/"), p)
        for name, t in buffers.items():
            self.register_buffer(name.replace(".", "/"), t)

    def train(self, mode: bool = True) -> "Vmapped":
        self.template[0].train(mode)
        return super().train(mode)

    def tensors(self) -> dict[str, torch.Tensor]:
        return {name: getattr(self, name.replace(".", "/")) for name in self.shapes}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return vmap(self._one, randomness="different")(self.tensors(), x)

    def _one(self, state: dict, x: torch.Tensor) -> torch.Tensor:
        given = dict(state)
        every = {name: state[first] for name, first in self.tied.items()}
        logits = functional_call(self.template[0], every, (x,), tie_weights=False)
        for name, tensor in state.items():
            if tensor is not given[name]:  # the module has bound a new one
                given[name].copy_(tensor.detach())
        return logits


class OneByOne(Stack):
    """The plain nets, one after the other: what the other two must equal."""

    def __init__(self, models: Sequence[nn.Module]):
        super().__init__(models)
        self.models = nn.ModuleList(models)

    def each(self) -> dict[str, torch.Tensor]:
        named = [dict(_named(m)) for m in self.models]
        return {k: torch.stack([n[k].detach() for n in named]) for k in self.shapes}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([m(own) for m, own in zip(self.models, x)])


def stack(models: Sequence[nn.Module], x: torch.Tensor) -> Stack:
    """The models as one module, side by side if that computes the same.

    x: (nets, batch, ...), one batch for each. The first and the last net are
    compared with the plain ones on it, in float64: output, one update with
    all its gradients and buffers, and output in eval mode. Raises what the
    plain net or `vmap` raises on that batch.
    """
    ends = [0, -1]
    pair = [_shaken(models[end], seed) for seed, end in enumerate(ends)]
    x = x[ends].double() if x.is_floating_point() else x[ends]
    expected, drawn = _update(OneByOne(copy.deepcopy(pair)), x)
    for form in (SideBySide, Vmapped):
        try:
            found, drawn_here = _update(form(pair), x)
        except (RuntimeError, ValueError, TypeError, IndexError, AttributeError):
            if form is Vmapped:
                raise
            continue  # a forward that is not made for it can fail anywhere
        if form is SideBySide and drawn != drawn_here:
            continue  # a draw for one net would serve them all
        each = zip(found, expected, strict=True)
        if all(torch.allclose(*both, 1e-6, 1e-9, equal_nan=True) for both in each):
            nets = form(models)
            nets.draws = drawn > 0
            return nets
    raise ValueError("many of these nets at once do not compute what one does")


def _shaken(model: nn.Module, seed: int) -> nn.Module:
    """A copy in float64, moved so that no two channels are alike."""
    model = copy.deepcopy(model).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for t in [*model.parameters(), *model.buffers()]:
            if t.is_floating_point():  # variances stay positive
                t.mul_(1 + 0.2 * torch.rand(t.shape, generator=generator))
        for t in model.parameters():
            t.add_(0.1 * torch.randn(t.shape, generator=generator))
    return model


def _update(nets: Stack, x: torch.Tensor) -> tuple[list, int]:
    """All that one update computes, and how many numbers it drew."""
    with _Watch(refuse_reads=isinstance(nets, SideBySide)) as watch:
        logits = nets(x)
        if logits.requires_grad:  # by any weights, as long as they differ
            weights = torch.arange(logits.numel()).sin().view_as(logits)
            (logits * weights).sum().backward()
        with torch.no_grad():
            moved = [p for p in nets.parameters() if p.grad is not None]
            before = [p.clone() for p in moved]
            for p in moved:
                p.sub_(p.grad)
            state = [t.clone() for t in nets.each().values()]
            # A full step can leave a deep net where rounding grows into whole
            # digits: what is scored has made a small one.
            for p, start in zip(moved, before):
                p.copy_(start - 1e-3 * p.grad.tanh())
            scored = nets.eval()(x)
    return [logits.detach(), *state, scored], watch.drawn


class _Watch(TorchFunctionMode):
    """Replaces and counts random draws, so that two runs can be compared.

    It refuses to read the value of a tensor where many nets share it: what
    is decided by it for one would be decided for all.
    """

    def __init__(self, refuse_reads: bool):
        super().__init__()
        self.drawn, self.refuse_reads = 0, refuse_reads

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        if self.refuse_reads and name in READS:
            raise ValueError(f"the net reads a tensor's value ({name})")
        if name in DROPS:
            self.drawn += args[0].numel()
            return args[0] / 2
        out = func(*args, **(kwargs or {}))
        if name in DRAWS:
            self.drawn += out.numel()
            out.detach().fill_(0.5)
        return out
