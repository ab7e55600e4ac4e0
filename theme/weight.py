"""A light page: one style sheet of what the book uses, and one script.

The theme and Sphinx's extensions would send a page 9 style sheets and 12
scripts, 1.2 MB, most of it for what this book has not. Here the sheets
become `_static/book.css`, without the rules that match nothing in any page,
and the scripts `_static/book.js`. Both are made when all pages are written;
the pages refer to them by theme/static/webpack-macros.html.
"""

import hashlib
import re
from pathlib import Path

import tinycss2
from sphinx.errors import ExtensionError

# The theme names these two in the template that ours replaces.
THEME_SHEETS = ["styles/theme.css", "styles/pydata-sphinx-theme.css"]
# In the order in which they have to run.
SCRIPTS = [
    "documentation_options.js",
    "clipboard.min.js",
    "copybutton.js",
    "scripts/sphinx-book-theme.js",
    "scripts/pydata-sphinx-theme.js",
    "course.js",
    "progress.js",
]
# Sphinx's search highlights and keys, and tabs, which the book has not.
UNUSED = ["doctools.js", "sphinx_highlight.js", "design-tabs.js"]

# The theme measures each block of code as soon as it can, and again when anything
# changes, which lays out a page before it is shown; course.js measures what is near.
MEASURES = r'document\.querySelectorAll\(\["pre",[^\]]*\]\.join\(", "\)\)'

NAME = r"-?[A-Za-z_][\w-]*"
# What a selector asks for: .class, #id, element, [attribute. Pseudo-classes
# and what stands in their brackets, such as :not(.hidden), ask for nothing.
ASKED = re.compile(rf"[.#]({NAME})|(?:^|(?<=[\s>+~]))({NAME})|\[\s*({NAME})")
PSEUDO = re.compile(rf"::?{NAME}(\((?:[^()]|\([^()]*\))*\))?")
FOREIGN_FONT = "Font Awesome"  # we draw the icons: theme/icons.css
# A browser adds these; no page spells them out.
IMPLIED = {"html", "head", "body", "tbody"}


def words_of_page(html):
    """Return the names of a page's elements, attributes, classes and ids."""
    words = set()
    for script in re.findall(r"<script>(.*?)</script>", html, flags=re.S):
        words |= words_of_script(script)
    html = re.sub(r"<(script|style)\b.*?</\1>", "", html, flags=re.S)
    words |= set(re.findall(rf"<({NAME})", html))
    words |= set(re.findall(rf"\s({NAME})(?=[=\s/>])", "".join(tags_of(html))))
    for value in re.findall(r'\s(?:class|id|for)="([^"]*)"', html):
        words.update(value.split())
    return words


def tags_of(html):
    """Return the opening tags of a page, each as it is written."""
    return re.findall(r"<[A-Za-z](?:[^<>\"]|\"[^\"]*\")*>", html)


def words_of_script(script):
    """Return every word in a script's strings: it may add any as a class."""
    strings = re.findall(r"'[^'\n]*'|\"[^\"\n]*\"|`[^`]*`", script)
    return {word for string in strings for word in re.findall(NAME, string)}


def is_used(selector, words):
    """Can the selector match, when these are the words of all pages?"""
    if "\\" in selector:  # an escaped name: spare us the unescaping
        return True
    asked = ASKED.findall(PSEUDO.sub("", selector))
    return all(name in words for found in asked for name in found if name)


def selectors_of(rule):
    """Return the selectors of a rule, which commas part; none in brackets."""
    groups = [[]]
    for token in rule.prelude:
        if token == ",":
            groups.append([])
        else:
            groups[-1].append(token)
    return [tinycss2.serialize(group).strip() for group in groups]


def purge(css, words):
    """Return the sheet without what no page uses, and without comments.

    First go the rules that match none of `words`. Then go variables that no
    rule reads; one may be read by another only, so this goes on until
    nothing more falls away."""
    rules = tinycss2.parse_stylesheet(css, skip_comments=True, skip_whitespace=True)
    text = write_rules(rules, words, None)
    size = None
    while size != len(text):
        size = len(text)
        read = set(re.findall(r"var\(\s*(--[\w-]+)", text))
        rules = tinycss2.parse_stylesheet(text)
        text = write_rules(rules, words, read)
    return text


def write_rules(rules, words, read):
    """Return the rules as text; see `write_rule`."""
    return "".join(write_rule(rule, words, read) for rule in rules)


