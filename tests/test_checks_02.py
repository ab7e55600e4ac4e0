"""Chapter 02: its checks reject what is wrong and accept what is right."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.verdicts import verdict
from utils.checks import chapter_02 as checks


def axes(x):
    return [d for d in range(x.dim()) if d != 1]


def wide(t, x):
    """(C,) -> (1, C, 1, ...)."""
    return t.view(1, -1, *[1] * (x.dim() - 2))


def make(
    dims=axes,
    correction=0,
    detach_mean=False,
    detach_var=False,
    denominator=lambda var, eps: torch.sqrt(var + eps),
    affine=lambda g, x_hat, b: g * x_hat + b,
    mean_of=None,
    spread=wide,
):
    """A forward pass with one part replaced."""

    def forward(x, gamma, beta, eps=1e-5):
        over = dims(x)
        mean = x.mean(dim=over, keepdim=True)
        if mean_of:
            mean = mean_of(x, over)
        mean = mean.detach() if detach_mean else mean
        count = 1
        for d in over:
            count *= x.shape[d]
        var = ((x - mean) ** 2).sum(dim=over, keepdim=True) / (count - correction)
        var = var.detach() if detach_var else var
        x_hat = (x - mean) / denominator(var, eps)
        return affine(spread(gamma, x), x_hat, spread(beta, x))

    return forward


def flattened(x, gamma, beta, eps=1e-5):
    """Channels first, everything else flat."""
    flat = x.transpose(0, 1).reshape(x.shape[1], -1)  # (C, values)
    var, mean = torch.var_mean(flat, dim=1, correction=0, keepdim=True)
    y = gamma[:, None] * (flat - mean) * torch.rsqrt(var + eps) + beta[:, None]
    rest = x.transpose(0, 1).shape
    return y.reshape(rest).transpose(0, 1)


def channel_last(x, gamma, beta, eps=1e-5):
    """Moves the channel to the end, where gamma broadcasts."""
    z = x.movedim(1, -1)
    over = tuple(range(z.dim() - 1))
    mean, var = z.mean(over), z.var(over, unbiased=False)
    return (gamma * (z - mean) / (var + eps) ** 0.5 + beta).movedim(-1, 1)


def folded(x, gamma, beta, eps=1e-5):
    """As one multiplication and one addition."""
    mean = x.mean(axes(x), keepdim=True)
    var = x.var(axes(x), correction=0, keepdim=True)
    scale = wide(gamma, x) / torch.sqrt(var + eps)
    return scale * x + (wide(beta, x) - scale * mean)


def one_pass(x, gamma, beta, eps=1e-5):
    """E[x²] - E[x]²: right on paper, and good enough in float64."""
    mean = x.mean(axes(x), keepdim=True)
    var = (x**2).mean(axes(x), keepdim=True) - mean**2
    return wide(gamma, x) * (x - mean) / torch.sqrt(var + eps) + wide(beta, x)


def loops(x, gamma, beta, eps=1e-5):
    """Channel by channel."""
    channels = []
    for c in range(x.shape[1]):
        v = x[:, c]
        centred = v - v.sum() / v.numel()
        s = torch.sqrt((centred * centred).sum() / v.numel() + eps)
        channels.append(gamma[c] * centred / s + beta[c])
    return torch.stack(channels, dim=1)


def torchs_own(x, gamma, beta, eps=1e-5):
    return F.batch_norm(x, None, None, gamma, beta, training=True, eps=eps)


def own_function(x, gamma, beta, eps=1e-5):
    """An autograd.Function with a backward pass by hand."""

    class Norm(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, gamma, beta):
            c = x - x.mean(axes(x), keepdim=True)
            s = torch.sqrt((c**2).mean(axes(x), keepdim=True) + eps)
            ctx.save_for_backward(c / s, s, gamma)
            return wide(gamma, x) * c / s + wide(beta, x)

        @staticmethod
        def backward(ctx, dy):
            x_hat, s, gamma = ctx.saved_tensors
            over, g = axes(dy), dy * wide(gamma, dy)
            mean = g.mean(over, keepdim=True)
            along = x_hat * (g * x_hat).mean(over, keepdim=True)
            return (g - mean - along) / s, (dy * x_hat).sum(over), dy.sum(over)

    return Norm.apply(x, gamma, beta)


RIGHT_ND = {
    "by the definition": make(),
    "flattened": flattened,
    "channel last": channel_last,
    "folded": folded,
    "one pass": one_pass,
    "loops": loops,
    "torch's own": torchs_own,
    "own function": own_function,
}


def in_place(x, gamma, beta, eps):
    with torch.no_grad():
        x -= x.mean(0)
    return torchs_own(x, gamma, beta, eps)


def no_graph(x, gamma, beta, eps):
    with torch.no_grad():
        return make()(x, gamma, beta, eps)


SWAPPED = make(affine=lambda g, x_hat, b: b * x_hat + g)
WRONG_BOTH = {
    "the stub": (lambda x, g, b, eps: None, "returned nothing"),
    "an ellipsis": (lambda x, g, b, eps: ..., "returned nothing"),
    "unbiased": (make(correction=1), "N - 1"),
    "no eps": (make(denominator=lambda v, e: torch.sqrt(v)), "eps is missing"),
    "eps outside": (
        make(denominator=lambda v, e: torch.sqrt(v) + e),
        "under the root",
    ),
    "eps fixed": (make(denominator=lambda v, e: torch.sqrt(v + 1e-5)), "is off"),
    "eps squared": (make(denominator=lambda v, e: torch.sqrt(v + e**2)), "is off"),
    "eps subtracted": (
        make(denominator=lambda v, e: torch.sqrt((v - e).abs())),
        "is off",
    ),
    "by the variance": (make(denominator=lambda v, e: v + e), "root of the variance"),
    "not divided": (make(denominator=lambda v, e: 1.0), "is off"),
    "no gamma, no beta": (
        make(affine=lambda g, x_hat, b: x_hat),
        "gamma and beta are missing",
    ),
    "no gamma": (make(affine=lambda g, x_hat, b: x_hat + b), "gamma is missing"),
    "no beta": (make(affine=lambda g, x_hat, b: g * x_hat), "beta is missing"),
    "swapped": (SWAPPED, "swapped"),
    "shift first": (make(affine=lambda g, x_hat, b: g * (x_hat + b)), "scale first"),
    "gamma's size": (make(affine=lambda g, x_hat, b: g.abs() * x_hat + b), "is off"),
    "over channels": (make(dims=lambda x: [1]), "over the channels"),
    "over everything": (
        make(dims=lambda x: list(range(x.dim()))),
        "everything at once",
    ),
    "sum for the mean": (
        make(mean_of=lambda x, d: x.sum(d, keepdim=True)),
        "is off",
    ),
    "no mean": (
        lambda x, g, b, eps: (
            wide(g, x)
            * x
            / torch.sqrt(x.var(axes(x), correction=0, keepdim=True) + eps)
            + wide(b, x)
        ),
        "the mean is missing",
    ),
    "variance about zero": (
        lambda x, g, b, eps: (
            wide(g, x)
            * (x - x.mean(axes(x), keepdim=True))
            / torch.sqrt((x**2).mean(axes(x), keepdim=True) + eps)
            + wide(b, x)
        ),
        "not of x itself",
    ),
    "median": (
        lambda x, g, b, eps: make(
            mean_of=lambda x, d: wide(x.transpose(0, 1).flatten(1).median(1).values, x)
        )(x, g, b, eps),
        "is off",
    ),
    "statistics detached": (
        make(detach_mean=True, detach_var=True),
        "skips the mean and the variance",
    ),
    "variance detached": (make(detach_var=True), "skips the variance"),
    "mean detached": (make(detach_mean=True), "skips the mean"),
    "no graph": (no_graph, "cut off"),
    "gamma detached": (
        lambda x, g, b, eps: make()(x, g.detach(), b, eps),
        "gamma is cut off",
    ),
    "beta as numbers": (
        lambda x, g, b, eps: make()(x, g, torch.tensor(b.tolist(), dtype=b.dtype), eps),
        "beta is cut off",
    ),
    "float32": (
        lambda x, g, b, eps: make()(x.float(), g.float(), b.float(), eps),
        "precision",
    ),
    "through float32": (
        lambda x, g, b, eps: make()(x.float(), g.float(), b.float(), eps).double(),
        "is off",
    ),
    "numpy": (lambda x, g, b, eps: x.detach().numpy(), "should be a tensor"),
    "flat": (lambda x, g, b, eps: torchs_own(x, g, b, eps).flatten(), "shape"),
    "nan": (lambda x, g, b, eps: x * float("nan"), "nan"),
    "raises": (lambda x, g, b, eps: x / undefined, "NameError"),  # noqa: F821
    "evaluation": (
        lambda x, g, b, eps: F.batch_norm(
            x,
            torch.zeros(x.shape[1]).double(),
            torch.ones(x.shape[1]).double(),
            g,
            b,
            eps=eps,
        ),
        "is off",
    ),
}
WRONG_ND = WRONG_BOTH | {
    "in place": (in_place, ""),
    "batch only": (make(dims=lambda x: [0]), "position by position"),
    "instance norm": (
        lambda x, g, b, eps: (
            F.instance_norm(x, weight=g, bias=b, eps=eps)
            if x.dim() > 2
            else torchs_own(x, g, b, eps)
        ),
        "instance norm",
    ),
    "layer norm": (make(dims=lambda x: list(range(1, x.dim()))), ""),
    "layer norm for images": (
        lambda x, g, b, eps: make(
            dims=lambda x: [1, 2, 3] if x.dim() == 4 else axes(x)
        )(x, g, b, eps),
        "layer norm",
    ),
    "channel last": (
        lambda x, g, b, eps: make(
            dims=lambda x: list(range(x.dim() - 1)) if x.dim() > 2 else [0]
        )(x, g, b, eps),
        "not the last axis",
    ),
    "without broadcasting": (make(spread=lambda t, x: t), "the shape (1, C, 1, ...)"),
    "average of variances": (
        lambda x, g, b, eps: (
            wide(g, x)
            * (x - x.mean(axes(x), keepdim=True))
            / torch.sqrt(
                x.flatten(2)
                .var(2, correction=0, keepdim=True)
                .mean(0)
                .view(wide(g, x).shape)
                + eps
            )
            + wide(b, x)
            if x.dim() > 2
            else torchs_own(x, g, b, eps)
        ),
        "own variance",
    ),
    "only two axes": (
        lambda x, g, b, eps: (
            g * (x - x.mean(0)) / (x.var(0, correction=0) + eps) ** 0.5 + b
        ),
        "position by position",
    ),
    "unbiased by N alone": (
        lambda x, g, b, eps: make(
            denominator=lambda v, e: torch.sqrt(v * len(x) / max(len(x) - 1, 1) + e)
        )(x, g, b, eps),
        "",
    ),
    "no sequences": (
        lambda x, g, b, eps: nn.BatchNorm2d(x.shape[1], eps=eps).double()(x),
        "raised ValueError",
    ),
}


def nodes(**changed):
    """A right backward pass, with nodes replaced by functions of the others."""

    def passes(dy, x, gamma, eps=1e-5):
        n, c = len(x), x - x.mean(0)
        s = torch.sqrt((c**2).mean(0) + eps)
        v = {"dy": dy, "x": x, "gamma": gamma, "n": n, "c": c, "s": s, "x_hat": c / s}
        right = {
            "dbeta": lambda v: dy.sum(0),
            "dgamma": lambda v: (dy * v["x_hat"]).sum(0),
            "dx_hat": lambda v: dy * gamma,
            "dvar": lambda v: -0.5 * (v["dx_hat"] * c).sum(0) / s**3,
            "dc": lambda v: v["dx_hat"] / s + v["dvar"] * 2 * c / n,
            "dmean": lambda v: -v["dc"].sum(0),
            "dx": lambda v: v["dc"] + v["dmean"] / n,
        }
        for name, function in (right | changed).items():
            v[name] = function(v)
        return {name: v[name] for name in right if v[name] is not None}

    return passes


def simplified(dy, x, gamma, eps=1e-5):
    """The boxed formula, the rest of it through other ways."""
    n, c = len(x), x - x.mean(0)
    s = (x.var(0, correction=0) + eps).sqrt()
    x_hat, g = c / s, dy * gamma
    slope = (g * x_hat).mean(0)
    dc = (g - x_hat * slope) / s
    return {
        "dx": dc - dc.mean(0),
        "dmean": -g.sum(0) / s,  # the variance's path adds nothing
        "dc": dc,
        "dvar": -n * slope / (2 * s**2),
        "dx_hat": g,
        "dgamma": torch.einsum("nc,nc->c", dy, x_hat),
        "dbeta": torch.ones(n).double() @ dy,
        "ds": -(g * c).sum(0) / s**2,
    }


def only(*names):
    return lambda *a: {k: t for k, t in nodes()(*a).items() if k in names}


def changes_dy(dy, x, gamma, eps):
    right = nodes()(dy, x, gamma, eps)
    dy *= gamma
    return right


RIGHT_NODES = {"by node": nodes(), "simplified": simplified}
WRONG_NODES = {
    "the stub": (lambda *a: None, "returned nothing"),
    "a tuple": (lambda *a: tuple(nodes()(*a).values()), "a dict"),
    "nothing yet": (lambda *a: {}, "Next: dbeta"),
    "two nodes": (only("dbeta", "dgamma"), "right so far: dbeta, dgamma. Next: dx_hat"),
    "all but the last": (nodes(dx=lambda v: None), "Next: dx"),
    "dbeta a mean": (nodes(dbeta=lambda v: v["dy"].mean(0)), "once too often"),
    "dbeta not summed": (nodes(dbeta=lambda v: v["dy"]), "shape"),
    "dbeta by gamma": (nodes(dbeta=lambda v: (v["dy"] * v["gamma"]).sum(0)), "gamma"),
    "dgamma with c": (
        nodes(dgamma=lambda v: (v["dy"] * v["c"]).sum(0)),
        "needs x_hat",
    ),
    "dx_hat": (nodes(dx_hat=lambda v: v["dy"]), "gamma is missing"),
    "dvar's sign": (
        nodes(dvar=lambda v: 0.5 * (v["dx_hat"] * v["c"]).sum(0) / v["s"] ** 3),
        "right so far: dbeta, dgamma, dx_hat. dvar has the wrong sign",
    ),
    "dvar without 1/2": (
        nodes(dvar=lambda v: -(v["dx_hat"] * v["c"]).sum(0) / v["s"] ** 3),
        "factor of 1/2",
    ),
    "ds for dvar": (
        nodes(dvar=lambda v: -(v["dx_hat"] * v["c"]).sum(0) / v["s"] ** 2),
        "gradient of s",
    ),
    "dvar by dy": (
        nodes(dvar=lambda v: -0.5 * (v["dy"] * v["c"]).sum(0) / v["s"] ** 3),
        "is off",
    ),
    "dvar with x_hat": (
        nodes(dvar=lambda v: -0.5 * (v["dx_hat"] * v["x_hat"]).sum(0) / v["s"] ** 3),
        "one power of s too many",
    ),
    "dc direct": (nodes(dc=lambda v: v["dx_hat"] / v["s"]), "path through x_hat"),
    "dc by the variance": (
        nodes(dc=lambda v: v["dvar"] * 2 * v["c"] / v["n"]),
        "through the variance",
    ),
    "dc without 1/N": (
        nodes(dc=lambda v: v["dx_hat"] / v["s"] + v["dvar"] * 2 * v["c"]),
        "factor of 1/N",
    ),
    "dc without 2": (
        nodes(dc=lambda v: v["dx_hat"] / v["s"] + v["dvar"] * v["c"] / v["n"]),
        "factor of 2",
    ),
    "dmean's sign": (nodes(dmean=lambda v: v["dc"].sum(0)), "dmean has the wrong"),
    "dmean a mean": (nodes(dmean=lambda v: -v["dc"].mean(0)), "once too often"),
    "dx direct": (nodes(dx=lambda v: v["dc"]), "only the path through c"),
    "dx without 1/N": (nodes(dx=lambda v: v["dc"] + v["dmean"]), "factor of 1/N"),
    "dx's sign": (nodes(dx=lambda v: v["dc"] - v["dmean"] / v["n"]), "add up"),
    "eps ignored": (lambda dy, x, g, eps: nodes()(dy, x, g), "is off"),
    "in place": (changes_dy, "in place"),
    "float32": (
        lambda *a: {k: t.float() for k, t in nodes()(*a).items()},
        "precision",
    ),
    "numpy": (
        lambda *a: {k: t.numpy() for k, t in nodes()(*a).items()},
        "should be a tensor",
    ),
    "nan": (nodes(dx=lambda v: v["dc"] * float("nan")), "nan"),
    "raises": (lambda *a: undefined, "NameError"),  # noqa: F821
}


def last(t):
    return t.mean(-1, keepdim=True)


def normed(
    first=lambda g, centred: last(g) if centred else 0,
    along=lambda g, xh: xh * last(g * xh),
    start=lambda dy, gamma: dy * gamma,
    end=lambda d, s, gamma: d / s,
    dgamma=lambda dy, xh: (dy * xh).flatten(0, -2).sum(0),
):
    """Backward of layer norm and RMS norm with one part replaced."""

    def passes(dy, x_hat, s, gamma, centred):
        g = start(dy, gamma)
        d = g - first(g, centred) - along(g, x_hat)
        return end(d, s, gamma), dgamma(dy, x_hat)

    return passes


def by_matrices(dy, x_hat, s, gamma, centred):
    """Each example's own Jacobian."""
    k = x_hat.shape[-1]
    j = torch.eye(k).double() - x_hat[..., None] * x_hat[..., None, :] / k
    j = j - 1 / k if centred else j
    dx = (j @ (dy * gamma)[..., None])[..., 0] / s
    return [dx, torch.einsum("nk,nk->k", dy.reshape(-1, k), x_hat.reshape(-1, k))]


