"""The virtual environments of the course: which Python, and what is installed.

Any Python there is runs this, also an old one, to look for a newer: it needs only
the standard library, and nothing that Python 3.8 lacks.
"""

import os
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SUPPORTED = [(3, minor) for minor in (14, 13, 12, 11)]  # newest first
VENV, COLAB = ROOT / ".venv", ROOT / ".colab"
PINS = ["requirements.txt", "requirements-dev.txt", "constraints.txt"]
# For each kind: where, for which Pythons, what pip installs, what a change of
# which files makes out of date.
KINDS = {
    "course": (VENV, SUPPORTED, ["-r", PINS[0], "-c", PINS[2]], PINS),
    "tests": (VENV, SUPPORTED, ["-r", PINS[1], "-c", PINS[2]], PINS),
    "nbgrader": (
        *(ROOT / ".venv-nbgrader", SUPPORTED),
        ["-r", "instructors/requirements.txt", "-c", "instructors/constraints.txt"],
        ["instructors/requirements.txt", "instructors/constraints.txt"],
    ),
    "colab": (
        *(COLAB, [(3, 13)]),
        *(["-r", "requirements-colab.txt"], ["requirements-colab.txt"]),
    ),
}


def program(venv: Path = VENV) -> str:
    """The Python in a virtual environment."""
    return str(venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))


def asked(python: str, modules: str = "sys") -> tuple:
    """(version, path) of a Python that has these modules, or ()."""
    code = f"import {modules}, sys; print(*sys.version_info[:2], sys.executable)"
    try:
        done = subprocess.run(
            [python, "-c", code],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            timeout=60,
        )
        major, minor, path = done.stdout.strip().split(" ", 2)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return ()  # the shim of a version manager can be there and fail
    return ((int(major), int(minor)), path)


def candidates() -> list:
    """The Pythons to look among: that which COURSE_PYTHON names, or all there are.

    On the PATH those of .venv are passed over, since it may be about to be made
    anew. Windows' launcher `py` knows others.
    """
    if os.environ.get("COURSE_PYTHON"):
        return [os.environ["COURSE_PYTHON"]]
    names = [f"python3.{minor}" for _, minor in SUPPORTED] + ["python3"]
    if os.name == "nt":
        names = ["python.exe"]
    found = []
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        if Path(folder).resolve() != Path(program()).parent.resolve():
            paths = [Path(folder) / name for name in names]
            found += [str(path) for path in paths if path.is_file()]
    launcher = shutil.which("py") if os.name == "nt" else None
    if launcher:
        known = subprocess.run([launcher, "-0p"], stdout=subprocess.PIPE, text=True)
        lines = [line.split(None, 1) for line in known.stdout.splitlines()]
        found += [line[1].lstrip("* ") for line in lines if len(line) == 2]
    return found


def find_python(versions: list = SUPPORTED) -> str:
    """The newest suitable Python, of several the first on the PATH; or exit."""
    there = [a for a in map(asked, candidates()) if a]
    suitable = [(v, path) for v, path in there if v in versions]
    for _, path in sorted(suitable, key=lambda a: a[0], reverse=True):
        if asked(path, "ensurepip, venv"):
            return path
    if suitable:
        (_, minor), path = max(suitable)
        sys.exit(
            f"{path} cannot make virtual environments: install its venv module "
            f"(Debian, Ubuntu: apt-get install python3.{minor}-venv)."
        )
    need = " to ".join(f"3.{minor}" for _, minor in sorted({versions[-1], versions[0]}))
    have = ", ".join(sorted({f"Python {v[0]}.{v[1]}" for v, _ in there}))
    named = os.environ.get("COURSE_PYTHON")
    if named:
        have = f"COURSE_PYTHON={named} " + (f"is {have}" if have else "does not run")
    else:
        have = f"found {have or 'no Python 3'}"
    sys.exit(
        f"The packages are pinned for Python {need}, and {have}: install one "
        "(python.org, pyenv, conda or your system's packages), so that it is on the "
        "PATH or named by COURSE_PYTHON=/path/to/python."
    )


def unfinished(venv: Path) -> Path:
    """There while something is being installed: what has it cannot be trusted."""
    return venv / "unfinished"


def works(venv: Path, versions: list) -> bool:
    found = asked(program(venv))
    return bool(found) and found[0] in versions and not unfinished(venv).exists()


def make(venv: Path, versions: list) -> None:
    """An empty virtual environment, in place of what is there."""
    base = find_python(versions)
    try:
        if venv.exists():
            shutil.rmtree(str(venv))
    except OSError as error:  # Windows keeps what a running program uses
        sys.exit(f"{venv.name} is in use ({error}): close what runs in it, then again.")
    venv.mkdir()
    unfinished(venv).touch()
    subprocess.run([base, "-m", "venv", str(venv)], check=True)


def pip_install(venv: Path, *arguments: str) -> None:
    """Install, or exit. An unreachable host costs a minute, not hours."""
    command = [program(venv), "-m", "pip", "install", "--quiet", "--retries=2"]
    command += ["--disable-pip-version-check", *arguments]
    if subprocess.run(command, cwd=str(ROOT)).returncode:
        sys.exit(
            "The packages could not be installed (pip says why above): check the "
            "network and the free disk space, then run it again. After a change of "
            "requirements*.txt: make constraints."
        )


def install(venv: Path, *arguments: str) -> None:
    """The same; an environment in which it was interrupted is made anew."""
    unfinished(venv).touch()
    pip_install(venv, *arguments)
    unfinished(venv).unlink()


def stamped(kind: str) -> str:
    """What stands in the file `installed` of an environment: kind and checksum."""
    content = b"".join((ROOT / name).read_bytes() for name in KINDS[kind][3])
    return f"{kind} {zlib.crc32(content)}"


def ensure(kind: str) -> str:
    """Make or mend the environment of a kind; return its Python.

    What serves the tests serves the course.
    """
    if kind == "tests" and not shutil.which("git"):
        sys.exit(
            "The tests need git: install it (Debian, Ubuntu: apt-get install git)."
        )
    venv, versions, arguments, _ = KINDS[kind]
    if venv == VENV and os.environ.get("COURSE_PYTHON"):
        versions = [asked(find_python())[0]]
    stamp = venv / "installed"
    installed = stamp.read_text().strip() if stamp.exists() else ""
    enough = {stamped(kind), stamped("tests" if kind == "course" else kind)}
    usable = works(venv, versions)
    if usable and installed in enough:
        return program(venv)
    if not usable or not asked(program(venv), "pip"):
        make(venv, versions)
    print("Installing the pinned packages (a few minutes the first time)", flush=True)
    install(venv, *arguments)
    stamp.write_text(stamped(kind) + "\n")
    return program(venv)
