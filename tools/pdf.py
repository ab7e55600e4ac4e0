"""Write the built book as one PDF, `_build/pdf/book.pdf`: `make pdf`.

The pages become one HTML page, which Chromium prints: links between chapters
lead to pages of the PDF, and headings are its bookmarks. It prints twice, since the
contents need the page numbers of the first time.

Paper does not unfold. Solutions, hints and answers stand at the end, with the
page number at their old place. Other folded code is left to the notebooks.
"""

import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import yaml
from bs4 import BeautifulSoup
from pypdf import PdfReader, PdfWriter
from pypdf.generic import NameObject, TextStringObject

ROOT = Path(__file__).resolve().parents[1]
HTML = ROOT / "_build" / "html"
OUT = ROOT / "_build" / "pdf"
NAMES = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"]
PLACES = [
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    r"C:\Program Files\Google\Chrome\Application\chrome.exe",
    r"C:\Program Files\Microsoft\Edge\Application\msedge.exe",
]
SITE = "https://book.invalid/"  # where the pages are, while links are resolved
AT_THE_END = re.compile(r"Answer|Hint|Show the solution")
# What does nothing on paper. Code that is folded goes, too.
DROP = (
    "script, style, button, .headerlink, .plumbing, .for-dark, .neighbours, #progress,"
    " #three-doors, a.btn"
)
BACK = "Solutions, hints and answers"


def find_browser() -> str:
    """The path of a Chromium or Chrome; a sentence and exit code 1 without one."""
    wanted = [os.environ["CHROMIUM"]] if os.environ.get("CHROMIUM") else NAMES + PLACES
    found = next(filter(None, map(shutil.which, wanted)), None)
    if not found:
        sys.exit(
            f"no browser found (looked for {', '.join(wanted)}): the PDF is printed by "
            "Chromium or Chrome; install one, or give its path as CHROMIUM=/path"
        )
    return found


def read(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text(encoding="utf8"), "html.parser")


def contents(home: BeautifulSoup) -> list[tuple[str, list[tuple[str, str]]]]:
    """The book's parts in order: (part, [(title, address of the page), …])."""
    menu = home.select_one(".bd-docs-nav")
    parts = [("", [(home.h1.find(string=True).strip(), "index.html")])]
    for caption in menu.select("p.caption"):
        links = caption.find_next_sibling("ul").select("a")
        pages = [(a.get_text(" ", strip=True), a["href"]) for a in links]
        parts.append((caption.get_text(strip=True), pages))
    return parts


def name_of(address: str) -> str:
    """chapters/07_batch_size_one.html -> 07_batch_size_one"""
    return Path(address).stem


