"""Write digits.npz and its checksum from scikit-learn's copy of the digits.

Run from the repository: python data/make_digits.py (needs scikit-learn).
The split is stored with the images, so that it never depends on a random
number generator of a later version.
"""

import hashlib
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

HERE = Path(__file__).parent
TRAIN, VALIDATION, TEST = 0, 1, 2  # the codes in the file's "split"
N_TRAIN, N_VALIDATION = 1024, 256  # 1024: every power of two divides an epoch


def digits() -> dict[str, np.ndarray]:
    """Images (1797, 8, 8), values 0 to 16, labels (1797,) and split (1797,)."""
    source = load_digits()
    labels = source.target
    train, rest = train_test_split(
        np.arange(len(labels)),
        train_size=N_TRAIN,
        stratify=labels,
        random_state=0,
    )
    validation, _ = train_test_split(
        rest,
        train_size=N_VALIDATION,
        stratify=labels[rest],
        random_state=0,
    )
    split = np.full(len(labels), TEST, dtype=np.uint8)
    split[train] = TRAIN
    split[validation] = VALIDATION
    return {
        "images": source.images.astype(np.uint8),
        "labels": labels.astype(np.uint8),
        "split": split,
    }


def main() -> None:
    path = HERE / "digits.npz"
    np.savez_compressed(path, **digits())
    checksum = hashlib.sha256(path.read_bytes()).hexdigest()
    (HERE / "digits.sha256").write_text(f"{checksum}  digits.npz\n")
    print(f"{path}: {path.stat().st_size} bytes, sha256 {checksum}")


if __name__ == "__main__":
    main()
