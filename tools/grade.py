"""Grade what students handed in, into a table, and a page for each of them.

    make grade CHAPTER=07 FROM=downloads.zip

FROM is what the learning platform gives: a zip or a folder. In
_grades/07_batch_size_one: `marks.csv`, `feedback/` with a page per student,
`class.html`, and `questions.html` with the written answers to read. Type marks
into marks.csv where it has none, or where you disagree, and grade again: they
stay, and enter the totals and the pages.

What could not be graded has no mark, and says why; it is never 0. 0 means that
the check found the answer wrong, or that nothing was written.

LIMIT=20 seconds of computing per cell, or five times what the model answer
needs; MEMORY=2000 MB; JOBS=2 workers; SECRET=folder of private exercises.
"""

import csv
import json
import os
import queue
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import grade_pages
import homework
import private
from exercises import Exercise, exercises, tags
from repository import ROOT
from sandbox import sandbox
from stored_runs import digest
from submissions import Answer, Handed, collect, find_answers, plain, python

GRADES = Path("_grades")
# A wrong answer says so itself; these may be the fault of how it was graded.
UNSURE = re.compile(
    r"raised (NameError|ImportError|ModuleNotFoundError|MemoryError|FileNotFoundError)"
    r"|can't allocate memory|no answer after|the check itself fails|the check was left"
)


@dataclass
class Grade:
    """One exercise of one student."""

    mark: float | None  # None: to be marked by a person
    said: str = ""  # by the check, or by us
    flag: str = ""
    answer: Answer = field(default_factory=Answer)
    outputs: str = ""


