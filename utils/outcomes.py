"""What a claim or an identity came to, in words and as a record."""

import os
from dataclasses import dataclass

from utils.seeds import course_seed
from utils.statistics import Estimate, minus

INTERVALS = {
    "linear": "95 % interval of the mean (Student's t)",
    "log": "95 % interval of the geometric mean (Student's t on logarithms)",
    "median": "95 % interval of the median (bootstrap)",
    "range": "the mean, the smallest and the largest",
}


@dataclass(frozen=True)
class Outcome:
    """A claim or an identity and whether it holds."""

    kind: str  # "claim" or "identity"
    template: str
    sentence: str
    estimate: Estimate
    above: float | None
    below: float | None
    within: tuple[float, float] | None
    reason: str
    holds: bool

    @property
    def bound(self) -> str:
        """What is claimed of the interval, as "above 30 points"."""
        unit = f" {self.estimate.unit}" if self.estimate.unit else ""
        if self.within is not None:
            low, high = map(number, self.within)
            return f"within {low} to {high}{unit}"
        if self.above is not None:
            return f"above {number(self.above)}{unit}"
        if self.kind == "identity":
            return f"at most {self.below:g}" if self.below else "exactly 0"
        return f"below {number(self.below)}{unit}"

    @property
    def verdict(self) -> str:
        if not self.holds:
            return "not confirmed"
        if self.kind == "claim":
            return "holds"
        largest = self.estimate.high
        return f"holds to {largest:.1g}" if largest else "holds exactly"

    @property
    def seeds(self) -> str:
        n = self.estimate.n
        return f"in {n} seeds" if n > 1 else "in one run"

    @property
    def details(self) -> str:
        """The interval, what it is, the bound and its reason."""
        e = self.estimate
        if self.kind == "identity":
            return (
                f"Largest deviation {e.high:.2g}, must be {self.bound}. An identity: "
                "it holds by construction, up to rounding."
            )
        text = f"{e}, {INTERVALS[e.scale]}. Claimed: {self.bound}."
        return f"{text} Why this bound: {self.reason}" if self.reason else text

    @property
    def failure(self) -> str:
        """What this run measured instead."""
        e = self.estimate
        value, low, high = map(number, (e.value, e.low, e.high))
        measured = f"{value}, from {low} to {high}; claimed: {self.bound}"
        if self.kind == "identity":
            measured = f"{e.high:.2g}; must be {self.bound}"
        return f"This run does not confirm it: {measured}."

    def record(self) -> dict:
        """As one line of the file that COURSE_RECORD names."""
        e = self.estimate
        return {
            "chapter": os.environ.get("COURSE_CHAPTER", ""),
            "statement": self.template,
            "kind": self.kind,
            **{end: float(getattr(e, end)) for end in ("value", "low", "high")},
            "n": e.n,
            "unit": e.unit,
            "interval": e.kind,
            "scale": e.scale,
            "above": self.above,
            "below": self.below,
            "within": self.within,
            "holds": self.holds,
            "values": e.values,
            "seed": course_seed(),
        }


def advice() -> str:
    """What a reader can make of a claim that does not hold."""
    return (
        "The cause may be chance (another seed, a CPU that rounds differently) or a "
        "changed cell above. If you changed none, please open an issue in the "
        f"course's repository with this text (COURSE_SEED={course_seed()})."
    )


def number(x: float) -> str:
    """A bound, or an end that is compared with one: four digits."""
    return minus(f"{x:.4g}")
