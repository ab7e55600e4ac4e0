"""What students handed in: whose it is, and where in it the answers are.

Learning platforms rename files, and students copy, move and delete cells. So a
student's name is looked for in the file's name as Canvas, Moodle or Classroom
writes it, in the folder's name, and in the notebook; an answer by its grade_id,
by the id of its cell, and by the name that it defines.
"""

import builtins
import io
import re
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import nbformat
from IPython.core.inputtransformer2 import TransformerManager
from nbformat import NotebookNode

from exercises import Exercise, names, needed, statements, tags
from homework import NAME, NAME_CELL

LARGEST = 50e6  # bytes of one file
# What a Mac adds, and what we handed out
JUNK = re.compile(r"(^|/)(__MACOSX/|\.|utils/|data/|LICENSE$)")
CANVAS = re.compile(r"(?P<name>.+?)_(LATE_)?(?P<id>\d+)_\d+_(?P<rest>.+)")
MOODLE = re.compile(r"(?P<name>.+)_(?P<id>\d+)_assignsubmission_[a-z]+_?(?P<rest>.*)")
COPY = re.compile(r"\b(Copy|Kopie|Copie|Copia) (\(\d+\) )?(of|von|de|di)\b", re.I)
AGAIN = re.compile(r"\((\d+)\)|-(\d+)$")  # downloaded, or handed in, once more
GENERIC = {"", "submitted", "submissions", "downloads", "assignment", "homework"}
PREDEFINED = {*dir(builtins), "get_ipython", "display", "In", "Out", "__name__"}


@dataclass
class Handed:
    """A file, whose it is, and its notebook where it is one."""

    path: str
    student: str = ""
    number: str = ""  # the platform's, where names may be alike
    attempt: int = 0
    notebook: NotebookNode | None = None
    problem: str = ""


@dataclass
class Answer:
    """What a student wrote for one exercise."""

    source: str = ""
    helpers: str = ""  # what it needs of the student's other cells
    state: str = "answered"  # or "empty": as handed out, or "lost": not there
    flags: list[str] = field(default_factory=list)


def files(source: Path) -> Iterator[tuple[str, bytes]]:
    """(name, content) of all files of a folder or a zip, zips in it included."""
    if source.is_dir():
        for path in sorted(source.rglob("*")):
            if path.is_file():
                yield from unpacked(path.relative_to(source).as_posix(), path)
    else:
        yield from unpacked("", source)


def unpacked(name: str, source: Path | bytes, depth: int = 0) -> Iterator:
    """The file itself, or what is in it where it is a zip that can be read."""
    if JUNK.search(name):
        return
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    is_zip = name.lower().endswith(".zip") or not name
    if not is_zip or depth > 3 or not zipfile.is_zipfile(file):
        yield name, source if isinstance(source, bytes) else source.read_bytes()
        return
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            inner = "/".join(filter(None, [name, info.filename]))
            if info.is_dir() or JUNK.search(inner):
                continue
            try:
                small = info.file_size <= LARGEST
                content = archive.read(info) if small else b""
            except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError):
                content = b""  # damaged, or with a password: said when it is read
            yield from unpacked(inner, content, depth + 1)


def without_chapter(text: str, chapter: str) -> str:
    """What is left of a file's or folder's name: nothing, or the student's."""
    words = r"[ _-]*".join(map(re.escape, chapter.split("_")))
    text = re.sub(words, " ", COPY.sub(" ", text), flags=re.IGNORECASE)
    return AGAIN.sub(" ", text.strip()).strip(" _-–—")


def owner(path: str, chapter: str) -> Handed:
    """Whose file it is, by its name and its folders' names."""
    parts = PurePosixPath(path).parts
    zips = [i for i, part in enumerate(parts) if part.lower().endswith(".zip")]
    if zips and zips[0] + 1 < len(parts):  # a student's: whose it is says its name
        inside = owner("/".join(parts[zips[0] + 1 :]), chapter)
        handed = owner("/".join(parts[: zips[0] + 1]), chapter)
        if inside.number and not handed.number:  # the zip is a platform's
            handed = inside
        if handed.student:
            handed.path = path
            return handed
    stem = PurePosixPath(parts[-1]).stem
    handed = Handed(path)
    again = AGAIN.search(stem)
    handed.attempt = int(again[1] or again[2]) if again else 0
    for pattern, texts in ((MOODLE, parts), (CANVAS, [stem])):
        for text in texts:
            if found := pattern.fullmatch(text):
                handed.student, handed.number = found["name"], found["id"]
                return handed
    for text in (stem, *reversed(parts[:-1])):
        name = without_chapter(text, chapter)
        if name.lower() not in GENERIC:
            handed.student = name
            break
    return handed


