"""The built book, seen page by page in a browser without a network.

Each page is opened twice, in the light theme on a desktop and in the dark one
on a phone that asks for less motion, and then made narrow and wide. Every test
then reads what was seen (`Visit`); none opens a page again.
"""

import gzip
import io
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect
from pypdf import PdfReader

from tests.browser import HTML

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    path.relative_to(HTML).as_posix()
    for path in HTML.rglob("*.html")
    if "_static" not in path.parts  # the theme's templates
)
SIZES = {"light": (1280, 800), "dark": (390, 844)}
WIDTHS = (320, 768, 1280)
ZOOMED = {"width": 320, "height": 200}  # what 400 % leaves of 1280 x 800
MOST_PAPER = 15  # pages of a chapter
PRINTED = ["02_mechanics", "07_batch_size_one", "10_deployment"]

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

# Somebody has read a chapter, whichever page is opened first: the landing page says so.
PROGRESS = """localStorage["bn-measured"] ??=
    JSON.stringify({read: ["07_batch_size_one"], right: []})"""
# Two frames; or a while, since a busy Chromium may draw none for a page.
FRAMES = """() => new Promise(f => {
    requestAnimationFrame(() => requestAnimationFrame(f));
    setTimeout(f, 3000);
})"""
# Read on to the end and come back: a page says what scrolls when one comes near it.
READ = (
    f"async () => {{ const drawn = {FRAMES};"
    """
    const html = document.documentElement;
    await drawn();  // it hears of a new width
    for (let y = 0; y < html.scrollHeight; y += 2 * innerHeight) {
        scrollTo({top: y, behavior: "instant"});
        await drawn();
    }
    scrollTo({top: 0, behavior: "instant"});
    await drawn();
}"""
)

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
# Contrast took four fifths of axe's time: it looks at every element with text.
# Here at three of each look, which is its color, its letters, and what is behind.
LOOKS = """() => {
    axe.configure({rules: [
        {id: "color-contrast", selector: "[data-look]"},
        {id: "link-in-text-block", selector: "a[href][data-look]"},
    ]});
    const behind = new Map(), seen = new Map();
    for (const e of document.querySelectorAll("*")) {
        const s = getComputedStyle(e);
        const own = [s.backgroundColor, s.backgroundImage, s.opacity, s.position];
        const plain = own.join() === "rgba(0, 0, 0, 0),none,1,static";
        behind.set(e, (behind.get(e.parentElement) ?? "") + (plain ? "" : own));
        const text = [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim());
        const shown = (text || e.matches("input, select")) && e.checkVisibility();
        const look = [behind.get(e), s.color, s.fontSize, s.fontWeight].join();
        const count = (seen.get(look) ?? 0) + shown;
        seen.set(look, count);
        e.toggleAttribute("data-look", shown && count <= 3);
        if (e.hasAttribute("data-look")) e.closest("a")?.setAttribute("data-look", "");
    }
}"""
# preload would fetch style sheets anew, from wrong addresses.
AXE = """() => axe.run({preload: false, resultTypes: ["violations"]})
    .then(results => results.violations)"""

# Of each kind of thing that takes the focus the first that shows no ring.
RINGS = """() => {
    const light = color => {
        const [r, g, b] = color.match(/[\\d.]+/g).map(part => {
            const c = part / 255;
            return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ground = e => {
        for (let up = e; up; up = up.parentElement ?? up.getRootNode().host) {
            if (up === e) continue;
            const color = getComputedStyle(up).backgroundColor;
            if (!/, 0\\)$/.test(color)) return color;
        }
        return "rgb(255, 255, 255)";
    };
    const kinds = new Set(), bare = [];
    const roots = [...document.querySelectorAll("*")].map(e => e.shadowRoot);
    const all = [document, ...roots.filter(root => root)].flatMap(
        root => [...root.querySelectorAll(
            "a[href], button, summary, input, select, textarea, [tabindex='0']")]);
    for (const e of all) {
        const part = e.closest("header, nav, dialog, main, aside, footer, pre, svg");
        const kind = [e.tagName, e.type, e.className.baseVal ?? e.className,
            part?.tagName, part?.className].join();
        if (kinds.has(kind) || e.disabled || !e.checkVisibility()) continue;
        kinds.add(kind);
        e.focus({preventScroll: true, focusVisible: true});
        if (e.getRootNode().activeElement !== e) continue;
        const s = getComputedStyle(e);
        const [low, high] = [light(s.outlineColor), light(ground(e))]
            .sort((a, b) => a - b);
        // "auto" is the browser's own: dark with a light line around it.
        const ring = s.outlineStyle === "auto" || (s.outlineStyle !== "none" &&
            parseFloat(s.outlineWidth) >= 2 && (high + 0.05) / (low + 0.05) >= 3);
        if (!ring) bare.push(`${e.outerHTML.slice(0, 120)} (${s.outline})`);
    }
    document.activeElement.blur();
    return {kinds: kinds.size, bare};
}"""

