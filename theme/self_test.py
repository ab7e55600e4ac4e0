"""The self-test: the questions of the bank that are for the book, by chapter.

    ```{self-test}
    ```

makes a section for each chapter. The questions are raw HTML, so that the search,
which reads the document's text, does not find wrong answers. Without scripts the
fold under a question has all that there is to know; self_test.js, loaded on this
page only, answers at once. Each chapter ends with a link to its section.
"""

import re
import sys
from html import unescape
from pathlib import Path

from docutils import nodes
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tools"))  # Sphinx is not started from there

import bank  # noqa: E402

LOGGER = logging.getLogger(__name__)
PAGE = "chapters/self_test"
# What bank.to_html makes of a formula. Sphinx sets it, as all of the book's.
FORMULA = re.compile(r'<span class="math inline">(.*?)</span>')
LAST = "References"  # the section of a chapter that the link stands before


def anchor(heading):
    """The id that docutils gives to a section with this heading."""
    return nodes.make_id(heading)


def choices(question):
    """The fields of a question: radio buttons, or one for a number."""
    name = question.id
    if question.answer is not None:
        field = f'<input name="{name}" inputmode="decimal" autocomplete="off">'
        return f"<label>Your number: {field}</label>"
    return "\n".join(
        f'<label><input type="radio" name="{name}" value="{i}">'
        f"<span>{bank.to_html(option.text)}</span></label>"
        for i, option in enumerate(question.options)
    )


def beliefs(question):
    """The wrong answers that are known, each with what it rests on."""
    numeric = question.answer is not None
    for i, option in enumerate(question.options):
        if option.belief:
            shown = bank.to_html(option.text)
            behind = bank.to_html(option.belief.text)
            value = option.text if numeric else i
            yield (
                f'<li data-value="{value}">{shown} '
                f'<span class="belief">Behind it: <i>{behind}</i></span></li>'
            )


def form(question):
    """One question as HTML."""
    place = question.experiment
    link = f"{place.chapter}.html#{anchor(place.heading)}"
    where = f"{place.title}: {place.heading}"
    if question.answer is None:
        right = [option.belief for option in question.options].index(None)
        data = f'data-answer="{right}"'
    else:
        data = f'data-answer="{question.answer}" data-tolerance="{question.tolerance}"'
    return f"""
<form class="question" id="{question.id}" {data}>
<fieldset>
<legend>{bank.to_html(question.ask)}</legend>
{choices(question)}
</fieldset>
<button class="btn btn-sm" disabled hidden>Check</button>
<output></output>
<details><summary>Answer</summary>
<p><b>{bank.to_html(question.right)}</b></p>
<p class="why">{bank.to_html(question.why)}
The experiment: <a href="{link}">{bank.to_html(where)}</a></p>
<p>Wrong, and why one may think so:</p>
<ul>{"".join(beliefs(question))}</ul>
</details>
</form>"""


class SelfTest(SphinxDirective):
    def run(self):
        for path in sorted((ROOT / bank.BANK).glob("*.yml")):
            self.env.note_dependency(str(path))
        sections = []
        for chapter, questions in by_chapter(self.env.app).items():
            title = bank.headings(ROOT)[chapter][0].partition(":")[0]
            section = nodes.section(ids=[f"chapter-{chapter[:2]}"])
            section += nodes.title("", f"{chapter[:2]} {title}")
            html = "\n".join(form(question) for question in questions)
            section += list(as_nodes(html))
            self.state.document.note_explicit_target(section)
            sections.append(section)
        return sections


def as_nodes(html):
    """HTML as nodes: raw, but for its formulas."""
    for i, part in enumerate(FORMULA.split(html)):
        if i % 2:
            yield nodes.math("", unescape(part))
        else:
            yield nodes.raw("", part, format="html")


def by_chapter(app):
    """{name of a chapter: its questions that are for the book}."""
    found = {chapter: [] for chapter in bank.headings(ROOT)}
    names = {chapter[:2]: chapter for chapter in found}
    for question in app.self_test:
        if question.half == "book":
            found[names[question.chapter]].append(question)
    return {chapter: questions for chapter, questions in found.items() if questions}


def read_bank(app):
    """Read the bank once; what is wrong with it is a warning, and so an error."""
    try:
        app.self_test = bank.load()
    except ValueError as error:
        app.self_test = []
        LOGGER.warning("the question bank: %s", error)


def check_links(app, doctree, docname):
    """Warn where an experiment's section is not in its chapter."""
    if docname != PAGE:
        return
    for question in app.self_test:
        place = question.experiment
        chapter = app.env.get_doctree(f"chapters/{place.chapter}")
        if anchor(place.heading) not in chapter.ids:
            LOGGER.warning(
                "question %s: %s has no section %r",
                question.id,
                place.chapter,
                place.heading,
            )


def link_from_chapter(app, doctree, docname):
    """Add a line with a link to the chapter's questions, in front of its references."""
    chapter = docname.removeprefix("chapters/")
    if app.builder.format != "html" or chapter not in by_chapter(app):
        return
    page = doctree[0]
    sections = [s for s in page.findall(nodes.section) if s.parent is page]
    before = [s for s in sections if s[0].astext() == LAST]
    place = page.index(before[0]) if before else len(page)
    uri = app.builder.get_relative_uri(docname, PAGE) + f"#chapter-{chapter[:2]}"
    link = nodes.reference("", "Check yourself", refuri=uri, internal=True)
    line = nodes.paragraph(
        "", "", link, nodes.Text(": three questions on this chapter.")
    )
    page.insert(place, line)


def load_script(app, pagename, templatename, context, doctree):
    """Files added in this event are those of one page."""
    if pagename == PAGE:
        app.add_js_file("self_test.js", loading_method="defer")
        app.add_css_file("self_test.css")


def setup(app):
    """Register all of the above with Sphinx."""
    app.add_directive("self-test", SelfTest)
    app.connect("builder-inited", read_bank)
    app.connect("doctree-resolved", check_links)
    # After the search has read the page: a link is nothing to find.
    app.connect("doctree-resolved", link_from_chapter, priority=900)
    app.connect("html-page-context", load_script)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
