"""Tables for those who teach, made from the chapters and from the question bank.

```{exercise-table}
```
```{misconceptions}
```
"""

import re
import sys
from itertools import groupby
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from myst_parser.mdit_to_docutils.base import default_slugify
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tools"))  # Sphinx is not started from there

import bank  # noqa: E402
import course_table  # noqa: E402

CHAPTERS = "../chapters/"  # from the page of the guide


def link(chapter, text, heading=""):
    """A Markdown link to a chapter, or to a section of it."""
    anchor = f"#{default_slugify(heading)}" if heading else ""
    return f"[{text}]({CHAPTERS}{chapter}.ipynb{anchor})"


def chapters_table():
    """A row for each chapter, and a sum."""
    rows = course_table.rows(ROOT)
    yield "| no. | chapter | reading, min | exercises | min | points | needs |"
    yield "|---|---|---|---|---|---|---|"
    for row in rows:
        needs = row.needs.replace("](", f"]({CHAPTERS}")
        yield (
            f"| {row.number} | {link(row.name, row.title)} | {row.reading} | "
            f"{len(row.exercises)} | {row.minutes} | {row.points:g} | {needs} |"
        )
    sums = [
        sum(getattr(row, name) for row in rows)
        for name in ("reading", "minutes", "points")
    ]
    count = sum(len(row.exercises) for row in rows)
    yield f"| | all | {sums[0]} | {count} | {sums[1]} | {sums[2]:g} | |"


def exercises_table(row):
    """What a chapter is for, and a row for each exercise."""
    yield f"**{row.number} {link(row.name, row.title)}.** After it one can"
    yield ""
    yield from (f"- {objective};" for objective in row.objectives[:-1])
    yield f"- {row.objectives[-1]}."
    yield ""
    yield "| exercise | title | stars | min | points | marked by |"
    yield "|---|---|---|---|---|---|"
    for exercise in row.exercises:
        by = "a person" if exercise.written else "its check"
        yield (
            f"| {exercise.label} | {course_table.words(exercise)} | "
            f"{course_table.stars(exercise)} | {course_table.minutes(exercise)} | "
            f"{exercise.points:g} | {by} |"
        )
    yield ""


class Generated(SphinxDirective):
    """A directive whose content is Markdown that `lines` makes."""

    sources = "chapters/[0-9]*.ipynb"

    def run(self):
        for path in sorted(ROOT.glob(self.sources)):
            self.env.note_dependency(str(path))
        content = StringList(
            list(self.lines()), source=self.env.doc2path(self.env.docname)
        )
        holder = nodes.container()
        self.state.nested_parse(content, self.content_offset, holder)
        return holder.children


class ExerciseTable(Generated):
    def lines(self):
        yield from chapters_table()
        yield ""
        for row in course_table.rows(ROOT):
            yield from exercises_table(row)


class Misconceptions(Generated):
    sources = f"{bank.BANK}/*.yml"

    def lines(self):
        found = bank.misconceptions(bank.load(ROOT))
        by_chapter = groupby(found.items(), key=lambda item: item[0].experiment.chapter)
        for chapter, items in by_chapter:
            title = bank.headings(ROOT)[chapter][0].partition(":")[0]
            yield f"**{chapter[:2]} {title}**"
            yield ""
            yield "| misconception | dispelled by | asked in |"
            yield "|---|---|---|"
            for belief, asked in items:
                place = belief.experiment
                heading = re.sub(r"[|]", r"\|", place.heading)
                yield (
                    f"| {belief.text} | {link(chapter, heading, place.heading)} | "
                    f"{', '.join(asked)} |"
                )
            yield ""


def setup(app):
    """Register both with Sphinx."""
    app.add_directive("exercise-table", ExerciseTable)
    app.add_directive("misconceptions", Misconceptions)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
