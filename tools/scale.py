"""Make the runs of chapter 12's table (utils/scale/findings.py): hours, not seconds.

    make scale                           what is missing of it, on all cores or the GPU
    make scale ONLY="shift folding"      these findings
    make scale DATA=fashion-mnist        or mnist, cifar10: downloaded; results in
                                         data/scale/fashion-mnist, reported only
    make scale SCHEDULER=tcp://host:8786 the runs go to a Dask cluster
    make worker SCHEDULER=tcp://…        on each of its machines, in a checkout

A run is one net: a condition, a seed, a learning rate. About twelve train together
as one job. Each job that ends is stored in data/scale/<finding>.csv at once, so an
interrupt loses what was running and nothing else: `make scale` goes on from there.
Runs by other code are not mixed in: FRESH=1 makes them anew, KEEP=1 keeps them.
SEEDS=3 takes fewer, JOBS=1 runs one job at a time.
"""

import os
import pickle
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import joblib

import scale_files
from scale_work import Job, code, longer_by
from utils.data import DataError
from utils.scale import images, results
from utils.scale.experiments import IMAGES
from utils.scale.findings import FINDINGS, Finding, device
from utils.scale.results import Pair

WIDTH = 12  # nets that train together: more bring little


def expected(settings: dict) -> float:
    """Seconds of one net on one core, roughly."""
    images, batch_size = settings.get("images", IMAGES), settings.get("batch_size", 32)
    each = 0.03 if settings.get("dense") else 0.4 + 1.9 / batch_size  # ms
    return each * images / 1000


def missing(
    finding: Finding, settings: dict, rows: list[results.Row], seeds: list[int]
) -> tuple[list[Pair], bool]:
    """Pairs that can be run now, and whether more will follow them."""
    seen = {results.pair(row): row for row in rows}
    if finding.rates:
        every = [(seed, rate) for rate in finding.rates for seed in seeds]
        return [p for p in every if p not in seen], False
    accuracy = {p: float(row["validation"]) for p, row in seen.items()}
    pairs, rate = results.search(accuracy, settings["rate"], seeds)
    return pairs, rate is None


def plan(
    store: scale_files.Store, table: dict[str, Finding], seeds: list[int], data: str
) -> tuple[list[Job], float]:
    """The jobs that can be run now, the longest first; seconds of those after them."""
    jobs, later = [], 0.0
    for name, finding in table.items():
        for condition, settings in finding.conditions.items():
            pairs, more = missing(finding, settings, store.rows(name, condition), seeds)
            stamp = code(finding.experiment, settings, data)
            each = expected(settings) * longer_by(data)
            later += more * each * max(0, len(seeds) - results.TUNING)
            for first in range(0, len(pairs), WIDTH):
                some = tuple(pairs[first : first + WIDTH])
                jobs.append(
                    Job(
                        *(name, condition, finding.experiment, settings),
                        *(some, data, stamp, each * len(some)),
                    )
                )
    return sorted(jobs, key=lambda job: -job.seconds), later


def done(jobs: list[Job], parallel: joblib.Parallel) -> Iterator[tuple[Job, list, str]]:
    """Each job as it ends, with its rows or what went wrong."""

    # Dask's scheduler unpickles what it hands on, and need not have the course: so
    # a job travels as bytes, and this function by value, with imports of its own.
    def sent(i: int, pickled: bytes) -> tuple[int, list[dict], str]:
        import pickle

        try:
            from scale_work import work
        except ImportError as error:
            return i, [], f"a worker cannot import the course ({error}): make worker"
        return i, *work(pickle.loads(pickled))

    calls = (joblib.delayed(sent)(i, pickle.dumps(job)) for i, job in enumerate(jobs))
    for i, rows, error in parallel(calls):
        yield jobs[i], rows, error


def cluster(address: str, timeout: int = 30):
    """joblib's settings for a Dask cluster; ValueError, in a sentence, if none is."""
    try:
        from distributed import Client
        from joblib._dask import DaskDistributedBackend
    except ImportError:
        raise ValueError(
            "SCHEDULER needs the package distributed: "
            "pip install -r requirements-scale.txt"
        ) from None

    class Backend(DaskDistributedBackend):
        def effective_n_jobs(self, n_jobs: int) -> int:
            # For 1 joblib would leave the cluster alone and compute here; one may
            # be what is left of it for a while.
            return max(2, super().effective_n_jobs(n_jobs))

    try:
        client = Client(address, timeout=timeout, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"no Dask scheduler answers at {address}: {error}") from None
    return joblib.parallel_config(Backend(client=client, wait_for_workers_timeout=600))


