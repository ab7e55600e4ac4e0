"""Chapter 08: its checks reject what is wrong and accept what is right."""

from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from tests.resnet import resnet18_like
from tests.verdicts import verdict
from utils.checks import chapter_08 as checks


def wide(t, x):
    """(C,) -> (1, C, 1, ...)."""
    return t.view(1, -1, *[1] * (x.dim() - 2))


def norm(
    shape=lambda x, groups: x.reshape(len(x), groups, -1),
    dims=(2,),
    by=lambda var, eps: torch.sqrt(var + eps),
    correction=0,
    affine=lambda g, x_hat, b: g * x_hat + b,
    mean=lambda z, dims: z.mean(dims, keepdim=True),
    var=lambda z, dims, c: z.var(dims, correction=c, keepdim=True),
    spread=wide,
):
    """A group norm with one part replaced."""

    def forward(x, groups, gamma, beta, eps=1e-5):
        z = shape(x, groups)
        x_hat = (z - mean(z, dims)) / by(var(z, dims, correction), eps)
        return affine(spread(gamma, x), x_hat.reshape(x.shape), spread(beta, x))

    return forward


def loops(x, groups, gamma, beta, eps):
    """Example by example, group by group."""
    rows = []
    for one in x:
        parts = []
        for part in one.chunk(groups):
            c = part - part.mean()
            parts.append(c * torch.rsqrt((c * c).mean() + eps))
        rows.append(torch.cat(parts))
    return wide(gamma, x) * torch.stack(rows) + wide(beta, x)


def as_batch_norm(x, groups, gamma, beta, eps):
    """Batch norm of a (1, N * groups, values) view."""
    z = x.reshape(1, len(x) * groups, -1)
    x_hat = F.batch_norm(z, None, None, training=True, eps=eps).view_as(x)
    return torch.addcmul(wide(beta, x), wide(gamma, x), x_hat)


def channel_last(x, groups, gamma, beta, eps):
    z = x.movedim(1, -1)
    z = z.unflatten(-1, (groups, -1))
    dims = (*range(1, z.dim() - 2), z.dim() - 1)
    var, mean = torch.var_mean(z, dims, correction=0, keepdim=True)
    x_hat = ((z - mean) / (var + eps) ** 0.5).flatten(-2)
    return (gamma * x_hat + beta).movedim(-1, 1)


def own_function(x, groups, gamma, beta, eps):
    """Its own backward pass."""

    class Normalize(torch.autograd.Function):
        @staticmethod
        def forward(ctx, z):
            c = z - z.mean(2, keepdim=True)
            s = torch.sqrt((c * c).mean(2, keepdim=True) + eps)
            ctx.save_for_backward(c / s, s)
            return c / s

        @staticmethod
        def backward(ctx, dy):
            z_hat, s = ctx.saved_tensors
            along = z_hat * (dy * z_hat).mean(2, keepdim=True)
            return (dy - dy.mean(2, keepdim=True) - along) / s

    x_hat = Normalize.apply(x.reshape(len(x), groups, -1)).view_as(x)
    return wide(gamma, x) * x_hat + wide(beta, x)


def in_place(x, groups, gamma, beta, eps):
    right = norm()(x.clone(), groups, gamma, beta, eps)
    with torch.no_grad():
        x -= 1
    return right


