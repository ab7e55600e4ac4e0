"""Run the chapters with other seeds and CPU kinds, then make the margins' table.

    make reseed                         what the rule asks for (see `plan`)
    make reseed SEEDS="11 12" CPU="native default" CHAPTERS="04 07"
    make weekly                         four fresh seeds, and how many claims failed

Claims are recorded, not raised; any other error is a failed run. Runs are stored
(stored_runs.py) and not made again while code, utils and data are the same.
FRESH=1 makes all anew; KEEP=1 keeps runs although utils or data have changed;
JOBS=1 runs one chapter at a time, where the default is one per core.
"""

import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from subprocess import DEVNULL

import nbformat
from joblib import cpu_count
from nbclient import NotebookClient

import margins
from repository import ROOT
from stored_runs import CPUS, Run, chapters, code_hash, load, parse, seconds, store

Kind = tuple[int, str]  # COURSE_SEED and the CPU kind
TIMEOUT = 900  # seconds per cell: other chapters share the cores


def plan(seeds: str, cpus: str) -> list[Kind]:
    """Every seed under every CPU kind.

    Without either, what the rule asks for: ten sets, three of them under another
    CPU kind, too. The seeds are not 1 to 10, on which bounds were once accepted.
    """
    if not seeds and not cpus:
        own = [(seed, "native") for seed in range(21, 31)]
        return own + [(seed, "default") for seed in (21, 22, 23)]
    seeds, cpus = (
        seeds.split() or [*map(str, range(21, 31))],
        cpus.split() or ["native"],
    )
    for seed in seeds:
        if not seed.isdecimal():
            raise ValueError(f"SEEDS are whole numbers such as 11 12, got {seed!r}")
    for cpu in cpus:
        if cpu not in CPUS:
            raise ValueError(f"CPU is one or more of {', '.join(CPUS)}, got {cpu!r}")
    return [(seed, cpu) for cpu in cpus for seed in map(int, dict.fromkeys(seeds))]


def weekly_plan(run_number: int) -> list[Kind]:
    """Four seeds that no other week has, the last under another CPU kind."""
    first = 1000 + 4 * run_number
    return [*((first + i, "native") for i in range(3)), (first + 3, "default")]


def environment(chapter: str, kind: Kind, record: Path) -> dict[str, str]:
    """What a chapter's kernel is started with."""
    mine = ("COURSE_", "ATEN_CPU_CAPABILITY")  # nothing of these from outside
    env = {name: v for name, v in os.environ.items() if not name.startswith(mine)}
    env |= {"COURSE_SEED": str(kind[0]), "COURSE_CHAPTER": chapter}
    env |= {"COURSE_RECORD": str(record), "COURSE_WORKERS": "1"}
    env |= {"COURSE_PROGRESS": "0", "OMP_NUM_THREADS": "1"}
    return env | ({} if kind[1] == "native" else {"ATEN_CPU_CAPABILITY": kind[1]})


def execute(root: Path, notebook: Path, kind: Kind) -> Run:
    """Run a chapter in a kernel of its own, from top to bottom, and store it."""
    begun, code = time.monotonic(), code_hash(notebook)
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "claims.jsonl"
        NotebookClient(
            nbformat.read(notebook, as_version=4),
            timeout=TIMEOUT,
            resources={"metadata": {"path": str(notebook.parent)}},
        ).execute(env=environment(notebook.stem, kind, record), stderr=DEVNULL)
        records = parse(record.read_text(encoding="utf-8")) if record.exists() else []
    run = Run(notebook.stem, *kind, time.monotonic() - begun, records)
    store(root, run, code)
    return run


