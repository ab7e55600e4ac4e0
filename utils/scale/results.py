"""What `make scale` has stored: data/scale/*.csv, one file per finding.

Columns: condition, seed, lr (the learning rate), the scores, then where the row
comes from: seconds (of one net's share), device, versions, commit, code (a hash of
what ran).
"""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).resolve().parents[2] / "data" / "scale"
KEY = ("condition", "seed", "lr")
PROVENANCE = ("seconds", "device", "versions", "commit", "code")
TUNING = 4  # so many seeds choose the rate, then all train at it
LOWEST, HIGHEST = -10, 4  # rates are looked for from 1e-5 to 100

Row = dict[str, str]
Pair = tuple[int, float]  # a seed and a learning rate


def folder(data: str = "mnist5k") -> Path:
    """Where the results of a data set are."""
    return FOLDER if data == "mnist5k" else FOLDER / data


def read(path: Path) -> list[Row]:
    """The rows of a file, none if there is no file.

    A last line without its end is what an interrupt left of a row: it is no row.
    """
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    return list(csv.DictReader(text[: text.rfind("\n") + 1].splitlines()))


def pair(row: Row) -> Pair:
    return int(row["seed"]), float(row["lr"])


def half_decade(k: int) -> float:
    """The k-th rate of the grid: 10**(k/2), in three digits."""
    return float(f"{10 ** (k / 2):.3g}")


def search(
    seen: Mapping[Pair, float], start: float, seeds: Sequence[int]
) -> tuple[list[Pair], float | None]:
    """What is to be run next, and the rate once it is found.

    seen: validation accuracy by seed and rate, nan where a net diverged. The rate
    is the one with the best mean over the first seeds; the grid of half decades
    begins with three around `start`, and grows until the best is inside of it.
    """
    tuning = seeds[:TUNING]
    middle = round(2 * np.log10(start))
    grid = [middle - 1, middle, middle + 1]
    while True:
        wanted = [(seed, half_decade(k)) for k in grid for seed in tuning]
        if missing := [p for p in wanted if p not in seen]:
            return missing, None
        means = [np.mean([seen[s, half_decade(k)] for s in tuning]) for k in grid]
        means = [-1 if np.isnan(mean) else mean for mean in means]
        best = max(range(len(grid)), key=lambda i: (means[i], 0 < i < len(grid) - 1))
        if max(means) < 0:
            best = 0  # all diverged: smaller ones
        if best == 0 and grid[0] > LOWEST:
            grid.insert(0, grid[0] - 1)
        elif best == len(grid) - 1 and grid[-1] < HIGHEST:
            grid.append(grid[-1] + 1)
        else:
            rate = half_decade(grid[best])
            return [(s, rate) for s in seeds if (s, rate) not in seen], rate


def rows_of(finding: str, condition: str, path: Path | None = None) -> list[Row]:
    """A condition's rows, at all rates; ValueError, naming those there are."""
    path = path or FOLDER / f"{finding}.csv"
    every = read(path)
    if found := [row for row in every if row["condition"] == condition]:
        return found
    known = ", ".join(dict.fromkeys(row["condition"] for row in every))
    raise ValueError(f"{path.name} has no {condition!r}; it has {known or 'no row'}")


def rate(finding: str, condition: str, path: Path | None = None) -> float:
    """The learning rate that validation chose: the one at which most seeds trained."""
    rates = [row["lr"] for row in rows_of(finding, condition, path)]
    return float(max(dict.fromkeys(rates), key=rates.count))


def scores(
    finding: str, condition: str, score: str = "test", path: Path | None = None
) -> np.ndarray:
    """A condition's scores at its tuned rate, in the order of the seeds: (seeds,)."""
    chosen = rate(finding, condition, path)
    rows = rows_of(finding, condition, path)
    rows = sorted((row for row in rows if float(row["lr"]) == chosen), key=pair)
    return np.array([float(row[score]) for row in rows])


def sweep(
    finding: str, condition: str, score: str = "test", path: Path | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The rates of a condition without a search, and scores (rates, seeds)."""
    rows = rows_of(finding, condition, path)
    by = {pair(row): float(row[score]) for row in rows}
    rates = sorted({rate for _, rate in by})
    seeds = sorted({seed for seed, _ in by})
    return np.array(rates), np.array([[by[s, r] for s in seeds] for r in rates])


def provenance(finding: str, path: Path | None = None) -> str:
    """How many runs made a file, of how many seeds, in what time."""
    rows = read(path or FOLDER / f"{finding}.csv")
    hours = sum(float(row["seconds"]) for row in rows) / 3600
    seeds = len({row["seed"] for row in rows})
    return f"{len(rows)} runs, {seeds} seeds, {hours:.2f} hours of one core or GPU"


def origin(folder: Path = FOLDER) -> str:
    """On which devices, with which versions and code the files were made."""
    rows = [row for path in folder.glob("*.csv") for row in read(path)]
    device, versions, commit = (
        " and ".join(sorted({row[name] for row in rows}))
        for name in ("device", "versions", "commit")
    )
    return f"{device}; {versions}; code of {commit}"
