"""DBQ and the methods that it is compared with. Each method is a module; base.py is their interface."""

import importlib

from torch import Tensor

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
    """The quantizer of a float weight; config: the settings of its method. fit: False if a saved state will replace its scales."""
    return kind(method)(weight, config, fit).to(weight.device)