class Book:
    """All pages as one. `numbers` are the pages in the PDF, {id: number}."""

    def __init__(self, html: Path, numbers: dict[str, int]):
        self.html, self.numbers = html, numbers
        self.home = read(html / "index.html")
        self.parts = contents(self.home)
        self.pages = {address for _, pages in self.parts for _, address in pages}
        self.back = []  # (title of a page, [(heading, kind, fold), …])
        self.moved = 0

    def tag(self, name: str, *inside, **attributes):
        """A new element; `class_` gives its class."""
        attributes = {key.rstrip("_"): value for key, value in attributes.items()}
        element = self.home.new_tag(name, attrs=attributes)
        element.extend(inside)
        return element

    def link(self, text: str, anchor: str):
        """A link with the number of its page, where that is known."""
        number = self.tag("span", str(self.numbers.get(anchor, "")), class_="page")
        return self.tag("a", self.tag("span", text), number, href=f"#{anchor}")

    def page(self, title: str, address: str):
        """A page's article, ready to be printed among others."""
        article = read(self.html / address).select_one("article.bd-article")
        for element in article.select(DROP):
            element.decompose()
        moved = self.move_to_the_end(article)
        if moved:
            self.back.append((title, moved))
        for fold in article.select("details"):
            if "hide" in fold.get("class", []):
                fold.decompose()
            else:
                fold["open"] = ""
        for image in article.select("img"):
            place = urljoin(SITE + address, image["src"])
            image["src"] = place.replace(SITE, "../html/")
            image.attrs.pop("loading", None)
        for part in [article, *(fold for *_, fold in moved)]:
            self.set_links(part, address)
        article["id"] = name_of(address)
        return article

    def move_to_the_end(self, article) -> list:
        """Take out what tells the answer, and leave links: (heading, kind, fold)."""
        found = []
        for fold in article.select("details"):
            summary = fold.find("summary").get_text(" ", strip=True)
            if not AT_THE_END.match(summary):
                continue
            question = fold.find_parent("form")
            heading = question.legend if question else fold.find_previous(["h2", "h3"])
            self.moved += 1
            anchor = f"back-{self.moved}"
            fold.replace_with(
                self.tag("p", self.link(f"{summary_of(summary)}: page ", anchor))
            )
            fold.summary.decompose()
            fold.name, fold.attrs = "div", {"id": anchor, "class": "back"}
            found.append((heading.get_text(" ", strip=True), summary_of(summary), fold))
        return found

    def set_links(self, part, address: str) -> None:
        """Make ids the book's own, and links between pages links within it."""
        for element in part.select("[id]"):
            if not element["id"].startswith("back-"):
                element["id"] = f"{name_of(address)}.{element['id']}"
        for a in part.select("a[href]"):
            self.set_link(a, address)

    def set_link(self, a, address: str) -> None:
        if a["href"].startswith("#back-"):
            return
        target = urlsplit(urljoin(SITE + address, a["href"]))
        inside = f"{target.scheme}://{target.netloc}/" == SITE
        page = target.path.lstrip("/") or "index.html"
        if inside and page in self.pages:
            anchor = unquote(target.fragment)
            a["href"] = f"#{name_of(page)}" + (f".{anchor}" if anchor else "")
        elif inside:
            a.unwrap()  # a file beside the book, which the PDF has not
        else:
            a["href"] = target.geturl()

    def title_page(self):
        config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf8"))
        url = config["repository"]["url"]
        lines = [self.tag("p", config["title"], class_="title")]
        lines.append(self.tag("p", config["author"]))
        if "OWNER/REPOSITORY" not in url:
            lines.append(self.tag("p", self.tag("a", url, href=url)))
        about = (
            "The course as its pages show it: every number is from the run of the "
            "chapter. Code that only draws or prints is left to the notebooks. "
            f"{BACK} stand at the end. Text CC BY 4.0, code MIT."
        )
        return self.tag("section", *lines, self.tag("p", about), class_="front")

    def list_of_contents(self):
        section = self.tag("section", self.tag("h1", "Contents"), class_="contents")
        for part, pages in self.parts:
            if part:
                section.append(self.tag("p", part, class_="part"))
            section.extend(self.link(title, name_of(page)) for title, page in pages)
        section.append(self.tag("p", "The end", class_="part"))
        section.append(self.link(BACK, "back"))
        return section

    def back_matter(self):
        article = self.tag("article", self.tag("h1", BACK), id="back")
        article["class"] = "bd-article"
        for title, found in self.back:
            article.append(self.tag("h2", title))
            last = None
            for heading, kind, fold in found:
                if heading != last:
                    article.append(self.tag("h3", heading))
                article.append(self.tag("p", kind, class_="kind"))
                article.append(fold)
                last = heading
        return article

    def write(self) -> str:
        articles = [self.page(*page) for _, pages in self.parts for page in pages]
        front = [self.title_page(), self.list_of_contents()]
        sheets = self.home.select("link[rel=stylesheet]")
        for sheet in sheets:
            sheet["href"] = f"../html/{sheet['href']}"
        style = Path(__file__).with_suffix(".css").read_text(encoding="utf8")
        parts = [*front, *articles, self.back_matter()]
        title = self.home.title.get_text().split("—")[-1].strip()
        return (
            '<!DOCTYPE html><html lang="en" data-theme="light" data-mode="light"><head>'
            f'<meta charset="utf-8"><title>{title}</title>'
            f"{''.join(map(str, sheets))}<style>{style}</style></head>"
            f'<body><main class="bd-content">{"".join(map(str, parts))}</main></body>'
            "</html>"
        )


