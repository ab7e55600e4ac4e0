"""Write a deck of slides per chapter: `make slides`, or `… CHAPTERS="06 07"`.

A deck is what a lecture needs of a chapter, in its order: the question, the
predictions, each figure as it was measured, the claims as the engine judged
them, short results, the written questions to discuss, the last sentence. It
is made from the executed chapter, so a number on a slide is one of the run that
the book shows. The prose around a figure is in the speaker's notes (press S).

Each deck is one file, `_build/slides/NAME.html`, with reveal.js, styles and figures
inside: it needs no network, can be mailed, and prints one slide to a page (open it
with `?print-pdf` at the end of its address, then print).
"""

import base64
import html
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
import nbformat
import sphinx_revealjs
from jupyter_cache import get_cache
from latex2mathml.converter import convert
from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin
from nbformat import NotebookNode

import exercises
import figure_values

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / "_build" / ".jupyter_cache"
SLIDES = ROOT / "_build" / "slides"
REVEAL = Path(sphinx_revealjs.__file__).parent / "_static" / "revealjs"
LONG = 420  # letters: a text longer than this is set smaller
ROOM = 450  # letters: a table with more is continued on another slide
MANY = 4  # rows, one of them names: a card of claims with more is set smaller
LAST = ("In one sentence", "What to do")
PAPERS = ("References", "What the papers say beside this")
TABLE = re.compile(r"^\s*\|", re.MULTILINE)
FOLDED = re.compile(r"<details>.*?</details>", re.DOTALL)


@dataclass
class Slide:
    """One slide: its kind (a CSS class), heading, body and notes, as HTML."""

    kind: str
    heading: str
    body: str
    notes: str = ""
    classes: list[str] = field(default_factory=list)


# --- Markdown ---------------------------------------------------------------
def _math(display: bool):
    """A rule of markdown-it that writes a formula as MathML."""

    def render(self, tokens, i, options, env):
        return convert(tokens[i].content, display="block" if display else "inline")

    return render


def _renderer() -> MarkdownIt:
    markdown = MarkdownIt("commonmark").enable("table").use(dollarmath_plugin)
    markdown.add_render_rule("math_inline", _math(False))
    markdown.add_render_rule("math_block", _math(True))
    # A slide leads nowhere: of a link the words stay.
    for rule in ("link_open", "link_close"):
        markdown.add_render_rule(rule, lambda self, tokens, i, options, env: "")
    return markdown


MARKDOWN = _renderer()


def to_html(text: str) -> str:
    return MARKDOWN.render(text)


def inline(text: str) -> str:
    return MARKDOWN.renderInline(text)


# --- What a chapter has to show -------------------------------------------------
def paragraphs(source: str) -> list[str]:
    """A cell's paragraphs, what it folds away and its headings left out."""
    parts = re.split(r"\n\s*\n", FOLDED.sub("", source).strip())
    return [part for part in parts if part and not part.startswith("#")]


def outputs(cell: NotebookNode, kind: str) -> list[str]:
    """What an executed cell displayed of a MIME type."""
    return [out.data[kind] for out in cell.outputs if kind in out.get("data", {})]


def figure_html(svg: str, alt: str) -> str:
    """The figure as an image of its own: ids of several in one page would clash."""
    data = base64.b64encode(svg.encode()).decode()
    return f'<img src="data:image/svg+xml;base64,{data}" alt="{html.escape(alt)}">'


def text_slide(kind: str, heading: str, text: str) -> Slide:
    classes = ["long"] if len(text) > LONG else []
    return Slide(kind, heading, to_html(text), classes=classes)


def is_question(cell: NotebookNode, following: NotebookNode | None) -> bool:
    """Is it the prompt of a written question, whose answer cell follows?"""
    if cell.cell_type != "markdown" or following is None:
        return False
    return following.cell_type == "markdown" and "exercise" in exercises.tags(following)


def slides(notebook: NotebookNode) -> Iterator[Slide]:
    """The slides of an executed chapter, in order.

    The first prediction comes before the answer, which a chapter gives on its
    first screen: a lecture asks first.
    """
    cells = [part for cell in notebook.cells for part in sections(cell)]
    say_values(cells)
    title, *rest = paragraphs_of_title(cells[0])
    yield Slide("title", "", f"<h1>{inline(title)}</h1>" + to_html("\n\n".join(rest)))
    predictions = [c for c in cells if "**Predict" in c.source and not _exercise(c)]
    for cell in predictions[:1]:
        yield prediction(cell)
    heading, last = "In short", None
    for cell, following in zip(cells[1:], [*cells[2:], None]):
        if "solution" in exercises.tags(cell):
            continue
        if cell.cell_type == "markdown":
            if found := re.match(r"## (.+)", cell.source):
                heading = found[1]
            if is_question(cell, following):
                text = "\n\n".join(paragraphs(cell.source))
                yield text_slide("discuss", "Discuss", text)
            elif heading in PAPERS:
                continue
            elif cell in predictions[1:]:
                yield prediction(cell)
            elif heading in LAST:
                yield text_slide("last", heading, paragraphs(cell.source)[0])
            elif last is not None and not _exercise(cell):
                last.notes += to_html("\n\n".join(paragraphs(cell.source)))
            continue
        for slide in shown(cell, heading):
            if slide.kind == "finding" and last is not None:
                last.notes += slide.body
            else:
                last = slide
                yield slide


