"""How the book is found and shared: descriptions, previews, and the page "not found".

Each page gets a description (its question and the answer's beginning), Open
Graph tags with a card (the page's first figure as a PNG), and JSON-LD: the
course, its chapters, the twelve questions. Where the repository's address is set
(`make repository`), its pages have their canonical address, and there are a
sitemap and robots.txt.
"""

import json
import re
from pathlib import Path
from urllib.parse import urljoin, urlsplit
from xml.etree import ElementTree

import resvg_py
from docutils import nodes

PLACEHOLDER = "OWNER/REPOSITORY"
LONGEST = 300  # letters of a description: more is cut by who shows it
CARD = 1200  # pixels of width, as previews show them
NAME = "Batch Normalization, Measured"
MINUTES = re.compile(r"(\d+) minutes of reading(?:, (\d+) of exercises)?")
SITEMAP = "http://www.sitemaps.org/schemas/sitemap/0.9"
QUESTIONS = "chapters/answers"
NOT_FOUND = (
    "<h1>Page not found</h1><p>The address may be one of an earlier version. Search "
    "the book for what you need, or begin at its <a href='{root}'>first page</a>.</p>"
)
ICON = 180  # pixels, for a phone's home screen


def site_of(repository: str) -> str:
    """Where the pages of a GitHub or GitLab repository are published.

    Empty for the placeholder and for hosts whose pages we do not know.
    """
    parts = urlsplit(repository)
    owner, _, name = parts.path.strip("/").partition("/")
    hosts = {"github.com": "github.io", "gitlab.com": "gitlab.io"}
    if PLACEHOLDER in repository or parts.netloc not in hosts or not name:
        return ""
    host = f"{owner.lower()}.{hosts[parts.netloc]}"
    return f"https://{host}/" if name.lower() == host else f"https://{host}/{name}/"


def words(node) -> str:
    """A node's text on one line."""
    return " ".join(node.astext().split())


def description_of(doctree) -> str:
    """A chapter's question and what answers it, as far as there is room.

    They are the paragraph in bold under the title and the one that begins with
    "In short:". Other pages say their description in their front matter.
    """
    found = [words(p) for p in doctree.findall(nodes.paragraph)]
    answer = next((text for text in found if text.startswith("In short: ")), "")
    question = next((text for text in found if text.endswith("?")), "")
    answer = answer.removeprefix("In short: ")
    text = f"{question} {answer[:1].upper()}{answer[1:]}".strip()
    if len(text) <= LONGEST:
        return text
    return text[: text.rindex(" ", 0, LONGEST - 1)].rstrip(",;:(") + " …"


def chapter_data(doctree, page: str, url: str, description: str) -> dict:
    """JSON-LD of a chapter: what it teaches, and how long it takes."""
    data = {
        "@type": "LearningResource",
        "name": words(next(doctree.findall(nodes.title))),
        "description": description,
        "position": int(re.search(r"/(\d\d)_", page)[1]),
        "isPartOf": {"@type": "Course", "name": NAME},
        "learningResourceType": "chapter with exercises",
        "inLanguage": "en",
        "isAccessibleForFree": True,
    }
    if found := MINUTES.search(doctree.astext()):
        data["timeRequired"] = f"PT{sum(int(n) for n in found.groups() if n)}M"
    for block in doctree.findall(nodes.paragraph):
        items = block.next_node(nodes.bullet_list, siblings=True, descend=False)
        if words(block).startswith("After this chapter you can") and items:
            data["teaches"] = [words(item) for item in items.children]
    return data | ({"url": url} if url else {})


def course_data(url: str, description: str) -> dict:
    return {
        "@type": "Course",
        "name": NAME,
        "description": description,
        "about": "batch normalization",
        "inLanguage": "en",
        "isAccessibleForFree": True,
        "license": "https://creativecommons.org/licenses/by/4.0/",
        "provider": {"@type": "Organization", "name": f"The {NAME} authors"},
    } | ({"url": url} if url else {})


def questions_data(doctree) -> dict:
    """JSON-LD of the twelve questions: each section's title and verdict."""
    asked = []
    for section in doctree.findall(nodes.section):
        title = words(section[0])
        if title.endswith("?"):
            said = [words(p) for p in section.findall(nodes.paragraph)]
            verdict = next(text for text in said if text.startswith("Verdict"))
            do = [text for text in said if text.startswith("Do:")]
            answer = {"@type": "Answer", "text": " ".join([verdict, *do])}
            asked.append({"@type": "Question", "name": title, "acceptedAnswer": answer})
    return {"@type": "FAQPage", "name": "Twelve questions", "mainEntity": asked}


