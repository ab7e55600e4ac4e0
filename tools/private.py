"""Exercises and hidden cases that are not public: read from outside the repository.

    make variants SECRET=../secret                        # the homework, to hand out
    make grade CHAPTER=07 FROM=downloads.zip SECRET=../secret

SECRET is a folder with `07/ex-07-3/` for exercise 7.3 of chapter 07. In it

    prompt.md, stub.py, check.py, solution.py   another exercise in its place
    prompt.md, answer.md                        another written question
    hidden.py                                   what the check tries as well, or instead

of which students get the prompt, the stub and `check.py`. instructors/variants.md
says what is in each, and instructors/variants_example/ has two.
"""

import ast
import copy
import os
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from exercises import Exercise, exercises
from repository import ROOT

IN_CODE = ("prompt.md", "stub.py", "check.py", "solution.py")
IN_WORDS = ("prompt.md", "answer.md")
HIDDEN = "hidden.py"
KNOWN = {*IN_CODE, *IN_WORDS, HIDDEN}
CHECK = "from utils import checks\n\nchecks.{name}({answer});"
SOLUTION = "# @title Solution {label}\n{source}\n\n\nassert checks.{name}({answer})"
ANSWER = "<details><summary>Answer</summary>\n\n{text}\n\n</details>"
KINDS = {"check", "Check", "Measured"}  # what makes a check, in utils/checks


@dataclass
class Private:
    """What the folder has for one exercise: {name of a file: its text}."""

    number: str  # 07-3
    files: dict[str, str] = field(default_factory=dict)

    @property
    def is_variant(self) -> bool:
        return "prompt.md" in self.files


def secret() -> Path | None:
    """The folder that SECRET names, None where nothing is asked for."""
    text = os.environ.get("SECRET", "")
    if not text:
        return None
    folder = (ROOT / Path(text).expanduser()).resolve()
    if not folder.is_dir():
        sys.exit(f"SECRET={text}: there is no such folder.")
    return folder


def fail(folder: Path, why: str) -> None:
    sys.exit(f"{folder}: {why} Nothing is written.")


def read(folder: Path | None, chapter: str) -> list[Private]:
    """What is private in a chapter, 07; exits where a file is missing or odd."""
    found = []
    place = folder / chapter if folder else None
    for path in sorted(place.iterdir()) if place and place.is_dir() else ():
        if path.name.startswith((".", "__pycache__")):
            continue
        number = path.name.removeprefix("ex-")
        if not path.is_dir() or not re.fullmatch(rf"{chapter}-\d+", number):
            fail(path, f"expected a folder such as ex-{chapter}-2.")
        files = {
            file.name: file.read_text(encoding="utf-8").strip("\n")
            for file in sorted(path.iterdir())
            if file.is_file() and not file.name.startswith(".")
        }
        check_names(path, {*files})
        found.append(Private(number, files))
    return found


def check_names(folder: Path, names: set[str]) -> None:
    """Exit unless the files are those of a variant, of hidden cases, or of both."""
    if unknown := names - KNOWN:
        fail(folder, f"{min(unknown)} is none of {', '.join(sorted(KNOWN))}.")
    variant = names - {HIDDEN}
    if names and (not variant or variant in ({*IN_CODE}, {*IN_WORDS})):
        return
    fail(
        folder,
        f"expected {', '.join(IN_CODE)}, or {' and '.join(IN_WORDS)}, or {HIDDEN} "
        f"alone; found {', '.join(sorted(names)) or 'nothing'}.",
    )


def only(folder: str, what: str, names: list[str]) -> str:
    if len(names) != 1:
        said = ", ".join(names) or "none"
        sys.exit(f"{folder}: expected one {what}, found {said}. Nothing is written.")
    return names[0]


def parsed(private: Private, file: str) -> ast.Module:
    try:
        return ast.parse(private.files[file])
    except SyntaxError as error:
        sys.exit(f"ex-{private.number}/{file}, line {error.lineno}: {error.msg}.")


def checks_of(private: Private, file: str) -> list[str]:
    """The names of the checks that a file defines."""
    names = []
    for node in parsed(private, file).body:
        calls = []
        if isinstance(node, ast.FunctionDef):
            name, calls = node.name, node.decorator_list
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name, calls = node.targets[0].id, [node.value]
        for call in calls:
            if isinstance(call, ast.Call) and ast.unparse(call.func) in KINDS:
                names.append(name)
    return names


