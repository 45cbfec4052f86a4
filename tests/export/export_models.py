"""A trained quantized network in seconds, its model file and its exported file; and small networks of every method."""

import dataclasses
from types import SimpleNamespace

import torch

from dbq.export import container, trained
from dbq.settings import datasets, networks, policies
from dbq.settings import resolve as config
from dbq.settings.quantizers import METHODS, UniformSettings
from dbq.settings.resolve import PolicySettings
from dbq.settings.schema import parse
from dbq.training import checkpoints, runs

KEY = "resnet20-cifar10-dbq-2t"
SHAPE = (3, 8, 8)  # of the smoke profile's images


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
    """The smoke data set, the model file of an experiment, and its exported file."""
    params = config.read("params.yaml")
    experiment = config.experiment(params, "smoke", KEY)
    data, model = folder / "data", folder / "model.pt"
    datasets.prepare("cifar10", "smoke", experiment.dataset_settings, data, folder / "raw", log=lambda line: None)
    prepared = datasets.load(data, ("train", "test"))
    images, labels = next(runs.batches(prepared.splits["train"], prepared.manifest, 600, "cpu").in_order())
    torch.manual_seed(0)
    network = networks.build("resnet20", 10, "32x32")
    fit_classifier(network, images, labels)
    policies.quantize(network, experiment, images[:64])
    network.train()(images)  # running statistics of the quantized layers
    network.eval()
    states = {str(experiment.seeds[0]): network.state_dict()}
    checkpoints.save(model, {"key": KEY, "network": "resnet20", "image_size": SHAPE[1], "states": states})
    found = trained.load(experiment, model, data, config.engine(params))
    file = folder / f"{KEY}.safetensors"
    container.write(file, found.compiled.program, found.weights, found.metadata)
    test = runs.batches(prepared.splits["test"], prepared.manifest, 100, "cpu")
    return SimpleNamespace(folder=folder, experiment=experiment, data=data, model=model, found=found, file=file, test=test)


def tiny(method, scales=None):
    """A small quantized network of a method, all its layers the method's."""
    params = config.read("params.yaml")
    base = config.experiment(params, "smoke", KEY)
    quantizer = UniformSettings(8) if method == "uniform" else parse(METHODS[method], params["quantizers"][method], method)
    if scales:
        quantizer = dataclasses.replace(quantizer, scales=scales)
    entry = dataclasses.replace(base, method=method, quantizer=quantizer, policy=PolicySettings("method", "method", "method", "method"))
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 5, 3, 2, 1), torch.nn.BatchNorm2d(5), torch.nn.ReLU(), torch.nn.MaxPool2d(2), torch.nn.Conv2d(5, 5, 3, groups=5),
        torch.nn.BatchNorm2d(5), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(5, 3),
    )  # fmt: skip
    images = torch.randn(32, 3, 16, 16)
    network.train()(images)
    policies.quantize(network.eval(), entry, images)
    return network, images
