"""The book's Sphinx extension: pasted figures and alternative text.

It does what Jupyter Book leaves open:

- a figure that a chapter glues can be pasted, as svg and with its
  alternative text, into another page;
- every image without alternative text of its own is a warning, which
  the build turns into an error;
- folded cells that show nothing and stand in a row are one folded thing;
- the Colab button is a button, not the one entry of a menu.
"""

import hashlib
import os
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


def offer_colab_where_it_works(app, config):
    """Drop the Colab button where the repository is not on GitHub: it warns."""
    options = config.html_theme_options
    if not options.get("repository_url", "").startswith("https://github.com/"):
        options.get("launch_buttons", {}).pop("colab_url", None)


def setup(app):
    """Register all of the above with Sphinx."""
    app.setup_extension("myst_nb")
    app.add_directive_to_domain("glue", "figure", PasteFigure, override=True)
    app.add_post_transform(PasteSvg)
    app.connect("config-inited", offer_colab_where_it_works)
    app.connect("doctree-resolved", warn_about_alternative_text)
    app.connect("doctree-resolved", fold_plumbing)
    # After the theme has made the menu, at 501.
    app.connect("html-page-context", unfold_launch_menu, priority=502)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
