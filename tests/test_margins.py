"""Every claim of the chapters keeps the rule, as tests/margins.csv has it.

nbval runs the chapters before and records their claims in _build/claims.
"""

import json

import pytest

import margins
from repository import ROOT
from tests.nbval_chapter import CLAIMS, claims_of

ROWS = margins.read_table(ROOT)


@pytest.fixture(scope="module")
def claims():
    files = [claims_of(path) for path in sorted((ROOT / "chapters").glob("*.ipynb"))]
    missing = [path.stem for path in files if not path.exists()]
    if missing:
        pytest.fail(
            f"no claims are recorded in {CLAIMS} for {', '.join(missing)}: run the "
            "chapters with nbval first, as make test does"
        )
    lines = [line for path in files for line in path.read_text("utf8").splitlines()]
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
