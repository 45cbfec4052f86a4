"""Small quantized networks with random weights and random batch norms, and batches of random images."""

from types import SimpleNamespace

import torch
from torch import nn

from dbq import networks
from dbq.datasets.arrays import Split
from dbq.datasets.loader import Batches
from dbq.insertion import policies

METHOD = "method"
POLICIES = {"standard": (8, 8, 8, METHOD), "everything": (METHOD, METHOD, METHOD, METHOD)}
QUANTIZERS = {
    "dbq": {
        "branches": 2, "forward": "hard", "temperature": SimpleNamespace(schedule="constant", start=12.0, end=12.0), "scales": "layer",
        "gradient_scale": "lsq", "initial": "largest",
    },
    "uniform": {"bits": 8, "branches": 0},
    "twn": {"scales": "channel", "branches": 1},
    "ttq": {"threshold": 0.05, "initial": "mean", "gradient_scale": "lsq", "branches": 2},
    "lsq": {"bits": 2, "levels": "symmetric", "branches": 1},
    "lq_nets": {"branches": 2, "scales": "channel"},
    "quantization_networks": {"levels": [-1, 0, 1], "temperature_step": 20.0, "temperature_cap": 2000.0, "branches": 1},
    "sawb": {"bits": 4, "branches": 0},
}  # fmt: skip
MEAN, STD = (0.45, 0.5, 0.55), (0.25, 0.3, 0.2)


def row(method="dbq", policy="standard", bits=8, clip="batch_norm", classifier=None, **quantizer):
    """The settings that dbq.insertion reads; **quantizer: other values than those of QUANTIZERS."""
    first, depthwise, last, other = POLICIES[policy]
    settings = QUANTIZERS[method] | quantizer
    weight_bits = settings.get("bits") or {"dbq": 2 * settings["branches"], "lq_nets": settings["branches"]}.get(method, 2)
    return SimpleNamespace(
        key="tested", method=method, activation_bits=bits,
        policy=SimpleNamespace(first=first, depthwise=depthwise, classifier=classifier or last, other=other),
        activations=SimpleNamespace(clip=clip, k=4.0, calibration_images=16, gradient="output"),
        quantizer=SimpleNamespace(weight_bits=weight_bits, **settings),
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


def quantize(network: nn.Module, settings, size=8) -> nn.Module:
    """Quantize any network as a row says, and refresh its batch norms."""
    policies.quantize(network, settings, images(16, size, 4))
    settle(network)
    return network.eval()


def build(name, form="32x32", seed=0, size=8, **options) -> nn.Module:
    torch.manual_seed(seed)
    network = networks.build(name, 10, form)
    randomise(network)
    return quantize(network, row(**options), size).to(memory_format=torch.channels_last)


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
    return quantize(network, row(**options))
