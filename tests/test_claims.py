"""A claim that does not hold stops the notebook; one that does is printed."""

import json

import matplotlib.pyplot as plt
import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from utils.claims import ClaimError, claim
from utils.statistics import Estimate

E = Estimate(5.0, 4.0, 6.0, 12, "%")


@pytest.mark.parametrize(
    "bound",
    [
        {"above": 3.9},
        {"above": 0},
        {"below": 6.1},
        {"within": (4, 6)},
        {"within": (-10, 10)},
    ],
)
def test_holds(bound, capsys):
    claim("it is so", E, **bound)
    out = capsys.readouterr().out
    assert "Holds: it is so" in out
    assert "5.0 % [4.0, 6.0], 95 % interval over 12 seeds" in out


@pytest.mark.parametrize(
    "bound",
    [
        {"above": 4},  # the interval's end must clear the bound
        {"above": 4.5},  # the mean alone is not enough
        {"above": 7},
        {"below": 6},
        {"below": 5.5},
        {"within": (4.5, 10)},
        {"within": (0, 5.9)},
    ],
)
def test_fails(bound, capsys):
    with pytest.raises(ClaimError, match="does not hold: it is so.*5.0 %"):
        claim("it is so", E, **bound)
    assert "Holds" not in capsys.readouterr().out


def test_needs_exactly_one_bound():
    for bounds in ({}, {"above": 1, "below": 9}):
        with pytest.raises(ValueError, match="exactly one"):
            claim("it is so", E, **bounds)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"within needs \(low, high\)"):
        claim("it is so", E, within=(6, 4))
    with pytest.raises(ValueError, match="expected an Estimate, got 5.0"):
        claim("it is so", 5.0, above=4)


def test_infinity_never_holds():
    with pytest.raises(ClaimError):
        claim("it is so", Estimate(9.0, 8.0, float("inf"), 12), above=4)


def test_an_estimate_that_is_not_a_number_never_holds():
    nothing = Estimate(*[float("nan")] * 3, 12)
    for bound in ({"above": -1e9}, {"below": 1e9}, {"within": (-1e9, 1e9)}):
        with pytest.raises(ClaimError):
            claim("it is so", nothing, **bound)


def execute(source):
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    return NotebookClient(nb).execute().cells[0].outputs


CLAIM = """
from utils.claims import claim
from utils.statistics import Estimate
claim("so", Estimate(5.0, 4.0, 6.0, 12, "%"), above={above}, key="five")
"""


def test_a_reversed_claim_stops_a_notebook():
    with pytest.raises(CellExecutionError, match="does not hold: so"):
        execute(CLAIM.format(above=7))


def test_the_key_carries_the_estimate_and_shows_nothing():
    printed, mark = execute(CLAIM.format(above=3))
    assert "Holds: so" in printed.text
    assert mark.metadata["scrapbook"]["name"] == "five"
    assert list(mark.data) == ["application/papermill.record/text/plain"]
    (quoted,) = mark.data.values()
    assert json.loads(quoted.replace("'", '"')) == "5.0 % [4.0, 6.0]"


def test_a_figure_is_published_as_svg():
    (shown,) = execute(
        "import matplotlib.pyplot as plt\n"
        "from utils import start\n"
        "from utils.claims import publish\n"
        "start()\n"
        "fig, ax = plt.subplots()\n"
        "publish('picture', fig)\n"
        "plt.close(fig)"
    )
    assert shown.metadata["scrapbook"]["name"] == "picture"
    assert "image/svg+xml" in shown.data
    plt.close("all")