RIGHT_GROUPS = {
    "one part after the other": norm(),
    "torch's own": F.group_norm,
    "loops": loops,
    "as a batch norm": as_batch_norm,
    "as a layer norm": lambda x, k, g, b, eps: (
        wide(g, x)
        * F.layer_norm(x.reshape(len(x), k, -1), (x[0].numel() // k,), eps=eps).reshape(
            x.shape
        )
        + wide(b, x)
    ),
    "channel last": channel_last,
    "one pass": norm(
        var=lambda z, d, c: (z**2).mean(d, keepdim=True) - z.mean(d, keepdim=True) ** 2
    ),
    "own function": own_function,
}


def interleave(x, groups):
    z = x.reshape(len(x), x.shape[1] // groups, groups, -1)
    return z.transpose(1, 2).reshape(len(x), groups, -1)


def interleaved(x, groups, gamma, beta, eps):
    z = interleave(x, groups)
    c = z - z.mean(2, keepdim=True)
    x_hat = c / torch.sqrt((c**2).mean(2, keepdim=True) + eps)
    x_hat = x_hat.reshape(len(x), groups, x.shape[1] // groups, -1).transpose(1, 2)
    return wide(gamma, x) * x_hat.reshape(x.shape) + wide(beta, x)


def split(x, groups):
    return x.reshape(len(x), groups, x.shape[1] // groups, -1)


WRONG_GROUPS = {
    "the stub": (lambda *a: None, "returned nothing"),
    "an ellipsis": (lambda *a: ..., "returned nothing"),
    "unbiased": (norm(correction=1), "count minus 1"),
    "no eps": (norm(by=lambda v, e: torch.sqrt(v)), "eps is missing"),
    "eps outside": (norm(by=lambda v, e: torch.sqrt(v) + e), "under the root"),
    "by the variance": (norm(by=lambda v, e: v + e), "root of the variance"),
    "no gamma, no beta": (norm(affine=lambda g, h, b: h), "gamma and beta are missing"),
    "no gamma": (norm(affine=lambda g, h, b: h + b), "gamma is missing"),
    "no beta": (norm(affine=lambda g, h, b: g * h), "beta is missing"),
    "swapped": (norm(affine=lambda g, h, b: b * h + g), "swapped"),
    "no mean": (norm(mean=lambda z, d: 0), "the mean is missing"),
    "RMS": (
        norm(
            mean=lambda z, d: 0,
            var=lambda z, d, c: (z**2).mean(d, keepdim=True),
        ),
        "RMS norm",
    ),
    "over the batch": (norm(shape=split, dims=(0, 2, 3)), "over the examples"),
    "instance norm": (norm(shape=split, dims=(3,)), ""),
    "position by position": (norm(shape=split, dims=(2,)), "position by position"),
    "layer norm": (norm(shape=split, dims=(1, 2, 3)), "layer norm"),
    "interleaved": (interleaved, "neighbouring channels"),
    "channels per group": (
        lambda x, k, g, b, eps: F.group_norm(x, x.shape[1] // k, g, b, eps),
        "number of groups",
    ),
    "batch norm": (
        lambda x, k, g, b, eps: F.batch_norm(x, None, None, g, b, True, eps=eps),
        "batch norm",
    ),
    "gamma on the last axis": (norm(spread=lambda t, x: t), ""),
    "statistics detached": (
        norm(
            mean=lambda z, d: z.mean(d, keepdim=True).detach(),
            var=lambda z, d, c: z.var(d, correction=c, keepdim=True).detach(),
        ),
        "gradient of x",
    ),
    "numpy": (lambda x, *a: x.detach().numpy(), "should be a tensor"),
    "float32": (
        lambda x, k, g, b, e: F.group_norm(x.float(), k, g.float(), b.float(), e),
        "precision",
    ),
    "grouped shape": (
        lambda x, k, g, b, e: F.group_norm(x, k, g, b, e).reshape(len(x), k, -1),
        "shape",
    ),
    "no graph": (
        lambda x, k, g, b, e: F.group_norm(x, k, g, b, e).detach(),
        "cut off",
    ),
    "gamma as numbers": (
        lambda x, k, g, b, e: F.group_norm(x, k, g.detach(), b, e),
        "gamma is cut off",
    ),
    "in place": (in_place, ""),
    "images only": (
        lambda x, k, g, b, e: x.view(*x.shape[:2], *x.shape[2:4]).mean((2, 3)),
        "raised",
    ),
    "eps fixed": (norm(by=lambda v, e: torch.sqrt(v + 1e-5)), "is off"),
    "nan": (lambda x, *a: x * float("nan"), "nan"),
    "raises": (lambda x, *a: x / undefined, "NameError"),  # noqa: F821
}


def correction(
    r=lambda s_b, s: s_b / s,
    d=lambda gap, s, s_b: gap / s,
    clip_r=lambda r, top: r.clamp(1 / top, top),
    clip_d=lambda d, top: d.clamp(-top, top),
    root=lambda var, eps: torch.sqrt(var + eps),
    end=lambda r, d: (r.detach(), d.detach()),
):
    """r and d with one part replaced."""

    def answer(mean, var, running_mean, running_var, r_max, d_max, eps):
        s_b, s = root(var, eps), root(running_var, eps)
        return end(
            clip_r(r(s_b, s), r_max), clip_d(d(mean - running_mean, s, s_b), d_max)
        )

    return answer


def in_numpy(mean, var, running_mean, running_var, r_max, d_max, eps):
    m, v, rm, rv = (t.detach().numpy() for t in (mean, var, running_mean, running_var))
    s = np.sqrt(rv + eps)
    r = np.clip(np.sqrt(v + eps) / s, 1 / r_max, r_max)
    return r, np.clip((m - rm) / s, -d_max, d_max)


def without_grad(*given):
    with torch.no_grad():
        return list(correction(end=lambda r, d: (r, d))(*given))


def changes_running(mean, var, running_mean, running_var, *rest):
    right = correction()(mean, var, running_mean, running_var, *rest)
    running_mean += 0.1 * (mean.detach() - running_mean)
    return right


def by_minimum(mean, var, running_mean, running_var, r_max, d_max, eps):
    s = (running_var + eps).sqrt()
    r = ((var + eps) / (running_var + eps)).sqrt().detach()
    d = ((mean - running_mean) / s).detach()
    top, bound = torch.full_like(r, r_max), torch.full_like(d, d_max)
    r = torch.minimum(torch.maximum(r, 1 / top), top)
    return r, torch.sign(d) * torch.minimum(d.abs(), bound)


RIGHT_CORRECTIONS = {
    "in order": correction(),
    "no_grad, a list": without_grad,
    "numpy": in_numpy,
    "minimum and maximum": by_minimum,
    "clip": correction(clip_r=lambda r, t: torch.clip(r, 1 / t, t)),
    "float32": lambda *a: tuple(t.float() for t in by_minimum(*a)),
    "on the log scale": correction(
        clip_r=lambda r, t: r.log().clamp(-np.log(t), np.log(t)).exp()
    ),
}
WRONG_CORRECTIONS = {
    "the stub": (lambda *a: None, "returned nothing"),
    "r only": (lambda *a: correction()(*a)[0], "two things"),
    "swapped": (correction(end=lambda r, d: (d.detach(), r.detach())), "swapped"),
    "upside down": (correction(r=lambda s_b, s: s / s_b), "upside down"),
    "r not clipped": (correction(clip_r=lambda r, t: r), "r is not clipped"),
    "r above only": (correction(clip_r=lambda r, t: r.clamp(max=t)), "no lower bound"),
    "r below only": (correction(clip_r=lambda r, t: r.clamp(min=1 / t)), "lower bound"),
    "r about zero": (correction(clip_r=lambda r, t: r.clamp(-t, t)), "not -r_max"),
    "variances": (
        correction(r=lambda s_b, s: s_b**2 / s**2),
        "not of variances",
    ),
    "no eps": (correction(root=lambda v, e: torch.sqrt(v)), "eps is missing"),
    "eps outside": (correction(root=lambda v, e: torch.sqrt(v) + e), "under the root"),
    "d's sign": (correction(d=lambda gap, s, s_b: -gap / s), "wrong sign"),
    "d by the batch": (correction(d=lambda gap, s, s_b: gap / s_b), "not by the batch"),
    "d by the variance": (
        correction(d=lambda gap, s, s_b: gap / s**2),
        "not by the variance",
    ),
    "d bare": (correction(d=lambda gap, s, s_b: gap), "is not divided"),
    "d not clipped": (correction(clip_d=lambda d, t: d), "d is not clipped"),
    "d above only": (correction(clip_d=lambda d, t: d.clamp(max=t)), "upper bound"),
    "d positive": (correction(clip_d=lambda d, t: d.clamp(0, t)), "not 0 and d_max"),
    "d's size": (correction(clip_d=lambda d, t: d.abs().clamp(max=t)), "is off"),
    "r by r_max": (
        correction(clip_r=lambda r, t: r.clamp(1 - t, 1 + t)),
        "",
    ),
    "gradient": (correction(end=lambda r, d: (r, d)), "a gradient flows"),
    "gradient of d": (correction(end=lambda r, d: (r.detach(), d)), "a gradient flows"),
    "one number": (
        correction(end=lambda r, d: (r.detach().mean(), d.detach())),
        "per channel",
    ),
    "running mean updated": (changes_running, "in place"),
    "nan": (correction(end=lambda r, d: (r.detach() * torch.nan, d.detach())), "nan"),
    "raises": (lambda *a: undefined, "NameError"),  # noqa: F821
}

CASES = [
    (checks.group_norm, RIGHT_GROUPS, WRONG_GROUPS),
    (checks.renorm_r_d, RIGHT_CORRECTIONS, WRONG_CORRECTIONS),
]


@pytest.mark.parametrize(
    ("check", "answer"),
    [
        pytest.param(check, answer, id=f"{check.__name__}: {name}")
        for check, right, _ in CASES
        for name, answer in right.items()
    ],
)
def test_accepts(check, answer):
    passed, said = verdict(check, answer)
    assert passed, said


@pytest.mark.parametrize(
    ("check", "answer", "hint"),
    [
        pytest.param(check, answer, hint, id=f"{check.__name__}: {name}")
        for check, _, wrong in CASES
        for name, (answer, hint) in wrong.items()
    ],
)
def test_rejects(check, answer, hint):
    passed, said = verdict(check, answer)
    assert passed is False
    assert said.startswith("Not yet: ")
    assert hint in said


NOISE = np.random.default_rng(0).normal(0, 0.8, 12)


def cost(eight=0.5, two=75.0, noise=NOISE):
    return lambda values: noise + (two if values == 2 else eight)


RIGHT_COSTS = {
    "as measured": cost(),
    "other seeds": cost(-0.4, 68.0),
    "a list": lambda values: list(cost()(values)),
    "24 seeds": lambda values: np.tile(cost()(values), 2),
    "a tensor": lambda values: torch.tensor(cost()(values)),
}
WRONG_COSTS = {
    "the stub": (lambda values: None, "returned nothing"),
    "an ellipsis": (lambda values: ..., "returned nothing"),
    "one number": (lambda values: 75.0, "for each of 12 seeds"),
    "all rates": (lambda values: np.ones((4, 12)), "for each of 12 seeds"),
    "diverged": (lambda values: np.full(12, np.nan), "lower rates"),
    "not trained": (lambda values: np.zeros(12), "are they trained"),
    "as shares": (cost(0.005, 0.75, NOISE / 100), "measure in points"),
    "the number of groups": (cost(3.0, -0.1), "32 // values groups"),
    "groups of as many": (cost(0.5, 0.1), "number of groups"),
    "the other way round": (cost(-0.5, -75.0), "in this order"),
    "accuracies": (cost(94.0, 20.0), "look like accuracies"),
    "errors": (cost(5.6, 80.0), "look like errors"),
    "values not used": (lambda values: cost()(8), "reach the norm"),
    "after 16 updates": (cost(6.0, 40.0), "do much worse"),
    "raises": (lambda values: undefined, "NameError"),  # noqa: F821
}


@pytest.mark.parametrize("name", RIGHT_COSTS)
def test_group_cost_accepts(name):
    passed, said = verdict(checks.group_cost, RIGHT_COSTS[name])
    assert passed, said


@pytest.mark.parametrize("name", WRONG_COSTS)
def test_group_cost_rejects(name):
    wrong, hint = WRONG_COSTS[name]
    passed, said = verdict(checks.group_cost, wrong)
    assert passed is False
    assert hint in said, said


CHAPTER = Path(__file__).parents[1] / "chapters" / "08_other_norms.ipynb"


@pytest.fixture
def batch_renorm():
    """The chapter's layer, as it stands there to be copied."""
    cells = {cell.id: cell for cell in nbformat.read(CHAPTER, as_version=4).cells}
    names = dict(torch=torch, _BatchNorm=_BatchNorm)
    for cell_id in ("renorm-correction", "renorm-code"):
        exec(cells[cell_id].source, names)
    torch.manual_seed(0)
    return names["BatchRenorm"]


def with_renorm(model, layer, **options):
    """The model with batch renorm for BN, its weights kept."""
    state = model.state_dict()
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, _BatchNorm):
                setattr(module, name, layer(child.num_features, **options))
    model.load_state_dict(state)
    return model


def test_batch_renorm_takes_the_place_of_bn_in_a_resnet(batch_renorm):
    x = torch.randn(4, 3, 64, 64)
    model = resnet18_like().eval()
    expected = model(x)
    free = dict(r_max=1e6, d_max=1e6, warm_up=0)
    with_renorm(model, batch_renorm, **free).eval()
    torch.testing.assert_close(model(x), expected, atol=1e-4, rtol=1e-4)
    model.train()  # the first pass moves the running statistics afterwards
    torch.testing.assert_close(model(x), expected, atol=1e-3, rtol=1e-3)
    with_renorm(model, batch_renorm).train()
    F.cross_entropy(model(x), torch.arange(4)).backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("shape", [(8, 4), (8, 4, 5), (8, 4, 3, 3)])
def test_batch_renorm_without_bounds_to_loosen_is_bn(batch_renorm, shape):
    kind = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}[len(shape)]
    bn, layer = kind(4), batch_renorm(4, r_max=1.0, d_max=0.0)
    for _ in range(3):
        x = torch.randn(shape) * 2 + 1
        torch.testing.assert_close(layer(x), bn(x))
    torch.testing.assert_close(layer.state_dict(), bn.state_dict())
    torch.testing.assert_close(layer.eval()(x), bn.eval()(x))