def norm_by_autograd(dy, x_hat, s, gamma, centred):
    x = (x_hat * s).requires_grad_()
    g = gamma.clone().requires_grad_()
    with torch.enable_grad():
        c = x - last(x) if centred else x
        eps = (s**2 - last(c**2)).detach()
        return torch.autograd.grad(g * c / torch.sqrt(last(c**2) + eps), (x, g), dy)


def norm_in_place(dy, x_hat, s, gamma, centred):
    right = normed()(dy, x_hat, s, gamma, centred)
    x_hat /= s
    return right


RIGHT_NORM = {
    "two terms": normed(),
    "matrices": by_matrices,
    "autograd": norm_by_autograd,
}
WRONG_NORM = {
    "the stub": (lambda *a: None, "returned nothing"),
    "dx only": (lambda *a: normed()(*a)[0], "two tensors"),
    "three": (lambda *a: (*normed()(*a), 0), "two tensors"),
    "direct path": (
        normed(first=lambda g, c: 0, along=lambda g, x: 0),
        "only the direct path",
    ),
    "no slope": (normed(along=lambda g, x: 0), "along x_hat is missing"),
    "never a mean": (normed(first=lambda g, c: 0), "layer norm subtracts a mean"),
    "always a mean": (normed(first=lambda g, c: last(g)), "RMS norm subtracts no"),
    "no gamma": (normed(start=lambda dy, g: dy), "gamma is missing"),
    "gamma outside": (
        normed(start=lambda dy, g: dy, end=lambda d, s, g: g * d / s),
        "stands inside the means",
    ),
    "over the examples": (
        normed(
            first=lambda g, c: g.mean(0, keepdim=True) if c else 0,
            along=lambda g, xh: xh * (g * xh).mean(0, keepdim=True),
        ),
        "not over the examples",
    ),
    "sums": (
        normed(
            first=lambda g, c: g.sum(-1, keepdim=True) if c else 0,
            along=lambda g, xh: xh * (g * xh).sum(-1, keepdim=True),
        ),
        "not sums",
    ),
    "not divided": (normed(end=lambda d, s, g: d), "divide by s"),
    "divided twice": (normed(end=lambda d, s, g: d / s**2), "divide by s once"),
    "multiplied": (normed(end=lambda d, s, g: d * s), "do not multiply"),
    "dgamma not summed": (normed(dgamma=lambda dy, xh: dy * xh), "shape of gamma"),
    "dgamma over axis 0": (
        normed(dgamma=lambda dy, xh: (dy * xh).sum(0)),
        "every axis but the last",
    ),
    "dgamma a mean": (
        normed(dgamma=lambda dy, xh: (dy * xh).flatten(0, -2).mean(0)),
        "not a mean",
    ),
    "dbeta": (normed(dgamma=lambda dy, xh: dy.flatten(0, -2).sum(0)), "dbeta"),
    "in place": (norm_in_place, "in place"),
    "float32": (lambda *a: tuple(t.float() for t in normed()(*a)), "precision"),
    "numpy": (lambda *a: tuple(t.numpy() for t in normed()(*a)), "be a tensor"),
    "nan": (normed(end=lambda d, s, g: d * float("nan")), "nan"),
    "raises": (lambda *a: undefined, "NameError"),  # noqa: F821
}


