"""A trained experiment as the material of both files: its Program, its scales, and a description of where it comes from."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from dbq import datasets, networks
from dbq.errors import DbqError
from dbq.export.container import StoredWeights
from dbq.export.verify import measure
from dbq.insertion import policies
from dbq.integer import fold, replay
from dbq.integer.compile import Compiled, Widths, compile_network
from dbq.settings.resolve import EngineSettings, Row
from dbq.training import checkpoints


@dataclass(frozen=True)
class Trained:
    """metadata: JSON-compatible; `recorded` in it is the top-1 of the program on the test images of `data_sha256`."""

    network: nn.Module
    compiled: Compiled
    weights: dict[str, StoredWeights]
    metadata: dict


def load(experiment: Row, model, data, config: EngineSettings) -> Trained:
    """The first seed's network of a model file, compiled for uint8 images, and run on the test images in the prepared folder `data`.

    Raises DbqError for a model of another experiment, and as the engine does for networks that have no integer form.
    """
    saved = checkpoints.load(model)
    if saved.get("key") != experiment.key:
        raise DbqError(f"{model}: a model of {saved.get('key')}, not of {experiment.key}", f"name the model file of {experiment.key}")
    loaded = replay.load(experiment, model)
    manifest = datasets.load(data, ()).manifest
    settings = Widths(config.fixed_point_bits, config.accumulator_bits)
    shape = (3, loaded.image_size, loaded.image_size)
    compiled = compile_network(loaded.network, shape, settings, manifest["mean"], manifest["std"])
    seed = experiment.seeds[0]
    metadata = {
        "experiment": experiment.key, "profile": experiment.profile, "network": experiment.network, "dataset": experiment.dataset,
        "method": experiment.method, "seed": seed, "activation_bits": experiment.activation_bits,
        "form": experiment.dataset_settings.form, "classes": manifest["class_names"], "mean": manifest["mean"], "std": manifest["std"],
        "policy": policy_table(experiment, compiled, loaded.image_size),
        "provenance": provenance(saved["states"][str(seed)], manifest),
        "recorded": measure(compiled.program, data),
    }  # fmt: skip
    return Trained(loaded.network, compiled, stored_weights(loaded.network, compiled), metadata)


def provenance(state: dict, manifest: dict) -> dict[str, str]:
    """The weights (their sha256) and the data that they were trained on; commit and versions are those of the export."""
    here = checkpoints.provenance(torch.device("cpu"), torch.get_num_threads(), manifest["source"])
    exporter = {f"export_{name}": here[name] for name in ("commit", "torch", "python")}
    return {"weights_sha256": checkpoints.tensors_digest(state), "data": manifest["source"], "data_label": manifest["label"], **exporter}


def stored_weights(network: nn.Module, compiled: Compiled) -> dict[str, StoredWeights]:
    """Storage bits and scales (G, B) of every layer: G = 1 where all filters share them."""
    result = {}
    for operation in compiled.program.dot_products():
        layer = network.get_submodule(operation.layer)
        parts = fold.take_apart(layer, operation.layer)
        groups = parts.stored_scales // len(parts.planes)
        scales = parts.scales.T[:groups].astype(np.float32)
        result[operation.layer] = StoredWeights(fold.quantizer_of(layer).storage_bits, scales)
    return result


def policy_table(experiment: Row, compiled: Compiled, image_size: int) -> list[dict]:
    """The rows of the layer policy with the clips of the trained network; where a clip came from, training alone knows."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = networks.build(experiment.network, experiment.dataset_settings.classes, experiment.dataset_settings.form)
        rows = policies.quantize(network, experiment, torch.randn(8, 3, image_size, image_size), fit=False)
    inputs = {operation.layer: compiled.program.values[operation.inputs[0]] for operation in compiled.program.dot_products()}
    table = []
    for row in rows:
        largest = 2 ** (row.activation_bits - 1) - 1 if row.activation_signed else 2**row.activation_bits - 1
        plain = replace(row, activation_clip=inputs[row.layer].lsb * largest).as_dict()
        del plain["clip_source"]
        table.append(plain)
    return table


def default_model(experiment: Row) -> Path:
    return Path("runs") / experiment.profile / "models" / f"quantize-{experiment.key}.pt"
