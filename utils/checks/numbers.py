"""Answers that are numbers, in whatever form a student returns them."""

import torch
from torch import Tensor

from utils.checks.framework import expect, expect_written


def number(result: object) -> float:
    """One number: int, float, or an array or a tensor that holds just one."""
    expect_written(result)
    kind = type(result).__name__
    shape = tuple(getattr(result, "shape", ()))
    one = not isinstance(result, (str, bool)) and shape in ((), (1,))
    expect(one, f"it should return one number, got {kind} {shape or ''}".rstrip())
    try:
        return float(result.item() if shape else result)
    except (TypeError, ValueError):
        expect(False, f"it should return one number, got {kind}")


def tensor(result: object, asked: str) -> Tensor:
    """Numbers as a float64 tensor: a tensor, an array or a list. asked: what for."""
    expect_written(result)
    try:
        return torch.as_tensor(result).detach().double()
    except (TypeError, ValueError, RuntimeError):
        expect(False, f"it should return {asked}, got {type(result).__name__}")
