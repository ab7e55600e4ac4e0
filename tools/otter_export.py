"""Write a chapter's homework as an assignment for otter.

    make otter CHAPTERS="07 09"

Into _release/otter/07_batch_size_one: the notebook that `otter assign` reads, with
what it imports. There, with otter-grader 7 of instructors/requirements-otter.txt:

    otter assign 07_batch_size_one.ipynb dist
    otter run -a dist/autograder/*.zip answers/07_batch_size_one.ipynb

Students see the hints of our check as a public test; the points are on hidden ones,
a quarter for each quarter of the cases; what the cell as handed out gets right, in
the clinic, is no merit. With SECRET=folder they try hidden cases.
"""

import os
import re
import sys
from pathlib import Path

import nbformat
import yaml
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_raw_cell

import homework
import private
from exercises import Exercise, exercises, tags
from repository import ROOT

INTO = Path("_release") / "otter"
QUARTERS = 4
ANSWER = re.compile(r"</?details>|<summary>.*?</summary>")

# What a test of otter may be: a function, and before it its settings
TEST = '''""" # BEGIN TEST CONFIG
{config}""" # END TEST CONFIG
{code}'''
PUBLIC = """def test_{name}_hints(env):
    from utils import checks
    result = checks.{check}(env["{answer}"])
    assert result, str(result)
"""
HIDDEN = """def test_{name}_{quarter}(env):
    from utils import checks
    if "result of {name}" not in env:
        more = {{}}
        exec({hidden!r}, more)
        check = more.get("{check}", checks.{check})
        if "CASES" in more:
            check.add(more["CASES"])
        given = dict(env)
        exec({stub!r}, given)
        own, stub = check(env["{answer}"]), check(given["{answer}"])
        env["result of {name}"] = own.cases, stub.cases
    (right, tried), (unearned, _) = env["result of {name}"]
    assert {total} * (right - unearned) >= {quarter} * (tried - unearned)
"""


def raw(title: str, **settings: object) -> NotebookNode:
    more = yaml.safe_dump(settings, sort_keys=False) if settings else ""
    return new_raw_cell(f"# {title}\n{more}".rstrip())


def test(code: str, **config: object) -> NotebookNode:
    text = yaml.safe_dump(config, sort_keys=False)
    return new_code_cell(TEST.format(config=text, code=code).rstrip())


def question(exercise: Exercise, solved: Exercise, hidden: str) -> list[NotebookNode]:
    """The cells of one exercise. solved: the same, with its solution."""
    name = "ex_" + exercise.number.replace("-", "_")
    points = exercise.points
    if exercise.written:
        text = ANSWER.sub("", solved.solution.source).strip()
        return [
            raw("BEGIN QUESTION", name=name, points=points, manual=True),
            exercise.prompt,
            raw("BEGIN SOLUTION"),
            new_markdown_cell(text),
            raw("END SOLUTION"),
            raw("END QUESTION"),
        ]
    solution = solved.solution.source.rpartition("assert checks.")[0].rstrip()
    source = f"{exercise.stub.source}\n\n\n# BEGIN SOLUTION NO PROMPT\n{solution}"
    parts = {
        "name": name,
        "check": exercise.call.func.attr,
        "answer": exercise.answer,
        "hidden": hidden,
        "stub": exercise.stub.source,
        "total": QUARTERS,
    }
    tests = [test(PUBLIC.format(**parts), points=0)]
    for quarter in range(1, QUARTERS + 1):
        code = HIDDEN.format(quarter=quarter, **parts)
        tests.append(test(code, hidden=True, points=points / QUARTERS))
    return [
        raw("BEGIN QUESTION", name=name, points=points),
        exercise.prompt,
        raw("BEGIN SOLUTION"),
        new_code_cell(f"{source}\n# END SOLUTION"),
        raw("END SOLUTION"),
        raw("BEGIN TESTS"),
        *tests,
        raw("END TESTS"),
        raw("END QUESTION"),
    ]


def assignment(path: Path, clean: NotebookNode) -> NotebookNode:
    """The notebook for `otter assign`, with solutions and hidden tests."""
    solved = {e.number: e for e in exercises(private.chapter(path))}
    privates = {p.number: p for p in private.read(private.secret(), path.name[:2])}
    first = next(i for i, c in enumerate(clean.cells) if "exercise" in tags(c)) - 1
    cells = [
        raw(
            "ASSIGNMENT CONFIG",
            name=path.stem,
            files=["utils", "data"],
            requirements="requirements.txt",
            init_cell=True,
            export_cell=False,
            generate={"pdf": False},
            tests={"ok_format": False},
        ),
        *clean.cells[:first],
    ]
    for exercise in exercises(clean):
        own = privates.get(exercise.number)
        hidden = own.files.get(private.HIDDEN, "") if own else ""
        cells += question(exercise, solved[exercise.number], hidden)
    result = clean.copy()
    result.cells = cells
    return result


def main(root: Path = ROOT) -> None:
    chapters = os.environ.get("CHAPTERS", "").split()
    if not chapters:
        sys.exit('Which chapters? Write: make otter CHAPTERS="07 09"')
    paths = [homework.chapter_path(number, root) for number in chapters]
    built = {path: homework.build(path, root) for path in paths}
    pins = homework.requirements(root)
    needed = [line for line in pins if not line.startswith("jupyterlab")]
    for path, clean in built.items():
        folder = homework.write_folder(path.stem, clean, root, root / INTO)
        (folder / "requirements.txt").write_text("\n".join([*needed, ""]))
        nbformat.write(assignment(path, clean), folder / path.name)
        print((folder / path.name).relative_to(root))


if __name__ == "__main__":
    main()
