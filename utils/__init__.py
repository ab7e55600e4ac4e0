"""What every chapter imports; nothing that a chapter teaches."""

import torch

from utils.seeds import course_seed, seeds


def set_up() -> None:
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
