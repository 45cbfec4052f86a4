"""Vectors of a trained network: the dot products that the integer engine executes, as inputs of a hardware engine."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view

from dbq.errors import DbqError
from dbq.hardware.design import Design
from dbq.integer import fixed_point
from dbq.integer.program import DotProducts, Program


class LayerVectors(NamedTuple):
    """The first four are the arguments of simulate() and compare(); n dot products."""

    design: Design
    activations: np.ndarray  # (n, length)
    planes: np.ndarray | None  # (n, branches, length); None: the design's constants
    scales: np.ndarray  # (n, branches)
    operation: DotProducts
    channels: np.ndarray  # (n,) output channel of each
    outputs: np.ndarray  # (n,) what the integer engine gave at this image, channel and position

    def disagreeing(self, sums: np.ndarray) -> np.ndarray:
        """(n,) bool: with the layer's bias, shift, rounding and saturation the sum is another integer than the integer engine gave."""
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
    """For every length of a dot product the first layer that has it."""
    first = {}
    for name, operation in ternary_layers(program).items():
        first.setdefault(operation.planes[0, 0].numel(), name)
    return list(first.values())


def ternary_layer(program: Program, layer: str) -> DotProducts:
    """Raises DbqError for a layer that doesn't exist or has no ternary or binary planes."""
    layers = ternary_layers(program)
    if layer not in layers:
        raise DbqError(f"layer {layer}: no dot products of ternary planes", f"choose one of {', '.join(layers) or 'another network'}")
    return layers[layer]


def median_channel(operation: DotProducts) -> int:
    """The output channel whose zero rate is nearest the median of the layer's channels; the first of several."""
    rates = (operation.planes == 0).cpu().double().transpose(0, 1).flatten(1).mean(1).numpy()
    return int(np.abs(rates - np.median(rates)).argmin())


def layer_vectors(
    program: Program,
    layer: str,
    values: dict,
    count: int,
    seed: int = 0,
    filters: int = 100,
    structure: str = "chain",
    channel: int | None = None,
) -> LayerVectors:
    """`count` dot products of one layer. channel: an engine with the weights of this output channel as constants; None: a weight port.

    values: integers by name of Program.run(images, keep=True). The dot products are drawn at random over images and positions, and for
    a port over at most `filters` output channels in runs of equal weights. A negative multiplier is moved into its plane. Bias, shift and
    saturation follow the engine and are no part of it (LayerVectors.disagreeing applies them). Raises DbqError for a layer that has no
    ternary or binary planes.
    """
    operation = ternary_layer(program, layer)
    random = np.random.default_rng(seed)
    multipliers = operation.multipliers.cpu().numpy()
    signs = np.where(multipliers < 0, -1, 1)[:, :, None]
    planes = operation.planes.cpu().numpy().astype(np.int64).reshape(*multipliers.shape, -1) * signs
    chosen = np.arange(multipliers.shape[1]) if channel is None else np.array([channel])
    chosen = np.sort(random.choice(chosen, min(filters, len(chosen), count), replace=False))
    channels = chosen[np.arange(count) * len(chosen) // count]
    name = operation.inputs[0]
    activations, outputs = _windows(operation, values[name].cpu().numpy(), values[operation.output].cpu().numpy(), channels, random)
    value = program.values[name]
    signed = value.low < 0
    bits = max(1, int(value.high).bit_length(), int(-value.low - 1).bit_length() if signed else 0) + int(signed)
    constants = None if channel is None else planes[:, channel]
    design = Design(
        planes.shape[2], bits, len(planes), signed=signed, scale_bits=program.fixed_point_bits, structure=structure, planes=constants
    )
    rows = planes[:, channels].transpose(1, 0, 2) if channel is None else None
    return LayerVectors(design, activations, rows, np.abs(multipliers)[:, channels].T, operation, channels, outputs)


def _windows(operation: DotProducts, x: np.ndarray, y: np.ndarray, channels: np.ndarray, random: np.random.Generator):
    """Inputs (count, length) of a random image and position for each output channel, and the layer's outputs (count,) there; int64."""
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
