"""How far every claim is from failing: `python tools/margins.py`.

From the stored runs of `make reseed` it writes tests/margins.csv, one row per
claim, and prints a table. Rows of chapters that have no current runs stay.

The chance that a claim fails in a fresh run is estimated twice:

- Student's t. A fresh set of n seeds fails when its 95 % interval does not clear
  the bound. If the mean lies d standard errors from it, that has the chance
  P(T < t), T noncentral t with n - 1 degrees of freedom and noncentrality d, and
  t the quantile of the interval. Standard error: the larger of `spread`, the
  standard deviation between the means of seed sets (of five or more: fewer do not
  tell), and 1.1 times `se`, what the sets say of themselves. Ratios: the same on
  logs. `within`: both sides added.
- Resampling, for heavy tails. n values are drawn from those of all sets, and the
  interval is made from them, 20,000 times. The values are not centred per set:
  seeds are independent of the set that they are in, so the pool is the sample of
  what a seed can give, and centring would shrink it. What sets have in common
  (the choice of a rate) is in `spread`, so deviations from the centre are widened
  by the same factor as the standard error of the t.

The chance is the larger of the two where resampling sees a failure, and else t.
"""

import csv
import os
import sys
import zlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from math import comb, inf, isfinite, log
from pathlib import Path

import numpy as np
from scipy import stats

from repository import ROOT
from stored_runs import Run, chapters, load

TABLE = Path("tests") / "margins.csv"
CHANCE, SUM = 1e-4, 1e-2  # at most, per claim and for the course
SETS, OTHER_CPU = 10, 3  # at least, seed sets and those under another CPU kind
WIDER = 1.1  # seed sets scatter 10 % more than their intervals say
DRAWS = 20_000
CHANCES = ("chance_t", "chance_resampled")
NONE = 1e-9  # a smaller chance is written as 0
DECADES = 3  # a range that stays this far away has no chance to fail
COLUMNS = [
    *("chapter", "statement", "bound", "at", "scale", "sets", "other_cpu", "n"),
    *("mean", "se", "spread", "ratio", "distance", "chance_t", "chance_resampled"),
    *("failed", "runs", "chance"),
]