def end_of(error: Exception) -> str:
    """The last lines of a failed run's traceback, without terminal colours."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error)) or repr(error)
    return "\n".join(f"    {line}" for line in text.rstrip().splitlines()[-15:])


def results(
    root: Path, todo: list[tuple[Path, Kind]], jobs: int
) -> Iterator[tuple[Path, Kind, Run | Exception]]:
    """Run what is to do, and yield each run, or what stopped it, as it ends."""
    pool = ThreadPoolExecutor(jobs)  # each thread waits for a kernel, a process
    try:
        waiting = {pool.submit(execute, root, *job): job for job in todo}
        for future in as_completed(waiting):
            error = future.exception()
            yield *waiting[future], error if error else future.result()
    except BaseException:
        print("Stopped; what runs now is stored when it ends.", file=sys.stderr)
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def reseed(
    root: Path,
    kinds: list[Kind],
    wanted: str = "",
    *,
    jobs: int = 0,
    fresh: bool = False,
    keep: bool = False,
) -> int:
    """Run what is not stored; print a line for each; return how many broke."""
    todo, stored, kept = [], 0, 0
    for notebook in chapters(root, wanted):
        current = {(r.seed, r.cpu) for r in load(root, notebook)[0]}
        usable = {(r.seed, r.cpu) for r in load(root, notebook, keep)[0]}
        have = set() if fresh else usable
        todo += [(notebook, kind) for kind in kinds if kind not in have]
        stored += len(have & {*kinds})
        kept += len((have - current) & {*kinds})
    took = {notebook: seconds(root, notebook) for notebook, _ in todo}
    todo.sort(key=lambda job: (took[job[0]], job[0].stat().st_size), reverse=True)
    jobs = jobs or cpu_count()
    print(f"{len(todo)} runs, {jobs} at a time; {stored} are stored", flush=True)
    if kept:
        print(f"KEEP=1: {kept} of these are older than a change of utils or data")
    broken = 0
    for notebook, (seed, cpu), run in results(root, todo, jobs):
        name = f"{notebook.stem:28} seed {seed:<5} {cpu:8}"
        if isinstance(run, Exception):
            broken += 1
            print(f"{name} broke:\n{end_of(run)}", flush=True)
            continue
        failed = f"{len(run.failed)} of {len(run.records)} did not hold"
        print(f"{name} {run.seconds:4.0f} s  {failed}", flush=True)
        for record in run.failed:
            print(f"    {record['statement']}", flush=True)
    if broken:
        print(f"{broken} runs broke: each chapter must run with any seed.")
    return broken


def weekly(root: Path, kinds: list[Kind], broken: int) -> int:
    """Say how many claims failed; return the exit code.

    One may fail by chance: the rule allows four runs of the course one failure
    in 25 weeks. Two in a week are hardly chance.
    """
    runs = [run for notebook in chapters(root) for run in load(root, notebook)[0]]
    runs = [run for run in runs if (run.seed, run.cpu) in kinds]
    failed = [(run, record) for run in runs for record in run.failed]
    of = sum(len(run.records) for run in runs)
    seeds = ", ".join(f"{seed} ({cpu})" for seed, cpu in kinds)
    lines = [f"## Fresh seeds: {len(failed)} of {of} claims did not hold", ""]
    lines += [f"COURSE_SEED {seeds}; {broken} runs broke.", ""]
    for run, record in failed:
        lines.append(f"- {run.chapter}, {run.seed}, {run.cpu}: {record['statement']}")
    if len(failed) == 1:
        lines.append("\nOne may fail by chance, about one week in 25.")
    if len(failed) > 1:
        lines.append(
            "\nMore than one is hardly chance: run `make reseed` with these seeds, "
            "and look at the claims' margins."
        )
    text = "\n".join(lines) + "\n"
    print(text)
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        with open(summary, "a", encoding="utf-8") as file:
            file.write(text)
    return int(broken > 0 or len(failed) > 1)


def main(root: Path, arguments: list[str]) -> int:
    """Read the variables that make passes on; return the exit code."""
    given = {name: os.environ.get(name, "").strip() for name in ("SEEDS", "CPU")}
    wanted, jobs = os.environ.get("CHAPTERS", ""), os.environ.get("JOBS") or "0"
    if not jobs.isdecimal():
        raise ValueError(f"JOBS is how many chapters run at a time, got {jobs!r}")
    flags = {name: os.environ.get(name.upper()) == "1" for name in ("fresh", "keep")}
    options = {"jobs": int(jobs), **flags}
    if arguments == ["weekly"]:
        kinds = weekly_plan(int(os.environ.get("GITHUB_RUN_NUMBER", "0")))
        return weekly(root, kinds, reseed(root, kinds, **options))
    broken = reseed(root, plan(given["SEEDS"], given["CPU"]), wanted, **options)
    refused = margins.update(root, keep=flags["keep"])
    return int(broken > 0 or refused > 0)


if __name__ == "__main__":
    try:
        sys.exit(main(ROOT, sys.argv[1:]))
    except ValueError as error:
        sys.exit(f"reseed: {error}")
