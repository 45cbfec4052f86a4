"""Load a trained quantized network, check its planes, and count what its dot products cost."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from dbq.cost import formulas as cost
from dbq.cost.formulas import LayerWeights
from dbq.errors import DbqError
from dbq.files import write_csv, write_json
from dbq.insertion import policies
from dbq.integer import fixed_point, fold
from dbq.networks.count import LayerShape, layer_shapes, macs
from dbq.settings.resolve import CostSettings, Row
from dbq.training import checkpoints, runs

LAYER_COLUMNS = ["layer", "kind", "c_c", "c_s", "c_r", "c_m", "nonzeros", "weights", "accumulator_bits"]


@dataclass
class Loaded:
    network: nn.Module  # of the first seed
    image_size: int


@dataclass
class Counted:
    layers: list[dict]  # main reading
    readings: list[dict]
    macs: int


def load(experiment: Row, model) -> Loaded:
    """The network of the experiment's first seed."""
    saved = checkpoints.load(model)
    if saved["network"] != experiment.network:
        raise DbqError(f"{model}: a model of {saved['network']}, not of {experiment.network}", f"run `dvc repro quantize@{experiment.key}`")
    state = saved["states"][str(experiment.seeds[0])]
    return Loaded(runs.rebuild(experiment, state, saved["image_size"]), saved["image_size"])


@torch.no_grad()
def check_planes(network: nn.Module) -> list[dict]:
    """Assert weight == sum of scaled planes, but for float rounding, for each layer of planes; return scales and zero rates."""
    rows = []
    for name, quantizer, _ in policies.weight_quantizers(network):
        if quantizer.coding not in cost.PLANES:
            continue
        parts = fold.take_apart(network.get_submodule(name), name)
        rows.append({
            "layer": name, "scales": [round(value, 5) for value in parts.scales.mean(1).tolist()],
            "zero_rate_per_branch": [round(float((plane == 0).mean()), 4) for plane in parts.planes],
            "largest_difference": parts.largest_difference,
        })  # fmt: skip
    return rows


@torch.no_grad()
def layer_weights(network: nn.Module, shape: LayerShape) -> LayerWeights:
    """The counted form of one layer's weights: non-zeros of every filter (and branch)."""
    layer = network.get_submodule(shape.name)
    quantizer = fold.quantizer_of(layer)
    if quantizer is None:
        nonzeros = (layer.weight != 0).flatten(1).sum(1)[None].cpu().numpy()
        return LayerWeights("float", cost.FLOAT_BITS, 0, nonzeros, 0)
    parts = fold.take_apart(layer, shape.name)
    branches = len(parts.planes) if parts.coding in cost.PLANES else 0
    return LayerWeights(parts.coding, quantizer.storage_bits, branches, (parts.planes != 0).sum(2), parts.stored_scales)


def accumulator_bits(network: nn.Module, layer: str, width: int) -> int | None:
    """Bits of the accumulators that no inputs of `width` bits can overflow; None where weights or activations are float."""
    module = network.get_submodule(layer)
    if fold.quantizer_of(module) is None or width >= cost.FLOAT_BITS:
        return None
    own = getattr(module, "input_quantizer", None)
    largest = own.largest if own is not None else 2**width - 1  # what a ReLU's quantizer gives is unsigned
    low = -largest if own is not None and own.signed else 0
    return fixed_point.accumulator_bits(fold.take_apart(module, layer).planes, low, largest)


def count(experiment: Row, loaded: Loaded, config: CostSettings) -> Counted:
    """Per-layer costs of the main reading and the totals of every reading."""
    shapes = layer_shapes(loaded.network, (3, loaded.image_size, loaded.image_size))
    bits = {shape.name: activation_bits(loaded.network, shape.name, experiment) for shape in shapes}
    weights = {shape.name: layer_weights(loaded.network, shape) for shape in shapes}
    triples = [(shape, weights[shape.name], bits[shape.name]) for shape in shapes]
    layers = []
    for shape, weight, width in triples:
        row = cost.layer_cost(shape, weight, width, config.reading, config.count_bias, config.scale_bits)
        nonzeros = int(weight.nonzeros.sum())
        layers.append({
            "layer": shape.name, "kind": shape.kind, **row, "nonzeros": nonzeros, "weights": shape.weights,
            "accumulator_bits": accumulator_bits(loaded.network, shape.name, width),
        })  # fmt: skip
    rows = cost.readings(triples, config.scale_bits)
    for row in rows:
        row["main"] = row["reading"] == config.reading and row["count_bias"] == config.count_bias
    return Counted(layers, rows, macs(loaded.network, (3, loaded.image_size, loaded.image_size)))


def activation_bits(network: nn.Module, layer: str, experiment: Row) -> int:
    """Width of the layer's inputs; the image may be wider than the activations."""
    quantizer = getattr(network.get_submodule(layer), "input_quantizer", None)
    return quantizer.bits if quantizer is not None else experiment.activation_bits


def write(counted: Counted, experiment: Row, folder) -> None:
    """Write cost.json and layers.csv."""
    write_csv(Path(folder) / "layers.csv", [{name: row[name] for name in LAYER_COLUMNS} for row in counted.layers], LAYER_COLUMNS)
    write_json(Path(folder) / "cost.json", {
        "status": "run", "key": experiment.key, "network": experiment.network, "dataset": experiment.dataset, "method": experiment.method,
        "branches": experiment.quantizer.branches, "weight_bits": experiment.quantizer.weight_bits,
        "activation_bits": experiment.activation_bits, "readings": counted.readings, "macs": counted.macs,
    })  # fmt: skip
