"""DBQ and the methods it is compared with: one module a method, one interface (base.py)."""

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
    """The quantizer `method` for this float weight; fit: False where a saved state replaces its scales."""
    return kind(method)(weight, config, fit).to(weight.device)
