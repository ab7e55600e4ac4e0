"""Larger sets by name: fetched from a server on this machine, tiny, in their form."""

import gzip
import hashlib
import io
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from utils.data import DataError
from utils.scale import downloads, images
from utils.scale.findings import FINDINGS, perform

pytest.importorskip(
    "pooch", reason="pooch is not installed: pip install -r requirements-scale.txt"
)
RNG = np.random.default_rng(0)
FREE, TEST = 60, 20


def idx(array):
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
    return gzip.compress(header + array.astype(np.uint8).tobytes())


def mnist():
    files = {}
    for part, count in (("train", FREE), ("t10k", TEST)):
        pixels = RNG.integers(0, 256, (count, 28, 28))
        files[f"{part}-images-idx3-ubyte.gz"] = idx(pixels)
        files[f"{part}-labels-idx1-ubyte.gz"] = idx(np.arange(count) % 10)
    return files


def cifar():
    out = io.BytesIO()
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name in names:
            count = TEST if name == "test_batch" else FREE // 5
            pixels = RNG.integers(0, 256, (count, 3072))
            rows = np.column_stack([np.arange(count) % 10, pixels]).astype(np.uint8)
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
            info.size = rows.nbytes
            archive.addfile(info, io.BytesIO(rows.tobytes()))
    return {downloads.CIFAR: out.getvalue()}


class Server:
    """Serves files; `damage` maps a name to what is done to its next answers."""

    def __init__(self):
        self.files, self.damage, self.asked = {}, {}, []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                name = self.path.rpartition("/")[2]
                outer.asked.append(name)
                how = outer.damage.get(name, [])
                now = how.pop(0) if how else ""
                if name not in outer.files or now == "missing":
                    self.send_error(404)
                    return
                content = outer.files[name]
                if now == "altered":
                    content = content[:-1] + bytes([content[-1] ^ 1])
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[: len(content) // 2 if now == "cut" else None])

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self.server.server_port}/"

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def server(tmp_path, monkeypatch):
    running = Server()
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(downloads.time, "sleep", lambda seconds: None)
    for data, files in (
        ("mnist", mnist()),
        ("fashion-mnist", mnist()),
        ("cifar10", cifar()),
    ):
        sums = {name: hashlib.sha256(c).hexdigest() for name, c in files.items()}
        monkeypatch.setitem(downloads.ADDRESSES, data, f"{running.address}{data}/")
        monkeypatch.setitem(downloads.CHECKSUMS, data, sums)
        if data != "fashion-mnist":  # whose files have the same names
            running.files |= files
    forget()
    yield running
    running.close()
    forget()


def forget():
    images.read.cache_clear()
    images._of_seed.cache_clear()


def kept(tmp_path):
    return sorted(p.name for p in (tmp_path / "cache").rglob("*") if p.is_file())


@pytest.mark.parametrize(
    "data, shape", [("mnist", (1, 28, 28)), ("cifar10", (3, 32, 32))]
)
def test_a_set_is_downloaded_once_and_split(server, data, shape, tmp_path):
    pixels, labels, sizes = downloads.download(data)
    assert pixels.shape == (FREE + TEST, *shape) and sizes == (50, 10, TEST)
    assert labels[-TEST:].tolist() == [i % 10 for i in range(TEST)]
    asked = len(server.asked)
    downloads.download(data)
    assert len(server.asked) == asked and len(kept(tmp_path)) == asked

    found = images.load(data, [0, 1])
    assert [rows.shape for rows in found.rows.values()] == [(2, 50), (2, 10), (2, 20)]
    for rows in zip(*found.rows.values()):
        train, validation, test = map(set, (r.tolist() for r in rows))
        assert train | validation == {*range(FREE)} and not train & validation
        assert test == {*range(FREE, FREE + TEST)}  # the set's own, for every seed
    assert not found.rows["train"][0].equal(found.rows["train"][1])


def test_a_downloaded_set_is_trained_on(server):
    finding = FINDINGS["shift"]
    settings = finding.conditions["gn"] | {"images": 40, "batch_size": 4}
    scores = perform(finding.experiment, settings, [0, 1], [0.01, 0.01], "cifar10")
    assert np.isfinite(scores["darker"]).all()


@pytest.mark.parametrize("how", ["cut", "altered", "missing"])
def test_one_bad_answer_is_asked_again(server, how):
    server.damage = {"train-labels-idx1-ubyte.gz": [how]}
    assert len(downloads.download("mnist")[0]) == FREE + TEST
    assert server.asked.count("train-labels-idx1-ubyte.gz") == 2


@pytest.mark.parametrize(
    "how, message",
    [
        ("cut", "arrived truncated"),
        ("altered", "arrived truncated or altered: its sha256"),
        ("missing", "is not there: http://127.0.0.1:.* answers 404"),
    ],
)
def test_what_stays_bad_is_said_and_not_kept(server, how, message, tmp_path):
    name = "t10k-images-idx3-ubyte.gz"
    server.damage = {name: [how] * downloads.TRIES}
    with pytest.raises(DataError, match=f"{name} of mnist {message}") as caught:
        downloads.download("mnist")
    assert "\n" not in str(caught.value)
    assert server.asked.count(name) == downloads.TRIES
    assert name not in kept(tmp_path) and len(kept(tmp_path)) == 2
    assert len(downloads.download("mnist")[0]) == FREE + TEST  # a later call


def test_a_damaged_cache_is_mended(server, tmp_path):
    downloads.download("mnist")
    [path] = (tmp_path / "cache").rglob("train-labels*")
    path.write_bytes(path.read_bytes()[:-9])
    assert len(downloads.download("mnist")[0]) == FREE + TEST


def test_without_network_one_sentence(server, monkeypatch):
    monkeypatch.setitem(downloads.ADDRESSES, "mnist", "http://127.0.0.1:9/")
    with pytest.raises(DataError, match="no connection to its server") as caught:
        downloads.download("mnist")
    assert "leave DATA out" in str(caught.value) and "\n" not in str(caught.value)


def test_progress_is_shown(server, capsys):
    downloads.download("cifar10")
    assert "cifar-10-binary.tar.gz: 0.1 of 0.2 MB" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content",
    [b"no gzip", idx(np.zeros(7))[:-12], gzip.compress(b"")],
    ids=["no gzip", "cut off", "empty"],  # gzip writes the time: no name twice
)
def test_a_file_of_another_format(tmp_path, content):
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match="no gzip file|not in MNIST's format"):
        downloads.read_idx(path)
    with pytest.raises(DataError, match="not CIFAR-10's archive"):
        downloads.read_cifar(path)


def test_the_official_addresses_and_checksums_are_complete():
    for data, sums in downloads.CHECKSUMS.items():
        assert downloads.ADDRESSES[data].startswith("http")
        assert len(sums) == (1 if data == "cifar10" else 4)
        assert len(set(sums.values())) == len(sums)
        assert all(len(s) == 64 and int(s, 16) for s in sums.values())
