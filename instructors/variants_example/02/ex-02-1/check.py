"""The check of a variant of 2.1: BN where the channels are on the last axis.

Students have it too. All of it is PyTorch's, so the formula is not here.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.checks.framework import check
from utils.checks.norms import GRAPH, layer_input


def _torchs(x: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-5) -> Tensor:
    first = x.movedim(-1, 1)
    y = F.batch_norm(first, None, None, gamma, beta, training=True, eps=eps)
    return y.movedim(1, -1)


def _on_axis_1(x: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-5) -> Tensor:
    fits = x.shape[1] == x.shape[-1]
    first = x if fits else x.movedim(-1, 1)
    y = F.batch_norm(first, None, None, gamma, beta, training=True, eps=eps)
    return y if fits else y.movedim(1, -1)


def _per_position(x: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-5) -> Tensor:
    positions = x[0, ..., 0].numel()
    parts = gamma.repeat(positions), beta.repeat(positions)
    y = F.batch_norm(x.flatten(1), None, None, *parts, training=True, eps=eps)
    return y.view_as(x)


def _per_example(x: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-5) -> Tensor:
    if x.dim() == 2:
        return _torchs(x, gamma, beta, eps)
    first = x.movedim(-1, 1)
    return F.instance_norm(first, weight=gamma, bias=beta, eps=eps).movedim(1, -1)


def _layer_norm(x: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-5) -> Tensor:
    return F.layer_norm(x, gamma.shape, gamma, beta, eps)


def _unbiased(x: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-5) -> Tensor:
    n = x[..., 0].numel()
    return _torchs(x, gamma * (1 - 1 / n) ** 0.5, beta, eps * (1 - 1 / n))


@check(
    praise="right for (N, C), (N, L, C) and (N, H, W, C), gradients too",
    cases={
        f"x of shape {shape}, eps = {eps:g}": (shape, (eps,))
        for shape, eps in [((4, 4, 4), 1e-5), ((6, 3), 0.3), ((3, 5, 4, 2), 1e-2)]
    },
    hints=GRAPH,
    right={"PyTorch": _torchs},
    mistakes={
        "the channel is the last axis here, not axis 1": _on_axis_1,
        "the statistics run over the batch only: a channel's positions belong "
        "together": _per_position,
        "the statistics are taken for each example alone; average over the batch "
        "too": _per_example,
        "the statistics run over the channels (that is layer norm)": _layer_norm,
        "that is the variance divided by the count minus 1; to normalize, divide by "
        "the count": _unbiased,
        "eps is fixed at 1e-5: use the one that is given": (
            lambda x, gamma, beta, eps=1e-5: _torchs(x, gamma, beta)
        ),
        "eps is missing: add it to the variance": (
            lambda x, gamma, beta, eps=1e-5: _torchs(x, gamma, beta, 1e-30)
        ),
    },
)
def batch_norm_last(answer: Callable, shape: tuple, eps: tuple) -> dict:
    """A variant of exercise 2.1: channels on the last axis."""
    c = shape[-1]
    x = layer_input((shape[0], c, *shape[1:-1])).movedim(1, -1).contiguous()
    gamma, beta = torch.randn(c).double() - 1.2, torch.randn(c).double() + 0.7
    inputs = [t.requires_grad_() for t in (x, gamma, beta)]
    y = answer(*inputs, *eps)
    seen = {"the output": y, "whether the output has a gradient": y.requires_grad}
    if y.requires_grad and y.shape == x.shape:
        dy = torch.randn(shape).double()
        found = torch.autograd.grad(y, inputs, dy, allow_unused=True)
        for name, gradient in zip(("x", "gamma", "beta"), found):
            seen[f"reaches {name}"] = gradient is not None
            seen[f"the gradient of {name}"] = gradient
    return seen
