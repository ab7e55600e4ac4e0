"""Claims: findings that break the build when they stop holding.

With COURSE_STRICT=1 (the book's build, the tests) a claim that does not
hold stops the notebook. A reader's notebook says so and goes on.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from math import isfinite
from string import Formatter

import numpy as np
from IPython.display import display

from utils import cards
from utils.outcomes import Outcome
from utils.statistics import Estimate
from utils.tables import Prose

_open_table: list[Outcome] | None = None  # what `together` collects


class ClaimError(AssertionError):
    """A claim whose interval does not clear its bound."""


def claim(
    statement: str,
    estimate: Estimate,
    *,
    above: float | None = None,
    below: float | None = None,
    within: tuple[float, float] | None = None,
    reason: str = "",
    key: str | None = None,
) -> None:
    """Show the statement with its number, its interval and its bound.

    The statement has a place for the number: {:v} the value, {:a} without
    its sign, {} with the interval; without a place it is appended. Exactly
    one bound: the whole interval must lie above it, below it, or within
    the two (ends included); the reason says why this bound. With `key`,
    other pages of the book can paste the estimate.
    """
    if sum(bound is not None for bound in (above, below, within)) != 1:
        raise ValueError("give exactly one of above, below, within")
    if not isinstance(estimate, Estimate):
        raise ValueError(f"expected an Estimate, got {estimate!r}: use estimate(…)")
    if within is not None and not within[0] <= within[1]:
        raise ValueError(f"within needs (low, high), got {within}")
    if above is not None:
        holds = estimate.low > above
    elif below is not None:
        holds = estimate.high < below
    else:
        holds = within[0] <= estimate.low and estimate.high <= within[1]
    holds = bool(holds and isfinite(estimate.low) and isfinite(estimate.high))
    sentence = _fill(statement, estimate, missing=": {:v}")
    bounds = (above, below, within)
    outcome = Outcome("claim", statement, sentence, estimate, *bounds, reason, holds)
    _settle(outcome, key)


def identity(statement: str, values, *, below: float, key: str | None = None) -> None:
    """Show what cannot fail by construction, as such.

    values: one per seed, (seeds, ...), or one number. Each |value| must be
    at most `below`; 0 means exactly 0.
    """
    x = np.abs(np.atleast_1d(np.asarray(values, dtype=float)))
    if x.size == 0 or not below >= 0:
        raise ValueError(f"needs values and below >= 0, got {values!r} and {below}")
    worst = x.reshape(len(x), -1).max(1)  # (seeds,)
    ends = float(worst.max()), float(worst.min()), float(worst.max())
    e = Estimate(*ends, len(worst), "", "range", tuple(worst.tolist()), "range")
    holds = bool((worst <= below).all())
    sentence = _fill(statement, e, missing="")
    _settle(
        Outcome("identity", statement, sentence, e, None, below, None, "", holds), key
    )


@contextmanager
def together(heading: str) -> Iterator[None]:
    """Show the claims and identities of a `with` block as one table."""
    global _open_table
    if _open_table is not None:
        raise ValueError("`with together(…)` stands inside another one")
    _open_table = outcomes = []
    try:
        yield
    finally:
        _open_table = None
        if outcomes:
            _show(*cards.table(heading, outcomes))
    _stop_if_strict(outcomes)


def finding(sentence: str, **numbers) -> Prose:
    """A Markdown sentence with estimates in it, for prose with numbers.

    finding("BN reaches {bn}, {gain:a} more.", bn=e1, gain=e2); places as in
    `claim`.
    """
    return Prose(sentence.format(**numbers))


def glue(key: str, thing: object) -> None:
    """Let the book's other pages paste this text or figure under `key`.

    The mark is the one of myst-nb's glue, which Colab does not have. A
    text or an estimate shows nothing here; it is quoted, because myst-nb
    evaluates it. A figure is shown: close it afterwards, or it is shown
    twice.
    """
    prefix = ""
    if isinstance(thing, str | Estimate):
        prefix = "application/papermill.record/"
        thing = {prefix + "text/plain": repr(str(thing))}
    mark = {"scrapbook": {"name": key, "mime_prefix": prefix}}
    display(thing, raw=bool(prefix), metadata=mark)


def _fill(template: str, estimate: Estimate, missing: str) -> str:
    if not any(field is not None for _, field, _, _ in Formatter().parse(template)):
        template += missing
    try:
        return template.format(estimate)
    except (LookupError, ValueError) as error:
        raise ValueError(
            "a statement has one number, whose places are {}, {:v} or {:a} (write "
            f"other braces twice); got {template!r}: {error}"
        ) from None


def _settle(outcome: Outcome, key: str | None) -> None:
    if path := os.environ.get("COURSE_RECORD"):
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(outcome.record()) + "\n")
    if key:
        e = outcome.estimate
        glue(key, e if outcome.kind == "claim" else f"{e.high:.1g}")
    if _open_table is not None:
        _open_table.append(outcome)
    else:
        _show(*cards.card(outcome))
        _stop_if_strict([outcome])


def _show(html: str, text: str) -> None:
    display({"text/html": html, "text/plain": text}, raw=True)


def _stop_if_strict(outcomes: list[Outcome]) -> None:
    failed = [o for o in outcomes if not o.holds]
    if failed and os.environ.get("COURSE_STRICT") == "1":
        lines = [f"does not hold: {o.sentence}: {o.details}" for o in failed]
        raise ClaimError("\n".join(lines))
