"""The course's data: handwritten digits, loaded from data/digits.npz."""

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from utils.seeds import seed_list

SIZES = (1024, 256, 517)  # train, validation, test
DIGITS = Path(__file__).resolve().parent.parent / "data" / "digits.npz"


class DataError(RuntimeError):
    """The data file is missing or is not the one that the course expects."""


class Split(NamedTuple):
    """Inputs and labels of one part of the data."""

    x: torch.Tensor  # (images, 64), or (seeds, images, 64): a split per seed
    y: torch.Tensor  # (images,) or (seeds, images), int64

    def of(self, seed: int) -> "Split":
        """The one split of the seed with this index."""
        return Split(self.x[seed], self.y[seed]) if self.y.dim() > 1 else self


class Digits(NamedTuple):
    """The three parts; `test` is never used to choose anything."""

    train: Split  # 1024 images
    validation: Split  # 256 images
    test: Split  # 517 images

    def of(self, seed: int) -> "Digits":
        """The one split of the seed with this index."""
        return Digits(*(part.of(seed) for part in self))


def read_verified(path: Path, otherwise: str = "") -> bytes:
    """The file's bytes, once its checksum, beside it, has been found right.

    otherwise: another way to restore it, for the error.
    """
    restore = f'Restore it with "git checkout -- data" in the repository{otherwise}.'
    recorded = path.with_suffix(".sha256")
    for needed in (path, recorded):
        if not needed.is_file():
            raise DataError(f"{needed} is missing. {restore}")
    content = path.read_bytes()
    expected = recorded.read_text(errors="replace").split()[:1]
    found = hashlib.sha256(content).hexdigest()
    if [found] != expected:
        raise DataError(
            f"{path} or its checksum is truncated or altered: the file has "
            f"{len(content)} bytes and sha256 {found}, and {recorded.name} "
            f"says {expected[0] if expected else 'nothing'}. {restore}"
        )
    return content


def load_digits(
    seeds: int | Sequence[int] | None = None,
    path: Path = DIGITS,
    dtype: torch.dtype = torch.float32,
) -> Digits:
    """Load the 8x8 digits, split and scaled.

    seeds: a list, or how many of the course's (shifted by COURSE_SEED): each
        draws its own split, and all tensors have a first axis for them.
        None: the one split of the course's first seed, without that axis.

    Splits are stratified by digit, and their rows are in random order, so
    that the first 128 are a random subset. Inputs are flat, (images, 64):
    start a convolutional net with `nn.Unflatten(1, (1, 8, 8))`. They are
    scaled with one mean and one standard deviation, those of the training
    part.

    Raises DataError, with the way to restore it, when the file is missing,
    truncated or altered. Source and licence: data/README.md.
    """
    anew = ', or make it anew with "python data/make_digits.py" (needs scikit-learn)'
    content = io.BytesIO(read_verified(Path(path), otherwise=anew))
    with np.load(content, allow_pickle=False) as file:
        images, labels = file["images"], file["labels"]
    x = torch.from_numpy(images.reshape(len(images), 64)).to(dtype)
    y = torch.from_numpy(labels).long()
    if seeds is None:
        return _split(x, y, seed_list(1)[0])
    splits = [_split(x, y, seed) for seed in seed_list(seeds)]
    return Digits(*(Split(*map(torch.stack, zip(*parts))) for parts in zip(*splits)))


def split_rows(y: torch.Tensor, sizes: Sequence[int], seed: int) -> list[torch.Tensor]:
    """Divide all rows of y into stratified parts of these sizes, in random order."""
    if sum(sizes) != len(y):
        raise ValueError(f"the parts {tuple(sizes)} must add up to {len(y)} images")
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(y), generator=generator)
    order = order[y[order].argsort(stable=True)]  # by class, random within
    parts = []
    for i, size in enumerate(sizes):
        # every so-manieth of those that are left, so of each class its share
        left = sum(sizes[i:])
        count = torch.arange(left + 1) * size // left
        chosen = count[1:] > count[:-1]
        rows, order = order[chosen], order[~chosen]
        parts.append(rows[torch.randperm(size, generator=generator)])
    return parts


def _split(x: torch.Tensor, y: torch.Tensor, seed: int) -> Digits:
    """Draw a stratified split and scale it by its training part."""
    parts = split_rows(y, SIZES, seed)
    mean, sd = x[parts[0]].mean(), x[parts[0]].std()
    return Digits(*(Split((x[rows] - mean) / sd, y[rows]) for rows in parts))
