"""Time the engine, the course's own BN and each chapter: `make bench`.

Writes tools/bench.md. The machine may be busy, so what is compared is timed
in turn, many times in one run, in CPU seconds, and the median ratio counts.
CHAPTERS=no leaves out the chapters.
"""

import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path
from statistics import median

import nbformat
import torch
from torch import nn
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from utils.data import load_digits  # noqa: E402
from utils.training import batches, sgd  # noqa: E402

STEPS, BATCH, LR, ROUNDS = 200, 32, 0.1, 9


def dense(norm: type[nn.Module]) -> nn.Module:
    """64-32-32-32-10."""
    layers, size = [], 64
    for _ in range(3):
        layers += [nn.Linear(size, 32), norm(32), nn.ReLU()]
        size = 32
    return nn.Sequential(*layers, nn.Linear(32, 10))


def conv(norm: type[nn.Module]) -> nn.Module:
    """1-8-16 channels on 8x8 pixels."""
    layers = [nn.Unflatten(1, (1, 8, 8))]
    for sizes in ((1, 8), (8, 16)):
        layers += [nn.Conv2d(*sizes, 3, padding=1), norm(sizes[1]), nn.ReLU()]
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)
    )


def cpu_seconds(work: Callable, *arguments) -> float:
    begun = time.process_time()
    work(*arguments)
    return time.process_time() - begun


def compare(these: Callable, those: Callable) -> tuple[float, float, float]:
    """Median, least and largest ratio of CPU seconds, timed in turn."""
    these(), those()  # warm up
    ratios = [cpu_seconds(these) / cpu_seconds(those) for _ in range(ROUNDS)]
    return median(ratios), min(ratios), max(ratios)


def engine_rows(digits) -> list[tuple]:
    """What many nets at once cost, in single plain runs."""
    train = digits.of(0).train

    def plain(make_model: Callable) -> None:
        model = make_model()
        optimizer = torch.optim.SGD(model.parameters(), lr=LR)
        order = batches(len(train.y), BATCH, seed=0)
        for _ in range(STEPS):
            i = next(order)
            loss = F.cross_entropy(model(train.x[i]), train.y[i])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def many(make_model: Callable, rates: int) -> None:
        lr = [[LR]] * rates
        for _ in sgd(make_model, digits, steps=STEPS, batch_size=BATCH, lr=lr):
            pass

    rows = []
    for what, make_model, rates, goal in [
        ("dense, width 32, no norm", lambda: dense(nn.Identity), 1, 2.2),
        ("dense, width 32, BN", lambda: dense(nn.BatchNorm1d), 1, 2.2),
        ("dense, width 32, no norm", lambda: dense(nn.Identity), 4, 7),
        ("dense, width 32, BN", lambda: dense(nn.BatchNorm1d), 4, 7),
        ("conv, 1-8-16 channels, BN", lambda: conv(nn.BatchNorm2d), 1, 4.5),
    ]:
        ratio = compare(partial(many, make_model, rates), partial(plain, make_model))
        rows.append((f"{what}: {12 * rates} nets over one plain net", *ratio, goal))
    return rows


def own_layers() -> dict[str, Callable]:
    """The layer that chapter 02 writes, in its two forms, from its cells."""
    notebook = nbformat.read(ROOT / "chapters" / "02_mechanics.ipynb", as_version=4)
    names: dict = {"torch": torch, "nn": nn}
    for cell in notebook.cells:
        if cell.id in ("batch-norm", "function"):
            exec(cell.source, names)
    function = names["BatchNormFunction"]
    return {
        "five lines": names["batch_norm"],
        "own backward": lambda *xs: function.apply(*xs, 1e-5),
    }


def layer_rows() -> list[tuple]:
    """The course's own BN, forward and backward, over F.batch_norm."""
    rows = []
    for shape, goal, times in [((128, 100), 1.5, 300), ((64, 64, 14, 14), 2.5, 10)]:
        x, dy = torch.randn(2, *shape)
        gamma, beta = torch.ones(shape[1]), torch.zeros(shape[1])
        flat = [t.movedim(1, -1).reshape(-1, shape[1]) for t in (x, dy)]
        for t in (x, flat[0], gamma, beta):
            t.requires_grad_()

        def many(layer: Callable, x, dy, own=(gamma, beta), times=times) -> None:
            for _ in range(times):
                torch.autograd.grad(layer(x, *own), [x, *own], dy)

        def theirs(x, gamma, beta):
            return F.batch_norm(x, None, None, gamma, beta, training=True)

        for name, layer in own_layers().items():
            ours = partial(many, layer, *flat)  # (batch * positions, channels)
            ratios = compare(ours, partial(many, theirs, x, dy))
            rows.append((f"own BN, {name}, over F.batch_norm {shape}", *ratios, goal))
    return rows


def chapter_seconds() -> list[tuple[str, float]]:
    """Wall seconds of each chapter, run top to bottom."""
    execute = [sys.executable, "-c", "from nbclient.cli import main; main()"]
    settings = {"OMP_NUM_THREADS": "1", "COURSE_PROGRESS": "0"}
    rows = []
    for chapter in sorted((ROOT / "chapters").glob("*.ipynb")):
        begun = time.monotonic()
        subprocess.run(
            [*execute, "--timeout=180", chapter],
            check=True,
            env=os.environ | settings,
            stderr=subprocess.DEVNULL,
        )
        rows.append((chapter.stem, time.monotonic() - begun))
        print(f"{chapter.name}: {rows[-1][1]:.0f} s", flush=True)
    return rows


def processor() -> str:
    """The processor's name, as far as the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [x.split(":")[1].strip() for x in lines if x.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def main() -> None:
    torch.set_num_threads(1)
    kind = torch.backends.cpu.get_cpu_capability()
    lines = [
        "# What things cost",
        "",
        f"Written by `make bench` on {date.today()}: {processor()} ({kind}), "
        f"{os.cpu_count()} cores, Python {platform.python_version()}, "
        f"torch {torch.__version__.partition('+')[0]}, one thread. CPU seconds, "
        f"timed in turn, {ROUNDS} rounds.",
        "",
        "| what | median | least | largest | goal |",
        "|---|---|---|---|---|",
    ]
    for what, middle, least, largest, goal in [
        *engine_rows(load_digits(12)),
        *layer_rows(),
    ]:
        row = f"| {what} | {middle:.2f} | {least:.2f} | {largest:.2f} | {goal} |"
        print(row, flush=True)
        lines.append(row)
    if os.environ.get("CHAPTERS") != "no":
        lines += ["", "| chapter | seconds |", "|---|---|"]
        seconds = chapter_seconds()
        lines += [f"| {name} | {s:.0f} |" for name, s in seconds]
        lines.append(f"| together | {sum(s for _, s in seconds):.0f} |")
    (ROOT / "tools" / "bench.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