@dataclass(frozen=True)
class Bound:
    """What an interval must clear; one end is infinite, but for `within`."""

    kind: str  # above, below or within
    low: float
    high: float

    @classmethod
    def of(cls, record: dict) -> "Bound":
        for kind in ("above", "below"):
            if record[kind] is not None:
                ends = (record[kind], inf) if kind == "above" else (-inf, record[kind])
                return cls(kind, *map(float, ends))
        return cls("within", *map(float, record["within"]))

    @property
    def at(self) -> str:
        """For example "-20" or "0.8 to 1.25"."""
        ends = [e for e in (self.low, self.high) if isfinite(e)]
        return " to ".join(f"{end:.12g}" for end in ends)

    def on_logs(self) -> "Bound":
        low, high = (log(e) if e > 0 else -inf for e in (self.low, self.high))
        return Bound(self.kind, low, high)

    def missed(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """Whether each interval fails to clear it, as utils/claims.py has it."""
        if self.kind == "within":
            return (low < self.low) | (high > self.high)
        return (low <= self.low) | (high >= self.high)

    def distances(self, mean: float, error: float) -> list[float]:
        """How many standard errors the mean is inside of each end."""
        room = [mean - self.low] * isfinite(self.low)
        room += [self.high - mean] * isfinite(self.high)
        if error > 0:
            return [r / error for r in room]
        clear = not self.missed(np.array(mean), np.array(mean))
        return [inf if clear else -inf for _ in room]


def chance_by_t(distances: Iterable[float], n: int) -> float:
    """That an interval of n fresh seeds misses an end so many errors away."""
    end, total = stats.t.ppf(0.975, n - 1), 0.0
    for distance in distances:
        if distance < 100:  # beyond, there is none
            total += stats.nct.cdf(end, n - 1, distance) if distance > -100 else 1
    return float(np.clip(total, 0, 1))


def middle_pairs(n: int) -> np.ndarray:
    """The chance of each pair of middle values in a resample of n, (n, n).

    Entry i, j: that they are the i-th and the j-th smallest of the sample,
    i <= j. Their mean is the median of the resample; with odd n, i = j.
    """
    i = np.arange(1, n + 1)
    if n % 2:
        m = (n + 1) // 2
        return np.diag(np.diff(stats.binom.sf(m - 1, n, np.arange(n + 1) / n)))
    m = n // 2
    below = (i / n) ** m - ((i - 1) / n) ** m
    above = ((n - i + 1) / n) ** m - ((n - i) / n) ** m
    pairs = np.triu(comb(n, m) * np.outer(below, above), k=1)
    lower = np.diff(stats.binom.sf(m - 1, n, np.arange(n + 1) / n))
    return pairs + np.diag(lower - pairs.sum(1))


def median_missed(samples: np.ndarray, bound: Bound) -> np.ndarray:
    """Whether the percentile interval of the median misses the bound.

    It does when over 2.5 % of the resampled medians lie beyond an end; their
    distribution is known, so that nothing need be resampled. (draws,)
    """
    x, pairs = np.sort(samples, axis=1), middle_pairs(samples.shape[1])
    i, j = np.nonzero(pairs > 1e-9)
    medians = (x[:, i] + x[:, j]) / 2  # (draws, pairs)
    if bound.kind == "within":
        under, over = medians < bound.low, medians > bound.high
    else:
        under, over = medians <= bound.low, medians >= bound.high
    chances = pairs[i, j]
    return (under @ chances > 0.025) | (over @ chances > 0.025)


def chance_resampled(
    pool: np.ndarray, n: int, bound: Bound, scale: str, wider: float, seed: int
) -> float:
    """The share of sets of n, drawn from the pool, that miss the bound."""
    if np.ptp(pool) == 0:  # else rounding moves the mean
        return float(bound.missed(pool[0], pool[0]))
    centre = np.median(pool) if scale == "median" else pool.mean()
    pool = centre + wider * (pool - centre)
    draws = np.random.default_rng(seed).choice(pool, (DRAWS, n))
    if scale == "median":
        return float(median_missed(draws, bound).mean())
    mean = draws.mean(1)
    half = stats.sem(draws, axis=1) * stats.t.ppf(0.975, n - 1)
    return float(bound.missed(mean - half, mean + half).mean())


def range_margin(pool: np.ndarray, n: int, bound: Bound) -> dict:
    """The chances of a claim on every seed: that any of n lies beyond an end.

    Where values and ends are positive, distances are in decades (a rounding
    error of 1e-15 is five from 1e-10, whatever its spread), and what is more
    than three from an end counts as three. Student's t for one more value.
    """
    ends = [end for end in (bound.low, bound.high) if isfinite(end)]
    if np.ptp(pool) == 0:
        fails = float(bound.missed(pool[0], pool[0]))
        distance = -inf if fails else inf
        return {"se": 0.0, "distance": distance} | dict.fromkeys(CHANCES, fails)
    if min(ends) > 0 and (pool >= 0).all():
        pool = np.clip(pool, min(ends) / 10**DECADES, max(ends) * 10**DECADES)
        pool, bound = np.log(pool), bound.on_logs()
    sd = pool.std(ddof=1)
    error = WIDER * sd * np.sqrt(1 + 1 / len(pool))
    distances = bound.distances(pool.mean(), error)
    tails = stats.t.sf(distances, len(pool) - 1)
    wide = pool.mean() + WIDER * (pool - pool.mean())
    share = bound.missed(wide, wide).mean()
    return {
        "se": sd,
        "distance": min(distances),
        "chance_t": float(1 - np.prod((1 - tails) ** n)) if max(tails) < 1 else 1.0,
        "chance_resampled": float(1 - (1 - share) ** n),
    }


def interval_margin(sets: list[dict], bound: Bound, scale: str, seed: int) -> dict:
    """The chances of a claim on an interval: a t on values or logs, a median."""
    n, logs = sets[0]["n"], scale == "log"
    bound = bound.on_logs() if logs else bound
    ends = np.array([[s["value"], s["low"], s["high"]] for s in sets])
    means, low, high = (np.log(ends) if logs else ends).T
    end = stats.norm.ppf(0.975) if scale == "median" else stats.t.ppf(0.975, n - 1)
    se = np.sqrt(np.mean(((high - low) / (2 * end)) ** 2))
    same = np.ptp(means) == 0  # else rounding gives them a spread
    mean, spread = (means[0], 0.0) if same else (means.mean(), means.std(ddof=1))
    # A spread of fewer than five means is too rough to judge by.
    error = max(WIDER * se, spread if len(sets) >= 5 else 0)
    distances = bound.distances(mean, error)
    pool = np.concatenate([s["values"] for s in sets])
    wider = error / se if se > 0 else 1.0
    return {
        "se": se,
        "spread": spread,
        "ratio": spread / se if se > 0 else "",
        "distance": min(distances),
        "chance_t": chance_by_t(distances, n),
        "chance_resampled": chance_resampled(pool, n, bound, scale, wider, seed),
    }


def one_per_seed(found: list[tuple[Run, dict]]) -> list[dict]:
    """A record per seed: the native run's where there is one."""
    first = {}
    for run, record in found:  # in the order of CPUS for each seed
        first.setdefault(run.seed, record)
    return list(first.values())


def margin(chapter: str, statement: str, found: list[tuple[Run, dict]]) -> dict:
    """A claim's row, from its records in the runs of its chapter."""
    records = [record for _, record in found]
    if any(len(record["values"]) != record["n"] for record in records):
        raise ValueError(
            "has no value per seed: make its estimate with utils/statistics.py"
        )
    same = [(Bound.of(r), r["n"], r["scale"]) for r in records]
    for what, values in zip(("bound", "number of seeds", "interval"), zip(*same)):
        if len(set(values)) > 1:
            raise ValueError(
                f"has another {what} in some runs: it is chosen before looking"
            )
    bound, n, scale = same[0]
    sets = one_per_seed(found)
    row = dict.fromkeys(COLUMNS, "")
    row |= {"chapter": chapter, "statement": statement}
    row |= {"bound": bound.kind, "at": bound.at, "scale": scale, "n": n}
    row |= {"sets": len(sets), "runs": len(records)}
    row["other_cpu"] = len({run.seed for run, _ in found if run.cpu != "native"})
    row["failed"] = sum(not record["holds"] for record in records)
    means = np.array([record["value"] for record in sets])
    row["mean"] = np.exp(np.log(means).mean()) if scale == "log" else means.mean()
    if scale == "range":
        pool = np.concatenate([s["values"] for s in sets])
        row |= range_margin(pool, n, bound)
    else:
        seed = zlib.crc32(f"{chapter} {statement}".encode())
        row |= interval_margin(sets, bound, scale, seed)
    for name in CHANCES:
        row[name] = row[name] if row[name] > NONE else 0.0
    row["chance"] = max(row["chance_t"], row["chance_resampled"])
    return {name: rounded(value) for name, value in row.items()}


def rounded(value: object) -> object:
    """Three significant digits, so that a new table's differences can be read."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def margins(runs: list[Run]) -> tuple[list[dict], list[str]]:
    """The rows of all claims in the runs, and what has none, with the reason."""
    found = defaultdict(list)
    for run in runs:
        for record in run.records:
            if record["kind"] == "claim":
                found[run.chapter, record["statement"]].append((run, record))
    rows, refused = [], []
    for (chapter, statement), records in found.items():
        try:
            of = sum(run.chapter == chapter for run in runs)
            if len(records) < of:
                raise ValueError(
                    f"is claimed in {len(records)} of {of} runs: what is claimed may "
                    "not depend on the outcome"
                )
            rows.append(margin(chapter, statement, records))
        except ValueError as error:
            refused.append(f"{chapter}: {statement!r} {error}")
    return rows, refused


def problems(row: dict) -> list[str]:
    """How a row breaks the rule, in words."""
    said = []
    if float(row["chance"]) > CHANCE:
        said.append(f"fails in a fresh run with a chance of {row['chance']}")
    if int(row["sets"]) < SETS:
        said.append(f"has {row['sets']} seed sets of {SETS}")
    if int(row["other_cpu"]) < OTHER_CPU:
        said.append(f"has {row['other_cpu']} of {OTHER_CPU} under another CPU kind")
    return said


def total(rows: list[dict]) -> float:
    return sum(float(row["chance"]) for row in rows)


def differences(records: list[dict], rows: list[dict]) -> list[str]:
    """Where the table and the claims that a run recorded differ, and the remedy."""
    by_claim = {(row["chapter"], row["statement"]): row for row in rows}
    found = []
    for record in records:
        claim = record["chapter"], record["statement"]
        bound = Bound.of(record)
        is_now = [bound.kind, bound.at, record["scale"], str(record["n"])]
        name, remedy = f"{claim[0]}: {claim[1]!r}", f"run {command(claim[0])}"
        row = by_claim.pop(claim, None)
        if row is None:
            found.append(f"{name} has no row in {TABLE}: {remedy}")
        elif (was := [row[key] for key in ("bound", "at", "scale", "n")]) != is_now:
            now = "{} {}, {} over {} seeds".format(*is_now)
            then = "{} {}, {} over {} seeds".format(*was)
            found.append(f"{name} is now {now}; {TABLE} has {then}: {remedy}")
    for chapter, statement in by_claim:
        what = f"{chapter}: {TABLE} has a row for {statement!r}, which nobody claims"
        found.append(f"{what}: run {command(chapter)}")
    return found


def command(chapter: str) -> str:
    return f'make reseed CHAPTERS="{chapter.partition("_")[0]}"'


def read_table(root: Path) -> list[dict]:
    path = root / TABLE
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write_table(root: Path, rows: list[dict]) -> None:
    (root / TABLE).parent.mkdir(exist_ok=True)
    with (root / TABLE).open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def coverage(runs: list[Run]) -> tuple[int, int, float]:
    """Intervals that hold the mean of the other seed sets, of how many.

    The third number is the share to expect where all intervals are right: that
    mean has an error too.
    """
    found = defaultdict(list)
    for run in runs:
        for record in run.records:
            if record["kind"] == "claim" and record["scale"] != "range":
                found[run.chapter, record["statement"]].append((run, record))
    held, of, expected = 0, 0, 0.0
    for records in found.values():
        sets = one_per_seed(records)
        if len(sets) < 2 or all(s["low"] == s["high"] for s in sets):
            continue
        ends = np.array([[s["value"], s["low"], s["high"]] for s in sets])
        means, low, high = (np.log(ends) if sets[0]["scale"] == "log" else ends).T
        others = (means.sum() - means) / (len(sets) - 1)
        held += int(((low <= others) & (others <= high)).sum())
        of += len(sets)
        df = sets[0]["n"] - 1
        end = stats.t.ppf(0.975, df) / np.sqrt(1 + 1 / (len(sets) - 1))
        expected += len(sets) * (1 - 2 * stats.t.sf(end, df))
    return held, of, expected / of if of else 0.95


def print_rows(rows: list[dict]) -> None:
    print(f"{'chapter':8}{'chance':>9} {'distance':>9} {'failed':>7}  claim")
    for row in sorted(rows, key=lambda row: -float(row["chance"])):
        failed = f"{row['failed']}/{row['runs']}"
        claim = f"{row['statement']:.70}: {row['mean']}, {row['bound']} {row['at']}"
        numbers = f"{row['chance']:>9} {row['distance']:>9} {failed:>7}"
        print(f"{row['chapter'][:2]:8}{numbers}  {claim}")


def report(rows: list[dict], runs: list[Run]) -> None:
    """Print the claims that break the rule, the others, and the sums."""
    bad = [row for row in rows if problems(row)]
    print(f"\n== {len(bad)} of {len(rows)} claims break the rule")
    if bad:
        print_rows(bad)
    print("\n== The others")
    print_rows([row for row in rows if row not in bad])
    print(f"\nSum of the chances: {total(rows):.2g} (at most {SUM})")
    held, of, expected = coverage(runs)
    if of:
        print(
            f"Intervals that hold the mean of the other sets: {held / of:.1%} of {of} "
            f"({expected:.1%} expected)"
        )
    failed = {(run.seed, run.cpu) for run in runs if run.failed}
    kinds = {(run.seed, run.cpu) for run in runs}
    print(f"Runs in which something did not hold: {len(failed)} of {len(kinds)}")
    for run in runs:
        for record in run.failed:
            what = f"{record['kind']} {record['statement']!r}"
            print(f"  {run.chapter}, seed {run.seed}, {run.cpu}: {what}")


def update(root: Path, keep: bool = False) -> int:
    """Make the table from the stored runs, print and write it; the exit code."""
    old, rows, used, refused = read_table(root), [], [], []
    for notebook in chapters(root):
        name = notebook.stem
        kept = [row for row in old if row["chapter"] == name]
        runs, stale = load(root, notebook, keep)
        if stale:
            print(f"{name}: {stale} stored runs are out of date, make reseed runs them")
        new, without = margins(runs)
        refused += without
        sets = len({run.seed for run in runs})
        other = len({run.seed for run in runs if run.cpu != "native"})
        if runs and kept and (sets < SETS or other < OTHER_CPU):
            print_rows(new)
            print(
                f"{name}: the rows above come from {sets} seed sets, {other} under "
                f"another CPU kind; {TABLE} keeps its own until there are {SETS} "
                f"and {OTHER_CPU}"
            )
            new = kept
        elif runs:
            used += runs
        else:
            new = kept
        rows += new
    report(rows, used)
    write_table(root, rows)
    print(f"Written: {TABLE}")
    for line in refused:
        print(f"No row: {line}")
    return int(bool(refused))


if __name__ == "__main__":
    try:
        sys.exit(update(ROOT, keep=os.environ.get("KEEP") == "1"))
    except ValueError as error:
        sys.exit(f"margins: {error}")
