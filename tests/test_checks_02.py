"""Chapter 02: its checks reject what is wrong and accept what is right."""

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
RIGHT_FORWARD = RIGHT_ND | {
    "in four lines": lambda x, g, b, eps: (
        g * (x - x.mean(0)) / (x.var(0, correction=0) + eps).sqrt() + b
    ),
    "std squared": lambda x, g, b, eps: (
        g * (x - x.mean(0)) / (x.std(0, unbiased=False) ** 2 + eps) ** 0.5 + b
    ),
    "matrix products": lambda x, g, b, eps: (
        (x - torch.ones(len(x), len(x)).double() @ x / len(x))
        @ torch.diag(g / torch.sqrt(x.var(0, correction=0) + eps))
        + b
    ),
    "layer norm of the transpose": lambda x, g, b, eps: (
        g * F.layer_norm(x.T, (len(x),), eps=eps).T + b
    ),
}


def in_place(x, gamma, beta, eps):
    with torch.no_grad():
        x -= x.mean(0)
    return torchs_own(x, gamma, beta, eps)


def no_graph(x, gamma, beta, eps):
    with torch.no_grad():
        return make()(x, gamma, beta, eps)


def statistics_in_numpy(x, gamma, beta, eps):
    mean = torch.as_tensor(x.detach().numpy().mean(0))
    var = torch.as_tensor(x.detach().numpy().var(0))
    return gamma * (x - mean) / torch.sqrt(var + eps) + beta


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
WRONG_FORWARD = WRONG_BOTH | {
    "sum of squares": (
        lambda x, g, b, eps: (
            g * (x - x.mean(0)) / torch.sqrt(((x - x.mean(0)) ** 2).sum(0) + eps) + b
        ),
        "not a sum",
    ),
    "statistics in numpy": (statistics_in_numpy, "skips the mean and the variance"),
    "in place": (in_place, ""),
}
WRONG_ND = WRONG_BOTH | {
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


def mean(t):
    return t.mean(dim=0)


def backward(
    dx_hat=lambda dy, g: dy * g,
    first=mean,
    along=lambda dxh, xh: xh * mean(dxh * xh),
    over=lambda d, s: d / s,
    dgamma=lambda dy, xh: (dy * xh).sum(0),
    dbeta=lambda dy: dy.sum(0),
):
    """A backward pass with one part replaced."""

    def passes(dy, x_hat, s, gamma):
        dxh = dx_hat(dy, gamma)
        dx = over(dxh - first(dxh) - along(dxh, x_hat), s)
        return dx, dgamma(dy, x_hat), dbeta(dy)

    return passes


def by_node(dy, x_hat, s, gamma):
    n, c, dxh = len(dy), x_hat * s, dy * gamma
    dvar = -0.5 * (dxh * c).sum(0) / s**3
    dc = dxh / s + 2 * c * dvar / n
    return [dc - dc.sum(0) / n, (dy * x_hat).sum(0), dy.sum(0)]


def from_sums(dy, x_hat, s, gamma):
    """The form of the paper and of cuDNN."""
    n, dgamma, dbeta = len(dy), (dy * x_hat).sum(0), dy.sum(0)
    return gamma / (n * s) * (n * dy - dbeta - x_hat * dgamma), dgamma, dbeta


def as_matrices(dy, x_hat, s, gamma):
    n = len(dy)
    dx = torch.empty_like(dy)
    for k in range(dy.shape[1]):
        v = x_hat[:, k]
        j = torch.eye(n).double() - 1 / n - torch.outer(v, v) / n
        dx[:, k] = gamma[k] / s[k] * (j @ dy[:, k])
    return dx, torch.einsum("nc,nc->c", dy, x_hat), torch.ones(n).double() @ dy


def by_autograd(dy, x_hat, s, gamma):
    """Rebuild an x with the same x_hat and s."""
    x = (x_hat * s).requires_grad_()
    g = gamma.clone().requires_grad_()
    b = torch.zeros_like(g).requires_grad_()
    with torch.enable_grad():
        c = x - x.mean(0)
        eps = (s**2 - (c**2).mean(0)).detach()
        y = g * c / torch.sqrt((c**2).mean(0) + eps) + b
        return torch.autograd.grad(y, (x, g, b), dy)


def regression(dy, x_hat, s, gamma):
    """Subtracts the fitted line: wrong when eps matters."""
    g = dy * gamma
    slope = mean(g * x_hat) / mean(x_hat**2)
    return (g - mean(g) - x_hat * slope) / s, (dy * x_hat).sum(0), dy.sum(0)


def changes_dy(dy, x_hat, s, gamma):
    right = from_sums(dy, x_hat, s, gamma)
    dy *= gamma
    return right


RIGHT_BACKWARD = [
    backward(),
    by_node,
    from_sums,
    as_matrices,
    by_autograd,
    backward(over=lambda d, s: (d - mean(d)) * s.reciprocal()),
]
WRONG_BACKWARD = {
    "the stub": (lambda *a: None, "returned nothing"),
    "dx only": (lambda *a: backward()(*a)[0], "three tensors"),
    "two": (lambda *a: backward()(*a)[:2], "three tensors"),
    "direct path": (
        backward(first=lambda d: 0, along=lambda d, x: 0),
        "only the direct path",
    ),
    "no mean term": (backward(first=lambda d: 0), "term of the mean is missing"),
    "no slope term": (backward(along=lambda d, x: 0), "along x_hat is missing"),
    "sums": (
        backward(first=lambda d: d.sum(0), along=lambda d, x: x * (d * x).sum(0)),
        "both terms are means",
    ),
    "first a sum": (backward(first=lambda d: d.sum(0)), "term of the mean is a mean"),
    "slope a sum": (
        backward(along=lambda d, x: x * (d * x).sum(0)),
        "along x_hat is a mean",
    ),
    "no gamma": (backward(dx_hat=lambda dy, g: dy), "gamma is missing"),
    "by gamma": (backward(dx_hat=lambda dy, g: dy / g), "is off"),
    "no s": (backward(over=lambda d, s: d), "divide by s"),
    "times s": (backward(over=lambda d, s: d * s), "do not multiply"),
    "s twice": (backward(over=lambda d, s: d / s**2), "once"),
    "root of s": (backward(over=lambda d, s: d / s**0.5), "is off"),
    "mean added": (backward(first=lambda d: -mean(d)), "subtract the term of the mean"),
    "slope added": (
        backward(along=lambda d, x: -x * mean(d * x)),
        "subtract the term along",
    ),
    "both added": (
        backward(first=lambda d: -mean(d), along=lambda d, x: -x * mean(d * x)),
        "subtract both",
    ),
    "slope without x_hat": (
        backward(along=lambda d, x: mean(d * x)),
        "x_hat times the mean",
    ),
    "means over channels": (
        backward(
            first=lambda d: d.mean(1, keepdim=True),
            along=lambda d, x: x * (d * x).mean(1, keepdim=True),
        ),
        "average over the batch",
    ),
    "N - 1": (
        backward(along=lambda d, x: x * (d * x).sum(0) / (len(d) - 1)),
        "is off",
    ),
    "regression": (regression, "do not divide by it"),
    "dgamma a mean": (backward(dgamma=lambda dy, x: mean(dy * x)), "dgamma is a sum"),
    "dgamma without x_hat": (backward(dgamma=lambda dy, x: dy.sum(0)), "swapped"),
    "dgamma not summed": (backward(dgamma=lambda dy, x: dy * x), "dgamma should have"),
    "dbeta a mean": (backward(dbeta=mean), "dbeta is a sum"),
    "dbeta not summed": (backward(dbeta=lambda dy: dy), "dbeta should have shape"),
    "dbeta a number": (backward(dbeta=lambda dy: dy.sum()), "dbeta should have shape"),
    "dbeta zero": (backward(dbeta=lambda dy: 0 * dy.sum(0)), "dbeta is off"),
    "dbeta over channels": (backward(dbeta=lambda dy: dy.sum(1)), "dbeta"),
    "dgamma with gamma": (
        lambda dy, x, s, g: (
            backward()(dy, x, s, g)[0],
            (dy * g * x).sum(0),
            dy.sum(0),
        ),
        "do not contain gamma",
    ),
    "dbeta with gamma": (
        lambda dy, x, s, g: (*backward()(dy, x, s, g)[:2], (dy * g).sum(0)),
        "do not contain gamma",
    ),
    "dgamma of c": (
        lambda dy, x, s, g: (
            backward()(dy, x, s, g)[0],
            (dy * x * s).sum(0),
            dy.sum(0),
        ),
        "not the centred",
    ),
    "order": (
        lambda *a: tuple(backward()(*a)[i] for i in (0, 2, 1)),
        "swapped",
    ),
    "sign": (
        lambda *a: tuple(-t if t.dim() == 1 else t for t in backward()(*a)),
        "wrong sign",
    ),
    "all signs": (lambda *a: tuple(-t for t in backward()(*a)), "is off"),
    "in place": (changes_dy, "in place"),
    "float32": (lambda *a: tuple(t.float() for t in backward()(*a)), "precision"),
    "numpy": (
        lambda *a: tuple(t.numpy() for t in backward()(*a)),
        "should be a tensor",
    ),
    "nan": (backward(over=lambda d, s: d * float("nan")), "nan"),
    "raises": (lambda *a: undefined, "NameError"),  # noqa: F821
}

CASES = [
    (checks.batch_norm_forward, RIGHT_FORWARD, WRONG_FORWARD),
    (checks.batch_norm_nd, RIGHT_ND, WRONG_ND),
    (
        checks.batch_norm_backward,
        {str(i): right for i, right in enumerate(RIGHT_BACKWARD)},
        WRONG_BACKWARD,
    ),
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


def test_a_forward_for_two_axes_is_no_answer_for_more():
    passed, said = verdict(checks.batch_norm_nd, RIGHT_FORWARD["in four lines"])
    assert not passed
    assert "position by position" in said


@pytest.mark.parametrize("seed", range(3))
def test_the_verdict_does_not_depend_on_the_random_state(seed):
    torch.manual_seed(seed)
    before = torch.get_rng_state()
    assert verdict(checks.batch_norm_nd, RIGHT_ND["folded"])[0]
    assert torch.equal(torch.get_rng_state(), before)