def several_students(paths: list[str], chapter: str) -> set[str]:
    """The zips that hold files of several students: their names name nobody."""
    owners: dict[str, set[str]] = {}
    for path in paths:
        outer, found, inner = path.partition(".zip/")
        if found:
            handed = owner(inner, chapter)
            stem = PurePosixPath(inner).stem
            rest = without_chapter(stem, chapter)
            name = handed.student if handed.number else rest.replace(stem, "")
            owners.setdefault(outer, set()).add(name)
    return {zip for zip, students in owners.items() if len(students - {""}) > 1}


def read(handed: Handed, content: bytes) -> None:
    """Read the notebook; where that fails, say so in `problem`."""
    name = PurePosixPath(handed.path).name
    if not name.lower().endswith(".ipynb"):
        handed.problem = f"{name} is no notebook"
        return
    try:
        text = content.decode("utf-8-sig")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what can be mended is mended
            handed.notebook = nbformat.reads(text, as_version=4)
        for cell in handed.notebook.cells:
            assert isinstance(cell.source, str) and cell.metadata is not None
    except Exception as error:  # whatever is wrong with it, it is one student's
        handed.notebook = None
        handed.problem = f"{name} cannot be read ({type(error).__name__})"


def name_inside(notebook: NotebookNode) -> str:
    """The name that the student wrote, or the one that Colab stored."""
    for cell in notebook.cells:
        if cell.get("id") == NAME_CELL or cell.source.startswith("**Name:**"):
            name = cell.source.replace("**Name:**", "").strip(" *_\n")
            if cell.source != NAME and name:
                return name
    for cell in notebook.cells:
        user = cell.metadata.get("executionInfo", {}).get("user", {})
        if isinstance(user, dict) and user.get("displayName"):
            return user["displayName"]
    return ""


def plain(text: str) -> str:
    """Without what makes a spreadsheet take a text for a formula."""
    return text.lstrip("=+-@\t\r\n ")


def collect(source: Path, chapter: str, clean: NotebookNode) -> dict[str, list[Handed]]:
    """By student, the files handed in, the one to grade first."""
    known = {cell.id for cell in clean.cells}
    found: dict[tuple[str, str], list[Handed]] = {}
    everything = [(path or source.name, content) for path, content in files(source)]
    downloads = several_students([path for path, _ in everything], chapter)
    for path, content in everything:
        outer, _, inner = path.partition(".zip/")
        handed = owner(inner if outer in downloads else path, chapter)
        handed.path = path
        read(handed, content)
        if not handed.student and handed.notebook:
            handed.student = name_inside(handed.notebook)
        if not handed.student:
            handed.student = PurePosixPath(handed.path).stem
            handed.problem = handed.problem or "whose file is this? It has no name"
        handed.student = plain(handed.student) or "student"
        found.setdefault((handed.student, handed.number), []).append(handed)

    def rank(handed: Handed) -> tuple:
        cells = handed.notebook.cells if handed.notebook else []
        return sum(cell.get("id") in known for cell in cells), bool(cells)

    students = [student for student, _ in found]
    result = {}
    for (student, number), several in found.items():
        notebooks = [h for h in several if h.path.lower().endswith(".ipynb")]
        several = notebooks or several
        several.sort(key=lambda h: (bool(h.notebook), h.attempt, rank(h)), reverse=True)
        twice = students.count(student) > 1
        result[f"{student} ({number})" if twice else student] = several
    return result


def python(source: str) -> str:
    """A cell as Python: IPython's magics become calls."""
    return TransformerManager().transform_cell(source)


def bound_by(source: str) -> frozenset[str]:
    """The names that a cell binds; none where it is no Python."""
    try:
        return names(python(source))[0]
    except (SyntaxError, ValueError):
        return frozenset()


def same(a: str, b: str) -> bool:
    """Equal, but for spaces at the ends of lines."""
    return [x.rstrip() for x in a.split("\n")] == [x.rstrip() for x in b.split("\n")]


def is_text(cell: NotebookNode) -> bool:
    """Whether a cell is words, also where they are comments in a code cell."""
    if cell.cell_type != "code":
        return True
    try:
        return not statements(python(cell.source))
    except (SyntaxError, ValueError):
        return True


