"""The nets of chapter 12: what they are, and that many at once train as one does."""

import copy
from dataclasses import replace
from functools import partial
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from tests.resnet import resnet18_like
from utils.scale import experiments, resnet
from utils.scale.findings import FINDINGS, STRIDES, perform
from utils.scale.images import Images, load
from utils.scale.nets import accuracy, build, plain, together, train
from utils.training import batches
from utils.wide import SideBySide

torch.set_num_threads(1)
NORMS = [name for name in experiments.NORMS if "momentum" not in name]
ORDERS = ("before", "after", "pre")
X = torch.randn(6, 1, 28, 28, generator=torch.Generator().manual_seed(0))


def net(norm="bn", seed=0, **options):
    make = partial(resnet.ResNet, experiments.NORMS[norm], **options)
    return build(make, [seed])[0]


def do_make(norm):
    task = experiments.Task(load("mnist5k", [0]), [0], [0.1], settings={"norm": norm})
    return task.make()()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("norm", NORMS)
def test_the_net_is_of_one_size_and_its_logits_begin_small(norm, order):
    model = net(norm, order=order)
    assert 75_000 < sum(p.numel() for p in model.parameters()) < 85_000
    for name in ("conv1", "bn1", "layer1.0.conv2", "layer2.0.downsample.0", "fc"):
        model.get_submodule(name)
    model.train()
    logits = model(X)  # not too small, not too large: also without a norm
    assert 0.05 < logits.std() < 3
    cross_entropy(logits, torch.arange(6)).backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("norm, start", [("bn", 1), ("none", 0.7), ("mean only", 0.7)])
def test_what_a_block_adds_at_the_start(norm, start):
    model = do_make(norm)
    assert model.layer1[0].bn2.weight.tolist() == pytest.approx([start] * 8)
    assert model.layer1[0].bn1.weight.tolist() == [1] * 8


CHAPTER = Path(__file__).resolve().parent.parent / "chapters" / "12_carry_over.ipynb"


@pytest.mark.parametrize("strides", STRIDES.values())
@pytest.mark.parametrize("norm", ["bn", "gn", "none"])
def test_the_chapter_shows_the_net_that_make_scale_trains(norm, strides):
    cells = {c.id: c.source for c in nbformat.read(CHAPTER, as_version=4).cells}
    shown = {"torch": torch, "nn": nn}
    for name in ("block", "resnet", "scale-layer"):
        exec(cells[name], shown)
    layer = experiments.NORMS[norm] or shown["Scale"]
    start = 0.7 if norm == "none" else 1.0
    ours = net(norm, strides=strides)
    theirs = build(partial(shown["ResNet"], layer, start, strides), [0])[0]
    assert list(ours.state_dict()) == list(theirs.state_dict())
    torch.testing.assert_close(ours(X), theirs(X), rtol=0, atol=0)
    if strides == STRIDES[4]:
        assert sum(p.numel() for p in ours.parameters()) == 77_858


@pytest.mark.parametrize("positions", STRIDES)
def test_positions_at_the_last_norm(positions):
    model, seen = net(strides=STRIDES[positions]), []
    model.layer4[0].bn2.register_forward_hook(lambda m, x, y: seen.append(y.shape))
    model(X)
    assert seen[0][2] * seen[0][3] == positions


def test_larger_images_in_colour():
    model = net(inputs=3)
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def trained_plainly(model, images, net_index, seed, rate, steps, batch_size):
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    order = batches(3000, batch_size, seed)
    for _ in range(steps):
        which = next(order).expand(len(images.mean), -1)
        x, y = (t[net_index] for t in images.take("train", which))
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()
    return model


@pytest.mark.parametrize("norm", NORMS[:-1])
def test_many_train_as_one_does(norm):
    seeds, rates = [3, 4, 3], [0.05, 0.05, 0.2]
    images = load("mnist5k", seeds)
    models = build(partial(resnet.ResNet, experiments.NORMS[norm]), seeds)
    nets = together(models, images, 8)
    assert isinstance(nets, SideBySide)
    options = dict(seeds=seeds, rates=rates, steps=4, batch_size=8)
    train(nets, images, **options)
    for i in (1, 2):
        one = copy.deepcopy(models[i])
        own = trained_plainly(one, images, i, seeds[i], rates[i], 4, 8)
        found = plain(nets, models[i], i)
        for (name, value), (_, expected) in zip(
            found.state_dict().items(), own.state_dict().items()
        ):
            if "num_batches" not in name:
                torch.testing.assert_close(value, expected, rtol=5e-3, atol=5e-4)
        with torch.no_grad():
            which = torch.arange(1000).expand(3, -1)
            x, y = (t[i] for t in images.take("test", which))
            right = 100 * (own.eval()(x).argmax(1) == y).double().mean()
        assert abs(accuracy(nets, images, "test")[i] - right) <= 0.5


def test_a_net_that_diverges_leaves_the_others_alone():
    images = load("mnist5k", [3, 4])
    make = partial(resnet.ResNet, None)
    options = dict(seeds=[3, 4], steps=12, batch_size=8)
    found = []
    for rate in (1e6, 0.01):
        nets = together(build(make, [3, 4]), images, 8)
        train(nets, images, rates=[rate, 0.01], **options)
        found.append(accuracy(nets, images, "validation"))
    assert np.isnan(found[0][0]) and not np.isnan(found[1][0])
    assert found[0][1] == found[1][1]