def shares(plain, centred, seeds=12):
    around = np.linspace(0.9, 1.1, seeds)
    return lambda c: (centred if c else plain) * around


RIGHT_SHARES = {
    "as measured": shares(29.6, 1e-12),
    "the training part's means": shares(29.6, 0.15),
    "other seeds": shares(23.0, 0.0),
    "a list": lambda c: shares(33.0, 0.1)(c).tolist(),
    "a tensor": lambda c: torch.tensor(shares(33.0, 0.1)(c)),
}
WRONG_SHARES = {
    "the stub": (lambda c: None, "returned nothing"),
    "one number": (lambda c: 29.6, "one share per seed"),
    "all shares": (lambda c: np.full((12, 2, 3), 29.6), "one share per seed"),
    "not in %": (shares(0.296, 0.0015), "in %"),
    "at the layer": (shares(1.0, 1.0), "at the layer"),
    "the slope": (shares(3.9, 5.5), "the slope"),
    "not centred": (shares(29.6, 29.6), "changed little"),
    "one mean for all pixels": (shares(29.6, 28.0), "changed little"),
    "the line": (shares(33.7, 5.7), "the line's share"),
    "nan": (shares(29.6, float("nan")), "nan"),
    "raises": (lambda c: undefined, "NameError"),  # noqa: F821
}

CASES = [
    (checks.batch_norm_nd, RIGHT_ND, WRONG_ND),
    (checks.backward_nodes, RIGHT_NODES, WRONG_NODES),
    (checks.norm_backward, RIGHT_NORM, WRONG_NORM),
    (checks.mean_share, RIGHT_SHARES, WRONG_SHARES),
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
    assert said.startswith("Passed: ")


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


def in_four_lines(x, g, b, eps):
    return g * (x - x.mean(0)) / (x.var(0, correction=0) + eps).sqrt() + b


def test_a_forward_for_two_axes_is_no_answer_for_more():
    passed, said = verdict(checks.batch_norm_nd, in_four_lines)
    assert not passed
    assert "position by position" in said


@pytest.mark.parametrize("seed", range(3))
def test_the_verdict_does_not_depend_on_the_random_state(seed):
    torch.manual_seed(seed)
    before = torch.get_rng_state()
    assert verdict(checks.batch_norm_nd, RIGHT_ND["folded"])[0]
    assert torch.equal(torch.get_rng_state(), before)