# What lies over the text in the middle of the page, on a very low screen.
COVERING = """() => {
    scrollTo({top: document.documentElement.scrollHeight / 2, behavior: "instant"});
    const found = new Set();
    for (let y = 5; y < innerHeight; y += 10) {
        let e = document.elementFromPoint(innerWidth / 2, y);
        for (; e; e = e.parentElement)
            if (["fixed", "sticky"].includes(getComputedStyle(e).position))
                found.add(e.outerHTML.slice(0, 120));
    }
    return [...found];
}"""

# What moves, or would at a touch.
MOVING = """() => [...document.querySelectorAll("*")].filter(e => {
    const s = getComputedStyle(e);
    const lasts = times => times.split(",").some(time => parseFloat(time) > 0.01);
    return s.scrollBehavior === "smooth" || lasts(s.transitionDuration) ||
        (s.animationName !== "none" && lasts(s.animationDuration));
}).map(e => e.outerHTML.slice(0, 120))"""

# What ink would draw around nothing, and what paper cannot use.
ON_PAPER = """() => {
    const all = [...document.querySelectorAll("main *")], full = new Set();
    for (const e of all) {
        const shows = e.shadowRoot || e.matches("img, svg, math, input, hr, td, th") ||
            [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim());
        if (!shows || !e.checkVisibility()) continue;
        for (let up = e; up && !full.has(up); up = up.parentElement) full.add(up);
    }
    const clear = color => /, 0\\)$/.test(color);
    const empty = all.filter(e => {
        const s = getComputedStyle(e), box = e.getBoundingClientRect();
        const drawn = !clear(s.backgroundColor) ||
            (parseFloat(s.borderTopWidth) && !clear(s.borderTopColor));
        return drawn && box.height > 4 && box.width > 4 && e.checkVisibility() &&
            !full.has(e) && !e.closest("svg, math, tr");
    });
    const useless = [...document.querySelectorAll(
        "nav, .bd-sidebar, .bd-header-article, footer .prev-next-area, button")]
        .filter(e => e.checkVisibility() && e.getBoundingClientRect().height > 1);
    return [...empty, ...useless].map(e => e.outerHTML.slice(0, 120));
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
    rings: list[str] = field(default_factory=list)
    covering: list[str] = field(default_factory=list)
    moving: list[str] = field(default_factory=list)
    on_paper: list[str] = field(default_factory=list)


@pytest.fixture(scope="session")
def visit(address, browser):
    """Return a function from a page's name to its Visit."""
    visits = {}
    contexts = {
        theme: browser.new_context(
            color_scheme=theme,
            viewport={"width": width, "height": height},
            reduced_motion="reduce" if theme == "dark" else "no-preference",
        )
        for theme, (width, height) in SIZES.items()
    }

    for context in contexts.values():
        context.add_init_script(PROGRESS)

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
    page.evaluate(Axe().axe_script)
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 800})
        page.evaluate(READ)
        # What has just been opened fades in: half-way its contrast is too low.
        # A sidebar slides: the text's width changes once more.
        page.evaluate("() => document.getAnimations().forEach(a => a.finish())")
        page.evaluate(FRAMES)
        setting = f"{theme}, {width} px"
        if overflow := page.evaluate(OVERFLOW):
            visit.overflow.append(f"{setting}: {overflow}")
        page.evaluate(LOOKS)
        visit.axe += [f"{setting}: {found}" for found in violations(page)]
        rings = page.evaluate(RINGS)
        assert rings["kinds"] > 5, setting  # the page has more to focus than that
        visit.rings += [f"{setting}: {bare}" for bare in rings["bare"]]
    if theme == "dark":
        visit.moving = page.evaluate(MOVING)
        page.set_viewport_size(ZOOMED)
        page.evaluate(FRAMES)
        visit.covering = page.evaluate(COVERING)
        if overflow := page.evaluate(OVERFLOW):
            visit.overflow.append(f"zoomed: {overflow}")
    else:
        page.emulate_media(media="print")
        visit.on_paper = page.evaluate(ON_PAPER)


