"""make reseed runs chapters with other seeds, stores them and notices changes."""

import json
import os

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, writes

import margins
import reseed
import stored_runs

# A chapter without training: it records as utils/claims.py does.
CHAPTER = """
import json, os, random
seed = int(os.environ["COURSE_SEED"])
random.seed(seed)
values = [5 + random.random() for _ in range(12)]
claim = {
    "chapter": os.environ["COURSE_CHAPTER"], "statement": "it is {}",
    "kind": "claim", "value": sum(values) / 12, "low": 5.3, "high": 5.7, "n": 12,
    "unit": "", "interval": "95 % interval", "scale": "linear", "above": BOUND,
    "below": None, "within": None, "holds": seed != 13, "values": values, "seed": seed,
}
with open(os.environ["COURSE_RECORD"], "a") as file:
    print(json.dumps(claim), file=file)
"""
WITNESS = """
with open("../seen", "a") as file:
    names = "COURSE_SEED COURSE_WORKERS COURSE_PROGRESS COURSE_STRICT".split()
    names += ["OMP_NUM_THREADS", "ATEN_CPU_CAPABILITY"]
    print([os.environ.get(name) for name in names], os.getcwd(), file=file)
"""
KINDS = [(11, "native"), (12, "default")]


def write(root, name, *sources, text="Words."):
    notebook = new_notebook(cells=[new_code_cell(source) for source in sources])
    notebook.cells.append(new_markdown_cell(text))
    (root / "chapters" / f"{name}.ipynb").write_text(writes(notebook))


@pytest.fixture
def project(tmp_path, monkeypatch):
    for folder in ("chapters", "utils", "data", "tests"):
        (tmp_path / folder).mkdir()
    (tmp_path / "utils" / "training.py").write_text("lr = 1\n")
    (tmp_path / "data" / "digits.npz").write_bytes(b"digits")
    write(tmp_path, "03_chapter", CHAPTER.replace("BOUND", "2"), WITNESS)
    monkeypatch.setenv("COURSE_STRICT", "1")  # must not reach the chapters
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    stored_runs.shared_hash.cache_clear()
    yield tmp_path
    stored_runs.shared_hash.cache_clear()


def load(root, **options):
    stored_runs.shared_hash.cache_clear()
    return stored_runs.load(root, root / "chapters" / "03_chapter.ipynb", **options)


def test_what_one_chapter_reads_makes_only_its_own_runs_stale(project):
    write(project, "12_larger", "from utils.scale import results")
    paths = [project / "chapters" / f"{n}.ipynb" for n in ("03_chapter", "12_larger")]
    csv = project / "data" / "scale" / "shift.csv"
    csv.parent.mkdir()
    before = [stored_runs.code_hash(path) for path in paths]
    csv.write_text("condition,seed\n")
    after = [stored_runs.code_hash(path) for path in paths]
    assert [a == b for a, b in zip(before, after)] == [True, False]


def test_a_chapter_is_run_stored_and_not_run_again(project, capsys):
    assert reseed.reseed(project, KINDS, jobs=2) == 0
    out = capsys.readouterr().out
    assert out.startswith("2 runs, 2 at a time; 0 are stored\n")
    assert "0 of 1 did not hold" in out
    here = str(project / "chapters")
    seen = sorted((project / "seen").read_text().splitlines())
    assert seen == [
        f"['11', '1', '0', None, '1', None] {here}",
        f"['12', '1', '0', None, '1', 'default'] {here}",
    ]
    runs, stale = load(project)
    assert [(run.seed, run.cpu, stale) for run in runs] == [(*k, 0) for k in KINDS]
    assert runs[0].records[0]["chapter"] == "03_chapter"

    assert reseed.reseed(project, KINDS) == 0
    assert "0 runs" in (out := capsys.readouterr().out) and "2 are stored" in out
    assert len((project / "seen").read_text().splitlines()) == 2
    assert reseed.reseed(project, KINDS[:1], fresh=True) == 0
    assert len((project / "seen").read_text().splitlines()) == 3


def stored(root, seeds=range(20, 30), above=2):
    """Runs as a real one would have stored them; the last three, default."""
    notebook = root / "chapters" / "03_chapter.ipynb"
    about = {"kind": "claim", "statement": "it is {}", "n": 3, "scale": "linear"}
    about |= {"value": 5.0, "low": 4.9, "high": 5.1, "values": [4.97, 5.0, 5.03]}
    about |= {"above": above, "below": None, "within": None, "holds": True}
    for i, seed in enumerate(seeds):
        cpu = "native" if i < len(seeds) - 3 else "default"
        run = stored_runs.Run(notebook.stem, seed, cpu, 7, [about])
        stored_runs.store(root, run, stored_runs.code_hash(notebook))


def test_changed_code_makes_runs_stale_and_changed_text_does_not(project):
    stored(project)
    assert load(project)[1] == 0
    write(project, "03_chapter", CHAPTER.replace("BOUND", "2"), WITNESS, text="New.")
    assert load(project)[1] == 0
    write(project, "03_chapter", CHAPTER.replace("BOUND", "3"), WITNESS)
    assert load(project) == ([], 10)
    assert load(project, keep=True) == ([], 10)


