"""Integers of a few bits each in bytes, without gaps.

An integer v is stored as its code (v - low) / step, an unsigned number of `bits` bits. Code number i takes the bits i * bits to
(i + 1) * bits - 1 of the bytes, its lowest bit first; bit 0 of a byte is its lowest one. The last byte is filled up with zeros.
"""

from dataclasses import dataclass

import numpy as np

from dbq.errors import DbqError

WIDEST = 63
LONGEST_CONSTANT = 1 << 20  # equal values that no byte stands for: their number is only a claim of the file
REMEDY = "export the model again"


@dataclass(frozen=True)
class Code:
    """value = low + step * code, and a code has `bits` bits (0 where all values are equal)."""

    bits: int
    low: int
    step: int = 1

    def __post_init__(self):
        if not (0 <= self.bits <= WIDEST and self.step >= 1):
            raise DbqError(f"a code of {self.bits} bits with the step {self.step}", f"use 0 to {WIDEST} bits and a step of at least 1")


TERNARY = Code(2, -1)
BINARY = Code(1, -1, 2)


def fixed_point(bits: int) -> Code:
    """Two's complement integers of this width (with the highest bit inverted)."""
    return Code(bits, -(1 << (bits - 1)))


def narrowest(values: np.ndarray) -> Code:
    """The code with the fewest bits for the range of these integers."""
    low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
    return Code((high - low).bit_length(), low)


def pack(values: np.ndarray, code: Code) -> np.ndarray:
    """Integers of any shape in C order -> (bytes,) uint8. Raises DbqError for a value that has no code."""
    flat = np.ascontiguousarray(values, np.int64).ravel()
    codes, rest = np.divmod(flat - code.low, code.step)
    if rest.any() or (codes < 0).any() or (codes >= 1 << code.bits).any():
        raise DbqError(
            f"integers from {flat.min()} to {flat.max()} don't fit {code.bits} bits from {code.low} in steps of {code.step}",
            "the model file is damaged; train it again",
        )
    bits = np.unpackbits(codes.astype("<i8").view(np.uint8).reshape(-1, 8), axis=1, count=code.bits, bitorder="little")
    return np.packbits(bits, bitorder="little")


def unpack(data: np.ndarray, code: Code, shape: tuple[int, ...]) -> np.ndarray:
    """The inverse of pack: int64 integers of this shape.

    Raises DbqError, before memory is taken, for another number of bytes than the shape needs.
    """
    count = int(np.prod(shape, dtype=object))
    size = -(-count * code.bits // 8)
    if data.dtype != np.uint8 or data.shape != (size,):
        raise DbqError(f"{data.size} bytes where {shape} in {code.bits} bits needs {size}", REMEDY)
    if code.bits == 0 and count > LONGEST_CONSTANT:
        raise DbqError(f"{shape} values in 0 bits", REMEDY)
    bits = np.unpackbits(data, count=count * code.bits, bitorder="little").reshape(count, code.bits)
    codes = np.zeros((count, 8), np.uint8)
    packed = np.packbits(bits, axis=1, bitorder="little")
    codes[:, : packed.shape[1]] = packed
    return (code.low + code.step * codes.view("<i8")).reshape(shape)
