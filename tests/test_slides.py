"""The decks of `make slides`: whole, legible in a hall, offline, printable.

They are made from the book's run, so this file needs the built book.
"""

import re
import subprocess
import sys

import nbformat
import pytest

import slides
from tests.notebooks import ROOT

CHAPTERS = sorted((ROOT / "chapters").glob("*.ipynb"))
HALL = 24  # pixels of a slide of 1280 x 720: 1/30 of its height
LAYOUT = """() => Reveal.getSlides().map(slide => {
  Reveal.slide(Reveal.getIndices(slide).h);
  const body = slide.querySelector(".body");
  const scale = Reveal.getScale();
  const seen = [...slide.querySelectorAll("h1, h2, p, li, td, th, summary, caption")]
    .filter(e => e.checkVisibility() && !e.closest("aside"));
  return {
    kind: slide.classList[0],
    over: Math.max(body.scrollHeight - body.clientHeight, slide.scrollHeight - 720,
      slide.scrollWidth - 1280, 0),
    smallest: Math.min(...seen.map(e => parseFloat(getComputedStyle(e).fontSize))),
    figures: [...slide.querySelectorAll("img")]
      .map(image => image.naturalWidth > 0 ? image.alt : ""),
  };
})"""


@pytest.fixture(scope="module")
def decks():
    """The decks' files, written anew."""
    command = [sys.executable, ROOT / "tools" / "slides.py"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return [ROOT / line for line in run.stdout.split()]


def test_there_is_a_deck_of_every_chapter(decks):
    assert [deck.stem for deck in decks] == [path.stem for path in CHAPTERS]


def test_decks_are_whole_legible_and_offline(decks, browser):
    """Every figure and prediction of the chapter; no text too small, none cut off."""
    page, trouble, asked = browser.new_page(), [], []
    page.on(
        "console", lambda m: m.type in ("error", "warning") and trouble.append(m.text)
    )
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("request", lambda r: asked.append(r.url))
    page.set_viewport_size({"width": 1280, "height": 720})
    for path, chapter in zip(decks, CHAPTERS):
        page.goto(path.as_uri())
        page.wait_for_function("window.Reveal && Reveal.isReady()")
        shown = page.evaluate(LAYOUT)
        kinds = [slide["kind"] for slide in shown]
        assert kinds[:2] == ["title", "predict"], path.name
        assert {"figure", "claim"} <= set(kinds), path.name
        figures = [alt for slide in shown for alt in slide["figures"]]
        cells = nbformat.read(chapter, as_version=4).cells
        written = [c for c in cells if c.id.startswith("answer-")]
        assert kinds.count("discuss") >= len(written), path.name
        if any("## In one sentence" in cell.source for cell in cells):
            assert kinds[-1] == "last", path.name
        drawn = [c for c in cells if "image" in c.metadata.get("mystnb", {})]
        assert len(figures) == len(drawn) and all(figures), path.name
        small = [
            (i, s["smallest"]) for i, s in enumerate(shown) if s["smallest"] < HALL
        ]
        assert not small, f"{path.name}: slide and pixels of small text: {small}"
        over = [(i, s["over"]) for i, s in enumerate(shown) if s["over"] > 2]
        assert not over, f"{path.name}: slide and pixels cut off: {over}"
    page.close()
    assert not trouble
    assert all(url.startswith(("file:", "data:")) for url in asked)


def test_a_deck_prints_one_slide_to_a_page(decks, browser):
    page = browser.new_page()
    page.goto(decks[7].as_uri() + "?print-pdf")
    page.wait_for_function("document.querySelectorAll('.pdf-page').length > 0")
    printed = page.pdf(prefer_css_page_size=True)
    count = page.evaluate("document.querySelectorAll('.pdf-page').length")
    page.close()
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) == count > 10


def test_no_solution_is_shown(decks):
    for path, chapter in zip(decks, CHAPTERS):
        text = path.read_text(encoding="utf8")
        for cell in nbformat.read(chapter, as_version=4).cells:
            if "solution" in cell.metadata.get("tags", []):
                assert cell.source not in text
        assert "<summary>Answer</summary>" not in text


def test_an_unknown_chapter_is_refused():
    with pytest.raises(SystemExit, match="no chapter 77: CHAPTERS takes 00, 01"):
        slides.wanted(CHAPTERS, ["77"])


def test_a_chapter_that_the_book_has_not_run_is_refused(tmp_path, monkeypatch):
    notebook = nbformat.read(CHAPTERS[0], as_version=4)
    notebook.cells[1].source += "\nnew = 1"
    (tmp_path / "chapters").mkdir()
    nbformat.write(notebook, tmp_path / "chapters" / CHAPTERS[0].name)
    monkeypatch.setattr(slides, "ROOT", tmp_path)
    monkeypatch.setattr(slides, "SLIDES", tmp_path / "slides")
    monkeypatch.delenv("CHAPTERS", raising=False)
    with pytest.raises(SystemExit, match="run make book"):
        slides.main()


def test_a_long_table_goes_on_with_its_head():
    rows = [f"| row {i} | {'x' * 60} |" for i in range(20)]
    parts = list(
        slides.table_parts("\n".join(["Caption", "", "| a | b |", "|---|---|", *rows]))
    )
    assert len(parts) > 1
    assert all(part.startswith("Caption\n\n| a | b |\n|---|---|\n") for part in parts)
    assert [r for p in parts for r in p.split("\n")[4:]] == rows
