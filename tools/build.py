"""Build the book: `python tools/build.py`. Any warning fails it.

With SOLUTIONS=no in the environment it is the book without the solutions of the
exercises: made of a copy of the course that has none, so none can be left in a
page, its source, a download or the search. Its buttons open the branch `student`.

Notebooks run only when something changed that they depend on: see executed.py.
What tools have stored in `_build` (`KEPT`) stays, everything else in it is made
anew each time; nothing stale can stay in the book.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat

import executed
import release
from repository import current_version, student_branch

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "_build"
# The outputs of notebooks, what nbval recorded, what make reseed stored.
KEPT = {".jupyter_cache", executed.KEYS.name, "claims", "reseed"}


def clean() -> None:
    """Empty `_build`, but for KEPT, and drop the outputs that other code made."""
    if BUILD.exists():
        for path in BUILD.iterdir():
            if path.name not in KEPT:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    stale = executed.drop_stale(ROOT)
    names = ", ".join(path.stem for path in stale) or "none"
    print(f"Building the book; notebooks that run: {names}.", flush=True)


def without_solutions(folder: Path) -> Path:
    """Copy the course into a folder, its chapters without solutions."""
    skip = shutil.ignore_patterns(".*", "_*build", "_release", "_grades", "__pycache__")
    shutil.copytree(ROOT, folder, ignore=skip, dirs_exist_ok=True)
    for path in sorted((folder / "chapters").glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        student = release.student_version(notebook)
        if wrong := [*release.problems(notebook, student)]:
            sys.exit(f"{path.name}, {wrong[0]}. The book was not built.")
        nbformat.write(student, path)
    config = folder / "_config.yml"
    text = config.read_text(encoding="utf-8")
    branch = re.compile(r"^  branch: .*$", re.MULTILINE)
    students = student_branch(current_version(ROOT))
    text, count = branch.subn(f"  branch: {students}", text, count=1)
    assert count == 1, "_config.yml has no branch under repository:"
    config.write_text(text, encoding="utf-8")
    return folder


def plain(text: str) -> str:
    """Return the text without its terminal colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def run_jupyter_book(source: Path = ROOT) -> tuple[int, list[str]]:
    """Run `jupyter-book build`; return its exit code and its warnings.

    source: the folder of the book; `_build` is the repository's in any case.

    Its output is passed on line by line, without colours and without
    the kernels' remark about encryption, which is not about the book.
    """
    # Small tensors are fastest on one thread; progress bars would stay
    # in the book; a claim that does not hold must not be published.
    settings = {
        "COURSE_STRICT": "1",
        "OMP_NUM_THREADS": "1",
        "COURSE_PROGRESS": "0",
        "PYTHONUNBUFFERED": "1",
    }
    # Not .venv/bin/jupyter-book, which breaks when the folder is moved.
    program = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()"]
    process = subprocess.Popen(
        [*program, "build", "-W", "-n", "--keep-going", "--all"]
        + ["--path-output", ROOT, source],
        env=os.environ | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf8",
    )
    warnings = []
    for line in process.stdout:
        line = plain(line)
        if "[IPKernelApp]" in line:
            continue
        print(line, end="", flush=True)
        if "WARNING:" in line or "ERROR:" in line:
            warnings.append(line)
    return process.wait(), warnings


def print_tracebacks() -> None:
    """Print the end of each failed notebook's traceback."""
    reports = BUILD / "html" / "reports"
    for path in sorted(reports.rglob("*.err.log")):
        name = path.relative_to(reports).as_posix().removesuffix(".err.log")
        print(f"\n--- {name}.ipynb stopped with this error:")
        lines = plain(path.read_text(encoding="utf8")).rstrip().splitlines()
        print("\n".join(lines[-40:]))


def main() -> int:
    """Build the book; return the exit code."""
    solutions = os.environ.get("SOLUTIONS") or "yes"
    if solutions not in ("yes", "no"):
        sys.exit(f"SOLUTIONS={solutions}: write yes or no. Nothing is built.")
    clean()
    if solutions == "no":
        with tempfile.TemporaryDirectory() as folder:
            code, warnings = run_jupyter_book(without_solutions(Path(folder)))
    else:
        code, warnings = run_jupyter_book()
    if code:
        print_tracebacks()
        print("\n--- Jupyter Book's warnings:")
        print(*warnings, sep="")
        print("The book was not built: fix the errors and warnings above.")
        return 1
    if solutions == "yes":
        for path in (ROOT / "chapters").glob("*.ipynb"):
            executed.record(path, ROOT, "book")
    print(BUILD / "html" / "index.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
