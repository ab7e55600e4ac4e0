"""Check what is stored: code style, clean notebooks, and the course's own rules.

`make test` runs it first. It runs every check, so that one run shows all that
there is to mend; a finding reads `file, cell id: what is wrong -> what to do`.
The rules of the notebooks are in rules.py, rules_markdown.py and
rules_exercises.py.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import yaml

import file_table
import rules
import rules_exercises
import rules_markdown
from repository import ROOT

RULES = [*rules.RULES, *rules_markdown.RULES, *rules_exercises.RULES]
# Somebody's folder; /tmp and Colab's /content are fine.
UNIX = r"(?<![\w.~}<])/((home|Users)/\w|(root|work)(?![\w-]))"
WINDOWS = r"\b[A-Za-z]:\\+Users\\+\w"
LOCAL_PATH = re.compile(f"{UNIX}|{WINDOWS}")


def lint_notebook(path: Path, root: Path) -> list[str]:
    """What the rules find in one notebook, one line each."""
    name = path.relative_to(root)
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # also a byte that is not UTF-8
        return [f"{name}: not a notebook ({error}) -> restore it from git"]
    found = [*rules.form(stored)]
    if not found:
        # As it is stored: nbformat.read would mend ids that are not unique.
        notebook = nbformat.v4.to_notebook(stored)
        chapter = rules.Chapter(path, notebook, root)
        found = [finding for rule in RULES for finding in rule(chapter)]
    lines = []
    for cell, what, remedy in found:
        place = f", cell {cell.get('id')}" if cell is not None else ""
        lines.append(f"{name}{place}: {what} -> {remedy}")
    return lines


def lint_text(path: Path, root: Path) -> list[str]:
    """The paths of somebody's machine that stand in a text file."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        return []  # not a text
    where = f"{path.relative_to(root)}, line"
    return [
        f"{where} {number}: a path of one machine -> make it relative"
        for number, line in enumerate(lines, start=1)
        if LOCAL_PATH.search(line)
    ]


def lint_page(path: Path, root: Path) -> list[str]:
    """The dead links of a page that is not part of the book, such as README.md."""
    text = path.read_text(encoding="utf-8")
    links = [str(t.attrGet("href") or "") for t in rules_markdown.inline(text)]
    return [
        f"{path.relative_to(root)}: {href} does not exist -> link to what is there"
        for href in links
        if rules_markdown.leads_nowhere(href, path)
    ]


def lint_contents(root: Path) -> list[str]:
    """The chapters and pages that the book would leave out without a word."""
    contents = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    listed = {entry["file"] for part in contents["parts"] for entry in part["chapters"]}
    pages = [*(root / "chapters").glob("*.*"), *(root / "instructors").glob("*.md")]
    return [
        f"{name}: _toc.yml does not list it -> add it, or the book has no such page"
        for name in (path.relative_to(root) for path in sorted(pages))
        if name.suffix in (".ipynb", ".md")
        and name.with_suffix("").as_posix() not in listed
    ]


def files_of(root: Path) -> list[Path]:
    """The files that git tracks or would add."""
    command = ["git", "ls-files", "-z", "-co", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=root, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        why = getattr(error, "stderr", b"").decode().split("\n")[0] or error
        sys.exit(
            "Lint needs a git clone, not a downloaded ZIP: "
            f"it asks git which files to check, and git says: {why}"
        )
    paths = {root / name for name in listed.stdout.decode().split("\0") if name}
    return sorted(path for path in paths if path.is_file())


def findings(root: Path) -> list[str]:
    """What our own rules find in a project."""
    in_book = {root / "index.md", *(root / "chapters").glob("*.md")}
    paths = files_of(root)
    lines = lint_contents(root) if root / "_toc.yml" in paths else []
    if root / file_table.PAGE in paths:
        lines += file_table.findings(paths, root)
    for path in paths:
        lines += lint_text(path, root)
        if path.suffix == ".md" and path not in in_book:
            lines += lint_page(path, root)
        if path.suffix == ".ipynb":
            lines += lint_notebook(path, root)
    return lines


def passes(*command: str) -> bool:
    return subprocess.run([sys.executable, "-m", *command], cwd=ROOT).returncode == 0


def main() -> None:
    notebooks = [str(p) for p in files_of(ROOT) if p.suffix == ".ipynb"]
    passed = [
        passes("ruff", "check", "--quiet"),
        passes("ruff", "format", "--check", "--quiet"),
        # Without names it would read its standard input.
        not notebooks or passes("nbstripout", "--verify", "--keep-id", *notebooks),
    ]
    found = findings(ROOT)
    for line in found:
        print(line)
    if found or not all(passed):
        sys.exit(1)
    print(f"The code and {len(notebooks)} notebooks are as they should be.")


if __name__ == "__main__":
    main()
