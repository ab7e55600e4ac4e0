"""Intervals hold what they promise, and bad input is refused."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from utils.statistics import (
    Estimate,
    estimate,
    paired_difference,
    paired_ratio,
    verdict,
)

TRIALS, SEEDS = 2000, 12


def coverage(make_interval, truth, trials=TRIALS):
    """The share of simulated experiments whose interval holds the truth."""
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(trials):
        e = make_interval(rng)
        hits += e.low <= truth <= e.high
    return hits / trials


def expected(share, trials, promise=0.95):
    """Within three standard errors of the promise."""
    return abs(share - promise) < 3 * np.sqrt(promise * (1 - promise) / trials)


def test_t_interval_covers_the_mean():
    share = coverage(lambda rng: estimate(rng.normal(3, 2, SEEDS)), 3)
    assert expected(share, TRIALS)


def test_paired_difference_covers_when_runs_share_noise():
    def experiment(rng):
        shared = rng.normal(0, 10, SEEDS)  # the seed's own luck
        a = shared + rng.normal(1, 1, SEEDS)
        return paired_difference(a, shared + rng.normal(0, 1, SEEDS))

    share = coverage(experiment, 1)
    assert expected(share, TRIALS)
    assert experiment(np.random.default_rng(1)).high < 5  # not 10 wide


def test_ratio_covers_on_the_log_scale():
    def experiment(rng):
        a = np.exp(rng.normal(np.log(3), 0.8, SEEDS))
        return paired_ratio(a, np.exp(rng.normal(0, 0.8, SEEDS)))

    assert expected(coverage(experiment, 3), TRIALS)


def test_bootstrap_covers_the_median_of_skewed_values():
    # on 12 values it is known to miss its promise by a point or two
    trials = 400
    share = coverage(
        lambda rng: estimate(rng.exponential(1, SEEDS), "bootstrap"),
        np.log(2),
        trials,
    )
    assert 0.90 < share < 0.99


# A rate's accuracy, per cent: a sharp top, a flat one, five rates that tie
CURVES = {
    "sharp": [60, 75, 86, 92, 85, 70, 40],
    "flat": [80, 88, 91.8, 92, 91.9, 90, 70],
    "tied": [80, 92, 92, 92, 92, 92, 60],
}


def tuned(rng, curve, spread, seed_luck):
    """Test accuracy at the rate best on validation, (seeds,), and that rate.

    A net's accuracy is the curve, its seed's luck, its own luck, and what
    256 validation or 517 test images add, half of the variance in common.
    """
    size = (SEEDS, len(curve))
    net = np.array(curve) + seed_luck[:, None] + rng.normal(0, spread, size)
    common = rng.normal(0, 0.5**0.5, size)
    validation, test = (
        net + sampling * (common + rng.normal(0, 0.5**0.5, size))
        for sampling in (1.8, 1.3)
    )
    best = validation.mean(0).argmax()
    return test[:, best], curve[best]


@pytest.mark.parametrize("spread", [1, 3])
@pytest.mark.parametrize("shape", CURVES)
def test_coverage_with_the_rate_chosen_inside(shape, spread):
    """The interval covers the mean of the whole procedure, choice included.

    Its other possible targets are printed too: what the best rate reaches,
    and what the chosen rate reaches with fresh seeds. Both are a little
    lower, because validation and test share a net's luck.
    """
    trials, gain, curve = 1500, 1.5, CURVES[shape]
    rng = np.random.default_rng(0)
    rows = []  # mean, low, high of the accuracy and of the difference; truth
    for _ in range(trials):
        seed_luck = rng.normal(0, 0.7 * spread, SEEDS)  # of both conditions
        a, truth = tuned(rng, curve, 0.7 * spread, seed_luck)
        b, _ = tuned(rng, curve, 0.7 * spread, seed_luck)
        e, d = estimate(a), paired_difference(a + gain, b)
        rows.append([e.value, e.low, e.high, d.value, d.low, d.high, truth])
    value, low, high, d, d_low, d_high, truth = np.array(rows).T

    def share(low, target, high):
        return np.mean((low <= target) & (target <= high))

    accuracy = share(low, value.mean(), high)
    difference = share(d_low, gain, d_high)
    at_best, at_chosen = share(low, max(curve), high), share(low, truth, high)
    print(
        f"{shape} top, sd {spread}: accuracy {accuracy:.1%}, paired difference "
        f"{difference:.1%}; best rate {at_best:.1%}, chosen rate {at_chosen:.1%} "
        f"(mean {value.mean() - truth.mean():+.2f} points above it)"
    )
    for covered in (accuracy, difference):
        assert covered > 0.95 - 3 * np.sqrt(0.95 * 0.05 / trials)
    assert at_best > 0.90 and at_chosen > 0.85


def test_equal_to_the_formula():
    x = np.array([1.0, 2.0, 4.0, 8.0])
    e = estimate(x, unit="%")
    half = stats.t.ppf(0.975, 3) * x.std(ddof=1) / 2
    np.testing.assert_allclose(
        [e.value, e.low, e.high], [3.75, 3.75 - half, 3.75 + half]
    )
    assert (e.n, e.unit) == (4, "%")


def test_range_is_the_worst_case():
    e = estimate([0.0, 3.0, 1.0], "range")
    assert (e.low, e.high, e.kind) == (0, 3, "range")


def test_no_spread_gives_a_point():
    for method in ("t", "bootstrap"):
        e = estimate([7.0] * 12, method)
        assert (e.value, e.low, e.high) == (7, 7, 7)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_diverged_runs_are_named_not_averaged(bad):
    with pytest.raises(ValueError, match=r"2 of 4 .*runs \[1, 3\]"):
        estimate([1.0, bad, 2.0, bad])


def test_refusals():
    with pytest.raises(ValueError, match="two or more"):
        estimate([1.0])
    with pytest.raises(ValueError, match="two or more"):
        estimate([[1.0, 2.0]])
    with pytest.raises(ValueError, match="not paired"):
        paired_difference([1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match="positive"):
        paired_ratio([1, 2], [0, 1])
    with pytest.raises(ValueError, match="method"):
        estimate([1, 2], "median")


def test_ties_and_near_ties_are_borne():
    ties = estimate([100] * 10 + [150, 50], "bootstrap")
    assert 50 <= ties.low <= 100 <= ties.high <= 150
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a warning would fail the book
        paired_ratio([0.1, 0.2, 0.3] * 4, [0.3, 0.6, 0.9] * 4)
        paired_difference(np.arange(12) * 0.1 + 0.3, np.arange(12) * 0.1)


@given(st.lists(st.floats(0.1, 100), min_size=3, max_size=20))
def test_ratio_and_its_inverse_tell_the_same_story(values):
    a, b = np.array(values), np.array(values[::-1]) + 1
    there, back = paired_ratio(a, b), paired_ratio(b, a)
    np.testing.assert_allclose(there.value, 1 / back.value)
    np.testing.assert_allclose([there.low, there.high], [1 / back.high, 1 / back.low])


@pytest.mark.parametrize(
    ("e", "text"),
    [
        (Estimate(52.123, 50.31, 53.94, 12, "%"), "52.1 % [50.3, 53.9]"),
        (Estimate(0.0, 0.0, 0.0, 12), "0 [0, 0]"),
        (Estimate(4e-6, 3e-6, 5e-6, 12), "4.0e-06 [3.0e-06, 5.0e-06]"),
        (Estimate(-412.0, -470, -370, 12, "points"), "−412 points [−470, −370]"),
        (Estimate(12.5, 12.5, 12.5, 12, "%"), "12.5 % [12.5, 12.5]"),
        (Estimate(99.9999, 99.9998, 100, 12), "99.9999 [99.9998, 100.0000]"),
        (Estimate(0.02, 0.004, 50, 12, "times"), "0.020 times [0.004, 50.000]"),
        (Estimate(-0.04, -3, 2.9, 12), "0 [−3, 3]"),
        (Estimate(39.2, 35.1, 43.3, 12, "points"), "39 points [35, 43]"),
        (Estimate(7.92, 7.6, 8.3, 12, "times"), "7.9 times [7.6, 8.3]"),
        (Estimate(5, 5 - 9e-16, 5 + 9e-16, 12), "5.000000 [5.000000, 5.000000]"),
        (Estimate(9.0, 8.0, float("inf"), 12), "9.0 [8.0, inf]"),
        (Estimate(*[float("nan")] * 3, 12), "nan [nan, nan]"),
        (Estimate(3.0, 2.96, 1000, 12), "3.00 [2.96, 1000.00]"),
    ],
)
def test_printed(e, text):
    assert str(e) == text


def test_format_specs():
    loss = Estimate(-39.2, -43.3, -35.1, 12, "points")
    assert f"{loss}" == str(loss) == "−39 points [−43, −35]"
    assert f"{loss:v}" == "−39 points"
    assert f"{loss:a}" == "39 points"
    assert f"{Estimate(12.04, 11.5, 12.6, 12, '%'):v}" == "12.0 %"
    assert f"{Estimate(7.9, 7.6, 8.3, 12):a}" == "7.9"
    with pytest.raises(ValueError, match='"", "v" or "a", got \'.1f\''):
        format(loss, ".1f")


def test_a_change_as_a_loss():
    x, y = np.array([1.0, 2.0, 4.0]), np.array([2.0, 3.0, 3.0])
    loss, other = -paired_difference(x, y), paired_difference(y, x)
    assert loss.values == other.values
    np.testing.assert_allclose([loss.value, loss.low], [other.value, other.low])
    np.testing.assert_allclose(loss.high, other.high)
    assert str(-Estimate(-15, -19, -11, 12, "points")) == "15 points [11, 19]"


def test_an_estimate_keeps_its_values():
    x, y = np.array([1.0, 2.0, 4.0]), np.array([2.0, 3.0, 3.0])
    assert estimate(x).values == (1.0, 2.0, 4.0) and estimate(x).scale == "linear"
    assert estimate(x, "bootstrap").scale == "median"
    assert estimate(x, "range").scale == "range"
    assert paired_difference(x, y).values == (-1.0, -1.0, 1.0)
    ratio = paired_ratio(x, y)
    np.testing.assert_allclose(ratio.values, np.log(x / y))
    assert ratio.scale == "log"
    np.testing.assert_allclose(ratio.value, np.exp(np.mean(ratio.values)))
    assert "values" not in repr(ratio)
    a, b = Estimate(5, 4, 6, 12), Estimate(5, 4, 6, 12, values=(4.0, 6.0))
    assert a == b and hash(a) == hash(b)


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (3.1, 9, "true"),
        (3, 9, "not settled"),  # at the margin is not beyond it
        (-9, -3.1, "false"),
        (-3, 3, "no difference that matters"),
        (0.5, 2, "no difference that matters"),  # sure, and too small
        (-1, 3.1, "not settled"),
        (-4, 4, "not settled"),
    ],
)
def test_verdicts(low, high, word):
    assert verdict(Estimate((low + high) / 2, low, high, 12)) == word
    assert verdict(Estimate((low + high) / 2, low, high, 12), margin=3.0) == word


def test_a_verdict_needs_a_margin():
    with pytest.raises(ValueError, match="margin must be positive, got 0"):
        verdict(Estimate(1, 0, 2, 12), margin=0)