def is_solution(cell: NotebookNode) -> bool:
    """A published solution, where a whole chapter was handed in."""
    title = cell.source.lstrip().lower().startswith("# @title solution")
    return "solution" in tags(cell) or title


def marked(cell: NotebookNode, exercise: Exercise) -> bool:
    grade_id = cell.metadata.get("nbgrader", {}).get("grade_id")
    return grade_id == f"ex-{exercise.number}" or cell.get("id") == exercise.stub.id


def seems_to_answer(cell: NotebookNode, name: str) -> bool:
    """Whether a cell has the answer as text: also one that is no code, or a magic's."""
    name = re.escape(name)
    return bool(re.search(rf"^\s*((def|class) +{name}\b|{name} *=)", cell.source, re.M))


def find_code(
    exercise: Exercise, clean: NotebookNode, handed: NotebookNode, known: set[str]
) -> Answer:
    """The answer to an exercise in code, with what it needs of other cells."""
    cells = [c for c in handed.cells if c.cell_type == "code" and not is_solution(c)]
    by_mark = [c for c in cells if marked(c, exercise)]
    by_name = [c for c in cells if exercise.answer in bound_by(c.source)]
    stub = exercise.stub.source
    changed = [c for c in by_name if not same(c.source, stub)]
    changed = changed or [c for c in by_mark if not same(c.source, stub)]
    if not changed:
        known = known | {cell.source.strip() for cell in clean.cells}
        new = [c for c in handed.cells if c.source.strip() not in known]
        elsewhere = any(
            seems_to_answer(c, exercise.answer)
            for c in new
            if not is_solution(c) and not same(c.source, stub)
        )
        present = (by_mark or by_name) and not elsewhere
        return Answer(stub, state="empty" if present else "lost")
    answer = Answer(changed[-1].source)
    if len({c.source.strip() for c in changed}) > 1:
        answer.flags.append(f"{len(changed)} cells answer it: the last was graded")
    answer.helpers = helpers(exercise, changed, clean, cells)
    return answer


def helpers(exercise: Exercise, answers: list, clean: NotebookNode, cells: list) -> str:
    """What the answer reads and the clean notebook has not: from other cells."""
    given = set(PREDEFINED)
    for cell in clean.cells:
        if cell.cell_type == "code" and cell.source != exercise.stub.source:
            given |= bound_by(cell.source)
    try:
        own, reads = names(python(answers[-1].source))
    except (SyntaxError, ValueError):
        return ""
    pieces = []
    for cell in cells:
        if cell not in answers:
            try:
                pieces += statements(python(cell.source))
            except (SyntaxError, ValueError):
                continue  # it defines nothing that could run
    kept = needed(reads - own - given, pieces, given)
    return "\n".join(p.source for i, p in enumerate(pieces) if i in kept)


def find_words(
    exercise: Exercise, clean: NotebookNode, handed: NotebookNode, known: set[str]
) -> Answer:
    """A written answer: its cell, and new cells between it and the next known one."""
    originals = {cell.id for cell in clean.cells}
    sources = known | {cell.source.strip() for cell in clean.cells}
    prompt, stub, texts, here, new = exercise.prompt, exercise.stub, [], False, 0
    heading = prompt.source.partition("\n")[0].strip()
    for cell in handed.cells:
        text = cell.source.strip()
        if is_solution(cell) or not text:
            continue
        if marked(cell, exercise):
            here = True
            if text != stub.source.strip():
                texts.append(text)
        elif cell.get("id") == prompt.id or text.startswith(heading):
            here = True
            if text != prompt.source.strip():  # written into the question
                texts.append(text)
        elif text in sources or cell.get("id") in originals:
            here = False
        elif is_text(cell):
            new += 1
            if here:
                texts.append(text)
    if texts:
        return Answer("\n\n".join(texts))
    placeholder = stub.source.strip()
    present = any(
        marked(cell, exercise) or cell.source.strip() == placeholder
        for cell in handed.cells
    )
    return Answer(state="empty" if present and not new else "lost")


def find_answers(
    found: list[Exercise],
    clean: NotebookNode,
    handed: NotebookNode,
    chapter: NotebookNode,
) -> dict[str, Answer]:
    """By the number of the exercise; the chapter's own text is nobody's answer."""
    known = {cell.source.strip() for cell in chapter.cells}
    return {
        e.number: find_words(e, clean, handed, known)
        if e.written
        else find_code(e, clean, handed, known)
        for e in found
    }