def write_rule(rule, words, read):
    """Return one rule as text, or nothing, if no page uses it.

    words: the names in all pages. read: the variables that some rule reads;
    None if all are to stay.
    """
    if rule.type == "qualified-rule":
        kept = [s for s in selectors_of(rule) if is_used(s, words)]
        body = write_body(rule.content, read)
        return f"{','.join(kept)}{{{body}}}" if kept and body else ""
    if rule.type != "at-rule" or rule.at_keyword == "charset":
        return ""
    head = f"@{rule.at_keyword}{tinycss2.serialize(rule.prelude).rstrip()}"
    if rule.content is None:
        return head + ";"
    if rule.at_keyword in ("media", "supports", "layer", "container"):
        inner = tinycss2.parse_rule_list(rule.content, skip_comments=True)
        body = write_rules(inner, words, read)
    elif rule.at_keyword.endswith("keyframes"):
        body = tinycss2.serialize(rule.content)
    else:
        body = write_body(rule.content, read)
    unused = rule.at_keyword == "font-face" and FOREIGN_FONT in body
    return f"{head}{{{body}}}" if body and not unused else ""


def write_body(content, read):
    """Return what stands between a rule's braces; rules may stand in it."""
    parts = []
    for item in tinycss2.parse_blocks_contents(content, skip_comments=True):
        if item.type == "declaration":
            if read is None or not item.name.startswith("--") or item.name in read:
                value = tinycss2.serialize(item.value).strip()
                parts.append(f"{item.name}:{value}{'!important' * item.important}")
        elif item.type == "qualified-rule":
            inner = write_body(item.content, read)
            parts.append(f"{tinycss2.serialize(item.prelude).strip()}{{{inner}}}")
        elif item.type == "at-rule" and item.content is not None:
            inner = write_body(item.content, read)
            head = f"@{item.at_keyword}{tinycss2.serialize(item.prelude).rstrip()}"
            parts.append(f"{head}{{{inner}}}")
    return ";".join(parts)


class Weight:
    """Collects the sheets that pages ask for, and writes what they get."""

    def __init__(self):
        self.sheets = list(THEME_SHEETS)

    def take_over(self, app, pagename, templatename, context, doctree):
        """Take the sheets and scripts of a page out of its template's hands.

        A script of one page alone stays, but blocks nothing.
        """
        for sheet in context["css_files"]:
            name = str(sheet.filename).removeprefix("_static/")
            if name not in self.sheets:
                self.sheets.append(name)
        context["css_files"] = []
        ours = {f"_static/{name}" for name in SCRIPTS + UNUSED}
        # Without a file name: a setting of the theme's, for what we don't use.
        rest = [s for s in context["script_files"] if s.filename]
        rest = [s for s in rest if str(s.filename) not in ours]
        for script in rest:
            script.attributes.setdefault("defer", "defer")
        context["script_files"] = rest

    def write(self, app, exception):
        """Write book.css and book.js, and name them by their content."""
        if exception or app.builder.format != "html":
            return
        static = Path(app.outdir) / "_static"
        pages = [p for p in Path(app.outdir).rglob("*.html") if static not in p.parents]
        scripts = [(static / name).read_text(encoding="utf8") for name in SCRIPTS]
        words = set(IMPLIED)
        for page in pages:
            words |= words_of_page(page.read_text(encoding="utf8"))
        own = [p.read_text(encoding="utf8") for p in static.glob("*.js")]
        for script in scripts + own:
            words |= words_of_script(script)
        css = purge("".join(self.read(static, s) for s in self.sheets), words)
        js = ";\n".join(re.sub(r"\n//# sourceMappingURL=.*", "", s) for s in scripts)
        js, found = re.subn(MEASURES, "[]", js)
        if found != 1:
            raise ExtensionError(f"theme/weight.py: {found} places measure all code")
        made = {"book.css": css, "book.js": js}
        for name, text in made.items():
            (static / name).write_text(text, encoding="utf8")
        for page in pages:
            html = page.read_text(encoding="utf8")
            for name, text in made.items():
                version = hashlib.sha256(text.encode()).hexdigest()[:8]
                html = html.replace(f'_static/{name}"', f'_static/{name}?v={version}"')
            page.write_text(html, encoding="utf8")

    @staticmethod
    def read(static, name):
        """Return a sheet with those that it imports, from _static's view."""
        css = (static / name).read_text(encoding="utf8")
        css = re.sub(
            r'@import "\.\./([\w.-]+)";',
            lambda match: Weight.read(static, match[1]),
            css,
        )
        folder = Path(name).parent.as_posix()
        return re.sub(
            r"url\(\s*([\"']?)(?![\"'#/]|[a-z]+:)",
            rf"url(\1{folder}/" if folder != "." else r"url(\1",
            css,
        )


def setup(app):
    """Register with Sphinx; last, so that nothing is added afterwards."""
    weight = Weight()
    app.connect("html-page-context", weight.take_over, priority=900)
    app.connect("build-finished", weight.write, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": False}
