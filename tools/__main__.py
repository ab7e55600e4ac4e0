"""Every command of the course: `python -m tools NAME`, `make NAME` where make is.

    python -m tools homework CHAPTERS="07 09"

Options are words NAME=VALUE, or variables of the environment. What runs in .venv
makes it when it is missing. Any Python there is runs this: see environment.py.
"""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from glob import glob

from tools.environment import (
    ROOT,
    SUPPORTED,
    VENV,
    ensure,
    find_python,
    install,
    make,
    pip_install,
    program,
    works,
)

# Tasks that are one program: what it needs, the program, what it does.
PROGRAMS = {
    "book": ("course", "tools/build.py"),
    "lab": ("course", "-m jupyterlab --LabApp.default_url=/lab/tree/chapters"),
    "release": ("course", "tools/release.py"),
    "homework": ("course", "tools/homework.py"),
    "grade": ("course", "tools/grade.py"),
    "variants": ("course", "tools/variants.py"),
    "course": ("course", "tools/nbgrader_course.py"),
    "otter": ("course", "tools/otter_export.py"),
    "reseed": ("course", "tools/reseed.py"),
    "weekly": ("course", "tools/reseed.py weekly"),
    "alone": ("course", "tools/alone.py"),
    "bench": ("course", "tools/bench.py"),
    "repository": ("python", "tools/repository.py url"),
    "version": ("python", "tools/repository.py version"),
    "new-chapter": ("course", "tools/new_chapter.py"),
    "setup-cells": ("python", "tools/repository.py cells"),
}
HELP = """\
book         build the book; the last line is its address
             (SOLUTIONS=no: without the solutions)
test         everything that must hold: lint, tests, chapters, book
             (FRESH=1: also what passed on the same files)
lab          open the chapters in JupyterLab
release      write the students' notebooks, without solutions
homework     write a chapter's exercises to hand out (CHAPTERS="07 09")
grade        grade what came back (CHAPTER=07 FROM=downloads.zip)
variants     homework with exercises of your own (SECRET=folder)
course       a course for nbgrader (CHAPTERS="07 09" COURSE=folder)
nbgrader     install nbgrader beside the course, and try it
otter        assignments for otter (CHAPTERS="07 09")
questions    write the question bank for Canvas and Moodle (SECRET=folder)
slides       write a deck of slides per chapter, from the book's run
pdf          write the whole book as one PDF (with Chromium or Chrome: CHROMIUM=/path)
reseed       run the chapters with other seeds, for the claims' margins
             (SEEDS="11 12" CPU="native default" CHAPTERS="04 07")
weekly       run the chapters with four fresh seeds; how many claims fail
alone        run each chapter alone in an empty folder: seconds, memory
colab        the same with Colab's versions, in .colab (CHAPTERS="04 07")
scale        make the long run of chapter 12: about an hour on two cores
             (ONLY=shift DATA=fashion-mnist SCHEDULER=tcp://host:8786)
worker       work for such a SCHEDULER, one process per core
bench        time train_many and the chapters
repository   set the repository's address (URL=https://github.com/you/name)
version      set the branch or tag that notebooks fetch (TAG=term-2027a)
links        do the links that leave the book lead somewhere?
audit        is a pinned package known to be dangerous?
new-chapter  begin a chapter from the template (NAME=13_my_topic)
tidy         format the code and clear the notebooks, then lint
setup-cells  copy tools/setup_cell.py into every chapter
constraints  write constraints.txt anew from the newest that the pins allow
python       print the Python that .venv would be made with
clean        remove what was built and run (.venv and .colab stay)

COURSE_PYTHON=python3.12 makes .venv with that Python instead of the newest."""
# nbval runs every cell of every chapter; serial, since the chapters use the
# cores themselves and one thread per process is fastest on small tensors.
NBVAL = (
    "-m pytest -q --nbval-lax -p tests.nbval_chapter --nbval-current-env"
    " --nbval-cell-timeout=180 --ignore=chapters/template chapters"
)
QUIET = {"OMP_NUM_THREADS": "1", "COURSE_PROGRESS": "0"}
# The other tests share the cores: see tests/conftest.py for which goes where.
# A test that hangs is named, with where it stood, and does not use up CI's time. (Not
# by ending its process, for whose other tests xdist would wait.)
PYTEST = (
    "-m pytest -q -n auto --maxprocesses=4 --timeout=600 --timeout-method=signal"
).split()
# These need what nbval recorded, the built book, or a clone: they come last.
LAST = ["margins", "book", "weight", "found", "search", "slides", "self_test"]
LAST += ["widgets", "aids", "colab", "figure_values"]
LATE = [f"tests/test_{name}.py" for name in LAST]
PASSED = ROOT / "_build" / "passed.json"  # tests -> contents() on which they passed
BUILT = ["_build", "_release", ".pytest_cache", ".ruff_cache", ".hypothesis"]


