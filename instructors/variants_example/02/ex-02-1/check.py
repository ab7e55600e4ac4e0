"""The check of a variant of 2.1: BN where the channels are on the last axis."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.checks.framework import check, expect_written
from utils.checks.norms import GRAPH, layer_input, norm


def _torchs(x: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-5) -> Tensor:
    first = x.movedim(-1, 1)
    y = F.batch_norm(first, None, None, gamma, beta, training=True, eps=eps)
    return y.movedim(1, -1)


def _over(dims: Callable) -> Callable:
    """Statistics over dims(x); gamma and beta on the last axis."""
    return lambda x, groups: (x, dims(x))


def _last(values: Tensor, x: Tensor) -> Tensor:
    return values


def _all_but_last(x: Tensor) -> list[int]:
    return [*range(x.dim() - 1)]


def _wrong(dims: Callable) -> Callable:
    """Right for (N, C) alone."""
    return norm(
        _over(lambda x: dims(x) if x.dim() > 2 else _all_but_last(x)), spread=_last
    )


@check(
    praise="right for (N, C), (N, L, C) and (N, H, W, C), gradients too",
    cases={
        f"x of shape {shape}, eps = {eps:g}": (shape, (eps,))
        for shape, eps in [((4, 4, 4), 1e-5), ((6, 3), 0.3), ((3, 5, 4, 2), 1e-2)]
    },
    hints=GRAPH,
    right={"PyTorch": _torchs},
    mistakes={
        "the channel is the last axis here, not axis 1": _wrong(
            lambda x: [d for d in range(x.dim()) if d != 1]
        ),
        "the statistics run over the batch only: a channel's positions belong "
        "together": _wrong(lambda x: [0]),
        "the statistics are taken for each example alone; average over the batch "
        "too": _wrong(lambda x: [*range(1, x.dim() - 1)]),
        "the statistics run over the channels (that is layer norm)": _wrong(
            lambda x: [x.dim() - 1]
        ),
        "that is the variance divided by the count minus 1; to normalize, divide "
        "by the count": norm(_over(_all_but_last), correction=1, spread=_last),
        "eps is fixed at 1e-5: use the one that is given": norm(
            _over(_all_but_last), by=lambda v, e: torch.sqrt(v + 1e-5), spread=_last
        ),
        "eps is missing: add it to the variance": norm(
            _over(_all_but_last), by=lambda v, e: v.sqrt(), spread=_last
        ),
    },
)
def batch_norm_last(answer: Callable, shape: tuple, eps: tuple) -> dict:
    """A variant of exercise 2.1: channels on the last axis."""
    c = shape[-1]
    x = layer_input((shape[0], c, *shape[1:-1]), torch.float64).movedim(1, -1)
    x = x.contiguous()
    gamma, beta = torch.randn(c).double() - 1.2, torch.randn(c).double() + 0.7
    inputs = [t.requires_grad_() for t in (x, gamma, beta)]
    y = answer(*inputs, *eps)
    expect_written(y)
    seen = {"the output": y, "whether the output has a gradient": y.requires_grad}
    if y.requires_grad and y.shape == x.shape:
        dy = torch.randn(shape).double()
        found = torch.autograd.grad(y, inputs, dy, allow_unused=True)
        for name, gradient in zip(("x", "gamma", "beta"), found):
            seen[f"reaches {name}"] = gradient is not None
            seen[f"the gradient of {name}"] = gradient
    return seen
