"""The built book, seen page by page in a browser without a network.

Each page is opened four times: light and dark, desktop and phone. Every
test then reads what was seen (`Visit`); none opens a page again.
"""

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
SIZES = {"desktop": (1280, 800), "phone": (390, 844)}

# What the tests want to know of a page, asked inside the page.
LOOK = """() => ({
    maths: document.querySelectorAll("span.math, div.math").length,
    rendered: document.querySelectorAll(".math > math").length,
    errors: [...document.querySelectorAll("merror, .math > code")]
        .map(e => e.outerHTML),
    images: [...document.images].map(i => ({
        source: i.getAttribute("src"), alt: i.alt.trim(),
        hidden: i.getAttribute("aria-hidden") === "true",
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


@dataclass(repr=False)
class Visit:
    """What was seen of one page."""

    elsewhere: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    console: list[str] = field(default_factory=list)
    look: dict = field(default_factory=dict)
    overflow: list[str] = field(default_factory=list)
    axe: list[str] = field(default_factory=list)


@pytest.fixture(scope="session")
def visit(address, browser):
    """Return a function from a page's name to its Visit."""
    visits = {}
    contexts = {
        f"{theme}, {size}": browser.new_context(
            color_scheme=theme,
            viewport={"width": width, "height": height},
        )
        for theme in ["light", "dark"]
        for size, (width, height) in SIZES.items()
    }

    def get(name):
        if name not in visits:
            visits[name] = Visit()
            for setting, context in contexts.items():
                page = context.new_page()
                look_at(page, address, name, setting, visits[name])
                page.close()
        return visits[name]

    return get


def look_at(page, address, name, setting, visit):
    """Open a page in one setting and note in `visit` what is seen."""

    def on_request(request):
        if not request.url.startswith((address, "data:", "blob:")):
            visit.elsewhere.append(request.url)

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
    # Folded answers and solutions are part of the page.
    page.evaluate(
        "() => document.querySelectorAll('details')"
        ".forEach(details => { details.open = true; })"
    )
    # What has just been opened fades in: half-way its contrast is too low.
    page.evaluate("() => document.getAnimations().forEach(a => a.finish())")
    visit.look = page.evaluate(LOOK)
    if overflow := page.evaluate(OVERFLOW):
        visit.overflow.append(f"{setting}: {overflow}")
    # preload would fetch style sheets anew, from wrong addresses.
    options = {"preload": False, "resultTypes": ["violations"]}
    result = Axe().run(page, options=options)
    for found in result.response["violations"]:
        if found["impact"] in ("serious", "critical"):
            nodes = [node["html"][:150] for node in found["nodes"]]
            visit.axe.append(
                f"{setting}: {found['id']} in {len(nodes)} places, such as "
                + "\n    ".join(nodes[:3])
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
        assert image["loaded"], image
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


def test_colab_button_opens_the_notebook(visit):
    config = yaml.safe_load((ROOT / "_config.yml").read_text())
    repository = config["repository"]
    place = repository["url"].removeprefix("https://github.com/")
    notebooks = [name for name in PAGES if (ROOT / name).with_suffix(".ipynb").exists()]
    assert notebooks or not PAGES
    for name in notebooks:
        path = Path(name).with_suffix(".ipynb").as_posix()
        assert (
            "https://colab.research.google.com/github/"
            f"{place}/blob/{repository['branch']}/{path}"
        ) in visit(name).look["links"]
