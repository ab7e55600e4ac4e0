"""Many nets in training, and what `train_many` returns of them."""

import copy
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from utils.data import Split
from utils.wide import Stack


@dataclass
class Scores:
    """Accuracy in %, mean cross-entropy in nats; nan where not finite."""

    accuracy: np.ndarray
    loss: np.ndarray


@dataclass
class Nets:
    """Nets of one shape, one per seed, or (rates, seeds) for a grid.

    The last axes of all arrays are those of `lr`: (seeds,), or (rates, seeds).
    """

    template: nn.Module
    stack: Stack
    lr: np.ndarray
    step: int = 0  # updates made so far
    flat_gradients: dict[str, torch.Tensor] = field(default_factory=dict)

    @property
    def gradients(self) -> dict[str, torch.Tensor]:
        """Of the batch that comes next, by name, (nets, ...); see `sgd`."""
        found = {k: g for k, g in self.flat_gradients.items() if g is not None}
        return {k: g.view(-1, *self.stack.shapes[k]) for k, g in found.items()}

    @property
    def state(self) -> dict[str, torch.Tensor]:
        """Parameters and buffers by name, (nets, ...): views, not copies."""
        return self.stack.each()

    def module(self, *index: int) -> nn.Module:
        """A plain copy of one net: `module(seed)` or `module(rate, seed)`."""
        net = int(np.ravel_multi_index(index, self.lr.shape))
        module, state = copy.deepcopy(self.template), self.state
        with torch.no_grad():
            for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
                tensor.copy_(state[name][net])
        return module

    def evaluate(
        self, split: Split, mode: str = "eval", batch_size: int | None = None
    ) -> Scores:
        """Score all nets, each on its seed's split; change none of them.

        mode "train" uses the statistics of each batch, "eval" the stored
        ones; batch_size None takes the whole split as one batch. A last
        incomplete batch is left out.
        """
        if mode not in ("train", "eval"):
            raise ValueError(f'mode must be "train" or "eval", got {mode!r}')
        x, y = per_net(split, self.lr.shape)
        images = y.shape[1]
        size = images if batch_size is None else batch_size
        if not 1 <= size <= images:
            raise ValueError(f"batch_size must be 1 to {images}, got {size}")
        used = images // size * size
        nets = copy.deepcopy(self.stack)
        if mode == "eval":  # "train" leaves each layer in the mode it was made in
            nets.eval()
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # for modules that draw, such as dropout
            parts = [nets(part) for part in x[:, :used].split(size, dim=1)]
        return _score(torch.cat(parts, dim=1), y[:, :used], self.lr.shape)


def per_net(split: Split, shape: tuple[int, ...]) -> Split:
    """The split as each net sees it: x (nets, images, ...), y (nets, images)."""
    x, y = split
    nets = int(np.prod(shape))
    if y.dim() == 1:  # one split for all
        return Split(x.expand(nets, *x.shape), y.expand(nets, -1))
    if len(y) != shape[-1]:
        raise ValueError(
            f"the data has splits for {len(y)} seeds and there are {shape[-1]}: "
            f"load_digits({shape[-1]})"
        )
    copies = nets // len(y)  # a grid trains every seed at each rate
    x = x.expand(copies, *x.shape).flatten(0, 1)
    return Split(x, y.expand(copies, *y.shape).flatten(0, 1))


@dataclass
class Runs(Nets):
    """Trained nets: the outcome of `train_many`."""

    checkpoints: list[int] = field(default_factory=list)  # updates after which
    scores: dict[str, Scores] = field(default_factory=dict)  # the nets were
    # scored, by split; arrays (checkpoints, *lr.shape)
    batch_loss: np.ndarray | None = None  # (steps, *lr.shape), as minimised
    diverged_at: np.ndarray | None = None  # (*lr.shape), first update whose
    # loss, or outcome, is not finite; -1 where there is none

    def best(self, step: int | None = None) -> int:
        """Index of the best rate of a grid after `step` updates (None: the last).

        Best is the highest mean validation accuracy; a rate at which any
        seed diverged is out.
        """
        if self.lr.ndim != 2 or "validation" not in self.scores:
            raise ValueError(
                "the best rate needs a grid of rates, lr as a column (rates, 1), "
                "scored on the validation split"
            )
        accuracy = self.scores["validation"].accuracy[self._at(step)].mean(-1)
        if np.isnan(accuracy).all():
            raise ValueError(f"some seed diverged at every rate of {self.lr[:, 0]}")
        return int(np.nanargmax(accuracy))

    def at_best(
        self, split: str, step: int | None = None, what: str = "accuracy"
    ) -> np.ndarray:
        """Scores (seeds,) on a split at the best rate; what: or "loss"."""
        return getattr(self.scores[split], what)[self._at(step), self.best(step)]

    def _at(self, step: int | None) -> int:
        """Index of the checkpoint after `step` updates."""
        if step is None:
            return -1
        if step not in self.checkpoints:
            raise ValueError(f"{step} is none of the checkpoints {self.checkpoints}")
        return self.checkpoints.index(step)


def _score(logits: torch.Tensor, y: torch.Tensor, shape: tuple) -> Scores:
    loss = cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none")
    loss = loss.view_as(y).double().mean(1)
    accuracy = 100 * (logits.argmax(-1) == y).double().mean(1)
    bad = ~torch.isfinite(loss)
    accuracy[bad] = loss[bad] = torch.nan
    return Scores(accuracy.numpy().reshape(shape), loss.numpy().reshape(shape))
