"""Small repairs of the theme's markup, for those who hear a page."""

import re
from pathlib import Path

REPAIRS = [
    # The page that one is on.
    (r'<a class="current reference internal"', r'\g<0> aria-current="page"'),
    (
        r'<li class="toctree-l1 current active">\s*<a class="reference internal"',
        r'\g<0> aria-current="page"',
    ),
    # Names of groups of pages, not headings: they stand before the page's own.
    (r'<p aria-level="\d" class="caption" role="heading">', '<p class="caption">'),
    # The book's name and its search stand outside the list of pages.
    (r'<div id="pst-primary-sidebar"', r'\g<0> role="region" aria-label="Book"'),
    # Drawn shapes beside a text that says the same.
    (r"<i class=\"fa", r'<i aria-hidden="true" class="fa'),
    # A column's head.
    (r'<th class="head', r'<th scope="col" class="head'),
]


def repair(app, exception):
    """Repair every page that was written."""
    if exception or app.builder.format != "html":
        return
    static = Path(app.outdir) / "_static"
    for page in Path(app.outdir).rglob("*.html"):
        if static in page.parents:
            continue
        html = page.read_text(encoding="utf8")
        for wrong, right in REPAIRS:
            html = re.sub(wrong, right, html)
        page.write_text(html, encoding="utf8")


def setup(app):
    """Register with Sphinx, before theme/weight.py reads the pages."""
    app.connect("build-finished", repair, priority=800)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