def summary_of(text: str) -> str:
    """ "Show the solution Hide the code" -> "Solution"; other texts stay."""
    return "Solution" if text.startswith("Show the solution") else text


def print_page(browser: str, source: Path, target: Path) -> None:
    """Let the browser print a file, beside the windows that it may have open."""
    command = [browser, "--headless", "--disable-gpu", "--no-pdf-header-footer"]
    command += ["--generate-pdf-document-outline"]
    command += ["--host-resolver-rules=MAP * ~NOTFOUND"]  # it needs no network
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--no-sandbox")  # Chromium refuses root otherwise
    command += ["--no-first-run", "--disable-background-networking"]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as own:
        # With a profile that is in use the page would go to the browser that uses it.
        command += [f"--user-data-dir={own}/profile", f"--print-to-pdf={target}"]
        # A file, since a pipe stays open as long as any helper of the browser lives.
        with open(f"{own}/log", "w+", encoding="utf8", errors="replace") as log:
            try:
                code = subprocess.run(
                    [*command, source.as_uri()], stdout=log, stderr=log, timeout=300
                ).returncode
            except subprocess.TimeoutExpired:
                code = "not finished in 5 minutes"
            log.seek(0)
            said = log.read()[-2000:]
    if code or not target.exists():
        sys.exit(f"the browser did not print ({browser}, {code}):\n{said}")


def page_numbers(path: Path) -> dict[str, int]:
    """Where each id that some link leads to stands, {id: page from 1}."""
    pdf = PdfReader(path)
    places = pdf.named_destinations.items()
    return {
        name.lstrip("/"): pdf.get_destination_page_number(place) + 1
        for name, place in places
    }


def finish(source: Path, target: Path) -> None:
    """Name the author, and mend the bookmarks: Chromium joins a heading's lines.

    The bookmarks are the headings of the page in their order.
    """
    logging.getLogger("pypdf").setLevel(logging.ERROR)  # Chromium counts one less
    pdf = PdfWriter(clone_from=target)
    headings = read(source).select("h1, h2, h3, h4, h5, h6")
    marks = flat(pdf.outline)
    if len(marks) != len(headings):
        sys.exit(f"{len(marks)} bookmarks for {len(headings)} headings in {source}")
    for mark, heading in zip(marks, headings):
        title = TextStringObject(" ".join(heading.get_text().split()))
        mark.node[NameObject("/Title")] = title
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf8"))
    pdf.add_metadata({"/Title": config["title"], "/Author": config["author"]})
    pdf.page_mode = "/UseOutlines"
    pdf.write(target)


def flat(outline: list) -> list:
    """The bookmarks in order; a list in pypdf's outline is what stands below."""
    return [
        mark
        for part in outline
        for mark in (flat(part) if isinstance(part, list) else [part])
    ]


def main() -> None:
    if not (HTML / "index.html").exists():
        sys.exit("no book in _build/html: run `make book` first")
    browser = find_browser()
    OUT.mkdir(parents=True, exist_ok=True)
    source, target = OUT / "book.html", OUT / "book.pdf"
    numbers = {}
    for _ in range(2):
        target.unlink(missing_ok=True)
        source.write_text(Book(HTML, numbers).write(), encoding="utf8")
        print_page(browser, source, target)
        numbers = page_numbers(target)
    finish(source, target)
    print(target)


if __name__ == "__main__":
    main()
