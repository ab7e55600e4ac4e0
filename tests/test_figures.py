"""Figures: bands are the intervals, gaps are shown, labels do not collide."""

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest

from utils import figures
from utils.statistics import estimate


@pytest.fixture
def ax():
    figures.use_style()
    fig, ax = plt.subplots()
    yield ax
    plt.close(fig)


def test_the_band_is_the_interval(ax):
    values = np.random.default_rng(0).normal(size=(3, 12))
    figures.band(ax, [1, 2, 3], values, "BN", figures.BN)
    (line,) = ax.get_lines()
    np.testing.assert_allclose(line.get_ydata(), values.mean(1))
    corners = ax.collections[0].get_paths()[0].vertices
    for x, row in zip([1, 2, 3], values):
        at_x = corners[corners[:, 0] == x, 1]
        e = estimate(row)
        np.testing.assert_allclose([at_x.min(), at_x.max()], [e.low, e.high])


def test_a_diverged_run_leaves_a_gap_in_the_curve(ax):
    values = np.ones((3, 12))
    values[1, 4] = np.nan
    figures.band(ax, [1, 2, 3], values, "BN", figures.BN)
    (line,) = ax.get_lines()
    np.testing.assert_array_equal(np.isnan(line.get_ydata()), [False, True, False])


def test_a_single_run_is_no_band(ax):
    with pytest.raises(ValueError, match="expected values"):
        figures.band(ax, [1, 2, 3], np.ones(3), "BN", figures.BN)
    with pytest.raises(ValueError, match="two or more"):
        figures.band(ax, [1, 2, 3], np.ones((3, 1)), "BN", figures.BN)


def test_labels_keep_their_distance(ax):
    for height, color in [
        (1.0, figures.BN),
        (1.01, figures.NONE),
        (0.99, figures.THIRD),
    ]:
        values = np.full((2, 12), height)
        figures.band(ax, [1, 2], values, str(height), color)
    ax.set_ylim(0, 2)
    figures.end_labels(ax, gap=0.1)
    heights = sorted(text.xy[1] for text in ax.texts)
    assert len(heights) == 3
    np.testing.assert_allclose(heights, [0.4, 0.5, 0.6])  # around their curves
    assert [t.get_text() for t in sorted(ax.texts, key=lambda t: t.xy[1])] == [
        "0.99",
        "1.0",
        "1.01",
    ]


@pytest.mark.parametrize("at, labels", [(1.99, [0.85, 0.95]), (0.01, [0.05, 0.15])])
def test_labels_stay_off_axis_and_title(ax, at, labels):
    for color in (figures.BN, figures.NONE):
        figures.band(ax, [1, 2], np.full((2, 12), at), "curve", color)
    ax.set_ylim(0, 2)
    figures.end_labels(ax, gap=0.1)
    np.testing.assert_allclose(sorted(t.xy[1] for t in ax.texts), labels)


@pytest.mark.parametrize("vertical", [False, True])
def test_a_dot_on_its_interval(ax, vertical):
    values = np.random.default_rng(0).normal(size=12)
    e = estimate(values)
    figures.interval(ax, 3, values, figures.NONE, vertical, label="none")
    figures.interval(ax, 4, e, figures.BN, vertical)
    line, dot, line_2, dot_2 = ax.get_lines()
    for interval, point, position in ((line, dot, 3), (line_2, dot_2, 4)):
        along, across = (1, 0) if vertical else (0, 1)
        np.testing.assert_allclose(interval.get_data()[along], [e.low, e.high])
        np.testing.assert_allclose(interval.get_data()[across], [position] * 2)
        np.testing.assert_allclose(point.get_data()[along], [e.value])
    assert (dot.get_marker(), dot_2.get_marker()) == ("s", "o")
    (text,) = ax.texts
    assert text.get_text() == "none" and text.get_color() == figures.NONE
    figures.end_labels(ax)  # leaves them alone
    assert len(ax.texts) == 1


def test_a_diverged_run_has_no_interval(ax):
    with pytest.raises(ValueError, match="not finite"):
        figures.interval(ax, 0, [1.0, np.nan], figures.BN)


def test_never_colour_alone():
    shapes = list(figures.SHAPES.values())
    assert len({marker for marker, _ in shapes}) == len(shapes)
    assert len({dash for _, dash in shapes}) == len(shapes)
