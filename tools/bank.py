"""The question bank: reads instructors/questions and checks its form.

A file NN.yml is a list of questions of chapter NN; misconceptions.yml names what
wrong answers rest on. instructors/questions/README.md has the format. The book
(theme/questions.py), the exports (tools/questions.py), the guide's list of
misconceptions and the tests read the bank through here.
"""

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml
from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin

ROOT = Path(__file__).resolve().parent.parent
BANK = Path("instructors") / "questions"
BELIEFS = "misconceptions.yml"
HALVES = ("book", "instructors")
NEEDED = {"id", "for", "ask", "why", "experiment"}
OTHERS = {"options", "answer", "tolerance", "slips", "verify"}


@dataclass(frozen=True)
class Experiment:
    """A section of a chapter."""

    chapter: str  # 07_batch_size_one
    title: str  # of the chapter
    heading: str  # in plain letters; the title, where it is the whole chapter

    def __str__(self) -> str:
        return f"Chapter {self.chapter[:2]}, {self.title}: {self.heading}"


@dataclass(frozen=True)
class Belief:
    """A misconception, and the experiment that dispels it."""

    text: str
    experiment: Experiment


@dataclass(frozen=True)
class Option:
    """What can be chosen, or a wrong number that we know; Markdown."""

    text: str
    belief: Belief | None  # None: it is right


@dataclass(frozen=True)
class Question:
    id: str  # 07a
    half: str  # book or instructors
    ask: str
    why: str
    experiment: Experiment
    options: tuple[Option, ...]  # of a numeric question: the numbers known as wrong
    answer: float | None  # None: multiple choice
    tolerance: float
    verify: str  # Python; its last expression is the answer, or true

    @property
    def chapter(self) -> str:
        return self.id[:2]

    @property
    def right(self) -> str:
        """The right option, or the number."""
        if self.answer is not None:
            return f"{self.answer:g}"
        return next(option.text for option in self.options if option.belief is None)


def plain(heading: str) -> str:
    """A heading without the marks of Markdown."""
    return heading.replace("`", "").strip()


@cache
def headings(root: Path) -> dict[str, list[str]]:
    """{name of a chapter: its headings, the title first}."""
    found = {}
    for path in sorted((root / "chapters").glob("[0-9][0-9]_*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        text = "\n".join(
            "".join(c["source"]) for c in cells if c["cell_type"] != "code"
        )
        found[path.stem] = [plain(h) for h in re.findall(r"^#+ (.+)$", text, re.M)]
    return found


def experiment(place: object, root: Path) -> Experiment:
    """The section that [number of a chapter, heading] names."""
    match place:
        case [int(number), str(heading)]:
            for chapter, found in headings(root).items():
                if int(chapter[:2]) == number and heading in found:
                    return Experiment(chapter, found[0].partition(":")[0], heading)
    raise ValueError(
        f"expected the number of a chapter and a heading in it, got {place!r}"
    )


def load(root: Path = ROOT, *more: Path) -> list[Question]:
    """All questions, those of further folders behind; ValueError says what is wrong."""
    beliefs, questions = {}, {}
    for folder in (root / BANK, *more):
        paths = sorted(folder.glob("*.yml"))
        if not paths:
            raise ValueError(f"{folder}: expected questions, NN.yml, and found none")
        if folder / BELIEFS in paths:
            paths.remove(folder / BELIEFS)
            for name, entry in _read(folder / BELIEFS, dict).items():
                with _at(f"{BELIEFS}, {name}"):
                    place = experiment(entry["experiment"], root)
                    beliefs[name] = Belief(entry["belief"], place)
        for path in paths:
            for entry in _read(path, list):
                name = entry.get("id") if isinstance(entry, dict) else entry
                with _at(f"{path.name}, {name}"):
                    question = _question(entry, beliefs, root)
                    if question.id in questions:
                        raise ValueError("expected an id of its own, and it is taken")
                    questions[question.id] = question
    return list(questions.values())


def misconceptions(questions: list[Question]) -> dict[Belief, list[str]]:
    """{misconception: the ids of the questions that look for it}, by experiment."""
    found: dict[Belief, list[str]] = {}
    for question in questions:
        for option in question.options:
            if option.belief and question.id not in found.setdefault(option.belief, []):
                found[option.belief].append(question.id)
    names = list(headings(ROOT))
    return dict(
        sorted(found.items(), key=lambda item: names.index(item[0].experiment.chapter))
    )


class _at:
    """Say where, in front of what is wrong."""

    def __init__(self, place: str):
        self.place = place

    def __enter__(self):
        pass

    def __exit__(self, kind, error, trace):
        if isinstance(error, KeyError):
            raise ValueError(f"{self.place}: {error} is missing or unknown") from None
        if isinstance(error, (ValueError, TypeError)):
            raise ValueError(f"{self.place}: {error}") from None


def _read(path: Path, kind: type):
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        why = " ".join(str(error).split())
        raise ValueError(f"{path.name}: expected YAML: {why}") from None
    if not isinstance(content, kind):
        raise ValueError(
            f"{path.name}: expected a {kind.__name__}, see the README there"
        )
    return content


def _question(entry: dict, beliefs: dict[str, Belief], root: Path) -> Question:
    if not isinstance(entry, dict):
        raise ValueError("expected a question, with an id and so on")
    given = set(entry)
    wrong = sorted(given - NEEDED - OTHERS) + sorted(NEEDED - given)
    if wrong:
        raise ValueError(f"these fields are missing or unknown: {', '.join(wrong)}")
    if not re.fullmatch(r"\d\d[a-z]+\d*", str(entry["id"])):
        raise ValueError("expected an id such as 07a: chapter and letter")
    if entry["for"] not in HALVES:
        raise ValueError(f"expected for: {' or '.join(HALVES)}")
    numeric = "answer" in entry
    if numeric == ("options" in entry):
        raise ValueError("expected either options or an answer")
    if numeric:
        answer, tolerance = float(entry["answer"]), float(entry.get("tolerance", 0))
        options = tuple(
            Option(f"{float(slip['value']):g}", beliefs[slip["belief"]])
            for slip in entry.get("slips", [])
        )
        for slip in options:
            if abs(float(slip.text) - answer) <= tolerance:
                raise ValueError(f"the wrong number {slip.text} counts as right")
    else:
        answer, tolerance, options = (
            None,
            0.0,
            tuple(
                Option(option["right"], None)
                if "right" in option
                else Option(option["wrong"], beliefs[option["belief"]])
                for option in entry["options"]
            ),
        )
        texts = {option.text for option in options}
        if len(texts) < 3 or len(texts) < len(options):
            raise ValueError("expected three options or more, all of them different")
        if sum(option.belief is None for option in options) != 1:
            raise ValueError("expected exactly one option that is right")
    return Question(
        entry["id"],
        entry["for"],
        entry["ask"],
        entry["why"],
        experiment(entry["experiment"], root),
        options,
        answer,
        tolerance,
        entry.get("verify", ""),
    )


_MARKDOWN = MarkdownIt("commonmark", {"html": False, "typographer": True})
_MARKDOWN.enable("smartquotes")
_MARKDOWN.use(dollarmath_plugin)


def to_html(text: str) -> str:
    """Inline Markdown as HTML; a formula is LaTeX in <span class="math inline">."""
    return _MARKDOWN.renderInline(" ".join(text.split()))
