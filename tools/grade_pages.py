"""The pages that `make grade` writes: for each student, for the class, to read.

What a student wrote is text on them: it is escaped, so it can't run in the
instructor's browser.
"""

import re
from collections import defaultdict
from pathlib import Path

import yaml
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup
from nbformat import NotebookNode

import formulas
from exercises import Exercise, exercises
from homework import LINK

RUBRICS = Path("instructors") / "rubrics.yml"
LEVELS = {"full": 1.0, "partial": 0.5, "wrong": 0.0}  # share of the points
TAGS = re.compile(r"</?details[^>]*>|<summary>.*?</summary>")
HEADING = re.compile(r"^#.*\n", re.MULTILINE)
# What differs between two students with the same mistake
OWN = re.compile(
    r" \(\d+ of \d+ cases right\)$|, yours is .*|, for an input .*| \([^()]*line \d+\)$"
)


def file_name(student: str, taken: set[str]) -> str:
    """A file's name for a student, another one for each."""
    plain = re.sub(r"[^\w-]+", "_", student).strip("_") or "student"
    name, count = f"{plain}.html", 1
    while name.lower() in taken:
        count += 1
        name = f"{plain}_{count}.html"
    taken.add(name.lower())
    return name


def rendered(markdown: str) -> Markup:
    """Our own text, a question or its answer, as HTML."""
    text = LINK.sub(r"\1", markdown)  # a page alone leads nowhere
    return Markup(formulas.markdown().render(text))


def rubric_of(exercise: Exercise, rubrics: dict) -> list[dict]:
    """What earns all, half and none of the points; [] where nothing says it."""
    question = " ".join(exercise.prompt.source.split())
    for words, found in rubrics.items():
        if words in question:
            return [
                {"mark": share * exercise.points, **found[level]}
                for level, share in LEVELS.items()
            ]
    return []


def hint_of(said: str) -> str:
    """A hint in the words that all who made the mistake have seen."""
    return OWN.sub("", OWN.sub("", said.removeprefix("Not yet: ")))


def without_answer(lines: dict[str, list[dict]], i: int) -> dict[str, list[str]]:
    """What is said of exercise i where there is nothing to read: of whom."""
    found = defaultdict(list)
    for student, own in lines.items():
        if not own[i]["answered"]:
            found[own[i]["said"]].append(student)
    return found


class Pages:
    """Writes them into a folder."""

    def __init__(self, folder: Path, chapter: NotebookNode, found: list, root: Path):
        self.folder, self.found = folder, found
        self.chapter = chapter.cells[0].source.partition("\n")[0].lstrip("# ")
        self.solutions = {e.number: e.solution.source for e in exercises(chapter)}
        path = root / RUBRICS
        self.rubrics = yaml.safe_load(path.read_text("utf-8")) if path.exists() else {}
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
                "written": e.written,
                "said": grades[e.number].said,
                "answer": grades[e.number].answer.source.strip(),
                "answered": grades[e.number].answer.state == "answered"
                and bool(grades[e.number].answer.source.strip()),
                "outputs": grades[e.number].outputs.strip(),
            }
            for e in self.found
        ]

    def write(self, results: dict, marks: dict, hand: dict, how: str) -> None:
        taken: set[str] = set()
        files, lines = {}, {}
        for student, (grades, flags) in results.items():
            own = {exercise for name, exercise in hand if name == student}
            lines[student] = self.lines(grades, marks[student], own)
            files[student] = file_name(student, taken)
            given = [line["mark"] for line in lines[student]]
            total = {
                "mark": sum(mark for mark in given if mark is not None),
                "points": sum(e.points for e in self.found),
                "open": given.count(None),
            }
            self.page(
                f"feedback/{files[student]}",
                "feedback",
                student=student,
                total=total,
                lines=lines[student],
                flags=flags,
            )
        self.page(
            "class.html",
            "class",
            students=len(results),
            how=how,
            exercises=[self.statistics(e, results, marks) for e in self.found],
            hints=self.hints(results, files),
            flagged=[
                (s, files[s], flags) for s, (_, flags) in results.items() if flags
            ],
        )
        questions = [
            {
                "title": e.title,
                "points": e.points,
                "prompt": rendered(HEADING.sub("", e.prompt.source)),
                "rubric": rubric_of(e, self.rubrics),
                "solution": rendered(TAGS.sub("", self.solutions[e.number]).strip()),
                "answers": [(s, lines[s][i]) for s in results],
                "none": without_answer(lines, i),
            }
            for i, e in enumerate(self.found)
            if e.written
        ]
        font = formulas.font()
        self.page("questions.html", "questions", questions=questions, font=font)

    def hints(self, results: dict, files: dict[str, str]) -> list[dict]:
        """Each hint with the students who have it, the most frequent first."""
        who = defaultdict(list)
        for exercise in self.found:
            for student, (grades, _) in results.items():
                said = grades[exercise.number].said
                if said.startswith("Not yet"):
                    who[exercise.label, hint_of(said)].append((student, files[student]))
        found = [{"label": e, "said": s, "who": names} for (e, s), names in who.items()]
        return sorted(found, key=lambda hint: -len(hint["who"]))

    def statistics(self, exercise: Exercise, results: dict, marks: dict) -> dict:
        given = [marks[s][exercise.number] for s in results]
        known = [mark for mark in given if mark is not None]
        states = [
            grades[exercise.number].answer.state for grades, _ in results.values()
        ]
        mean = sum(known) / len(known) if known else None
        return {
            "title": exercise.title,
            "points": exercise.points,
            "mean": "–" if mean is None else f"{mean:.2f}",
            "share": None if mean is None else mean / exercise.points,
            "full": sum(mark == exercise.points for mark in known),
            "empty": states.count("empty"),
            "missing": len(given) - len(known),
        }
