"""What search engines and previews read: descriptions, cards, JSON-LD, addresses.

Needs the built book, but for the last tests, which build a small one whose
repository has an address.
"""

import json
import re
import struct
from pathlib import Path
from xml.etree import ElementTree

import pytest
from bs4 import BeautifulSoup
from sphinx.testing.util import SphinxTestApp

from tests.browser import HTML
from tests.notebooks import ROOT

INDEX = "# A book\n\nHow is it found?\n\n```{toctree}\npage\n```\n"
SITEMAP = "{http://www.sitemaps.org/schemas/sitemap/0.9}loc"


def pages():
    """The book's pages, but for the search and the error page."""
    found = {p.relative_to(HTML).as_posix(): p for p in HTML.rglob("*.html")}
    others = ("search.html", "404.html")
    return {
        name: BeautifulSoup(path.read_text(encoding="utf8"), "html.parser")
        for name, path in found.items()
        if name not in others and not name.startswith("_static")
    }


@pytest.fixture(scope="module")
def book():
    return pages()


def meta(page, key):
    tags = page.find_all("meta", attrs={"name": key})
    tags += page.find_all("meta", attrs={"property": key})
    assert len(tags) == 1, f"{key}: {len(tags)} times"
    return tags[0]["content"]


def data_of(page):
    (script,) = page.find_all("script", type="application/ld+json")
    data = json.loads(script.string)
    assert data["@context"] == "https://schema.org"
    return data


def test_every_page_says_what_it_answers(book):
    """A description of its own, of a length that is shown, in previews, too."""
    said = {name: meta(page, "description") for name, page in book.items()}
    assert len(set(said.values())) == len(said)
    for name, text in said.items():
        assert 60 <= len(text) <= 320, f"{name}: {len(text)} letters: {text}"
        assert meta(book[name], "og:description") == text
    for name, text in said.items():
        if re.match(r"chapters/\d", name):
            question, answer = text.split("? ", 1)
            assert answer[0].isupper() or answer[0].isdigit(), name


def test_every_chapter_has_a_card_with_its_figure(book):
    for name, page in book.items():
        if not re.match(r"chapters/\d|index", name):
            continue
        card = HTML / meta(page, "og:image").removeprefix("/")
        width, height = struct.unpack(">II", card.read_bytes()[16:24])
        assert width == 1200 and 400 < height < 1500, f"{name}: {width} x {height}"
        assert len(meta(page, "og:image:alt")) > 40


def test_json_ld_tells_course_chapters_and_questions(book):
    assert data_of(book["index.html"])["@type"] == "Course"
    chapters = [
        data_of(p) for name, p in book.items() if re.match(r"chapters/\d", name)
    ]
    assert sorted(c["position"] for c in chapters) == list(range(len(chapters)))
    for chapter in chapters:
        assert len(chapter["teaches"]) == 3, chapter["name"]
        assert 20 <= int(chapter["timeRequired"][2:-1]) <= 200
    asked = data_of(book["chapters/answers.html"])["mainEntity"]
    assert len(asked) == 12
    assert all("Verdict" in q["acceptedAnswer"]["text"] for q in asked)


def test_no_anchor_depends_on_an_estimate_of_minutes(book):
    """The anchors that headings show; those with the minutes still lead there."""
    for name, page in book.items():
        shown = {a["href"] for a in page.select("a.headerlink")}
        assert not [anchor for anchor in shown if anchor.endswith("-minutes")], name
    ids = {tag["id"] for tag in book["chapters/07_batch_size_one.html"].select("[id]")}
    old = [i for i in ids if re.fullmatch(r"exercise-7-1-.*-minutes", i)]
    assert old and re.sub(r"(-\d+)?-minutes$", "", old[0]) in ids


def test_a_book_without_an_address_claims_none(book):
    """OWNER/REPOSITORY is nobody's: no canonical address, no sitemap."""
    if "OWNER/REPOSITORY" not in (ROOT / "_config.yml").read_text(encoding="utf8"):
        pytest.skip("this copy has an address (make repository): see the tests below")
    assert not book["index.html"].find("link", rel="canonical")
    assert not (HTML / "sitemap.xml").exists()


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A small book of a repository that has an address."""
    source = tmp_path_factory.mktemp("book")
    (source / "index.md").write_text(INDEX)
    (source / "page.md").write_text("# A page\n\nWhat does it say? It says so.\n")
    (source / "conf.py").write_text(
        f"import sys; sys.path.insert(0, {str(ROOT / 'theme')!r})\n"
        "extensions = ['myst_nb', 'found']\n"
        "html_theme = 'sphinx_book_theme'\n"
        "html_theme_options = "
        "{'repository_url': 'https://github.com/Some-School/bn'}\n"
    )
    app = SphinxTestApp(srcdir=source, freshenv=True)
    app.build()
    yield Path(app.outdir)
    app.cleanup()


def test_an_address_makes_canonical_links_sitemap_and_robots(published):
    site = "https://some-school.github.io/bn/"
    page = BeautifulSoup((published / "page.html").read_text(), "html.parser")
    assert page.find("link", rel="canonical")["href"] == site + "page.html"
    assert meta(page, "og:url") == site + "page.html"
    found = ElementTree.parse(published / "sitemap.xml").iter(SITEMAP)
    assert [loc.text for loc in found] == [site + "index.html", site + "page.html"]
    assert f"Sitemap: {site}sitemap.xml" in (published / "robots.txt").read_text()


def test_the_error_page_works_at_any_depth(published):
    """It is shown for any missing address, so its links begin at the root."""
    page = BeautifulSoup((published / "404.html").read_text(), "html.parser")
    links = [a["href"] for a in page.find_all(["a", "link"], href=True)]
    inside = [u for u in links if not u.startswith(("http", "#"))]
    assert inside and all(link.startswith("/bn/") for link in inside)


@pytest.mark.parametrize(
    "repository, site",
    [
        ("https://github.com/OWNER/REPOSITORY", ""),
        ("https://github.com/You/name", "https://you.github.io/name/"),
        ("https://github.com/you/you.github.io", "https://you.github.io/"),
        ("https://gitlab.com/group/name", "https://group.gitlab.io/name/"),
        ("https://gitlab.example.org/a/b", ""),
    ],
)
def test_the_site_follows_from_the_repository(repository, site, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "theme")
    from found import site_of

    assert site_of(repository) == site
