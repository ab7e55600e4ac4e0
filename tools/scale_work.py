"""One job of `make scale`, and what its rows say of where they come from.

A module of its own, so that worker processes and machines can import it.
"""

import ast
import hashlib
import inspect
import json
import platform
import subprocess
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import torch

from repository import ROOT
from utils import wide
from utils.scale import experiments, images, nets, resnet
from utils.scale.findings import device, perform
from utils.scale.results import Pair
from utils.training import batches

LONGER = 5  # times as many images in training, where there are more of them
ONE_AT_A_TIME = threading.Lock()  # torch's random numbers are one stream a process
SHARED = (experiments, images, nets, resnet, wide, batches, perform)


def without_words(source: str) -> str:
    """The code without comments, docstrings and layout."""
    tree = ast.parse(source)
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, documented) and ast.get_docstring(node) is not None:
            node.body[0] = ast.Pass()
    return ast.dump(tree)


@cache
def _hash_of(experiment: Callable) -> str:
    parts = [*map(inspect.getsource, (*SHARED, experiment))]
    parts = [without_words(part) for part in parts]
    parts.append(images.MNIST5K.with_suffix(".sha256").read_text(encoding="utf-8"))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def code(experiment: Callable, settings: Mapping, data: str) -> str:
    """A hash of what a condition's numbers depend on."""
    parts = [_hash_of(experiment), json.dumps(settings, sort_keys=True), data]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


@cache
def machine() -> dict[str, str]:
    """What computes here, with which versions, from which commit."""
    name = f"CPU ({torch.backends.cpu.get_cpu_capability()})"
    if device() == "cuda":
        name = torch.cuda.get_device_name()
    versions = f"Python {platform.python_version()}, PyTorch {torch.__version__}"
    return {"device": name, "versions": versions, "commit": commit()}


def commit() -> str:
    """The commit in short, with a + where code has changed since."""
    try:
        short, changed = (
            subprocess.run(
                ["git", *command], cwd=ROOT, check=True, capture_output=True, text=True
            ).stdout.strip()
            for command in (
                ["rev-parse", "--short", "HEAD"],
                ["status", "--porcelain", "--", "utils", "tools"],
            )
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return short + "+" * bool(changed)


@dataclass(frozen=True)
class Job:
    """Nets of one condition that train together; all that a worker needs to know."""

    finding: str
    condition: str
    experiment: Callable
    settings: dict
    pairs: tuple[Pair, ...]
    data: str
    code: str
    seconds: float  # expected, for the order and the forecast


def work(job: Job) -> tuple[list[dict], str]:
    """Make the job's runs. Returns their rows; or none, and what went wrong."""
    with ONE_AT_A_TIME:
        try:
            torch.set_num_threads(1)
            mine = code(job.experiment, job.settings, job.data)
            if mine != job.code:
                raise RuntimeError(
                    f"this worker has other code ({mine}) than make scale "
                    f"({job.code}): give it the same commit"
                )
            begun = time.monotonic()
            seeds, rates = map(list, zip(*job.pairs))
            longer = longer_by(job.data)
            scores = perform(
                job.experiment, job.settings, seeds, rates, job.data, longer
            )
            share = (time.monotonic() - begun) / len(job.pairs)
        except Exception:
            return [], traceback.format_exc()
    about = {"seconds": f"{share:.2f}", **machine(), "code": job.code}
    rows = []
    for i, (seed, rate) in enumerate(job.pairs):
        own = {name: f"{column[i]:.6g}" for name, column in scores.items()}
        rows.append(
            {"condition": job.condition, "seed": seed, "lr": rate} | own | about
        )
    return rows, ""


def longer_by(data: str) -> int:
    """How many times the images of a condition a net of this set sees."""
    return 1 if data == "mnist5k" else LONGER
