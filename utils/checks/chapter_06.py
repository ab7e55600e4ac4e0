"""Checks of chapter 06, batch size."""

from collections.abc import Callable

import torch
from torch import nn

from utils.checks.legacy import check, expect, expect_written, mean_difference

# Exercise 6.4: error with this ε minus that with 1e-5, points, over seed sets
EPSILONS = {0.1: (-36, -7), 10: (3, 32)}


@check
def images_needed(answer: Callable) -> str:
    """Exercise 6.1: the smallest batch size for a variance that good."""
    normal = torch.randn(4000, 1, dtype=torch.float64)
    uniform = torch.rand(4000, 1, dtype=torch.float64)
    shifted = 50 + 0.1 * torch.randn(4000, 1, dtype=torch.float64)
    tailed = torch.cat([normal, normal**3, uniform], dim=1)
    cases = [
        ("a normal feature", normal, 0.1),
        ("a uniform feature", uniform, 0.05),
        ("a feature far from 0, of small spread", shifted, 0.2),
        ("one heavy-tailed feature among others", tailed, 0.1),
    ]
    for name, x, error in cases:
        z = (x - x.mean(dim=0)) / x.std(dim=0, correction=0)
        kappas = (z**4).mean(dim=0)
        kappa = kappas.max().item()
        right = (kappa - 1) / error**2
        result = answer(x.clone(), error)
        expect_written(result)
        result = torch.as_tensor(result)
        expect(
            result.numel() == 1,
            "return one number, the batch size that is enough for every feature; "
            f"got shape {tuple(result.shape)}",
        )
        n = float(result)
        expect(
            abs(n - round(n)) < 1e-9,
            f"a batch size is a whole number: got {n:g}; round up",
        )

        def near(wrong: float, n: float = n, right: float = right) -> bool:
            return abs(n - wrong) <= 4 and abs(wrong - right) > 8

        moment = (x**4).mean(dim=0) / (x**2).mean(dim=0) ** 2
        mistakes = [
            (2 / error**2, "that is right for normal features only: measure κ"),
            (1 / error**2, "that is the number for the mean, not for the variance"),
            ((kappa - 1) / error, "the relative standard deviation is the root"),
            (kappa / error**2, "the law has κ - 1, not κ"),
            (
                (kappa - 4) / error**2,
                "κ here is 3 for a normal distribution: it is not the excess κ - 3",
            ),
            ((kappa + 2) / error**2, "κ is 3 for a normal distribution: add nothing"),
            (
                (kappas.min().item() - 1) / error**2,
                "it must be enough for every feature, also for the worst",
            ),
            (
                (kappas.mean().item() - 1) / error**2,
                "it must be enough for every feature, not on average",
            ),
            (
                (moment.max().item() - 1) / error**2,
                "take the moments about the mean: subtract it first",
            ),
        ]
        for wrong, hint in mistakes:
            expect(not near(wrong), f"{name}: {hint}")
        expect(
            abs(n - right) <= 4,
            f"{name}, error {error}: expected about {right:.0f}, got {n:g}",
        )
    return "enough images for the worst feature, whatever its distribution"


def _reference(layer: nn.Module, x: torch.Tensor, size: int) -> torch.Tensor:
    groups = [x[i : i + size] for i in range(0, len(x), size)]
    if len(groups) > 1 and len(groups[-1]) == 1:
        groups[-2:] = [torch.cat(groups[-2:])]
    return torch.cat([layer(group) for group in groups])


def _layer(dims: int, training: bool) -> nn.Module:
    torch.manual_seed(1)
    layer = (nn.BatchNorm1d if dims == 2 else nn.BatchNorm2d)(3).double()
    with torch.no_grad():
        for t in (layer.weight, layer.bias, layer.running_mean):
            t.normal_()
        layer.running_var.uniform_(0.5, 2)
    return layer.train(training)


