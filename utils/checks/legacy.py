"""What all checks share: how an answer is examined and the verdict told.

Each prints `Passed: ...` or `Not yet: <what is wrong>` and returns a bool.
Only under nbgrader (NBGRADER_EXECUTION is set) does a failed one raise.
"""

import functools
import os
import warnings
from collections.abc import Callable

import numpy as np
import torch


class NotYet(AssertionError):
    """What is wrong with an answer, as a hint."""


def check(examine: Callable) -> Callable[[Callable], bool]:
    """Turn a function that raises NotYet, or returns praise, into a check."""

    @functools.wraps(examine)
    def verdict(answer: Callable) -> bool:
        try:
            with (
                warnings.catch_warnings(),
                torch.random.fork_rng(devices=[]),
                torch.enable_grad(),
            ):
                warnings.simplefilter("ignore")  # stderr would score 0
                torch.manual_seed(0)
                message, passed = f"Passed: {examine(answer)}", True
        except NotYet as hint:
            message, passed = f"Not yet: {hint}", False
        except (Exception, SystemExit) as error:
            kind = type(error).__name__
            message, passed = f"Not yet: your code raised {kind}: {error}", False
        print(message)
        if not passed and "NBGRADER_EXECUTION" in os.environ:
            raise NotYet(message)
        return passed

    return verdict


def expect(condition: object, hint: str) -> None:
    """Raise NotYet(hint) unless the condition holds."""
    if not condition:
        raise NotYet(hint)


def expect_written(result: object) -> None:
    """Tell a stub, which returns None or ..., from an answer."""
    expect(
        result is not None and result is not Ellipsis,
        "it returned nothing: write its body and end with return",
    )


def mean_difference(result: object, not_finite: str) -> float:
    """The mean of one difference per seed, (seeds,), of twelve trained or more.

    not_finite: what to do where a value is not finite, for the hint.
    """
    expect_written(result)
    values = np.asarray(result, dtype=float)
    expect(
        values.ndim == 1 and len(values) >= 12,
        "return one difference for each of 12 seeds or more, (seeds,): "
        f"`at_best` gives one score per seed; got shape {values.shape}",
    )
    expect(np.isfinite(values).all(), f"some values are not finite: {not_finite}")
    expect(np.ptp(values) > 0, "all seeds have the same difference: are they trained?")
    return values.mean()
