"""The book's mathematics as MathML, which browsers draw without a script.

The browser finds sizes of roots, sums and brackets in theme/math.woff2, a part
of Latin Modern Math that tools/math_font.py cut out.
"""

import sys
from html import escape
from pathlib import Path

from docutils import nodes
from sphinx.util import logging

TOOLS = Path(__file__).resolve().parents[1] / "tools"
sys.path.append(str(TOOLS))  # Sphinx is not started from there

import formulas  # noqa: E402

LOGGER = logging.getLogger(__name__)


def mathml(latex, display, location=None):
    """Return the formula as MathML; warn, and return LaTeX, if it is none.

    display: on a line of its own, as between `$$`.
    """
    try:
        return formulas.mathml(latex, display)
    except ValueError as error:
        LOGGER.warning("%s", error, location=location)
        return f"<code>{escape(latex)}</code>"


def visit_inline(translator, node):
    """Write a formula of a sentence."""
    formula = mathml(node.astext(), False, node)
    translator.body.append(f'<span class="math notranslate">{formula}</span>')
    raise nodes.SkipNode  # its text is LaTeX


def visit_block(translator, node):
    """Write a formula that stands by itself."""
    ids = "".join(f' id="{name}"' for name in node.get("ids", [])[:1])
    formula = mathml(node.astext(), True, node)
    translator.body.append(f'<div class="math notranslate"{ids}>{formula}</div>')
    raise nodes.SkipNode


def setup(app):
    """Offer it as `html_math_renderer`, which _config.yml sets."""
    app.add_html_math_renderer(
        "mathml",
        inline_renderers=(visit_inline, None),
        block_renderers=(visit_block, None),
    )
    return {"parallel_read_safe": True, "parallel_write_safe": True}
