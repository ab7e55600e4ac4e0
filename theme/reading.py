"""What a reader meets: numbered chapters, results before their code, exercises.

A notebook runs from top to bottom, and computes before it shows. A reader
wants the result first; here the built page is put in that order.
"""

import re
from itertools import groupby

from docutils import nodes
from myst_nb.sphinx_ import HideCodeCellNode

ICONS = {"Colab": "fas fa-rocket", "Binder": "fas fa-cloud"}
AT_LEAST = 3  # folded cells in a row, to be folded once more
WIDE = {120: "longer", 40: "long"}  # letters of a table's cell -> its column
SHORT = 12  # letters of code that is never broken
EXERCISE = {"tag_exercise", "tag_check", "tag_solution"}


def classes_of(node):
    """Return the classes of a node, none for a text."""
    return node.get("classes", []) if isinstance(node, nodes.Element) else []


def number_of(docname):
    """Return a chapter's number, "07", or nothing for another page."""
    found = re.match(r"chapters/(\d\d)_", docname)
    return found[1] if found else ""


def number_title(app, doctree):
    """Put the chapter's number before its title, wherever that is shown."""
    number = number_of(app.env.docname)
    title = next(doctree.findall(nodes.title), None)
    if number and title is not None:
        title.insert(0, nodes.inline("", number, classes=["number"]))
        title.insert(1, nodes.Text(" "))


def minutes_first(doctree):
    """Say below the title how long a chapter takes."""
    for section in doctree.findall(nodes.section):
        for paragraph in section.findall(nodes.paragraph):
            if re.match(r"\d+ minutes of reading", paragraph.astext()):
                paragraph.parent.remove(paragraph)
                paragraph["classes"].append("minutes")
                section.insert(1, paragraph)
                return
        return  # only the page's own, the first


def is_plumbing(node):
    """Is it a folded cell that shows nothing?"""
    if "tag_hide-input" not in classes_of(node):
        return False
    parts = node.findall(nodes.container)
    return not any("cell_output" in part["classes"] for part in parts)


def fold_plumbing(doctree):
    """Fold rows of folded cells that show nothing, so that text comes soon."""
    for parent in list(doctree.findall(nodes.section)):
        for plumbing, row in groupby(list(parent), is_plumbing):
            row = list(row)
            if not plumbing or len(row) < AT_LEAST:
                continue
            label = f"Code ({len(row)} folded cells)"
            opening = f'<details class="plumbing"><summary>{label}</summary>'
            first = parent.index(row[0])
            parent.insert(first, nodes.raw("", opening, format="html"))
            last = parent.index(row[-1]) + 1
            parent.insert(last, nodes.raw("", "</details>", format="html"))


def is_folded_code(node):
    """Is it a cell whose code alone is folded?"""
    return "tag_hide-input" in classes_of(node)


def results_first(doctree):
    """In a row of cells with folded code, put all results before all code."""
    for parent in list(doctree.findall(nodes.section)):
        order = []
        for folded, row in groupby(list(parent), is_folded_code):
            row = list(row)
            if not folded:
                order += row
                continue
            shows = [cell for cell in row if not is_plumbing(cell)]
            order += shows
            for cell in row:
                if cell in shows:
                    code = nodes.container("", cell[0], classes=list(cell["classes"]))
                    cell.pop(0)
                    cell["classes"] = ["cell", "shows"]
                    cell = code
                order.append(cell)
        parent.children = order
        for node in order:
            node.parent = parent


def name_folded_code(doctree):
    """Call folded code by its `# @title`."""
    for cell in list(doctree.findall(nodes.container)):
        if not cell.children or not isinstance(cell[0], HideCodeCellNode):
            continue
        folded = cell[0]
        title = re.match(r"# @title (.+)", folded.astext())
        if title and "tag_hide-input" in cell["classes"]:
            folded["prompt_show"] = folded["prompt_hide"] = f"Code: {title[1]}"


def is_exercise(node):
    """Is it a cell of an exercise, or its folded answer's end?"""
    ends = isinstance(node, nodes.raw) and "</details>" in node.astext()
    return ends or bool(EXERCISE & set(classes_of(node)))


def box_exercises(doctree):
    """Make an exercise's section end where the exercise ends, and a box."""
    for section in list(doctree.findall(nodes.section)):
        if not section[0].astext().startswith("Exercise "):
            continue
        last = max((i for i, n in enumerate(section) if is_exercise(n)), default=None)
        if last is None:
            continue
        section["classes"].append("exercise")
        rest = section.children[last + 1 :]
        place = section.parent.index(section) + 1
        for node in rest:
            section.remove(node)
        section.parent.children[place:place] = rest
        for node in rest:
            node.parent = section.parent


def caption_tables(doctree):
    """Make the sentence above a printed table its caption; name empty heads."""
    for number, table in enumerate(list(doctree.findall(nodes.table)), 1):
        place = table.parent.index(table)
        above = table.parent[place - 1] if place else None
        in_output = "cell_output" in classes_of(table.parent)
        if in_output and isinstance(above, nodes.paragraph):
            table.parent.remove(above)
            table.insert(0, nodes.title("", "", *above.children))
            table["ids"] = table["ids"] or [f"table-{number}"]
        for head in table.findall(nodes.thead):
            for entry in head.findall(nodes.entry):
                if not entry.astext().strip():
                    label = nodes.inline("", "row", classes=["visually-hidden"])
                    entry[:] = [nodes.paragraph("", "", label)]


