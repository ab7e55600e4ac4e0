"""The stored runs of the chapters under other seeds, and which still count.

`_build/reseed/<chapter>/<seed>-<cpu>.jsonl`: the first line says what was run,
the others are what utils/claims.py recorded, one line per claim or identity.
A run counts as long as the chapter's code, utils and data are what they were.
"""

import hashlib
import json
import os
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import nbformat

CPUS = ("native", "default", "avx2", "avx512")  # kinds of ATEN_CPU_CAPABILITY
# What only those chapters use that import this.
APART = {"utils.scale": ("utils/scale/*.py", "data/mnist5k/*.*", "data/scale/*.csv")}


@dataclass(frozen=True)
class Run:
    """One chapter, run with one COURSE_SEED under one CPU kind."""

    chapter: str
    seed: int
    cpu: str
    seconds: float
    records: list[dict]

    @property
    def failed(self) -> list[dict]:
        """The claims and identities that did not hold."""
        return [record for record in self.records if not record["holds"]]


def digest(*parts: bytes) -> str:
    """A hash of the parts, which depends on where each of them ends."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(hashlib.sha256(part).digest())
    return whole.hexdigest()[:16]


def chapters(root: Path, wanted: str = "") -> list[Path]:
    """The notebooks whose names begin with one of the wanted words, or all."""
    found = sorted((root / "chapters").glob("*.ipynb"))
    chosen = set()
    for word in wanted.split():
        matching = [path for path in found if path.stem.startswith(word)]
        if not matching:
            names = ", ".join(path.stem for path in found)
            raise ValueError(f"no chapter begins with {word!r}; there are {names}")
        chosen.update(matching)
    return sorted(chosen) or found


def code_hash(notebook: Path) -> str:
    """A hash of a notebook's code cells: its text and metadata may change.

    So may the set-up cell, which has no part in a result: it says from where
    the rest comes. Files that few chapters use count as code of those that
    import them.
    """
    cells = nbformat.read(notebook, as_version=4).cells
    sources = [c.source for c in cells if c.cell_type == "code" and c.id != "set-up"]
    files: list[Path] = []
    for module, patterns in APART.items():
        if any(module in source for source in sources):
            root = notebook.parent.parent
            files += sorted(path for p in patterns for path in root.glob(p))
    return digest(*(s.encode() for s in sources), *(f.read_bytes() for f in files))


@cache
def shared_hash(root: Path) -> str:
    """A hash of what all chapters use: utils/*.py and the files of data/."""
    files = [*(root / "utils").glob("*.py"), *(root / "data").glob("[!.]*.*")]
    named = [(path.name.encode(), path.read_bytes()) for path in sorted(files)]
    return digest(*(part for pair in named for part in pair))


def place(root: Path, chapter: str, seed: int, cpu: str) -> Path:
    return root / "_build" / "reseed" / chapter / f"{seed}-{cpu}.jsonl"


def parse(text: str) -> list[dict]:
    """The recorded lines; each statement once, since it names its claim."""
    records = [json.loads(line) for line in text.splitlines()]
    for statement, times in Counter(r["statement"] for r in records).items():
        if times > 1:
            raise ValueError(f"{statement!r} is claimed {times} times: word each anew")
    return records


def store(root: Path, run: Run, code: str) -> None:
    """Write a run, with the hash of the code that ran, whole or not at all."""
    path = place(root, run.chapter, run.seed, run.cpu)
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {"code": code, "shared": shared_hash(root)}
    about |= {"seed": run.seed, "cpu": run.cpu, "seconds": round(run.seconds, 1)}
    unfinished = path.with_suffix(".unfinished")
    lines = [json.dumps(line) + "\n" for line in (about, *run.records)]
    unfinished.write_text("".join(lines), encoding="utf-8")
    os.replace(unfinished, path)


def load(root: Path, notebook: Path, keep: bool = False) -> tuple[list[Run], int]:
    """The runs of a chapter that count, and how many are out of date.

    With `keep`, those count too that only utils or data have changed since.
    """
    code, shared = code_hash(notebook), shared_hash(root)
    folder = place(root, notebook.stem, 0, "native").parent
    runs, stale = [], 0
    for path in sorted(folder.glob("*.jsonl")):
        first, *lines = path.read_text(encoding="utf-8").splitlines()
        about = json.loads(first)
        if about["code"] != code or (about["shared"] != shared and not keep):
            stale += 1
            continue
        what = (about["seed"], about["cpu"], about["seconds"])
        runs.append(Run(notebook.stem, *what, parse("\n".join(lines))))
    return sorted(runs, key=lambda r: (r.seed, CPUS.index(r.cpu))), stale


def seconds(root: Path, notebook: Path) -> float:
    """How long the chapter took when it was last stored; unknown: for ever."""
    folder = place(root, notebook.stem, 0, "native").parent
    firsts = [
        p.read_text(encoding="utf-8").split("\n")[0] for p in folder.glob("*.jsonl")
    ]
    return max((json.loads(first)["seconds"] for first in firsts), default=float("inf"))