class Worker:
    """A process that runs answers, started again when it has ended."""

    def __init__(self, folder: Path, prefix: list[str], cells: list[str]):
        self.folder, self.prefix, self.cells = folder, prefix, cells
        self.process = None
        self.cpu = self.memory = 0.0  # seconds in all, most bytes at once
        self.errors = tempfile.TemporaryFile("w+")

    def start(self) -> None:
        script = Path(__file__).with_name("grade_worker.py")
        self.process = subprocess.Popen(
            [*self.prefix, sys.executable, str(script)],
            cwd=self.folder,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )
        answer = self.ask({"cells": self.cells})
        if not answer.get("ready"):
            self.errors.seek(0)
            why = answer.get("error") or self.errors.read()[-1000:]
            sys.exit(f"The homework does not run here: {why}")
        self.cpu += answer["cpu"]

    def ask(self, message: dict) -> dict:
        """Its reply; {} where it has ended."""
        try:
            print(json.dumps(message), file=self.process.stdin, flush=True)
            return json.loads(self.process.stdout.readline() or "{}")
        except (BrokenPipeError, ValueError):
            return {}

    def run(self, job: dict) -> dict:
        reply = self.ask(job)
        self.cpu += reply.get("cpu", 0)
        self.memory = max(self.memory, reply.get("memory", 0))
        if not reply:
            self.stop()
            self.start()
        return reply

    def stop(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()


def job_of(found: list[Exercise], answers: dict[str, Answer], limits: dict) -> dict:
    """What a worker needs to know, for one student."""
    parts = [
        {
            "number": e.number,
            "cells": [answers[e.number].helpers, answers[e.number].source],
            "check": e.call.func.attr,
            "answer": e.answer,
        }
        for e in found
        if not e.written and answers[e.number].state == "answered"
    ]
    return {"exercises": parts, **limits}


def is_no_python(ran: dict) -> bool:
    """Whether an answer could not be read as code, so that nothing of it ran."""
    return ran.get("error", "").startswith(("SyntaxError", "IndentationError"))


def is_sure(ran: dict) -> bool:
    """Whether a check has judged an answer, and not the machine."""
    if "share" not in ran:
        return is_no_python(ran) and "stopped" not in ran
    return ran["share"] == 1 or not UNSURE.search(ran["said"])


def judge(
    exercise: Exercise, answer: Answer, ran: dict | None, unearned: float = 0
) -> Grade:
    """The mark of an answer, from what the worker saw of it.

    unearned: the share of the cases that the cell as handed out gets right, as a
    layer does that has one defect to be found.
    """
    if answer.state == "lost":
        what = "no written answer found" if exercise.written else "no answer found"
        return Grade(None, what, what, answer)
    if answer.state == "empty":
        return Grade(0.0, "not answered", "", answer)
    flag = "; ".join(answer.flags)
    if exercise.written:
        return Grade(None, "to be read", flag, answer)
    ran = ran or {"stopped": "its process ended"}
    outputs = ran.get("outputs", "")
    for why in ("stopped", "tampered"):
        if why in ran:
            what = ran[why] if why == "stopped" else f"it changes {ran[why]}"
            return Grade(None, what, what, answer, outputs)
    said = ran.get("said", "")
    if "share" not in ran:
        what = said or ran.get("error") or f"no {exercise.answer} is defined"
        if is_no_python(ran):
            return Grade(0.0, f"Not yet: {what}", flag, answer, outputs)
        return Grade(None, what, what, answer, outputs)
    if not is_sure(ran):
        return Grade(None, said, said, answer, outputs)
    share = max(0, ran["share"] - unearned) / (1 - unearned)
    mark = round(exercise.points * share, 1)
    return Grade(mark, said, flag, answer, outputs)


def model_answers(path: Path) -> dict[str, Answer]:
    """The chapter's own answers, to find out whether it can be graded here."""
    found = exercises(private.chapter(path))
    return {
        e.number: Answer("from utils import checks\n" + e.solution.source)
        for e in found
        if not e.written
    }


def limits_for(worker: Worker, found: list, path: Path, settings: dict) -> dict:
    """The limits of a job, once the model answers pass; exits where one does not.

    unearned: what the cells as handed out get, {number: share}.
    """
    answers, seconds, unearned = model_answers(path), {}, {}
    limits = {"seconds": seconds, "memory": settings["memory"] * 1e6}
    for exercise in found:
        if exercise.written:
            continue
        number = exercise.number
        seconds[number] = 1000
        reply = worker.run(job_of([exercise], answers, limits))
        ran = reply.get("done", {}).get(number, {})
        if ran.get("share") != 1:
            sys.exit(
                f"Nothing is graded: the model answer of {exercise.label} does not "
                f"pass here. {ran}"
            )
        seconds[number] = max(settings["limit"], 5 * reply["cpu"])
        stub = {number: Answer(exercise.stub.source)}
        reply = worker.run(job_of([exercise], stub, limits))
        unearned[number] = reply.get("done", {}).get(number, {}).get("share", 0)
        if unearned[number] == 1:
            sys.exit(f"Nothing is graded: {exercise.label} passes as it is handed out.")
    return {**limits, "unearned": unearned}


def prepare(
    several: list[Handed], found: list, clean, chapter
) -> tuple[dict[str, Answer] | None, list[str]]:
    """A student's answers, None where the file has none to give; and flags."""
    handed, flags = several[0], []
    if len(several) > 1:
        flags.append(f"{len(several)} files: {handed.path} was graded")
    if handed.problem:
        flags.append(handed.problem)
    if handed.notebook is None:
        return None, flags
    try:
        answers = find_answers(found, clean, handed.notebook, chapter)
    except Exception as error:  # a notebook of a form that nobody thought of
        why = f"{type(error).__name__}: {error}"
        return None, [*flags, f"{handed.path} cannot be read ({why})"]
    if all(a.state == "lost" for a in answers.values()):
        flags.append(f"{handed.path} has no answers of this chapter")
    return answers, flags


def graded(
    found: list, answers: dict | None, flags: list[str], ran: dict, unearned: dict
) -> tuple[dict[str, Grade], list[str]]:
    """The grades of a student, by exercise, and what to look at."""
    if answers is None:
        return {e.number: Grade(None, flags[-1]) for e in found}, flags
    grades = {
        e.number: judge(
            e, answers[e.number], ran.get(e.number), unearned.get(e.number, 0)
        )
        for e in found
    }
    if all(a.state == "lost" for a in answers.values()):
        return grades, flags
    own = [f"{e.label}: {grades[e.number].flag}" for e in found]
    return grades, flags + [text for text in own if not text.endswith(": ")]


class Before:
    """What earlier answers did: the same, with the same homework, need not run.

    So marks that were typed enter the pages within seconds. What was not judged
    runs again, as the machine may have been busy or short of memory; but not where
    a person has given the mark since.
    """

    def __init__(self, path: Path, folder: Path):
        self.path, self.new = path, {}
        files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
        files += sorted(Path(__file__).parent.glob("grade_worker.py"))
        versions = f"{sys.version} {version('torch')} {version('numpy')}"
        self.state = digest(versions.encode(), *(p.read_bytes() for p in files))
        old = json.loads(path.read_text("utf-8")) if path.exists() else {}
        old = old if old.get("state") == self.state else {}
        self.known, self.unearned = old.get("ran", {}), old.get("unearned", {})

    def key(self, job: dict) -> str:
        return digest(json.dumps(job["exercises"]).encode())

    def find(self, job: dict, marks: dict | None) -> dict:
        """What it did, {} where it has to run; marks: the student's in marks.csv."""
        done = self.known.get(self.key(job), {})
        unsure = [number for number, ran in done.items() if not is_sure(ran)]
        given = (marks or {}).get
        return {} if any(given(number) is None for number in unsure) else done

    def keep(self, job: dict, done: dict) -> None:
        if done:
            self.new[self.key(job)] = done

    def write(self) -> None:
        ran = {"state": self.state, "unearned": self.unearned}
        ran["ran"] = self.known | self.new
        self.path.write_text(json.dumps(ran), encoding="utf-8")


# The table ---------------------------------------------------------------


def number(text: str) -> float | None:
    """A mark as a person or a spreadsheet writes it; None where there is none."""
    text = text.strip().replace(",", ".")
    return float(text) if text else None


def written(mark: float | None) -> str:
    return "" if mark is None else f"{mark:g}"


def read_table(path: Path, found: list[Exercise]) -> dict[str, dict[str, float | None]]:
    """student: exercise: mark, of a table that was written here, and changed."""
    if not path.exists():
        return {}
    text = path.read_text(encoding="utf-8-sig")
    delimiter = ";" if ";" in text.partition("\n")[0] else ","  # some spreadsheets'
    marks = {}
    for row in csv.DictReader(text.splitlines(), delimiter=delimiter):
        student = marks[row.get("student") or ""] = {}
        for e in found:
            text = next(
                (v for k, v in row.items() if k and k.split()[0] == e.label), ""
            )
            try:
                mark = number(text or "")
            except ValueError:
                mark = -1.0
            if mark is not None and not 0 <= mark <= e.points:
                sys.exit(
                    f"{path}: {text!r} for {row.get('student')}, {e.label}, is no mark "
                    f"from 0 to {e.points:g}. Mend it; nothing is written."
                )
            student[e.number] = mark
    return marks


def read_flags(path: Path) -> dict[str, str]:
    """student: flags, of the same table."""
    if not path.exists():
        return {}
    text = path.read_text(encoding="utf-8-sig")
    delimiter = ";" if ";" in text.partition("\n")[0] else ","
    rows = csv.DictReader(text.splitlines(), delimiter=delimiter)
    return {row.get("student") or "": row.get("flags") or "" for row in rows}


def write_table(path: Path, rows: list[dict]) -> None:
    """Write it beside, then put it in its place: an interruption loses nothing."""
    new = path.with_suffix(".new")
    with new.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else ["student"])
        writer.writeheader()
        writer.writerows(rows)
    new.replace(path)


