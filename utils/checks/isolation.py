"""What an answer may reach outside of itself: noted before, put back after.

All of it lies in one process with the answer, so an answer that means harm can
get around it; README, "Teach", says what to do about that.
"""

import builtins
import contextlib
import copy
import math
import os
import types
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

# Where a function could be replaced for all: modules, and classes with them
PLACES = [torch, nn, nn.init, F, torch.autograd, torch.optim, np, math, os, copy]
PLACES += [builtins, torch.Tensor, nn.Module, _BatchNorm, nn.SyncBatchNorm]
PLACES += [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.Dropout, nn.Linear]
KINDS = (types.FunctionType, types.BuiltinFunctionType, type, np.ufunc)
KINDS += (type(np.allclose),)
HOMES = tuple(os.path.dirname(package.__file__) for package in (torch, np))

# name: how to read it, how to set it
SETTINGS = {
    "the default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "whether gradients are on": (torch.is_grad_enabled, torch.set_grad_enabled),
    "the number of threads": (torch.get_num_threads, torch.set_num_threads),
    "whether torch is deterministic": (
        torch.are_deterministic_algorithms_enabled,
        torch.use_deterministic_algorithms,
    ),
    "the working folder": (os.getcwd, os.chdir),
}


def read_settings() -> dict[str, object]:
    return {name: read() for name, (read, _) in SETTINGS.items()}


def set_back(settings: dict[str, object]) -> list[str]:
    """Put the settings back; the names of those that were changed."""
    changed = [n for n, (read, _) in SETTINGS.items() if read() != settings[n]]
    for name in changed:
        SETTINGS[name][1](settings[name])
    return changed


def _functions(place: object) -> dict[str, object]:
    """All names of a class; of a module those of its functions and classes."""
    names = dict(vars(place))
    if isinstance(place, type):
        return names
    return {name: f for name, f in names.items() if isinstance(f, KINDS)}


# Bound before the first answer is examined
FIRST = [_functions(place) for place in PLACES]


def _own(name: str, function: object) -> bool:
    """Written by PyTorch or NumPy, which wrap functions when parts are loaded."""
    code = getattr(function, "__code__", None)
    theirs = code is not None and code.co_filename.startswith(HOMES)
    return theirs and function.__name__ == name


def _put_back(place: object, functions: dict[str, object]) -> list[str]:
    """Names that were replaced, or new on a class; they are as before again."""
    now = vars(place)
    changed = [name for name, f in functions.items() if now.get(name) is not f]
    changed = [name for name in changed if not _own(name, now.get(name))]
    for name in changed:
        setattr(place, name, functions[name])
    if isinstance(place, type):  # a module may load parts of itself
        new = [n for n in now if n not in functions and not _own(n, now[n])]
        new = [n for n in new if n != "__annotations__"]
        for name in new:
            delattr(place, name)
        changed += new
    return [f"{place.__name__}.{name}" for name in changed]


class World:
    """The state of the process that answers share.

    functions: those of PLACES; as they were loaded, unless given.
    """

    def __init__(self, functions: list[dict] = FIRST) -> None:
        self.functions = functions
        self.settings = read_settings()
        self.environment = dict(os.environ)

    def restore(self) -> list[str]:
        """Put all of it back; the names of what was changed."""
        changed = set_back(self.settings)
        for place, functions in zip(PLACES, self.functions, strict=True):
            changed += _put_back(place, functions)
        if dict(os.environ) != self.environment:
            os.environ.clear()
            os.environ.update(self.environment)
            changed.append("os.environ")
        return changed


@contextlib.contextmanager
def pristine() -> Iterator[None]:
    """PyTorch and NumPy as they were loaded, whatever a cell made of them."""
    world = World([_functions(place) for place in PLACES])
    for place, functions in zip(PLACES, FIRST, strict=True):
        _put_back(place, functions)
    try:
        yield
    finally:
        world.restore()
