"""The pages that `make grade` writes: for each student, for the class, to read.

What a student wrote is text on them: it is escaped, so it can't run in the
instructor's browser.
"""

import re
from collections import Counter
from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from nbformat import NotebookNode

from exercises import exercises

TAGS = re.compile(r"</?(details|summary)[^>]*>")


def file_name(student: str, taken: set[str]) -> str:
    """A file's name for a student, another one for each."""
    plain = re.sub(r"[^\w-]+", "_", student).strip("_") or "student"
    name, count = f"{plain}.html", 1
    while name.lower() in taken:
        count += 1
        name = f"{plain}_{count}.html"
    taken.add(name.lower())
    return name


class Pages:
    """Writes them into a folder."""

    def __init__(self, folder: Path, chapter: NotebookNode, found: list):
        self.folder, self.found = folder, found
        self.chapter = chapter.cells[0].source.partition("\n")[0].lstrip("# ")
        self.solutions = {e.number: e.solution.source for e in exercises(chapter)}
        loader = FileSystemLoader(Path(__file__).parent)
        environment = Environment(loader=loader, autoescape=True, trim_blocks=True)
        self.template = environment.get_template("grade_pages.html")

    def page(self, name: str, kind: str, **values: object) -> None:
        html = self.template.render(kind=kind, chapter=self.chapter, **values)
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(html.strip() + "\n", encoding="utf-8")

    def lines(self, grades: dict, marks: dict, hand: set[str]) -> list[dict]:
        """What the pages say of each exercise of a student."""
        return [
            {
                "title": e.title,
                "points": e.points,
                "mark": marks[e.number],
                "hand": e.number in hand,
                "said": grades[e.number].said,
                "answer": grades[e.number].answer.source.strip(),
                "outputs": grades[e.number].outputs.strip(),
            }
            for e in self.found
        ]

    def write(
        self, results: dict, marks: dict, hand: dict, hints: Counter, how: str
    ) -> None:
        taken: set[str] = set()
        files, lines = {}, {}
        for student, (grades, flags) in results.items():
            own = {exercise for name, exercise in hand if name == student}
            lines[student] = self.lines(grades, marks[student], own)
            files[student] = file_name(student, taken)
            self.page(
                f"feedback/{files[student]}",
                "feedback",
                student=student,
                lines=lines[student],
                flags=flags,
            )
        self.page(
            "class.html",
            "class",
            students=len(results),
            how=how,
            exercises=[self.statistics(e, results, marks) for e in self.found],
            hints=hints.most_common(),
            flagged=[
                (s, files[s], flags) for s, (_, flags) in results.items() if flags
            ],
        )
        questions = [
            {
                "title": e.title,
                "points": e.points,
                "prompt": e.prompt.source,
                "solution": TAGS.sub("", self.solutions[e.number]).strip(),
                "answers": [(s, lines[s][i]) for s in results],
            }
            for i, e in enumerate(self.found)
            if e.written
        ]
        self.page("questions.html", "questions", questions=questions)

    def statistics(self, exercise, results: dict, marks: dict) -> dict:
        given = [marks[s][exercise.number] for s in results]
        known = [mark for mark in given if mark is not None]
        states = [
            grades[exercise.number].answer.state for grades, _ in results.values()
        ]
        return {
            "title": exercise.title,
            "points": exercise.points,
            "mean": f"{sum(known) / len(known):.2g}" if known else "–",
            "full": sum(mark == exercise.points for mark in known),
            "empty": states.count("empty"),
            "missing": len(given) - len(known),
        }
