"""Claims show themselves; one that does not hold stops a strict notebook."""

import json
import re
from xml.etree import ElementTree

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from utils import claims
from utils.claims import ClaimError, claim, finding, glue, identity, together
from utils.statistics import Estimate

E = Estimate(5.0, 4.0, 6.0, 12, "%", values=(4.5, 5.5))
HOLDING = [
    {"above": 3.9},
    {"above": 0},
    {"below": 6.1},
    {"within": (4, 6)},
    {"within": (-10, 10)},
]
FAILING = [
    {"above": 4},  # the interval's end must clear the bound
    {"above": 4.5},  # the mean alone is not enough
    {"above": 7},
    {"below": 6},
    {"below": 5.5},
    {"within": (4.5, 10)},
    {"within": (0, 5.9)},
]


@pytest.fixture(autouse=True)
def lenient(monkeypatch):
    for name in ("STRICT", "RECORD", "CHAPTER", "SEED"):
        monkeypatch.delenv(f"COURSE_{name}", raising=False)


@pytest.fixture
def strict(monkeypatch):
    monkeypatch.setenv("COURSE_STRICT", "1")


@pytest.fixture
def shown(monkeypatch):
    """What is displayed, as (html, text)."""
    kept = []

    def keep(data, raw=False, metadata=None):
        if "text/html" in data:
            kept.append((data["text/html"], data["text/plain"]))

    monkeypatch.setattr(claims, "display", keep)
    return kept


def elements(html):
    """The card's elements; fails unless the HTML is well formed."""
    html = html.replace("&nbsp;", " ").replace("<br>", "<br/>")
    return list(ElementTree.fromstring(html).iter())


def words(html):
    return " ".join(" ".join(elements(html)[0].itertext()).split())


@pytest.mark.parametrize("bound", HOLDING)
def test_holds(bound, strict, shown):
    claim("it is {:v}", E, **bound)
    [(html, text)] = shown
    assert text.startswith("it is 5.0 %: holds in 12 seeds\n")
    assert "it is 5.0 %" in words(html) and "holds in 12 seeds" in words(html)


@pytest.mark.parametrize("bound", FAILING)
def test_strict_stops_after_the_card(bound, strict, shown):
    with pytest.raises(ClaimError, match=r"does not hold: it is so: 5.0 %.*5.0 % \[4"):
        claim("it is so", E, **bound)
    [(_, text)] = shown
    assert "not confirmed in 12 seeds" in text and "holds" not in text


@pytest.mark.parametrize("bound", FAILING)
def test_lenient_says_so_and_goes_on(bound, shown):
    claim("it is so", E, **bound)
    [(html, text)] = shown
    for said in (words(html), text):
        assert "This run does not confirm it: 5, from 4 to 6; claimed: " in said
        assert "another seed, a CPU that rounds differently" in said
        assert "a changed cell above" in said
        assert "open an issue in the course's repository" in said
        assert "(COURSE_SEED=0)" in said
    assert "http" not in html + text  # a fork has another address


def test_both_forms_hold_sentence_interval_bound_and_reason(shown):
    loss = Estimate(-39.0, -43.0, -35.0, 12, "points")
    claim("BN loses {:a} at batch 2", loss, below=-30, reason="Nobody gives up 30.")
    [(html, text)] = shown
    for said in (words(html), text):
        assert "BN loses 39 points at batch 2" in said
        assert "−39 points [−43, −35], 95 % interval of the mean" in said
        assert "Claimed: below −30 points. Why this bound: Nobody gives up 30." in said
    tags = [element.tag for element in elements(html)]
    assert "details" in tags and "summary" in tags
    assert "<script" not in html and "class=" not in html and "<style" not in html


