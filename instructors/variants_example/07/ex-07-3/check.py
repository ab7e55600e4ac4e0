"""The check of a variant of 7.3: one value of a batch that is unlike the rest.

Students have it too. The right answer is PyTorch's, so the formula is not here.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.checks.framework import check, expect, expect_written


def _batch(d: Tensor, n: int) -> Tensor:
    """(n, values of d): the first differs from the rest by d."""
    x = torch.zeros(n, d.numel(), dtype=d.dtype)
    x[0] = d.flatten()
    return x


def _torchs(d: Tensor, n: int, eps: float = 1e-5) -> Tensor:
    y = F.batch_norm(_batch(d, n), None, None, training=True, eps=eps)
    return y[0].view(d.shape)


def _with(scale: Callable, size: Callable = lambda n: n) -> Callable:
    """PyTorch's value, scaled; or that of a batch of another size."""
    return lambda d, n, eps=1e-5: scale(n) * _torchs(d, size(n), eps)


def _unbiased(d: Tensor, n: int, eps: float = 1e-5) -> Tensor:
    x = _batch(d, n)
    return ((x - x.mean(0)) / (x.var(0) + eps).sqrt())[0].view(d.shape)


def _eps_outside(d: Tensor, n: int, eps: float = 1e-5) -> Tensor:
    x = _batch(d, n)
    return ((x - x.mean(0)) / (x.var(0, correction=0).sqrt() + eps))[0].view(d.shape)


def _from_the_rest(d: Tensor, n: int, eps: float = 1e-5) -> Tensor:
    return d / (_batch(d, n).var(0, correction=0).view(d.shape) + eps).sqrt()


@check(
    praise="equal to nn.BatchNorm1d, for small and for large differences",
    cases={
        "n = 4, d of shape (6,), eps = 0.001": (4, (6,), (1e-3,)),
        "n = 2, d of shape (2, 3), eps = 0.1": (2, (2, 3), (0.1,)),
        "n = 100, d of shape (6,), eps not given": (100, (6,), ()),
    },
    right={"PyTorch": _torchs},
    mistakes={
        "the sign is reversed": _with(lambda n: -1.0),
        "that is one of the others: the one that differs lies further out": _with(
            lambda n: -1 / (n - 1)
        ),
        "that is the variance divided by n - 1; to normalize, BN divides by n": (
            _unbiased
        ),
        "eps is added to the variance, under the root, not to its root": _eps_outside,
        "measure from the mean of the batch: the one that differs moves it": (
            _from_the_rest
        ),
        "eps is fixed at 1e-5: use the one that is given": (
            lambda d, n, eps=1e-5: _torchs(d, n)
        ),
        "n counts the one that differs, too": _with(lambda n: 1.0, lambda n: n + 1),
    },
    tolerance=(1e-6, 1e-8),
)
def lone(answer: Callable, n: int, shape: tuple, eps: tuple) -> dict:
    """A variant of exercise 7.3: the normalized value of the one that differs."""
    d = torch.tensor([3.0, 0.5, -0.02, 1e-3, -40.0, 0.2], dtype=torch.float64)
    d = d.view(shape)
    before = d.clone()
    y = answer(d, n, *eps)
    expect_written(y)
    expect(isinstance(y, Tensor), f"return a tensor, got {type(y).__name__}")
    return {"the normalized value": y, "the given d": bool((d == before).all())}
