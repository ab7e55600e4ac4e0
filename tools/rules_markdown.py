"""What tools/lint.py asks of a notebook's Markdown: it reads the same everywhere.

Everywhere is the book, JupyterLab, GitHub and Colab. Each thing that is refused
here shows as raw text, or leads nowhere, in at least one of the four.
"""

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote, urlsplit

from markdown_it import MarkdownIt
from markdown_it.token import Token
from mdit_py_plugins.dollarmath import dollarmath_plugin
from mdit_py_plugins.myst_blocks import myst_block_plugin

from rules import Chapter, Finding

# Looked for in the text only, not in code or mathematics; ^ is a line's start.
IN_TEXT = {
    r"^:::": ("a MyST fence", "plain Markdown, or <details>"),
    r"\{\{.*\}\}": ("a MyST substitution", "the text itself"),
    r"\[\^[^\]]+\]": ("a footnote", "say it in the text"),
    r"^\[!\w+\]": ("an alert such as [!NOTE]", "a paragraph with a bold word"),
    r"^\[[ xX]\]\s": ("a task list", "a plain list"),
    r"\\[()\[\]]": (r"mathematics in \( \) or \[ \]", "$…$ or $$…$$"),
    r"\\(begin|end)\{": (r"\begin or \end outside $$", "$$ around it"),
    r"~~": ("strikethrough", "say it in words"),
    r"^\|?\s*:?-+:?\s*\|": ("a table that is none", "as many cells in each row"),
}
# Lines that only the book takes for something else, as MyST parses them.
MYST_LINES = {
    "myst_target": ("a MyST label", "remove it"),
    "myst_line_comment": (
        "a line that MyST takes for a comment",
        "begin with another character than %",
    ),
    "myst_block_break": ("a line +++, which MyST drops", "remove it"),
}
ROLE = re.compile(r"\{[\w:+-]+\}$")
HTML = ("details", "summary", "sub", "sup", "br")
TAG = re.compile(r"</?([A-Za-z][\w-]*)")
OPEN = re.compile(r"<details( open)?>\s*<summary>[^\n]*</summary>")
DETAILS_TAG = re.compile(r"</?details\b")
DETAILS = "<details><summary>…</summary>, blank line, body, blank line, </details>"


def parse(source: str) -> tuple[list[Token], dict]:
    r"""CommonMark with tables, mathematics and the lines that MyST takes out.

    Escapes stay, so that \( is seen.
    """
    parser = MarkdownIt().enable("table").disable("escape")
    parser.use(dollarmath_plugin, double_inline=True).use(myst_block_plugin)
    env: dict = {}
    # The line's end, since myst_block_plugin fails on a last line of only ">".
    return parser.parse(source + "\n", env), env


def inline(source: str) -> list[Token]:
    return [child for token in parse(source)[0] for child in token.children or []]


def plain_markdown(chapter: Chapter) -> Iterator[Finding]:
    for cell in chapter.markdown:
        texts = [t.content for t in inline(cell.source) if t.type == "text"]
        for pattern, finding in IN_TEXT.items():
            if any(re.search(pattern, text) for text in texts):
                yield cell, *finding


def no_directives(chapter: Chapter) -> Iterator[Finding]:
    for cell in chapter.markdown:
        blocks, env = parse(cell.source)
        for token in blocks:
            info = token.info.strip()
            if token.type == "fence" and info.startswith("{"):
                yield cell, f"the MyST directive {info}", "plain Markdown"
            if token.type in MYST_LINES:
                yield cell, *MYST_LINES[token.type]
        if any(label.startswith("^") for label in env.get("references", {})):
            yield cell, "a footnote", "say it in the text"
        for one, two in pairwise(inline(cell.source)):
            if two.type == "code_inline" and ROLE.search(one.content):
                yield cell, f"the MyST role on `{two.content}`", "a link or plain text"


def html_is_harmless(chapter: Chapter) -> Iterator[Finding]:
    """Other tags are shown as text, or left out, by one of the readers."""
    for cell in chapter.markdown:
        tokens = [*parse(cell.source)[0], *inline(cell.source)]
        html = "\n".join(t.content for t in tokens if t.type.startswith("html_"))
        for tag in sorted({*TAG.findall(html)} - {*HTML}):
            yield cell, f"the HTML tag <{tag}>", "Markdown, or " + ", ".join(HTML)


def details_are_apart(chapter: Chapter) -> Iterator[Finding]:
    """Blank lines around the body, no heading in it, each opened and closed."""
    for cell in chapter.markdown:
        lines, depths = ["", *cell.source.splitlines()], [0]
        for token in parse(cell.source)[0]:
            if token.type == "heading_open" and depths[-1] > 0:
                yield cell, "a heading inside <details>", "a line in bold"
            html = [token, *(token.children or [])]
            if not any(DETAILS_TAG.search(t.content) for t in html if "html" in t.type):
                continue
            tag = token.content.strip()
            alone = token.type == "html_block" and not lines[token.map[0]].strip()
            if alone and OPEN.fullmatch(tag):
                depths.append(depths[-1] + 1)
            elif alone and tag == "</details>":
                depths.append(depths[-1] - 1)
            else:
                yield cell, "<details> without blank lines", DETAILS
                break
        else:
            if depths[-1] != 0 or min(depths) < 0:
                yield cell, "<details> opened and closed unequally", DETAILS


def tables_are_even(chapter: Chapter) -> Iterator[Finding]:
    """A | inside mathematics or code splits a table's cell on some readers."""
    for cell in chapter.markdown:
        lines = cell.source.splitlines()
        for token in parse(cell.source)[0]:
            if token.type == "table_open":
                rows = [line.strip().strip("|") for line in lines[slice(*token.map)]]
                if len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) > 1:
                    yield cell, "a table with uneven rows", r"equal cells; \vert for |"


def leads_nowhere(href: str, page: Path) -> bool:
    """Whether it is a relative link to a file that is not there."""
    url = urlsplit(href)
    relative = url.path and not url.scheme and not url.netloc
    return bool(relative) and not (page.parent / unquote(url.path)).exists()


def links_lead_somewhere(chapter: Chapter) -> Iterator[Finding]:
    for cell in chapter.markdown:
        for token, after in pairwise([*inline(cell.source), None]):
            href = str(token.attrGet("href") or "")
            url = urlsplit(href)
            if leads_nowhere(href, chapter.path):
                yield cell, f"{href} does not exist", "link to what is there"
            if url.fragment and url.path and not url.scheme:
                yield cell, f"{href} leads to a section", "link to the whole page"
            if token.type == "link_open" and after.type == "link_close":
                yield cell, f"the link to {href} has no text", "give it one"
            if token.type == "image" and not token.attrGet("src").startswith("data:"):
                yield cell, "an image from a file or the web", "draw it in a code cell"


RULES = [
    *(plain_markdown, no_directives, html_is_harmless, details_are_apart),
    *(tables_are_even, links_lead_somewhere),
]
