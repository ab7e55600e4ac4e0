"""data/: the file is what its script writes, and damage never passes."""

import re
import runpy
import shutil

import numpy as np
import pytest
import torch

from utils.data import DIGITS, SIZES, DataError, load_digits

ROOT = DIGITS.parents[1]
NAMES = [DIGITS.name, DIGITS.with_suffix(".sha256").name]


@pytest.fixture
def copy(tmp_path):
    """A copy of the data file and its checksum, to be damaged."""
    for name in NAMES:
        shutil.copy(DIGITS.with_name(name), tmp_path / name)
    return tmp_path / DIGITS.name


@pytest.fixture
def raw():
    """The arrays of the file, images and labels."""
    with np.load(DIGITS, allow_pickle=False) as file:
        return file["images"], file["labels"]


def test_the_file_is_what_its_script_writes(raw, tmp_path, monkeypatch):
    """From scikit-learn's digits, for the set that we have."""
    (script,) = DIGITS.parent.glob("make_*.py")
    make = runpy.run_path(str(script))["main"]
    monkeypatch.setitem(make.__globals__, "HERE", tmp_path)
    make()
    with np.load(tmp_path / DIGITS.name, allow_pickle=False) as file:
        np.testing.assert_array_equal(file["images"], raw[0])
        np.testing.assert_array_equal(file["labels"], raw[1])


def test_the_set_up_cell_knows_the_course_by_a_file_that_is_there():
    marker = re.search(r'p / "(.+?)"', (ROOT / "tools/setup_cell.py").read_text())[1]
    assert (ROOT / marker).is_file(), (
        f"tools/setup_cell.py looks for {marker}: name your file so, or change it "
        "there and in tools/setup_homework.py, then make setup-cells"
    )


def test_each_seed_draws_a_stratified_split_of_all_images(raw):
    images, labels = raw
    digits = load_digits(seeds=[3, 4], dtype=torch.float64)
    assert [tuple(part.y.shape) for part in digits] == [(2, n) for n in SIZES]
    classes = torch.from_numpy(labels).long().bincount()
    for seed in (0, 1):
        own = digits.of(seed)
        for part in own:
            share = part.y.bincount() / len(part.y)
            assert (share - classes / len(labels)).abs().max() < 0.01
        assert torch.equal(torch.cat([part.y for part in own]).bincount(), classes)
        drawn = torch.cat([part.x for part in own])
        different = {image.tobytes() for image in images}
        assert len({tuple(row) for row in drawn.tolist()}) == len(different)
    assert not torch.equal(digits.test.y[0], digits.test.y[1])
    again = load_digits(seeds=[4], dtype=torch.float64)
    assert torch.equal(digits.test.x[1], again.test.x[0])


def test_rows_are_in_random_order():
    y = load_digits(seeds=[0]).train.y[0, :128]
    assert y.bincount(minlength=10).min() > 2  # neither sorted by digit,
    order = load_digits(seeds=[0, 1]).train.y[:, :128]
    assert (order[0] != order[1]).any()  # nor the file's


def test_one_split_is_that_of_the_first_seed(monkeypatch):
    monkeypatch.setenv("COURSE_SEED", "2")
    one, twelve = load_digits(), load_digits(12)
    assert twelve.train.x.shape == (12, SIZES[0], 64)
    assert torch.equal(one.test.x, twelve.of(0).test.x)
    assert torch.equal(one.test.x, load_digits([2000]).test.of(0).x)
    assert torch.equal(one.test.y, one.of(5).test.y)  # it has no others


def test_scaled_by_one_mean_and_deviation_of_the_training_part(raw):
    parts = load_digits(dtype=torch.float64)
    x = parts.train.x
    np.testing.assert_allclose([x.mean(), x.std()], [0, 1], atol=1e-12)
    levels = torch.cat([part.x for part in parts]).unique().numpy()
    step = np.diff(levels)  # 17 grey values, equally far apart
    np.testing.assert_allclose(step, step.mean(), rtol=1e-9)
    assert len(levels) == len(np.unique(raw[0]))


def test_truncated_file(copy):
    copy.write_bytes(copy.read_bytes()[:-100])
    with pytest.raises(DataError, match="truncated or altered.*git checkout"):
        load_digits(path=copy)


@pytest.mark.parametrize("place", [0, 20_000, -1])
def test_one_altered_byte(copy, place):
    content = bytearray(copy.read_bytes())
    content[place] ^= 1
    copy.write_bytes(content)
    with pytest.raises(DataError, match="truncated or altered"):
        load_digits(path=copy)


@pytest.mark.parametrize("name", NAMES)
def test_missing_file(copy, name):
    copy.with_name(name).unlink()
    with pytest.raises(DataError, match=f"{name} is missing.*make_digits"):
        load_digits(path=copy)


def test_empty_checksum(copy):
    copy.with_suffix(".sha256").write_text("")
    with pytest.raises(DataError, match="says nothing"):
        load_digits(path=copy)
