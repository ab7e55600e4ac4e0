"""The list of files that ends CONTRIBUTING.md: each in its own first sentence.

`make tidy` writes it. Lint says when it is out of date, and when a file does not
say what it is for. So a file's purpose is written once, where the file begins.
"""

import re
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

PAGE = "CONTRIBUTING.md"
HEADING = "## Every file, in its own words\n"
FOLDERS = (".github/workflows/", "binder/", "data/", "instructors/", "tests/")
FOLDERS += ("theme/", "tools/", "utils/")
# Of these there is one for each chapter or for each of the others, with its name.
FAMILIES = re.compile(r"/(test_|chapter_|[0-9])|/static/|/project/|_example/")
NO_COMMENTS = ("binder/runtime.txt", "tools/__init__.py")  # read by others; empty
HASHES = r"((?:^#(?!!)[^\n]*\n)+)"
BEGINS = {  # what a file says of itself, by its suffix
    ".py": r'"""(.*?)"""|# @title ([^\n]*)',
    ".js": r"((?:^//[^\n]*\n)+)",
    ".css": r"/\*(.*?)\*/",
    ".html": r"\{#-?(.*?)-?#\}",
    ".md": r"^# (.*?)$",
    ".yml": HASHES,
    ".txt": HASHES,
    ".toml": HASHES,
    ".mplstyle": HASHES,
}


def listed(paths: Iterable[Path], root: Path) -> list[str]:
    """The names of the files that the list has."""
    names = [path.relative_to(root).as_posix() for path in paths]
    chosen = [
        name
        for name in names
        if (name.startswith(FOLDERS) or "/" not in name and not name.endswith(".md"))
        and not FAMILIES.search(name)
        and name not in NO_COMMENTS
        and Path(name).suffix in BEGINS
    ]
    return sorted(chosen, key=lambda name: (name.rpartition("/")[0], name))


def purpose(path: Path) -> str:
    """The first sentence of a file's docstring, comment or heading, or ""."""
    text = path.read_text(encoding="utf-8")
    found = re.search(BEGINS[path.suffix], text, re.DOTALL | re.MULTILINE)
    said = next(filter(None, found.groups())) if found else ""
    said = re.sub(r"^(#|//) ?", "", said, flags=re.MULTILINE).split("\n\n")[0]
    sentence = re.split(r"(?<=[^.][.?]) (?=[A-Z`\[])", " ".join(said.split()))[0]
    return sentence.rstrip(".: ")


def table(paths: Iterable[Path], root: Path) -> str:
    """The list, as Markdown."""
    lines = [HEADING, "From the files, by `make tidy`."]
    names = listed(paths, root)
    for folder, group in groupby(names, key=lambda name: name.rpartition("/")[0]):
        lines.append(f"\n`{folder}/`\n" if folder else "\nBeside this page\n")
        lines += [f"- `{Path(n).name}`: {purpose(root / n)}" for n in group]
    return "\n".join(lines) + "\n"


def findings(paths: Iterable[Path], root: Path) -> list[str]:
    """What lint says of the list and of what it is made from."""
    paths = list(paths)
    mute = [name for name in listed(paths, root) if not purpose(root / name)]
    lines = [f"{name}: no word of what it is for -> begin with it" for name in mute]
    if not (root / PAGE).read_text(encoding="utf-8").endswith(table(paths, root)):
        lines.append(f"{PAGE}: its list of files is out of date -> make tidy")
    return lines


def write(paths: Iterable[Path], root: Path) -> None:
    page = root / PAGE
    text = page.read_text(encoding="utf-8").partition(HEADING)[0].rstrip()
    page.write_text(f"{text}\n\n{table(paths, root)}", encoding="utf-8")


if __name__ == "__main__":
    from lint import ROOT, files_of  # which asks this module in its turn

    write(files_of(ROOT), ROOT)
