"""Run a program that starts processes of its own, and leave none behind.

`run` starts a watcher (this file, as a script), and that starts the program.
A pipe leads from us to the watcher. Once it closes, because time is up or we
were interrupted or killed, the watcher kills the program and all that stems
from it. (Killing the process group would miss torchrun's workers: each has a
session of its own.) Needs `ps`, as on Linux and macOS; on Windows, which is
not tested, it calls `taskkill /T` instead.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence


class ProcessError(RuntimeError):
    """The program failed, or did not end in time."""


def run(command: Sequence[object], timeout: float) -> str:
    """Run a command, one thread per process; return its standard output.

    Raises ProcessError with the last 60 lines of its stderr when it fails or
    takes longer than `timeout` seconds. However it ends, no process is left.
    """
    command = [str(part) for part in command]
    end, ours = os.pipe()
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        open(ours, "wb") as pipe,
        open(end, "rb") as other_end,
        subprocess.Popen(
            [sys.executable, __file__, *command],
            stdin=other_end,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": folder},
            start_new_session=True,  # an interrupt is ours, not the program's
            text=True,
            errors="replace",
        ) as process,
    ):
        try:
            out, err = process.communicate(timeout=timeout)
            what = f"failed with exit code {process.returncode}"
        except subprocess.TimeoutExpired:
            pipe.close()
            out, err = process.communicate()
            what = f"was stopped: it had not ended after {timeout:g} s"
        finally:
            pipe.close()
            process.wait()
    if process.returncode:
        tail = "\n".join(err.splitlines()[-60:])
        raise ProcessError(f"{' '.join(command)}\n{what}\n{tail}")
    return out


def _kill_descendants() -> None:
    """Kill all that stems from this process, until nothing is left."""
    table, found = "ps -A -o pid= -o ppid= -o stat=".split(), {os.getpid()}
    while found:
        with subprocess.Popen(table, stdout=subprocess.PIPE, text=True) as ps:
            rows = [line.split() for line in ps.stdout]
        parents = {int(pid): int(p) for pid, p, state in rows if state[0] != "Z"}
        parents.pop(ps.pid, None)
        found, more = set(), {os.getpid()}
        while more := {pid for pid, parent in parents.items() if parent in more}:
            found |= more
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _watch(command: list[str]) -> None:
    """Run the command until it ends, or the pipe at our stdin closes."""
    if sys.platform == "linux":  # what loses its parent becomes our child
        ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    ended = threading.Event()
    for wait in (process.wait, sys.stdin.buffer.read):
        threading.Thread(target=lambda w=wait: (w(), ended.set()), daemon=True).start()
    ended.wait()
    if sys.platform == "win32":
        tree = ["taskkill", "/T", "/F", "/PID", str(process.pid)]
        subprocess.run(tree, capture_output=True)
    else:
        _kill_descendants()
    os._exit(process.wait() & 255)


if __name__ == "__main__":
    _watch(sys.argv[1:])