def check_of(private: Private, file: str = "check.py") -> str:
    where = f"ex-{private.number}/{file}"
    return only(where, "check (@check(…) or Measured(…))", checks_of(private, file))


def answer_of(private: Private) -> str:
    """The function or class that the stub defines."""
    defined = [
        node.name
        for node in parsed(private, "stub.py").body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    ]
    return only(f"ex-{private.number}/stub.py", "function or class", defined)


def applied(notebook: NotebookNode, privates: list[Private]) -> NotebookNode:
    """The chapter with the variants in the place of its exercises.

    Cells keep their ids, grade ids, tags and points.
    """
    notebook = copy.deepcopy(notebook)
    known = {exercise.number: exercise for exercise in exercises(notebook)}
    for private in privates:
        exercise = known.get(private.number)
        if exercise is None:
            numbers = ", ".join(f"ex-{number}" for number in known)
            sys.exit(f"ex-{private.number}: no such exercise; there are {numbers}.")
        if private.is_variant:
            replace(exercise, private)
        elif exercise.written:
            sys.exit(f"ex-{private.number}/{HIDDEN}: a written question has no check.")
    return notebook


def replace(exercise: Exercise, private: Private) -> None:
    files, label = private.files, exercise.label
    written = "answer.md" in files
    if written != exercise.written:
        kind = "written" if exercise.written else "in code"
        sys.exit(
            f"ex-{private.number}: the exercise is {kind}, and its variant is not."
        )
    if not re.match(rf"#+ Exercise {re.escape(label)}\b", files["prompt.md"]):
        sys.exit(
            f"ex-{private.number}/prompt.md: expected a first line such as "
            f"'### Exercise {label} Another title (★★, 10 minutes)'."
        )
    exercise.prompt.source = files["prompt.md"]
    if written:
        exercise.solution.source = ANSWER.format(text=files["answer.md"])
        return
    names = {"name": check_of(private), "answer": answer_of(private)}
    exercise.stub.source = files["stub.py"]
    exercise.check.source = CHECK.format(**names)
    exercise.solution.source = SOLUTION.format(
        label=label, source=files["solution.py"], **names
    )


def chapter(path: Path) -> NotebookNode:
    """A chapter's notebook, with the variants of SECRET where there are some."""
    notebook = nbformat.read(path, as_version=4)
    privates = read(secret(), path.name[:2])
    return applied(notebook, privates) if privates else notebook


def add_checks(folder: Path, notebook: NotebookNode, hidden: bool = False) -> None:
    """Put the private checks beside the course's, in a folder of homework.

    hidden: and the hidden cases, which are for grading alone.
    """
    found = exercises(notebook)
    number = found[0].number.partition("-")[0] if found else ""
    privates = {p.number: p for p in read(secret(), number)}
    place, lines = folder / "utils" / "checks", []
    for exercise in found:
        private = privates.get(exercise.number)
        if private is None or exercise.written:
            continue
        check = exercise.call.func.attr
        if "check.py" in private.files:
            module = write_module(place, "private", private, "check.py")
            lines += [f"from utils.checks.{module} import {check}"]
            lines += [f'__all__ += ["{check}"]']
        if hidden and HIDDEN in private.files:
            module = write_module(place, "hidden", private, HIDDEN)
            lines += hidden_lines(module, private, check)
    if lines:
        init = place / "__init__.py"
        text = init.read_text(encoding="utf-8").rstrip()
        init.write_text("\n".join([text, "", *lines, ""]), encoding="utf-8")


def write_module(place: Path, kind: str, private: Private, file: str) -> str:
    module = f"{kind}_{private.number.replace('-', '_')}"
    text = private.files[file] + "\n"
    (place / f"{module}.py").write_text(text, encoding="utf-8")
    return module


def hidden_lines(module: str, private: Private, check: str) -> list[str]:
    """Lines that let a check try the hidden cases too, or replace the check."""
    if checks_of(private, HIDDEN) == [check]:
        return [f"from utils.checks.{module} import {check}"]
    body = parsed(private, HIDDEN).body
    bound = [ast.unparse(t) for node in body for t in getattr(node, "targets", ())]
    if "CASES" not in bound:
        sys.exit(
            f"ex-{private.number}/{HIDDEN}: expected CASES = {{name: arguments}}, or a "
            f"check named {check}, which then takes the place of the public one."
        )
    return [
        f"from utils.checks.{module} import CASES",
        f"{check}.add(CASES)",
    ]
