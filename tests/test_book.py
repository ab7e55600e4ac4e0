"""The built book, seen page by page in a browser without a network.

Each page is opened twice, in the light theme on a desktop and in the dark one
on a phone, and then made narrow and wide. Every test then reads what was seen
(`Visit`); none opens a page again.
"""

import gzip
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from axe_playwright_python.sync_playwright import Axe

from tests.browser import HTML

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    path.relative_to(HTML).as_posix()
    for path in HTML.rglob("*.html")
    if "_static" not in path.parts  # the theme's templates
)
SIZES = {"light": (1280, 800), "dark": (390, 844)}
WIDTHS = (320, 768, 1280)
# What the theme or the width may change; the rest of axe's rules run once.
CHANGING = ["color-contrast", "scrollable-region-focusable", "target-size"]

KB = {"index.html": 120}  # at most, on a first visit; other pages:
MOST_KB = 250
MOST_REQUESTS = 12
MOST_SHIFT = 0.02

# What the tests want to know of a page, asked inside the page.
LOOK = """() => ({
    maths: document.querySelectorAll("span.math, div.math").length,
    current: document.querySelectorAll('.bd-docs-nav [aria-current="page"]').length,
    hidden: [...document.querySelectorAll("summary[aria-label]")].length,
    formulas: document.querySelectorAll(
        "math[tabindex], math [tabindex], math a").length,
    rendered: document.querySelectorAll(".math > math").length,
    errors: [...document.querySelectorAll("merror, .math > code")]
        .map(e => e.outerHTML),
    images: [...document.images].map(i => ({
        source: i.getAttribute("src"), alt: i.alt.trim(),
        hidden: i.getAttribute("aria-hidden") === "true",
        sized: i.hasAttribute("width") && i.hasAttribute("height"),
        shown: i.checkVisibility(),
        loaded: i.complete && i.naturalWidth > 0})),
    headings: [...document.querySelectorAll(
        "main h1, main h2, main h3, main h4, main h5, main h6")]
        .filter(h => h.checkVisibility())  // some are for print only
        .map(h => Number(h.tagName[1])),
    links: [...document.querySelectorAll("a[href]")].map(a => a.href),
})"""
# The widest thing that sticks out, were the page to scroll sideways.
OVERFLOW = """() => {
    const width = document.documentElement.clientWidth;
    if (document.documentElement.scrollWidth <= width) return "";
    const wide = [...document.querySelectorAll("main *")]
        .filter(e => e.getBoundingClientRect().right > width + 1);
    return `${document.documentElement.scrollWidth} px wide: ` +
        wide.slice(0, 3).map(e => e.outerHTML.slice(0, 120)).join(" | ");
}"""

# Read on to the end and come back: a page says what scrolls when one comes near it.
READ = """async () => {
    const drawn = () => new Promise(f => requestAnimationFrame(() =>
        requestAnimationFrame(f)));
    const html = document.documentElement;
    await drawn();  // it hears of a new width
    for (let y = 0; y < html.scrollHeight; y += 2 * innerHeight) {
        scrollTo({top: y, behavior: "instant"});
        await drawn();
    }
    scrollTo({top: 0, behavior: "instant"});
    await drawn();
}"""

# What moved after it had been drawn, as Chromium scores it.
SHIFT = """() => new Promise(done => {
    let sum = 0;
    new PerformanceObserver(list => list.getEntries().forEach(entry => {
        if (!entry.hadRecentInput) sum += entry.value;
    })).observe({type: "layout-shift", buffered: true});
    setTimeout(() => done(sum), 200);
})"""

# Colors of code: a block whose kinds of words were all seen before becomes
# plain text. axe looks at each word, of which a page has thousands.
PLAIN = """() => {
    const seen = new Set();
    for (const block of document.querySelectorAll(".highlight pre")) {
        const kinds = [...block.querySelectorAll("span")].map(s => s.className);
        if (kinds.every(kind => seen.has(kind))) block.textContent = block.textContent;
        kinds.forEach(kind => seen.add(kind));
    }
}"""


@dataclass(repr=False)
class Visit:
    """What was seen of one page."""

    elsewhere: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    console: list[str] = field(default_factory=list)
    look: dict = field(default_factory=dict)
    files: dict = field(default_factory=dict)  # theme -> {address: KB}
    shift: dict = field(default_factory=dict)  # theme -> Chromium's score
    overflow: list[str] = field(default_factory=list)
    axe: list[str] = field(default_factory=list)


@pytest.fixture(scope="session")
def visit(address, browser):
    """Return a function from a page's name to its Visit."""
    visits = {}
    contexts = {
        theme: browser.new_context(
            color_scheme=theme, viewport={"width": width, "height": height}
        )
        for theme, (width, height) in SIZES.items()
    }

    def get(name):
        if name not in visits:
            visits[name] = Visit()
            for theme, context in contexts.items():
                page = context.new_page()
                look_at(page, address, name, theme, visits[name])
                page.close()
        return visits[name]

    return get