@check
def ghost_forward(answer: Callable) -> str:
    """Exercise 6.2: a batch-norm layer applied to groups of examples."""
    cases = [  # name, shape, size, in train mode
        ("6 groups of 2", (12, 3), 2, True),
        ("3 groups of 4", (12, 3), 4, True),
        ("groups of 4, 4, 3", (11, 3), 4, True),
        ("groups of 4 and 5: one example is left over", (9, 3), 4, True),
        ("a size larger than the batch", (5, 3), 8, True),
        ("images, groups of 2", (6, 3, 4, 4), 2, True),
        ("images, groups of 2 and 3", (5, 3, 4, 4), 2, True),
        ("eval mode", (12, 3), 4, False),
        ("eval mode, one example", (1, 3), 4, False),
    ]
    for name, shape, size, training in cases:
        x = 1 + 2 * torch.randn(shape, dtype=torch.float64)
        x1, x2 = (x.clone().requires_grad_() for _ in range(2))
        ours, theirs = (_layer(len(shape), training) for _ in range(2))
        right = _reference(ours, x1, size) if training else ours(x1)
        result = answer(theirs, x2, size)
        expect_written(result)
        expect(
            isinstance(result, torch.Tensor) and result.shape == x.shape,
            f"{name}: return one tensor of the shape of x, {tuple(shape)}",
        )
        wrongs = _wrong_outputs(x, size, len(shape), training)
        for hint, wrong in wrongs.items():
            expect(
                torch.allclose(wrong, right) or not torch.allclose(result, wrong),
                f"{name}: {hint}",
            )
        expect(
            torch.allclose(result, right),
            f"{name}: the output is not that of the layer, group by group",
        )
        expect(
            theirs.training == training,
            f"{name}: it leaves the layer in another mode",
        )
        _compare_state(name, ours, theirs)
        expect(result.requires_grad, f"{name}: the output is cut off from the gradient")
        weight = torch.randn_like(right)
        (right * weight).sum().backward()
        (result * weight).sum().backward()
        same = all(
            b is not None and torch.allclose(a, b)
            for a, b in [
                (x1.grad, x2.grad),
                (ours.weight.grad, theirs.weight.grad),
                (ours.bias.grad, theirs.bias.grad),
            ]
        )
        expect(same, f"{name}: the output is right and its gradient is not")
    return "equal to the layer group by group: output, gradient, memory"


def _wrong_outputs(x: torch.Tensor, size: int, dims: int, training: bool) -> dict:
    """Outputs of known mistakes, each under its hint."""
    new = lambda: _layer(dims, training)  # noqa: E731
    if not training:
        layer, wrong = new(), {}
        layer.train()
        if len(x) > 1:
            hint = "in eval mode it should use the stored statistics"
            wrong[hint] = _reference(layer, x, size)
        return wrong
    groups = max(1, len(x) // size)
    wrong = {"that is one batch: normalise each group by itself": new()(x)}
    layer = new()
    parts = x.chunk(size)
    if all(len(part) > 1 for part in parts):
        hint = "`size` is the number of examples in a group, not the number of groups"
        wrong[hint] = torch.cat([layer(part) for part in parts])
    if len(x) % groups == 0 and groups > 1:
        layer, mixed = new(), torch.empty_like(x)
        for k in range(groups):
            mixed[k::groups] = layer(x[k::groups])
        wrong["a group is consecutive examples, not every k-th one"] = mixed
    plain = new()
    nn.init.ones_(plain.weight)
    nn.init.zeros_(plain.bias)
    wrong["the layer's γ and β are missing"] = _reference(plain, x, size)
    wrong["it used the stored statistics in train mode"] = new().eval()(x)
    return {hint: output.detach() for hint, output in wrong.items()}


def _compare_state(name: str, ours: nn.Module, theirs: nn.Module) -> None:
    for key in ("running_mean", "running_var"):
        a, b = getattr(ours, key), getattr(theirs, key)
        start = getattr(_layer(2, True), key)
        expect(
            torch.equal(a, start) or not torch.equal(b, start),
            f"{name}: {key} was not updated",
        )
        expect(
            torch.allclose(a, b),
            f"{name}: {key} should be updated once per group, as the layer does it",
        )
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        expect(torch.equal(a, b), f"{name}: it changes the layer's γ or β")


@check
def epsilon_gain(answer: Callable) -> str:
    """Exercise 6.4: what a larger ε does to a batch of 2, by the numbers."""
    means = {
        eps: mean_difference(answer(eps), "use the rates of `rates(-3, 0)`")
        for eps in EPSILONS
    }
    small, large = means.values()
    found = f"{small:.1f} points at ε = 0.1, {large:.1f} at ε = 10"
    expect(small != large, f"{found}: does ε reach the layers?")
    expect(max(abs(small), abs(large)) > 1.2, f"{found}: measure in points, error in %")
    expect(
        min(small, large) < 33,
        f"{found}: these look like errors; return the difference to the nets with "
        "ε = 1e-5, seed by seed",
    )
    expect(
        not (small > 0 > large),
        f"{found}: the other way round; it is the error, not the accuracy, with ε "
        "minus that with 1e-5",
    )
    for eps, (low, high) in EPSILONS.items():
        expect(
            low < means[eps] < high,
            f"{found}; at {eps} we expect {low} to {high} after 128 updates in batches "
            "of 2, each net at the best of the four rates",
        )
    return found
