"""Time train_many against the plain loop, and each chapter: `make bench`.

The machine may be busy, so the two loops are timed in turn, several times,
in CPU seconds, and the median ratio counts.
"""

import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import torch
from torch import nn
from torch.nn.functional import cross_entropy

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from utils.data import load_digits  # noqa: E402
from utils.training import batches, train_many  # noqa: E402

STEPS, BATCH, LR, ROUNDS = 200, 16, 0.1, 5


def mlp(norm: type[nn.Module]) -> nn.Module:
    """64-32-32-10, the net of chapter 07."""
    layers = [nn.Linear(64, 32), norm(32), nn.ReLU()]
    layers += [nn.Linear(32, 32), norm(32), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(32, 10))


def cpu_seconds(work, *arguments) -> float:
    begun = time.process_time()
    work(*arguments)
    return time.process_time() - begun


def plain(norm, data) -> None:
    model = mlp(norm)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    order = batches(len(data.train.y), BATCH, seed=0)
    for _ in range(STEPS):
        i = next(order)
        loss = cross_entropy(model(data.train.x[i]), data.train.y[i])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def many(norm, data, rates) -> None:
    train_many(
        lambda: mlp(norm), data, steps=STEPS, batch_size=BATCH, lr=[[LR]] * rates
    )


def bench_training() -> None:
    """Print what 12, 48 and 60 nets cost, in single plain runs."""
    torch.set_num_threads(1)
    data = load_digits()
    for norm in (nn.Identity, nn.BatchNorm1d):
        many(norm, data, 1)  # warm up
        for rates in (1, 4, 5):
            ratios = [
                cpu_seconds(many, norm, data, rates) / cpu_seconds(plain, norm, data)
                for _ in range(ROUNDS)
            ]
            print(
                f"{norm.__name__:12} {12 * rates} nets at once cost "
                f"{median(ratios):.1f} plain runs ({min(ratios):.1f} to "
                f"{max(ratios):.1f} in {ROUNDS} rounds)"
            )


def bench_chapters() -> None:
    """Print the wall time of each chapter, run top to bottom."""
    execute = [sys.executable, "-c", "from nbclient.cli import main; main()"]
    settings = {"OMP_NUM_THREADS": "1", "COURSE_PROGRESS": "0"}
    for chapter in sorted((ROOT / "chapters").glob("*.ipynb")):
        begun = time.monotonic()
        subprocess.run(
            [*execute, "--timeout=180", chapter],
            check=True,
            env=os.environ | settings,
            stderr=subprocess.DEVNULL,
        )
        print(f"{chapter.name}: {time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    bench_training()
    bench_chapters()
