"""Chapter 10: the lines on ONNX that it shows, but does not run, do work."""

import copy
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from utils.data import load_digits

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ["onnx", "onnxscript", "onnxruntime"]
TEXT = {
    cell["id"]: cell.source
    for cell in nbformat.read(
        next((ROOT / "chapters").glob("10_*.ipynb")), as_version=4
    ).cells
}
EXPORT, RUN = re.findall(r"```python\n(.*?)```", TEXT["onnx"], re.DOTALL)
WARNED = "Exporting a model while it is in training mode"


@pytest.fixture(scope="module")
def net():
    """The chapter's conv net, with statistics that are not the defaults."""
    names = {"nn": nn, "load_digits": load_digits}
    exec(TEXT["nets"], names)
    torch.manual_seed(0)
    model = names["conv_net"](16, nn.BatchNorm2d)
    update_bn([1 + 2 * torch.randn(64, 64)], model)
    return model.eval()


def run_lines(model, folder, monkeypatch):
    """Run both of the chapter's blocks; the session and the answers for x."""
    monkeypatch.chdir(folder)
    names = {"torch": torch, "model": model, "x": torch.randn(5, 64)}
    exec(EXPORT, names)
    exec(RUN, names)
    return names


def operations(folder):
    import onnx

    return [node.op_type for node in onnx.load(folder / "digits.onnx").graph.node]


def test_the_lines_give_the_nets_answers(net, tmp_path, monkeypatch):
    names = run_lines(net, tmp_path, monkeypatch)
    session, x = names["session"], names["x"]
    with torch.no_grad():
        right = net(x).numpy()
    np.testing.assert_allclose(names["logits"], right, atol=1e-4)
    alone = [session.run(None, {names["name"]: row.numpy()})[0] for row in x.split(1)]
    np.testing.assert_allclose(np.concatenate(alone), right, atol=1e-4)


def test_the_exporter_folds_batch_norm(net, tmp_path, monkeypatch):
    run_lines(net, tmp_path, monkeypatch)
    assert operations(tmp_path).count("Conv") == 3
    assert "BatchNormalization" not in operations(tmp_path)


def test_in_train_mode_it_warns_and_uses_the_stored_statistics(
    net, tmp_path, monkeypatch
):
    assert WARNED in " ".join(TEXT["onnx"].split())
    model = copy.deepcopy(net).train()
    monkeypatch.setattr(model, "eval", lambda: model)  # the forgotten eval()
    with pytest.warns(UserWarning, match=WARNED):
        names = run_lines(model, tmp_path, monkeypatch)
    with torch.no_grad():
        np.testing.assert_allclose(names["logits"], net(names["x"]), atol=1e-4)


def test_without_stored_statistics_it_writes_a_mean_over_the_batch(
    net, tmp_path, monkeypatch
):
    assert "`ReduceMean`" in TEXT["onnx"]
    names = {"copy": copy, "_BatchNorm": nn.modules.batchnorm._BatchNorm}
    source = TEXT["export-runs"]
    exec(source[: source.index("def saved_and_loaded")], names)
    model = names["without_statistics"](net)
    run = run_lines(model, tmp_path, monkeypatch)
    assert "ReduceMean" in operations(tmp_path)
    session, x = run["session"], run["x"]
    alone = [session.run(None, {run["name"]: row.numpy()})[0] for row in x.split(1)]
    assert np.abs(np.concatenate(alone) - run["logits"]).max() > 0.01


def test_without_the_packages_the_message_is_the_one_shown():
    code = f"""
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {PACKAGES}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
import torch
model, x = torch.nn.Linear(2, 2), torch.ones(1, 2)
{EXPORT}"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].strip() in TEXT["onnx"]
