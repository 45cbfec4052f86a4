"""Fixed-point arithmetic: how a real factor becomes an integer, how an integer is rounded, and how wide a sum gets.

A factor f is a mantissa M and a shift s with f = M / 2^s. The mantissa is normalised: its magnitude uses all of `fixed_point_bits` bits.
Its sign takes no bit of them, because a negated sum needs no multiplier. The factors of one output channel (one for each branch) share the
shift, which is chosen for the largest of them, so that their products can be added before one shifter. Hardware builds the same: B integer
multiplications, B - 1 additions, the addition of the bias, and one shift with rounding.
"""

import numpy as np
import torch
from torch import Tensor

FLOAT32_BITS = 24  # width of a mantissa of the training graph's own numbers
LARGEST_SHIFT = 61  # that an int64 allows


def mantissas(factors, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Integers M (B, C) and shifts s (C,) with factors (B, C) = M / 2^s but for rounding.

    Every |M| is below 2^bits, and the largest |M| of a channel is at least 2^(bits-1). So the relative error of a channel's largest factor
    is at most 2^-bits. A channel of zeros has M = 0 and s = 0.
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
    """values / 2^shifts in int64, rounded to the nearest integer, ties to even. A negative shift multiplies. shifts broadcast."""
    right, left = shifts.clamp_min(0), (-shifts).clamp_min(0)
    quotient = values >> right  # towards minus infinity
    rest = values - (quotient << right)
    half = (torch.ones_like(right) << right) >> 1
    up = (rest > half) | ((rest == half) & (quotient & 1).bool())
    return (quotient + (up & (right > 0)).long()) << left


def signed_bits(low: int, high: int) -> int:
    """Bits of the narrowest two's complement integer that holds every value from low to high."""
    return max(int(max(high, 0)).bit_length(), int(-low - 1).bit_length() if low < 0 else 0) + 1


def sum_range(planes, low: int, high: int) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest sums (B, C) that integer planes (B, C, K) give for any inputs from low to high."""
    planes = np.asarray(planes, np.int64)
    positive, negative = np.where(planes > 0, planes, 0).sum(2), np.where(planes < 0, planes, 0).sum(2)
    return positive * low + negative * high, positive * high + negative * low


def accumulator_bits(planes, low: int, high: int) -> int:
    """Bits of the two's complement accumulator that no inputs from low to high can overflow, in whatever order they are added.

    0 always counts as a possible input: without it a partial sum could leave the range of the full sum.
    """
    smallest, largest = sum_range(planes, min(low, 0), max(high, 0))
    return signed_bits(int(smallest.min()), int(largest.max()))
