"""Estimates with their 95 % intervals over seeds, on top of scipy.stats."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean, median or ratio, with its interval and the number of seeds."""

    value: float
    low: float
    high: float
    n: int
    unit: str = ""
    kind: str = "95 % interval"  # what low and high are, or "range"

    def __str__(self) -> str:
        """For example "52.1 % [50.3, 53.9]".

        Two digits of the distance from the value to the nearer end.
        """
        numbers = np.array([self.value, self.low, self.high])
        distances = np.array([self.value - self.low, self.high - self.value])
        distances = distances[np.isfinite(distances) & (distances > 0)]
        if 0 < np.abs(numbers).max() < 1e-3:
            form = ".1e"
        elif len(distances):
            form = f"z.{max(0, int(1 - np.floor(np.log10(distances.min()))))}f"
        else:
            form = ".4g"
        value, low, high = (format(x, form) for x in numbers.tolist())
        unit = f" {self.unit}" if self.unit else ""
        return f"{value}{unit} [{low}, {high}]"


def estimate(values: ArrayLike, method: str = "t", unit: str = "") -> Estimate:
    """Estimate from one value per seed, (seeds,).

    method: "t", the mean with Student's interval; "bootstrap", the median
    with a percentile
    bootstrap interval (it bears ties); "range", the mean with the smallest and
    the largest value, for what must hold for every seed.

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
    if method == "range":
        return Estimate(x.mean(), x.min(), x.max(), len(x), unit, "range")
    if np.ptp(x) == 0:  # no spread: the interval is a point
        return Estimate(x[0], x[0], x[0], len(x), unit)
    if method == "t":
        error = stats.sem(x) * stats.t.ppf((1 + CONFIDENCE) / 2, len(x) - 1)
        return Estimate(x.mean(), x.mean() - error, x.mean() + error, len(x), unit)
    if method == "bootstrap":
        interval = stats.bootstrap(
            (x,), np.median, confidence_level=CONFIDENCE, rng=0, method="percentile"
        ).confidence_interval
        return Estimate(np.median(x), interval.low, interval.high, len(x), unit)
    raise ValueError(f'method must be "t", "bootstrap" or "range", got {method!r}')


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
    return Estimate(value, low, high, log.n, unit)


def _paired(a: ArrayLike, b: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if a.shape != b.shape:
        raise ValueError(f"not paired by seed: shapes {a.shape} and {b.shape}")
    return a, b
