"""What the pages for instructors say of chapters and exercises is so."""

import re
from pathlib import Path

import nbformat
from nbclient import NotebookClient

import bank
import course_table

ROOT = Path(__file__).resolve().parents[1]
ROWS = course_table.rows(ROOT)
EXERCISES = {e.label: e for row in ROWS for e in row.exercises}
PLANS = (ROOT / "instructors" / "plans.md").read_text("utf-8")


def test_the_table_has_every_chapter_and_exercise():
    notebooks = sorted((ROOT / "chapters").glob("[0-9]*.ipynb"))
    assert [row.name for row in ROWS] == [path.stem for path in notebooks]
    text = "".join(path.read_text("utf-8") for path in notebooks)
    assert len(EXERCISES) == len(re.findall(r"#+ Exercise \d+\.\d+", text))
    for row in ROWS:
        assert len(row.objectives) >= 3 and row.reading > 0 and row.needs


def test_plans_name_exercises_with_their_minutes():
    named = re.findall(r"\b(\d+\.\d+) \((\d+) min\)", PLANS)
    assert len(named) > 20
    for label, minutes in named:
        assert course_table.minutes(EXERCISES[label]) == int(minutes), label


def test_two_discussions_a_chapter():
    for i, row in enumerate(ROWS):
        lacks = f"instructors/plans.md: ### {row.number} … with **{i}.1** and **{i}.2**"
        assert re.search(rf"^### {row.number} ", PLANS, re.M), lacks
        for j in (1, 2):
            found = re.findall(rf"\*\*{i}\.{j}\*\*(.*?)(?=\n\n|\Z)", PLANS, re.S)
            assert len(found) == 1, f"{lacks}, each once"
            assert "*Listen for:*" in " ".join(found[0].split()), f"{i}.{j}"


def test_the_sections_that_plans_name_are_there():
    places = re.findall(
        r"\(\.\./chapters/(\w+)\.ipynb\)[^|\n\[]*?\*([A-Z][^*]+)\*", PLANS
    )
    assert places
    for chapter, heading in places:
        found = bank.headings(ROOT)[chapter]
        assert any(h.startswith(heading) for h in found), (chapter, heading)


def test_the_project_starter_runs(monkeypatch):
    monkeypatch.setenv("COURSE_STRICT", "1")  # a claim that fails is an error
    monkeypatch.setenv("COURSE_PROGRESS", "0")
    path = ROOT / "instructors" / "project" / "project_starter.ipynb"
    notebook = nbformat.read(path, as_version=4)
    assert not any(c.get("outputs") for c in notebook.cells)
    client = NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": str(path.parent)}}
    )
    client.execute()
    best = next(c for c in client.nb.cells if c.id == "train").outputs[0].text
    picks = [int(i) for i in re.findall(r": (\d)", best)]
    assert len(picks) == 4 and all(0 < i < 3 for i in picks)  # inside the grid
