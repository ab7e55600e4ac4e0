"""The findings of the digits that are put to the ResNet, and their conditions.

`make scale` makes every run of this table. To add a finding, add an entry; what is
done in it is a function of experiments.py.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from utils.scale import experiments as do
from utils.scale.images import load
from utils.scale.nets import Scores

SIZES = (1, 2, 4, 8, 32)
STRIDES = {16: (1, 2, 2, 1), 4: (1, 2, 2, 2), 1: (2, 2, 2, 2)}  # by positions at
# the last BN, of 28x28 images
VALUES = {16: (1, 2, 4, 32), 1: (1, 2, 4, 8, 32)}  # batch sizes; those of 4
# positions are under "batch_size"
AT_32 = {"bn": 0.1, "gn": 0.03, "none": 0.03}


@dataclass(frozen=True)
class Finding:
    """A sentence about the digits, and the conditions that test it.

    conditions: the settings of each, by name; "rate" is where the search for its
    learning rate begins. With `rates` there is no search: every seed trains at
    each of them.
    """

    statement: str
    experiment: Callable[[do.Task], Scores]
    conditions: dict[str, dict]
    rates: tuple[float, ...] = ()


def _by_norm(norms: dict[str, float], **settings) -> dict[str, dict]:
    """A condition per norm; the numbers are first guesses of its rate."""
    return {
        norm: {"norm": norm, "rate": rate} | settings for norm, rate in norms.items()
    }


def _named(suffix: str, conditions: dict[str, dict]) -> dict[str, dict]:
    return {f"{name}, {suffix}": settings for name, settings in conditions.items()}


def _guesses(size: int) -> dict[str, float]:
    """Rates by norm: smaller batches want smaller ones."""
    return {norm: rate * size / 32 for norm, rate in AT_32.items()}


def _batch_sizes() -> dict[str, dict]:
    found = {}
    for size in SIZES:
        settings = _by_norm(_guesses(size), batch_size=size, images=3200)
        found |= _named(f"batch {size}", settings)
    return found


BUDGETS = {"50 updates": 1600, "200 updates": 6400}  # of 32 images
WHY = {"bn": 0.1, "none": 0.03, "mean only": 0.03, "sd only": 0.1, "bn, shaken": 0.1}

FINDINGS: dict[str, Finding] = {
    "batch_size": Finding(
        "BN falls apart at a few values per channel (images x positions at the last "
        "BN, here 4 positions); group norm does not.",
        do.in_both_modes,
        _batch_sizes(),
    ),
    "positions": Finding(
        "It is the number of values per channel that counts, images x positions, not "
        "the batch size.",
        do.in_both_modes,
        {
            f"{norm}, {positions} positions, batch {size}": settings
            | {"images": 3200, "net": {"strides": STRIDES[positions]}}
            for positions, sizes in VALUES.items()
            for size in sizes
            for norm, settings in _by_norm(_guesses(size), batch_size=size).items()
            if (norm, positions, size) != ("bn", 1, 1)  # one value: BN raises
        },
    ),
    "learning_rate": Finding(
        "BN widens the range of learning rates, and part of it is a brake: weights "
        "that grow take smaller steps.",
        do.usual,
        {
            "bn": {"norm": "bn", "images": 3200},
            "gn": {"norm": "gn", "images": 3200},
            "none": {"norm": "none", "images": 3200},
            "bn, lengths kept": {"norm": "bn", "images": 3200, "keep_lengths": True},
            "none, lengths kept": {
                "norm": "none",
                "images": 3200,
                "keep_lengths": True,
            },
        },
        rates=tuple(float(f"{10 ** (k / 2):.3g}") for k in range(-6, 4)),
    ),
    "centring": Finding(
        "Most of what BN helps comes from centring, little from scaling; and noise "
        "after BN takes little of it away.",
        do.usual,
        {
            name: settings
            for label, images in BUDGETS.items()
            for name, settings in _named(label, _by_norm(WHY, images=images)).items()
        }
        | {  # are those without the other half held back by weights that grow?
            f"{norm}, 200 updates, lengths kept": {"norm": norm, "keep_lengths": True}
            | {"rate": rate}
            for norm, rate in WHY.items()
            if norm != "bn, shaken"
        },
    ),
    "start": Finding(
        "A block that begins as its path alone starts a net without a norm well.",
        do.usual,
        {
            f"{norm}, {start}, {label}": {
                "norm": norm,
                "net": {"start": start},
                "images": images,
                "rate": WHY[norm],
            }
            for label, images in BUDGETS.items()
            for norm, starts in {"none": (0, 0.25, 0.5, 1), "bn": (0,)}.items()
            for start in starts
        },
    ),
    "placement": Finding(
        "Before or after the activation makes no difference that matters.",
        do.usual,
        {
            order: {"net": {"order": order}, "rate": 0.1}
            for order in ("before", "after", "pre")
        },
    ),
    "dropout": Finding(
        "One dropout before the last BN costs a little early and nothing later; one "
        "behind it costs nothing.",
        do.usual,
        {
            f"{name}, {label}": {"net": net, "images": images, "rate": 0.1}
            for label, images in {"200 updates": 6400, "400 updates": 12800}.items()
            for name, net in {
                "none": {},
                "before the last BN": {"dropout": (0, 0, 0, 0.5)},
                "behind the last BN": {"fc_dropout": 0.5},
                "in every block": {"dropout": (0.5,) * 4},
            }.items()
        },
    ),
    "momentum": Finding(
        "With a long memory (momentum 0.01) and few updates, eval mode is far behind "
        "train mode.",
        do.in_both_modes,
        {
            name: settings
            for label, images in BUDGETS.items()
            for name, settings in _named(
                label,
                _by_norm(
                    {"bn": 0.1, "bn, momentum 0.01": 0.1, "bn, momentum 0.5": 0.1},
                    images=images,
                ),
            ).items()
        },
    ),
    "fine_tuning": Finding(
        "In fine-tuning at batch 1 and 2, keep BN's statistics; group norm in its "
        "place has to learn anew.",
        do.fine_tuned,
        {
            f"{mode}, batch {size}": {
                "mode": mode,
                "batch_size": size,
                "images": 1000,
                "pretrain_rate": 0.1,
                "rate": rate,
            }
            for size, rate, modes in (
                (1, 0.01, ("train", "frozen with affine", "group norm")),
                (2, 0.01, ("train", "frozen", "frozen with affine", "group norm")),
                (32, 0.1, ("train",)),
            )
            for mode in modes
        },
    ),
    "shift": Finding(
        "In another light BN with its stored statistics fails, more than a net "
        "without it; measured again on few images it is back.",
        do.shifted,
        _by_norm({"bn": 0.1, "gn": 0.03, "none": 0.03}),
    ),
    "folding": Finding(
        "Folding BN away changes no output and makes the net faster.",
        do.folding,
        {"bn": {"images": 3200}},
        rates=(0.1,),
    ),
    "dense": Finding(
        "In the dense net BN needs batches of 8 or more, at 28 × 28 as at 8 × 8.",
        do.usual,
        {
            f"{norm}, batch {size}": {
                "dense": True,
                "norm": norm,
                "batch_size": size,
                "rate": rate * size / 32,
            }
            for size in (2, 4, 8, 32)
            for norm, rate in (("bn", 0.1), ("none", 0.03))
        },
    ),
}


def device() -> str:
    """Where nets are trained: a GPU, where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def perform(
    experiment: Callable[[do.Task], Scores],
    settings: dict,
    seeds: list[int],
    rates: list[float],
    data: str = "mnist5k",
    longer: int = 1,
) -> Scores:
    """Train one net per pair of a seed and a rate, and score each: (nets,).

    The seed fixes split, initialisation and order of the batches. What is drawn in
    training (dropout, noise) depends on which nets train together, too.
    """
    images = load(data, seeds, device())
    task = do.Task(images, list(seeds), list(rates), longer, settings)
    with torch.random.fork_rng():
        torch.manual_seed(seeds[0])
        return experiment(task)
