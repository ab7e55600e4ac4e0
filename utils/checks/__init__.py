"""Checks for the exercises: `checks.name(answer);` prints a verdict.

One module per chapter, and what they share in `framework`.
"""

from importlib import import_module
from pathlib import Path

from utils.checks.framework import Check, NotYet

__all__ = ["NotYet"]
for _path in sorted(Path(__file__).parent.glob("chapter_*.py")):
    for _name, _check in vars(import_module(f"{__name__}.{_path.stem}")).items():
        if isinstance(_check, Check):
            globals()[_name] = _check
            __all__ += [_name]
del _path, _name, _check  # the last one would count twice
