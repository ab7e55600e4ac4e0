"""train_many equals the plain loop, seed by seed; divergence is reported."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy

from utils.data import Digits, load_digits
from utils.seeds import course_seed, seeds
from utils.training import batches, train_conditions, train_many

torch.set_num_threads(1)
DIGITS = load_digits(dtype=torch.float64)
STEPS, BATCH, LR = 25, 8, 0.1


class PlainBatchNorm(nn.Module):
    """BN in plain operations, its buffers updated in place."""

    def __init__(self, channels):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x):
        var = self.running_var
        if self.training:
            var = x.var(0)
            self.running_var.mul_(0.9).add_(0.1 * var.detach())
        return self.gamma * (x - x.mean(0)) / torch.sqrt(var + 1e-5)


def mlp(norm=None):
    layers = [nn.Linear(64, 12), norm(12), nn.ReLU()]
    return nn.Sequential(*filter(None, [*layers, nn.Linear(12, 10)])).double()


def conv(norm=None):
    layers = [nn.Conv2d(1, 4, 3), norm(4), nn.ReLU(), nn.Flatten()]
    layers = [nn.Unflatten(1, (1, 8, 8)), *layers, nn.Linear(144, 10)]
    return nn.Sequential(*layers).double()


class Rebinding(nn.Module):
    """Binds a new buffer in each pass, as hand-written BN often does."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 10).double()
        self.register_buffer("mean", torch.zeros(64).double())

    def forward(self, x):
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.mean(0).detach()
        return self.linear(x - self.mean)