def scale(
    table: dict[str, Finding],
    seeds: list[int],
    store: scale_files.Store,
    *,
    data: str = "mnist5k",
    jobs: int = 0,
    scheduler: str = "",
) -> int:
    """Make what is missing, in rounds, since rates are searched; how many broke."""
    begun, spent, broken = time.monotonic(), 0.0, set()
    where = cluster(scheduler) if scheduler else nullcontext()
    with where:
        workers = -1 if scheduler else jobs or default_jobs()
        while True:
            todo, later = plan(store, table, seeds, data)
            todo = [j for j in todo if (j.finding, j.condition) not in broken]
            if not todo:
                return len(broken)
            left = sum(job.seconds for job in todo) + later
            runs = sum(len(job.pairs) for job in todo)
            print(f"{runs} runs in {len(todo)} jobs", flush=True)
            parallel = joblib.Parallel(
                workers,
                batch_size=1,
                pre_dispatch="all",  # so that a worker that comes late has some
                return_as="generator_unordered",
            )
            for number, (job, rows, error) in enumerate(done(todo, parallel), 1):
                store.add(job.finding, rows)
                spent, left = spent + job.seconds, left - job.seconds
                minutes = (time.monotonic() - begun) / spent * left / 60
                name = f"{job.finding}: {job.condition}"
                if error:
                    broken.add((job.finding, job.condition))
                    print(f"{name} broke:\n{error}", flush=True)
                    continue
                took = sum(float(row["seconds"]) for row in rows)
                print(
                    f"[{number}/{len(todo)}] {name}, {len(rows)} runs, {took:.0f} s; "
                    f"about {minutes:.0f} min to go",
                    flush=True,
                )


def default_jobs() -> int:
    """A process per core; a few that share a GPU."""
    cores = joblib.cpu_count()
    return min(4, cores) if device() == "cuda" else cores


def number(name: str, otherwise: int) -> int:
    given = os.environ.get(name, "").strip()
    if given and not (given.isdecimal() and int(given) > 0):
        raise ValueError(f"{name} is a whole number from 1, got {given!r}")
    return int(given or otherwise)


def main(table: dict[str, Finding] = FINDINGS, folder: Path | None = None) -> int:
    """Read the variables that make passes on; return the exit code."""
    given = {
        name: os.environ.get(name, "").strip()
        for name in ("ONLY", "DATA", "SCHEDULER", "FRESH", "KEEP")
    }
    data = given["DATA"] or "mnist5k"
    if unknown := set(given["ONLY"].split()) - set(table):
        raise ValueError(
            f"ONLY names findings: {', '.join(table)}; got {', '.join(sorted(unknown))}"
        )
    chosen = given["ONLY"].split() or list(table)
    table = {name: finding for name, finding in table.items() if name in chosen}
    seeds = list(range(number("SEEDS", 12)))
    images.read(data)  # downloaded, and said what is wrong, before anything runs
    with scale_files.Store(folder or results.folder(data)) as store:
        codes = {
            (name, condition): code(f.experiment, settings, data)
            for name, f in table.items()
            for condition, settings in f.conditions.items()
        }
        how = "fresh" * (given["FRESH"] == "1") or "keep" * (given["KEEP"] == "1")
        others = store.settle(codes, how)
        if others:
            print(f"KEEP=1: {others} runs were made by other code")
        begun = time.monotonic()
        try:
            broken = scale(
                table,
                seeds,
                store,
                data=data,
                jobs=number("JOBS", default_jobs()),
                scheduler=given["SCHEDULER"],
            )
        except KeyboardInterrupt:
            print("\nStopped. What had ended is stored; make scale goes on from there.")
            return 130
        store.sort(table)
    print(f"All runs are stored, after {(time.monotonic() - begun) / 60:.1f} min.")
    if broken:
        print(f"But {broken} conditions broke: see above.")
    return int(broken > 0)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ValueError, DataError) as error:
        sys.exit(f"scale: {error}")
