"""Run every chapter alone in an empty folder, as Colab does (`make colab`).

    python tools/alone.py [PYTHON]      # whose kernel runs them; .venv's if left out
    CHAPTERS="04 07" …                  # only these

Colab has the notebook and nothing else of the course: the set-up cell fetches
the rest. Here git is told to fetch it from a repository that is made out of the
working tree, so that what is tested is what is here, without a network. A row
per chapter: seconds, memory of all its processes, what it printed on stderr.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import nbformat
import psutil
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

import lint
from repository import ROOT, current_address, current_version
from stored_runs import chapters

# Colab has neither of these; Python runs this file when it starts.
SITECUSTOMIZE = """
import sys


class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("myst_nb", "jupyter_book"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Missing())
"""


@dataclass(frozen=True)
class Outcome:
    """What became of a chapter: seconds, MiB at the peak, stderr, the error or ""."""

    seconds: float
    memory: float
    stderr: str
    error: str


def git(folder: Path, *arguments: str) -> str:
    """What git prints, run in a folder and as somebody."""
    names = ["-c", "user.name=Course", "-c", "user.email=course@example.org"]
    command = ["git", *names, *arguments]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return done.stdout.decode()


def make_remote(folder: Path, root: Path = ROOT) -> Path:
    """A repository with one commit: the files of the working tree."""
    for path in lint.files_of(root):
        copy = folder / path.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    git(folder, "init", "--quiet", f"--initial-branch={current_version(root)}")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message=The working tree")
    return folder


def environment(remote: Path, packages: Path) -> dict[str, str]:
    """The environment: git finds the remote, and `google.colab` is there."""
    (packages / "google" / "colab").mkdir(parents=True)
    (packages / "google" / "colab" / "__init__.py").touch()
    (packages / "sitecustomize.py").write_text(SITECUSTOMIZE)
    return os.environ | {
        "PYTHONPATH": str(packages),
        "COURSE_PROGRESS": "0",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # ipykernel 6 remarks on it
        "OMP_NUM_THREADS": "1",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{remote.as_uri()}.insteadOf",
        "GIT_CONFIG_VALUE_0": current_address(ROOT),
    }


def kernel_of(python: str) -> type[AsyncKernelManager]:
    """Starts this Python's kernel, not one of that name that is installed somewhere."""

    class Kernel(AsyncKernelManager):
        kernel_spec = KernelSpec(
            argv=[python, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        )

    return Kernel


def execute(
    notebook: NotebookNode, folder: Path, env: dict[str, str], python: str
) -> None:
    """Run a notebook in a folder with a Python's kernel; raise its first error."""
    client = NotebookClient(
        notebook,
        timeout=900,  # a cell: the machine may be slow
        kernel_manager_class=kernel_of(python),
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute(env=env)


def memory_of(process: psutil.Process) -> int:
    """Bytes of a process; memory that it shares counts in parts, as Linux can tell."""
    try:
        return getattr(process.memory_full_info(), "pss", process.memory_info().rss)
    except psutil.Error:  # it has ended, or is not ours
        return 0


class Peak(threading.Thread):
    """The most memory that all processes below this one held at once, in MiB."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.mebibytes, self.over = 0.0, threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.5):
            children = psutil.Process().children(recursive=True)
            held = sum(map(memory_of, children)) / 2**20
            self.mebibytes = max(self.mebibytes, held)


def raised_in(cell: NotebookNode) -> bool:
    return any(output.output_type == "error" for output in cell.get("outputs", []))


def run(path: Path, env: dict[str, str], python: str) -> Outcome:
    """Run a chapter to its end in an empty folder."""
    notebook, error = nbformat.read(path, as_version=4), ""
    start, peak = time.perf_counter(), Peak()
    peak.start()
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(path, folder)
        try:
            execute(notebook, Path(folder), env, python)
        except CellExecutionError as failed:
            if failed.ename == "KeyboardInterrupt":  # nbclient hands it on
                sys.exit(f"Interrupted in {path.stem}.")
            broken = [cell.id for cell in notebook.cells if raised_in(cell)]
            error = f"cell {broken[-1]}: {failed.ename}: {failed.evalue}"
        except Exception as failed:  # a dead kernel, a cell that took too long
            error = f"{type(failed).__name__}: {failed}"
    peak.over.set()
    peak.join()
    outputs = [o for cell in notebook.cells for o in cell.get("outputs", [])]
    stderr = "".join(o.text for o in outputs if o.get("name") == "stderr")
    return Outcome(time.perf_counter() - start, peak.mebibytes, stderr, error)


def versions(python: str) -> str:
    """One line: the Python and the packages that decide."""
    code = (
        "import platform, torch, numpy, scipy, matplotlib, IPython, ipykernel;"
        "print(f'Python {platform.python_version()}', *("
        "f'{m.__name__} {m.__version__}' for m in "
        "(torch, numpy, scipy, matplotlib, IPython, ipykernel)), sep=', ')"
    )
    done = subprocess.run([python, "-c", code], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{python} cannot run the chapters: {done.stderr.strip()[-200:]}")
    return done.stdout.strip()


def main(python: str = sys.executable) -> int:
    print(versions(python), flush=True)
    failed = []
    with tempfile.TemporaryDirectory() as scratch:
        remote = make_remote(Path(scratch, "remote"))
        env = environment(remote, Path(scratch, "packages"))
        for path in chapters(ROOT, os.environ.get("CHAPTERS", "")):
            outcome = run(path, env, python)
            line = f"{outcome.seconds:4.0f} s {outcome.memory:5.0f} MiB"
            said = re.sub(r"\s+", " ", outcome.stderr).strip()
            print(f"{path.stem:28} {line}  {outcome.error[:500] or 'passed'}")
            if said:
                print(f"{'':28} stderr: {said[:300]}")
            sys.stdout.flush()
            failed += [path.stem] if outcome.error else []
    if failed:
        print("Failed: " + ", ".join(failed))
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