def widen_long_columns(doctree):
    """Mark the cells of columns with much text, which a full row would squeeze."""
    for body in doctree.findall(nodes.tbody):
        for column in zip(*(row.children for row in body.children)):
            most = max(len(entry.astext()) for entry in column)
            name = next((WIDE[letters] for letters in WIDE if most >= letters), None)
            for entry in column if name else []:
                entry["classes"].append(name)


# The space in "[9, 19]", "5 %", "> 3" and "8 × 8"; "1e-07" gets a joiner.
TOGETHER = re.compile(r"(?<=,) (?=[−\d.e-]+\])|(?<=\d) (?=[%×])|(?<=[×<>≤≥]) (?=[−\d])")
# What belongs to the formula or the code before it.
PUNCTUATION = re.compile(r"^[.,;:?!)\]%]+")


def keep_numbers_whole(doctree):
    """Break no line inside a number, an interval, a bound or a product."""
    for text in list(doctree.findall(nodes.Text)):
        whole = TOGETHER.sub("\N{NO-BREAK SPACE}", text)
        whole = re.sub(r"(?<=\de)-(?=\d)", "-\N{WORD JOINER}", whole)
        as_written = (nodes.FixedTextElement, nodes.literal, nodes.math)
        if whole != text and not isinstance(text.parent, as_written):
            text.parent.replace(text, nodes.Text(whole))


def keep_punctuation(doctree):
    """Begin no line with the comma after a formula or after code."""
    for node in list(
        doctree.findall(lambda n: isinstance(n, (nodes.math, nodes.literal)))
    ):
        place = node.parent.index(node) + 1
        after = node.parent[place] if place < len(node.parent) else None
        found = isinstance(after, nodes.Text) and PUNCTUATION.match(after)
        if not found:
            continue
        node.parent.replace(after, nodes.Text(after[found.end() :]))
        together = nodes.inline("", "", classes=["together"])
        node.parent.replace(node, together)
        together += [node, nodes.Text(found[0])]


def arrange(app, doctree, docname):
    """Do all of the above to a page that is about to be written."""
    minutes_first(doctree)
    box_exercises(doctree)
    name_folded_code(doctree)
    results_first(doctree)
    fold_plumbing(doctree)
    caption_tables(doctree)
    widen_long_columns(doctree)
    keep_numbers_whole(doctree)
    keep_punctuation(doctree)


def visit_folded(translator, node):
    """Write folded code; myst-nb's label hides the visible one (WCAG 2.5.3)."""
    classes = " ".join(node["classes"])
    labels = dict(collapsed=node["prompt_show"], expanded=node["prompt_hide"])
    if len(set(labels.values())) == 1:
        labels.pop("expanded")
    spans = "".join(
        f'<span class="admonition-title {when if len(labels) > 1 else ""}">'
        f"{translator.encode(text)}</span>"
        for when, text in labels.items()
    )
    translator.body.append(
        f'<details class="admonition hide {classes}"><summary>{spans}</summary>'
    )


def depart_folded(translator, node):
    """Close it."""
    translator.body.append("</details>")


def header_buttons(app, pagename, templatename, context, doctree):
    """Show the buttons of the theme's menus, since each has one of use."""
    buttons = []
    for button in context["header_buttons"]:
        label = button.get("label")
        if label == "launch-buttons":
            # Colab, the quicker, comes first. The theme draws a picture icon as
            # large as it is.
            entries = sorted(button["buttons"], key=lambda e: e["text"] != "Colab")
            buttons += [
                entry | {"label": entry["text"].lower(), "icon": ICONS[entry["text"]]}
                for entry in entries
            ]
        elif label == "download-buttons":
            source = next(b for b in button["buttons"] if b["type"] == "link")
            notebook = source["url"].endswith(".ipynb")
            icon = {"icon": "fas fa-download", "label": "download", "text": "Download"}
            buttons += [source | icon] if notebook else []
            buttons.append(
                {
                    "type": "javascript",
                    "javascript": "print()",
                    "tooltip": "Print, or save as PDF",
                    "icon": "fas fa-print",
                    "label": "print",
                }
            )
        else:
            buttons.append(button)
    context["header_buttons"] = buttons


# Code in a sentence or in a claim's card, and after which signs its line may break.
CODE = re.compile(
    r'(?<=<span class="pre">)[^<]+|(?<=<code style="white-space:normal">)[^<]+'
)
JOINTS = re.compile(r"(?<=\w[._=/(])(?=\w)")
SHORT_CODE = re.compile(rf'<span class="pre">(?=[^<]{{1,{SHORT}}}</span>)')


def break_code(app, pagename, templatename, context, doctree):
    """Let long names in code break after a dot or an underscore, short ones nowhere."""
    if doctree is not None:
        body = SHORT_CODE.sub('<span class="pre together">', context["body"])
        context["body"] = CODE.sub(lambda m: JOINTS.sub("<wbr>", m[0]), body)


def setup(app):
    """Register all of the above with Sphinx."""
    # Before Sphinx collects the titles, at 500.
    app.connect("doctree-read", number_title, priority=400)
    app.connect("doctree-resolved", arrange)
    app.add_node(HideCodeCellNode, override=True, html=(visit_folded, depart_folded))
    app.connect("html-page-context", break_code)
    # After the theme has made the menus, at 501.
    app.connect("html-page-context", header_buttons, priority=502)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