def say_values(cells: list[NotebookNode]) -> None:
    """End each figure's alternative text with what was measured, as in the book."""
    chapter = [[]]
    for cell in cells:
        if cell.source.startswith("## "):
            chapter.append([])
        chapter[-1].append(cell)
    for section in chapter:
        shown = []
        for cell in section:
            if cell.cell_type == "code":
                shown += [cell] if outputs(cell, "image/svg+xml") else []
                shown += outputs(cell, "text/plain")
        drawn = [item for item in shown if not isinstance(item, str)]
        for cell, measured in zip(drawn, figure_values.values(shown)):
            image = cell.metadata.mystnb.image
            image.alt = figure_values.complete(image.alt, measured)


def sections(cell: NotebookNode) -> list[NotebookNode]:
    """A cell, or its parts where a second heading stands in it."""
    if cell.cell_type != "markdown":
        return [cell]
    parts = re.split(r"^(?=## )", cell.source, flags=re.MULTILINE)
    return [NotebookNode(cell | {"source": part}) for part in parts if part.strip()]


def paragraphs_of_title(cell: NotebookNode) -> list[str]:
    first, *rest = cell.source.split("\n")
    return [first.lstrip("# "), "\n".join(rest).strip()]


def prediction(cell: NotebookNode) -> Slide:
    """The paragraphs from the word **Predict** on."""
    parts = paragraphs(cell.source)
    first = next(i for i, part in enumerate(parts) if "**Predict" in part)
    return text_slide("predict", "Predict", "\n\n".join(parts[first:]))


def shown(cell: NotebookNode, heading: str) -> Iterator[Slide]:
    """The slides of what a cell displayed: figures, claims, tables, findings."""
    alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
    for svg in outputs(cell, "image/svg+xml"):
        notes = f"<p>{html.escape(alt)}</p>"
        yield Slide("figure", inline(heading), figure_html(svg, alt), notes)
    for card in outputs(cell, "text/html"):
        classes = ["many"] if card.count("<tr") > MANY else []
        yield Slide("claim", inline(heading), card, classes=classes)
    for text in outputs(cell, "text/markdown"):
        if not TABLE.search(text):
            yield text_slide("finding", inline(heading), text)
            continue
        for part in table_parts(text):
            yield Slide("table", inline(heading), to_html(part))


def table_parts(text: str) -> Iterator[str]:
    """A Markdown table, with what stands above it, in parts that fit a slide."""
    lines = text.strip().split("\n")
    start = next(i for i, line in enumerate(lines) if TABLE.match(line)) + 2
    top, part = lines[:start], []
    for line in lines[start:]:
        if part and sum(map(len, part)) + len(line) > ROOM:
            yield "\n".join([*top, *part])
            part = []
        part.append(line)
    yield "\n".join([*top, *part])


def _exercise(cell: NotebookNode) -> bool:
    return cell.source.startswith("### Exercise")


# --- Files -----------------------------------------------------------------------
def executed(path: Path) -> NotebookNode:
    """The chapter with the outputs of the book's run.

    Raises KeyError where the book has not run the chapter in its present form.
    """
    notebook = nbformat.read(path, as_version=4)
    _, merged = get_cache(CACHE).merge_match_into_notebook(notebook)
    return merged


def deck(path: Path) -> str:
    """The HTML of a chapter's deck."""
    # A question may stand below the last sentence; a lecture ends with that.
    found = sorted(slides(executed(path)), key=lambda slide: slide.kind == "last")
    files = {
        "reset_css": "dist/reset.css",
        "reveal_css": "dist/reveal.css",
        "reveal_js": "dist/reveal.js",
        "notes_js": "plugin/notes/notes.js",
    }
    parts = {key: (REVEAL / file).read_text("utf8") for key, file in files.items()}
    template = Path(__file__).with_suffix(".html").read_text(encoding="utf8")
    title = nbformat.read(path, as_version=4).cells[0].source.split("\n")[0][2:]
    number = int(path.name[:2])
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined)
    return environment.from_string(template).render(
        slides=found, title=title, number=number, **parts
    )


def wanted(chapters: list[Path], numbers: list[str]) -> list[Path]:
    """The chapters with these numbers, all where there are none."""
    known = {path.name[:2]: path for path in chapters}
    wrong = [n for n in numbers if n.zfill(2) not in known]
    if wrong:
        sys.exit(f"no chapter {', '.join(wrong)}: CHAPTERS takes {', '.join(known)}")
    return [known[n.zfill(2)] for n in numbers] or chapters


def main() -> None:
    chapters = sorted((ROOT / "chapters").glob("*.ipynb"))
    SLIDES.mkdir(parents=True, exist_ok=True)
    for path in wanted(chapters, os.environ.get("CHAPTERS", "").split()):
        try:
            text = deck(path)
        except KeyError:
            sys.exit(
                f"{path.name} changed since the book was built: run make book, which "
                "executes it, then make slides again"
            )
        target = SLIDES / path.with_suffix(".html").name
        target.write_text(text, encoding="utf8")
        print(target.relative_to(ROOT))


if __name__ == "__main__":
    main()
