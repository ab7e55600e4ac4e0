"""Write digits.npz and its checksum from scikit-learn's copy of the digits.

Run from the repository: python data/make_digits.py (needs scikit-learn).
"""

import hashlib
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

HERE = Path(__file__).parent


def main() -> None:
    source = load_digits()
    path = HERE / "digits.npz"
    np.savez_compressed(
        path,
        images=source.images.astype(np.uint8),  # (1797, 8, 8), 0 to 16
        labels=source.target.astype(np.uint8),  # (1797,)
    )
    checksum = hashlib.sha256(path.read_bytes()).hexdigest()
    (HERE / "digits.sha256").write_text(f"{checksum}  digits.npz\n")
    print(f"{path}: {path.stat().st_size} bytes, sha256 {checksum}")


if __name__ == "__main__":
    main()
