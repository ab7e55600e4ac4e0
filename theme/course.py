"""The book's Sphinx extension: pasted figures and alternative text.

It does what Jupyter Book leaves open:

- a figure that a chapter glues can be pasted, as svg and with its
  alternative text, into another page;
- every image without alternative text of its own is a warning, which
  the build turns into an error;
- folded cells that show nothing and stand in a row are one folded thing;
- the Colab button is a button, not the one entry of a menu;
- what the search page searches: every section of every page, by itself.
"""

import hashlib
import json
import os
import re
import unicodedata
from itertools import groupby
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import directives
from myst_nb.ext.glue.crossref import read_glue_cache
from myst_nb.ext.glue.directives import PasteFigureDirective
from myst_nb.ext.glue.utils import (
    PendingGlueReference,
    create_pending_glue_ref,
)
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import logging

LOGGER = logging.getLogger(__name__)
AT_LEAST = 3  # folded cells in a row, to be folded once more
# What holds text that a reader may search for.
BLOCKS = (nodes.paragraph, nodes.literal_block, nodes.caption)
NO_BRACES = str.maketrans("", "", "{}\\")


class PasteFigure(PasteFigureDirective):
    """`{glue:figure}` with the `:doc:` option that myst-nb lacks.

    With `:doc:`, the body is the caption, and of the other options only
    `:name:` counts. Without it, everything is myst-nb's.
    """

    option_spec = PasteFigureDirective.option_spec | {"doc": directives.unchanged}

    def run(self):
        if "doc" not in self.options:
            return super().run()
        pending = create_pending_glue_ref(
            self.document,
            self.source,
            self.line,
            self.options["doc"],
            self.arguments[0],
        )
        figure = nodes.figure("", pending)
        self.set_source_info(figure)
        self.add_name(figure)
        if self.content:
            body = nodes.Element()
            self.state.nested_parse(self.content, self.content_offset, body)
            figure += nodes.caption("", "", *body[0].children)
        return [figure]


class PasteSvg(SphinxPostTransform):
    """Paste svg figures across pages, which myst-nb does for png only.

    The pasted node is a copy of the chapter's own, so the alternative
    text is written once: in the metadata of the cell that draws it.
    """

    default_priority = 4  # myst-nb pastes whatever else is pending at 5

    def run(self):
        folder = self.env.mystnb_config.output_folder
        for pending in list(self.document.findall(PendingGlueReference)):
            glued = read_glue_cache(folder, pending.refdoc)
            svg = glued.get(pending.key, {"data": {}})["data"].get("image/svg+xml")
            if svg is None or pending.gtype == "text":
                continue
            # myst-nb names an image by the hash of its content.
            content = os.linesep.join(svg.splitlines()).encode()
            name = hashlib.sha256(content).hexdigest()
            chapter = self.env.get_doctree(pending.refdoc)
            for image in chapter.findall(nodes.image):
                if name in image["uri"]:
                    pending.replace_self(image.deepcopy())
                    break


def warn_about_alternative_text(app, doctree, docname):
    """Warn for each image whose alternative text nobody wrote.

    Sphinx falls back on the file's name, which a screen reader spells
    out and which no accessibility checker notices.
    """
    for image in doctree.findall(nodes.image):
        alt = image.get("alt", "").strip()
        if alt and Path(alt).name != Path(image["uri"]).name:
            continue
        cell = image.parent
        while cell is not None and "cell_index" not in cell:
            cell = cell.parent
        if cell is None:
            where, how = "", "write ![what it shows](file)"
        else:
            where = f" in cell {cell['cell_index'] + 1}"
            how = (
                "say what the figure shows in the cell's metadata: "
                '{"mystnb": {"image": {"alt": "…"}}}'
            )
        LOGGER.warning(
            "image without alternative text%s; %s",
            where,
            how,
            location=image if image.line else docname,
        )


def is_plumbing(node):
    """Is it a folded cell that shows nothing?"""
    classes = node.get("classes", []) if isinstance(node, nodes.Element) else []
    if "tag_hide-input" not in classes:
        return False
    parts = node.findall(nodes.container)
    return not any("cell_output" in part["classes"] for part in parts)


def fold_plumbing(app, doctree, docname):
    """Fold rows of folded cells that show nothing, so that text comes soon."""
    for parent in list(doctree.findall(nodes.section)):
        for plumbing, row in groupby(list(parent), is_plumbing):
            row = list(row)
            if not plumbing or len(row) < AT_LEAST:
                continue
            label = f"Code for what follows ({len(row)} folded cells)"
            opening = f'<details class="plumbing"><summary>{label}</summary>'
            first = parent.index(row[0])
            parent.insert(first, nodes.raw("", opening, format="html"))
            last = parent.index(row[-1]) + 1
            parent.insert(last, nodes.raw("", "</details>", format="html"))


