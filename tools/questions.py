r"""Export the question bank for learning platforms.

    make questions                    # both halves of the bank
    make questions SECRET=folder      # and the private ones, folder/questions/*.yml

In _release/questions: `canvas/07_book.zip` and so on, a quiz for each chapter and
half, in QTI 1.2; and `moodle/*.xml`, one file for each half, with a category for
each chapter. Why QTI 1.2: it is what Canvas imports into both of its kinds of
quizzes, and what text2qti, which writes it, is made for. Canvas sets formulas by
itself; Moodle's MathJax filter, on by default, sets \(…\).
"""

import os
import re
import shutil
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from text2qti.config import Config
from text2qti.qti import QTI
from text2qti.quiz import Quiz

import bank
from bank import Question

FOLDER = Path("_release") / "questions"
LETTERS = "abcdefghij"
COURSE = "Batch Normalization, Measured"


def feedback(question: Question) -> str:
    """What is said once the question is answered, in Markdown."""
    return f"{' '.join(question.why.split())} *{question.experiment}*"


def quiz_text(title: str, questions: list[Question]) -> str:
    """Questions in the plain text that text2qti reads."""
    lines = [f"Quiz title: {title}", "shuffle answers: true", ""]
    for i, question in enumerate(questions, start=1):
        lines += [f"Title: {question.id}", "Points: 1"]
        lines += [f"{i}.  {' '.join(question.ask.split())}"]
        lines += [f"... {feedback(question)}"]
        if question.answer is not None:
            # Canvas wants whole numbers without a margin, others with one.
            whole = question.tolerance == 0 and question.answer.is_integer()
            margin = "" if whole else f" +- {question.tolerance:g}"
            lines += [f"=   {question.answer:g}{margin}", ""]
            continue
        for letter, option in zip(LETTERS, question.options):
            mark = "*" if option.belief is None else ""
            lines += [f"{mark}{letter}) {' '.join(option.text.split())}"]
            if option.belief:
                lines += [f"... Behind it: *{option.belief.text}*"]
        lines += [""]
    return "\n".join(lines)


def canvas(title: str, questions: list[Question]) -> bytes:
    """A zip in QTI 1.2 with one quiz."""
    quiz = Quiz(quiz_text(title, questions), config=Config(), source_name=title)
    return QTI(quiz).zip_bytes()


def moodle(questions: list[Question], half: str) -> ET.ElementTree:
    """Questions in Moodle's XML, a category for each chapter."""
    root = ET.Element("quiz")
    for chapter, group in groupby(questions, key=lambda q: q.chapter):
        category = ET.SubElement(root, "question", type="category")
        name = f"$course$/top/{COURSE}/{half}/{chapter}"
        ET.SubElement(ET.SubElement(category, "category"), "text").text = name
        for question in group:
            root.append(_moodle_question(question))
    ET.indent(root)
    return ET.ElementTree(root)


def _moodle_question(question: Question) -> ET.Element:
    numeric = question.answer is not None
    kind = "numerical" if numeric else "multichoice"
    element = ET.Element("question", type=kind)
    ET.SubElement(ET.SubElement(element, "name"), "text").text = question.id
    _html(element, "questiontext", question.ask)
    _html(element, "generalfeedback", feedback(question))
    settings = {"defaultgrade": "1", "penalty": "0.3333333", "hidden": "0"}
    if not numeric:
        settings |= {
            "single": "true",
            "shuffleanswers": "true",
            "answernumbering": "abc",
        }
    for name, setting in settings.items():
        ET.SubElement(element, name).text = setting
    for text, behind, tolerance in _answers(question):
        answer = ET.SubElement(element, "answer", fraction="0" if behind else "100")
        if numeric:
            answer.set("format", "moodle_auto_format")
            ET.SubElement(answer, "text").text = text
            ET.SubElement(answer, "tolerance").text = f"{tolerance:g}"
        else:
            answer.set("format", "html")
            ET.SubElement(answer, "text").text = _for_moodle(text)
        _html(answer, "feedback", f"Behind it: *{behind}*" if behind else "Right.")
    return element


def _answers(question: Question) -> Iterator[tuple[str, str, float]]:
    """Each answer that is known: its text, what is behind it, its tolerance."""
    if question.answer is not None:
        yield f"{question.answer:g}", "", question.tolerance
    for option in question.options:
        yield (
            option.text,
            option.belief.text if option.belief else "",
            question.tolerance,
        )


def _html(parent: ET.Element, name: str, text: str) -> None:
    element = ET.SubElement(parent, name, format="html")
    ET.SubElement(element, "text").text = f"<p>{_for_moodle(text)}</p>"


def _for_moodle(text: str) -> str:
    r"""HTML with formulas as \(…\), for the MathJax filter."""
    formula = r'<span class="math inline">(.*?)</span>'
    return re.sub(formula, r"\\(\1\\)", bank.to_html(text))


def write(folder: Path, questions: list[Question], private: set[str]) -> list[Path]:
    """Write all files; return them. private: ids that came from outside."""
    shutil.rmtree(folder, ignore_errors=True)
    parts = {half: [q for q in questions if q.half == half] for half in bank.HALVES}
    parts = {
        half: [q for q in part if q.id not in private] for half, part in parts.items()
    }
    parts["secret"] = [q for q in questions if q.id in private]
    files = []
    for half, part in parts.items():
        part.sort(key=lambda question: question.id)
        for chapter, group in groupby(part, key=lambda question: question.chapter):
            file = folder / "canvas" / f"{chapter}_{half}.zip"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(canvas(f"{COURSE}: chapter {chapter}, {half}", [*group]))
            files.append(file)
        if part:
            file = folder / "moodle" / f"{half}.xml"
            file.parent.mkdir(parents=True, exist_ok=True)
            moodle(part, half).write(file, encoding="utf-8", xml_declaration=True)
            files.append(file)
    return files


def main() -> None:
    more = (
        [Path(os.environ["SECRET"]) / "questions"] if os.environ.get("SECRET") else []
    )
    try:
        public = {question.id for question in bank.load(bank.ROOT)}
        questions = bank.load(bank.ROOT, *more)
    except ValueError as error:
        sys.exit(f"{error}\nNothing is written: mend this first.")
    private = {question.id for question in questions} - public
    files = write(bank.ROOT / FOLDER, questions, private)
    zips = sum(file.suffix == ".zip" for file in files)
    print(
        f"{len(questions)} questions, {len(private)} of them private, in {FOLDER}: "
        f"{zips} quizzes for Canvas (Settings, Import Course Content, QTI .zip), "
        f"{len(files) - zips} files for Moodle (Question bank, Import, Moodle XML)."
    )
    if not more:
        print(
            "All of these are public, answers and all. For marks write questions of "
            "your own: instructors/questions/README.md, SECRET=folder."
        )


if __name__ == "__main__":
    main()
