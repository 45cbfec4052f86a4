"""Engines for dot products of a trained network: trained weights and real activations instead of random ones.

For each layer there is an engine with a weight port, and engines whose constants are the weights of one output channel. Images go through
the integer program of the network. Each simulated result, finished with the layer's bias and shift, must be the integer that the program
gave. One core measures a ResNet-20 in a quarter of an hour.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor

from dbq.errors import DbqError
from dbq.hardware import measure, table, tools
from dbq.hardware.design import Design
from dbq.hardware.simulation import compare
from dbq.hardware.synthesis import synthesise
from dbq.integer import fixed_point
from dbq.integer.execute import run
from dbq.integer.program import DotProducts, Program

ENGINES = (("port", "chain"), ("constant", "chain"), ("constant", "tree"))


class LayerVectors(NamedTuple):
    """n dot products of one layer. The first four fields are the arguments of simulate() and compare()."""

    design: Design
    activations: np.ndarray  # (n, length)
    planes: np.ndarray | None  # (n, branches, length); None: the design's constants
    scales: np.ndarray  # (n, branches)
    operation: DotProducts
    channels: np.ndarray  # (n,) output channel of each
    outputs: np.ndarray  # (n,) the program's integer at this image, channel and position

    def disagreeing(self, sums: np.ndarray) -> np.ndarray:
        """(n,) bool: whether a sum, after the layer's bias, shift, rounding and saturation, differs from the program's integer."""
        column = torch.from_numpy(self.channels)
        biased = torch.from_numpy(sums) + self.operation.bias.cpu()[column]
        finished = fixed_point.round_shift(biased, self.operation.shifts.cpu()[column]).numpy()
        if self.operation.low is not None:
            finished = finished.clip(self.operation.low, self.operation.high)
        return finished != self.outputs


def ternary_layers(program: Program) -> dict[str, DotProducts]:
    """The layers that a ternary engine can execute, in order."""
    return {item.layer: item for item in program.dot_products() if item.coding in ("ternary", "binary")}


def layers_by_length(program: Program) -> list[str]:
    """The first layer of every length of a dot product."""
    first = {}
    for name, operation in ternary_layers(program).items():
        first.setdefault(operation.planes[0, 0].numel(), name)
    return list(first.values())


def ternary_layer(program: Program, layer: str) -> DotProducts:
    """The layer of this name; DbqError if it doesn't exist or has no ternary or binary planes."""
    layers = ternary_layers(program)
    if layer not in layers:
        raise DbqError(f"layer {layer}: no dot products of ternary planes", f"choose one of {', '.join(layers) or 'another network'}")
    return layers[layer]


def median_channel(operation: DotProducts) -> int:
    """The output channel whose zero rate is nearest the median of the layer's channels; of several the first."""
    rates = (operation.planes == 0).cpu().double().transpose(0, 1).flatten(1).mean(1).numpy()
    return int(np.abs(rates - np.median(rates)).argmin())


