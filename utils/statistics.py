"""Estimates with their 95 % intervals over seeds, on top of scipy.stats."""

from dataclasses import dataclass, field, replace
from math import floor, log10

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean, median or ratio, with its interval and the number of seeds.

    In a format string: `{:v}` is the value with its unit ("39 points"),
    `{:a}` the same without its sign, `{}` value and interval.
    """

    value: float
    low: float
    high: float
    n: int
    unit: str = ""
    kind: str = "95 % interval"  # what low and high are, or "range"
    # one number per seed, on the scale on which the interval was made
    values: tuple[float, ...] = field(default=(), compare=False, repr=False)
    scale: str = field(default="linear", compare=False, repr=False)

    def __neg__(self) -> "Estimate":
        """b - a for a - b: a loss of 5 points for a change of -5."""
        ends = {"value": -self.value, "low": -self.high, "high": -self.low}
        return replace(self, **ends, values=tuple(-v for v in self.values))

    def __str__(self) -> str:
        """For example "52.1 % [50.3, 53.9]"."""
        low, high = map(self._number, (self.low, self.high))
        return f"{self:v} [{low}, {high}]"

    def __format__(self, spec: str) -> str:
        if spec == "":
            return str(self)
        if spec not in ("v", "a"):
            raise ValueError(
                f'an Estimate is formatted by "", "v" or "a", got {spec!r}'
            )
        value = self._number(abs(self.value) if spec == "a" else self.value)
        return f"{value} {self.unit}" if self.unit else value

    def _number(self, x: float) -> str:
        """x, to the first digit of the distance from value to nearer end.

        To its second digit where the first is a 1: 39 points [35, 43], but
        5.0 % [4.0, 6.0].
        """
        numbers = np.abs([self.value, self.low, self.high])
        largest = numbers[np.isfinite(numbers)].max(initial=0)
        distances = np.array([self.value - self.low, self.high - self.value])
        distances = distances[np.isfinite(distances) & (distances > 0)]
        if 0 < largest < 1e-3:
            form = ".1e"
        elif len(distances):
            nearer = distances.min()
            power = floor(log10(nearer) + 1e-9)
            digits = -power + (nearer < 2 * 10.0**power)
            digits = min(digits, 6 - floor(log10(largest)))  # no float noise
            form = f"z.{max(0, digits)}f"
        else:
            form = ".4g"
        return minus(format(x, form))


def minus(number: str) -> str:
    """The number with a minus sign where it begins with a hyphen."""
    return "−" + number[1:] if number.startswith("-") else number


def estimate(values: ArrayLike, method: str = "t", unit: str = "") -> Estimate:
    """Estimate from one value per seed, (seeds,).

    method: "t", the mean with Student's interval; "bootstrap", the median
    with a percentile bootstrap interval (it bears ties); "range", the mean
    with the smallest and the largest value, for what must hold for every
    seed.

    Raises ValueError when there are fewer than two values, or when some
    are not finite: a diverged run is reported, never averaged away.
    """
    x = np.asarray(values, dtype=float)
    if x.ndim != 1 or len(x) < 2:
        raise ValueError(f"expected two or more values, one per seed, got {x.shape}")
    if not np.isfinite(x).all():
        bad = np.flatnonzero(~np.isfinite(x)).tolist()
        raise ValueError(
            f"{len(bad)} of {len(x)} values are not finite (runs {bad}): "
            "report these runs, or choose a setting in which none diverges"
        )
    n, seen = len(x), tuple(x.tolist())
    if method == "range":
        return Estimate(x.mean(), x.min(), x.max(), n, unit, "range", seen, "range")
    scale = "median" if method == "bootstrap" else "linear"
    if method not in ("t", "bootstrap"):
        raise ValueError(f'method must be "t", "bootstrap" or "range", got {method!r}')
    if np.ptp(x) == 0:  # no spread: the interval is a point
        value = low = high = x[0]
    elif method == "t":
        value = x.mean()
        error = stats.sem(x) * stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)
        low, high = value - error, value + error
    else:
        value = np.median(x)
        low, high = stats.bootstrap(
            (x,), np.median, confidence_level=CONFIDENCE, rng=0, method="percentile"
        ).confidence_interval
    return Estimate(value, low, high, n, unit, values=seen, scale=scale)


def paired_difference(a: ArrayLike, b: ArrayLike, unit: str = "points") -> Estimate:
    """The mean of a - b, paired by seed, with Student's interval."""
    a, b = _paired(a, b)
    return estimate(a - b, unit=unit)


def paired_ratio(a: ArrayLike, b: ArrayLike, unit: str = "times") -> Estimate:
    """The geometric mean of a / b, paired by seed.

    The interval is Student's on the log scale, so that a / b and b / a
    tell the same story. Raises ValueError unless all values are positive.
    """
    a, b = _paired(a, b)
    if not ((a > 0).all() and (b > 0).all()):
        raise ValueError("a ratio on the log scale needs positive values only")
    log = estimate(np.log(a) - np.log(b))
    value, low, high = np.exp([log.value, log.low, log.high])
    return Estimate(value, low, high, log.n, unit, values=log.values, scale="log")


def verdict(e: Estimate, margin: float = 3) -> str:
    """What an interval says of "more than 0", by the rule of chapters/notation.md.

    margin: the difference that would change a recipe, in the unit of `e`.
    """
    if margin <= 0:
        raise ValueError(f"margin must be positive, got {margin}")
    if e.low > margin:
        return "true"
    if e.high < -margin:
        return "false"
    inside = -margin <= e.low and e.high <= margin
    return "no difference that matters" if inside else "not settled"


def _paired(a: ArrayLike, b: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if a.shape != b.shape:
        raise ValueError(f"not paired by seed: shapes {a.shape} and {b.shape}")
    return a, b
