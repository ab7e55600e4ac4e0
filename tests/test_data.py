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


def test_split_is_fixed_and_stratified():
    parts = load_digits()
    assert [len(part.y) for part in parts] == [1024, 256, 517]
    for part in parts:
        share = part.y.bincount(minlength=10) / len(part.y)
        assert (share - 0.1).abs().max() < 0.01


def test_scaled_by_one_mean_and_deviation_of_the_training_part():
    parts = load_digits(dtype=torch.float64)
    with np.load(DIGITS, allow_pickle=False) as file:
        raw = file["images"].reshape(-1, 64).astype(float)
        train = raw[file["split"] == 0]
        test = raw[file["split"] == 2]
    expected = (test - train.mean()) / train.std(ddof=1)
    np.testing.assert_allclose(parts.test.x, expected, rtol=1e-12)


def test_truncated_file(copy):
    copy.write_bytes(copy.read_bytes()[:-100])
    with pytest.raises(DataError, match="truncated or altered.*git checkout"):
        load_digits(copy)


@pytest.mark.parametrize("place", [0, 20_000, -1])
def test_one_altered_byte(copy, place):
    content = bytearray(copy.read_bytes())
    content[place] ^= 1
    copy.write_bytes(content)
    with pytest.raises(DataError, match="truncated or altered"):
        load_digits(copy)


@pytest.mark.parametrize("name", ["digits.npz", "digits.sha256"])
def test_missing_file(copy, name):
    copy.with_name(name).unlink()
    with pytest.raises(DataError, match=f"{name} is missing.*make_digits"):
        load_digits(copy)


def test_empty_checksum(copy):
    copy.with_suffix(".sha256").write_text("")
    with pytest.raises(DataError, match="says nothing"):
        load_digits(copy)
