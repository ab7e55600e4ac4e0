"""Checks for the exercises: `checks.name(answer);` prints a verdict.

One module per chapter, and what they share in `framework`.
"""

from utils.checks.chapter_01 import drift, noise_drift
from utils.checks.chapter_02 import (
    batch_norm_backward,
    batch_norm_forward,
    batch_norm_nd,
)
from utils.checks.chapter_03 import freeze_batch_norm, norm_with_memory
from utils.checks.chapter_07 import batch_of_two, starving_layers
from utils.checks.framework import NotYet

__all__ = [
    "NotYet",
    "batch_norm_backward",
    "batch_norm_forward",
    "batch_norm_nd",
    "batch_of_two",
    "drift",
    "freeze_batch_norm",
    "noise_drift",
    "norm_with_memory",
    "starving_layers",
]
