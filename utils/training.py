"""Train one network per seed, all of them at once.

Chapter 07 shows the plain loop for one seed; `sgd` is that loop for many, as
one wide net (utils/wide.py), and tests/test_training.py holds the two equal,
seed by seed. `train_many` runs it to the end and keeps the scores.
"""

import os
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from joblib import Parallel, delayed
from torch import nn
from torch.nn.functional import cross_entropy

from utils.data import Digits, Split
from utils.progress import progress
from utils.runs import Nets, Runs, Scores, per_net
from utils.seeds import seed_list
from utils.wide import stack

Order = Callable[[torch.Tensor, int, int], Iterator[torch.Tensor]]


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


def shuffled(y: torch.Tensor, batch_size: int, seed: int) -> Iterator[torch.Tensor]:
    """The usual order of the batches; y: labels of the training part."""
    return batches(len(y), batch_size, seed)


def half_decades(low: float, high: float) -> np.ndarray:
    """Rates from 10**low to 10**high by factors of √10, as a column (rates, 1)."""
    return 10.0 ** np.arange(low, high + 0.25, 0.5)[:, None]


@torch.enable_grad()
def _build(make_model: Callable[[], nn.Module], seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make_model()


def sgd(
    make_model: Callable[[], nn.Module],
    data: Digits,
    *,
    steps: int,
    batch_size: int,
    lr: float | Sequence[float] | np.ndarray,
    seeds: int | Sequence[int] = 12,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    order: Order = shuffled,
) -> Iterator[tuple[Nets, torch.Tensor]]:
    """The training loop: yields (nets, loss) `steps` times, before each update.

    `nets` are the nets as they are, after `nets.step` updates; `loss` (nets,)
    is that of the batch that comes next, and `nets.gradients` its gradients,
    by name, (nets, ...). When the loop is left, the last update is made.
    The body may look through the nets in train mode: running statistics that it
    moves are put back. To change them, hook the next pass, as chapter 03 does.

    make_model: builds one plain module; called after torch.manual_seed.
        Parameters and buffers are each net's own, all else is shared.
    data: one split for all, or one per seed (`load_digits(12)`).
    lr: a number, one per seed (seeds,), or a grid as a column (rates, 1).
    seeds: a list, or how many of the course's (shifted by COURSE_SEED).
    order: order(y, batch_size, seed) yields the indices of the batches; y
        are the labels of the seed's training part.
    """
    if steps < 1:
        raise ValueError(f"steps must be 1 or more, got {steps}")
    seeds = seed_list(seeds)
    rates = _rate_grid(lr, len(seeds))
    copies = rates.size // len(seeds)  # a grid trains every seed at each rate
    train = per_net(data.train, (len(seeds),))
    orders = [order(y, batch_size, seed) for y, seed in zip(train.y, seeds)]
    every = Split(*(t.flatten(0, 1) for t in train))  # (seeds * images, ...)
    first = len(train.y[0]) * torch.arange(len(seeds))

    def next_batch() -> tuple[torch.Tensor, torch.Tensor]:
        """x (nets, batch, ...) and y (nets, batch), each net's own."""
        rows = torch.stack([next(rows) for rows in orders], dim=1)
        rows = (rows + first).repeat(1, copies)  # (batch, nets)
        # laid out in memory as the wide net takes it, channels of one net
        # beside those of the next
        x = every.x.index_select(0, rows.flatten())
        return x.unflatten(0, rows.shape).transpose(0, 1), every.y[rows].T

    x, y = next_batch()
    models = [_build(make_model, seed) for seed in seeds]
    _check(models[0])
    nets = Nets(models[0], stack(models * copies, x), rates)
    named = nets.stack.tensors().items()
    names, weights = zip(*((k, t) for k, t in named if t.requires_grad))
    velocities = [torch.zeros_like(w) for w in weights]
    sizes = [_per_row(rates, w) for w in weights]
    draws = torch.Generator().manual_seed(seeds[0])
    layers = [(m, k) for m in nets.stack.modules() for k in m._buffers]
    layers = [(m, k) for m, k in layers if m._buffers[k] is not None]

    def buffers() -> list[torch.Tensor]:  # a layer may bind a new one each time
        return [m._buffers[k] for m, k in layers]

    before, ahead = ([t.clone() for t in buffers()] for _ in range(2))
    for nets.step in range(steps):
        if nets.step:
            x, y = next_batch()
        _copy(before, buffers())
        with torch.enable_grad(), _own_draws(nets, draws):
            logits = nets.stack(x)  # (nets, batch, classes)
            losses = cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none")
            loss = losses.view_as(y).mean(1)  # (nets,): the nets share
            # nothing, so the gradient of the sum is each net's own
            g = torch.autograd.grad(loss.sum(), weights, allow_unused=True)
        nets.flat_gradients = dict(zip(names, g))
        used = [i for i, own in enumerate(g) if own is not None]  # as in torch
        w, g, v, size = ([t[i] for i in used] for t in (weights, g, velocities, sizes))
        # The pass has moved the running statistics on by this batch; who looks
        # sees them as they are after `step` updates.
        _copy(ahead, buffers())
        _copy(buffers(), before)
        yield nets, loss.detach()
        _copy(buffers(), ahead)
        with torch.no_grad():
            if weight_decay:
                g = torch._foreach_add(g, w, alpha=weight_decay)
            if momentum:
                torch._foreach_mul_(v, momentum)
                torch._foreach_add_(v, g)
                g = v
            g = torch._foreach_mul(g, size)
            torch._foreach_sub_(w, g)  # each net at its own rate
    nets.step = steps


def train_many(
    make_model: Callable[[], nn.Module],
    data: Digits,
    *,
    steps: int,
    checkpoints: Collection[int] | None = None,
    splits: Sequence[str] = ("validation", "test"),
    **arguments,
) -> Runs:
    """Train one net per seed with SGD, all at once, each on its own batches.

    Equal to a plain loop with `torch.optim.SGD`, seed by seed: the seed
    fixes the initialisation and the order of the batches (`batches`), and
    the split where the data has one per seed. A module that draws in
    `forward`, such as dropout, is reproducible, but draws other numbers
    than in a plain loop.

    checkpoints: updates after which all `splits` are scored in eval mode;
        default: after the last one.
    The other arguments are those of `sgd`.

    A net whose loss is no longer finite is marked in `diverged_at`, its
    scores are nan, and the others go on unchanged.
    """
    checkpoints = [steps] if checkpoints is None else sorted({*map(int, checkpoints)})
    if not checkpoints or not 0 <= checkpoints[0] <= checkpoints[-1] <= steps:
        raise ValueError(f"checkpoints {checkpoints} must lie in 0 to steps={steps}")
    if isinstance(splits, str):
        raise ValueError(f'splits must be a list of names, got "{splits}"')
    scored: dict[str, list[Scores]] = {name: [] for name in splits}
    batch_loss = []

    def score(nets: Nets) -> None:
        if nets.step in checkpoints:
            for name in splits:
                scored[name].append(nets.evaluate(getattr(data, name)))

    loop = sgd(make_model, data, steps=steps, **arguments)
    for nets, loss in progress(loop, "updates", steps):
        score(nets)
        batch_loss.append(loss.numpy().reshape(nets.lr.shape))
    score(nets)
    finite = [t.view(len(t), -1).isfinite().all(1).numpy() for t in nets.state.values()]
    outcome = np.all(finite, axis=0).reshape(1, *nets.lr.shape)
    bad = ~np.concatenate([np.isfinite(batch_loss), outcome])
    return Runs(
        template=nets.template,
        stack=nets.stack,
        lr=nets.lr,
        step=steps,
        checkpoints=checkpoints,
        scores={
            name: Scores(
                np.stack([s.accuracy for s in each]), np.stack([s.loss for s in each])
            )
            for name, each in scored.items()
        },
        batch_loss=np.stack(batch_loss),
        diverged_at=np.where(bad.any(0), bad.argmax(0), -1),
    )


def _copy(to: list[torch.Tensor], source: list[torch.Tensor]) -> None:
    with torch.no_grad():
        if to:
            torch._foreach_copy_(to, source)


@contextmanager
def _own_draws(nets: Nets, generator: torch.Generator) -> Iterator[None]:
    """Modules that draw in forward do so from a generator of their own."""
    if not nets.stack.draws:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(generator.get_state())
        yield
        generator.set_state(torch.get_rng_state())


def _check(model: nn.Module) -> None:
    """Refuse what cannot be trained, before anything is."""
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError("nothing to train: no parameter requires a gradient")
    for m in model.modules():
        if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.momentum is None:
            raise ValueError("BatchNorm with momentum=None branches on a value")


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


def _per_row(rates: np.ndarray, w: torch.Tensor) -> torch.Tensor:
    """The rate of each row of a stacked tensor, (nets * rows, 1, ...)."""
    each = torch.tensor(rates.flatten(), dtype=w.dtype)
    rows = each.repeat_interleave(len(w) // len(each))
    return rows.view(-1, *[1] * (w.dim() - 1))


def train_conditions(conditions: dict, workers: int = 2, **common) -> dict:
    """`train_many` for several conditions, in two processes.

    conditions: {name: arguments of train_many}; `common` holds those that
    all share unless they say otherwise. Returns {name: Runs}. The number in
    COURSE_WORKERS, where it is set, goes before `workers`.
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
        arguments["seeds"] = seed_list(arguments.get("seeds", 12))
        jobs.append(delayed(train)(name, arguments))
    workers = int(os.environ.get("COURSE_WORKERS", workers))
    parallel = Parallel(n_jobs=workers, return_as="generator", backend="loky")
    results = progress(parallel(jobs), "conditions", len(conditions))
    with warnings.catch_warnings():
        # loky replaces a worker that has grown by 300 MB, and says so on
        # stderr; nothing is lost.
        warnings.filterwarnings("ignore", "A worker stopped while some jobs")
        return dict(zip(conditions, results, strict=True))
