"""Nothing in a page blocks, jumps or is too small; its weight: test_book.py."""

import re
import sys
import time

import pytest

from tests.browser import HTML
from tests.test_book import MOST_SHIFT, PAGES, SHIFT, every_page
from tools.math_font import CHARACTERS

sys.path.insert(0, str(HTML.parents[1] / "theme"))
import figures  # noqa: E402


@every_page
def test_nothing_waits_for_a_script(name):
    head = (HTML / name).read_text(encoding="utf8").partition("</head>")[0]
    for tag in re.findall(r"<script[^>]*\bsrc=[^>]*>", head):
        assert " defer" in tag or " async" in tag, tag
    assert len(re.findall(r'<link[^>]*rel="stylesheet"', head)) == 1


@pytest.mark.parametrize("width, height", [(1280, 800), (390, 844)])
@pytest.mark.parametrize(
    "name", ["chapters/01_internal_covariate_shift.html", "chapters/symptoms.html"]
)
@pytest.mark.parametrize("late", ["", "**/*.js*", "**/*.woff2"])
def test_nothing_jumps_where_a_link_leads(address, browser, name, width, height, late):
    """Nor when the scripts or the font of formulas come late, as on a slow phone."""
    html = (HTML / name).read_text(encoding="utf8")
    anchor = re.findall(r'<section[^>]* id="([^"]+)"', html)[-2]
    page = browser.new_page(viewport={"width": width, "height": height})
    if late:
        page.route(late, lambda route: (time.sleep(1), route.continue_()))
    page.goto(f"{address}{name}#{anchor}", wait_until="load")
    shift, top = page.evaluate(SHIFT), page.evaluate("scrollY")
    page.close()
    assert top > height  # it did lead there
    assert shift <= MOST_SHIFT


@pytest.mark.parametrize("width", [390, 768, 1280])
@pytest.mark.parametrize("name", ["chapters/notation.html", "chapters/self_test.html"])
def test_nothing_jumps_on_pages_that_begin_with_formulas(address, browser, name, width):
    """Where the font of formulas, the scripts and the pictures come after the text."""
    page = browser.new_page(viewport={"width": width, "height": 844})
    for late in ("**/*.js*", "**/*.woff2", "**/*.svg"):
        page.route(late, lambda route: (time.sleep(0.5), route.continue_()))
    page.goto(f"{address}{name}", wait_until="load")
    shift = page.evaluate(SHIFT)
    page.close()
    assert shift <= MOST_SHIFT / 2


def test_every_sign_of_a_formula_is_in_the_font():
    """A sign that is not comes from another font; tools/math_font.py adds it."""
    missing = {}
    for name in PAGES:
        html = (HTML / name).read_text(encoding="utf8")
        for formula in re.findall(r"<math.*?</math>", html, flags=re.S):
            for sign in set(re.sub(r"<[^>]*>|&\w+;", "", formula)):
                if ord(sign) not in CHARACTERS and sign not in " \n":
                    missing.setdefault(sign, name)
    # What Latin Modern Math itself lacks; the second is invisible.
    assert missing.keys() <= {"¾", "\u2061"}, missing


@pytest.mark.parametrize("served", [True, False])
def test_formulas_are_drawn_in_that_font(address, browser, served):
    """On the second visit at the latest, where the first one has to hurry."""
    page = browser.new_page()
    page.goto(f"{address if served else HTML.as_uri() + '/'}chapters/02_mechanics.html")
    page.reload(wait_until="networkidle")
    fonts = page.evaluate(
        "() => [...document.fonts].filter(font => font.status === 'loaded')"
        ".map(font => font.family)"
    )
    page.close()
    assert fonts == ["CourseMathInTime" if served else "CourseMath"]


def test_every_figure_of_the_book_is_readable():
    """On its background, and at the least width that its page allows."""
    seen = set()
    for page in HTML.glob("chapters/*.html"):
        tags = re.findall(r'<img class="for-[^>]*>', page.read_text(encoding="utf8"))
        for tag in tags:
            file = re.search(r'src="([^"]+)"', tag)[1]
            svg = (page.parent / file).read_text(encoding="utf8")
            background = figures.DARK if "for-dark" in tag else figures.WHITE
            for color, _, _ in figures.TEXT.findall(svg):
                assert figures.contrast(color, background) >= figures.READABLE, file
            width = float(re.search(r'width="([\d.]+)pt"', svg)[1])
            least = float(re.search(r"min-width: (\d+)px", tag)[1])
            scales = re.findall(r"scale\((0\.\d+) -0", svg)
            smallest = min(100 * float(scale) for scale in scales)
            assert smallest * least / width >= figures.LEAST, file
            seen.add(file)
    assert len(seen) > 100