def unfold_launch_menu(app, pagename, templatename, context, doctree):
    """Replace the launch menu by its only entry, the Colab button."""
    buttons = context["header_buttons"]
    for place, menu in enumerate(buttons):
        if menu.get("label") == "launch-buttons":
            (buttons[place],) = menu["buttons"]
            # The theme draws a picture icon as large as it is.
            buttons[place] |= {"label": "colab", "icon": "fas fa-rocket"}


def greek(command):
    """Return the Greek letter that a LaTeX command names, or nothing."""
    try:
        return unicodedata.lookup(
            f"GREEK SMALL LETTER {command[1].removeprefix('var')}"
        )
    except KeyError:
        return ""


def text_of(block):
    """Return a block's text on one line, formulas in plain letters."""
    parts = []
    for text in block.findall(nodes.Text):
        formula = isinstance(text.parent, nodes.math)
        plain = re.sub(r"\\(\w+)", greek, text).translate(NO_BRACES)
        parts.append(plain if formula else text)
    return " ".join("".join(parts).split())


def ancestors(node):
    """Yield the node's parent, the parent's parent, and so on."""
    while node.parent is not None:
        node = node.parent
        yield node


def anchor_of(section):
    """Return a section's label, where it has one, else its heading's own id.

    The label is the last id. A label equal to the heading's id makes an "id1";
    with the minutes it is an exercise's old one.
    """
    names = [i for i in section["ids"] if not re.search(r"^id\d+$|-minutes$", i)]
    return (names or section["ids"])[-1]


def kind_of(block, classes):
    """Return what a block is to the search: prose, message, code, or None.

    `classes` are those of all that the block stands in. The code of folded
    cells is plumbing, and the same in all chapters.
    """
    if not isinstance(block, nodes.literal_block):
        return "prose" if "cell_output" not in classes else "code"
    if block.get("language") == "pytb":
        return "message"
    return None if {"tag_hide-input", "cell_input"} <= classes else "code"


def sections_of(doctree):
    """Return a page's sections as the search page wants them, in order.

    A section is a dictionary: its anchor, its title, its trail (the titles
    above it, the page's first), its prose, message and code. Subsections are
    sections of their own.
    """
    found = {}
    for section in doctree.findall(nodes.section):
        above = [n for n in ancestors(section) if isinstance(n, nodes.section)]
        found[section] = {
            "anchor": anchor_of(section),
            "title": text_of(section[0]),
            "trail": [text_of(parent[0]) for parent in reversed(above)],
        } | dict.fromkeys(["prose", "message", "code"], "")
    for block in doctree.findall(lambda node: isinstance(node, BLOCKS)):
        above = list(ancestors(block))
        section = next((n for n in above if isinstance(n, nodes.section)), None)
        classes = {name for n in above for name in n.get("classes", [])}
        kind = kind_of(block, classes)
        if kind and section:
            found[section][kind] += " " + text_of(block)
    return list(found.values())


class Sections:
    """Collects the sections of all pages while they are written."""

    def __init__(self):
        self.pages = {}  # name of a page -> its sections

    def collect(self, app, doctree, docname):
        """Take in a page whose references and pasted results are resolved."""
        self.pages[docname] = sections_of(doctree)

    def write(self, app, exception):
        """Write sections.js, a script, since a page opened as a file can't fetch."""
        if exception or app.builder.format != "html":
            return
        root = app.config.root_doc  # it comes first
        found = [
            {"page": app.builder.get_target_uri(page)} | section
            for page in sorted(self.pages, key=lambda page: (page != root, page))
            for section in self.pages[page]
        ]
        text = json.dumps(found, ensure_ascii=False, separators=(",", ":"))
        place = Path(app.outdir) / "sections.js"
        place.write_text(f"const SECTIONS = {text};\n", encoding="utf8")


def offer_colab_where_it_works(app, config):
    """Drop the Colab button where the repository is not on GitHub: it warns."""
    options = config.html_theme_options
    if not options.get("repository_url", "").startswith("https://github.com/"):
        options.get("launch_buttons", {}).pop("colab_url", None)


def setup(app):
    """Register all of the above with Sphinx."""
    app.setup_extension("myst_nb")
    app.setup_extension("found")
    app.add_directive_to_domain("glue", "figure", PasteFigure, override=True)
    app.add_post_transform(PasteSvg)
    app.connect("config-inited", offer_colab_where_it_works)
    app.connect("doctree-resolved", warn_about_alternative_text)
    app.connect("doctree-resolved", fold_plumbing)
    sections = Sections()
    app.connect("doctree-resolved", sections.collect)
    app.connect("build-finished", sections.write)
    # After the theme has made the menu, at 501.
    app.connect("html-page-context", unfold_launch_menu, priority=502)
    # Pages written in other processes would not reach Sections.
    return {"parallel_read_safe": True, "parallel_write_safe": False}
