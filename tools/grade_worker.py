"""Runs students' answers: a process that stays, and one fork of it per student.

`tools/grade.py` starts it in a sandbox and talks to it in lines of JSON. It
first runs what all students share (imports, data, nets to compare with), once.
A fork then runs a student's cells, each with a limit of CPU time and of memory.
Where an answer is stopped, or ends the process, the student's other exercises
run in a new fork without it.
"""

import ctypes
import json
import os
import resource
import select
import signal
import sys
import tempfile
import time
import types
from collections.abc import Iterator
from pathlib import Path

os.environ |= {"COURSE_PROGRESS": "0", "COURSE_WORKERS": "1", "MPLBACKEND": "agg"}
os.environ["LOKY_MAX_CPU_COUNT"] = "1"

import psutil  # noqa: E402
from IPython.core.history import HistoryManager  # noqa: E402
from IPython.core.interactiveshell import InteractiveShell  # noqa: E402
from IPython.utils.capture import capture_output  # noqa: E402

LONGEST = 5000  # characters of what a cell prints that are kept
GUARDED = ("utils", "torch.nn", "torch.nn.functional", "torch", "numpy", "builtins")


class Shell(InteractiveShell):
    def enable_gui(self, gui: str | None = None) -> None:
        """There are no windows: `%matplotlib inline` asks for none."""


def make_shell() -> Shell:
    HistoryManager.enabled = False
    shell = Shell.instance()
    shell.colors = "NoColor"
    return shell


def run_cell(shell: InteractiveShell, source: str) -> tuple[str, str]:
    """What a cell prints, and its error: both texts, the second mostly empty."""
    with capture_output() as printed:
        result = shell.run_cell(source, store_history=False)
    error = result.error_before_exec or result.error_in_exec
    text = f"{type(error).__name__}: {error}" if error else ""
    return printed.stdout[:LONGEST], text[:LONGEST]


def fingerprint() -> dict[str, tuple]:
    """What the checks rest on: names of modules, and what is behind them."""
    found = {}
    for module_name, module in list(sys.modules.items()):
        guarded = module_name.startswith("utils.") or module_name in GUARDED
        for name, value in vars(module).items() if guarded else ():
            if callable(value) and not name.startswith("__"):
                things = [value, *parts(value)]
                found[f"{module_name}.{name}"] = tuple(
                    i for t in things for i in ids(t)
                )
    return found


def ids(thing: object) -> list[int]:
    """What would be others if it did something else."""
    code = isinstance(thing, types.FunctionType)
    cells = filter(is_filled, thing.__closure__ or ()) if code else ()
    inside = [id(thing.__code__), *(id(c.cell_contents) for c in cells)] if code else []
    return [id(thing), *inside]


def parts(thing: object) -> Iterator[object]:
    """What a class of ours, or a check, is made of, tables included."""
    kind = thing if isinstance(thing, type) else type(thing)
    ours = "utils." if kind is thing else "utils.checks."
    for name, part in vars(thing).items() if kind.__module__.startswith(ours) else ():
        if name not in ("rights", "praise"):  # a check fills them in; see examine
            yield part
            yield from part.values() if isinstance(part, dict) else ()


