"""The pages beside the chapters: what they paste, quote, name and cite."""

import ast
import re
from collections import Counter
from functools import cache
from pathlib import Path

import nbformat
import pytest
import torch
import yaml
from torch import nn

from tests.test_symptoms import ENTRIES, NOT_RUN

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = ROOT / "chapters"
NOTEBOOKS = sorted(CHAPTERS.glob("*.ipynb"))
PAGES = [ROOT / "index.md", *sorted(CHAPTERS.glob("*.md"))]
VERDICTS = ["true", "partly", "false", "no difference that matters", "not settled"]
AGREEMENT = ["agrees", "partly", "disagrees", "consistent", "not tested"]
RELEASE = ".".join(torch.__version__.split(".")[:2])
ARXIV = re.compile(r"arxiv\.org/(?:abs|pdf)/(\d{4}\.\d{4,5})")


def read(path):
    return path.read_text(encoding="utf8")


def sections(path, level):
    """{heading: text below it} for one level of headings."""
    parts = re.split(rf"^{'#' * level} (.+)\n", read(path), flags=re.M)[1:]
    below = [re.split(r"^#{1,3} ", text, flags=re.M)[0] for text in parts[1::2]]
    return dict(zip(parts[::2], below, strict=True))


@cache
def keys(notebook):
    """The keys that a notebook publishes, as patterns, from its code."""
    found = []
    for cell in nbformat.read(notebook, as_version=4).cells:
        if cell.cell_type != "code":
            continue
        tree = ast.parse(re.sub(r"^[%!].*", "", cell.source, flags=re.M))
        for call in ast.walk(tree):
            name = getattr(getattr(call, "func", None), "id", "")
            if name in ("claim", "identity", "glue"):
                values = [k.value for k in call.keywords if k.arg == "key"]
                values += call.args[:1] if name == "glue" else []
                found += [key for value in values for key in patterns(value, tree)]
    return found


