"""The four costs of a trained quantized network, counted on the planes and integers that its weights really are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from dbq.cost import formulas
from dbq.cost.formulas import LayerWeights
from dbq.files import write_csv, write_json
from dbq.insertion import policies
from dbq.integer import fixed_point
from dbq.integer.planes import quantizer_of, take_apart
from dbq.networks.count import LayerShape, layer_shapes

if TYPE_CHECKING:
    from dbq.settings.entries import CostSettings, Row

LAYER_COLUMNS = ["layer", "kind", "c_c", "c_s", "c_r", "c_m", "nonzeros", "weights", "accumulator_bits"]


@dataclass(frozen=True)
class Counted:
    """layers: LAYER_COLUMNS of each layer under the main reading. readings: the totals under every one. macs: multiply-adds of an image."""

    layers: list[dict]
    readings: list[dict]
    macs: int


@torch.no_grad()
def check_planes(network: nn.Module) -> list[dict]:
    """Scales and zero rates of every layer of planes; DbqError where the scaled planes don't give the weights (but for float rounding)."""
    rows = []
    for name, quantizer, _ in policies.weight_quantizers(network):
        if quantizer.coding in formulas.PLANES:
            parts = take_apart(network.get_submodule(name), name)
            scales = [round(value, 5) for value in parts.scales.mean(1).tolist()]
            rates = [round(float((plane == 0).mean()), 4) for plane in parts.planes]
            difference = parts.largest_difference
            rows.append({"layer": name, "scales": scales, "zero_rate_per_branch": rates, "largest_difference": difference})
    return rows


@torch.no_grad()
def layer_weights(network: nn.Module, shape: LayerShape) -> LayerWeights:
    """The weights of one layer as the formulas need them, with the non-zeros of every branch and filter."""
    layer = network.get_submodule(shape.name)
    quantizer = quantizer_of(layer)
    if quantizer is None:
        nonzeros = (layer.weight != 0).flatten(1).sum(1)[None].cpu().numpy()
        return LayerWeights("float", formulas.FLOAT_BITS, 0, nonzeros, 0)
    parts = take_apart(layer, shape.name)
    in_planes = parts.coding in formulas.PLANES
    branches = len(parts.planes) if in_planes else 0
    digits = None if in_planes else (formulas.signed_digit_planes(parts.planes[0]) != 0).sum(2)
    return LayerWeights(parts.coding, quantizer.storage_bits, branches, (parts.planes != 0).sum(2), parts.stored_scales, digits)


def inputs_of(network: nn.Module, layer: str, activation_bits: int) -> tuple[int, int, int]:
    """Width and ends of a layer's inputs. A quantizer of its own may be wider than the activations: the image has 8 bits."""
    own = getattr(network.get_submodule(layer), "input_quantizer", None)
    if own is None:
        return activation_bits, 0, 2**activation_bits - 1  # they come from a ReLU, which is unsigned
    return own.bits, own.smallest, own.largest


def accumulator_bits(network: nn.Module, layer: str, activation_bits: int) -> int | None:
    """Bits of the accumulators that no inputs can overflow; None where weights or activations are float."""
    module, (width, low, high) = network.get_submodule(layer), inputs_of(network, layer, activation_bits)
    if quantizer_of(module) is None or width >= formulas.FLOAT_BITS:
        return None
    return fixed_point.accumulator_bits(take_apart(module, layer).planes, low, high)


def count(network: nn.Module, pixels: int, activation_bits: int, settings: CostSettings) -> Counted:
    """Count a quantized network for images of pixels x pixels, under the main reading layer by layer and under every reading in total."""
    shapes = layer_shapes(network, (3, pixels, pixels))
    layers = [(shape, layer_weights(network, shape), inputs_of(network, shape.name, activation_bits)[0]) for shape in shapes]
    rows = [
        {
            "layer": layer[0].name, "kind": layer[0].kind,
            **formulas.layer_cost(*layer, settings.reading, settings.count_bias, settings.scale_bits),
            "nonzeros": int(layer[1].nonzeros.sum()), "weights": layer[0].weights,
            "accumulator_bits": accumulator_bits(network, layer[0].name, activation_bits),
        }
        for layer in layers
    ]  # fmt: skip
    readings = formulas.readings(layers, settings.scale_bits)
    for row in readings:
        row["main"] = (row["reading"], row["count_bias"]) == (settings.reading, settings.count_bias)
    return Counted(rows, readings, sum(shape.outputs * shape.length for shape in shapes))


def write(counted: Counted, row: Row, folder) -> None:
    """Write cost.json and layers.csv."""
    write_csv(Path(folder) / "layers.csv", counted.layers, LAYER_COLUMNS)
    about = {name: getattr(row, name) for name in ("key", "network", "dataset", "method", "branches", "weight_bits", "activation_bits")}
    write_json(Path(folder) / "cost.json", about | {"readings": counted.readings, "macs": counted.macs})