def layer_vectors(
    program: Program, layer: str, values: dict, count: int, structure: str = "chain", channel: int | None = None
) -> LayerVectors:
    """`count` dot products of one layer, at random images and positions.

    values: the integers of run(program, images, keep=True). channel: the output channel whose weights are the engine's constants; None: a
    weight port, with the weights of at most measure.FILTERS random output channels, one after the other. The sign of a negative multiplier
    is moved into its plane. Bias, shift and saturation are no part of the engine; LayerVectors.disagreeing applies them.
    """
    operation = ternary_layer(program, layer)
    random = np.random.default_rng(0)
    multipliers = operation.multipliers.cpu().numpy()
    signs = np.where(multipliers < 0, -1, 1)[:, :, None]
    planes = operation.planes.cpu().numpy().astype(np.int64).reshape(*multipliers.shape, -1) * signs
    chosen = np.arange(multipliers.shape[1]) if channel is None else np.array([channel])
    chosen = np.sort(random.choice(chosen, min(measure.FILTERS, len(chosen), count), replace=False))
    channels = chosen[np.arange(count) * len(chosen) // count]
    name = operation.inputs[0]
    activations, outputs = _windows(operation, values[name].cpu().numpy(), values[operation.output].cpu().numpy(), channels, random)
    value = program.values[name]
    signed = value.low < 0
    bits = max(1, int(value.high).bit_length(), int(-value.low - 1).bit_length() if signed else 0) + int(signed)
    constants, rows = (None, planes[:, channels].transpose(1, 0, 2)) if channel is None else (planes[:, channel], None)
    design = Design(planes.shape[2], bits, len(planes), signed, program.fixed_point_bits, structure, planes=constants)
    return LayerVectors(design, activations, rows, np.abs(multipliers)[:, channels].T, operation, channels, outputs)


def _windows(operation: DotProducts, x: np.ndarray, y: np.ndarray, channels: np.ndarray, random: np.random.Generator):
    """int64 inputs (count, length) at a random image and position for each of the channels, and the layer's outputs (count,) there."""
    images = random.integers(len(x), size=len(channels))
    if operation.planes.ndim == 3:
        return x[images].astype(np.int64), y[images, channels].astype(np.int64)
    (top, left), (down, right), (dy, dx) = operation.padding, operation.stride, operation.dilation
    outputs, depth, height, width = operation.planes.shape[1:]
    padded = np.pad(x, ((0, 0), (0, 0), (top, top), (left, left)))
    windows = sliding_window_view(padded, ((height - 1) * dy + 1, (width - 1) * dx + 1), axis=(2, 3))[:, :, ::down, ::right, ::dy, ::dx]
    row, column = random.integers(windows.shape[2], size=len(channels)), random.integers(windows.shape[3], size=len(channels))
    first = channels // (outputs // operation.groups) * depth
    inputs = first[:, None] + np.arange(depth)
    taken = windows[images[:, None], inputs, row[:, None], column[:, None]].reshape(len(channels), -1)
    return taken.astype(np.int64), y[images, channels, row, column].astype(np.int64)


def measure_layer(program: Program, values: dict, layer: str, kind: str, structure: str, count: int) -> dict:
    """layer, channel and table.COLUMNS of one engine. zero_rate: of all planes of the layer, or of those that are constants."""
    operation = ternary_layer(program, layer)
    channel = median_channel(operation) if kind == "constant" else None
    planes = operation.planes if channel is None else operation.planes[:, channel]
    count = measure.vectors_of(kind, count)
    vectors = layer_vectors(program, layer, values, count, structure=structure, channel=channel)
    sums, wrong = compare(*vectors[:4])
    mismatches = int((wrong | vectors.disagreeing(sums)).sum())
    zero_rate = round(float((planes == 0).double().mean()), 4)
    found = table.row(vectors.design, zero_rate, synthesise(vectors.design), count, mismatches)
    return {"layer": layer, "channel": "all" if channel is None else str(channel), **found}


def measure_trained(
    program: Program, images: Tensor, about: dict, layers: Iterable[str] | None = None, count: int = measure.VECTORS, jobs: int = 1,
    report: measure.Report = None,
) -> list[dict]:  # fmt: skip
    """Rows with table.TRAINED_COLUMNS for a trained network.

    program: compiled with multipliers of as many bits as the cost counts for a scale. images: normalised validation images, 100 suffice (a
    layer of ResNet-20 has 64 to 1,024 positions in each). about: the columns row, seed, weights and data_source. layers: by default
    layers_by_length(). count: dot products for a weight port, and a tenth of it for constants.
    """
    if count < 1:
        raise DbqError(f"count: {count} is out of range", "it must be 1 or more")
    tools.find(*tools.TOOLS)
    layers = list(layers or layers_by_length(program))
    for layer in layers:
        ternary_layer(program, layer)
    _, values = run(program, images, keep=True)
    cases = [(layer, *engine) for layer in layers for engine in ENGINES]
    return measure.in_parallel(lambda case: about | measure_layer(program, values, *case, count), cases, jobs, report)
