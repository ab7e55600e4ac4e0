"""Checks of chapter 99."""

import torch
from torch import Tensor

from utils.checks.framework import check, expect, named


def _centred(x: Tensor) -> Tensor:
    return x - x.mean(dim=0)


@check(
    praise="right for one value and many",
    cases=named("{} values, {}", (1, torch.float32), (32, torch.float64)),
    right={"as defined": _centred},
    edits={
        "x.mean(dim=0) -> x.mean()": "a mean for each channel, over the batch only",
        "dim=0 -> dim=1, keepdim=True": "over the batch, dimension 0",
        "x - x.mean(dim=0) -> x.mean(dim=0)": "subtract the mean from x",
    },
)
def template_99(answer, size: int, dtype: torch.dtype) -> dict:
    """Exercise 99.1: x minus the mean of each channel over the batch."""
    y = answer(torch.randn(size, 5, dtype=dtype))
    expect(
        isinstance(y, Tensor),
        f"return a tensor, got {type(y).__name__}",
    )
    return {"the centred values": y}
