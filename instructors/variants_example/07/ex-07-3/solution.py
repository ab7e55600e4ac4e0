def lone(d, n, eps=1e-5):
    """The normalized value of the one that differs by d, shape of d."""
    var = d**2 * (n - 1) / n**2
    return d * (n - 1) / n / (var + eps).sqrt()
