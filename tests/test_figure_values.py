"""A figure's alternative text ends with what the run measured beside it.

The last test reads the built book.
"""

import html
import re

import nbformat
import pytest

import figure_values
from tests.browser import HTML
from utils import claims
from utils.cards import card
from utils.outcomes import Outcome
from utils.statistics import Estimate

CHAPTERS = sorted((HTML.parents[1] / "chapters").glob("*.ipynb"))
DRAWN = "Two curves, one above the other."
FIGURE = object()


def printed(sentence, value, low, high, unit="points"):
    """A claim's card as plain text, as the engine writes it."""
    e = Estimate(value, low, high, 12, unit)
    sentence = claims._fill(sentence, e, missing=": {:v}")
    outcome = Outcome("claim", "", sentence, e, 0, None, None, "", True)
    return card(outcome)[1]


def said(*section):
    measured = figure_values.values(section)
    return [figure_values.complete(DRAWN, m) for m in measured]


LEAD = printed("BN leads by {:v}", 25, 19, 31)


@pytest.mark.parametrize(
    "text, spoken",
    [
        (LEAD, "BN leads by 25 points (from 19 to 31)"),
        (
            printed("BN loses {:a} to it", -5, -7, -3),
            "BN loses 5 points (from 3 to 7) to it",
        ),
        (
            printed("`eval()`, 5 layers", -5, -7, -3),
            "eval(), 5 layers: minus 5 points (from minus 7 to minus 3)",
        ),
        (
            printed("3 times the weights: {:v}", 3, 2, 4, unit="times"),
            "3 times the weights: 3.0 times (from 2.0 to 4.0)",
        ),
        (
            printed("its share is {:v}", 0.25, 0.2, 0.3, unit=""),
            "its share is 0.25 (from",
        ),
        (
            "**In short:** BN gets 12 % [9, 14]. So *there*.",
            "BN gets 12 % (from 9 to 14).",
        ),
    ],
)
def test_a_value_reads_well(text, spoken):
    (alt,) = said(FIGURE, text)
    assert alt.startswith(f"{DRAWN} Measured: {spoken}"), alt
    assert alt.endswith(".") and not set(alt) & set("[]`*−")


def test_a_figure_gets_the_claims_up_to_the_next_one():
    other = printed("GN leads by {:v}", 2, 1, 3)
    first, second = said(LEAD, FIGURE, other, FIGURE, LEAD)
    assert "BN leads" in first and "GN leads" in first
    assert "BN leads" in second and "GN leads" not in second


def test_a_figure_without_a_claim_of_its_own_gets_its_neighbour_s():
    assert all("BN leads" in alt for alt in said(FIGURE, FIGURE, LEAD))
    assert all("BN leads" in alt for alt in said(FIGURE, LEAD, FIGURE))


def test_where_nothing_was_measured_nothing_is_added():
    assert said(FIGURE) == said(FIGURE, "| a | 5 % |", "<Figure>") == [DRAWN]


def test_it_is_short():
    long = "; ".join(f"net {i} gets {i} % [{i}, {i}] of them right" for i in range(99))
    table = "A heading of the table: that is long\n" + printed("x" * 150, 3, 2, 4)
    for texts in ([LEAD] * 40, [long], [table]):
        (measured,) = figure_values.values([FIGURE, *texts])
        alt = figure_values.complete(DRAWN.ljust(200), measured)
        assert re.search(r"Measured: .*\d", alt)
        assert 200 < len(alt) <= figure_values.LONGEST


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_every_figure_beside_claims_says_what_was_measured(path):
    """In both themes; the number is one that the page shows, so of this run."""
    page = (HTML / "chapters" / path.name).with_suffix(".html").read_text("utf8")
    body = page.partition("<article")[2]
    cells = nbformat.read(path, as_version=4).cells
    written = [
        c.metadata.mystnb.image.alt
        for c in cells
        if "image" in c.get("metadata", {}).get("mystnb", {})
    ]
    found = {}
    for section in re.split(r"<h2", body):
        tags = re.findall(r'<img class="for-\w+"[^>]* alt="([^"]*)"', section)
        alts = [html.unescape(alt) for alt in tags]
        text = html.unescape(re.sub(r"<[^>]*>", "", section))
        for alt in alts:
            shape, _, measured = alt.partition(" Measured: ")
            found[shape] = found.get(shape, 0) + 1
            assert len(alt) <= figure_values.LONGEST, alt
            numbers = re.findall(r"\d[\d.]*\d|\d", measured)
            assert numbers or "Claimed: " not in text, alt
            assert all(number in text for number in numbers), alt
    assert found == dict.fromkeys(written, 2)