def test_the_bar_is_named_and_drawn_to_scale(shown):
    claim("so", E, within=(4, 8))
    (svg,) = (e for e in elements(shown[0][0]) if e.tag == "svg")
    assert svg.get("role") == "img"
    assert svg.get("aria-label") == "5.0 %, from 4 to 6; within 4 to 8 %"
    (dot,) = svg.iter("circle")
    line = [p.get("d") for p in svg.iter("path")][-1]
    start, end = map(float, re.fullmatch(r"M([\d.]+) 8H([\d.]+)", line).groups())
    (shaded,) = svg.iter("rect")
    assert float(dot.get("cx")) == pytest.approx((start + end) / 2, abs=0.1)
    assert float(shaded.get("x")) == pytest.approx(start, abs=0.1)  # both at 4
    assert float(shaded.get("width")) == pytest.approx(2 * (end - start), abs=0.2)


def test_a_ratio_is_drawn_on_a_logarithmic_scale(shown):
    claim("so", Estimate(10.0, 1.0, 100.0, 12, "times", scale="log"), above=0.1)
    (svg,) = (e for e in elements(shown[0][0]) if e.tag == "svg")
    line = [p.get("d") for p in svg.iter("path")][-1]
    start, end = map(float, re.fullmatch(r"M([\d.]+) 8H([\d.]+)", line).groups())
    (dot,) = svg.iter("circle")
    assert float(dot.get("cx")) == pytest.approx((start + end) / 2, abs=0.1)


def test_what_the_author_writes_is_escaped(shown):
    nasty = "<b>a</b> & \"b\" <script>alert('c')</script>"
    e = Estimate(5.0, 4.0, 6.0, 12, '"><script>')
    claim(nasty, e, above=7, reason=nasty)
    with together(nasty):
        claim(nasty, e, above=3, reason=nasty)
        identity(nasty, 0, below=0)
    for html, text in shown:
        assert "<script" not in html and nasty in words(html)
        assert nasty in text
        elements(html)


def test_a_statement_has_one_number():
    with pytest.raises(ValueError, match="one number.*other braces twice"):
        claim("a {bn}", E, above=3)
    with pytest.raises(ValueError, match="one number"):
        claim("{:v} and {:v}", E, above=3)
    with pytest.raises(ValueError, match='"v" or "a"'):
        claim("{:.2f}", E, above=3)


def test_without_a_place_the_number_is_appended(shown):
    claim("it is so", E, above=3)
    claim("a {{set}}", E, above=3)
    claim("it is {}", E, above=3)
    firsts = [text.split("\n")[0] for _, text in shown]
    assert firsts == [
        "it is so: 5.0 %: holds in 12 seeds",
        "a {set}: 5.0 %: holds in 12 seeds",
        "it is 5.0 % [4.0, 6.0]: holds in 12 seeds",
    ]


def test_needs_exactly_one_bound():
    for bounds in ({}, {"above": 1, "below": 9}):
        with pytest.raises(ValueError, match="exactly one"):
            claim("it is so", E, **bounds)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"within needs \(low, high\)"):
        claim("it is so", E, within=(6, 4))
    with pytest.raises(ValueError, match="expected an Estimate, got 5.0"):
        claim("it is so", 5.0, above=4)
    for values, below in (([], 1), ([1.0], -1), ([1.0], float("nan"))):
        with pytest.raises(ValueError, match="values and below"):
            identity("it is so", values, below=below)


def test_infinity_and_not_a_number_never_hold(strict, shown):
    nothing = Estimate(*[float("nan")] * 3, 12)
    endless = Estimate(9.0, 8.0, float("inf"), 12)
    for e in (nothing, endless):
        for bound in ({"above": -1e9}, {"below": 1e9}, {"within": (-1e9, 1e9)}):
            if e is endless and "below" in bound:
                continue  # fails by its bound
            with pytest.raises(ClaimError):
                claim("it is so", e, **bound)
    with pytest.raises(ClaimError):
        identity("it is so", [0, float("nan")], below=1)
    assert all("svg" not in html for html, _ in shown)