@pytest.mark.parametrize("norm", ["bn", "none", "mean only", "bn, shaken"])
def test_training_keeps_to_one_device(norm):
    """As on a GPU: tensors of the device "meta" do not mix with those of the CPU."""
    here = load("mnist5k", [3, 4])
    source = replace(
        here.source,
        pixels=here.source.pixels.to("meta"),
        labels=here.source.labels.to("meta"),
    )
    rows = {part: own.to("meta") for part, own in here.rows.items()}
    there = Images(source, rows, here.mean.to("meta"), here.sd.to("meta"))
    make = partial(resnet.ResNet, experiments.NORMS[norm], fc_dropout=0.5)
    nets = together(build(make, [3, 4]), here, 8).to("meta")
    options = dict(seeds=[3, 4], rates=[0.1, 0.1], steps=2, batch_size=8)
    train(nets, there, keep_lengths=True, **options)
    x, _ = there.take("test", torch.zeros(2, 8, dtype=torch.long, device="meta"))
    for change in experiments._changes(there).values():
        assert change(x).is_meta


def test_lengths_are_kept():
    images = load("mnist5k", [3, 4])
    nets = together(build(resnet.ResNet, [3, 4]), images, 8)
    lengths = {
        name: w.flatten(1).norm(dim=1)
        for name, w in nets.each().items()
        if "conv" in name
    }
    rates = dict(seeds=[3, 4], rates=[0.1, 0.3])
    train(nets, images, steps=3, batch_size=8, keep_lengths=True, **rates)
    for name, w in nets.each().items():
        if name in lengths:
            torch.testing.assert_close(w.flatten(1).norm(dim=1), lengths[name])


def small(settings):
    return settings | {"images": min(settings.get("images", 64), 64)}


@pytest.mark.parametrize("name", FINDINGS)
def test_each_experiment_gives_its_scores(name, monkeypatch):
    """On little data: two nets of the first and the last condition."""
    monkeypatch.setattr(experiments, "IMAGES", 64)
    monkeypatch.setattr(experiments, "accuracy", partial(accuracy, limit=100))
    finding = FINDINGS[name]
    conditions = [*finding.conditions.values()]
    for settings in conditions[:: max(1, len(conditions) - 1)]:
        scores = perform(finding.experiment, small(settings), [3, 4], [0.03, 0.01])
        assert {"validation", "test"} <= {*scores}
        for score, values in scores.items():
            assert np.shape(values) == (2,) and np.isfinite(values).all(), score
            if score.startswith(("validation", "test", "darker", "offset")):
                assert (0 <= values).all() and (values <= 100).all()
    if name == "folding":
        assert (scores["apart"] < 1e-4).all()


def test_what_is_drawn_in_training_is_drawn_again(monkeypatch):
    monkeypatch.setattr(experiments, "accuracy", partial(accuracy, limit=100))
    settings = {"norm": "bn, shaken", "images": 64}
    torch.manual_seed(1)
    first = perform(experiments.usual, settings, [3, 4], [0.1, 0.1])
    drawn = torch.rand(1)
    second = perform(experiments.usual, settings, [3, 4], [0.1, 0.1])
    np.testing.assert_array_equal(first["test"], second["test"])
    torch.manual_seed(1)
    assert torch.rand(1) == drawn  # the caller's numbers are left alone


@pytest.mark.parametrize("make", [net, resnet18_like])
def test_recipes_fit_torchvisions_names(make):
    model = make()
    x = X if make is net else torch.randn(4, 3, 64, 64)
    frozen = resnet.freeze_bn(copy.deepcopy(model).train())
    before = copy.deepcopy(frozen.state_dict())
    torch.testing.assert_close(frozen(x), copy.deepcopy(model).eval()(x))
    assert torch.equal(
        frozen.state_dict()["bn1.running_mean"], before["bn1.running_mean"]
    )
    assert frozen.bn1.weight.requires_grad
    assert not resnet.freeze_bn(frozen, affine=True).bn1.weight.requires_grad

    swapped = resnet.replace_bn(copy.deepcopy(model), resnet.group_norm)
    kinds = [type(m) for m in swapped.modules()]
    assert nn.GroupNorm in kinds and nn.BatchNorm2d not in kinds
    assert torch.equal(swapped.bn1.weight, model.bn1.weight)
    swapped(x[:1])  # one image is enough


def test_folding_changes_no_output():
    model = net().train()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
        for _ in range(5):
            model(X)
        folded, model = resnet.fold(model), model.eval()
        torch.testing.assert_close(folded(X), model(X), rtol=1e-4, atol=1e-4)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())


def test_refusals():
    images = load("mnist5k", [3, 4])
    nets = together(build(resnet.ResNet, [3, 4]), images, 8)
    with pytest.raises(ValueError, match="2 nets need as many seeds and rates"):
        train(nets, images, seeds=[3], rates=[0.1], steps=1, batch_size=8)
    with pytest.raises(ValueError, match='mode must be "eval" or "train"'):
        accuracy(nets, images, "test", mode="test")
    with pytest.raises(ValueError, match='what must be "mean" or "sd"'):
        resnet.Part(8, "both")