@pytest.mark.parametrize("name", ["utils/training.py", "data/digits.npz"])
def test_changed_utils_or_data_make_runs_stale_unless_kept(project, name, capsys):
    stored(project)
    (project / name).write_bytes(b"other")
    assert load(project) == ([], 10)
    assert len(load(project, keep=True)[0]) == 10
    kinds = [(seed, "native") for seed in (20, 21)]
    assert reseed.reseed(project, kinds, keep=True) == 0
    out = capsys.readouterr().out
    assert "KEEP=1: 2 of these are older than a change of utils or data" in out


def test_longest_chapters_come_first_and_new_ones_before(project, monkeypatch):
    order = []
    monkeypatch.setattr(
        reseed, "results", lambda _, todo, jobs: order.extend(todo) or []
    )
    monkeypatch.setattr(reseed, "seconds", lambda root, path: took[path.stem[:2]])
    took = {"03": 7, "04": float("inf"), "05": 20}
    write(project, "04_new", CHAPTER)
    write(project, "05_slow", CHAPTER)
    reseed.reseed(project, [(1, "native")])
    assert [path.stem[:2] for path, _ in order] == ["04", "05", "03"]
    stored(project)
    assert stored_runs.seconds(project, order[2][0]) == 7
    assert stored_runs.seconds(project, order[0][0]) == float("inf")


def test_a_failing_claim_goes_on_and_is_named(project, capsys):
    assert reseed.reseed(project, [(13, "native")]) == 0
    assert "1 of 1 did not hold\n    it is {}\n" in capsys.readouterr().out


def test_a_broken_chapter_is_reported_with_its_end_and_not_stored(project, capsys):
    write(project, "03_chapter", CHAPTER.replace("BOUND", "2"), "1 / 0")
    assert reseed.reseed(project, KINDS[:1]) == 1
    out = capsys.readouterr().out
    assert "seed 11    native   broke:" in out
    assert "ZeroDivisionError" in out and "\x1b" not in out
    assert load(project) == ([], 0)


def test_a_statement_made_twice_breaks_the_run(project, capsys):
    source = CHAPTER.replace("BOUND", "2")
    write(project, "03_chapter", source, source)
    assert reseed.reseed(project, KINDS[:1]) == 1
    assert "'it is {}' is claimed 2 times" in capsys.readouterr().out


def test_the_table_is_written_and_rows_without_new_runs_stay(project, capsys):
    stored(project)
    assert margins.update(project) == 0
    out = capsys.readouterr().out
    assert "0 of 1 claims break the rule" in out and "Sum of the chances: 0" in out
    first = margins.read_table(project)
    assert [row["statement"] for row in first] == ["it is {}"]
    # A changed chapter: nothing current, the row stays.
    write(project, "03_chapter", CHAPTER.replace("BOUND", "3"))
    stored_runs.shared_hash.cache_clear()
    margins.update(project)
    assert "10 stored runs are out of date" in capsys.readouterr().out
    assert margins.read_table(project) == first
    # Too few sets do not replace it.
    stored(project, seeds=range(5), above=3)
    margins.update(project)
    assert "the rows above come from 5 seed sets" in capsys.readouterr().out
    assert margins.read_table(project) == first
    stored(project, seeds=range(10), above=3)
    margins.update(project)
    assert margins.read_table(project)[0]["at"] == "3"
    # Nor do rows of a chapter that is no more stay.
    os.rename(project / "chapters/03_chapter.ipynb", project / "chapters/03_new.ipynb")
    margins.update(project)
    assert margins.read_table(project) == []


def test_plans_and_refusals(project, monkeypatch):
    assert reseed.plan("12 11", "") == [(12, "native"), (11, "native")]
    crossed = reseed.plan("1 2", "native avx2")
    assert crossed[2:] == [(1, "avx2"), (2, "avx2")]
    seeds = {seed for seed, _ in reseed.plan("", "")}
    other = [cpu for _, cpu in reseed.plan("", "") if cpu != "native"]
    assert len(seeds) >= margins.SETS and len(other) >= margins.OTHER_CPU
    weeks = [{seed for seed, _ in reseed.weekly_plan(week)} for week in (1, 2)]
    assert len(weeks[0] | weeks[1]) == 8
    with pytest.raises(ValueError, match="SEEDS are whole numbers.*'x'"):
        reseed.plan("x", "")
    with pytest.raises(ValueError, match="CPU is one or more of native.*'sse'"):
        reseed.plan("1", "sse")
    with pytest.raises(ValueError, match="no chapter begins with '07'; there are 03_"):
        stored_runs.chapters(project, "03 07")
    monkeypatch.setenv("JOBS", "two")
    with pytest.raises(ValueError, match="JOBS is how many"):
        reseed.main(project, [])


@pytest.mark.parametrize("failures, code", [(0, 0), (1, 0), (2, 1)])
def test_the_weekly_run_bears_one_failure(project, failures, code, monkeypatch, capsys):
    stored(project, seeds=range(4))
    for seed in range(failures):
        path = stored_runs.place(project, "03_chapter", seed, "native")
        path = path if path.exists() else path.with_name(f"{seed}-default.jsonl")
        about, record = path.read_text().splitlines()
        record = json.dumps(json.loads(record) | {"holds": False})
        path.write_text(f"{about}\n{record}\n")
    summary = project / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    kinds = [(0, "native"), (1, "default"), (2, "default"), (3, "default")]
    assert reseed.weekly(project, kinds, broken=0) == code
    assert f"{failures} of 4 claims did not hold" in summary.read_text()
    assert summary.read_text() in capsys.readouterr().out
    assert reseed.weekly(project, kinds, broken=1) == 1
