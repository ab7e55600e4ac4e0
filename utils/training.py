"""Train one network per seed, all of them at once.

Chapter 07 shows the plain loop for one seed; `train_many` is that loop for
many, and tests/test_training.py holds the two equal, seed by seed.
"""

import os
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence

import numpy as np
import torch
from joblib import Parallel, delayed
from torch import nn
from torch.func import stack_module_state
from torch.nn.functional import cross_entropy

from utils import seeds as course_seeds
from utils.data import Digits
from utils.progress import progress
from utils.runs import Runs, Scores, stacked_forward


def batches(n: int, batch_size: int, seed: int) -> Iterator[torch.Tensor]:
    """Indices of one shuffled batch after the other, without end.

    Each epoch is a new permutation; a last incomplete batch is dropped.
    """
    if not 1 <= batch_size <= n:
        raise ValueError(f"batch_size must be 1 to {n}, got {batch_size}")
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(n, generator=generator)
        yield from order[: n - n % batch_size].split(batch_size)


def _build(make_model: Callable[[], nn.Module], seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make_model()


@torch.random.fork_rng(devices=[])  # the caller's random state stays
@torch.enable_grad()
def train_many(
    make_model: Callable[[], nn.Module],
    data: Digits,
    *,
    steps: int,
    batch_size: int,
    lr: float | Sequence[float] | np.ndarray,
    seeds: int | Sequence[int] = 12,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    checkpoints: Collection[int] | None = None,
    splits: Sequence[str] = ("validation", "test"),
) -> Runs:
    """Train one net per seed with SGD, all at once, each on its own batches.

    Equal to a plain loop with `torch.optim.SGD`, seed by seed: the seed
    fixes the initialisation and the order of the batches (`batches`). A
    module that draws in `forward`, such as dropout, is reproducible, but
    draws other numbers than in a plain loop.

    make_model: builds one plain module; called after torch.manual_seed.
        Parameters and buffers are each net's own, all else is shared.
    lr: a number, one per seed (seeds,), or a grid as a column (rates, 1).
    seeds: a list, or how many of the course's (shifted by COURSE_SEED).
    checkpoints: updates after which all `splits` are scored in eval mode;
        default: after the last one.

    A net whose loss is no longer finite is marked in `diverged_at`, its
    scores are nan, and the others go on unchanged. About 60 nets at once
    is the most that pays. Modules must not branch on the values of
    tensors (BatchNorm with momentum=None does).
    """
    seeds = _seed_list(seeds)
    rates = _rate_grid(lr, len(seeds))
    checkpoints = [steps] if checkpoints is None else sorted({*map(int, checkpoints)})
    if (
        steps < 1
        or not checkpoints
        or not 0 <= checkpoints[0] <= checkpoints[-1] <= steps
    ):
        raise ValueError(f"checkpoints {checkpoints} must lie in 0 to steps={steps}")
    if isinstance(splits, str):
        raise ValueError(f'splits must be a list of names, got "{splits}"')

    models = [_build(make_model, seed) for seed in seeds]
    for m in models[0].modules():
        if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.momentum is None:
            raise ValueError("BatchNorm with momentum=None branches on a value")
    parameters, buffers = stack_module_state(models)
    copies = rates.size // len(seeds)  # a grid trains every seed at each rate
    state = {
        name: t.detach()
        .repeat(copies, *[1] * (t.dim() - 1))
        .requires_grad_(t.requires_grad)
        for name, t in (parameters | buffers).items()
    }
    weights = [state[name] for name in parameters if state[name].requires_grad]
    if not weights:
        raise ValueError("nothing to train: no parameter requires a gradient")
    velocities = [torch.zeros_like(w) for w in weights]
    step_sizes = [
        torch.tensor(rates.flatten(), dtype=w.dtype).view(-1, *[1] * (w.dim() - 1))
        for w in weights
    ]
    forward = stacked_forward(models[0], "train")
    orders = [batches(len(data.train.y), batch_size, seed) for seed in seeds]
    runs = Runs(
        template=models[0],
        state=state,
        checkpoints=checkpoints,
        scores={},
        lr=rates,
        batch_loss=np.empty((steps, *rates.shape)),
        diverged_at=np.full(rates.shape, -1),
    )
    scored: dict[str, list[Scores]] = {name: [] for name in splits}
    torch.manual_seed(seeds[0])  # for modules that draw in forward
    for step in progress(range(steps + 1), "updates"):
        if step in checkpoints:
            for name in splits:
                scored[name].append(runs.evaluate(getattr(data, name)))
        if step == steps:
            break
        rows = torch.stack([next(order) for order in orders])  # (seeds, batch)
        x = data.train.x[rows].repeat(copies, *[1] * data.train.x.dim())
        y = data.train.y[rows].repeat(copies, 1)
        logits = forward(state, x, own_batches=True)  # (nets, batch, classes)
        loss = cross_entropy(
            logits.flatten(0, 1), y.flatten(), reduction="none"
        ).view_as(y)
        loss = loss.mean(1)  # (nets,): the nets share nothing, so the
        # gradient of the sum is each net's own
        gradients = torch.autograd.grad(loss.sum(), weights, allow_unused=True)
        with torch.no_grad():
            for w, g, v, size in zip(
                weights, gradients, velocities, step_sizes, strict=True
            ):
                if g is None:  # unused: torch's SGD skips it, too
                    continue
                if weight_decay:
                    g = g + weight_decay * w
                if momentum:
                    g = v.mul_(momentum).add_(g)
                w.addcmul_(g, size, value=-1)  # each net at its own rate
        runs.batch_loss[step] = loss.detach().numpy().reshape(rates.shape)
    for t in state.values():
        t.requires_grad_(False)
    finite = [t.view(len(t), -1).isfinite().all(1).numpy() for t in state.values()]
    outcome = np.all(finite, axis=0).reshape(1, *rates.shape)
    bad = ~np.concatenate([np.isfinite(runs.batch_loss), outcome])
    runs.diverged_at = np.where(bad.any(0), bad.argmax(0), -1)
    runs.scores = {
        name: Scores(
            np.stack([s.accuracy for s in all_scores]),
            np.stack([s.loss for s in all_scores]),
        )
        for name, all_scores in scored.items()
    }
    return runs


def _seed_list(seeds: int | Sequence[int]) -> list[int]:
    """The given seeds, or the course's first ones."""
    if np.ndim(seeds) == 0:
        return course_seeds(int(seeds))
    return [int(seed) for seed in seeds]


def _rate_grid(lr: float | Sequence[float] | np.ndarray, n_seeds: int) -> np.ndarray:
    """Learning rates as (seeds,) or (rates, seeds)."""
    if lr is None or isinstance(lr, str):
        raise ValueError(f"lr must be one or more numbers, got {lr!r}")
    rates = np.asarray(lr, dtype=float)
    if not (np.isfinite(rates).all() and (rates >= 0).all()):
        raise ValueError(f"learning rates must be finite and not negative: {rates}")
    if rates.shape not in [(), (n_seeds,), (len(np.atleast_1d(rates)), 1)]:
        raise ValueError(
            f"lr has shape {rates.shape}: expected a number, one per seed "
            f"({n_seeds},) or a column of rates (rates, 1)"
        )
    return rates + np.zeros(n_seeds)


def train_conditions(conditions: dict, workers: int = 2, **common) -> dict:
    """`train_many` for several conditions, in two processes.

    conditions: {name: arguments of train_many}; `common` holds those that
    all share unless they say otherwise. Returns {name: Runs}.
    """

    def train(name: object, arguments: dict) -> Runs:
        torch.set_num_threads(1)
        os.environ["COURSE_PROGRESS"] = "0"  # the worker's own
        try:
            return train_many(**arguments)
        except Exception as error:
            error.add_note(f"in the condition {name!r}")
            raise

    jobs = []
    for name, own in conditions.items():
        arguments = common | own
        # the course's seeds are those of this process, not of the worker
        arguments["seeds"] = _seed_list(arguments.get("seeds", 12))
        jobs.append(delayed(train)(name, arguments))
    parallel = Parallel(n_jobs=workers, return_as="generator", backend="loky")
    results = progress(parallel(jobs), "conditions", len(conditions))
    with warnings.catch_warnings():
        # loky replaces a worker that has grown by 300 MB, and says so on
        # stderr; nothing is lost.
        warnings.filterwarnings("ignore", "A worker stopped while some jobs")
        return dict(zip(conditions, results, strict=True))
