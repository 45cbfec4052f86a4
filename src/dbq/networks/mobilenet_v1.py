"""MobileNetV1 (Howard et al. 2017, table 1): depthwise and pointwise convolutions in turn, each with batch norm and ReLU."""

import torch
from torch import Tensor, nn

# channels out and stride of each depthwise-separable pair
PAIRS = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]


def _conv(channels_in: int, channels: int, kernel: int, stride: int, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(channels_in, channels, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(channels), nn.ReLU()]


class MobileNetV1(nn.Module):
    def __init__(self, classes: int, form: str):
        super().__init__()
        channels_in = 32
        layers = _conv(3, channels_in, 3, 1 if form == "32x32" else 2)
        for channels, stride in PAIRS:
            layers += _conv(channels_in, channels_in, 3, stride, groups=channels_in) + _conv(channels_in, channels, 1, 1)
            channels_in = channels
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels_in, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.pool(self.features(x)), 1))


build = MobileNetV1