def by_hand(marks: dict, machine: dict) -> dict[tuple[str, str], float]:
    """(student, exercise): the marks that a person typed."""
    return {
        (student, exercise): mark
        for student, row in marks.items()
        for exercise, mark in row.items()
        if mark is not None and mark != machine.get(student, {}).get(exercise)
    }


def table_row(student: str, marks: dict, found: list[Exercise], flags: str) -> dict:
    given = [mark for mark in marks.values() if mark is not None]
    missing = len(given) < len(found)
    points = sum(e.points for e in found)
    return {
        "student": student,
        **{f"{e.label} (of {e.points:g})": written(marks[e.number]) for e in found},
        "so far": written(sum(given)),
        f"total (of {points:g})": "" if missing else written(sum(given)),
        "flags": plain(flags),
    }


def merge(folder: Path, results: dict, found: list[Exercise]) -> tuple[dict, dict]:
    """Write the tables; return (student: exercise: mark) and the hand marks.

    machine.csv is what was graded here: a mark of marks.csv that differs from
    it was typed by a person, and stays. So does who is not in this download.
    """
    old = read_table(folder / "marks.csv", found)
    machine = read_table(folder / "machine.csv", found)
    hand = by_hand(old, machine)
    graded = {
        student: {number: grade.mark for number, grade in grades.items()}
        for student, (grades, _) in results.items()
    }
    machine |= graded
    marks = {s: dict(row) for s, row in sorted((old | graded).items())}
    for (student, exercise), mark in hand.items():
        marks[student][exercise] = mark
    flags = read_flags(folder / "marks.csv")
    flags |= {student: "; ".join(new) for student, (_, new) in results.items()}
    rows = [table_row(s, row, found, flags.get(s, "")) for s, row in marks.items()]
    write_table(folder / "marks.csv", rows)
    own = [table_row(s, row, found, "") for s, row in sorted(machine.items())]
    write_table(folder / "machine.csv", own)
    return marks, hand


# The run ------------------------------------------------------------------


def settings() -> dict:
    """What the environment says, or sentences on what it should."""
    chapter, source = os.environ.get("CHAPTER", ""), os.environ.get("FROM", "")
    if not chapter or not source:
        sys.exit("Write: make grade CHAPTER=07 FROM=downloads.zip (or a folder)")
    if not Path(source).exists():
        sys.exit(f"FROM={source}: there is no such file or folder.")
    numbers = {"limit": "20", "memory": "2000", "jobs": "2"}
    found = {"chapter": chapter, "source": Path(source)}
    for name, usual in numbers.items():
        text = os.environ.get(name.upper()) or usual
        if not text.isdigit() or not int(text):
            sys.exit(f"{name.upper()}={text}: write a whole number.")
        found[name] = int(text)
    return found


