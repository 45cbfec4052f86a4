"""Vectors of a trained network: the dot products that the integer engine executes, as inputs of a hardware engine."""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from dbq.engine.hardware.design import Design
from dbq.engine.program import DotProducts, Program
from dbq.errors import DbqError


def layer_vectors(program: Program, layer: str, values: dict, count: int, seed: int = 0, filters: int = 100, structure: str = "chain"):
    """(design, activations, planes, scales) of `count` dot products of one layer, for simulate() and mismatches().

    values: integers by name of Program.run(images, keep=True). The dot products are drawn at random over images and positions, and over at
    most `filters` output channels in runs of equal weights. A negative multiplier is moved into its plane. Bias, shift and saturation
    follow the engine and are no part of it. Raises DbqError for a layer that has no ternary or binary planes.
    """
    operation = next((item for item in program.dot_products() if item.layer == layer), None)
    if operation is None or operation.coding not in ("ternary", "binary"):
        names = [item.layer for item in program.dot_products() if item.coding in ("ternary", "binary")]
        raise DbqError(f"layer {layer}: no dot products of ternary planes", f"choose one of {', '.join(names) or 'another network'}")
    random = np.random.default_rng(seed)
    planes, multipliers = operation.planes.cpu().numpy().astype(np.int64), operation.multipliers.cpu().numpy()
    branches, channels = planes.shape[:2]
    chosen = np.sort(random.choice(channels, min(filters, channels, count), replace=False))
    channel = chosen[np.arange(count) * len(chosen) // count]
    name = operation.inputs[0]
    activations = _windows(operation, values[name].cpu().numpy().astype(np.int64), channel, random)
    value = program.values[name]
    signed = value.low < 0
    bits = max(1, int(value.high).bit_length(), int(-value.low - 1).bit_length() if signed else 0) + int(signed)
    scale_bits = max(1, int(np.abs(multipliers).max()).bit_length())
    design = Design(activations.shape[1], bits, branches, signed=signed, scale_bits=scale_bits, structure=structure)
    signs = np.where(multipliers < 0, -1, 1)[:, :, None]
    rows = (planes.reshape(branches, channels, -1) * signs)[:, channel].transpose(1, 0, 2)
    return design, activations, rows, np.abs(multipliers)[:, channel].T


def _windows(operation: DotProducts, x: np.ndarray, channel: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """(count, length) inputs of a random image and position for each output channel."""
    images = random.integers(len(x), size=len(channel))
    if operation.planes.ndim == 3:
        return x[images]
    (top, left), (down, right), (dy, dx) = operation.padding, operation.stride, operation.dilation
    channels, depth, height, width = operation.planes.shape[1:]
    padded = np.pad(x, ((0, 0), (0, 0), (top, top), (left, left)))
    windows = sliding_window_view(padded, ((height - 1) * dy + 1, (width - 1) * dx + 1), axis=(2, 3))[:, :, ::down, ::right, ::dy, ::dx]
    row, column = random.integers(windows.shape[2], size=len(channel)), random.integers(windows.shape[3], size=len(channel))
    first = channel // (channels // operation.groups) * depth
    inputs = first[:, None] + np.arange(depth)
    return windows[images[:, None], inputs, row[:, None], column[:, None]].reshape(len(channel), -1)
