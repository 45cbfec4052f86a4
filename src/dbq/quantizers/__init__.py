"""DBQ and the methods that it is compared with. Each method is a module; base.py is their interface."""

import importlib

import torch
from torch import Tensor

from dbq.errors import DbqError
from dbq.quantizers.base import WeightQuantizer

CLASSES = {
    "dbq": "BranchQuantizer",
    "uniform": "UniformQuantizer",
    "twn": "TwnQuantizer",
    "ttq": "TtqQuantizer",
    "lsq": "LsqQuantizer",
    "lq_nets": "LqNetsQuantizer",
    "quantization_networks": "QuantizationNetworksQuantizer",
    "sawb": "SawbQuantizer",
}


def kind(method: str) -> type[WeightQuantizer]:
    """The class of a method."""
    return getattr(importlib.import_module(f"dbq.quantizers.{method}"), CLASSES[method])


def build(method: str, weight: Tensor, config, fit: bool = True) -> WeightQuantizer:
    """The quantizer of a float weight; config: the settings of its method. fit: False if a saved state will replace its scales.

    Raises DbqError for weights to which no quantizer can be fitted; `uniform` has nothing to fit.
    """
    if method != "uniform" and not (torch.isfinite(weight).all() and weight.any()):
        raise DbqError("all weights are zero or not finite", "start from a trained float network")
    return kind(method)(weight, config, fit).to(weight.device)
