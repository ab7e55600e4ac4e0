"""How claims look: cards and tables, in HTML and in plain text.

No script and no style sheet, so that a card looks the same in the book,
in JupyterLab and in Colab; its colours are the page's, light or dark.
"""

from html import escape
from math import isfinite, log
from re import sub

from utils.outcomes import Outcome, advice, number

GREY = "rgba(127,127,127,.5)"
BOX = f"border:1px solid {GREY};border-radius:.5em;padding:.5em .6em;"
BOX += "margin:.5em 0;max-width:44em;line-height:1.45;overflow-wrap:anywhere"
CELL = "padding:.4em .3em;text-align:left;vertical-align:top;white-space:normal;"
CELL += f"border:0;border-top:1px solid {GREY};font-weight:normal"


def card(outcome: Outcome) -> tuple[str, str]:
    """One outcome as (HTML, plain text)."""
    note = "" if outcome.holds else _note([outcome.failure])
    html = (
        f'<div style="{BOX}"><div>{_inline(outcome.sentence)}</div>'
        f"<details><summary>{_bar(outcome)} {_verdict(outcome)} {outcome.seeds}"
        f"</summary>{_inline(outcome.details)}</details>{note}</div>"
    )
    text = _text(outcome)
    return html, text if outcome.holds else f"{text}\n    {advice()}"


def table(heading: str, outcomes: list[Outcome]) -> tuple[str, str]:
    """Several outcomes as one table (HTML, plain text)."""
    seeds = {o.seeds for o in outcomes}
    column = seeds.pop().capitalize() if len(seeds) == 1 else "This run"
    head = "".join(
        f'<th scope="col" style="{CELL};border-top:0;font-weight:bold;width:{width}">'
        f"{name}</th>"
        for name, width in (("Claim", "55%"), (column, "45%"))
    )
    rows = "".join(
        f'<tr style="background:none"><th scope="row" style="{CELL}">{i}. '
        f'{_inline(o.sentence)}</th><td style="{CELL}">{_bar(o)} '
        f"{_verdict(o)}{' ' + o.seeds if column == 'This run' else ''}</td></tr>"
        for i, o in enumerate(outcomes, 1)
    )
    failures = [f"{i}. {o.failure}" for i, o in enumerate(outcomes, 1) if not o.holds]
    details = "".join(f"<li>{_inline(o.details)}</li>" for o in outcomes)
    html = (
        f'<div style="{BOX}"><table style="border-collapse:collapse;border:0;'
        "width:100%;margin:0;font-size:inherit;table-layout:fixed;display:table;"
        'color:inherit"><caption style="caption-side:top;text-align:left;color:inherit;'
        f'font-weight:bold;padding:.2em .3em">{_inline(heading)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
        f"{_note(failures) if failures else ''}"
        "<details><summary>Intervals, bounds and reasons</summary>"
        f'<ol style="margin:.3em 0;padding-left:1.8em">{details}</ol></details></div>'
    )
    texts = [heading, *map(_text, outcomes), *([advice()] if failures else [])]
    return html, "\n".join(texts)


def _text(o: Outcome) -> str:
    lines = [f"{o.sentence}: {o.verdict} {o.seeds}", f"    {o.details}"]
    return "\n".join(lines if o.holds else [*lines, f"    {o.failure}"])


def _inline(text: str) -> str:
    """Escaped; what stands in backticks is code; intervals stay on one line."""
    text = sub(r"(?<=,) (?=[−\d.e-]+\])|(?<=\d) (?=%)", "&nbsp;", escape(text))
    return sub("`([^`]+)`", r'<code style="white-space:normal">\1</code>', text)


def _verdict(o: Outcome) -> str:
    whole = sub(r"(?<=\de)-(?=\d)", "-&NoBreak;", o.verdict)  # 1e-07
    return f"<b>{'✓' if o.holds else '✗'}&nbsp;{whole}</b>"


def _note(failures: list[str]) -> str:
    style = "border-left:4px double;padding-left:.6em;margin:.4em 0"
    lines = "<br>".join(map(_inline, [*failures, advice()]))
    return f'<div style="{style}">{lines}</div>'


def _bar(o: Outcome) -> str:
    """The interval as a line, the estimate as a dot, what is claimed shaded."""
    e, (least, most) = o.estimate, o.within or (o.above, o.below)
    numbers = [e.value, e.low, e.high, *(b for b in (least, most) if b is not None)]
    if o.kind == "identity" or not all(map(isfinite, numbers)):
        return ""
    scale = log if e.scale == "log" and min(numbers) > 0 else float
    low, high = scale(min(numbers)), scale(max(numbers))
    margin = 0.12 * (high - low) or 1
    low, high = low - margin, high + margin

    def at(x: float | None, otherwise: int) -> float:
        return otherwise if x is None else 100 * (scale(x) - low) / (high - low)

    start, end = at(least, 0), at(most, 100)
    ticks = "".join(
        f'<path d="M{at(b, 0):.1f} 1v14" stroke="currentColor" stroke-dasharray="2 2"/>'
        for b in (least, most)
        if b is not None
    )
    label = escape(f"{e:v}, from {number(e.low)} to {number(e.high)}; {o.bound}")
    return (
        f'<svg role="img" aria-label="{label}" viewBox="0 0 100 16" width="100" '
        'height="16" style="max-width:100%;vertical-align:middle">'
        f'<rect x="{start:.1f}" y="1" width="{end - start:.1f}" height="14" '
        f'fill="currentColor" fill-opacity=".12"/>{ticks}'
        f'<path d="M{at(e.low, 0):.1f} 8H{at(e.high, 0):.1f}" stroke="currentColor" '
        f'stroke-width="2"/><circle cx="{at(e.value, 0):.1f}" cy="8" r="3.5" '
        'fill="currentColor"/></svg>'
    )
