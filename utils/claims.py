"""Claims: findings that break the build when they stop holding."""

from math import isfinite

from IPython.display import display

from utils.statistics import Estimate


class ClaimError(AssertionError):
    """A claim whose interval does not clear its bound."""


def claim(
    statement: str,
    estimate: Estimate,
    *,
    above: float | None = None,
    below: float | None = None,
    within: tuple[float, float] | None = None,
    key: str | None = None,
) -> None:
    """Print the statement with its estimate, interval and bound.

    Exactly one bound: the whole interval must lie above it, below it, or
    within the two (ends included). Raises ClaimError when it does not.
    With `key`, other pages of the book can paste the estimate.
    """
    if sum(bound is not None for bound in (above, below, within)) != 1:
        raise ValueError("give exactly one of above, below, within")
    if not isinstance(estimate, Estimate):
        raise ValueError(f"expected an Estimate, got {estimate!r}: use estimate(…)")
    if above is not None:
        holds, bound = estimate.low > above, f"above {above}"
    elif below is not None:
        holds, bound = estimate.high < below, f"below {below}"
    else:
        low, high = within
        if not low <= high:
            raise ValueError(f"within needs (low, high), got {within}")
        holds = low <= estimate.low and estimate.high <= high
        bound = f"within {low} to {high}"
    holds = holds and isfinite(estimate.low) and isfinite(estimate.high)
    measured = f"{estimate}, {estimate.kind} over {estimate.n} seeds; claimed: {bound}"
    if not holds:
        raise ClaimError(f"does not hold: {statement}: {measured}")
    print(f"Holds: {statement}\n       {measured}")
    if key:
        publish(key, str(estimate))


def publish(key: str, thing: object) -> None:
    """Let the book's other pages paste this text or figure under `key`.

    The mark is the one of myst-nb's glue, which Colab does not have. A
    text shows nothing here; it is quoted, because glue evaluates it. A
    figure is shown: close it afterwards, or it is shown twice.
    """
    prefix = ""
    if isinstance(thing, str):
        prefix = "application/papermill.record/"
        thing = {prefix + "text/plain": repr(thing)}
    mark = {"scrapbook": {"name": key, "mime_prefix": prefix}}
    display(thing, raw=bool(prefix), metadata=mark)
