"""Load a trained quantized network, check its planes, and count what its dot products cost."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from dbq import policies
from dbq.config import CostConfig, Experiment
from dbq.engine import cost
from dbq.engine.cost import LayerWeights
from dbq.errors import DbqError
from dbq.files import write_csv, write_json
from dbq.networks.count import LayerShape, layer_shapes, macs
from dbq.quantizers.dbq import BranchQuantizer
from dbq.training import checkpoints, runs

LAYER_COLUMNS = ["layer", "kind", "c_c", "c_s", "c_r", "c_m", "nonzeros", "weights"]


@dataclass
class Loaded:
    network: nn.Module  # of the first seed
    image_size: int


@dataclass
class Counted:
    layers: list[dict]  # main reading
    readings: list[dict]
    macs: int


def load(experiment: Experiment, model) -> Loaded:
    """The network of the experiment's first seed."""
    saved = checkpoints.load(model)
    if saved["network"] != experiment.network:
        raise DbqError(f"{model}: a model of {saved['network']}, not of {experiment.network}", f"run `dvc repro quantize@{experiment.key}`")
    state = saved["states"][str(experiment.seeds[0])]
    return Loaded(runs.rebuild(experiment, state, saved["image_size"]), saved["image_size"])


@torch.no_grad()
def check_planes(network: nn.Module) -> list[dict]:
    """Assert weight == sum of scaled planes exactly for each layer of branches; return scales and zero rates."""
    rows = []
    for name, quantizer, weight in policies.branch_quantizers(network):
        parts = quantizer.decompose(weight)
        hard = network.get_submodule(name).weight.flatten(1)
        scales = parts.scales if len(parts.scales) > 1 else parts.scales.expand(len(hard), -1)
        total = sum(scales[:, j, None] * plane for j, plane in enumerate(parts.planes))
        error = float((total - hard).abs().max() / hard.abs().max())
        # g2 * (a_1 P_1 + a_2 P_2) and (g2 a_1) P_1 + (g2 a_2) P_2 may differ by float rounding, never by a level
        if error > 1e-5:
            raise DbqError(
                f"layer {name}: the planes differ from the hard weights by {error:.2g}", "the model file is damaged; train it again"
            )
        rows.append({
            "layer": name, "scales": [round(value, 5) for value in parts.scales.mean(0).tolist()],
            "zero_rate_per_branch": [round(float((plane == 0).float().mean()), 4) for plane in parts.planes], "largest_difference": error,
        })  # fmt: skip
    return rows


@torch.no_grad()
def layer_weights(network: nn.Module, shape: LayerShape) -> LayerWeights:
    """The counted form of one layer's weights: non-zeros of every filter (and branch)."""
    layer = network.get_submodule(shape.name)
    quantizer = layer.parametrizations.weight[0] if hasattr(layer, "parametrizations") else None
    nonzeros = (layer.weight != 0).flatten(1).sum(1)[None].cpu().numpy()
    if quantizer is None:
        return LayerWeights("float", 32, 0, nonzeros, 0)
    if isinstance(quantizer, BranchQuantizer):
        planes = quantizer.decompose(layer.parametrizations.weight.original).planes
        return LayerWeights("ternary", 2, len(planes), (planes != 0).sum(2).cpu().numpy(), quantizer.a.numel())
    return LayerWeights("fixed_point", quantizer.bits, 1, nonzeros, 1)


def count(experiment: Experiment, loaded: Loaded, config: CostConfig) -> Counted:
    """Per-layer costs of the main reading and the totals of every reading."""
    shapes = layer_shapes(loaded.network, (3, loaded.image_size, loaded.image_size))
    bits = {shape.name: activation_bits(loaded.network, shape.name, experiment) for shape in shapes}
    weights = {shape.name: layer_weights(loaded.network, shape) for shape in shapes}
    triples = [(shape, weights[shape.name], bits[shape.name]) for shape in shapes]
    layers = []
    for shape, weight, width in triples:
        row = cost.layer_cost(shape, weight, width, config.reading, config.count_bias, config.scale_bits)
        nonzeros = int(weight.nonzeros.sum())
        layers.append({"layer": shape.name, "kind": shape.kind, **row, "nonzeros": nonzeros, "weights": shape.weights})
    rows = cost.readings(triples, config.scale_bits)
    for row in rows:
        row["main"] = row["reading"] == config.reading and row["count_bias"] == config.count_bias
    return Counted(layers, rows, macs(loaded.network, (3, loaded.image_size, loaded.image_size)))


def activation_bits(network: nn.Module, layer: str, experiment: Experiment) -> int:
    """Width of the layer's inputs; the image may be wider than the activations."""
    quantizer = getattr(network.get_submodule(layer), "input_quantizer", None)
    return quantizer.bits if quantizer is not None else experiment.activation_bits


def write(counted: Counted, experiment: Experiment, folder) -> None:
    """Write cost.json and layers.csv."""
    write_csv(Path(folder) / "layers.csv", [{name: row[name] for name in LAYER_COLUMNS} for row in counted.layers], LAYER_COLUMNS)
    write_json(Path(folder) / "cost.json", {
        "status": "run", "key": experiment.key, "network": experiment.network, "dataset": experiment.dataset, "method": experiment.method,
        "branches": experiment.quantizer.branches, "weight_bits": experiment.quantizer.weight_bits,
        "activation_bits": experiment.activation_bits, "readings": counted.readings, "macs": counted.macs,
    })  # fmt: skip
