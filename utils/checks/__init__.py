"""Checks for the exercises: `checks.name(answer);` prints a verdict.

One module per chapter, and what they share in `framework`.
"""

from utils.checks.chapter_07 import batch_of_two, starving_layers
from utils.checks.framework import NotYet

__all__ = ["NotYet", "batch_of_two", "starving_layers"]
