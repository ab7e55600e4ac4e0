"""Checks of chapter 12, a larger net and larger images."""

import copy
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from utils.checks.framework import Measured, Wrong, check, expect, expect_written
from utils.checks.modules import fill, state_of


class _Shuffled(nn.Module):
    """BN layers that are used in another order than the one they were made in."""

    def __init__(self):
        super().__init__()
        self.late, self.early = nn.BatchNorm1d(6), nn.BatchNorm2d(3)
        self.conv = nn.Conv2d(3, 6, 1)

    def forward(self, x: Tensor) -> Tensor:  # (batch, 3, height, width)
        return self.late(self.conv(self.early(x)).flatten(2))


def _conv() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, 2, 1),
        nn.BatchNorm2d(4),
        nn.Sequential(nn.Conv2d(4, 5, 3, 2, 1), nn.BatchNorm2d(5), nn.Dropout(0.5)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.BatchNorm1d(5),
    )


def _dense() -> nn.Module:
    return nn.Sequential(nn.Linear(7, 4), nn.BatchNorm1d(4), nn.GroupNorm(2, 4))


NETS = {"dense": _dense, "conv": _conv, "sequence": _Shuffled}
NETS["no BN"] = lambda: nn.Sequential(nn.Linear(7, 2), nn.LayerNorm(2))
SHAPES = {"dense": (7,), "conv": (1, 8, 8), "sequence": (3, 4, 5), "no BN": (7,)}


def _count(
    model: nn.Module,
    x: Tensor,
    size: Callable = lambda x, layer: x.numel() // layer.num_features,
    mode: str = "eval",
    back: Callable | None = None,
    tidy: bool = True,
    kinds: type | tuple = _BatchNorm,
) -> dict:
    """A right answer, with a part exchanged."""
    counts, handles, modes = {}, [], {m: m.training for m in model.modules()}

    def note(layer, inputs, name):
        counts[name] = size(inputs[0], layer)

    for name, layer in model.named_modules():
        if isinstance(layer, kinds):
            look = partial(note, name=name)
            handles.append(layer.register_forward_pre_hook(look))
    with torch.no_grad():
        model.train(mode == "train")(x)
    for handle in handles if tidy else ():
        handle.remove()
    if back:
        back(model)
    else:
        for module, was in modes.items():
            module.training = was
    return counts


def _by_outputs(model: nn.Module, x: Tensor) -> dict:
    return _count(model, x, lambda x, layer: x.transpose(0, 1)[0].numel())


@check(
    praise="right for dense and conv nets, and each net is as it was",
    cases={
        f"a {name} net, a batch of {n}, {mode}": (name, n, mode)
        for name, n, mode in [
            ("dense", 6, "train mode"),
            ("conv", 3, "train mode"),
            ("conv", 1, "train mode"),
            ("conv", 2, "eval mode"),
            ("conv", 2, "one layer frozen"),
            ("sequence", 2, "train mode"),
            ("no BN", 4, "train mode"),
        ]
    },
    hints={
        "the mode*": "put each layer back in the mode that it was in",
        "*running*": "the stored statistics have moved: look in eval mode",
        "*num_batches*": "the stored statistics have moved: look in eval mode",
        "the number of hooks": "remove the hooks when you are done",
        "the names": "one entry for each BN layer, and none for others",
    },
    right={"hooks on inputs": _count, "their first channel": _by_outputs},
    mistakes={
        "all values are counted; divide by the channels": partial(
            _count, size=lambda x, layer: x.numel()
        ),
        "those are the images; each has as many values as positions": partial(
            _count, size=lambda x, layer: len(x)
        ),
        "those are the positions of one image; times the images": partial(
            _count, size=lambda x, layer: x[0, 0].numel()
        ),
        "remove the hooks when you are done": partial(_count, tidy=False),
        "put each layer back in the mode that it was in": (
            partial(_count, back=lambda model: model.train()),
            partial(_count, back=lambda model: model.eval()),
        ),
        "one entry for each BN layer, and none for others": (
            partial(_count, kinds=nn.BatchNorm2d),
            partial(
                _count,
                size=lambda x, layer: x[:, 0].numel(),
                kinds=(_BatchNorm, nn.GroupNorm, nn.LayerNorm),
            ),
        ),
    },
)
def values_per_channel(answer: Callable, name: str, images: int, mode: str) -> dict:
    """Exercise 12.3: how many values does each BN layer average over?"""
    model, x = fill(NETS[name]()), torch.randn(images, *SHAPES[name])
    model.train(mode != "eval mode")
    if mode == "one layer frozen":
        model[1].eval()
    result = answer(model, x)
    expect_written(result)
    kind = type(result).__name__
    expect(isinstance(result, dict), f"return a dictionary, got {kind}")
    counts = {f"the count of {key}": float(n) for key, n in result.items()}
    return {"the names": sorted(map(str, result))} | counts | dict(state_of(model))