@contextmanager
def unpacked(path: Path, clean) -> Iterator[Path]:
    """The homework in a folder of its own, in which answers can run."""
    with tempfile.TemporaryDirectory() as temporary:
        yield homework.write_folder(path.stem, clean, ROOT, Path(temporary), True)


@contextmanager
def ready(path: Path, clean, set_up: dict) -> Iterator[tuple]:
    """(workers, limits, how code is run), once the model answers pass."""
    found = exercises(clean)
    first = next(i for i, c in enumerate(clean.cells) if "exercise" in tags(c))
    before = [c for c in clean.cells[:first] if c.cell_type == "code"]
    cells = [python(cell.source) for cell in before]
    with unpacked(path, clean) as folder:
        prefix, how = sandbox(folder)
        workers = [Worker(folder, prefix, cells) for _ in range(set_up["jobs"])]
        try:
            with ThreadPoolExecutor(len(workers)) as pool:
                list(pool.map(Worker.start, workers))
            yield workers, limits_for(workers[0], found, path, set_up), how
        finally:
            for worker in workers:
                worker.stop()


def run_all(jobs: dict[str, dict], workers: list[Worker], limits: dict) -> dict:
    """{student: what their answers did}."""
    idle: queue.Queue[Worker] = queue.Queue()
    for worker in workers:
        idle.put(worker)

    def one(student: str) -> dict:
        worker = idle.get()
        try:
            return worker.run(jobs[student] | limits).get("done", {})
        finally:
            idle.put(worker)

    with ThreadPoolExecutor(len(workers)) as pool:
        return dict(zip(jobs, pool.map(one, jobs)))


def grade_class(
    students: dict, path: Path, clean, set_up: dict, into: Path, table: dict
) -> tuple[dict, str]:
    """{student: (grades, flags)}, and how their code was run.

    table: student: exercise: mark, as it stands in marks.csv.
    """
    found = exercises(clean)
    chapter = private.chapter(path)
    papers = {s: prepare(h, found, clean, chapter) for s, h in students.items()}
    jobs = {s: job_of(found, a, {}) for s, (a, _) in papers.items() if a is not None}
    jobs = {student: job for student, job in jobs.items() if job["exercises"]}
    with unpacked(path, clean) as folder:
        known = Before(into / "ran.json", folder)
    ran = {
        s: done for s, job in jobs.items() if (done := known.find(job, table.get(s)))
    }
    new = {student: job for student, job in jobs.items() if student not in ran}
    how = "no process: all of it had run before"
    if new:
        set_up["jobs"] = min(set_up["jobs"], len(new))
        with ready(path, clean, set_up) as (workers, limits, how):
            ran |= run_all(new, workers, limits)
        cpu, most = sum(w.cpu for w in workers), max(w.memory for w in workers)
        how += f". {cpu:.0f} CPU s, up to {most / 1e6:.0f} MB each"
        known.unearned = limits["unearned"]
    for student, job in new.items():
        known.keep(job, ran[student])
    known.write()
    if new and len(new) < len(jobs):
        how += f". {len(jobs) - len(new)} students' had run before"
    return {
        s: graded(found, *papers[s], ran.get(s, {}), known.unearned) for s in students
    }, how


def main(root: Path = ROOT, into: Path = ROOT / GRADES) -> None:
    set_up, start = settings(), time.monotonic()
    path = homework.chapter_path(set_up["chapter"], root)
    clean = homework.build(path, root)
    found = exercises(clean)
    folder = into / path.stem
    folder.mkdir(parents=True, exist_ok=True)
    table = read_table(folder / "marks.csv", found)  # a mark that is none is told now
    students = collect(set_up["source"], path.stem, clean)
    if not students:
        sys.exit(f"FROM={set_up['source']}: there is no file in it.")
    results, how = grade_class(students, path, clean, set_up, folder, table)
    marks, hand = merge(folder, results, found)
    seconds = time.monotonic() - start
    how = f"{how}; {seconds:.0f} s with {set_up['jobs']} workers."
    pages = grade_pages.Pages(folder, private.chapter(path), found, root)
    pages.write(results, marks, hand, how)
    flagged = sum(bool(flags) for _, flags in results.values())
    shown = Path(os.path.relpath(folder, root))
    print(f"{shown / 'marks.csv'}: {len(results)} students, {flagged} with flags")
    print(f"{shown / 'class.html'}, {shown / 'questions.html'}, {shown / 'feedback'}/")
    print(f"Students' code ran in {how}")


if __name__ == "__main__":
    main()
