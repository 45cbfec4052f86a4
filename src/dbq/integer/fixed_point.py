"""The fixed-point arithmetic of the engine: how a real factor becomes an integer, how an integer is rounded, how wide a sum gets.

A factor f is a mantissa M and a shift s with f = M / 2^s. The mantissa is normalised: its magnitude uses all of `fixed_point_bits` bits,
the sign stands beside it (negating a sum needs no multiplier). The factors of one output channel (one per branch) share the shift, chosen
for the largest of them, so that their products are added before one shifter; channels have shifts of their own. This is what hardware
builds: B integer multiplications, B - 1 additions, the bias, one shift with rounding.
"""

import numpy as np
import torch
from torch import Tensor

from dbq.errors import DbqError

BITS = (2, 32)  # smallest and largest width of a mantissa
FLOAT32_BITS = 24  # of the training graph's own numbers
LARGEST_SHIFT = 61  # of an int64


def check_bits(bits) -> int:
    """Raise DbqError unless the mantissas' width is one that can be used."""
    low, high = BITS
    if not isinstance(bits, int) or isinstance(bits, bool) or not low <= bits <= high:
        raise DbqError(
            f"engine.fixed_point_bits: {bits!r} is not a whole number from {low} to {high}",
            "24 is as fine as float32; `smallest_width` finds what a network needs",
        )
    return bits


def mantissas(factors, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Integers M (B, C) and shifts s (C,) with factors (B, C) = M / 2^s, |M| < 2^bits, and the largest |M| of a channel >= 2^(bits-1).

    A channel of zeros has M = 0 and s = 0. The relative error of a channel's largest factor is at most 2^-bits.
    """
    factors = np.asarray(factors, np.float64)
    largest = np.abs(factors).max(0)
    _, exponents = np.frexp(largest)  # largest = m * 2^e with 0.5 <= m < 1
    shifts = np.minimum(bits - exponents.astype(np.int64), LARGEST_SHIFT)
    shifts -= np.rint(np.ldexp(largest, shifts)) >= 2.0**bits  # rounded up to the next power of two
    shifts = np.where(largest > 0, shifts, 0)
    return integers_at(factors, shifts), shifts


def integers_at(values, shifts) -> np.ndarray:
    """round(values * 2^shifts), ties to even, as int64."""
    return np.rint(np.ldexp(np.asarray(values, np.float64), shifts)).astype(np.int64)


def round_shift(values: Tensor, shifts: Tensor) -> Tensor:
    """values / 2^shifts rounded to integers, ties to even, in int64; a negative shift multiplies. shifts broadcast."""
    right, left = shifts.clamp_min(0), (-shifts).clamp_min(0)
    quotient = values >> right  # towards minus infinity
    rest = values - (quotient << right)
    half = (torch.ones_like(right) << right) >> 1
    up = (rest > half) | ((rest == half) & (quotient & 1).bool())
    return (quotient + (up & (right > 0)).long()) << left


def signed_bits(low: int, high: int) -> int:
    """Bits of the narrowest two's complement integer that holds every value from low to high."""
    return max(int(max(high, 0)).bit_length(), int(-low - 1).bit_length() if low < 0 else 0) + 1


def unsigned_aware_bits(low: int, high: int) -> int:
    """As signed_bits, without a sign bit where no value is negative."""
    return int(high).bit_length() if low >= 0 else signed_bits(low, high)


def sum_range(planes, low: int, high: int) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest sums (B, C) of integer planes (B, C, K) times inputs from low to high: the worst case over all inputs."""
    planes = np.asarray(planes, np.int64)
    positive, negative = np.where(planes > 0, planes, 0).sum(2), np.where(planes < 0, planes, 0).sum(2)
    return positive * low + negative * high, positive * high + negative * low


def accumulator_bits(planes, low: int, high: int) -> int:
    """Bits of the two's complement accumulator that no input between low and high can overflow, in whatever order it adds.

    A partial sum may leave the range of the full sum where inputs have no zero, so 0 is always among the inputs.
    """
    smallest, largest = sum_range(planes, min(low, 0), max(high, 0))
    return signed_bits(int(smallest.min()), int(largest.max()))
