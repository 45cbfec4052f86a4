"""A trained quantized network in seconds and its exported file, and small networks of every method."""

from types import SimpleNamespace

import torch

from dbq import datasets, export, networks
from dbq.datasets.loader import Batches
from dbq.export.packed import pack_row
from dbq.insertion import policies
from dbq.settings.quantizers import METHODS

KEY = "resnet20-cifar10-dbq-2t"
SHAPE = (3, 8, 8)  # of scikit-learn's digits
ENGINE = SimpleNamespace(fixed_point_bits=16, accumulator_bits=32)
STANDARD = SimpleNamespace(first=8, depthwise=8, classifier=8, other="method")
EVERYTHING = SimpleNamespace(first="method", depthwise="method", classifier="method", other="method")
QUANTIZERS = {
    "dbq": {
        "branches": 2, "forward": "hard", "temperature": 12.0, "scales": "layer", "gradient_scale": "lsq", "initial": "least_squares"
    },
    "uniform": {"bits": 8},
    "twn": {"scales": "channel"},
    "ttq": {"threshold": 0.05, "initial": "mean", "gradient_scale": "lsq"},
    "lsq": {"bits": 4, "levels": "full"},
    "lq_nets": {"branches": 2, "scales": "channel"},
    "quantization_networks": {"levels": [-1, 0, 1], "temperature_step": 20.0, "temperature_cap": 2000.0},
    "sawb": {"bits": 4},
}  # fmt: skip


def row(method="dbq", policy=STANDARD, **changes):
    data = SimpleNamespace(
        source="digits", classes=10, form="32x32", validation=200, split_seed=0, stand_in=True, augment=None, normalise="measured"
    )
    activations = SimpleNamespace(clip="batch_norm", k=4.0, calibration_images=64, gradient="output")
    return SimpleNamespace(
        key=KEY, profile="smoke", network="resnet20", dataset="cifar10", dataset_settings=data, method=method, activation_bits=8,
        quantizer=METHODS[method].model_validate({**QUANTIZERS[method], **changes}), activations=activations, policy=policy, seeds=[0],
    )  # fmt: skip


@torch.no_grad()
def fit_classifier(network, images, labels):
    """Least squares of the classes on random features: a trained network in two seconds. images: normalised (N, 3, H, W)."""
    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None
    network.train()(images)
    network.eval()
    features = []
    hook = network.linear.register_forward_pre_hook(lambda module, inputs: features.append(inputs[0].double()))
    network(images)
    hook.remove()
    x = torch.cat([features[0], torch.ones(len(images), 1, dtype=torch.float64)], 1)
    targets = torch.nn.functional.one_hot(labels, 10).double() - 0.1
    solution = torch.linalg.solve(x.T @ x + 1e-3 * len(x) * torch.eye(x.shape[1], dtype=torch.float64), x.T @ targets)
    network.linear.weight.copy_(solution[:-1].T)
    network.linear.bias.copy_(solution[-1])


def make(folder):
    """Scikit-learn's digits, a quantized ResNet-20 that has learnt them a little, and its exported file."""
    trained, data = row(), folder / "data"
    datasets.prepare(trained.dataset, trained.profile, trained.dataset_settings, data, folder / "raw", log=lambda line: None)
    prepared = datasets.load(data, ("train", "test"))
    mean, std = prepared.manifest["mean"], prepared.manifest["std"]
    images, labels = next(Batches(prepared.splits["train"], 600, mean, std).in_order())
    torch.manual_seed(0)
    network = networks.build("resnet20", 10, "32x32")
    fit_classifier(network, images, labels)
    policies.quantize(network, trained, images[:64])
    network.train()(images)  # running statistics of the quantized layers
    network.eval()
    packed = pack_row(trained, 0, network, data, ENGINE, {"commit": "abc", "device": "cpu"})
    file = folder / f"{KEY}.safetensors"
    export.write(file, packed)
    test = Batches(prepared.splits["test"], 100, mean, std)
    return SimpleNamespace(folder=folder, data=data, network=network, packed=packed, file=file, test=test)


def tiny(method, **changes):
    """A small quantized network of a method, all its layers the method's."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 5, 3, 2, 1), torch.nn.BatchNorm2d(5), torch.nn.ReLU(), torch.nn.MaxPool2d(2), torch.nn.Conv2d(5, 5, 3, groups=5),
        torch.nn.BatchNorm2d(5), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(5, 3),
    )  # fmt: skip
    images = torch.randn(32, 3, 16, 16)
    network.train()(images)
    policies.quantize(network.eval(), row(method, EVERYTHING, **changes), images)
    return network, images
