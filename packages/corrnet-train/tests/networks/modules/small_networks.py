"""Networks with the modules and names of those of other packages, as a user has them in a module of his own."""

import torch
from torch import Tensor, nn


class Conv2Plus1D(nn.Sequential):
    """That of torchvision's R(2+1)D."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__(
            nn.Conv3d(channels, out, (1, 3, 3), (1, stride, stride), (0, 1, 1), bias=False),
            nn.BatchNorm3d(out),
            nn.ReLU(inplace=True),
            nn.Conv3d(out, out, (3, 1, 1), (stride, 1, 1), (1, 0, 0), bias=False),
        )


class BasicBlock(nn.Module):
    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(
            Conv2Plus1D(channels, out, stride), nn.BatchNorm3d(out), nn.ReLU(inplace=True)
        )
        self.conv2 = nn.Sequential(Conv2Plus1D(out, out, 1), nn.BatchNorm3d(out))
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride > 1:
            self.downsample = nn.Sequential(
                nn.Conv3d(channels, out, 1, stride, bias=False), nn.BatchNorm3d(out)
            )

    def forward(self, x: Tensor) -> Tensor:
        residual = x if self.downsample is None else self.downsample(x)
        out = self.conv2(self.conv1(x))
        out += residual
        return self.relu(out)


class VideoResNet(nn.Module):
    """r2plus1d_18 of torchvision, with a block in each of three layers and few channels."""

    def __init__(self, num_classes: int = 400, dropout: float = 0.0) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv3d(3, 8, (1, 7, 7), (1, 2, 2), (0, 3, 3), bias=False),
            nn.BatchNorm3d(8),
            nn.ReLU(inplace=True),
        )
        self.layer1 = nn.Sequential(BasicBlock(8, 8, 1))
        self.layer2 = nn.Sequential(BasicBlock(8, 16, 2))
        self.layer3 = nn.Sequential(BasicBlock(16, 16, 1))
        self.avgpool = nn.AdaptiveAvgPool3d((1, 1, 1))
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(16, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(self.stem(x))))
        return self.fc(self.dropout(self.avgpool(x).flatten(1)))


class S3D(nn.Module):
    """s3d of torchvision: its classifier is a convolution."""

    def __init__(self, num_classes: int = 400) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv3d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv3d(8, 8, 3, padding=1))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Conv3d(8, num_classes, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.mean(self.classifier(self.features(x)), dim=(2, 3, 4))


class PictureNet(nn.Module):
    """A network of timm for pictures."""

    def __init__(self, num_classes: int = 1000, in_chans: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_chans, 8, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.layer1 = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU())
        self.fc = nn.Linear(16, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layer1(torch.relu(self.bn1(self.conv1(x)))).mean((2, 3)))


class OfFrames(nn.Module):
    """A network that is made for clips of one length."""

    def __init__(self, num_classes: int, num_frames: int) -> None:
        super().__init__()
        self.fc = nn.Linear(num_frames, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.mean((1, 3, 4)))


class Factories:
    """A place with names in it."""

    resnet = VideoResNet


def without_classes(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten())


def no_module(num_classes: int) -> list[int]:
    return [num_classes]


def failing(num_classes: int) -> nn.Module:
    raise FileNotFoundError("my.cfg")


number = 1


class Headless(nn.Module):
    """A network without a layer that puts out the scores."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, num_classes, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).mean((2, 3, 4))


class OfPixels(nn.Sequential):
    """A network for clips of 40x40."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(
            nn.AdaptiveAvgPool3d((1, None, None)), nn.Flatten(), nn.Linear(3 * 40 * 40, num_classes)
        )


class OfFirstClip(nn.Sequential):
    """A network for clips of the size that it gets first."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(nn.AdaptiveAvgPool3d((1, None, None)), nn.Flatten(), nn.LazyLinear(num_classes))


class Tied(nn.Module):
    """A network with a weight in two of its parts."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.first = nn.Linear(3, num_classes, bias=False)
        self.second = nn.Linear(3, num_classes, bias=False)
        self.second.weight = self.first.weight
        self.bias = nn.Parameter(torch.zeros(num_classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(x.mean((2, 3, 4))) + self.first(x.amax((2, 3, 4))) + self.bias