class Tied(nn.Module):
    """The same layer twice, an unused one, and a buffer that is not saved."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(64, 64).double()
        self.again = self.first
        self.unused = nn.Linear(3, 3).double()
        self.last = nn.Linear(64, 10).double()
        self.register_buffer("scale", torch.rand(1).double(), persistent=False)

    def forward(self, x):
        return self.scale * self.last(self.again(self.first(x).relu()))


def partly_frozen():
    """A BN layer built in eval mode, its first linear layer frozen."""
    model = mlp(nn.BatchNorm1d)
    model[0].requires_grad_(False)
    model[1].eval()
    return model


def none(_):
    return nn.Identity()


MODELS = {
    "MLP": lambda: mlp(none),
    "MLP with nn.BatchNorm1d": lambda: mlp(nn.BatchNorm1d),
    "MLP with BN in plain operations": lambda: mlp(PlainBatchNorm),
    "MLP with LayerNorm": lambda: mlp(nn.LayerNorm),
    "conv": lambda: conv(none),
    "buffers that are bound anew": Rebinding,
    "tied and unused parameters": Tied,
    "frozen layers": partly_frozen,
    "conv with nn.BatchNorm2d": lambda: conv(nn.BatchNorm2d),
}


def plain_loop(make_model, seed, lr=LR, batch=BATCH, **sgd):
    torch.manual_seed(seed)
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, **sgd)
    order = batches(len(DIGITS.train.y), batch, seed)
    losses = []
    for _ in range(STEPS):
        i = next(order)
        loss = cross_entropy(model(DIGITS.train.x[i]), DIGITS.train.y[i])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return model, losses


def assert_equal(runs, index, model, losses):
    ours = runs.module(*index).state_dict()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(ours[name], value, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(runs.batch_loss[:, *index], losses, rtol=1e-9)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("sgd", [{}, {"momentum": 0.9, "weight_decay": 0.01}])
def test_equal_to_the_plain_loop(name, sgd):
    runs = train_many(
        MODELS[name], DIGITS, steps=STEPS, batch_size=BATCH, lr=LR, seeds=[0, 5], **sgd
    )
    for i, seed in enumerate([0, 5]):
        model, losses = plain_loop(MODELS[name], seed, **sgd)
        assert_equal(runs, (i,), model, losses)
        model.eval()
        with torch.no_grad():
            logits = model(DIGITS.test.x)
        right = (logits.argmax(1) == DIGITS.test.y).double().mean()
        score = runs.scores["test"]
        np.testing.assert_allclose(score.accuracy[-1, i], 100 * right)
        np.testing.assert_allclose(
            score.loss[-1, i], cross_entropy(logits, DIGITS.test.y)
        )


@pytest.mark.parametrize("size", [1, 2, 1024])
def test_equal_at_the_ends_of_the_batch_sizes(size):
    make_model = MODELS["MLP"]
    runs = train_many(
        make_model, DIGITS, steps=STEPS, batch_size=size, lr=0.01, seeds=[3, 4]
    )
    model, losses = plain_loop(make_model, 4, lr=0.01, batch=size)
    assert_equal(runs, (1,), model, losses)


def test_a_grid_trains_every_seed_at_every_rate():
    make_model = MODELS["MLP with nn.BatchNorm1d"]
    grid = np.array([[0.01], [0.1], [0.3]])
    runs = train_many(
        make_model, DIGITS, steps=STEPS, batch_size=BATCH, lr=grid, seeds=[0, 1]
    )
    assert runs.lr.shape == (3, 2)
    for rate in range(3):
        for seed in range(2):
            model, losses = plain_loop(make_model, seed, lr=grid[rate, 0])
            assert_equal(runs, (rate, seed), model, losses)


def test_one_rate_per_seed():
    runs = train_many(
        MODELS["MLP"], DIGITS, steps=STEPS, batch_size=BATCH, lr=[0.1, 0.2], seeds=2
    )
    model, losses = plain_loop(MODELS["MLP"], seeds(2)[1], lr=0.2)
    assert_equal(runs, (1,), model, losses)


def test_a_diverged_run_is_reported_and_leaves_the_others_alone():
    def run(rates):
        return train_many(
            MODELS["MLP"], DIGITS, steps=60, batch_size=4, lr=rates, seeds=[0, 1, 2]
        )

    calm, mixed = run([0.1, 0.1, 0.1]), run([0.1, 1e200, 0.1])
    assert calm.diverged_at.tolist() == [-1, -1, -1]
    assert mixed.diverged_at[1] > 0
    first = mixed.diverged_at[1]
    assert np.isfinite(mixed.batch_loss[:first, 1]).all()
    assert not np.isfinite(mixed.batch_loss[first, 1])
    assert np.isnan(mixed.scores["test"].accuracy[-1, 1])
    for net in (0, 2):
        for name, value in calm.state.items():
            assert torch.equal(value[net], mixed.state[name][net])


def test_a_last_update_that_diverges_is_reported():
    runs = train_many(
        lambda: mlp(none).float(),
        load_digits(),
        steps=1,
        batch_size=8,
        lr=1e40,
        seeds=2,
    )
    assert np.isfinite(runs.batch_loss).all()
    assert runs.diverged_at.tolist() == [1, 1]
    assert np.isnan(runs.scores["test"].accuracy).all()


def test_dropout_is_reproducible():
    def run():
        def make_model():
            return nn.Sequential(nn.Dropout(0.5), mlp(none))

        common = dict(steps=5, batch_size=8, lr=0.1, seeds=2)
        return train_many(make_model, DIGITS, **common).batch_loss

    torch.manual_seed(1)
    first = run()
    torch.manual_seed(2)
    np.testing.assert_array_equal(first, run())
    assert (first[:, 0] != first[:, 1]).all()


def test_tuned_picks_on_validation_and_shuns_divergence():
    runs = train_many(
        MODELS["MLP"],
        DIGITS,
        steps=60,
        batch_size=8,
        lr=[[0.001], [0.1], [1e200]],
        seeds=3,
        checkpoints=[10, 60],
    )
    assert runs.best(60) == 1
    test = runs.scores["test"].accuracy
    np.testing.assert_array_equal(runs.at_best("test", 60), test[1, 1])
    # make the test part prefer another rate: the choice must not move
    test[:, 0] = 100
    assert runs.best(60) == 1
    runs.scores["validation"].accuracy[1, 0] = 100
    assert runs.best(60) == 0
    runs.scores["validation"].accuracy[:] = np.nan
    with pytest.raises(ValueError, match="diverged at every rate"):
        runs.best()


def test_evaluate_in_both_modes_changes_nothing():
    runs = train_many(
        MODELS["conv with nn.BatchNorm2d"],
        DIGITS,
        steps=5,
        batch_size=8,
        lr=0.1,
        seeds=2,
    )
    before = {name: value.clone() for name, value in runs.state.items()}
    scores = runs.evaluate(DIGITS.test, "train", batch_size=50)
    for name, value in runs.state.items():
        assert torch.equal(value, before[name])
    model = runs.module(1).train()
    used = 500  # 517 images, the incomplete batch left out
    with torch.no_grad():
        logits = torch.cat([model(x) for x in DIGITS.test.x[:used].split(50)])
    expected = cross_entropy(logits, DIGITS.test.y[:used])
    np.testing.assert_allclose(scores.loss[1], expected)
    assert scores.loss[1] != runs.evaluate(DIGITS.test).loss[1]


def test_checkpoints_include_the_start():
    runs = train_many(
        MODELS["MLP"],
        DIGITS,
        steps=4,
        batch_size=8,
        lr=0.1,
        seeds=2,
        checkpoints=[4, 0, 4],
    )
    assert runs.checkpoints == [0, 4]
    torch.manual_seed(seeds(2)[0])
    with torch.no_grad():
        loss = cross_entropy(MODELS["MLP"]()(DIGITS.test.x), DIGITS.test.y)
    np.testing.assert_allclose(runs.scores["test"].loss[0, 0], loss)


@pytest.mark.parametrize(
    "name", ["MLP with nn.BatchNorm1d", "buffers that are bound anew", "frozen layers"]
)
def test_scores_on_the_way_are_those_of_a_loop_that_stops_there(name):
    common = dict(batch_size=BATCH, lr=LR, seeds=[0, 5])
    on_the_way = train_many(MODELS[name], DIGITS, steps=9, checkpoints=[3, 6], **common)
    for place, steps in enumerate([3, 6]):
        stopped = train_many(MODELS[name], DIGITS, steps=steps, **common)
        for split in ("validation", "test"):
            np.testing.assert_allclose(
                on_the_way.scores[split].loss[place], stopped.scores[split].loss[-1]
            )


def test_the_global_random_state_is_left_alone():
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    train_many(MODELS["MLP"], DIGITS, steps=1, batch_size=8, lr=0.1, seeds=2)
    assert torch.rand(1) == expected


def test_refusals():
    common = dict(steps=5, batch_size=8, seeds=3)
    with pytest.raises(ValueError, match="one per seed"):
        train_many(MODELS["MLP"], DIGITS, lr=[0.1, 0.2], **common)
    with pytest.raises(ValueError, match="batch_size must be 1 to 1024, got 0"):
        train_many(MODELS["MLP"], DIGITS, lr=0.1, **(common | {"batch_size": 0}))
    with pytest.raises(ValueError, match="must lie in 0 to steps=5"):
        train_many(MODELS["MLP"], DIGITS, lr=0.1, checkpoints=[6], **common)
    for lr in (None, "0.1", -0.1, float("nan")):
        with pytest.raises(ValueError, match="lr must be|learning rates must be"):
            train_many(MODELS["MLP"], DIGITS, lr=lr, **common)
    with pytest.raises(ValueError, match="momentum=None"):
        train_many(
            lambda: mlp(lambda c: nn.BatchNorm1d(c, momentum=None)),
            DIGITS,
            lr=0.1,
            **common,
        )
    with pytest.raises(ValueError, match="nothing to train"):
        train_many(lambda: mlp(none).requires_grad_(False), DIGITS, lr=0.1, **common)
    with pytest.raises(ValueError, match="list of names"):
        train_many(MODELS["MLP"], DIGITS, lr=0.1, splits="test", **common)
    runs = train_many(MODELS["MLP"], DIGITS, lr=0.1, **common)
    with pytest.raises(ValueError, match="grid of rates"):
        runs.best()
    with pytest.raises(ValueError, match="batch_size must be 1 to 517, got 600"):
        runs.evaluate(DIGITS.test, batch_size=600)
    with pytest.raises(ValueError, match='"train" or "eval"'):
        runs.evaluate(DIGITS.test, "test")


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 60), st.integers(0, 10**6), st.data())
def test_batches_are_epochs_without_repetition(n, seed, data):
    size = data.draw(st.integers(1, n))
    order = batches(n, size, seed)
    again = batches(n, size, seed)
    for _ in range(3):  # epochs
        epoch = [next(order) for _ in range(n // size)]
        seen = torch.cat(epoch).tolist()
        assert len(set(seen)) == len(seen) == n // size * size
        assert all(torch.equal(i, next(again)) for i in epoch)


def test_conditions_equal_single_calls():
    float32 = Digits(*load_digits())
    conditions = {
        size: {"make_model": lambda: mlp(none).float(), "batch_size": size}
        for size in (4, 16)
    }
    common = {"data": float32, "steps": 5, "lr": 0.1, "seeds": 2}
    together = train_conditions(conditions, **common)
    assert list(together) == [4, 16]
    for size, runs in together.items():
        alone = train_many(**conditions[size], **common)
        np.testing.assert_array_equal(runs.batch_loss, alone.batch_loss)


def test_conditions_follow_the_course_seed_and_name_the_one_that_fails(monkeypatch):
    common = {"data": load_digits(), "steps": 2, "batch_size": 8, "seeds": 2}
    make_model = {"make_model": lambda: mlp(none).float()}
    for k in ("1", "2"):
        monkeypatch.setenv("COURSE_SEED", k)
        runs = train_conditions({"a": make_model | {"lr": 0.1}}, **common)["a"]
        alone = train_many(**make_model, lr=0.1, **common)
        np.testing.assert_array_equal(runs.batch_loss, alone.batch_loss)
    with pytest.raises(ValueError, match="negative") as caught:
        train_conditions({"bad one": make_model | {"lr": -1}}, **common)
    assert any("bad one" in note for note in caught.value.__notes__)


def test_course_seed_shifts_every_seed(monkeypatch):
    monkeypatch.delenv("COURSE_SEED", raising=False)
    default = seeds(12)
    monkeypatch.setenv("COURSE_SEED", "3")
    assert course_seed() == 3
    assert len(set(default) | set(seeds(12))) == 24
    monkeypatch.setenv("COURSE_SEED", "three")
    with pytest.raises(ValueError, match="whole number, got 'three'"):
        seeds(12)