def test_an_identity(strict, shown):
    identity("γ scales nothing", [1e-15, -7.2e-15, 0], below=1e-12)
    identity("β is gone", np.zeros((12, 3)), below=0)
    identity("one layer", 0.0, below=0)
    firsts = [text.split("\n")[0] for _, text in shown]
    assert firsts == [
        "γ scales nothing: holds to 7e-15 in 3 seeds",
        "β is gone: holds exactly in 12 seeds",
        "one layer: holds exactly in one run",
    ]
    for html, text in shown:
        assert "holds by construction" in text and "holds by construction" in html


@pytest.mark.parametrize(("values", "below"), [([0, -1e-300], 0), ([0, -2], 1)])
def test_an_identity_fails_like_a_claim(values, below, monkeypatch, shown):
    identity("it is so", values, below=below)
    assert "This run does not confirm it" in shown[0][1]
    monkeypatch.setenv("COURSE_STRICT", "1")
    with pytest.raises(ClaimError, match="does not hold: it is so"):
        identity("it is so", values, below=below)


def test_together_is_one_table_that_names_every_failure(strict, shown):
    with pytest.raises(ClaimError) as error:
        with together("All of it"):
            claim("first", E, above=3)
            claim("second", E, above=7)
            identity("third", 0, below=0)
            claim("fourth", E, below=2)
    [(html, text)] = shown
    assert "second" in str(error.value) and "fourth" in str(error.value)
    assert "first" not in str(error.value) and "third" not in str(error.value)
    for said in (words(html), text):
        positions = [said.index(w) for w in ("All of it", "first", "second", "third")]
        assert positions == sorted(positions) and "fourth" in said
        assert said.count("This run does not confirm it") == 2
        assert said.count("open an issue") == 1
    table = next(e for e in elements(html) if e.tag == "table")
    assert table[0].tag == "caption" and table[0].text == "All of it"
    scopes = [th.get("scope") for th in table.iter("th")]
    assert scopes == ["col"] * 2 + ["row"] * 4


def test_code_in_a_sentence(shown):
    claim("`x<y` is {:v}", E, above=3)
    html, text = shown[0]
    (code,) = (e for e in elements(html) if e.tag == "code")
    assert code.text == "x<y" and text.startswith("`x<y` is")


def test_a_table_says_how_many_seeds(shown):
    with together("same"):
        claim("first", E, above=3)
        identity("second", [0.0] * 12, below=0)
    with together("different"):
        claim("first", E, above=3)
        identity("second", 0, below=0)
    same, different = (words(html) for html, _ in shown)
    assert "In 12 seeds" in same and same.count("12 seeds") == 1
    assert "holds in 12 seeds" in different and "exactly in one run" in different
    assert "holds in 12 seeds" in shown[0][1]


def test_together_goes_on_for_a_reader(shown):
    with together("All of it"):
        claim("first", E, above=7)
    claim("after", E, above=3)
    assert len(shown) == 2


def test_together_stands_alone(shown):
    with pytest.raises(ValueError, match="inside another"):
        with together("outer"):
            claim("first", E, above=3)
            with together("inner"):
                pass
    claim("after", E, above=3)  # the outer one is closed
    assert [text.split("\n")[0] for _, text in shown] == [
        "outer",
        "after: 5.0 %: holds in 12 seeds",
    ]


def test_together_swallows_nothing(shown):
    with pytest.raises(ZeroDivisionError):
        with together("outer"):
            claim("first", E, above=7)
            raise ZeroDivisionError
    assert "first" in shown[0][1]
    with together("empty"):
        pass
    assert len(shown) == 1