def run(python, command, **env):
    """Run a program to its end; its exit code. An interrupt reaches it, too."""
    arguments = command.split() if isinstance(command, str) else command
    process = subprocess.Popen(
        [python, *arguments], cwd=str(ROOT), env={**os.environ, **env}
    )
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue  # it ends in its own way; JupyterLab asks first


def contents():
    """A checksum of all that git knows or would add, and of what is installed."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=str(ROOT), stdout=subprocess.PIPE)
    names = [os.fsdecode(name) for name in sorted(listed.stdout.split(b"\0")) if name]
    paths = [path for path in map(ROOT.joinpath, names) if path.is_file()]
    # On CI a test fails that elsewhere is skipped for want of a browser.
    total = hashlib.sha256(os.environ.get("CI", "").encode())
    for path in [*paths, VENV / "pyvenv.cfg", VENV / "installed"]:
        total.update(str(path).encode() + b"\0" + path.read_bytes())
    return total.hexdigest() if paths else ""  # no checkout: nothing to go by


def test():
    """All stages, one after the other; the first that fails ends it.

    Tests that passed on the very same files are not run again, unless FRESH=1. (The
    chapters and the book see for themselves what has changed: tools/executed.py.)
    """
    python = ensure("tests")
    early = [f"--ignore={name}" for name in LATE]
    before, passed = contents(), {}
    if PASSED.exists() and not os.environ.get("FRESH"):
        passed = json.loads(PASSED.read_text(encoding="utf-8"))
    stages = {
        "lint": "tools/lint.py",
        "unit tests": [*PYTEST, "tests", *early],
        "chapters (nbval)": NBVAL,
        "book build": "tools/build.py",
        "margins and built book": [*PYTEST, *LATE],
    }
    for name, command in stages.items():
        print(f"== {name}", flush=True)
        kept = command[: len(PYTEST)] == PYTEST
        if kept and before and passed.get(name) == before:
            print("passed before on the same files (FRESH=1 runs them again)")
            continue
        if run(python, command, **(QUIET if command is NBVAL else {})):
            sys.exit(f"make test: stopped, because this stage failed: {name}")
        if kept and contents() == before:
            passed[name] = before
            PASSED.parent.mkdir(exist_ok=True)
            PASSED.write_text(json.dumps(passed), encoding="utf-8")
    print("make test: all stages passed")
    return 0


def colab():
    python = ensure("course")
    return run(python, ["tools/alone.py", ensure("colab")])


def constraints():
    """Resolve anew, without constraints.txt, which would hold back a raised pin.

    Kept is the first line, a comment. Dropped are local versions, such as torch's
    +cpu, and what only torch's builds for GPUs bring, which pin it themselves.
    """
    path = ROOT / "constraints.txt"
    python = program(VENV)
    if not works(VENV, SUPPORTED):
        make(VENV, SUPPORTED)
    print("Resolving what the pins allow (some minutes)", flush=True)
    install(VENV, "-r", "requirements-dev.txt", "-r", "requirements-audit.txt")
    frozen = subprocess.run(
        [python, "-m", "pip", "freeze"], stdout=subprocess.PIPE, text=True, check=True
    )
    lines = [line.partition("+")[0] for line in frozen.stdout.splitlines()]
    kept = [x for x in lines if not x.startswith(("nvidia-", "cuda-", "triton="))]
    first = path.read_text(encoding="utf-8").splitlines()[0]
    path.write_text("\n".join([first, *kept]) + "\n", encoding="utf-8")
    ensure("tests")
    return 0


def extra(name):
    """What few need is installed when it is asked for: requirements-NAME.txt."""
    pip_install(VENV, "-r", f"requirements-{name}.txt", "-c", "constraints.txt")


def from_book(name):
    """It shows the run of the book, so the book comes first."""
    python = ensure("course")
    if run(python, "tools/build.py"):
        return 1
    extra(name)
    return run(python, f"tools/{name}.py")


def links():
    """Sphinx's own check, on the book as it is executed."""
    program = "from jupyter_book.cli.main import main; main()"
    command = ["-c", program, "build", "--builder", "linkcheck", str(ROOT)]
    return run(ensure("course"), command, **QUIET)


