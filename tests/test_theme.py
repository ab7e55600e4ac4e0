"""What the book's extension does to style sheets, figures and formulas."""

import re
import sys

import pytest
from docutils import nodes

from tests.browser import HTML

sys.path.insert(0, str(HTML.parents[1] / "theme"))
import figures  # noqa: E402
import mathematics  # noqa: E402
import reading  # noqa: E402
import weight  # noqa: E402

PALETTE = ["#0072b2", "#d55e00", "#009e73", "#595959", "#262626", "#404040", "#000000"]


@pytest.mark.parametrize("color", PALETTE)
def test_a_color_keeps_its_contrast_in_the_dark(color):
    wanted = figures.contrast(color, figures.WHITE)
    dark = figures.with_contrast(color, figures.DARK, min(wanted, 18))
    found = figures.contrast(dark, figures.DARK)
    assert found == pytest.approx(min(wanted, 18), rel=0.05)


def test_contrast_is_that_of_wcag():
    assert figures.contrast("#000000", "#ffffff") == pytest.approx(21)
    assert figures.contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("background", [figures.WHITE, figures.DARK])
@pytest.mark.parametrize("color", PALETTE)
def test_letters_are_readable(color, background):
    group = f'<g style="fill: {color}" transform="translate(1 2) scale(0.1 -0.1)">'
    found = re.search("#[0-9A-Fa-f]{6}", figures.recolor(group, background))[0]
    assert figures.contrast(found, background) >= figures.READABLE


def test_letters_without_a_color_are_black_and_get_one():
    group = '<g transform="translate(1 2) scale(0.1 -0.1)">'
    found = re.search("#[0-9A-Fa-f]{6}", figures.recolor(group, figures.DARK))
    assert figures.contrast(found[0], figures.DARK) > 15


@pytest.mark.parametrize(
    "selector, used",
    [
        (".a", True),
        (".b", False),
        (".a .b", False),
        (".a:not(.b)", True),
        ("div.a > p", True),
        ("table.a", False),
        ("[data-x] p", True),
        ("[data-y] p", False),
        ("#top", True),
        ("#bottom", False),
        ("html[data-x=dark] .a", True),
        (".a:is(.b, .c)::before", True),
    ],
)
def test_a_rule_stays_if_something_in_the_book_may_match(selector, used):
    page = '<html data-x="dark"><div id="top" class="a c"><p title="b">b</p></div>'
    words = weight.words_of_page(page)
    assert weight.is_used(selector, words) == used
    assert bool(weight.purge(selector + "{color:red}", words)) == used


def test_what_a_rule_reads_stays():
    sheet = """:root{--used:1px;--inner:2px;--outer:var(--inner);--gone:3px}
    p{margin:var(--used);padding:var(--outer)}
    @media print{p{color:red}.gone{color:blue}}
    p{> b{color:green}}"""
    kept = weight.purge(sheet, {"p", "b"})
    assert "--used" in kept and "--inner" in kept and "--gone" not in kept
    assert "@media print{p{color:red}}" in kept
    assert "> b{color:green}" in kept


def test_formulas():
    assert mathematics.mathml(r"\hat x_i", False).startswith("<math><msub>")
    shown = mathematics.mathml(r"\begin{aligned}a&=b\\[4pt]c&=d\end{aligned}", True)
    assert shown.count("<mtr>") == 2 and "4" not in shown.replace("0.4", "")
    assert "<code>" in mathematics.mathml(r"\frac{1", False)


@pytest.mark.parametrize(
    "text, parts",
    [
        (
            "loses 15.0 % [13.1, 16.9] there",
            ["loses", "15.0_%", "[13.1,_16.9]", "there"],
        ),
        ("the digits: > 3, −3 to 3", ["the", "digits:", ">_3,", "−3", "to", "3"]),
        ("at 3.8e-07 it ends", ["at", "3.8e-|07", "it", "ends"]),
        ("a - b, 3 of 4, n = 5", ["a", "-", "b,", "3", "of", "4,", "n", "=", "5"]),
    ],
)
def test_no_line_breaks_inside_a_number(text, parts):
    paragraph, code = nodes.paragraph("", text), nodes.literal("", text)
    reading.keep_numbers_whole(nodes.section("", paragraph, code))
    shown = paragraph.astext().replace("\u00a0", "_").replace("\u2060", "|")
    assert shown.split(" ") == parts
    assert code.astext() == text
