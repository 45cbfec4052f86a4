"""Trainings of seconds: rows of the canary on 96 random images, or on 300 digits, of which something can be learnt."""

from pathlib import Path

import torch

from dbq import datasets, settings
from dbq.training import runs
from dbq.validity import canary

PARAMS = settings.read("tests/params.yaml")
CODE = "code"
QUIET = {"log": lambda line: None}
DBQ = canary.VARIANTS["dbq"][0]


def row(variant=DBQ, method="dbq", **training):
    """A row of ResNet-20; training: changes of its schedule."""
    quantizer, changes, activations, policy = variant
    made = canary.entry(method, "resnet20", (quantizer, {"epochs": 2, **changes, **training}, activations, policy))
    return made.model_copy(update={"key": "net"})


def start(**training):
    made = canary.entry("float", "resnet20", None)
    return made.model_copy(update={"training": made.training.model_copy(update=training)})


def beginning(folder, data) -> runs.Beginning:
    return runs.beginning_of(runs.train_float(start(), runs.Place(data, Path(folder), **QUIET), CODE), "canary")


def train(data, begun, folder, seed=0, made=None, **place):
    return runs.train_row(made or row(), seed, begun, runs.Place(data, Path(folder), **(QUIET | place)), CODE)


def digits(folder) -> Path:
    plan = settings.plan(PARAMS)
    datasets.prepare("canary", "canary", plan.datasets["cifar10"].settings, Path(folder), log=lambda line: None)
    return Path(folder)


def network_with(made):
    """The quantized network of a row, from random weights."""
    from dbq import networks
    from dbq.insertion import policies

    torch.manual_seed(0)
    network = networks.build(made.network, 10, "32x32")
    return network, policies.quantize(network, made, torch.randn(8, 3, 32, 32))
