"""The course's seeds: COURSE_SEED=k gives others for each k."""

import os


def course_seed() -> int:
    """The number in COURSE_SEED (default 0), by which all seeds shift."""
    text = os.environ.get("COURSE_SEED", "0")
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"COURSE_SEED must be a whole number, got {text!r}.") from None


def seeds(n: int = 12) -> list[int]:
    """The course's first n seeds; no two values of COURSE_SEED share one."""
    first = 1000 * course_seed()
    return list(range(first, first + n))


def seed_list(given) -> list[int]:
    """The given seeds, or the course's first ones if it is a number."""
    return seeds(given) if isinstance(given, int) else [int(seed) for seed in given]
