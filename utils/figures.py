"""Figures that look alike: bands over seeds, labels at the curves' ends."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from IPython import get_ipython
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib_inline.backend_inline import set_matplotlib_formats
from numpy.typing import ArrayLike

from utils.statistics import estimate

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


def end_labels(ax: Axes, gap: float = 0.09) -> None:
    """Write each curve's label beside its last finite point.

    gap: the least distance between two labels, as a share of the height.
    """
    ends = []
    for line in ax.get_lines():
        x, y = (np.asarray(data, dtype=float) for data in line.get_data())
        finite = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
        if len(finite) and not line.get_label().startswith("_"):
            last = finite[-1]
            place = ax.transAxes.inverted().transform(
                ax.transData.transform((x[last], y[last]))
            )
            ends.append([place[1], x[last], line])
    ends.sort(key=lambda end: end[0])
    for lower, upper in zip(ends, ends[1:], strict=False):
        upper[0] = max(upper[0], lower[0] + gap)
    for height, x_last, line in ends:
        ax.annotate(
            line.get_label(),
            (x_last, height),
            xycoords=("data", "axes fraction"),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            color=line.get_color(),
            fontweight="bold",
        )


def caption(fig: Figure, n: int, what: str = "mean and 95 % interval") -> None:
    """Say below the figure what the bands are and over how many seeds."""
    fig.supxlabel(f"{what}, n = {n} seeds", fontsize=9, color=CONTEXT, ha="right", x=1)


def batch_axis(ax: Axes, sizes: ArrayLike, label: str = "mini-batch size") -> None:
    """A logarithmic axis with a tick at each batch size."""
    ax.set_xscale("log", base=2)
    ax.set_xticks(list(sizes), [str(size) for size in sizes])
    ax.minorticks_off()
    ax.set_xlabel(label)
