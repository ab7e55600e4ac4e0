"""The question bank: right answers are right, and its forms say what it says."""

import ast
import html
import math
import re
import xml.etree.ElementTree as ET
import zipfile
from collections import Counter
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import nn

import bank
import questions

ROOT = Path(__file__).resolve().parents[1]
QUESTIONS = bank.load()
NUMERIC = [q for q in QUESTIONS if q.answer is not None]
CHOICES = [q for q in QUESTIONS if q.answer is None]


def names(question):
    return question.id


def value(source):
    """Run code; the value of its last expression."""
    torch.manual_seed(0)
    tree = ast.parse(source)
    scope = {"torch": torch, "nn": nn, "F": F, "math": math}
    *before, last = tree.body
    exec(compile(ast.Module(before, []), "verify", "exec"), scope)
    return eval(compile(ast.Expression(last.value), "verify", "eval"), scope)


@pytest.mark.parametrize("question", [q for q in QUESTIONS if q.verify], ids=names)
def test_the_answer_is_what_a_run_gives(question):
    found = value(question.verify)
    if question.answer is None:
        assert found is True
    else:
        assert abs(found - question.answer) <= max(question.tolerance, 1e-9)


def test_every_number_is_computed():
    assert [q.id for q in NUMERIC if not q.verify] == []


def test_wrong_numbers_are_marked_wrong():
    for question in NUMERIC:
        for slip in question.options:
            assert abs(float(slip.text) - question.answer) > question.tolerance


def test_six_a_chapter_half_of_them_in_the_book():
    count = Counter((q.chapter, q.half) for q in QUESTIONS)
    chapters = [name[:2] for name in bank.headings(ROOT)]
    for chapter in chapters:
        for half in ("book", "instructors"):
            lacks = f"instructors/questions/{chapter}.yml: three with for: {half}"
            assert count[chapter, half] >= 3, lacks
    assert {chapter for chapter, _ in count} == set(chapters)
    assert len({q.ask for q in QUESTIONS}) == len(QUESTIONS)


def test_each_question_offers_three_misconceptions_or_numbers():
    assert {len(q.options) for q in CHOICES} == {4}
    assert all(len(q.options) >= 2 for q in NUMERIC)


def test_every_misconception_is_looked_for():
    stored = yaml.safe_load((ROOT / bank.BANK / bank.BELIEFS).read_text("utf-8"))
    used = {belief.text for belief in bank.misconceptions(QUESTIONS)}
    assert {entry["belief"] for entry in stored.values()} == used


def test_neither_place_nor_length_gives_the_answer_away():
    places, longest, shortest = Counter(), 0, 0
    for question in CHOICES:
        lengths = [len(option.text) for option in question.options]
        place = [option.belief for option in question.options].index(None)
        places[place] += 1
        longest += lengths[place] == max(lengths)
        shortest += lengths[place] == min(lengths)
        rest = [n for i, n in enumerate(lengths) if i != place]
        assert 0.6 * min(rest) <= lengths[place] <= 1.5 * max(rest), question.id
    # Guessing by a rule must not pay: a fair share is one in four.
    assert max(places.values()) <= 0.35 * len(CHOICES), places
    assert longest <= 0.4 * len(CHOICES), longest
    assert shortest <= 0.4 * len(CHOICES), shortest


def test_no_option_speaks_of_the_others():
    for question in CHOICES:
        text = " ".join(option.text for option in question.options).lower()
        assert not re.search(r"of the above|all of these|none of these", text)