class Found:
    """Adds to the pages' heads while they are written; then the files beside them."""

    def __init__(self):
        self.pages = []  # addresses, for the sitemap
        self.cards = {}  # file of a card -> file of the figure that it shows

    def add_to_head(self, app, page, template, context, doctree):
        """A page's description, card and JSON-LD, before Open Graph's tags."""
        if doctree is None:
            return
        url = context.get("pageurl") or ""
        if url:
            self.pages.append(url)
        meta = dict(context["meta"] or {})
        tags = context["metatags"]
        written = re.search(
            r'name="description"[^>]*content="([^"]*)"|'
            r'content="([^"]*)"[^>]*name="description"',
            tags,
        )
        if written:
            description = written[1] or written[2]
        else:
            description = description_of(doctree)
            tags += f'\n<meta name="description" content="{_attribute(description)}" />'
        meta["og:description"] = description
        figure = next(iter(doctree.findall(nodes.image)), None)
        if figure is not None and figure["uri"].endswith(".svg"):
            # The builder has copied the figure under this name.
            name = app.builder.images.get(figure["uri"], Path(figure["uri"]).name)
            card = f"_images/card-{page.rpartition('/')[2]}.png"
            self.cards[card] = f"_images/{name}"
            meta["og:image"] = urljoin(app.config.html_baseurl, card)
            meta["og:image:alt"] = figure.get("alt", "")
            meta["og:image:width"] = str(CARD)
            tags += '\n<meta name="twitter:card" content="summary_large_image" />'
        context["meta"] = meta
        data = None
        if page == app.config.root_doc:
            data = course_data(url, description)
        elif page == QUESTIONS:
            data = questions_data(doctree)
        elif re.search(r"/\d\d_", page):
            data = chapter_data(doctree, page, url, description)
        if data:
            text = json.dumps(
                {"@context": "https://schema.org"} | data, ensure_ascii=False
            )
            # "</" would end the script.
            text = text.replace("</", "<\\/")
            tags += f'\n<script type="application/ld+json">{text}</script>'
        icon = context["pathto"]("_static/touch-icon.png", resource=True)
        tags += f'\n<link rel="apple-touch-icon" href="{icon}" />\n'
        context["metatags"] = tags

    def write_files(self, app, exception):
        """The cards, the touch icon, and for known addresses sitemap and robots.txt."""
        if exception or app.builder.format != "html":
            return
        out = Path(app.outdir)
        for card, figure in self.cards.items():
            svg = (out / figure).read_text(encoding="utf8")
            # Matplotlib's sizes are in points: without dpi they are refused.
            png = resvg_py.svg_to_bytes(
                svg_string=svg, width=CARD, dpi=96, background="#ffffff"
            )
            (out / card).write_bytes(bytes(png))
        icon = (Path(__file__).parent / "favicon.svg").read_text(encoding="utf8")
        png = resvg_py.svg_to_bytes(svg_string=icon, width=ICON, height=ICON)
        (out / "_static" / "touch-icon.png").write_bytes(bytes(png))
        if not app.config.html_baseurl:
            return
        root = ElementTree.Element("urlset", xmlns=SITEMAP)
        for url in sorted(self.pages):
            entry = ElementTree.SubElement(root, "url")
            ElementTree.SubElement(entry, "loc").text = url
        ElementTree.indent(root)
        tree = ElementTree.ElementTree(root)
        tree.write(out / "sitemap.xml", encoding="utf-8", xml_declaration=True)
        sitemap = urljoin(app.config.html_baseurl, "sitemap.xml")
        text = f"User-agent: *\nAllow: /\n\nSitemap: {sitemap}\n"
        (out / "robots.txt").write_text(text, encoding="utf8")


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")


def stable_anchors(app, doctree):
    """Take minutes and stars out of an exercise's anchor; the old one stays valid.

    An estimate may change; a link to the exercise should not break for that.
    """
    for section in doctree.findall(nodes.section):
        for name in list(section["ids"]):
            short = re.sub(r"(-\d+)?-minutes$", "", name)
            if short != name and name.startswith("exercise-"):
                section["ids"].insert(0, short)
                doctree.ids[short] = section


def set_address(app, config):
    """Derive the site's address from the repository's, where nobody wrote one."""
    repository = config.html_theme_options.get("repository_url", "")
    if not config.html_baseurl:
        config.html_baseurl = site_of(repository)
    config.ogp_site_url = config.html_baseurl
    config.ogp_site_name = NAME
    config.ogp_social_cards = {"enable": False}
    root = urlsplit(config.html_baseurl).path or "/"
    body = NOT_FOUND.format(root=root)
    config.notfound_context = {"title": "Page not found", "body": body}
    config.notfound_urls_prefix = root


def setup(app):
    app.setup_extension("sphinxext.opengraph")
    app.setup_extension("notfound.extension")
    app.connect("config-inited", set_address, priority=400)
    app.connect("doctree-read", stable_anchors)
    found = Found()
    # Open Graph's own handler, at 500, reads what is added here.
    app.connect("html-page-context", found.add_to_head, priority=400)
    app.connect("build-finished", found.write_files)
    return {"parallel_read_safe": True, "parallel_write_safe": False}
