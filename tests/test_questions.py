"""The question bank: right answers are right, and its forms say what it says."""

import ast
import math
import re
from collections import Counter
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import nn

import bank

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
        assert count[chapter, "book"] >= 3, chapter
        assert count[chapter, "instructors"] >= 3, chapter
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