def patterns(value, cell):
    """What a key can be: a text, or a loop's texts with something filled in."""
    if isinstance(value, ast.Constant):
        return [] if value.value is None else [re.escape(value.value)]
    if isinstance(value, ast.IfExp):
        return patterns(value.body, cell) + patterns(value.orelse, cell)
    if isinstance(value, ast.Name):  # whatever the cell spells out may be it
        texts = [getattr(node, "value", None) for node in ast.walk(cell)]
        texts = [text for text in texts if isinstance(text, str)]
        return [text for text in texts if re.fullmatch(r"[a-z][\w-]+", text)]
    parts = value.values if isinstance(value, ast.JoinedStr) else [value]
    if isinstance(value, ast.BinOp):
        parts = [value.left, value.right]
    texts = [getattr(part, "value", None) for part in parts]
    return ["".join(re.escape(t) if isinstance(t, str) else "[\\w-]+" for t in texts)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_pastes_is_published(page):
    text = read(page)
    pasted = re.findall(r"\{glue:text\}`([^`]+)::([\w-]+):s`", text)
    assert len(pasted) == text.count("{glue:text}")
    figures = re.findall(r"\{glue:figure\} (\S+)\n:doc: (\S+)", text)
    for notebook, key in pasted + [(doc, key) for key, doc in figures]:
        path = (page.parent / notebook).resolve()
        assert path in NOTEBOOKS, notebook
        assert any(re.fullmatch(p, key) for p in keys(path)), key


def test_no_key_is_published_twice():
    count = Counter(key for path in NOTEBOOKS for key in set(keys(path)))
    assert [key for key, n in count.items() if n > 1] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_describes_itself(page):
    _, head, _ = read(page).split("---\n", 2)
    description = yaml.safe_load(head)["myst"]["html_meta"]["description"]
    assert 80 < len(description) < 320


# answers.md


@pytest.mark.parametrize(
    "question, answer", sections(CHAPTERS / "answers.md", 2).items()
)
def test_an_answer_has_all_its_parts(question, answer):
    assert question.endswith("?")
    verdicts = re.findall(r"^\*\*Verdict: (.+?)\.\*\*", answer, flags=re.M)
    assert len(verdicts) == 1 and verdicts[0] in VERDICTS
    advice = re.search(r"^\*\*Do:\*\* (.+?)\n\n", answer, flags=re.M | re.S)
    assert advice and 30 < len(advice[1]) < 320  # to be quoted on its own
    assert "{glue:" in answer
    assert re.search(r"\]\(\d\d_\w+\.ipynb\)", answer)
    assert ARXIV.search(answer)


def test_there_are_twelve_answers():
    assert len(sections(CHAPTERS / "answers.md", 2)) == 12


# symptoms.md


@pytest.mark.parametrize("anchor, entry", ENTRIES.items())
def test_an_entry_is_short_and_begins_with_the_fix(anchor, entry):
    shown, _, folded = entry.text.partition("<details>")
    fix, _, why = shown.partition("**Why.**")
    assert "**Do this" in fix and "```python" in fix and why.strip()
    assert folded.startswith("<summary>Was it this? ") or anchor in NOT_RUN
    assert len(re.sub(r"\]\([^)]*\)", "", why).split()) < 140  # words
    for code in [*entry.fixes, entry.test]:
        assert all(len(line) <= 88 for line in code.splitlines())


def test_the_table_leads_to_every_entry():
    text = read(CHAPTERS / "symptoms.md")
    anchors = re.findall(r"^\((.+)\)=\n### ", text, flags=re.M)
    table = [line for line in text.splitlines() if line.startswith("|")]
    index = "\n".join(table[: table.index(next(x for x in table if "hangs" in x)) + 1])
    assert sorted(re.findall(r"\]\(#([^)]+)\)", index)) == sorted(anchors)
    assert anchors == list(ENTRIES)


def test_the_page_names_the_version_that_was_run():
    assert f"torch {RELEASE} " in read(CHAPTERS / "symptoms.md")


# notation.md


def test_notation_of_pytorch():
    x = torch.randn(2, 1, dtype=torch.float64)
    layer = nn.BatchNorm1d(1, dtype=torch.float64)
    layer(x)
    m, stored = layer.momentum, layer.running_var
    assert torch.allclose(layer.running_mean, m * x.mean(dim=0))
    assert torch.allclose(stored, (1 - m) + m * x.var(dim=0, correction=1))
    lines = read(CHAPTERS / "notation.md").splitlines()
    (row,) = (line for line in lines if line.startswith(f"| [PyTorch {RELEASE}]"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1:] == ["new batch", f"{m}", f"{m}", "1e-5", "over $N - 1$"]
    assert layer.eps == 1e-5


# A formula that is one symbol, perhaps with an index: $x$, $\\hat x$, $r_\\mu$
SYMBOL = re.compile(
    r"\$(\\hat x|\\?[A-Za-z]|\\[a-z]+)(?:_(?:\w|\{[^$]*?\}|\\\w+))?(?:\^2|')?\$"
)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_symbols_are_those_of_the_notation(path):
    listed = set(SYMBOL.findall(read(CHAPTERS / "notation.md")))
    cells = nbformat.read(path, as_version=4).cells
    text = "\n".join(c.source for c in cells if c.cell_type == "markdown")
    assert set(SYMBOL.findall(text)) <= listed


# references.md


def test_every_paper_is_in_the_references():
    listed = set(ARXIV.findall(read(CHAPTERS / "references.md")))
    for path in [*NOTEBOOKS, *PAGES]:
        assert set(ARXIV.findall(read(path))) <= listed, path.name


def test_a_reference_says_what_it_found_here():
    items = re.findall(r"^- .+(?:\n  .+)*", read(CHAPTERS / "references.md"), re.M)
    papers = [item for item in items if ARXIV.search(item)]
    assert papers
    for item in papers:
        verdicts = re.findall(r"\*\*(.+?)\.?\*\*", item)
        assert len(verdicts) == 1 and verdicts[0].lower() in AGREEMENT, item
        tested = verdicts[0].lower() != "not tested"
        assert not tested or re.search(r"\]\(\d\d_\w+\.ipynb\)", item), item
    ids = [ARXIV.findall(item)[0] for item in papers]
    assert len(ids) == len(set(ids))
