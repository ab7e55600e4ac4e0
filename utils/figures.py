"""Figures that look alike: bands over seeds, labels at the curves' ends."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from IPython import get_ipython
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib_inline.backend_inline import set_matplotlib_formats
from numpy.typing import ArrayLike
from scipy.optimize import isotonic_regression

from utils.statistics import Estimate, estimate

# Okabe and Ito's colour-blind-safe colours, each with a marker and a dash
BN, NONE, THIRD, CONTEXT = "#0072B2", "#D55E00", "#009E73", "#595959"
SHAPES = {BN: ("o", "-"), NONE: ("s", "--"), THIRD: ("^", "-."), CONTEXT: ("D", ":")}


def use_style() -> None:
    """Use the course's style; in notebooks, draw figures as SVG."""
    plt.style.use(Path(__file__).with_name("course.mplstyle"))
    if get_ipython() is not None:
        set_matplotlib_formats("svg")


def band(ax: Axes, x: ArrayLike, values: ArrayLike, label: str, color: str) -> None:
    """Draw the mean over seeds and its 95 % interval.

    x: (points,). values: (points, seeds). Where a run has diverged (nan)
    the curve has a gap: say so in the text. The label goes to the curve's
    right end once `end_labels` is called.
    """
    x, values = np.asarray(x, dtype=float), np.asarray(values, dtype=float)
    if values.ndim != 2 or len(values) != len(x):
        raise ValueError(
            f"expected values (points, seeds) for {len(x)} points, got {values.shape}"
        )
    rows = np.full((len(x), 3), np.nan)  # mean, low, high
    for row, at_point in zip(rows, values, strict=True):
        if np.isfinite(at_point).all():
            e = estimate(at_point)
            row[:] = e.value, e.low, e.high
    marker, dash = SHAPES[color]
    every = max(1, len(x) // 12)
    ax.fill_between(x, rows[:, 1], rows[:, 2], color=color, alpha=0.2, linewidth=0)
    ax.plot(
        x, rows[:, 0], dash, color=color, marker=marker, markevery=every, label=label
    )


def interval(
    ax: Axes,
    position: float,
    values: ArrayLike | Estimate,
    color: str,
    vertical: bool = False,
    label: str | None = None,
) -> None:
    """Draw an estimate as a dot on its interval.

    values: one per seed, (seeds,), or the Estimate. The interval lies at
    height `position`; a vertical one stands at x = `position`. The label is
    written at its upper end.
    """
    e = values if isinstance(values, Estimate) else estimate(values)
    dot, ends = ([e.value], [position]), ([e.low, e.high], [position] * 2)
    if vertical:
        dot, ends = dot[::-1], ends[::-1]
    ax.plot(*ends, color=color, solid_capstyle="butt", label="_interval")
    ax.plot(*dot, SHAPES[color][0], color=color, label="_estimate")
    if label is not None:
        ax.annotate(
            label,
            (ends[0][1], ends[1][1]),
            xytext=(0, 5) if vertical else (8, 0),
            textcoords="offset points",
            ha="center" if vertical else "left",
            va="bottom" if vertical else "center",
            color=color,
            fontweight="bold",
        )


def end_labels(ax: Axes, gap: float = 0.1) -> None:
    """Write each curve's label beside its last finite point.

    gap: the least distance between two labels, as a share of the height; where
    curves end nearer to each other, the labels move as little as that takes.
    Call it last: it needs the final limits of the axes.
    """
    ends = []
    for line in ax.get_lines():
        points = np.column_stack(line.get_data()).astype(float)
        points = points[np.isfinite(points).all(axis=1)]
        if len(points) and not line.get_label().startswith("_"):
            display = ax.transData.transform(points[-1])
            ends.append((ax.transAxes.inverted().transform(display)[1], line, points))
    if not ends:
        return
    ends.sort(key=lambda end: end[0])
    steps = gap * np.arange(len(ends))
    # Apart means: less the steps, no label is lower than the one before it.
    lowest = isotonic_regression([height for height, _, _ in ends] - steps).x
    # Not on the lower axis, nor in the title.
    heights = np.clip(lowest, 0.05, 0.95 - steps[-1]) + steps
    for height, (_, line, points) in zip(heights, ends, strict=True):
        ax.annotate(
            line.get_label(),
            (points[-1, 0], height),
            xycoords=("data", "axes fraction"),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            color=line.get_color(),
            fontweight="bold",
        )


def title(fig: Figure, finding: str) -> None:
    """Say the figure's finding above its panels."""
    fig.suptitle(finding, x=0.01, ha="left", fontsize=11.5, fontweight="bold")


def caption(fig: Figure, n: int, what: str = "mean and 95 % interval") -> None:
    """Say below the figure what the bands are and over how many seeds."""
    fig.supxlabel(
        f"{what}, n = {n} seeds", fontsize=9.5, color=CONTEXT, ha="right", x=1
    )


def batch_axis(ax: Axes, sizes: ArrayLike, label: str = "mini-batch size") -> None:
    """A logarithmic axis with a tick at each batch size."""
    ax.set_xscale("log", base=2)
    ax.set_xticks(list(sizes), [str(size) for size in sizes])
    ax.minorticks_off()
    ax.set_xlabel(label)