def is_filled(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def changed(before: dict[str, tuple]) -> list[str]:
    """Names that are other things than before. New ones are no harm."""
    after = fingerprint()
    return [name for name in before if after.get(name) != before[name]]


def verdict(result: object, printed: str) -> tuple[float, str]:
    """The share of the points, 0 to 1, and what the check says.

    A check returns a bool, or a result that counts cases: (right, of all).
    """
    lines = [s for s in printed.splitlines() if s.startswith(("Passed", "Not yet"))]
    said = lines[-1] if lines else str(result)
    right, tried = getattr(result, "cases", (0, 1))
    return (1.0 if result else right / max(tried, 1)), said


def limit(memory: float) -> None:
    """Bounds for this process; memory in bytes, beyond what it has."""
    bounds = {resource.RLIMIT_FSIZE: 1e8, resource.RLIMIT_CORE: 0}
    if sys.platform == "linux":  # elsewhere `watch` alone looks at the memory
        bounds[resource.RLIMIT_DATA] = psutil.Process().memory_info().data + memory
    for kind, bound in bounds.items():
        resource.setrlimit(kind, (int(bound), int(bound)))


def child(shell, checks, before, job: dict, pipe: int) -> None:
    """Run the cells of a student, and tell each step through the pipe."""

    def tell(**event: object) -> None:
        os.write(pipe, (json.dumps(event) + "\n").encode())

    os.setsid()
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    limit(job["memory"])
    for exercise in job["exercises"]:
        outputs, errors = [], []
        for source in filter(str.strip, exercise["cells"]):
            tell(starts=exercise["number"])
            printed, error = run_cell(shell, source)
            outputs.append(printed)
            errors.append(error)
        if exercise["number"] in job["done"]:
            continue
        done = {"outputs": "".join(outputs), "error": " ".join(filter(None, errors))}
        tell(starts=exercise["number"])
        if tampered := changed(before):
            done["tampered"] = ", ".join(tampered[:3])
        else:
            done |= examine(shell, checks[exercise["check"]], exercise["answer"])
        tell(ends=exercise["number"], **done)


def examine(shell: InteractiveShell, check, answer: str) -> dict:
    """What a check finds; {} where the answer's name is bound to nothing."""
    if answer.isidentifier() and answer not in shell.user_ns:
        return {}
    try:
        getattr(check, "rights", {}).clear()  # what is right, it finds out itself
        with capture_output() as printed:
            result = check(eval(answer, shell.user_ns))
        share, said = verdict(result, printed.stdout)
        return {"share": share, "said": said[:LONGEST]}
    except BaseException as error:  # also one that an answer raises on purpose
        return {"said": f"the check was left: {type(error).__name__}: {error}"}


def usage(pid: int) -> tuple[float, float]:
    """CPU seconds and bytes of a process and of those that it started."""
    seconds = memory = 0.0
    try:
        process = psutil.Process(pid)
        for one in [process, *process.children(recursive=True)]:
            times = one.cpu_times()
            seconds += times.user + times.system
            memory += one.memory_info().rss
    except psutil.Error:
        pass  # it has just ended: the pipe says so, too
    return seconds, memory


def watch(pid: int, pipe: int, job: dict, done: dict) -> tuple[str, str]:
    """Collect what a student's process tells; kill it where it exceeds a limit.

    Returns the exercise at which it ended, and why; empty texts if it finished.
    """
    buffer, now, why, cpu, start = b"", "", "", 0.0, time.monotonic()
    _, base = usage(os.getpid())
    while True:
        ready, _, _ = select.select([pipe, sys.stdin], [], [], 0.2)
        if sys.stdin in ready:  # closed: nobody waits for the answer any more
            end(pid)
            sys.exit()
        if ready:
            part = os.read(pipe, 1 << 16)
            if not part:
                break
            *lines, buffer = (buffer + part).split(b"\n")
            for line in lines:
                event = json.loads(line)
                if "starts" in event:
                    now, start, cpu = event["starts"], time.monotonic(), usage(pid)[0]
                elif number := event.pop("ends", None):
                    done[number] = event
                    now = ""
        seconds, memory = usage(pid)
        allowed = job["seconds"].get(now, 60)
        if seconds - cpu > allowed:
            why = f"stopped after {allowed:.0f} s of computing"
        elif time.monotonic() - start > 60 + 10 * allowed:
            why = "stopped: it waited for too long"
        elif memory - base > job["memory"]:
            why = f"stopped: more than {job['memory'] / 1e6:.0f} MB"
        if why:
            break
    end(pid)
    if why or now:
        return now or "", why or "it ended Python itself"
    return "", ""


def end(pid: int) -> None:
    """Kill a student's process with all that it started."""
    try:
        family = psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        family = []
    for target in [pid, *(p.pid for p in family)]:
        try:
            os.kill(target, signal.SIGKILL)
        except ProcessLookupError:
            continue
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass  # it had no group of its own yet, or all have ended
    os.waitpid(pid, 0)


def grade(shell, checks, before, job: dict) -> dict:
    """The outcome of each exercise of a student, by number."""
    done: dict[str, dict] = {}
    todo = list(job["exercises"])
    while any(exercise["number"] not in done for exercise in todo):
        job |= {"exercises": todo, "done": list(done)}
        reading, writing = os.pipe()
        with tempfile.TemporaryDirectory() as folder:
            pid = os.fork()
            if pid == 0:
                os.close(reading)
                for name in ("data", "utils"):
                    os.symlink(Path.cwd() / name, Path(folder) / name)
                os.chdir(folder)
                try:
                    child(shell, checks, before, job, writing)
                finally:
                    os._exit(0)
            os.close(writing)
            at, why = watch(pid, reading, job, done)
            os.close(reading)
        if not why:
            break
        done.setdefault(at, {"stopped": why})
        todo = [e for e in todo if e["number"] != at]
    return done


def main() -> None:
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a cell prints is no reply

    def reply(**message: object) -> None:
        print(json.dumps(message), file=replies, flush=True)

    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # end when grade.py ends
    sys.path.insert(0, os.getcwd())
    shell = make_shell()
    for source in json.loads(sys.stdin.readline())["cells"]:
        _, error = run_cell(shell, source)
        if error:
            reply(error=error)
            return
    # The first optimizer and the first autograd.grad import these: each fork
    # would, for seconds, and _dynamo wraps functions such as torch.manual_seed
    import torch._dynamo
    import torch.fx.experimental.symbolic_shapes  # noqa: F401

    from utils import checks

    known = {name: getattr(checks, name) for name in checks.__all__}
    before = fingerprint()
    reply(ready=True, cpu=time.process_time())
    for line in sys.stdin:
        start = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = grade(shell, known, before, json.loads(line))
        now = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = now.ru_utime + now.ru_stime - start.ru_utime - start.ru_stime
        unit = 1024 if sys.platform == "linux" else 1
        reply(done=done, cpu=cpu, memory=now.ru_maxrss * unit)


if __name__ == "__main__":
    main()
