"""Reading aids in the built book: progress, the cheat sheet, the PDF."""

import re
import subprocess
import sys
from io import BytesIO

import pytest
from pypdf import PdfReader

import pdf
from tests.notebooks import ROOT

CHAPTERS = sorted(path.stem for path in (ROOT / "chapters").glob("*.ipynb"))
REFUSE = """for (const name of ["getItem", "setItem", "removeItem"]) {
  const real = Storage.prototype[name];
  Storage.prototype[name] = function (key, ...rest) {
    if (key === "bn-measured") throw new DOMException("full", "QuotaExceededError");
    return real.call(this, key, ...rest);  // the theme's own
  };
}"""


@pytest.fixture
def page(browser):
    """A page of a browser that remembers nothing; it must have no error."""
    context = browser.new_context()
    page, errors = context.new_page(), []
    page.on("console", lambda m: m.type == "error" and errors.append(m.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    context.close()
    assert errors == []


def marked(page):
    """The texts of the menu's links that are marked as read."""
    marks = page.locator(".bd-docs-nav a:has(.mark-read)")
    return [" ".join(text.split()) for text in marks.all_text_contents()]


def read_to_the_end(page, address, chapter):
    page.goto(f"{address}chapters/{chapter}.html")
    assert not any(chapter[3:8] in text for text in marked(page))
    page.locator(".prev-next-footer").scroll_into_view_if_needed()
    page.wait_for_selector(".mark-read", state="attached")


def test_progress_stays_and_can_be_forgotten(address, page):
    page.goto(address)
    assert not page.locator("#progress").is_visible()
    read_to_the_end(page, address, CHAPTERS[7])
    page.reload()
    (text,) = marked(page)
    assert text.endswith("✓, read")  # a mark to see, a word to hear
    page.goto(f"{address}chapters/{CHAPTERS[8]}.html")
    assert len(marked(page)) == 1  # opened is not read
    page.goto(address)
    says = page.locator("#progress output")
    assert says.inner_text() == f"1 of {len(CHAPTERS)} chapters read."
    page.locator("#progress button").click()
    assert not page.locator("#progress").is_visible() and not marked(page)
    page.reload()
    assert not page.locator("#progress").is_visible() and not marked(page)


def test_right_answers_of_the_self_test_count(address, page):
    page.goto(f"{address}chapters/self_test.html")
    form = page.locator("form.question:has([type=radio])").first
    right = int(form.get_attribute("data-answer"))
    for choice in (1 - min(right, 1), right, right):  # wrong, right, right again
        form.locator("[type=radio]").nth(choice).check()
        form.locator("button").click()
    page.goto(address)
    says = page.locator("#progress output").inner_text()
    assert says.endswith("right in the self-test: 1.")


def test_where_nothing_can_be_stored_nothing_is_said(address, page):
    page.add_init_script(REFUSE)
    page.goto(f"{address}chapters/{CHAPTERS[0]}.html")
    page.locator(".prev-next-footer").scroll_into_view_if_needed()
    page.goto(address)
    assert not page.locator("#progress").is_visible()


def test_what_is_remembered_is_on_every_page_and_small():
    script = ROOT / "theme" / "progress.js"
    assert script.stat().st_size < 2048
    assert not re.search(r"fetch|XMLHttp|sendBeacon|https?:", script.read_text("utf8"))


@pytest.mark.parametrize("paper", ["A4", "Letter"])
def test_the_cheat_sheet_is_one_page(address, page, paper):
    page.goto(f"{address}chapters/cheat_sheet.html")
    page.wait_for_load_state("networkidle")
    printed = PdfReader(BytesIO(page.pdf(format=paper)))
    assert len(printed.pages) == 1
    text = printed.pages[0].extract_text()
    assert "Batch norm cheat sheet" in text and "Three diagnoses" in text


def test_the_cheat_sheet_has_no_typed_result():
    text = (ROOT / "chapters" / "cheat_sheet.md").read_text(encoding="utf8")
    assert text.count("{glue:text}") > 30
    assert not re.search(r"\[[−-]?[\d.]+, |\d points", text)


@pytest.fixture(scope="module")
def book(browser):
    """The book as a PDF, written anew, and the page that was printed."""
    command = [sys.executable, ROOT / "tools" / "pdf.py"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    source = pdf.OUT / "book.html"
    return PdfReader(pdf.OUT / "book.pdf"), pdf.read(source)


def test_every_page_has_a_bookmark(book):
    printed, source = book
    marks = [mark for mark in printed.outline if not isinstance(mark, list)]
    titles = [mark.title for mark in marks]
    for stem in CHAPTERS:
        heading = source.select_one(f'[id="{stem}"] h1')
        assert " ".join(heading.get_text().split()) in titles
    at = [printed.get_destination_page_number(mark) for mark in marks]
    assert at == sorted(at) and len(set(at)) == len(at)


def test_the_contents_name_the_right_pages(book):
    printed, source = book
    numbers = pdf.page_numbers(pdf.OUT / "book.pdf")
    links = source.select(".contents a")
    assert len(links) > len(CHAPTERS)
    for link in links:
        number = int(link.select_one(".page").get_text())
        assert numbers[link["href"][1:]] == number, link.get_text()


def test_links_and_figures_are_whole(book):
    printed, source = book
    ids = {element["id"] for element in source.select("[id]")}
    links = [a["href"] for a in source.select("a[href]")]
    assert [x for x in links if x.startswith("#") and x[1:] not in ids] == []
    assert {x.split(":")[0] for x in links if x[0] != "#"} <= {
        "https",
        "http",
        "mailto",
    }
    images = source.select("img")
    assert len(images) > 50
    for image in images:
        assert image["src"].startswith("data:") or (pdf.OUT / image["src"]).is_file()


def test_solutions_stand_at_the_end(book):
    _, source = book
    back = source.select_one("#back")
    assert "# @title Solution 7.1" in back.get_text()
    back.extract()
    assert "# @title Solution" not in source.get_text()


def test_without_a_browser_it_says_so(monkeypatch):
    monkeypatch.setenv("CHROMIUM", "no-such-browser")
    with pytest.raises(SystemExit, match="no browser found .*no-such-browser"):
        pdf.find_browser()
