"""What every chapter imports; nothing that a chapter teaches."""

import os

import torch


def course_seed() -> int:
    """The number in COURSE_SEED (default 0), by which all seeds shift."""
    text = os.environ.get("COURSE_SEED", "0")
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"COURSE_SEED must be a whole number, got {text!r}.") from None


def seeds(n: int = 12) -> list[int]:
    """The course's first n seeds; COURSE_SEED=k gives n others for each k."""
    first = 1000 * course_seed()
    return list(range(first, first + n))


def start() -> None:
    """Prepare a chapter: figure style, one torch thread, the first seed.

    One thread, because on nets this small a second one costs more than it
    brings.
    """
    from utils import figures

    torch.set_num_threads(1)
    torch.manual_seed(seeds(1)[0])
    figures.use_style()
    if course_seed():
        print(f"COURSE_SEED={course_seed()}: every seed is shifted.")
