"""Where students' code runs: without network, and with as little as there is.

Bubblewrap shows it Python and the homework's folder, read-only, and nothing
else. Without it, `unshare` takes the network away and ends all that was started,
but the code can read and write what you can. Where neither works, only the
limits of time and memory hold, and the report says so.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

UNSHARE = ["unshare", "--map-root-user", "--net", "--pid", "--fork", "--kill-child"]
UNSHARE += ["--mount-proc"]  # psutil reads it


def bubblewrap(folder: Path) -> list[str]:
    """A command that runs what follows it in a bubblewrap sandbox."""
    system = [p for p in ("/usr", "/bin", "/lib", "/lib64", "/etc") if Path(p).exists()]
    python = [sys.base_prefix, sys.prefix, str(Path(__file__).parent)]
    seen = [*system, *python]
    command = ["bwrap", "--unshare-all", "--die-with-parent", "--new-session"]
    command += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]
    for path in [*seen, str(folder)]:
        command += ["--ro-bind", path, path]
    return [
        *command,
        "--clearenv",
        "--setenv",
        "PATH",
        os.environ["PATH"],
        *set_alike(),
    ]


def set_alike() -> list[str]:
    """The environment of a sandbox that begins with none."""
    wanted = {"HOME": "/tmp", "OMP_NUM_THREADS": "1", "LANG": "C.UTF-8"}
    return [part for pair in wanted.items() for part in ("--setenv", *pair)]


def works(prefix: list[str]) -> bool:
    if not shutil.which(prefix[0]):
        return False
    command = [*prefix, sys.executable, "-c", "import ctypes"]
    return subprocess.run(command, capture_output=True).returncode == 0


def sandbox(folder: Path) -> tuple[list[str], str]:
    """What to put before a command, and what it does, in a sentence."""
    limits = "limits of time and memory"
    if works(bubblewrap(folder)):
        return bubblewrap(
            folder
        ), f"bubblewrap: no network, no files of yours; {limits}"
    if works(UNSHARE):
        return UNSHARE, (
            f"unshare: no network; {limits}. It can read and write your files: "
            "install bubblewrap, or grade where there is nothing to lose"
        )
    return [], (
        f"{limits} only. It can use the network and your files: install bubblewrap "
        "(Linux), or grade in a container without network"
    )
