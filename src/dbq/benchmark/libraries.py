"""The same quantizers as other libraries build them: `pip install '.[libraries]'`.

Brevitas (https://github.com/Xilinx/brevitas) has quantizing layers in place of torch's. torchao
(https://github.com/pytorch/ao) fake-quantizes linear layers and embeddings, not convolutions: nothing here compares with it.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from torch import nn

from dbq.errors import DbqError
from dbq.insertion.policies import REASONS
from dbq.networks.count import layer_shapes

if TYPE_CHECKING:
    from dbq.settings import Row

NOT_INSTALLED = "not run: not installed (pip install '.[libraries]')"
LINEAR_ONLY = "not run: torchao fake-quantizes linear layers only, these networks are convolutional"


def why_not(library: str) -> str | None:
    """Why a library can't give a row, as the row's status, or None."""
    if importlib.util.find_spec(library) is None:
        return NOT_INSTALLED
    return LINEAR_ONLY if library == "torchao" else None


def quantize(network: nn.Module, row: Row, image_shape: tuple[int, int, int]) -> nn.Module:
    """Replace every layer by Brevitas's with the bits that the layer policy gives it; the activations stay in float.

    `uniform`: the scale follows the largest weight; `lsq`: one learnt scale per layer, its gradient through the rounding.
    """
    if row.method not in ("uniform", "lsq"):
        raise DbqError(
            f"overhead.methods: Brevitas is compared in uniform and lsq, not in {row.method}", "choose brevitas-uniform-8 or brevitas-lsq-2"
        )
    for shape in layer_shapes(network, image_shape):
        choice = getattr(row.policy, shape.kind) if shape.kind in REASONS else row.policy.other
        if choice == "float":
            continue
        learnt = choice == "method" and row.method == "lsq"
        bits = row.quantizer.weight_bits if choice == "method" else choice
        full_range = learnt and row.quantizer.levels == "full"
        parent, _, child = shape.name.rpartition(".")
        setattr(network.get_submodule(parent), child, _layer(network.get_submodule(shape.name), bits, learnt, full_range))
    return network


def _layer(layer: nn.Module, bits: int, learnt: bool, full_range: bool) -> nn.Module:
    from brevitas import nn as brevitas_nn
    from brevitas.inject.enum import ScalingImplType
    from brevitas.quant import Int8WeightPerTensorFloat

    kind = ScalingImplType.PARAMETER_FROM_STATS if learnt else ScalingImplType.STATS
    settings = {"bit_width": bits, "scaling_impl_type": kind, "narrow_range": not full_range}
    quantizer = type("WeightQuantizer", (Int8WeightPerTensorFloat,), settings)
    bias = layer.bias is not None
    if isinstance(layer, nn.Conv2d):
        sizes = {name: getattr(layer, name) for name in ("stride", "padding", "dilation", "groups")}
        new = brevitas_nn.QuantConv2d(
            layer.in_channels, layer.out_channels, layer.kernel_size, **sizes, bias=bias, weight_quant=quantizer
        )  # fmt: skip
    else:
        new = brevitas_nn.QuantLinear(layer.in_features, layer.out_features, bias=bias, weight_quant=quantizer)
    new.load_state_dict({name: value.detach().clone() for name, value in layer.state_dict().items()}, strict=False)
    return new
