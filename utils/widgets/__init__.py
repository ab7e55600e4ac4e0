"""Figures that a reader moves: by mouse, finger or keyboard.

Each is plain HTML with its style and script in it, so that it works without
a kernel and without a network, in the book, in JupyterLab and in Colab.
What all share is in figure.js and figure.css; a figure's own file has its
arithmetic first, as functions that tests/test_widgets.py compares with torch.
"""

import json
import re
from functools import cache
from html import escape
from pathlib import Path

HERE = Path(__file__).parent
OPERATOR = r"=>|={1,3}|!==|<=?|>=?|[-+*/?:]|&&|\|\||\?\?"


class Figure:
    """A figure that a reader moves; a notebook shows it when it ends a cell."""

    def __init__(self, name: str, shows: str):
        self.name = name
        self.without = f"Where JavaScript runs, this is a figure to move: {shows}"

    def __repr__(self) -> str:
        return self.without

    def _repr_html_(self) -> str:
        return (
            f'<div data-bn="{self.name}" data-lm-suppress-shortcuts="true">'
            f"{escape(self.without)}</div>\n"
            f"<script>(() => {{\n{script(self.name)}}})();</script>"
        )


def batch_on_a_line() -> Figure:
    """A batch of 1 to 32 values, and what batch norm makes of each."""
    return Figure(
        "line",
        "a batch of 1 to 32 values on a line, what batch norm makes of each, and "
        "how one image's output changes with the others in its batch.",
    )


def memory_that_lags() -> Figure:
    """The stored mean after each update, and eval's answer for one image."""
    return Figure(
        "memory",
        "the means of 200 batches, the stored mean that follows them with the "
        "momentum that you choose, and one image's output in eval mode.",
    )


def direction_without_length() -> Figure:
    """Two weights in front of batch norm, and the steps that turn them."""
    return Figure(
        "direction",
        "two weights in front of batch norm as an arrow, the loss in each "
        "direction, and the angle by which each step turns the arrow.",
    )


def who_is_averaged() -> Figure:
    """The cells of a batch of images, and which share a mean and a variance."""
    return Figure(
        "sets",
        "a batch of small images cell by cell. Choose a cell and a norm, and the "
        "cells light up that share a mean and a variance with it.",
    )


@cache
def script(name: str) -> str:
    """The script of a figure, without what only its writers need."""
    style = json.dumps(dense("figure.css").replace("\n", ""))
    return dense("figure.js").replace("STYLE", style) + dense(f"{name}.js")


def dense(file: str) -> str:
    """The text of a file without indentation, remarks and spare spaces."""
    text = (HERE / file).read_text(encoding="utf-8")
    text = re.sub(
        r"^\s*(//.*\n|/\*.*\*/\n)*|(?<=;) *// .*", "", text, flags=re.MULTILINE
    )
    if file.endswith(".css"):
        return re.sub(r" (?=\{)|(?<=[{;:]) ", "", text)
    # No figure's text has an operator between spaces, so those are code.
    return re.sub(rf"(?<=[\w)\]}}\"`]) ({OPERATOR}) (?=[\w(\[{{\"`!$])", r"\1", text)
