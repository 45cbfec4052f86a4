"""A trained layer as integer constants: its batch norm as a gain and an offset, then multipliers, a bias and shifts in fixed point."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from dbq.datasets.arrays import Split
from dbq.datasets.loader import Batches
from dbq.errors import DbqError
from dbq.integer import fixed_point
from dbq.integer.planes import Parts
from dbq.integer.program import Value

FLOAT32_ROUNDING = 2.0**-24  # relative, of one operation of the training graph
BIAS_BITS = 8  # a bias has at least so many bits more than a multiplier, also where the sums are narrow


@dataclass(frozen=True)
class Fold:
    """Batch norm and the layer's own bias: y = gain * dot product + offset, per output channel, float64.

    magnitude: sum of the absolute terms of the offset, which bounds the training graph's rounding of it.
    """

    gain: np.ndarray
    offset: np.ndarray
    magnitude: np.ndarray


@torch.no_grad()
def fold(layer: nn.Module, name: str, norm: nn.Module | None, norm_name: str = "") -> Fold:
    """y = gamma * (dot + bias - mean) / sqrt(variance + epsilon) + beta.

    Raises DbqError for a batch norm without statistics, and for numbers that aren't finite.
    """

    def numbers(tensor: torch.Tensor | None, missing: float) -> np.ndarray:
        return np.full(len(layer.weight), missing) if tensor is None else tensor.cpu().double().numpy()

    bias, remedy = numbers(layer.bias, 0.0), "train the network again with a lower learning rate"
    if not np.isfinite(bias).all():
        raise DbqError(f"layer {name}: its bias is not finite", remedy)
    if norm is None:
        return Fold(np.ones(len(bias)), bias, np.abs(bias))
    if norm.running_mean is None:
        problem = f"layer {norm_name}: a batch norm without running statistics can't be folded into {name}"
        raise DbqError(problem, "build it with track_running_stats=True and train it")
    mean, beta = numbers(norm.running_mean, 0.0), numbers(norm.bias, 0.0)
    gain = numbers(norm.weight, 1.0) / np.sqrt(numbers(norm.running_var, 1.0) + norm.eps)
    if not np.isfinite([gain, mean, beta]).all():
        raise DbqError(f"layer {norm_name}: its statistics are not finite", remedy)
    return Fold(gain, beta + gain * (bias - mean), np.abs(beta) + np.abs(gain) * (np.abs(bias) + np.abs(mean)))


@dataclass(frozen=True)
class Slack:
    """How far the integers' exact result, before it is rounded, can be from the training graph's float32 result for the same inputs x.

    At most sum_k weights[c, k] * |x_k| + constant[c]. weights (C, K): the rounding of the multipliers and (K + 16) float32 roundings of
    the graph, times the magnitudes of the planes. constant (C,): the rounding of the bias and 16 float32 roundings of the batch norm.
    """

    weights: np.ndarray
    constant: np.ndarray


@dataclass(frozen=True)
class Constants:
    """The integers of DotProducts, the lsb and range of its results before saturation, and how far they are from the training graph."""

    multipliers: np.ndarray
    bias: np.ndarray
    shifts: np.ndarray
    accumulator_bits: int
    lsb: float
    low: int
    high: int
    slack: Slack


def constants(name: str, parts: Parts, folded: Fold, given: Value, lsb_out: float | None, bits: int) -> Constants:
    """For a layer whose inputs are the integers of the value `given`.

    lsb_out None (logits): the power of two at which the layer's largest multiplier uses all of its bits and no shift is needed.
    """
    factors = parts.scales * folded.gain * given.lsb
    accumulator_bits = fixed_point.accumulator_bits(parts.planes, given.low, given.high)
    if lsb_out is None:
        _, shift = fixed_point.mantissas([[np.abs(factors).max()]], bits)
        lsb_out = float(2.0 ** -int(shift[0]))
        factors, offset = factors / lsb_out, folded.offset / lsb_out
        shifts = np.zeros(factors.shape[1], np.int64)
    else:
        factors, offset = factors / lsb_out, folded.offset / lsb_out
        _, shifts = fixed_point.mantissas(factors, bits)
        # a bias that is far larger than the sums needs no more precision than sums of full width have
        _, exponents = np.frexp(offset)
        widest = bits + max(accumulator_bits, BIAS_BITS)
        shifts = np.where((shifts > 0) | (np.abs(factors).max(0) > 0), shifts, widest)
        shifts = np.where(offset != 0, np.minimum(shifts, widest - exponents), shifts)
        shifts = np.minimum(shifts, fixed_point.LARGEST_SHIFT)
    multipliers, bias = fixed_point.integers_at(factors, shifts), fixed_point.integers_at(offset, shifts)
    ends = np.stack(fixed_point.sum_range(parts.planes, min(given.low, 0), max(given.high, 0))).astype(object) * multipliers.astype(object)
    ends = np.stack([ends.min(0).sum(0), ends.max(0).sum(0)]) + bias
    product_bits = fixed_point.signed_bits(int(min(ends.min(), 0)), int(max(ends.max(), 0)))
    if product_bits > 62:
        problem = f"layer {name}: the scaled sums need {product_bits} bits, more than 62"
        raise DbqError(problem, f"lower engine.fixed_point_bits (now {bits})")
    results = fixed_point.round_shift(torch.from_numpy(ends.astype(np.int64)), torch.from_numpy(shifts))
    per_input = np.abs(factors - np.ldexp(multipliers.astype(np.float64), -shifts))  # of a multiplier, in units of lsb_out
    per_input += FLOAT32_ROUNDING * (parts.planes.shape[2] + 16) * np.abs(factors)
    weights = (per_input[:, :, None] * np.abs(parts.planes)).sum(0) * lsb_out / given.lsb
    constant = np.abs(offset - np.ldexp(bias.astype(np.float64), -shifts)) * lsb_out + FLOAT32_ROUNDING * 16 * folded.magnitude
    ends = (int(results.min()), int(results.max()))
    return Constants(multipliers, bias, shifts, accumulator_bits, lsb_out, *ends, Slack(weights, constant))


def pixel_table(step: float, low: int, high: int, mean, std) -> torch.Tensor:
    """(3, 256) int16: the quantized value of every pixel, with the float32 operations that normalise and quantize an image."""
    pixels = torch.arange(256, dtype=torch.uint8).expand(1, 3, 1, 256)
    images, _ = next(Batches(Split(pixels, torch.zeros(1, dtype=torch.int64)), 1, mean, std).in_order())
    return torch.mul(images[0, :, 0], 1 / step).round_().clamp_(low, high).to(torch.int16)
