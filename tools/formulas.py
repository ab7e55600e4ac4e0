"""Formulas as MathML, which browsers draw without a script.

math-core turns LaTeX into MathML Core. The book, the slides and the pages of
`make grade` have it from here.
"""

import base64
import re
from html import escape
from pathlib import Path

from markdown_it import MarkdownIt
from math_core import LatexError, LatexToMathML
from mdit_py_plugins.dollarmath import dollarmath_plugin

FONT = Path(__file__).resolve().parents[1] / "theme" / "math.woff2"
CONVERTER = LatexToMathML(annotation=False, fancy_error=False)
# MathML has no space between two rows of its own; css spaces all rows alike.
ROW_SPACE = re.compile(r"\\\\\[[^\]]*\]")


def mathml(latex: str, display: bool) -> str:
    """The formula as MathML; display: on a line of its own, as between `$$`.

    Raises ValueError where it is no LaTeX.
    """
    source = ROW_SPACE.sub(r"\\\\", latex)
    try:
        return CONVERTER.convert_with_local_state(source, displaystyle=display)
    except LatexError as error:
        raise ValueError(f"formula not understood: {latex}: {error}") from None


def markdown() -> MarkdownIt:
    """CommonMark with tables and formulas, for our own text: its HTML stays HTML.

    What is no LaTeX stays as it is written; the book's build warns of it.
    """
    made = MarkdownIt("commonmark").enable("table")
    made.use(dollarmath_plugin, double_inline=True)
    for name in ("math_inline", "math_inline_double", "math_block"):
        made.add_render_rule(name, _rule(display=name != "math_inline"))
    return made


def _rule(display: bool):
    def render(self, tokens, i, options, env):
        try:
            return mathml(tokens[i].content, display)
        except ValueError:
            return f"<code>{escape(tokens[i].content)}</code>"

    return render


def font() -> str:
    """The font of the book's formulas, for a page that has nothing beside it."""
    data = base64.b64encode(FONT.read_bytes()).decode()
    return f"data:font/woff2;base64,{data}"
