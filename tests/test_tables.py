"""Tables: one row a line, whatever the cells hold."""

import numpy as np
import pytest

from utils.statistics import Estimate
from utils.tables import table

E = Estimate(-39.0, -43.0, -35.0, 12, "points")


def test_numbers_and_estimates_stand_right():
    shown = table(["net", "steps", "loss"], [["BN", 1024, E], ["none", -2, 0.12345]])
    assert shown.data.split("\n") == [
        "| net | steps | loss |",
        "| :--- | ---: | ---: |",
        "| BN | 1024 | −39 points [−43, −35] |",
        "| none | −2 | 0.123 |",
    ]
    assert repr(shown) == shown._repr_markdown_() == shown.data


def test_numbers_that_are_written_out_stand_right_too():
    shown = table(["n", "error", "range"], [["07", "24.0", "1 to 2"], ["08", 23.7, 3]])
    assert shown.data.split("\n")[1] == "| ---: | ---: | :--- |"


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        ("a|b", r"a\|b"),
        (r"a\|b", r"a\|b"),
        ("two\nlines", "two lines"),
        ("-", "-"),
        (12345.678, "12346"),
        (np.float32(0.5), "0.5"),
        (np.int64(7), "7"),
        (float("nan"), "nan"),
        (float("-inf"), "−inf"),
    ],
)
def test_a_cell(cell, text):
    assert table(["x"], [[cell]]).data.split("\n")[2] == f"| {text} |"


def test_the_caption_stands_above():
    assert table(["x"], [[1]], "What it shows.").data.startswith("What it shows.\n\n|")


def test_a_short_row_is_refused():
    with pytest.raises(ValueError, match="2 columns, but a row has 1"):
        table(["a", "b"], [["x"]])
