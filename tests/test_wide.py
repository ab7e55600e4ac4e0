"""Nets go side by side where that computes what one does, and only there."""

import pytest
import torch
from torch import nn

from utils.data import load_digits
from utils.training import batches, sgd, train_many
from utils.wide import OneByOne, SideBySide, Vmapped, stack

torch.set_num_threads(1)
DIGITS = load_digits(seeds=[0, 1, 2], dtype=torch.float64)


def dense(layer, width=12):
    return nn.Sequential(nn.Linear(64, width), layer, nn.Linear(width, 10)).double()


def conv(layer):
    front = [nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 4, 3, padding=1), layer]
    back = [nn.MaxPool2d(2), nn.Conv2d(4, 6, 3, groups=2), nn.AdaptiveAvgPool2d(1)]
    return nn.Sequential(*front, *back, nn.Flatten(), nn.Linear(6, 10)).double()


class Layer(nn.Module):
    """A layer without parameters, from a function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.branch = nn.Sequential(nn.Linear(12, 12), nn.BatchNorm1d(12), nn.ReLU())
        self.scale = nn.Parameter(torch.full((12,), 0.5))

    def forward(self, x):
        return x + self.scale * self.branch(x)


SIDE_BY_SIDE = {
    "BN": lambda: dense(nn.BatchNorm1d(12)),
    "BN without gamma and beta": lambda: dense(nn.BatchNorm1d(12, affine=False)),
    "BN without statistics": lambda: dense(
        nn.BatchNorm1d(12, track_running_stats=False)
    ),
    "layer norm": lambda: dense(nn.LayerNorm(12)),
    "layer norm without bias": lambda: dense(nn.LayerNorm(12, bias=False)),
    "group norm": lambda: dense(nn.GroupNorm(4, 12)),
    "dropout": lambda: dense(nn.Dropout(0.5)),
    "no bias": lambda: nn.Sequential(nn.Linear(64, 10, bias=False)).double(),
    "one layer": lambda: nn.Linear(64, 10).double(),
    "residual": lambda: dense(Residual()),
    "noise per channel": lambda: dense(Layer(lambda x: x + torch.randn(x.shape[-1]))),
    "noise per value": lambda: dense(Layer(lambda x: x + torch.randn_like(x))),
    "conv, BN": lambda: conv(nn.BatchNorm2d(4)),
    "conv, group norm": lambda: conv(nn.GroupNorm(2, 4)),
    "conv, instance norm": lambda: conv(nn.InstanceNorm2d(4, affine=True)),
    "conv, layer norm": lambda: conv(nn.LayerNorm((4, 8, 8))),
    "conv, dropout": lambda: conv(nn.Dropout2d(0.5)),
}
OTHERWISE = {
    "mean over the channels": lambda: dense(
        Layer(lambda x: x - x.mean(1, keepdim=True))
    ),
    "softmax": lambda: dense(nn.Softmax(dim=1)),
    "one draw for all channels": lambda: dense(Layer(lambda x: x * torch.rand(()))),
    "shuffled channels": lambda: dense(Layer(lambda x: x[:, torch.randperm(12)])),
    "channels split in two": lambda: dense(
        Layer(lambda x: torch.cat(x.chunk(2, 1)[::-1], 1))
    ),
    "standardised weights": lambda: nn.Sequential(Standardised(64, 10)).double(),
    "channels last": lambda: nn.Sequential(
        nn.Unflatten(1, (8, 8)), nn.Linear(8, 4), nn.Flatten(), nn.Linear(32, 10)
    ).double(),
}


class Standardised(nn.Linear):
    def forward(self, x):
        return nn.functional.linear(x, self.weight - self.weight.mean(1, keepdim=True))


def trained(make_model, form, steps=5):
    """Three nets after a few updates in one of the three forms."""
    torch.manual_seed(0)
    nets = form([make_model() for _ in range(3)])
    optimizer = torch.optim.SGD(nets.parameters(), lr=0.1)
    orders = [batches(1024, 8, seed) for seed in range(3)]
    for _ in range(steps):
        x = torch.stack([DIGITS.of(i).train.x[next(o)] for i, o in enumerate(orders)])
        optimizer.zero_grad()
        (nets(x) ** 2).mean((1, 2)).sum().backward()
        optimizer.step()
    return nets


@pytest.mark.parametrize("name", [*SIDE_BY_SIDE, *OTHERWISE])
def test_the_form_is_chosen_by_what_it_computes(name):
    make_model = (SIDE_BY_SIDE | OTHERWISE)[name]
    models = [make_model() for _ in range(3)]
    before = [{k: v.clone() for k, v in m.state_dict().items()} for m in models]
    chosen = stack(models, DIGITS.train.x[:, :8])
    assert type(chosen) is (SideBySide if name in SIDE_BY_SIDE else Vmapped)
    for model, state in zip(models, before):
        assert model.training
        for key, value in model.state_dict().items():
            assert torch.equal(value, state[key])
    if "drop" in name or "noise" in name or "draw" in name or "shuffled" in name:
        assert chosen.draws
        return
    assert not chosen.draws
    ours, plain = trained(make_model, type(chosen)), trained(make_model, OneByOne)
    x = DIGITS.test.x
    torch.testing.assert_close(ours.eval()(x), plain.eval()(x), rtol=1e-9, atol=1e-11)
    for key, value in plain.each().items():
        torch.testing.assert_close(ours.each()[key], value, rtol=1e-9, atol=1e-11)


def test_side_by_side_draws_for_each_net():
    nets = SideBySide([SIDE_BY_SIDE["noise per channel"]() for _ in range(2)])
    with torch.no_grad():
        for p in nets.parameters():
            p.fill_(0.1)
        first, second = nets(torch.ones(2, 4, 64).double())
    assert not torch.allclose(first, second)  # equal nets, noise of their own


def test_what_neither_form_can_do_raises_what_the_way_says():
    def branches(x):
        return x if x.sum() > 0 else -x

    models = [dense(Layer(branches)) for _ in range(2)]
    with pytest.raises(RuntimeError, match="data-dependent control flow"):
        stack(models, DIGITS.train.x[:2, :8])
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        stack([dense(nn.BatchNorm1d(12)) for _ in range(2)], DIGITS.train.x[:2, :1])


def test_the_wide_net_shares_nothing_with_the_plain_ones():
    models = [dense(nn.BatchNorm1d(12)) for _ in range(2)]
    weight = models[1][0].weight.detach().clone()
    nets = SideBySide(models)
    with torch.no_grad():
        for p in nets.parameters():
            p.zero_()
    assert torch.equal(models[1][0].weight, weight)


def make_model():
    return dense(nn.BatchNorm1d(12))


COMMON = dict(steps=6, batch_size=8, lr=0.1, seeds=[0, 1, 2])


def test_the_loop_shows_each_update():
    seen = []
    for nets, loss in sgd(make_model, DIGITS, **COMMON):
        assert loss.shape == (3,)
        assert nets.gradients["0.weight"].shape == (3, 12, 64)
        seen.append((nets.step, loss, nets.state["0.weight"][1].clone()))
        gradient = nets.gradients["0.weight"][1].clone()
    assert [step for step, *_ in seen] == [0, 1, 2, 3, 4, 5]
    assert nets.step == 6
    after = nets.module(1)[0].weight
    torch.testing.assert_close(after, seen[-1][2] - 0.1 * gradient)
    runs = train_many(make_model, DIGITS, **COMMON)
    torch.testing.assert_close(runs.module(1)[0].weight, after)
    torch.testing.assert_close(torch.tensor(runs.batch_loss[3]), seen[3][1])


def test_the_loop_leaves_the_callers_random_numbers_alone():
    def noisy():
        return dense(nn.Dropout(0.5))

    def losses(disturb):
        torch.manual_seed(1)
        found = []
        for _, loss in sgd(noisy, DIGITS, **COMMON):
            if disturb:
                torch.rand(3)
            found.append(loss)
        return torch.stack(found), torch.rand(1)

    (calm, mine), (disturbed, _) = losses(False), losses(True)
    assert torch.equal(calm, disturbed)
    torch.manual_seed(1)
    assert torch.rand(1) == mine


def test_each_net_sees_its_own_split():
    alone = train_many(make_model, DIGITS.of(2), **(COMMON | {"seeds": [2]}))
    together = train_many(make_model, DIGITS, **COMMON)
    for name, value in alone.state.items():
        torch.testing.assert_close(together.state[name][2], value[0])
    for split in ("validation", "test"):
        accuracy = together.scores[split].accuracy
        assert accuracy[-1, 2] == alone.scores[split].accuracy[-1, 0]
    grid = train_many(make_model, DIGITS, **(COMMON | {"lr": [[0.1], [0.2]]}))
    torch.testing.assert_close(grid.module(0, 2)[0].weight, alone.module(0)[0].weight)


def test_splits_for_other_seeds_are_refused():
    with pytest.raises(ValueError, match=r"3 seeds and there are 12: load_digits\(12"):
        train_many(make_model, DIGITS, **(COMMON | {"seeds": 12}))


def test_an_order_of_ones_own():
    def by_digit(y, batch_size, seed):
        rows = y.argsort(stable=True).split(batch_size)
        while True:
            yield from rows

    *_, (nets, _) = sgd(make_model, DIGITS, order=by_digit, **COMMON)
    model = make_model()
    first = nets.template  # the net of the first seed, as it was made
    model.load_state_dict(first.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    own = DIGITS.of(0).train
    for rows in own.y.argsort(stable=True).split(8)[:6]:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(own.x[rows]), own.y[rows]).backward()
        optimizer.step()
    torch.testing.assert_close(nets.module(0)[0].weight, model[0].weight)


def twenty_layers(seed):
    torch.manual_seed(seed)
    layers, size = [], 64
    for _ in range(20):
        linear = nn.Linear(size, 32)
        nn.init.xavier_normal_(linear.weight, gain=5 / 3)
        layers += [linear, nn.Tanh()]
        size = 32
    return nn.Sequential(*layers, nn.Linear(size, 10))


def test_deep_nets_are_not_refused_for_their_rounding():
    """A full step takes some of these where 1e-15 becomes 1e-5."""
    for seed in range(28000, 28040):
        x = torch.randn(2, 32, 64, generator=torch.Generator().manual_seed(seed))
        nets = [twenty_layers(seed), twenty_layers(seed + 11)]
        assert isinstance(stack(nets, x), SideBySide)
