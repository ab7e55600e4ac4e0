"""The exercises of a notebook, and what code they need.

Names are found with `symtable`, Python's own account of what a piece of code
binds and reads; statements are the pieces, since a chapter's cell often defines
what an exercise needs beside what it does not.
"""

import ast
import re
import symtable
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from nbformat import NotebookNode

DEFINITIONS = (ast.FunctionDef, ast.ClassDef)
CODE_SPAN = re.compile(r"```.*?```|`[^`\n]+`", re.DOTALL)


def tags(cell: NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


@dataclass(frozen=True)
class Statement:
    """A top-level statement with the comments before it."""

    source: str
    binds: frozenset[str]
    reads: frozenset[str]  # by the whole, bodies of functions included
    changes: frozenset[str]  # x in x[0] = 1, x.a = 1 and x += 1
    kind: type  # of its node: ast.Import, ast.FunctionDef, …


def statements(source: str) -> list[Statement]:
    """The top-level statements of a cell; SyntaxError where it has none.

    IPython's magics are no Python: translate them first where they matter.
    """
    lines, start, found = source.split("\n"), 0, []
    nodes = ast.parse(source).body
    for node, following in zip(nodes, [*nodes[1:], None]):
        if following is not None and following.lineno == node.end_lineno:
            continue  # `a = 1; b = 2` is one piece
        text = "\n".join(lines[start : node.end_lineno])
        start = node.end_lineno
        binds, reads = names(text)
        changes = frozenset(_stored_into(node))
        if isinstance(node, ast.AugAssign):
            binds -= changes  # symtable's are those of an assignment
        found.append(Statement(text, binds, reads | changes, changes, type(node)))
    return found


def names(source: str) -> tuple[frozenset[str], frozenset[str]]:
    """The names that code binds at the top level, and the globals that it reads."""
    top = symtable.symtable(source, "cell", "exec")
    symbols = top.get_symbols()
    binds = {s.get_name() for s in symbols if s.is_assigned() or s.is_imported()}
    reads, tables = set(), [top]
    while tables:
        table = tables.pop()
        tables += table.get_children()
        for symbol in table.get_symbols():
            if symbol.is_referenced() and (table is top or symbol.is_global()):
                reads.add(symbol.get_name())
    return frozenset(binds), frozenset(reads)


def _stored_into(node: ast.AST) -> Iterator[str]:
    """The x of `x[…] = …`, `x.a = …`, `x += …`, outside of functions and classes."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Lambda)):
        return
    if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
        yield node.target.id
    if isinstance(node, (ast.Attribute, ast.Subscript)):
        root = node
        while isinstance(root, (ast.Attribute, ast.Subscript)):
            root = root.value
        if isinstance(node.ctx, ast.Store) and isinstance(root, ast.Name):
            yield root.id
    for child in ast.iter_child_nodes(node):
        yield from _stored_into(child)


def needed(
    wanted: Iterable[str], before: list[Statement], given: Iterable[str] = ()
) -> set[int]:
    """Positions of the statements that bind what is wanted, and what those need.

    Searched from the last to the first, so that a name is bound by the statement
    that would have bound it last. given: names that are there anyhow.
    """
    first, given = set(wanted), set(given)
    while True:
        wanted, kept = set(first), set()
        for i in reversed(range(len(before))):
            statement = before[i]
            if (statement.binds | statement.changes) & wanted:
                kept.add(i)
                wanted -= statement.binds
                wanted |= statement.reads - given
        # A function reads when it is called: after all that is here
        bodies = [before[i] for i in kept if before[i].kind in DEFINITIONS]
        later = frozenset().union(*(s.reads for s in bodies)) - given
        if later <= first:
            return kept
        first |= later


@dataclass(frozen=True)
class Exercise:
    """One exercise: its cells, and what identifies the answer."""

    number: str  # 07-1, as in the grade_id ex-07-1
    title: str  # 7.1 A layer that does not starve
    points: float
    prompt: NotebookNode
    stub: NotebookNode  # the answer cell, where it is a written question
    check: NotebookNode | None  # None: a written question
    solution: NotebookNode | None  # None: taken out

    @property
    def written(self) -> bool:
        return self.check is None

    @property
    def label(self) -> str:
        """7.1, as the student knows it."""
        return self.title.partition(" ")[0]

    @property
    def call(self) -> ast.Call:
        """checks.careful(careful), the last expression of the check."""
        return ast.parse(self.check.source).body[-1].value

    @property
    def answer(self) -> str:
        """careful: what the check is given, and the student writes."""
        return ast.unparse(self.call.args[0])


def exercises(notebook: NotebookNode) -> list[Exercise]:
    """In their order in the notebook. Lint has made sure of their form."""
    found, cells = [], notebook.cells
    for i, stub in enumerate(cells):
        if "exercise" not in tags(stub):
            continue
        after = [*cells[i + 1 : i + 3], None, None]
        check = after.pop(0) if stub.cell_type == "code" else None
        solution = after[0] if after[0] and "solution" in tags(after[0]) else None
        number = stub.metadata.nbgrader.grade_id.removeprefix("ex-")
        prompt = cells[i - 1]
        label = "{}.{}".format(*map(int, number.split("-")))
        heading = re.search(rf"Exercise {re.escape(label)}\b(.*)", prompt.source)
        words = heading[1].partition("(★")[0] if heading else ""
        points = (check or stub).metadata.nbgrader.points
        title = f"{label}{words}".strip()
        found.append(Exercise(number, title, points, prompt, stub, check, solution))
    return found


def wanted_by(exercise: Exercise, given: dict[str, type]) -> set[str]:
    """The names from outside that an exercise needs or offers.

    given: what the cells before it bind, with the kind of the statement. Of
    what the prompt mentions in code, functions and classes are meant; other
    names there are mostly arguments.
    """
    own, wanted = set(), set()
    for cell in (exercise.stub, exercise.check, exercise.solution):
        if cell is not None:
            binds, reads = names(cell.source)
            own, wanted = own | binds, wanted | reads
    stub = ast.walk(ast.parse(exercise.stub.source))
    own |= {node.arg for node in stub if isinstance(node, ast.arg)}
    code = " ".join(CODE_SPAN.findall(exercise.prompt.source))
    for name in re.findall(r"[A-Za-z_]\w*", code):
        if given.get(name) in DEFINITIONS:
            wanted.add(name)
    return wanted - own
