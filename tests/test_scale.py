"""make scale: every run of the table once, whatever stops it; the nets and files."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import scale
import scale_files
import scale_work
from tests import scale_table
from utils.scale import results
from utils.scale.findings import FINDINGS, Finding

ROOT = Path(__file__).resolve().parents[1]
SEEDS = list(range(6))
# By the table's rule: around 0.01 the grid widens until 0.1 is inside of it.
SEARCHED = {(s, r) for s in SEEDS[:4] for r in (0.00316, 0.01, 0.0316, 0.1, 0.316)}
SEARCHED |= {(s, 0.1) for s in SEEDS[4:]}


@pytest.fixture(autouse=True)
def log(tmp_path, monkeypatch):
    """Where the runs leave a line each."""
    monkeypatch.setenv("SCALE_LOG", str(tmp_path / "log"))
    for name in ("ONLY", "DATA", "SCHEDULER", "FRESH", "KEEP", "SEEDS", "JOBS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "log"


def made(folder, finding, condition):
    """The pairs that are stored of a condition, each as often as it is."""
    rows = results.read(folder / f"{finding}.csv")
    return sorted(results.pair(r) for r in rows if r["condition"] == condition)


def assert_complete(folder, table):
    for condition in table["searched"].conditions:
        assert made(folder, "searched", condition) == sorted(SEARCHED)
    both = [(s, r) for s in SEEDS for r in (0.1, 1.0)]
    assert made(folder, "fixed", "all") == both


def run(folder, table, **options):
    with scale_files.Store(folder) as store:
        return scale.scale(table, SEEDS, store, **({"jobs": 1} | options))


def test_every_run_is_made_once_and_none_again(tmp_path, log, capsys):
    table = scale_table.table()
    assert run(tmp_path, table) == 0
    assert_complete(tmp_path, table)
    out = capsys.readouterr().out
    assert "searched: c0, 12 runs" in out and "about 0 min to go" in out
    runs = log.read_text()
    assert run(tmp_path, table) == 0
    assert log.read_text() == runs
    row = results.read(tmp_path / "fixed.csv")[0]
    assert list(row) == [
        *("condition", "seed", "lr", "validation", "test"),
        *("seconds", "device", "versions", "commit", "code"),
    ]
    assert torch.__version__ in row["versions"]


def test_scores_are_read_at_the_tuned_rate(tmp_path):
    run(tmp_path, scale_table.table(1))
    path = tmp_path / "searched.csv"
    found = results.scores("searched", "c0", "validation", path)
    np.testing.assert_allclose(found, 90 - np.arange(6))
    with pytest.raises(ValueError, match="has no 'c7'; it has c0"):
        results.scores("searched", "c7", path=path)
    rates, tests = results.sweep("fixed", "all", path=tmp_path / "fixed.csv")
    assert rates.tolist() == [0.1, 1.0]
    np.testing.assert_allclose(tests, [[80] * 6, [79] * 6])
    assert results.provenance("fixed", tmp_path / "fixed.csv").startswith("12 runs, 6")
    device, versions, code = results.origin(tmp_path).split("; ")
    assert device.startswith("CPU") and torch.__version__ in versions
    assert code.startswith("code of ")


def test_an_interrupt_loses_no_job_that_has_ended(tmp_path, log, monkeypatch):
    table, add, seen = scale_table.table(), scale_files.Store.add, []

    def interrupted(self, finding, rows):
        add(self, finding, rows)
        seen.append(finding)
        if len(seen) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(scale_files.Store, "add", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, table)
    monkeypatch.setattr(scale_files.Store, "add", add)
    stored = {
        (name, c, *key)
        for name in table
        for c in table[name].conditions
        for key in made(tmp_path, name, c)
    }
    assert len(stored) == 12 + 12 + 12
    run(tmp_path, table)
    assert_complete(tmp_path, table)


def test_half_a_line_is_no_row(tmp_path):
    table = scale_table.table()
    run(tmp_path, table)
    path = tmp_path / "searched.csv"
    content = path.read_bytes()
    for cut in (1, 400, len(content) - 3):  # the last leaves half a header
        path.write_bytes(content[:-cut])
        run(tmp_path, table)
        assert_complete(tmp_path, table)


PROGRAM = """
import sys
from pathlib import Path
import scale
from tests import scale_table
sys.exit(scale.main(scale_table.table(sleep=0.2), Path(sys.argv[1])))
"""


def test_a_stopped_process_says_so_and_goes_on(tmp_path, log):
    """As with Ctrl-C in a terminal, with two worker processes."""
    env = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tools'}", "SEEDS": "6"}
    command = [sys.executable, "-c", PROGRAM, tmp_path]
    options = dict(env=env | {"JOBS": "2"}, stdout=subprocess.PIPE, text=True)
    process = subprocess.Popen(command, **options, start_new_session=True)
    wait_for(lambda: made(tmp_path, "searched", "c1"))
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 130, out
    assert "What had ended is stored" in out
    table = scale_table.table(sleep=0.2)
    before = {c: made(tmp_path, "searched", c) for c in table["searched"].conditions}
    assert 0 < sum(map(len, before.values())) < 2 * len(SEARCHED)
    run(tmp_path, table)
    assert_complete(tmp_path, table)


def test_a_broken_condition_does_not_stop_the_others(
    tmp_path, log, capsys, monkeypatch
):
    table = scale_table.table()
    table["bad"] = Finding("", scale_table.fails, {"one": {"rate": 0.1}})
    monkeypatch.setenv("SEEDS", "6")
    monkeypatch.setenv("JOBS", "1")
    assert scale.main(table, tmp_path) == 1
    out = capsys.readouterr().out
    assert "bad: one broke:" in out and "this one cannot be run" in out
    assert "But 1 conditions broke" in out
    assert_complete(tmp_path, table)
    assert not (tmp_path / "bad.csv").exists()


def test_runs_by_other_code_are_not_mixed_in(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SEEDS", "6")
    monkeypatch.setenv("JOBS", "1")
    assert scale.main(scale_table.table(), tmp_path) == 0
    assert scale.main(scale_table.table(), tmp_path) == 0
    changed = scale_table.table()
    changed["searched"].conditions["c1"]["images"] = 5
    with pytest.raises(ValueError, match="22 of the runs in .* other code.*FRESH=1"):
        scale.main(changed, tmp_path)
    monkeypatch.setenv("KEEP", "1")
    assert scale.main(changed, tmp_path) == 0
    assert "KEEP=1: 22 runs" in capsys.readouterr().out
    monkeypatch.setenv("FRESH", "1")
    monkeypatch.setenv("ONLY", "searched")
    before = (tmp_path / "fixed.csv").read_text()
    assert scale.main(changed, tmp_path) == 0
    assert (tmp_path / "fixed.csv").read_text() == before


def test_what_a_row_says_of_its_code():
    def stamp(source):
        return scale_work.without_words(source)

    assert stamp('def f(x):\n    """Twice x."""\n    return 2 * x  # so') == stamp(
        'def f(x):\n    """Another word."""\n\n    return 2 * x\n'
    )
    assert stamp("x = 1") != stamp("x = 2")
    job = scale_work.Job(
        "f", "c", scale_table.noted, {"name": "c"}, ((0, 0.1),), "mnist5k", "abc", 1
    )
    rows, error = scale_work.work(job)
    assert rows == [] and "other code" in error and "(abc)" in error


def test_one_writer_at_a_time(tmp_path):
    with scale_files.Store(tmp_path):
        with pytest.raises(ValueError, match="another make scale is writing"):
            with scale_files.Store(tmp_path):
                pass
    with scale_files.Store(tmp_path):
        pass


@pytest.mark.parametrize(
    "variable, value, message",
    [
        ("ONLY", "shift nosuch", "ONLY names findings: .*; got nosuch"),
        ("DATA", "imagenet", "DATA is one of mnist5k, mnist, fashion-mnist, cifar10"),
        ("SEEDS", "0", "SEEDS is a whole number from 1, got '0'"),
        ("JOBS", "two", "JOBS is a whole number"),
    ],
)
def test_refusals(tmp_path, monkeypatch, variable, value, message):
    monkeypatch.setenv(variable, value)
    with pytest.raises((ValueError, RuntimeError), match=message):
        scale.main(folder=tmp_path)


@given(st.integers(-9, 3), st.integers(-8, 2), st.integers(-12, 9))
def test_a_rate_is_never_picked_at_the_edge_of_its_grid(best, start, diverged):
    """One best rate; from `diverged` half decades on, nan."""
    best = min(best, diverged - 1)
    seen = {}
    for _ in range(40):
        pairs, rate = results.search(seen, results.half_decade(start), SEEDS)
        if not pairs:
            break
        for seed, r in pairs:
            k = round(2 * np.log10(r))
            assert (seed, r) not in seen and (seed < 4 or rate == r)
            seen[seed, r] = np.nan if k >= diverged else 90 - abs(k - best)
    tried = {round(2 * np.log10(r)) for _, r in seen}
    if best >= results.LOWEST + 1:
        assert rate == results.half_decade(best)
        assert {best - 1, best + 1} <= tried
    assert {s for s, r in seen if r == rate} == {*SEEDS}


def test_equal_scores_are_no_reason_to_go_to_the_edge():
    seen = {(s, results.half_decade(k)): 10.0 for s in SEEDS for k in (-3, -2, -1)}
    assert results.search(seen, 0.1, SEEDS) == ([], 0.1)


def test_the_table_is_complete():
    for name, finding in FINDINGS.items():
        assert finding.statement.endswith(".") and finding.conditions, name
        for settings in finding.conditions.values():
            assert finding.rates or 1e-5 < settings["rate"] < 10
    jobs, _ = scale.plan(scale_files.Store(Path("nowhere")), FINDINGS, SEEDS, "mnist5k")
    assert {job.finding for job in jobs} == {*FINDINGS}
    assert max(len(job.pairs) for job in jobs) <= scale.WIDTH


@pytest.mark.parametrize("name", FINDINGS)
def test_stored_results_are_whole_and_of_a_commit(name):
    """What chapter 12 shows: twelve seeds of each condition, at a rate inside."""
    path = results.FOLDER / f"{name}.csv"
    if not path.exists():
        pytest.skip(f"{path.name} is not there yet: make scale")
    rows, seeds = results.read(path), list(range(12))
    assert not {row["commit"] for row in rows if row["commit"].endswith("+")}
    for condition, settings in FINDINGS[name].conditions.items():
        own = [row for row in rows if row["condition"] == condition]
        assert scale.missing(FINDINGS[name], settings, own, seeds) == ([], False)


@pytest.fixture
def cluster(tmp_path):
    """The address of a Dask cluster of two workers, as `make worker` starts them.

    The scheduler is a process that cannot import the course.
    """
    pytest.importorskip(
        "distributed",
        reason="dask.distributed is not installed: requirements-scale.txt",
    )
    file, dask = tmp_path / "scheduler.json", [sys.executable, "-m", "distributed.cli"]
    where = ["--scheduler-file", file, "--no-dashboard"]
    options = dict(cwd=tmp_path, stderr=subprocess.DEVNULL)
    env = {name: v for name, v in os.environ.items() if name != "PYTHONPATH"}
    commands = {
        ".dask_scheduler": (["--host", "127.0.0.1", "--port", "0", *where], env),
        ".dask_worker": (
            ["--nworkers", "2", "--nthreads", "1", *where],
            env | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tools'}"},
        ),
    }
    started = []
    for name, (arguments, own) in commands.items():
        command = [*dask[:2], dask[2] + name, *arguments]
        started.append(subprocess.Popen(command, env=own, **options))
    wait_for(file.exists)
    yield json.loads(file.read_text())["address"]
    for process in reversed(started):
        process.terminate()
    for process in started:
        process.wait(120)


def wait_for(there, seconds=300):
    deadline = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def workers(address):
    """The addresses of the workers that a Dask cluster has now."""
    from distributed import Client

    with Client(address, set_as_default=False) as client:
        return {*client.scheduler_info(n_workers=-1)["workers"]}


def test_a_dask_cluster_loses_nothing_when_a_worker_is_killed(
    tmp_path, log, monkeypatch, cluster
):
    """Two workers, one of them killed in the midst of a job: all runs, each once."""
    table, add, killed = scale_table.table(sleep=0.2), scale_files.Store.add, []

    def add_and_kill(self, finding, rows):
        add(self, finding, rows)
        pids = [line.split()[0] for line in log.read_text().splitlines()]
        if not killed and len(set(pids)) == 2:
            killed.append(int(pids[-1]))  # it has just begun
            before = workers(cluster)
            os.kill(killed[0], signal.SIGKILL)
            # its nanny starts another, which takes its share of what is left
            wait_for(lambda: len(now := workers(cluster)) == 2 and now != before)

    monkeypatch.setattr(scale_files.Store, "add", add_and_kill)
    assert run(tmp_path, table, scheduler=cluster) == 0
    assert_complete(tmp_path, table)
    by = {}  # job -> the processes that began it
    for line in log.read_text().splitlines():
        pid, job = line.split(" ", 1)
        by.setdefault(job, []).append(int(pid))
    pids = {pid for own in by.values() for pid in own}
    assert len(killed) == 1 and len(pids) == 3
    assert os.getpid() not in pids
    # Only what died with a process is made again: what it was at, and what it had
    # finished but nobody had fetched yet.
    again = [own for own in by.values() if len(own) > 1]
    assert all(len(own) == 2 and own.count(killed[0]) == 1 for own in again)


def test_a_cluster_that_is_not_there(tmp_path):
    pytest.importorskip(
        "distributed",
        reason="dask.distributed is not installed: requirements-scale.txt",
    )
    with pytest.raises(ValueError, match="no Dask scheduler answers at tcp://127"):
        scale.cluster("tcp://127.0.0.1:9", timeout=1)


def test_without_dask_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ValueError, match="SCHEDULER needs the package distributed"):
        run(tmp_path, scale_table.table(), scheduler="tcp://127.0.0.1:9")