def test_the_record(strict, shown, tmp_path, monkeypatch):
    path = tmp_path / "record.jsonl"
    monkeypatch.setenv("COURSE_RECORD", str(path))
    monkeypatch.setenv("COURSE_CHAPTER", "04_placement")
    monkeypatch.setenv("COURSE_SEED", "7")
    claim("it is {:v}", E, within=(3, 9), key="five")
    with pytest.raises(ClaimError):
        claim("so", E, above=7)
    with pytest.raises(ClaimError):
        with together("table"):
            identity("none", [[0.0, -2.0], [1.0, 0.5]], below=0)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert rows[0] == {
        "chapter": "04_placement",
        "statement": "it is {:v}",
        "kind": "claim",
        "value": 5.0,
        "low": 4.0,
        "high": 6.0,
        "n": 12,
        "unit": "%",
        "interval": "95 % interval",
        "scale": "linear",
        "above": None,
        "below": None,
        "within": [3, 9],
        "holds": True,
        "values": [4.5, 5.5],
        "seed": 7,
    }
    assert [row["holds"] for row in rows] == [True, False, False]
    assert [row["statement"] for row in rows] == ["it is {:v}", "so", "none"]
    assert rows[2]["kind"] == "identity" and rows[2]["scale"] == "range"
    assert rows[2]["values"] == [2.0, 1.0] and rows[2]["below"] == 0


def test_a_finding_carries_its_numbers():
    said = finding(
        "BN reaches {bn}, {gain:a} more, at {size:.0f}.", bn=E, gain=E, size=2
    )
    assert said.data == "BN reaches 5.0 % [4.0, 6.0], 5.0 % more, at 2."
    assert repr(said) == said.data  # what a terminal shows
    assert said._repr_markdown_() == said.data


def execute(source, **environment):
    lines = [f"import os; os.environ.update({environment!r})", source, "print('on')"]
    cells = [nbformat.v4.new_code_cell(line) for line in lines]
    nb = NotebookClient(nbformat.v4.new_notebook(cells=cells)).execute()
    assert nb.cells[2].outputs[0].text == "on\n"
    return nb.cells[1].outputs


CLAIM = """
from utils.claims import claim
from utils.statistics import Estimate
claim("so", Estimate(5.0, 4.0, 6.0, 12, "%"), above={above}, key="five")
"""


def test_a_reversed_claim_stops_a_strict_notebook_only():
    with pytest.raises(CellExecutionError, match="does not hold: so"):
        execute(CLAIM.format(above=7), COURSE_STRICT="1")
    _, card = execute(CLAIM.format(above=7))
    assert "does not confirm it" in card.data["text/plain"]
    assert set(card.data) == {"text/html", "text/plain"}


def test_the_key_carries_the_estimate_and_shows_nothing():
    mark, card = execute(CLAIM.format(above=3), COURSE_STRICT="1")
    assert "holds in 12 seeds" in card.data["text/plain"]
    assert mark.metadata["scrapbook"]["name"] == "five"
    assert list(mark.data) == ["application/papermill.record/text/plain"]
    (quoted,) = mark.data.values()
    assert json.loads(quoted.replace("'", '"')) == "5.0 % [4.0, 6.0]"


def test_glue_takes_texts_and_estimates(monkeypatch):
    kept = []
    monkeypatch.setattr(claims, "display", lambda data, **_: kept.append(data))
    glue("a", E)
    glue("b", str(E))
    identity("so", [1e-9], below=1, key="c")
    keyed = [list(data.values())[0] for data in kept[:3]]
    assert keyed == ["'5.0 % [4.0, 6.0]'", "'5.0 % [4.0, 6.0]'", "'1e-09'"]


def test_a_figure_is_glued_as_svg():
    (shown,) = execute(
        "import matplotlib.pyplot as plt\n"
        "from utils import set_up\n"
        "from utils.claims import glue\n"
        "set_up()\n"
        "fig, ax = plt.subplots()\n"
        "glue('picture', fig)\n"
        "plt.close(fig)"
    )
    assert shown.metadata["scrapbook"]["name"] == "picture"
    assert "image/svg+xml" in shown.data
    plt.close("all")
