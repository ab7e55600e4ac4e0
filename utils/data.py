"""The course's data: handwritten digits, loaded from data/digits.npz."""

import hashlib
import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

DIGITS = Path(__file__).resolve().parent.parent / "data" / "digits.npz"


class DataError(RuntimeError):
    """The data file is missing or is not the one that the course expects."""


class Split(NamedTuple):
    """Inputs and labels of one part of the data."""

    x: torch.Tensor  # (images, 64)
    y: torch.Tensor  # (images,), int64


class Digits(NamedTuple):
    """The three parts; `test` is never used to choose anything."""

    train: Split  # 1024 images
    validation: Split  # 256 images
    test: Split  # 517 images


def _read_verified(path: Path) -> bytes:
    """The file's bytes, once its checksum has been found right."""
    restore = (
        'Restore it with "git checkout -- data" in the repository, or make '
        'it anew with "python data/make_digits.py" (needs scikit-learn).'
    )
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


def load_digits(path: Path = DIGITS, dtype: torch.dtype = torch.float32) -> Digits:
    """Load the 8x8 digits, split and scaled.

    Inputs are flat, (images, 64): start a convolutional net with
    `nn.Unflatten(1, (1, 8, 8))`. They are scaled with one mean and one
    standard deviation, both of the training part.

    Raises DataError, with the way to restore it, when the file is missing,
    truncated or altered. Source and licence: data/README.md.
    """
    with np.load(io.BytesIO(_read_verified(Path(path))), allow_pickle=False) as file:
        images, labels, split = file["images"], file["labels"], file["split"]
    x = torch.from_numpy(images.reshape(len(images), 64)).to(dtype)
    y = torch.from_numpy(labels).long()
    part = torch.from_numpy(split)
    mean, sd = x[part == 0].mean(), x[part == 0].std()
    x = (x - mean) / sd
    return Digits(*(Split(x[part == code], y[part == code]) for code in range(3)))
