"""A residual net with torchvision's names and order of layers, but narrow.

So that code a reader copies from the course is tried on the kind of net that it
will be pasted next to: blocks that call one `relu` twice, `downsample` branches,
layers that are found by name only.
"""

import torch
from torch import nn


class BasicBlock(nn.Module):
    def __init__(self, c_in: int, channels: int, stride: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = None
        if stride != 1 or c_in != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(c_in, channels, 1, stride, bias=False),
                nn.BatchNorm2d(channels),
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += identity
        return self.relu(out)


class ResNet(nn.Module):
    def __init__(self, width: int = 16, classes: int = 10):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        c_in = width
        for i in range(4):
            channels, stride = width * 2**i, 1 if i == 0 else 2
            blocks = [BasicBlock(c_in, channels, stride)]
            blocks += [BasicBlock(channels, channels)]
            setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))
            c_in = channels
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(c_in, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def resnet18_like(width: int = 16, classes: int = 10, seed: int = 0) -> ResNet:
    """resnet18's layers at a quarter of its width; inputs (images, 3, 32 and up, ...).

    The running statistics are those of a few batches, not 0 and 1.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ResNet(width, classes)
        with torch.no_grad():
            for layer in model.modules():
                if isinstance(layer, nn.BatchNorm2d):
                    layer.weight.uniform_(0.5, 1.5)
                    layer.bias.uniform_(-0.3, 0.3)
            for _ in range(20):
                model(2 * torch.randn(8, 3, 64, 64) + 1)
    return model
