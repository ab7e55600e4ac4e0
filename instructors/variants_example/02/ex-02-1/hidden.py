"""Tried when grading alone: the arguments of the check's function, by name."""

CASES = {
    "x of shape (5, 5, 5, 5), eps = 0.01": ((5, 5, 5, 5), (1e-2,)),
    "x of shape (2, 1, 3), eps = 0.3": ((2, 1, 3), (0.3,)),
    "eps not given, so 1e-5": ((4, 2, 3), ()),
}
