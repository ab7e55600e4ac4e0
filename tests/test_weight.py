"""A page weighs little, asks for few files, and nothing in it jumps."""

import gzip
import re
import sys

import pytest

from tests.browser import HTML
from tests.test_book import PAGES, every_page

sys.path.insert(0, str(HTML.parents[1] / "tools"))
from math_font import CHARACTERS  # noqa: E402

KB = {"index.html": 120}  # at most, on a first visit; other pages:
MOST_KB = 250
MOST_REQUESTS = 12
SIZES = [(1280, 800), (390, 844)]
MOST_SHIFT = 0.02
# What moved after it had been drawn, as Chromium scores it.
SHIFT = """() => new Promise(done => {
    let sum = 0;
    new PerformanceObserver(list => list.getEntries().forEach(entry => {
        if (!entry.hadRecentInput) sum += entry.value;
    })).observe({type: "layout-shift", buffered: true});
    setTimeout(() => done(sum), 300);
})"""


def kilobytes(url, address):
    """Return the size of a file as a server would send it."""
    data = (HTML / url.removeprefix(address).partition("?")[0]).read_bytes()
    packed = url.endswith((".woff2", ".png", ".ipynb"))
    return len(data if packed else gzip.compress(data, 6)) / 1024


@every_page
def test_is_light(address, browser, name):
    for width, height in SIZES:
        page = browser.new_page(viewport={"width": width, "height": height})
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address + name, wait_until="networkidle")
        page.close()
        files = [url for url in dict.fromkeys(asked) if url.startswith("http")]
        sizes = {url: kilobytes(url, address) for url in files}
        report = [f"{size:.0f} KB {url}" for url, size in sizes.items()]
        assert sum(sizes.values()) <= KB.get(name, MOST_KB), "\n".join(report)
        assert len(files) <= MOST_REQUESTS, "\n".join(report)


@every_page
def test_nothing_waits_for_a_script(name):
    head = (HTML / name).read_text(encoding="utf8").partition("</head>")[0]
    for tag in re.findall(r"<script[^>]*\bsrc=[^>]*>", head):
        assert " defer" in tag or " async" in tag, tag
    assert len(re.findall(r'<link[^>]*rel="stylesheet"', head)) == 1


def last_heading(name):
    """Return the anchor of a page's last section, of those with an id."""
    html = (HTML / name).read_text(encoding="utf8")
    return re.findall(r'<section id="([^"]+)"', html)[-1:]


@every_page
def test_nothing_jumps(address, browser, name):
    """Neither at a page's top nor at its end, where a link may lead."""
    places = ["", *(f"#{anchor}" for anchor in last_heading(name))]
    for width, height in SIZES:
        for place in places:
            page = browser.new_page(viewport={"width": width, "height": height})
            page.goto(address + name + place, wait_until="load")
            shift = page.evaluate(SHIFT)
            page.close()
            assert shift <= MOST_SHIFT, f"{place or 'top'} at {width} px"


def test_every_sign_of_a_formula_is_in_the_font():
    """A sign that is not comes from another font; tools/math_font.py adds it."""
    missing = {}
    for name in PAGES:
        html = (HTML / name).read_text(encoding="utf8")
        for formula in re.findall(r"<math.*?</math>", html, flags=re.S):
            text = re.sub(r"<[^>]*>|&\w+;", "", formula)
            for sign in set(text):
                if ord(sign) not in CHARACTERS and not sign.isspace():
                    missing.setdefault(sign, name)
    # What Latin Modern Math itself lacks.
    assert missing.keys() <= {"¾", "½", "\u2061"}, missing


@pytest.mark.parametrize("name", ["chapters/02_mechanics.html"])
def test_formulas_are_drawn_in_that_font(address, browser, name):
    page = browser.new_page()
    page.goto(address + name, wait_until="networkidle")
    fonts = page.evaluate(
        "() => [...document.fonts].filter(f => f.status === 'loaded').map(f => f.family)"
    )
    page.close()
    assert fonts == ["CourseMath"]
