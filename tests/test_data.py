"""data/: the file is scikit-learn's digits, and damage never passes."""

import shutil

import numpy as np
import pytest
import sklearn.datasets
import torch

from utils.data import DIGITS, DataError, load_digits


@pytest.fixture
def copy(tmp_path):
    """A copy of the data file and its checksum, to be damaged."""
    for name in ("digits.npz", "digits.sha256"):
        shutil.copy(DIGITS.with_name(name), tmp_path / name)
    return tmp_path / "digits.npz"


def test_equal_to_scikit_learn():
    source = sklearn.datasets.load_digits()
    with np.load(DIGITS, allow_pickle=False) as file:
        np.testing.assert_array_equal(file["images"], source.images)
        np.testing.assert_array_equal(file["labels"], source.target)


def test_each_seed_draws_a_stratified_split_of_all_images():
    digits = load_digits(seeds=[3, 4], dtype=torch.float64)
    assert [tuple(part.y.shape) for part in digits] == [(2, 1024), (2, 256), (2, 517)]
    everything = load_digits(seeds=[3], dtype=torch.float64)
    for seed in (0, 1):
        own = digits.of(seed)
        for part in own:
            share = part.y.bincount(minlength=10) / len(part.y)
            assert (share - 0.1).abs().max() < 0.01
        labels = torch.cat([part.y for part in own])
        assert (
            labels.bincount().tolist()
            == torch.cat([part.y[0] for part in everything]).bincount().tolist()
        )
        images = torch.cat([part.x for part in own])
        assert len({tuple(row) for row in images.tolist()}) == 1797  # none twice
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
    assert twelve.train.x.shape == (12, 1024, 64)
    assert torch.equal(one.test.x, twelve.of(0).test.x)
    assert torch.equal(one.test.x, load_digits([2000]).test.of(0).x)
    assert torch.equal(one.test.y, one.of(5).test.y)  # it has no others


def test_scaled_by_one_mean_and_deviation_of_the_training_part():
    parts = load_digits(dtype=torch.float64)
    x = parts.train.x
    np.testing.assert_allclose([x.mean(), x.std()], [0, 1], atol=1e-12)
    with np.load(DIGITS, allow_pickle=False) as file:
        raw = np.unique(file["images"]).astype(float)
    levels = torch.cat([part.x for part in parts]).unique().numpy()
    step = np.diff(levels)  # 17 grey values, equally far apart
    np.testing.assert_allclose(step, step.mean(), rtol=1e-9)
    assert len(levels) == len(raw)


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


@pytest.mark.parametrize("name", ["digits.npz", "digits.sha256"])
def test_missing_file(copy, name):
    copy.with_name(name).unlink()
    with pytest.raises(DataError, match=f"{name} is missing.*make_digits"):
        load_digits(path=copy)


def test_empty_checksum(copy):
    copy.with_suffix(".sha256").write_text("")
    with pytest.raises(DataError, match="says nothing"):
        load_digits(path=copy)