def _rows(rates: dict[float, list[tuple[float, float]]]) -> list[dict[str, str]]:
    """Rows as csv reads them, the seeds in the order of their text: 0, 1, 10, 2."""
    rows = [
        {"condition": "bn", "seed": str(seed), "lr": str(lr)}
        | {"validation": str(validation), "test": str(test)}
        for lr, scores in rates.items()
        for seed, (validation, test) in enumerate(scores)
    ]
    return sorted(rows, key=lambda row: row["seed"])


def _tuned(
    rows: list,
    by: str = "validation",
    tell: str = "test",
    every: bool = True,
    order: Callable = int,
    diverged: float = -np.inf,
    known: bool = False,
) -> np.ndarray:
    """A right answer, with a part exchanged."""
    rates: dict = {}
    for row in rows:
        rates.setdefault(float(row["lr"]), {})[order(row["seed"])] = row
    common = set.intersection(*map(set, rates.values()))

    def mean(rate: float) -> float:
        seeds = common if every else rates[rate]
        found = np.mean([float(rates[rate][seed][by]) for seed in seeds])
        return diverged if np.isnan(found) else found

    best = rates[max(rates, key=mean)]
    told = [float(best[seed][tell]) for seed in sorted(best)]
    return np.array(told[: len(common)] if known else told)


_REST = [(60.0, 61.0 + k) for k in range(8)]  # seeds 4 to 11, at one rate only
_BEST = [(90.0, 80.0), (91.0, 81.0), (89.0, 82.0), (90.0, 83.0)]
_OTHER = [(80.0, 95.0), (81.0, 96.0), (80.0, 97.0), (80.0, 95.0)]
_LOST = [(np.nan, np.nan), *[(99.0, 99.0)] * 3]


@check(
    praise="chosen on validation, told on test",
    cases={
        "three rates": ({0.01: _OTHER, 0.1: _BEST + _REST, 1.0: _OTHER},),
        "a diverged net": ({0.01: _OTHER, 0.1: _BEST + _REST, 1.0: _LOST},),
        "all seeds at all rates": ({0.1: _BEST, 0.01: _OTHER},),
        "rates down to 1e-5": ({1e-5: _BEST, 0.000316: _OTHER},),
    },
    hints={"the rows": "leave the rows as they are"},
    right={"by rate": _tuned},
    mistakes={
        "the test scores choose nothing": partial(_tuned, by="test"),
        "those are validation scores: they chose, so they flatter": partial(
            _tuned, tell="validation"
        ),
        "compare the rates by the seeds that trained at *every* one": partial(
            _tuned, every=False
        ),
        "in the order of the seeds as numbers: 2 comes before 10": partial(
            _tuned, order=str
        ),
        "a rate at which a net diverged (nan) cannot be the best": partial(
            _tuned, diverged=np.inf
        ),
        "the scores of all seeds that trained at that rate, not only of those that "
        "chose it": partial(_tuned, known=True),
    },
)
def tuned(answer: Callable, rates: dict) -> dict:
    """Exercise 12.4: the test scores at the rate that validation chose."""
    rows = _rows(rates)
    given = copy.deepcopy(rows)
    result = answer(rows)
    expect_written(result)
    scores = torch.as_tensor(np.asarray(result, dtype=float))
    return {"the rows": rows == given, "the result": scores}


from_zero = Measured(
    "from_zero",  # exercise 12.1
    calls=[()],
    ranges=[("after 50 updates", -50, -8)],
    said="{:.1f} points",
    asked="with `start=0`, at the rate of the usual net",
    right=[(-24,), (-15,), (-35,)],
    wrong=[
        Wrong("that is an accuracy: subtract the usual net's", lambda a: a > 45, (60,)),
        Wrong(
            "the net that starts at 0 cannot be so much better: subtract the usual one",
            lambda a: 8 < a <= 45,
            (24,),
        ),
        Wrong(
            "is `start=0` passed on to the net, and are there 50 updates?",
            lambda a: -8 <= a <= 8,
            (-3,),
        ),
    ],
)


WAYS = "train", "frozen"
KEYS = "batch", "positions", "way", "lr", "seed", "updates"
IMAGES = 3200


def _plan(
    cells: tuple = ((1, 16), (4, 4), (1, 4)),
    ways: tuple = WAYS,
    rates: tuple = (0.01, 0.03, 0.1),
    seeds: Callable = lambda cell: range(12),
    updates: Callable = lambda batch: IMAGES // batch,
) -> Callable:
    """A right answer, with a part exchanged."""
    return lambda: [
        dict(
            batch=batch,
            positions=positions,
            way=way,
            lr=lr,
            seed=seed,
            updates=updates(batch),
        )
        for batch, positions in cells
        for way in ways
        for lr in rates
        for seed in seeds((batch, positions))
    ]


