"""What is done to the nets: each experiment takes a task and returns named scores.

A score is one number per net of the task; accuracies are in %. "validation" is
what the learning rate is chosen by, all others are of the test part.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from utils.scale import resnet
from utils.scale.images import Images
from utils.scale.nets import Scores, accuracy, build, plain, together, train
from utils.wide import Stack

NORMS: dict[str, resnet.Norm | None] = {
    "bn": nn.BatchNorm2d,
    "gn": resnet.group_norm,
    "none": None,
    "mean only": partial(resnet.Part, what="mean"),
    "sd only": partial(resnet.Part, what="sd"),
    "bn, shaken": resnet.Shaken,
    "bn, momentum 0.01": partial(nn.BatchNorm2d, momentum=0.01),
    "bn, momentum 0.5": partial(nn.BatchNorm2d, momentum=0.5),
}
DENSE: dict[str, resnet.Norm | None] = {"bn": nn.BatchNorm1d, "none": None}
IMAGES = 6400  # that a net sees in training: 200 batches of 32, as in the chapters


@dataclass(frozen=True)
class Task:
    """Nets to train: one per pair of a seed and a rate, each with its split."""

    images: Images
    seeds: list[int]
    rates: list[float]
    longer: int = 1  # so many times the images: for larger sets
    settings: dict = field(default_factory=dict)  # of the condition

    def make(self) -> Callable[[], nn.Module]:
        """The net that the settings describe: its norm, and options of the net."""
        source, given = self.images.source, self.settings
        norm, options = given.get("norm", "bn"), given.get("net", {})
        if given.get("dense"):
            size = source.pixels[0].numel()
            return partial(resnet.dense_net, DENSE[norm], inputs=size)
        channels = source.pixels.shape[1]
        if norm == "mean only":  # like no norm, it lets the sums grow
            options = {"start": resnet.START} | options
        return partial(resnet.ResNet, NORMS[norm], inputs=channels, **options)

    def train(self, nets: Stack, on: Images | None = None, **options) -> None:
        """Train for the number of images, at the batch size, of the settings."""
        given = {"batch_size": 32, "images": IMAGES} | self.settings | options
        batch_size, total = given["batch_size"], given["images"] * self.longer
        train(
            nets,
            on or self.images,
            seeds=self.seeds,
            rates=options.get("rates", self.rates),
            steps=total // batch_size,
            batch_size=batch_size,
            keep_lengths=given.get("keep_lengths", False),
        )

    def trained(self) -> tuple[Stack, list[nn.Module]]:
        """The nets side by side, trained, and the plain nets as they began."""
        models = build(self.make(), self.seeds)
        batch_size = self.settings.get("batch_size", 32)
        nets = together(models, self.images, batch_size)
        self.train(nets)
        return nets, models


def both(nets: Stack, images: Images) -> Scores:
    """Accuracy on the validation and the test part."""
    return {
        "validation": accuracy(nets, images, "validation"),
        "test": accuracy(nets, images, "test"),
    }


def usual(task: Task) -> Scores:
    """Train, and score in eval mode."""
    return both(task.trained()[0], task.images)


def in_both_modes(task: Task) -> Scores:
    """Also with the statistics of the test batches, as large as in training."""
    nets, _ = task.trained()
    size = task.settings.get("batch_size", 32)
    own = accuracy(nets, task.images, "test", mode="train", batch_size=size)
    return both(nets, task.images) | {"test_train_mode": own}


FIRST, NEXT = range(5), range(5, 10)  # the classes of pretraining, and the new ones


def fine_tuned(task: Task) -> Scores:
    """Pretrain with BN on five classes, then go on with the other five.

    mode: "train" keeps BN as it is, "frozen" keeps its statistics, "frozen with
    affine" γ and β as well, "group norm" puts group norm in its place, with γ and β.
    The last layer begins anew. Settings of the batch and the images are those of
    fine-tuning; pretraining has batches of 32 and `pretrain_rate`.
    """
    given = task.settings
    old, new = task.images.only(FIRST), task.images.only(NEXT)
    models = build(task.make(), task.seeds)
    nets = together(models, old, 32)
    rates = [given["pretrain_rate"]] * len(task.seeds)
    task.train(nets, old, rates=rates, batch_size=32, images=IMAGES // 2)
    before = accuracy(nets, old, "test")

    models = [plain(nets, model, k) for k, model in enumerate(models)]
    for seed, model in zip(task.seeds, models):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model.fc = nn.Linear(model.fc.in_features, model.fc.out_features)
        if given["mode"] == "group norm":
            resnet.replace_bn(model, resnet.group_norm)
        elif given["mode"].startswith("frozen"):
            resnet.freeze_bn(model, affine="affine" in given["mode"])
    nets = together(models, new, given["batch_size"])
    task.train(nets, new)
    return both(nets, new) | {"pretrained": before}


def _changes(images: Images) -> dict[str, Callable]:
    """Shifts of the light, of scaled images; p is 0 for black and 1 for white."""
    black, white = (0 - images.mean) / images.sd, (255 - images.mean) / images.sd

    def of(change: Callable) -> Callable:
        def changed(x: torch.Tensor) -> torch.Tensor:
            p = change((x - black) / (white - black))
            return black + (white - black) * p

        return changed

    return {
        "darker": of(lambda p: 0.3 * p),
        "low_contrast": of(lambda p: 0.35 + 0.3 * p),
        "offset": of(lambda p: p + 0.5),
    }


def shifted(task: Task) -> Scores:
    """Test images in another light: as trained, and with statistics measured again.

    "darker" is with the stored statistics; "darker_512" with those measured on 512
    validation images in that light, where the net has BN.
    """
    nets, models = task.trained()
    scores = both(nets, task.images)
    count = len(task.seeds)
    for name, change in _changes(task.images).items():
        scores[name] = accuracy(nets, task.images, "test", change=change)
        if task.settings.get("norm", "bn") != "bn":
            continue
        for few in (1, 8, 32, 512):
            again = [plain(nets, model, k) for k, model in enumerate(models)]
            which = torch.arange(few, device=task.images.mean.device)
            x, _ = task.images.take("validation", which.expand(count, -1))
            for model, own in zip(again, change(x).cpu()):
                update_bn([own], model)
            measured = together(again, task.images, 32)
            scores[f"{name}_{few}"] = accuracy(
                measured, task.images, "test", change=change
            )
    return scores


def folding(task: Task) -> Scores:
    """Train, then fold BN away: ms per image before and after, on this machine.

    The median of many passes, both nets in turn, so that what else runs here
    meets both. apart: the largest difference of an output.
    """
    nets, models = task.trained()
    scores = both(nets, task.images)
    device = task.images.mean.device
    rows: dict[str, list[float]] = {}
    for k, model in enumerate(models):
        usual = plain(nets, model, k).eval().to(device)
        pair = {"bn": usual, "folded": resnet.fold(usual)}
        which = torch.arange(250, device=device).expand(len(task.seeds), -1)
        x = task.images.take("test", which)[0][k]
        with torch.no_grad():
            apart = (pair["bn"](x) - pair["folded"](x)).abs().max().item()
            rows.setdefault("apart", []).append(apart)
            for size, passes in ((1, 60), (32, 20)):
                took: dict[str, list[float]] = {name: [] for name in pair}
                for _ in range(passes):
                    for name, net in pair.items():
                        took[name].append(_milliseconds(net, x[:size]) / size)
                for name, ms in took.items():
                    rows.setdefault(f"ms_{name}_{size}", []).append(np.median(ms))
    return scores | {name: np.array(column) for name, column in rows.items()}


def _milliseconds(net: nn.Module, x: torch.Tensor) -> float:
    """Of one pass."""
    gpu = x.is_cuda
    if gpu:
        torch.cuda.synchronize()
    begun = time.perf_counter()
    net(x)
    if gpu:
        torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - begun)
