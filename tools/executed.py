"""Whose outputs still belong to their code: each chapter by content, not by time.

A chapter runs once: nbval runs it and keeps its outputs in the book's cache
(tests/nbval_chapter.py), from which the book is built (tools/build.py). It runs again
when its key changes: its code, the modules of utils that it imports, directly or
through others, the data, Python's version and those of PACKAGES, COURSE_SEED.
"""

import ast
import json
import os
import re
import sys
from functools import cache
from importlib.metadata import version
from pathlib import Path

import nbformat
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from nbformat import NotebookNode

from stored_runs import digest

# What every chapter depends on, whatever it imports.
ALWAYS = ["utils/__init__.py", "utils/course.mplstyle", "data/*.*"]
# Packages that can change a number or how it is shown; others come and go.
PACKAGES = ["torch", "numpy", "scipy", "matplotlib", "matplotlib-inline", "joblib"]
PACKAGES += ["ipython", "ipykernel"]
# What belongs to a module without being one.
BESIDE = {"utils.scale": ["data/mnist5k/*.*", "data/scale/*.csv"]}
CACHE = Path("_build", ".jupyter_cache")
KEYS = Path("_build", "executed.json")  # who ran it -> chapter -> key


def imported(source: str) -> set[str]:
    """The modules of utils that code may import: `from utils import x` is utils.x.

    Magics are left out, but not the file that %%writefile writes.
    """
    found = set()
    python = re.sub(r"^[%!].*", "", source, flags=re.MULTILINE)
    for node in ast.walk(ast.parse(python)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.startswith("utils.")}


@cache
def file_of(root: Path, module: str) -> Path | None:
    """A module's file; None where the name is not one of a module."""
    path = root.joinpath(*module.split("."))
    places = [path.with_suffix(".py"), path / "__init__.py"]
    return next((place for place in places if place.is_file()), None)


def files(notebook: Path, sources: list[str], root: Path) -> list[Path]:
    """The files that a chapter's results depend on, besides the chapter.

    `utils.checks` imports the checks of all chapters; a chapter uses its own.
    """
    own = f"utils.checks.chapter_{notebook.name[:2]}"
    waiting = {name for source in sources for name in imported(source)}
    seen: set[str] = set()
    found = {path for pattern in ALWAYS for path in root.glob(pattern)}
    while waiting:
        name = waiting.pop()
        seen.add(name)
        if name == "utils.checks":
            waiting |= {own} - seen
        elif path := file_of(root, name):
            found.add(path)
            waiting |= imported(path.read_text(encoding="utf-8")) - seen
            for pattern in BESIDE.get(".".join(name.split(".")[:2]), []):
                found |= set(root.glob(pattern))
    return sorted(found)


def key(notebook: Path, root: Path) -> str:
    """A hash of everything that a chapter's outputs depend on."""
    cells = nbformat.read(notebook, as_version=4).cells
    sources = [cell.source for cell in cells if cell.cell_type == "code"]
    parts = [sys.version, os.environ.get("COURSE_SEED", "0"), *sources]
    parts += [f"{name} {version(name)}" for name in PACKAGES]
    for path in files(notebook, sources, root):
        parts += [str(path.relative_to(root)), path.read_bytes().hex()]
    return digest(*(part.encode() for part in parts))


def keys(root: Path) -> dict[str, dict[str, str]]:
    path = root / KEYS
    stored = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {"book": {}, "nbval": {}} | stored


def outputs(notebook: Path, root: Path) -> NotebookNode | None:
    """The chapter with its cached outputs, or None where there are none."""
    if not (root / CACHE).exists():
        return None
    try:
        with_outputs = get_cache(root / CACHE).merge_match_into_notebook(
            nbformat.read(notebook, as_version=4)
        )
    except KeyError:
        return None
    return with_outputs[1]


def is_fresh(notebook: Path, root: Path, by: str) -> bool:
    """Has `by` (book, nbval) run the chapter as it is, and are its outputs there?"""
    return (
        keys(root)[by].get(notebook.stem) == key(notebook, root)
        and outputs(notebook, root) is not None
    )


def record(notebook: Path, root: Path, *by: str) -> None:
    """Note that the chapter's cached outputs are those of what stands there now."""
    now = keys(root)
    for who in by:
        now[who][notebook.stem] = key(notebook, root)
    path = root / KEYS
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(now, indent=1, sort_keys=True), encoding="utf-8")


def store(executed: NotebookNode, notebook: Path, root: Path) -> None:
    """Put an executed chapter into the book's cache, as the build would."""
    bundle = CacheBundleIn(executed, str(notebook), data={"execution_seconds": 0})
    get_cache(root / CACHE).cache_notebook_bundle(
        bundle, check_validity=False, overwrite=True
    )


def drop_stale(root: Path) -> list[Path]:
    """Take out of the cache what other code made; return the chapters that must run."""
    chapters = sorted((root / "chapters").glob("*.ipynb"))
    stale = [path for path in chapters if not is_fresh(path, root, "book")]
    if (root / CACHE).exists():
        cached = get_cache(root / CACHE)
        names = {path.name for path in stale}
        for row in cached.list_cache_records():
            if Path(row.uri).name in names:
                cached.remove_cache(row.pk)
    return stale