def _possible(runs: list[dict]) -> bool:
    return all(
        r["positions"] in (1, 4, 16)
        and r["way"] in WAYS
        and r["batch"] >= 1
        and r["lr"] > 0
        and (r["way"] == "frozen" or r["batch"] * r["positions"] > 1)
        for r in runs
    )


def _groups_of(runs: list[dict], *keys: str) -> dict[tuple, list[dict]]:
    """The runs by what they have in these columns."""
    found: dict[tuple, list[dict]] = {}
    for run in runs:
        found.setdefault(tuple(run[k] for k in keys), []).append(run)
    return found


def _pairs(runs: list[dict]) -> list[tuple]:
    """(images, values) of two cells."""
    cells = {(b, b * p) for b, p in _groups_of(runs, "batch", "positions")}
    return [(one, other) for one in cells for other in cells if one < other]


def _all_seeds(runs: list[dict]) -> bool:
    groups = _groups_of(runs, "batch", "positions", "way", "lr")
    sets = [{r["seed"] for r in group} for group in groups.values()]
    return len(sets[0]) >= 12 and all(s == sets[0] for s in sets)


PROPERTIES = {  # name: (whether it holds, what to say)
    "all runs are possible": (
        _possible,
        "positions are 1, 4 or 16, a way is 'train' or 'frozen', rates are positive; "
        "and train mode raises an error where a channel has one value",
    ),
    "equal images": (
        lambda runs: all(r["batch"] * r["updates"] == IMAGES for r in runs),
        "each run should see 3200 images: updates times batch",
    ),
    "images, at equal values": (
        lambda runs: any(a[0] != b[0] and a[1] == b[1] for a, b in _pairs(runs)),
        "no two cells differ in the number of images alone: it takes two with the same "
        "number of values per channel (images x positions)",
    ),
    "values, at equal images": (
        lambda runs: any(a[0] == b[0] and a[1] != b[1] for a, b in _pairs(runs)),
        "no two cells differ in the number of values alone: it takes two with the same "
        "number of images",
    ),
    "a rival in each cell": (
        lambda runs: all(
            {r["way"] for r in cell} == {*WAYS}
            for cell in _groups_of(runs, "batch", "positions").values()
        ),
        "another batch size changes more than BN's statistics. In each cell, compare "
        "with the way that does not use them",
    ),
    "rates of its own": (
        lambda runs: all(
            len({r["lr"] for r in group}) >= 3
            for group in _groups_of(runs, "batch", "positions", "way").values()
        ),
        "each way needs a choice of three rates or more in each cell",
    ),
    "the same seeds everywhere": (
        _all_seeds,
        "differences are paired: the same seeds, 12 or more, in each cell, for each "
        "way and each rate",
    ),
    "the budget": (
        lambda runs: len(_groups_of(runs, *KEYS)) == len(runs) <= 240,
        "at most 240 runs, none of them twice. How many cells does it take?",
    ),
}


@check(
    praise="a design that can tell the two apart",
    cases={name: (name,) for name in PROPERTIES},
    hints={name: hint for name, (_, hint) in PROPERTIES.items()},
    right={"three cells": _plan()},
    mistakes={
        PROPERTIES["all runs are possible"][1]: _plan(cells=((1, 16), (16, 1), (1, 1))),
        PROPERTIES["equal images"][1]: _plan(updates=lambda batch: 200),
        PROPERTIES["images, at equal values"][1]: _plan(cells=((1, 4), (1, 16))),
        PROPERTIES["values, at equal images"][1]: _plan(cells=((1, 16), (4, 4))),
        PROPERTIES["a rival in each cell"][1]: _plan(ways=("train",)),
        PROPERTIES["rates of its own"][1]: _plan(rates=(0.03,)),
        PROPERTIES["the same seeds everywhere"][1]: (
            _plan(seeds=lambda cell: range(6)),
            _plan(seeds=lambda cell: range(20 * cell[0], 20 * cell[0] + 12)),
        ),
        PROPERTIES["the budget"][1]: _plan(
            cells=((1, 16), (4, 4), (1, 4), (2, 4), (2, 16), (4, 1))
        ),
        "vary one thing at a time: two numbers of images at equal values, two numbers "
        "of values at equal images": _plan(cells=((1, 4), (4, 16), (2, 1))),
    },
)
def follow_up(answer: Callable, name: str) -> dict:
    """Exercise 12.2: a design that tells images and values apart."""
    runs = answer()
    expect(
        isinstance(runs, (list, tuple)) and all(isinstance(r, dict) for r in runs),
        "return a list of dictionaries, one for each run",
    )
    expect(runs, "the list is empty")
    for run in runs:
        expect(run.keys() == {*KEYS}, f"a run should have the keys {KEYS}; {run}")
    return {name: bool(PROPERTIES[name][0](runs))}