def kilobytes(url, address):
    """Return the size of a file as a server would send it."""
    path = HTML / (url.removeprefix(address).partition("?")[0].partition("#")[0])
    if not path.is_file():
        return 0
    packed = path.suffix in (".woff2", ".png")
    data = path.read_bytes()
    return len(data if packed else gzip.compress(data, 6)) / 1024


def violations(page):
    """Yield what axe finds wrong in a page as it is now, each in a line."""
    for found in page.evaluate(AXE):
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
def test_what_has_the_focus_shows_it(visit, name):
    assert not visit(name).rings, report(visit(name).rings)


@every_page
def test_nothing_covers_the_text_at_400_percent(visit, name):
    assert not visit(name).covering, report(visit(name).covering)


@every_page
def test_nothing_moves_for_whom_that_is_too_much(visit, name):
    assert not visit(name).moving, report(visit(name).moving)


@every_page
def test_paper_has_no_empty_box_and_no_button(visit, name):
    assert not visit(name).on_paper, report(visit(name).on_paper)


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


def test_the_menu_opens_and_closes_at_400_percent(address, browser):
    page = browser.new_page(viewport=ZOOMED)
    page.goto(address + "chapters/07_batch_size_one.html")
    opener = page.locator("button.primary-toggle:visible").first
    opener.press("Enter")
    menu = page.locator("dialog[open]")
    link = menu.get_by_role("link", name="10 Deployment")
    link.scroll_into_view_if_needed()
    box = link.bounding_box()
    assert box["y"] >= 0 and box["y"] + box["height"] <= ZOOMED["height"]
    page.keyboard.press("Escape")
    menu.wait_for(state="detached")
    expect(opener).to_be_focused()
    page.close()


@pytest.mark.parametrize("name", PRINTED)
def test_a_chapter_prints_well(address, browser, name):
    page = browser.new_page()
    page.goto(f"{address}chapters/{name}.html", wait_until="load")
    headings = page.locator("main :is(h2, h3)").all_text_contents()
    printed = PdfReader(io.BytesIO(page.pdf(prefer_css_page_size=True)))
    page.close()
    assert 1 < len(printed.pages) <= MOST_PAPER
    starts = [text.strip("# \n")[:30] for text in headings]
    for number, sheet in enumerate(printed.pages, 1):
        last = sheet.extract_text().strip().splitlines()[-1]
        assert not any(last.startswith(start) for start in starts), (number, last)


@pytest.mark.parametrize("theme", SIZES)
def test_a_wide_table_shows_that_it_scrolls(address, browser, theme):
    """A shadow at its side, in front of which no row stands, and its caption whole."""
    page = browser.new_page(viewport={"width": 320, "height": 800}, color_scheme=theme)
    page.goto(address + "chapters/12_carry_over.html")
    table = page.locator(".pst-scrollable-table-container", has=page.locator("caption"))
    table.first.scroll_into_view_if_needed()
    page.wait_for_function("() => document.querySelector('table').closest('.scrolls')")
    shown = table.first.evaluate(
        """box => ({
            shadow: getComputedStyle(box).backgroundImage,
            rows: [...box.querySelectorAll("tr")]
                .map(row => getComputedStyle(row).backgroundColor),
            caption: box.querySelector(".caption-text").getBoundingClientRect().right,
        })"""
    )
    page.close()
    assert "gradient" in shown["shadow"]
    assert set(shown["rows"]) == {"rgba(0, 0, 0, 0)"}
    assert shown["caption"] <= 320
