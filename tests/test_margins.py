"""Every claim of the chapters keeps the rule, as tests/margins.csv has it.

nbval runs the chapters before and records their claims in _build/claims.jsonl.
"""

import json

import pytest

import margins
from repository import ROOT
from tests.nbval_chapter import RECORD

ROWS = margins.read_table(ROOT)


@pytest.fixture(scope="module")
def claims():
    if not RECORD.exists() or not RECORD.stat().st_size:
        pytest.fail(
            "no claims are recorded in _build/claims.jsonl: run the chapters with "
            "nbval first, as make test does"
        )
    lines = RECORD.read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    return [record for record in records if record["kind"] == "claim"]


def test_every_claim_has_its_row_and_every_row_its_claim(claims):
    found = margins.differences(claims, ROWS)
    assert not found, "\n".join(["", *found])


def test_every_claim_keeps_the_rule():
    found = [
        f"{row['chapter']}: {row['statement']!r} {problem}"
        for row in ROWS
        for problem in margins.problems(row)
    ]
    advice = "more seeds, a better experiment, or an estimate that is not claimed"
    assert not found, "\n".join(["", *found, f"Each needs {advice}."])


def test_the_course_keeps_the_rule():
    total = margins.total(ROWS)
    assert total <= margins.SUM, (
        f"the chances of all claims to fail in a fresh run come to {total:.2g}, and "
        f"{margins.SUM} is the most: see the largest in {margins.TABLE}"
    )
