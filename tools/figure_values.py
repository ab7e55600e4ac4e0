"""What a run measured, in words that end a figure's alternative text.

A cell's metadata says what its figure shows, and no number that only a run can
know. Here the claims beside the figure are put into a sentence, so that who hears
the page has its values, too, those of the run that drew it.
"""

import re
from collections.abc import Iterable

LONGEST = 400  # letters, of the whole text: nobody can stop half-way and look again
# As utils/outcomes.py and utils/statistics.py write them.
VERDICT = re.compile(r"^(.+): (?:holds|not confirmed)( exactly| to \S+)? in .+$")
NUMBER = r"[−\d.e-]+"
ESTIMATE = re.compile(rf"({NUMBER})((?: (?:%|[a-z]+))?) \[({NUMBER}), ({NUMBER})\]")

VALUE = re.compile(r"\d\]? (?:%|points|times)|" + ESTIMATE.pattern)


def spoken(text: str) -> str:
    """The text without its marks, as one would read it aloud."""
    text = ESTIMATE.sub(r"\1\2 (from \3 to \4)", text)
    return " ".join(re.sub(r"[`*]", "", text).replace("−", "minus ").split())


def opposite(number: str) -> str:
    return number[1:] if number.startswith("−") else f"−{number}"


def with_interval(sentence: str, details: str) -> str:
    """A claim's sentence with its interval behind its number.

    "BN loses 5 points" is said of −5 points [−6, −4]: it is from 4 to 6 then.
    """
    value, unit, low, high = ESTIMATE.match(details).groups()
    if not re.search(rf"(?<![\d.−]){re.escape(value + unit)}(?!\d)", sentence):
        value, low, high = map(opposite, (value, high, low))
    number = value + unit
    before, found, after = sentence.rpartition(number)
    return f"{before}{number} [{low}, {high}]{after}" if found else sentence


def claimed(text: str) -> tuple[list[str], list[str]]:
    """The claims and the identities in a card's plain text.

    The first of a table begins with the table's heading, without which
    "3 layers: 26 points" would say nothing.
    """
    claims, identities, heading = [], [], ""
    lines = text.splitlines()
    for line, details in zip(lines, [*lines[1:], ""]):
        found = VERDICT.match(line)
        if not found:
            heading = heading or f"{line}: "
            continue
        sentence, accuracy = found.groups("")
        if ESTIMATE.match(details.strip()):
            sentence = with_interval(sentence, details.strip())
            claims.append(spoken((heading if not claims else "") + sentence))
        else:
            identities.append(spoken(f"{sentence},{accuracy or ' in this run'}"))
    return claims, identities


def found(text: str) -> list[str]:
    """The sentences of a printed finding that have a number with its unit."""
    if "|" in text or VERDICT.search(text.partition("\n")[0]):
        return []
    sentences = re.split(r"(?<=[.!?]) +(?=[A-Z(*])", text.replace("**In short:** ", ""))
    return [spoken(s).rstrip(".") for s in sentences if VALUE.search(s)]


def near(figures: list[int], number: int, said: dict[int, list[str]]) -> list[str]:
    """What was said from this figure to the next; before the first, too.

    `figures` and the keys of `said` are places in the section.
    """
    start = figures[number] if number else -1
    end = figures[number + 1] if number + 1 < len(figures) else float("inf")
    return [s for place in said if start < place < end for s in said[place]]


def values(section: Iterable) -> list[list[str]]:
    """For each figure of a section, what the run measured beside it.

    The section is what its cells showed, in order: plain texts, and figures, which
    are whatever is no text. A figure gets the claims up to the next one; if there
    are none, those that come next, or came last. A section without a claim has its
    findings, or identities.
    """
    items = list(section)
    texts = {i: item for i, item in enumerate(items) if isinstance(item, str)}
    figures = [i for i in range(len(items)) if i not in texts]
    claims = {i: claimed(text)[0] for i, text in texts.items()}
    findings = {i: found(text) for i, text in texts.items()}
    identities = {i: claimed(text)[1] for i, text in texts.items()}
    added = []
    for number, place in enumerate(figures):
        after = [claims[i] for i in claims if i > place and claims[i]]
        before = [claims[i] for i in claims if i < place and claims[i]]
        added.append(
            near(figures, number, claims)
            or next(iter(after[:1] + before[-1:]), [])
            or near(figures, number, findings)
            or near(figures, number, identities)
        )
    return added


def shorter(statement: str) -> str:
    """The statement without its last clause, or without its table's heading."""
    for cut in (r"[,;] [^,;]*$", r"^[^:]*: "):
        less = re.sub(cut, "", statement)
        if VALUE.search(less) and less != statement:
            return less
    return statement


def complete(alt: str, measured: list[str]) -> str:
    """The alternative text with as many of the values as there is room for."""
    if not measured:
        return alt
    alt += " Measured: "
    first, *rest = measured
    while len(alt) + len(first) >= LONGEST and shorter(first) != first:
        first = shorter(first)
    text = alt + first
    for statement in rest:
        if len(text) + len(statement) + 2 >= LONGEST:
            break
        text += f"; {statement}"
    return f"{text}."
