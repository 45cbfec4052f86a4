"""Small quantized networks with random weights and random batch norms, and batches of random images."""

import dataclasses

import torch
from torch import nn

from dbq.datasets.arrays import Split
from dbq.datasets.loader import Batches
from dbq.settings import networks, policies
from dbq.settings import resolve as config
from dbq.settings.quantizers import METHODS, UniformSettings
from dbq.settings.resolve import ActivationSettings, PolicySettings
from dbq.settings.schema import parse

POLICIES = {"standard": PolicySettings(8, 8, 8, "method"), "everything": PolicySettings("method", "method", "method", "method")}
MEAN, STD = (0.45, 0.5, 0.55), (0.25, 0.3, 0.2)


def experiment(method="dbq", policy="standard", bits=8, clip="batch_norm", **quantizer):
    params = config.read("params.yaml")
    base = config.experiment(params, "smoke", "resnet20-cifar10-dbq-2t")
    defaults = UniformSettings(8) if method == "uniform" else parse(METHODS[method], params["quantizers"][method], f"quantizers.{method}")
    return dataclasses.replace(
        base, method=method, policy=POLICIES[policy], activation_bits=bits, activations=ActivationSettings(clip, 4.0, 16),
        quantizer=dataclasses.replace(defaults, **quantizer),
    )  # fmt: skip


def pixels(count, size, seed=1):
    return torch.randint(0, 256, (count, 3, size, size), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def batches(count=24, size=8, batch=8, seed=1):
    labels = torch.randint(0, 10, (count,), generator=torch.Generator().manual_seed(seed))
    return Batches(Split(pixels(count, size, seed), labels), batch, MEAN, STD)


def images(count=24, size=8, seed=1):
    return next(batches(count, size, count, seed).in_order())[0]


def randomise(network: nn.Module) -> None:
    """Gains of both signs, offsets, and running statistics that belong to the present weights."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            module.weight.data[::5] *= -1
            nn.init.normal_(module.bias, 0.2, 0.3)
    settle(network)


@torch.no_grad()
def settle(network: nn.Module, size=8) -> None:
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    network.train()
    for seed in (2, 3):
        network(images(16, size, seed))
    network.eval()


def quantize(network: nn.Module, entry, size=8) -> nn.Module:
    """Quantize any network with the project's policies and refresh its batch norms."""
    policies.quantize(network, entry, images(16, size, 4))
    settle(network)
    return network.eval()


def build(name, form="32x32", seed=0, size=8, **options) -> nn.Module:
    torch.manual_seed(seed)
    network = networks.build(name, 10, form)
    randomise(network)
    # scales by least squares would take most of a test's time
    return quantize(network, experiment(initial="largest", **options), size).to(memory_format=torch.channels_last)


class Tiny(nn.Module):
    """Every kind of step in 8 x 8 pixels: strided and depthwise convolutions, a bias, a linear bottleneck, a residual sum, a pool."""

    def __init__(self, classes=4):
        super().__init__()
        self.conv1, self.bn1, self.relu1 = nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU()
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4)
        self.conv3, self.bn3, self.relu3 = nn.Conv2d(4, 4, 3, 1, 1, groups=4, bias=False), nn.BatchNorm2d(4), nn.ReLU6()
        self.conv4, self.bn4 = nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4)
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(4, classes)

    def forward(self, x):
        y = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        z = self.bn4(self.conv4(self.relu3(self.bn3(self.conv3(y))))) + y
        return self.fc(torch.flatten(self.pool(z), 1))


def tiny(seed=0, **options) -> nn.Module:
    torch.manual_seed(seed)
    network = Tiny()
    randomise(network)
    return quantize(network, experiment(**options))