def look_at(page, address, name, theme, visit):
    """Open a page in one theme and note in `visit` what is seen."""
    asked = []

    def on_request(request):
        if not request.url.startswith((address, "data:", "blob:")):
            visit.elsewhere.append(request.url)
        elif request.url.startswith(address):
            asked.append(request.url)

    def on_response(response):
        if response.status >= 400:
            visit.failed.append(response.url)

    def on_console(message):
        if message.type in ("error", "warning"):
            visit.console.append(message.text)

    page.on("request", on_request)
    page.on("response", on_response)
    page.on("console", on_console)
    page.on("pageerror", lambda error: visit.console.append(str(error)))
    page.goto(address + name, wait_until="load")
    visit.shift[theme] = page.evaluate(SHIFT)
    visit.files[theme] = {url: kilobytes(url, address) for url in asked}
    # Folded answers and solutions are part of the page.
    page.evaluate(
        "() => document.querySelectorAll('details')"
        ".forEach(details => { details.open = true; })"
    )
    # A figure loads when it comes near.
    page.evaluate("() => [...document.images].forEach(i => { i.loading = 'eager'; })")
    page.wait_for_function("() => [...document.images].every(i => i.complete)")
    visit.look = page.evaluate(LOOK)
    page.evaluate(PLAIN)
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 800})
        page.evaluate(READ)
        # What has just been opened fades in: half-way its contrast is too low.
        page.evaluate("() => document.getAnimations().forEach(a => a.finish())")
        setting = f"{theme}, {width} px"
        if overflow := page.evaluate(OVERFLOW):
            visit.overflow.append(f"{setting}: {overflow}")
        all_rules = theme == "light" and width == WIDTHS[-1]
        visit.axe += [f"{setting}: {found}" for found in violations(page, all_rules)]


def kilobytes(url, address):
    """Return the size of a file as a server would send it."""
    path = HTML / (url.removeprefix(address).partition("?")[0].partition("#")[0])
    if not path.is_file():
        return 0
    packed = path.suffix in (".woff2", ".png")
    data = path.read_bytes()
    return len(data if packed else gzip.compress(data, 6)) / 1024


def violations(page, all_rules):
    """Return what axe finds wrong in a page as it is now, each in a line."""
    # preload would fetch style sheets anew, from wrong addresses.
    options = {"preload": False, "resultTypes": ["violations"]}
    if not all_rules:
        options["runOnly"] = {"type": "rule", "values": CHANGING}
    for found in Axe().run(page, options=options).response["violations"]:
        nodes = [node["html"][:150] for node in found["nodes"]]
        yield (
            f"{found['id']} ({found['impact']}) in {len(nodes)} places, such as "
            f"{nodes[0]}"
        )


def report(findings):
    """Return the findings, each once, one on a line."""
    return "\n".join(dict.fromkeys(findings))


every_page = pytest.mark.parametrize("name", PAGES or ["index.html"])


@every_page
def test_asks_no_other_host(visit, name):
    assert not visit(name).elsewhere, report(visit(name).elsewhere)


@every_page
def test_finds_all_its_files(visit, name):
    assert not visit(name).failed, report(visit(name).failed)


@every_page
def test_has_no_console_error(visit, name):
    assert not visit(name).console, report(visit(name).console)


@every_page
def test_mathematics_is_rendered(visit, name):
    look = visit(name).look
    assert look["rendered"] == look["maths"]
    assert look["errors"] == []


@every_page
def test_images_say_what_they_show(visit, name):
    for image in visit(name).look["images"]:
        assert image["loaded"] or not image["shown"], image
        assert image["sized"], image
        file = image["source"].rsplit("/", 1)[-1]
        assert image["hidden"] or image["alt"], image
        assert not image["alt"].endswith(file), image


@every_page
def test_headings_skip_no_level(visit, name):
    levels = visit(name).look["headings"]
    assert levels[:1] == [1]
    assert levels.count(1) == 1
    for above, below in zip(levels, levels[1:]):
        assert below <= above + 1, levels


@every_page
def test_does_not_scroll_sideways(visit, name):
    assert not visit(name).overflow, report(visit(name).overflow)


@every_page
def test_is_accessible(visit, name):
    assert not visit(name).axe, report(visit(name).axe)


@every_page
def test_says_where_one_is_and_what_folds(visit, name):
    look = visit(name).look
    outside = ("404.html", "genindex.html", "search.html")
    assert look["current"] == (name not in outside)
    assert look["hidden"] == 0  # a label that is read instead of the visible one
    assert look["formulas"] == 0  # none of them stops the tabulator


@every_page
def test_is_light(visit, name):
    for files in visit(name).files.values():
        lines = report(f"{size:.0f} KB {url}" for url, size in files.items())
        assert files and sum(files.values()) <= KB.get(name, MOST_KB), lines
        assert len(files) <= MOST_REQUESTS, lines


@every_page
def test_nothing_jumps(visit, name):
    for theme, shift in visit(name).shift.items():
        assert shift <= MOST_SHIFT, theme


def test_colab_and_binder_buttons_open_the_notebook(visit):
    config = yaml.safe_load((ROOT / "_config.yml").read_text())
    repository = config["repository"]
    place = repository["url"].removeprefix("https://github.com/")
    notebooks = [name for name in PAGES if (ROOT / name).with_suffix(".ipynb").exists()]
    assert notebooks or not PAGES
    for name in notebooks:
        path = Path(name).with_suffix(".ipynb").as_posix()
        links = visit(name).look["links"]
        assert (
            "https://colab.research.google.com/github/"
            f"{place}/blob/{repository['branch']}/{path}"
        ) in links
        assert (
            f"https://mybinder.org/v2/gh/{place}/{repository['branch']}"
            f"?urlpath=lab/tree/{path}"
        ) in links
