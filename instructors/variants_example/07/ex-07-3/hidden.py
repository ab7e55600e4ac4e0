"""Tried when grading alone: the arguments of the check's function, by name."""

CASES = {
    "n = 7, d of shape (1, 6), eps = 0.5": (7, (1, 6), (0.5,)),
    "n = 3, d of shape (3, 1, 2), eps = 1e-08": (3, (3, 1, 2), (1e-8,)),
}
