"""A trained network as the material of both files: its Program, its scales, and a description of where it comes from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from dbq import datasets
from dbq.export.container import StoredWeights
from dbq.export.verification import measure
from dbq.integer import execute
from dbq.integer.compile import Compiled, Widths, compile_network
from dbq.integer.planes import quantizer_of, take_apart

if TYPE_CHECKING:
    from dbq.settings import EngineSettings, Row


@dataclass(frozen=True)
class Packed:
    """weights: by layer. metadata: JSON-compatible; for a row as `pack_row` says, else whatever the caller likes to keep."""

    compiled: Compiled
    weights: dict[str, StoredWeights]
    metadata: dict = field(default_factory=dict)


def pack(
    network: nn.Module, image_shape: tuple[int, int, int], mean=None, std=None, widths: Widths | None = None, metadata: dict | None = None
) -> Packed:
    """Compile a quantized network in evaluation mode for images (3, H, W).

    mean, std: of [0, 1] pixels; with them the file runs on uint8 images. Raises DbqError as compile_network does.
    """
    compiled, weights = compile_network(network, image_shape, widths, mean, std), {}
    for operation in compiled.program.dot_products():
        layer = network.get_submodule(operation.layer)
        parts = take_apart(layer, operation.layer)
        scales = parts.scales.T[: parts.stored_scales // len(parts.planes)]  # (1, B) where all filters share them
        weights[operation.layer] = StoredWeights(quantizer_of(layer).storage_bits, scales.astype(np.float32))
    return Packed(compiled, weights, metadata or {})


def pack_row(row: Row, seed: int, network: nn.Module, data, settings: EngineSettings, provenance: dict[str, str]) -> Packed:
    """The trained network of one seed of a row, compiled for uint8 images, with its top1 on the test images in the prepared folder `data`.

    network: quantized, in evaluation mode. provenance: strings that say which weights, code and device these are (commit, digest, device).
    """
    prepared = datasets.load(data, ("test",), row.dataset, row.profile)
    manifest, widths = prepared.manifest, Widths(settings.fixed_point_bits, settings.accumulator_bits)
    metadata = {
        "row": row.key, "profile": row.profile, "network": row.network, "dataset": row.dataset, "method": row.method, "seed": seed,
        "activation_bits": row.activation_bits, "form": row.dataset_settings.form, "classes": manifest["class_names"],
        "mean": manifest["mean"], "std": manifest["std"],
        "provenance": {"data": manifest["source"], "data_label": manifest["label"], **provenance},
    }  # fmt: skip
    packed = pack(network, (3, manifest["image_size"], manifest["image_size"]), manifest["mean"], manifest["std"], widths, metadata)
    metadata["recorded"] = measure(lambda images: execute.run(packed.compiled.program, images), prepared)
    return packed
