"""Chapter 09: its checks reject what is wrong and accept what is right."""

import numpy as np
import pytest
import torch

from tests.verdicts import verdict
from utils import checks


def share(n):
    return (n / n.sum())[:, None]


def by_pairs(n, m, v):
    """Merge one device after the other, as Chan et al. do."""
    count, mean, square = n[0].item(), m[0], v[0] * n[0]
    for k in range(1, len(n)):
        distance, total = m[k] - mean, count + n[k].item()
        mean = mean + distance * n[k] / total
        square = square + v[k] * n[k] + distance**2 * count * n[k] / total
        count = total
    return mean, square / count


def shifted(n, m, v):
    """E[x²] - E[x]², about the first device's mean: no digits lost."""
    d = m - m[0]
    mean = (share(n) * d).sum(0)
    return m[0] + mean, (share(n) * (v + d**2)).sum(0) - mean**2


def wide(n, m, v):
    """E[x²] - E[x]² in float64."""
    n, m, v = n.double(), m.double(), v.double()
    mean = (share(n) * m).sum(0)
    return mean, (share(n) * (v + m**2)).sum(0) - mean**2


def in_numpy(n, m, v):
    n, m, v = n.numpy(), m.numpy(), v.numpy()
    mean = np.average(m, axis=0, weights=n)
    return [mean, np.average(v + (m - mean) ** 2, axis=0, weights=n)]


def einsum(n, m, v):
    mean = torch.einsum("k,kc->c", n, m) / n.sum()
    return mean, torch.einsum("k,kc->c", n, v + (m - mean).square()) / n.sum()


def sums(n, m, v):
    mean = (n[:, None] * m).sum(0) / n.sum()
    square = n[:, None] * v + n[:, None] * (m - mean) ** 2
    return mean, square.sum(0) / n.sum()


def right(n, m, v):
    mean = (share(n) * m).sum(0)
    return mean, (share(n) * (v + (m - mean) ** 2)).sum(0)


def in_place(n, m, v):
    mean = (share(n) * m).sum(0)
    return mean, v.add_(m.sub_(mean).square_()).mul_(share(n)).sum(0)


def variance(change):
    """The right mean, and a variance that is wrong in one way."""
    return lambda n, m, v: (right(n, m, v)[0], change(n, m, v, right(n, m, v)[0]))


RIGHT_MERGE = [right, by_pairs, shifted, wide, in_numpy, einsum, sums, in_place]
WRONG_MERGE = {
    "the stub": (lambda n, m, v: None, "returned nothing"),
    "one thing": (lambda n, m, v: right(n, m, v)[0], "return two things"),
    "keepdim": (
        lambda n, m, v: [part[None] for part in right(n, m, v)],
        "one value per channel",
    ),
    "over channels": (
        lambda n, m, v: (m.mean(1), v.mean(1)),
        "one value per channel",
    ),
    "swapped": (lambda n, m, v: right(n, m, v)[::-1], "the mean comes first"),
    "unweighted": (
        lambda n, m, v: (m.mean(0), v.mean(0) + m.var(0, correction=0)),
        "weigh each device's mean",
    ),
    "within only": (
        variance(lambda n, m, v, mean: (share(n) * v).sum(0)),
        "distance from the common mean",
    ),
    "unweighted variance": (
        variance(lambda n, m, v, mean: (v + (m - mean) ** 2).mean(0)),
        "each device's variance by its count",
    ),
    "unweighted between": (
        variance(
            lambda n, m, v, mean: (share(n) * v).sum(0) + ((m - mean) ** 2).mean(0)
        ),
        "squared distances of the means by the counts",
    ),
    "unweighted within": (
        variance(lambda n, m, v, mean: v.mean(0) + (share(n) * (m - mean) ** 2).sum(0)),
        "weigh the variances by the counts",
    ),
    "unbiased": (
        variance(lambda n, m, v, mean: right(n, m, v)[1] * n.sum() / (n.sum() - 1)),
        "minus 1",
    ),
    "sd": (variance(lambda n, m, v, mean: right(n, m, v)[1].sqrt()), "deviation"),
    "not squared": (
        variance(lambda n, m, v, mean: (share(n) * (v + (m - mean).abs())).sum(0)),
        "is squared",
    ),
    "sum of squares": (
        variance(lambda n, m, v, mean: right(n, m, v)[1] * n.sum()),
        "divide by the total count",
    ),
    "between only": (
        variance(lambda n, m, v, mean: (share(n) * (m - mean) ** 2).sum(0)),
        "the variance should be",
    ),
    "E[x²] - E[x]² in float32": (
        variance(lambda n, m, v, mean: (share(n) * (v + m**2)).sum(0) - mean**2),
        "subtract two large numbers",
    ),
    "nan": (variance(lambda n, m, v, mean: mean * float("nan")), "should be"),
    "raises": (lambda n, m, v: m @ v, "raised RuntimeError"),
}


def scattered(mean):
    """Twelve differences around this mean."""
    return mean + np.linspace(-2, 2, 12)


RIGHT_SORTED = [scattered(-4.0), scattered(-1.5), list(scattered(-6))]
WRONG_SORTED = {
    "the stub": (lambda: None, "returned nothing"),
    "the mean": (lambda: -4.0, "one difference for each"),
    "all rates": (lambda: np.ones((5, 12)), "one difference for each"),
    "diverged": (lambda: np.full(12, np.nan), "best rate"),
    "not sorted": (lambda: np.zeros(12), "same difference"),
    "the accuracy": (lambda: scattered(92), "subtract `accuracy[8]`"),
    "turned round": (lambda: scattered(4), "sorted *minus* shuffled"),
    "32 per device": (lambda: scattered(0.8), "too little"),
    "one update": (lambda: scattered(-60), "too much"),
    "in thousandths": (lambda: scattered(-400), "points of accuracy"),
}
RIGHT = [(checks.merge, a) for a in RIGHT_MERGE]
RIGHT += [(checks.sorted_devices, lambda a=a: a) for a in RIGHT_SORTED]
WRONG = [(checks.merge, *pair) for pair in WRONG_MERGE.values()]
WRONG += [(checks.sorted_devices, *pair) for pair in WRONG_SORTED.values()]


@pytest.mark.parametrize(("check", "answer"), RIGHT)
def test_accepts(check, answer):
    passed, said = verdict(check, answer)
    assert passed, said
    assert said.startswith("Passed: ")


@pytest.mark.parametrize(
    ("check", "answer", "hint"), WRONG, ids=[*WRONG_MERGE, *WRONG_SORTED]
)
def test_rejects(check, answer, hint):
    passed, said = verdict(check, answer)
    assert passed is False
    assert said.startswith("Not yet: ")
    assert hint in said
