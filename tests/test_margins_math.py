"""The chance that a claim fails on a fresh run is of the right size."""

import numpy as np
import pytest
from scipy import stats

import margins
from margins import Bound, margin
from stored_runs import Run
from utils.statistics import estimate

NO_BOUND = {"above": None, "below": None, "within": None}


def record(values, scale="linear", **bound):
    """What a claim on these values records."""
    method = {"median": "bootstrap", "range": "range"}.get(scale, "t")
    e = estimate(values, method)
    ends = np.array([e.value, e.low, e.high])
    value, low, high = (np.exp(ends) if scale == "log" else ends).tolist()
    about = {"kind": "claim", "statement": "so", "n": len(values), "scale": scale}
    measured = {"value": value, "low": low, "high": high, "values": list(values)}
    missed = Bound.of(NO_BOUND | bound).missed(np.array(low), np.array(high))
    return NO_BOUND | about | measured | bound | {"holds": not missed}


def runs_of(draw, sets=12, n=12, scale="linear", seed=0, **bound):
    rng = np.random.default_rng(seed)
    records = [record(draw(rng, n), scale, **bound) for _ in range(sets)]
    kinds = ["native"] * (sets - 3) + ["default"] * 3
    return [Run("03_x", i, kinds[i], 1.0, [r]) for i, r in enumerate(records)]


def row_of(draw, **options):
    (row,), refused = margins.margins(runs_of(draw, **options))
    assert not refused
    return row


def chance_of(draw, **options):
    """The mean of the logs of ten tables' chances: one table alone scatters."""
    rows = [row_of(draw, seed=seed, **options) for seed in range(10)]
    return np.exp(np.mean(np.log([float(row["chance"]) + 1e-9 for row in rows])))


def true_chance(draw, scale="linear", n=12, sets=40_000, **bound):
    """How often a fresh set fails, by making very many of them."""
    rng = np.random.default_rng(99)
    values = draw(rng, (sets, n))
    end = stats.t.ppf(0.975, n - 1) * stats.sem(values, axis=1)
    low, high = values.mean(1) - end, values.mean(1) + end
    if scale == "log":
        low, high = np.exp(low), np.exp(high)
    return Bound.of(NO_BOUND | bound).missed(low, high).mean()


def normal(rng, size):
    return rng.normal(1.2, 1, size)  # 4.2 standard errors from 0 with n = 12


def skewed(rng, size):
    return 1 - rng.exponential(0.7, size)  # mean .3, a long tail towards 0


@pytest.mark.parametrize(
    "draw, options",
    [
        (normal, {"above": 0}),
        (normal, {"below": 2.3}),
        (normal, {"within": (0, 2.3)}),
        (normal, {"scale": "log", "above": 1}),
        (normal, {"scale": "log", "within": (1, np.exp(2.3))}),
        (normal, {"n": 24, "above": 0.5}),
        (skewed, {"above": -0.6}),
    ],
)
def test_the_chance_is_of_the_right_order(draw, options):
    """Never much below the true one; above it by what 10 % wider errors cost."""
    true = true_chance(draw, **options)
    assert 0.001 < true < 0.2
    assert 0.6 * true < chance_of(draw, **options) < 5 * true


def test_a_claim_six_errors_away_keeps_the_rule_and_one_four_away_does_not():
    def at(errors):
        return lambda rng, size: rng.normal(errors * 1.1 / np.sqrt(24), 1, size)

    assert chance_of(at(7), n=24, above=0) < margins.CHANCE
    assert chance_of(at(4), n=24, above=0) > 10 * margins.CHANCE


def test_heavy_tails_are_seen_by_resampling():
    """One seed in 40 gives a value far off, and every interval with it fails."""

    def draw(rng, size):
        return rng.normal(5, 0.5, size) - 60 * (rng.random(size) < 1 / 40)

    row = row_of(draw, sets=20, n=12, above=2)
    true = true_chance(draw, above=2)
    assert float(row["chance_resampled"]) == pytest.approx(true, rel=0.5)
    assert float(row["chance"]) >= float(row["chance_resampled"])


def test_scatter_between_sets_beyond_their_own_errors_counts():
    def shifted(rng, n):
        return rng.normal(1.5 + rng.normal(0, 0.6), 1, n)

    own, more = (
        row_of(lambda r, n: r.normal(1.5, 1, n), above=0),
        row_of(shifted, above=0),
    )
    assert float(more["ratio"]) > 1.5 > float(own["ratio"])
    assert float(more["chance_t"]) > 20 * float(own["chance_t"])