# What an element of QTI 1.2 may contain, as the DTD and the XSD have it; only
# the elements that a quiz of ours needs.
MATERIAL = r"(material )"
CONTENT = {
    "questestinterop": r"(assessment |(section |item )+)",
    "assessment": r"(qtimetadata )*(section )+",
    "section": r"(qtimetadata )*(selection_ordering )?(item |section )*",
    "item": r"(itemmetadata )?(presentation )?(resprocessing )*(itemfeedback )*",
    "itemmetadata": r"(qtimetadata )*",
    "qtimetadata": r"(qtimetadatafield )+",
    "qtimetadatafield": r"fieldlabel fieldentry ",
    "presentation": rf"({MATERIAL}|response_lid |response_str )+",
    "response_lid": rf"{MATERIAL}?render_choice {MATERIAL}?",
    "response_str": rf"{MATERIAL}?render_fib {MATERIAL}?",
    "render_choice": rf"({MATERIAL}|response_label )*",
    "render_fib": rf"({MATERIAL}|response_label )*",
    "response_label": rf"({MATERIAL}|flow_mat )*",
    "resprocessing": r"outcomes (respcondition )+",
    "outcomes": r"(decvar )+",
    "respcondition": r"conditionvar (setvar )*(displayfeedback )*",
    "conditionvar": r"(not |and |or |other |varequal |vargte |varlte |vargt |varlt )+",
    "or": r"(not |and |or |varequal |vargte |varlte |vargt |varlt )+",
    "and": r"(not |and |or |varequal |vargte |varlte |vargt |varlt )+",
    "itemfeedback": rf"(flow_mat |{MATERIAL})+",
    "flow_mat": rf"(flow_mat |{MATERIAL})+",
    "material": r"(mattext )+",
}
LEAVES = {"fieldlabel", "fieldentry", "mattext", "decvar", "setvar", "displayfeedback"}
LEAVES |= {"other", "varequal", "vargte", "varlte", "vargt", "varlt"}
ATTRIBUTES = {
    "assessment": {"ident", "title"},
    "section": {"ident"},
    "item": {"ident"},
    "response_lid": {"ident"},
    "response_str": {"ident"},
    "response_label": {"ident"},
    "varequal": {"respident"},
    "vargte": {"respident"},
    "varlte": {"respident"},
    "itemfeedback": {"ident"},
    "displayfeedback": {"linkrefid"},
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """All files, with the private questions of the example."""
    more = ROOT / "instructors" / "questions_example" / "questions"
    both = bank.load(ROOT, more)
    private = {q.id for q in both} - {q.id for q in QUESTIONS}
    folder = tmp_path_factory.mktemp("questions")
    questions.write(folder, both, private)
    return folder, both


def qti(path):
    """The items of a zip for Canvas, and the root that they are in."""
    with zipfile.ZipFile(path) as file:
        manifest = ET.fromstring(file.read("imsmanifest.xml"))
        listed = {e.get("href") for e in manifest.iter() if e.tag.endswith("}file")}
        assert listed <= set(file.namelist())
        (name,) = [n for n in listed if "meta" not in n]
        text = file.read(name).decode()
    root = ET.fromstring(
        text.replace('xmlns="http://www.imsglobal.org/xsd/ims_qtiasiv1p2"', "")
    )
    return root


def test_canvas_gets_qti_as_specified(written):
    folder, both = written
    seen = []
    for path in sorted((folder / "canvas").glob("*.zip")):
        root = qti(path)
        for element in root.iter():
            inside = "".join(f"{child.tag} " for child in element)
            if element.tag in LEAVES:
                assert not inside
            else:
                assert re.fullmatch(CONTENT[element.tag], inside), (path.name, inside)
            assert ATTRIBUTES.get(element.tag, set()) <= set(element.attrib)
        seen += [item.get("title") for item in root.iter("item")]
        ids = [e.get("ident") for e in root.iter("item")]
        assert len(ids) == len(set(ids))
        for item in root.iter("item"):  # what is said, and when
            told = {e.get("linkrefid") for e in item.iter("displayfeedback")}
            assert told == {e.get("ident") for e in item.iter("itemfeedback")}
    assert sorted(seen) == sorted(q.id for q in both)


def test_canvas_gives_the_point_to_the_right_option(written):
    folder, both = written
    items = {
        item.get("title"): item
        for path in (folder / "canvas").glob("*.zip")
        for item in qti(path).iter("item")
    }
    for question in both:
        item = items[question.id]
        (won,) = [c for c in item.iter("respcondition") if c.find("setvar") is not None]
        value = won.find(".//varequal").text
        if question.answer is not None:
            assert float(value) == pytest.approx(question.answer)
            if question.tolerance:
                low, high = (
                    float(won.find(f".//{t}").text) for t in ("vargte", "varlte")
                )
                assert high - low == pytest.approx(2 * question.tolerance, rel=1e-3)
            continue
        label = item.find(f".//response_label[@ident='{value}']")
        letters = re.sub(r"<[^>]+>", "", html.unescape(label.findtext(".//mattext")))
        assert squeezed(letters) == squeezed(
            html.unescape(bank.to_html(question.right))
        )


def squeezed(text):
    """Letters and digits: the two renderers differ in quotes and spaces."""
    return re.sub(r"<[^>]+>|[^\w]", "", text)


def test_moodle_gets_every_question_with_its_points(written):
    folder, both = written
    found = {}
    for path in (folder / "moodle").glob("*.xml"):
        root = ET.parse(path).getroot()
        assert root.tag == "quiz"
        assert root[0].get("type") == "category"
        for element in root.iter("question"):
            if element.get("type") != "category":
                found[element.findtext("name/text")] = element
    assert set(found) == {q.id for q in both}
    for question in both:
        element = found[question.id]
        answers = element.findall("answer")
        (right,) = [a for a in answers if a.get("fraction") == "100"]
        assert all(a.findtext("feedback/text") for a in answers)
        if question.answer is None:
            assert element.get("type") == "multichoice"
            assert len(answers) == len(question.options)
            assert element.findtext("single") == "true"
            assert squeezed(right.findtext("text")) == squeezed(
                bank.to_html(question.right)
            )
        else:
            assert element.get("type") == "numerical"
            assert float(right.findtext("text")) == question.answer
            assert float(right.findtext("tolerance")) == question.tolerance


def test_formulas_are_in_the_form_that_each_platform_sets(written):
    folder, both = written
    with_formula = [q for q in both if "$" in q.why]
    assert with_formula
    texts = "".join(p.read_text("utf-8") for p in (folder / "moodle").glob("*.xml"))
    assert texts.count(r"\(") == texts.count(r"\)") >= len(with_formula)
    assert "$" not in texts.replace("$course$", "")
    zips = [ET.tostring(qti(p), "unicode") for p in (folder / "canvas").glob("*.zip")]
    assert sum(t.count("data-equation-content") for t in zips) >= len(with_formula)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"for": "everyone"}, "book or instructors"),
        ({"experiment": [7, "No such heading"]}, "a heading in it"),
        ({"id": "seven"}, "such as 07a"),
        ({"hint": "none"}, "missing or unknown: hint"),
        ({"answer": 3, "tolerance": 5}, "counts as right"),
        ({"slips": [{"value": 2, "belief": "nobody's"}]}, "nobody's"),
        ({"id": "07a"}, "taken"),
        ({"options": []}, "either options or an answer"),
    ],
)
def test_a_wrong_question_gets_a_sentence(tmp_path, change, says):
    entry = {
        "id": "07z",
        "for": "book",
        "ask": "How many?",
        "answer": 1,
        "slips": [{"value": 2, "belief": "images-only"}],
        "why": "One.",
        "experiment": [7, "Batch size 2 leaves one bit per feature"],
    }
    (tmp_path / "new.yml").write_text(yaml.safe_dump([entry]), "utf-8")
    assert bank.load(ROOT, tmp_path)[-1].id == "07z"
    (tmp_path / "new.yml").write_text(yaml.safe_dump([entry | change]), "utf-8")
    with pytest.raises(ValueError, match=re.escape(says)) as caught:
        bank.load(ROOT, tmp_path)
    assert "new.yml" in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_without_questions_is_told(tmp_path):
    with pytest.raises(ValueError, match="found none"):
        bank.load(ROOT, tmp_path)
    (tmp_path / "07.yml").write_text("- id: [", "utf-8")
    with pytest.raises(ValueError, match="expected YAML"):
        bank.load(ROOT, tmp_path)
