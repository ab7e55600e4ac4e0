"""MNIST, Fashion-MNIST and CIFAR-10, downloaded once and checked each time.

Files are kept in the user's cache, or in the folder that COURSE_CACHE names. Only
formats without pickles are read.
"""

import gzip
import os
import sys
import tarfile
import time
import zlib
from pathlib import Path

import numpy as np
import torch

from utils.data import DataError

IDX = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
IDX = tuple(f"{name}-ubyte.gz" for name in IDX)
CIFAR = "cifar-10-binary.tar.gz"
ADDRESSES = {
    "mnist": "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "fashion-mnist": "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    "cifar10": "https://www.cs.toronto.edu/~kriz/",
}
# sha256 of each file
CHECKSUMS = {
    "mnist": dict(
        zip(
            IDX,
            (
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            ),
        )
    ),
    "fashion-mnist": dict(
        zip(
            IDX,
            (
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
                "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
                "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            ),
        )
    ),
    "cifar10": {
        CIFAR: "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
    },
}
TRIES = 3


class Bar:
    """How much of a file is there, as pooch wants a progress bar."""

    def __init__(self, name: str):
        self.name, self.total, self.done, self.shown = name, 0, 0, 0.0

    def update(self, size: int) -> None:
        self.done += size
        if time.monotonic() - self.shown > 0.5:
            self.shown = time.monotonic()
            done, of = self.done, ""
            if self.total:  # chunks count as whole ones
                done, of = min(done, self.total), f" of {self.total / 1e6:.1f}"
            text = f"\r{self.name}: {done / 1e6:.1f}{of} MB"
            print(text, end="", file=sys.stderr, flush=True)

    def reset(self) -> None:
        self.done = 0

    def close(self) -> None:
        if self.shown:
            print(file=sys.stderr)


def cache_folder() -> Path:
    """Where the files are kept."""
    import pooch

    given = os.environ.get("COURSE_CACHE")
    return Path(given) if given else Path(pooch.os_cache("bn-measured"))


def fetch(data: str, name: str) -> Path:
    """The file, from the cache if its checksum is right there, or the network.

    Raises DataError when it cannot be had: in the cache there is then nothing
    of it that a next call could take for the file.
    """
    try:
        import pooch
    except ImportError:
        raise DataError(
            f"downloading {data} needs the package pooch: "
            "pip install -r requirements-scale.txt"
        ) from None
    address = ADDRESSES[data]
    store = pooch.create(
        cache_folder() / data, address, registry={name: CHECKSUMS[data][name]}
    )
    pooch.get_logger().setLevel("ERROR")  # Bar says what happens
    for left in reversed(range(TRIES)):
        bar = Bar(name)
        loader = pooch.HTTPDownloader(progressbar=bar, chunk_size=1 << 16, timeout=30)
        try:
            return Path(store.fetch(name, downloader=loader))
        except (OSError, ValueError) as error:  # ValueError: the wrong checksum
            bar.close()
            if left:
                time.sleep(0.5)
                continue
            raise DataError(f"{name} of {data} {_why(error)}") from None
    raise AssertionError("unreachable")


def _why(error: Exception) -> str:
    """What went wrong with a download, and what to do, in the reader's words."""
    response = getattr(error, "response", None)
    if isinstance(error, ValueError):
        what = "arrived truncated or altered: its sha256 is not the one expected"
    elif response is not None:
        what = f"is not there: {response.url} answers {response.status_code}"
    elif type(error).__name__ in ("ChunkedEncodingError", "IncompleteRead"):
        what = "arrived truncated: the connection ended too early"
    else:
        return (
            "cannot be downloaded: there is no connection to its server. Run again "
            "with a network, or leave DATA out: mnist5k is part of the course."
        )
    return f"{what} ({TRIES} tries). Run again later; nothing of it was kept."


def read_idx(path: Path) -> np.ndarray:
    """An array of bytes in MNIST's format: (images, height, width) or (images,)."""
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path.name} is no gzip file: {error}") from None
    axes = content[3] if content[:3] == b"\0\0\x08" else 0
    shape = np.frombuffer(content[4 : 4 + 4 * axes], ">i4")
    if axes not in (1, 3) or len(content) != 4 + 4 * axes + shape.prod():
        raise DataError(f"{path.name} is not in MNIST's format of one or three axes")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)


def read_cifar(path: Path) -> list[np.ndarray]:
    """Images (images, 3, 32, 32) and labels: five training batches, the test one."""
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
    batches = []
    try:
        with tarfile.open(path) as archive:
            for name in names:
                content = archive.extractfile(f"cifar-10-batches-bin/{name}").read()
                batches.append(np.frombuffer(content, np.uint8).reshape(-1, 3073))
    except (tarfile.TarError, KeyError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"{path.name} is not CIFAR-10's archive: {error}") from None
    every = np.concatenate(batches)
    sizes = [sum(map(len, batches[:5])), len(batches[5])]
    return [every[:, 1:].reshape(-1, 3, 32, 32), every[:, 0], np.array(sizes)]


def download(name: str) -> tuple[torch.Tensor, torch.Tensor, tuple[int, int, int]]:
    """Pixels (images, channels, height, width), labels, sizes of the three parts.

    The set's own test part comes last; a sixth of the others is for validation.
    """
    if name not in ADDRESSES:
        known = ", ".join(["mnist5k", *ADDRESSES])
        raise DataError(f"DATA is one of {known}, got {name!r}")
    paths = [fetch(name, file) for file in CHECKSUMS[name]]
    if name == "cifar10":
        pixels, labels, (free, test) = read_cifar(paths[0])
    else:
        x, y, test_x, test_y = map(read_idx, paths)
        pixels, labels = (
            np.concatenate([x, test_x])[:, None],
            np.concatenate([y, test_y]),
        )
        free, test = len(y), len(test_y)
    if len(pixels) != len(labels):
        raise DataError(f"{name}: {len(pixels)} images and {len(labels)} labels")
    sizes = (int(free - free // 6), int(free // 6), int(test))
    return torch.tensor(pixels), torch.tensor(labels).long(), sizes