@pytest.mark.parametrize("n", [5, 12, 13, 24])
def test_medians_miss_a_bound_as_scipys_bootstrap_says(n):
    rng = np.random.default_rng(0)
    samples = rng.standard_t(2, (150, n)) + 0.8
    missed = margins.median_missed(samples, Bound("above", 0, np.inf))
    lows = [estimate(x, "bootstrap").low for x in samples]
    differ = missed != (np.array(lows) <= 0)
    assert differ.mean() < 0.04  # scipy's quantiles are themselves resampled
    assert margins.middle_pairs(n).sum() == pytest.approx(1)


def test_a_median_bears_what_a_mean_does_not():
    def draw(rng, size):
        return rng.normal(1, 0.3, size) - 30 * (rng.random(size) < 1 / 60)

    assert float(row_of(draw, scale="median", above=0)["chance_resampled"]) < 1e-3
    assert float(row_of(draw, scale="linear", above=0)["chance_resampled"]) > 0.1


def test_a_range_of_rounding_errors_is_measured_in_decades():
    def rounding(rng, n):
        return np.exp(rng.normal(np.log(1e-15), 1, n)) * (rng.random(n) > 0.2)

    assert row_of(rounding, scale="range", below=1e-10)["chance"] == "0"
    assert 0.01 < float(row_of(rounding, scale="range", below=2e-14)["chance"]) < 0.5


def test_a_range_fails_when_any_seed_does():
    def draw(rng, n):
        return rng.normal(0, 1, n)

    row = row_of(draw, scale="range", within=(-3, 3))
    assert 0.01 < float(row["chance_t"]) < 0.2  # 12 seeds: 3.2 %, 1.1 wider: 8 %
    assert float(row_of(draw, scale="range", within=(-9, 9))["chance"]) < 1e-6


def test_no_spread_holds_for_ever_or_never():
    def hundred(rng, n):
        return np.full(n, 100.0)

    assert row_of(hundred, within=(100, 100))["chance"] == "0"
    assert row_of(hundred, scale="range", within=(100, 100))["chance"] == "0"
    assert row_of(hundred, above=100)["chance"] == "1"
    assert row_of(hundred, scale="range", below=100)["chance"] == "1"


def test_a_row_says_what_it_comes_from():
    runs = runs_of(normal, sets=10, above=-20)
    again = Run("03_x", 0, "default", 1.0, runs[0].records)
    (row,), _ = margins.margins([runs[0], again, *runs[1:]])
    expected = {"chapter": "03_x", "statement": "so", "bound": "above", "at": "-20"}
    expected |= {"sets": "10", "other_cpu": "4", "runs": "11", "failed": "0", "n": "12"}
    assert {name: row[name] for name in expected} == expected
    assert list(row) == margins.COLUMNS


def test_the_rule(monkeypatch):
    monkeypatch.setattr(margins, "SETS", 10)
    monkeypatch.setattr(margins, "OTHER_CPU", 3)
    good = row_of(normal, sets=10, above=-20)
    assert margins.problems(good) == []
    (said,) = margins.problems(good | {"chance": "0.002"})
    assert said == "fails in a fresh run with a chance of 0.002"
    assert "9 seed sets of 10" in margins.problems(good | {"sets": "9"})[0]
    assert "another CPU kind" in margins.problems(good | {"other_cpu": "2"})[0]


def test_what_has_no_row_is_said():
    def refused(change):
        runs = runs_of(normal, sets=3, above=0)
        change(runs)
        rows, (line,) = margins.margins(runs)
        assert rows == []
        return line

    moved = refused(lambda runs: runs[1].records[0].update(above=1))
    assert moved == (
        "03_x: 'so' has another bound in some runs: it is chosen before looking"
    )
    assert "claimed in 2 of 3 runs" in refused(lambda runs: runs[1].records.clear())
    bare = refused(lambda runs: runs[1].records[0].update(values=[]))
    assert "has no value per seed" in bare


def test_differences_between_the_claims_and_the_table():
    claims = [record([1.0, 2, 4], above=0) | {"chapter": "03_x"}]
    rows = [margin("03_x", "so", [(Run("03_x", 1, "native", 1, claims), claims[0])])]
    assert margins.differences(claims, rows) == []
    (new,) = margins.differences(claims, [])
    assert new.endswith(
        "'so' has no row in tests/margins.csv: run make reseed CHAPTERS=\"03\""
    )
    (moved,) = margins.differences([claims[0] | {"above": -1}], rows)
    assert "is now above -1, linear over 3 seeds" in moved and "make reseed" in moved
    (stale,) = margins.differences([], rows)
    assert "a row for 'so', which nobody claims" in stale and "make reseed" in stale


def test_intervals_that_hold_the_mean_of_the_other_sets():
    runs = runs_of(normal, sets=400, above=0)
    held, of, expected = margins.coverage(runs)
    assert of == 400
    assert held / of == pytest.approx(expected, abs=0.03)
    assert expected == pytest.approx(0.95, abs=0.001)