def with_extra(name, command):
    """A program that needs packages of its own: requirements-NAME.txt."""
    python = ensure("course")
    extra(name)
    return run(python, command)


def nbgrader():
    """In a folder of its own, with constraints of its own: the course needs neither."""
    command = "-m pytest -q --noconftest tests/test_nbgrader.py"
    return run(ensure("nbgrader"), command, OMP_NUM_THREADS="1")


def scale():
    python = ensure("course")
    if os.environ.get("DATA") or os.environ.get("SCHEDULER"):
        extra("scale")
    return run(python, "tools/scale.py", OMP_NUM_THREADS="1", PYTHONPATH=".")


def worker():
    if not os.environ.get("SCHEDULER"):
        sys.exit("Whose worker? Write: make worker SCHEDULER=tcp://host:8786")
    python = ensure("course")
    extra("scale")
    command = ["-m", "distributed.cli.dask_worker", os.environ["SCHEDULER"]]
    command += ["--nworkers", "-1", "--nthreads", "1"]
    path = os.pathsep.join([".", "tools"])
    return run(python, command, OMP_NUM_THREADS="1", PYTHONPATH=path)


def tidy():
    """What lint would only complain about; what is left then is for a person."""
    python = ensure("tests")
    folders = [str(ROOT / name) for name in ("chapters", "instructors")]
    found = [
        p for f in folders for p in sorted(glob(f"{f}/**/*.ipynb", recursive=True))
    ]
    run(python, "-m ruff check --fix --quiet")
    run(python, "-m ruff format --quiet")
    run(python, ["-m", "nbstripout", "--keep-id", *found])
    run(python, "tools/file_table.py")
    return run(python, "tools/lint.py")


def clean():
    for name in BUILT:
        shutil.rmtree(str(ROOT / name), ignore_errors=True)
    return 0


def show_help():
    call = "make" if os.environ.get("MAKELEVEL") else "python -m tools"
    for line in HELP.splitlines():
        option = line.startswith((" ", "COURSE_")) or not line
        print(line if option else f"{call} {line}")
    return 0


AUDIT = "-m pip_audit -r constraints.txt --no-deps --disable-pip"
SPECIAL = {
    "audit": lambda: with_extra("audit", AUDIT),
    "clean": clean,
    "colab": colab,
    "constraints": constraints,
    "environment": lambda: ensure("course") and 0,  # only what others need
    "help": show_help,
    "links": links,
    "nbgrader": nbgrader,
    "pdf": lambda: from_book("pdf"),
    "python": lambda: print(find_python()),
    "questions": lambda: with_extra("questions", "tools/questions.py"),
    "scale": scale,
    "slides": lambda: from_book("slides"),
    "test": test,
    "tests": lambda: ensure("tests") and 0,
    "tidy": tidy,
    "worker": worker,
}


def main(words):
    """Take the options, run the task; return its exit code."""
    names = [word for word in words if "=" not in word] or ["help"]
    os.environ.update(word.split("=", 1) for word in words if "=" in word)
    if len(names) > 1 or names[0] not in {*PROGRAMS, *SPECIAL}:
        known = ", ".join(sorted({*PROGRAMS, *SPECIAL}))
        sys.exit(f"One task at a time, and options as NAME=VALUE; the tasks: {known}.")
    if names[0] in SPECIAL:
        return SPECIAL[names[0]]()
    kind, command = PROGRAMS[names[0]]
    python = find_python() if kind == "python" else ensure(kind)
    return run(python, command)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
