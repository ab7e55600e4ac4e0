"""Many nets in training on larger images, on the CPU or a GPU.

As in utils/training.py the nets stand side by side (utils/wide.py): twelve cost
two to five times less than one after the other. Here each net has a rate and a
split of its own, the images stay bytes until a batch is taken, and all of it can
be on a GPU. tests/test_scale.py holds it equal to the plain loop.
"""

import copy
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from utils.scale.images import Images
from utils.training import batches
from utils.wide import Stack, stack

CHUNK = 250  # images that are scored at a time
Scores = dict[str, np.ndarray]


def build(make: Callable[[], nn.Module], seeds: Sequence[int]) -> list[nn.Module]:
    """One plain net per seed, initialised by it."""
    models = []
    for seed in seeds:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            models.append(make())
    return models


def together(models: Sequence[nn.Module], images: Images, batch_size: int) -> Stack:
    """The nets side by side, on the device of the images.

    Layers stay in the mode that they are in. A batch is tried, on the CPU.
    """
    few = min(batch_size, 4)  # enough to see whether the form computes the same
    which = torch.arange(few).expand(len(models), -1)
    x, _ = images.take("train", which.to(images.mean.device))
    return stack([model.cpu() for model in models], x.cpu()).to(x.device)


def train(
    nets: Stack,
    images: Images,
    *,
    seeds: Sequence[int],
    rates: Sequence[float],
    steps: int,
    batch_size: int,
    momentum: float = 0.9,
    keep_lengths: bool = False,
    look: Callable[[int], None] | None = None,
) -> None:
    """Train with SGD, each net at its rate, on batches in the order of its seed.

    Equal to a plain loop with torch.optim.SGD. keep_lengths: after each update the
    convolutions' weights get back the length that they began with. look: called
    with the number of updates made, before the first and after each.
    """
    device, count = images.mean.device, len(seeds)
    if not len(rates) == count == len(images.mean):
        raise ValueError(
            f"{len(images.mean)} nets need as many seeds and rates, "
            f"got {count} and {len(rates)}"
        )
    orders = [batches(images.rows["train"].shape[1], batch_size, s) for s in seeds]
    weights = [p for p in nets.parameters() if p.requires_grad]
    velocity = [torch.zeros_like(w) for w in weights]
    each = torch.tensor(rates, dtype=weights[0].dtype, device=device)
    sizes = [
        each.repeat_interleave(len(w) // count).view(-1, *[1] * (w.dim() - 1))
        for w in weights
    ]
    filters = [w for w in weights if w.dim() == 4] if keep_lengths else []
    lengths = [_length(w, count) for w in filters]
    for step in range(steps):
        if look is not None:
            look(step)
        which = torch.stack([next(order) for order in orders]).to(device)
        x, y = images.take("train", which)
        logits = nets(x)  # (nets, batch, classes)
        loss = cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="sum")
        # The nets share nothing, so the gradient of the sum is each net's own.
        gradients = torch.autograd.grad(loss / batch_size, weights)
        with torch.no_grad():
            torch._foreach_mul_(velocity, momentum)
            torch._foreach_add_(velocity, gradients)
            torch._foreach_sub_(weights, torch._foreach_mul(velocity, sizes))
            for w, length in zip(filters, lengths):
                w.mul_(length / _length(w, count))
    if look is not None:
        look(steps)


def _length(w: torch.Tensor, count: int) -> torch.Tensor:
    """Of each net's filters as a whole, one number per row of w."""
    norm = w.detach().view(count, -1).norm(dim=1)
    return norm.repeat_interleave(len(w) // count).view(-1, 1, 1, 1)


@torch.no_grad()
def accuracy(
    nets: Stack,
    images: Images,
    part: str,
    *,
    mode: str = "eval",
    batch_size: int = CHUNK,
    limit: int | None = None,
    change: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> np.ndarray:
    """Accuracy in % of each net on a part of its images; no net is changed.

    mode: "eval", or "train" for the statistics of each batch of batch_size; a last
    incomplete batch is then left out. limit: the first images only. change: of the
    scaled images. nan where an output is not finite.
    """
    if mode not in ("eval", "train"):
        raise ValueError(f'mode must be "eval" or "train", got {mode!r}')
    nets = copy.deepcopy(nets)
    nets.train(mode == "train")
    count, size = images.rows[part].shape
    size = min(size, limit or size)
    if mode == "train":
        size -= size % batch_size
    right, finite = torch.zeros(count), torch.ones(count, dtype=torch.bool)
    for first in range(0, size, batch_size):
        which = torch.arange(first, min(first + batch_size, size))
        which = which.to(images.mean.device).expand(count, -1)
        x, y = images.take(part, which)
        logits = nets(x if change is None else change(x))
        right += (logits.argmax(2) == y).sum(1).cpu()
        finite &= logits.isfinite().flatten(1).all(1).cpu()
    scores = 100 * right / size
    scores[~finite] = torch.nan
    return scores.double().numpy()


def plain(nets: Stack, template: nn.Module, index: int) -> nn.Module:
    """A plain copy of one of the nets, on the CPU."""
    model, state = copy.deepcopy(template).cpu(), nets.each()
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            tensor.copy_(state[name][index])
    return model
