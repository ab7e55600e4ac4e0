"""Larger images, with a split for each seed: 5000 of MNIST, or a set by name."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch

from utils.data import Digits, Split, read_verified, split_rows
from utils.scale.downloads import download
from utils.seeds import seed_list

MNIST5K = Path(__file__).resolve().parents[2] / "data" / "mnist5k" / "mnist5k.npz"
PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Source:
    """A set of images; `sizes` are those of its three parts.

    With `own_test` the last images are the set's own test part, and each seed
    divides the others only.
    """

    pixels: torch.Tensor  # (images, channels, height, width), uint8
    labels: torch.Tensor  # (images,), int64
    sizes: tuple[int, int, int]
    own_test: bool = False

    def split(self, seed: int) -> list[torch.Tensor]:
        """The rows of the three parts: stratified, each in random order."""
        if not self.own_test:
            return split_rows(self.labels, self.sizes, seed)
        test = torch.arange(len(self.labels))[-self.sizes[2] :]
        free = self.labels[: -self.sizes[2]]
        return [*split_rows(free, self.sizes[:2], seed), test]


@dataclass(frozen=True)
class Images:
    """A source as many nets see it, each with the split of its own seed."""

    source: Source
    rows: dict[str, torch.Tensor]  # by part, (nets, images): rows of the source
    mean: torch.Tensor  # (nets, 1, 1, 1, 1): of the net's training part, and so
    sd: torch.Tensor  # is the standard deviation

    def take(self, part: str, which: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scaled images and labels; which: places within the part, (nets, batch).

        Returns (nets, batch, channels, height, width) and (nets, batch).
        """
        rows = self.rows[part].gather(1, which)
        pixels = self.source.pixels[rows].float()
        return (pixels - self.mean) / self.sd, self.source.labels[rows]

    def only(self, digits: Sequence[int]) -> "Images":
        """The images of these classes, scaled as before."""
        wanted = torch.tensor(digits, device=self.mean.device)
        rows = {}
        for part, all_rows in self.rows.items():
            kept = torch.isin(self.source.labels[all_rows], wanted)
            # Stratified alike, so each net keeps as many.
            rows[part] = all_rows[kept].view(len(all_rows), -1)
        return Images(self.source, rows, self.mean, self.sd)


def read_mnist5k(path: Path = MNIST5K) -> Source:
    """The 5000 images of data/mnist5k, once their checksum has been found right.

    Raises DataError, with the way to restore the file, when it is missing,
    truncated or altered. Source and licence: data/mnist5k/README.md.
    """
    content = read_verified(Path(path))
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        pixels = torch.from_numpy(file["images"])[:, None]
        return Source(
            pixels, torch.from_numpy(file["labels"]).long(), (3000, 1000, 1000)
        )


@cache
def read(name: str, device: str = "cpu") -> Source:
    """A set by name, on a device: "mnist5k", or one that is downloaded."""
    source = read_mnist5k() if name == "mnist5k" else Source(*download(name), True)
    pixels, labels = source.pixels.to(device), source.labels.to(device)
    return Source(pixels, labels, source.sizes, source.own_test)


@cache
def _of_seed(name: str, seed: int, device: str) -> list[torch.Tensor]:
    """The rows of a seed's three parts, and the scale of its training part, (2,)."""
    source = read(name, device)
    on_cpu = Source(source.pixels, source.labels.cpu(), source.sizes, source.own_test)
    rows = [part.to(device) for part in on_cpu.split(seed)]
    return [*rows, _scale(source.pixels[rows[0]])]


def load(name: str, seeds: Sequence[int], device: str = "cpu") -> Images:
    """The set for nets with these seeds; a seed may occur more than once."""
    each = [_of_seed(name, seed, device) for seed in seeds]
    *rows, scales = (torch.stack(part) for part in zip(*each))
    mean, sd = (number.view(-1, 1, 1, 1, 1) for number in scales.T)
    return Images(read(name, device), dict(zip(PARTS, rows)), mean, sd)


def _scale(pixels: torch.Tensor) -> torch.Tensor:
    """Mean and standard deviation, (2,), from the counts of the 256 values."""
    count = torch.bincount(pixels.flatten().long(), minlength=256).double()
    value = torch.arange(256, device=pixels.device).double()
    mean = (count * value).sum() / count.sum()
    variance = (count * (value - mean) ** 2).sum() / (count.sum() - 1)
    return torch.stack([mean, variance.sqrt()]).float()


def load_mnist5k(
    seeds: int | Sequence[int] | None = None,
    path: Path = MNIST5K,
    dtype: torch.dtype = torch.float32,
) -> Digits:
    """Load 5000 MNIST images, split and scaled as `load_digits` does.

    seeds: a list, or how many of the course's (shifted by COURSE_SEED): each
        draws its own split, and all tensors have a first axis for them.
        None: the one split of the course's first seed, without that axis.

    3000 images to train, 1000 to validate, 1000 to test, stratified by digit,
    in random order, flat: (images, 784). Start a convolutional net with
    `nn.Unflatten(1, (1, 28, 28))`. Twelve seeds take 190 MB in float32.
    """
    source = read_mnist5k(path)
    chosen = seed_list(1 if seeds is None else seeds)
    x = source.pixels.flatten(1).to(dtype)
    splits = []
    for seed in chosen:
        rows = source.split(seed)
        mean, sd = x[rows[0]].mean(), x[rows[0]].std()
        splits.append([Split((x[r] - mean) / sd, source.labels[r]) for r in rows])
    if seeds is None:
        return Digits(*splits[0])
    return Digits(*(Split(*map(torch.stack, zip(*parts))) for parts in zip(*splits)))
