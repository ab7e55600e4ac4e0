def lone(d, n, eps=1e-5):
    """The normalized value of the one that differs by d, shape of d."""
    ...  # your code here, about 3 lines
