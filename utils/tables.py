"""Tables and sentences in Markdown, shown when they end a cell."""

import re
from collections.abc import Iterable, Sequence
from numbers import Integral, Real

from IPython.display import Markdown

from utils.statistics import Estimate, minus

EMPTY = ("", "–")  # nothing was measured; the column is still one of numbers
NUMBER = re.compile(
    r"[−-]?\d+(\.\d+)?(e[−-]?\d+)?"
)  # as whoever wrote the cell wants it


class Prose(Markdown):
    """Markdown whose plain text, in a terminal, is the Markdown itself."""

    def __repr__(self) -> str:
        return self.data


def table(
    header: Sequence[str], rows: Iterable[Sequence], caption: str | None = None
) -> Prose:
    """A Markdown table; columns of numbers and estimates are set right.

    A cell is a text (Markdown), a number, or an Estimate, which is shown
    with its interval. The caption stands above.
    """
    rows = [list(row) for row in rows]
    for row in rows:
        if len(row) != len(header):
            raise ValueError(f"{len(header)} columns, but a row has {len(row)}: {row}")
    right = [
        any(_is_number(row[i]) for row in rows)
        and all(_is_number(row[i]) or row[i] in EMPTY for row in rows)
        for i in range(len(header))
    ]
    lines = [_line(header), _line("---:" if r else ":---" for r in right)]
    lines += [
        _line("–" if r and cell == "" else cell for r, cell in zip(right, row))
        for row in rows
    ]
    return Prose((f"{caption}\n\n" if caption else "") + "\n".join(lines))


def _is_number(cell) -> bool:
    return isinstance(cell, Estimate | Real) or bool(NUMBER.fullmatch(str(cell)))


def _line(cells: Iterable) -> str:
    return "| " + " | ".join(map(_text, cells)) + " |"


def _text(cell) -> str:
    if isinstance(cell, Real):
        whole = isinstance(cell, Integral) or abs(cell) >= 1000
        cell = minus(f"{cell:.0f}" if whole else f"{cell:.3g}")
    text = " ".join(str(cell).split())
    return text.replace("\\|", "|").replace("|", "\\|")  # also if escaped before
