"""Mathematics as MathML, which browsers draw without a script.

math-core turns LaTeX into MathML Core while the book is built. The
browser finds sizes of roots, sums and brackets in theme/math.woff2, a part
of Latin Modern Math that tools/math_font.py cut out.
"""

import re
from html import escape

from docutils import nodes
from math_core import LatexError, LatexToMathML
from sphinx.util import logging

LOGGER = logging.getLogger(__name__)
CONVERTER = LatexToMathML(annotation=False, fancy_error=False)
# MathML has no space between two rows of its own; css spaces all rows alike.
ROW_SPACE = re.compile(r"\\\\\[[^\]]*\]")


def mathml(latex, display, location=None):
    r"""Return the formula as MathML; warn, and return LaTeX, if it is none.

    display: on a line of its own, as between `$$`.
    """
    try:
        return CONVERTER.convert_with_local_state(
            ROW_SPACE.sub(r"\\\\", latex), displaystyle=display
        )
    except LatexError as error:
        LOGGER.warning(
            "formula not understood: %s: %s", latex, error, location=location
        )
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
