"""A ResNet for small images, the dense net beside it, and the norms put into both.

Names are those of torchvision's ResNet, so that what works on this net can be
pasted beside that one: conv1, bn1, relu, layer1 to layer4, avgpool, fc; in a block
conv1, bn1, conv2, bn2, downsample.
"""

from collections.abc import Callable

import torch
from torch import nn

Norm = Callable[[int], nn.Module]
# What a block adds to its path without statistics that keep it in bounds; the
# finding "start" has others.
START = 0.7


class Scale(nn.Module):
    """γx + β for each channel: what BN is without its statistics."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (batch, channels, ...)
        shape = (-1, *[1] * (x.dim() - 2))
        return self.weight.view(shape) * x + self.bias.view(shape)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a path around them.

    order: "before", norm, then ReLU, as in the paper; "after", ReLU, then norm;
    "pre", norm and ReLU before each convolution. dropout: before the last norm.
    start: of the last norm's γ, the size of what is added to the path.
    """

    def __init__(
        self,
        inputs: int,
        channels: int,
        stride: int,
        norm: Norm,
        order: str = "before",
        dropout: float = 0,
        start: float = 1,
    ):
        super().__init__()
        first = inputs if order == "pre" else channels
        self.order = order
        self.conv1 = nn.Conv2d(inputs, channels, 3, stride, padding=1, bias=False)
        self.bn1 = norm(first)
        self.relu = nn.ReLU()
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = norm(channels)
        nn.init.constant_(self.bn2.weight, start)
        self.downsample = None
        if stride != 1 or inputs != channels:
            shortcut = nn.Conv2d(inputs, channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, norm(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (batch, inputs, h, w)
        path = x if self.downsample is None else self.downsample(x)
        if self.order == "before":
            y = self.relu(self.bn1(self.conv1(x)))
            y = self.bn2(self.conv2(self.dropout(y)))
            return self.relu(path + y)
        if self.order == "after":
            y = self.bn1(self.relu(self.conv1(x)))
            return path + self.bn2(self.relu(self.conv2(self.dropout(y))))
        y = self.conv1(self.relu(self.bn1(x)))
        y = self.conv2(self.dropout(self.relu(self.bn2(y))))
        return path + y


class ResNet(nn.Module):
    """About 80,000 parameters: one block at each of 8, 16, 32 and 64 channels.

    inputs: channels of an image. strides: of the four blocks; conv1 has 2, so
    28x28 images come to the last norms as 2x2 positions. norm: called with a
    number of channels; None leaves γ and β. fc_dropout: before the last layer.
    start: see BasicBlock; by default 1, and START without a norm.
    """

    def __init__(
        self,
        norm: Norm | None = nn.BatchNorm2d,
        *,
        inputs: int = 1,
        classes: int = 10,
        strides: tuple[int, ...] = (1, 2, 2, 2),
        order: str = "before",
        dropout: tuple[float, ...] = (0, 0, 0, 0),
        fc_dropout: float = 0,
        start: float | None = None,
    ):
        super().__init__()
        if start is None:
            start = 1 if norm else START
        norm = norm or Scale
        self.order = order
        self.conv1 = nn.Conv2d(inputs, 8, 3, stride=2, padding=1, bias=False)
        self.bn1 = norm(8)
        self.relu = nn.ReLU()
        size = 8
        for i, channels in enumerate((8, 16, 32, 64)):
            options = order, dropout[i], start
            block = BasicBlock(size, channels, strides[i], norm, *options)
            setattr(self, f"layer{i + 1}", nn.Sequential(block))
            size = channels
        self.bn_last = norm(size) if order == "pre" else nn.Identity()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(fc_dropout) if fc_dropout else nn.Identity()
        self.fc = nn.Linear(size, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (batch, inputs, h, w)
        x = self.conv1(x)
        x = self.bn1(self.relu(x)) if self.order == "after" else self.relu(self.bn1(x))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        if self.order == "pre":
            x = self.relu(self.bn_last(x))
        return self.fc(self.dropout(self.avgpool(x).flatten(1)))


def dense_net(
    norm: Norm | None = nn.BatchNorm1d, *, inputs: int = 784, classes: int = 10
) -> nn.Sequential:
    """The dense net of the other chapters on larger images; He initialisation."""
    layers, size = [nn.Flatten()], inputs
    for _ in range(3):
        linear = nn.Linear(size, 32)
        nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
        nn.init.zeros_(linear.bias)
        layers += [linear, *([norm(32)] if norm else []), nn.ReLU()]
        size = 32
    return nn.Sequential(*layers, nn.Linear(size, classes))


def group_norm(channels: int) -> nn.GroupNorm:
    """Groups of 4 channels."""
    return nn.GroupNorm(channels // 4, channels)


class Part(nn.Module):
    """One half of BN: subtract the mean only, or divide by the sd only."""

    def __init__(self, channels: int, what: str, momentum: float = 0.1):
        super().__init__()
        if what not in ("mean", "sd"):
            raise ValueError(f'what must be "mean" or "sd", got {what!r}')
        self.what, self.momentum, self.eps = what, momentum, 1e-5
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        start = torch.zeros(channels) if what == "mean" else torch.ones(channels)
        self.register_buffer("running", start)  # the mean or the variance

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (batch, channels, h, w)
        shape, axes = (-1, 1, 1), (0, 2, 3)
        statistic = self.running
        if self.training:
            mean = self.what == "mean"
            statistic = x.mean(axes) if mean else x.var(axes, correction=0)
            new = self.momentum * statistic.detach()
            self.running.mul_(1 - self.momentum).add_(new)
        if self.what == "mean":
            x = x - statistic.view(shape)
        else:
            x = x * torch.rsqrt(statistic + self.eps).view(shape)
        return self.weight.view(shape) * x + self.bias.view(shape)


class Shaken(nn.BatchNorm2d):
    """BN; then, in training, a random scale and shift of each channel.

    Half of each is one for the batch, half is each image's own, as in chapter 01.
    """

    size = 0.5

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (batch, channels, h, w)
        y = super().forward(x)
        if not self.training:
            return y
        shared = torch.randn(2, 1, y.shape[1], 1, 1, device=y.device)
        own = torch.randn(2, *y.shape[:2], 1, 1, device=y.device)
        a, b = self.size * (shared + own) / 2**0.5
        return 2**a * y + b


def replace_bn(model: nn.Module, make: Norm) -> nn.Module:
    """Put make(channels) in the place of every BN layer, with its γ and β."""
    for name, child in model.named_children():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            new = make(child.num_features)
            new.load_state_dict(child.state_dict(), strict=False)
            setattr(model, name, new)
        else:
            replace_bn(child, make)
    return model


def freeze_bn(model: nn.Module, affine: bool = False) -> nn.Module:
    """Keep the stored statistics of every BN layer; `affine`: γ and β as well.

    A later `model.train()` undoes it: call this after that.
    """
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
            if affine:
                module.requires_grad_(False)
    return model


def fold(model: ResNet) -> ResNet:
    """A copy in eval mode whose convolutions do the work of their BN layers.

    Only for order "before", where BN follows its convolution at once.
    """
    import copy

    model = copy.deepcopy(model).eval()
    for module in [model, *model.modules()]:
        pairs = [("conv1", "bn1"), ("conv2", "bn2"), ("0", "1")]
        for conv, bn in pairs:
            if isinstance(getattr(module, bn, None), nn.BatchNorm2d):
                layers = getattr(module, conv), getattr(module, bn)
                setattr(module, conv, nn.utils.fuse_conv_bn_eval(*layers))
                setattr(module, bn, nn.Identity())
    return model
