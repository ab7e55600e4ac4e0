"""Trained nets, one per seed: what `train_many` returns."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.func import functional_call, vmap
from torch.nn.functional import cross_entropy

from utils.data import Split


@dataclass
class Scores:
    """Accuracy in %, mean cross-entropy in nats; nan where not finite."""

    accuracy: np.ndarray
    loss: np.ndarray


@dataclass
class Runs:
    """Trained nets: the outcome of `train_many`.

    The last axes of all arrays are `shape`: (seeds,), or (rates, seeds)
    for a grid of learning rates.
    """

    template: nn.Module
    state: dict[str, torch.Tensor]  # parameters and buffers, (nets, ...)
    checkpoints: list[int]  # updates after which the nets were scored
    scores: dict[str, Scores]  # by split; arrays (checkpoints, *shape)
    lr: np.ndarray  # (*shape)
    batch_loss: np.ndarray  # (steps, *shape), the loss that was minimised
    diverged_at: np.ndarray  # (*shape), first update whose loss, or outcome,
    # is not finite; -1 where there is none

    def module(self, *index: int) -> nn.Module:
        """A plain copy of one net: `runs.module(seed)` or (rate, seed)."""
        net = int(np.ravel_multi_index(index, self.lr.shape))
        module = copy.deepcopy(self.template)
        tensors = [*module.named_parameters(), *module.named_buffers()]
        with torch.no_grad():
            for name, tensor in tensors:
                tensor.copy_(self.state[name][net])
        return module

    def evaluate(
        self, split: Split, mode: str = "eval", batch_size: int | None = None
    ) -> Scores:
        """Score all nets, arrays (*shape), and change none of them.

        mode "train" uses the statistics of each batch, "eval" the stored
        ones; batch_size None takes the whole split as one batch. A last
        incomplete batch is left out.
        """
        size = len(split.y) if batch_size is None else batch_size
        if not 1 <= size <= len(split.y):
            raise ValueError(f"batch_size must be 1 to {len(split.y)}, got {size}")
        used = len(split.y) // size * size
        forward = stacked_forward(self.template, mode)
        state = {k: v.clone() for k, v in self.state.items()}
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # for modules that draw, such as dropout
            logits = torch.cat(
                [forward(state, x) for x in split.x[:used].split(size)], dim=1
            )
        return _score(logits, split.y[:used], self.lr.shape)

    def tuned(self, step: int | None = None) -> tuple[int, dict[str, Scores]]:
        """The best rate of a grid after `step` updates (None: the last).

        Best is the highest mean validation accuracy; a rate at which any
        seed diverged is out. Returns its index and, by split, its scores,
        arrays (seeds,).
        """
        if self.lr.ndim != 2 or "validation" not in self.scores:
            raise ValueError(
                "tuned needs a grid of rates, lr as a column (rates, 1), "
                "scored on the validation split"
            )
        if step is not None and step not in self.checkpoints:
            raise ValueError(f"{step} is none of the checkpoints {self.checkpoints}")
        at = self.checkpoints.index(step) if step is not None else -1
        accuracy = self.scores["validation"].accuracy[at].mean(-1)  # (rates,)
        if np.isnan(accuracy).all():
            raise ValueError(f"some seed diverged at every rate of {self.lr[:, 0]}")
        best = int(np.nanargmax(accuracy))
        return best, {
            split: Scores(s.accuracy[at, best], s.loss[at, best])
            for split, s in self.scores.items()
        }


def stacked_forward(template: nn.Module, mode: str) -> Callable:
    """f(state, x) -> logits (nets, batch, classes).

    x is (batch, ...), shared by all nets, or (nets, batch, ...) with
    `own_batches=True`. In train mode the buffers in `state` are updated
    in place, as in a plain module.
    """
    if mode not in ("train", "eval"):
        raise ValueError(f'mode must be "train" or "eval", got {mode!r}')
    module = copy.deepcopy(template)
    if mode == "eval":  # "train" leaves each layer in the mode it was made in
        module.eval()

    def one(state: dict, x: torch.Tensor) -> torch.Tensor:
        given = dict(state)
        logits = functional_call(module, state, (x,))
        for name, tensor in state.items():
            if tensor is not given[name]:  # the module has bound a new one
                given[name].copy_(tensor.detach())
        return logits

    def stacked(state: dict, x: torch.Tensor, own_batches: bool = False):
        x_dim = 0 if own_batches else None
        return vmap(one, in_dims=(0, x_dim), randomness="different")(state, x)

    return stacked


def _score(logits: torch.Tensor, y: torch.Tensor, shape: tuple) -> Scores:
    nets, n, classes = logits.shape
    loss = cross_entropy(
        logits.reshape(-1, classes), y.repeat(nets), reduction="none"
    ).view(nets, n)
    loss = loss.double().mean(1)
    accuracy = 100 * (logits.argmax(-1) == y).double().mean(1)
    bad = ~torch.isfinite(loss)
    accuracy[bad] = loss[bad] = torch.nan
    return Scores(accuracy.numpy().reshape(shape), loss.numpy().reshape(shape))
