"""Integers of a few bits each in bytes, without gaps.

An integer v is stored as its code (v - low) / step, an unsigned number of `bits` bits. Code number i takes the bits i * bits to
(i + 1) * bits - 1 of the bytes, its lowest bit first; bit 0 of a byte is its lowest one. The last byte is filled up with zeros.
"""

from dataclasses import dataclass

import numpy as np

from dbq.errors import DbqError

BLOCK = 1 << 18  # codes at a time, a multiple of 8: what is spread out to one byte a bit stays small
WIDEST = 63
LONGEST_CONSTANT = 1 << 20  # equal values that no byte stands for: their number is only a claim of the file


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
    low = int(values.min(initial=0)) if values.size == 0 else int(values.min())
    return Code((int(values.max()) - low).bit_length() if values.size else 0, low)


def packed_bytes(count: int, bits: int) -> int:
    return -(-count * bits // 8)


def pack(values: np.ndarray, code: Code) -> np.ndarray:
    """Integers of any shape in C order -> (bytes,) uint8. Raises DbqError for a value that has no code."""
    flat = np.ascontiguousarray(values, np.int64).ravel()
    offsets = flat - code.low
    if (offsets % code.step).any() or (offsets < 0).any() or (offsets // code.step >= 1 << code.bits).any():
        raise DbqError(
            f"integers from {flat.min()} to {flat.max()} don't fit {code.bits} bits from {code.low} in steps of {code.step}",
            "the model file is damaged; train it again",
        )
    codes, places = offsets // code.step, np.arange(code.bits)
    parts = [
        np.packbits(((codes[start : start + BLOCK, None] >> places) & 1).astype(np.uint8).ravel(), bitorder="little")
        for start in range(0, len(codes), BLOCK)
    ]
    return np.concatenate(parts) if parts else np.zeros(0, np.uint8)


def unpack(data: np.ndarray, code: Code, shape: tuple[int, ...]) -> np.ndarray:
    """The inverse of pack: int64 integers of this shape.

    Raises DbqError, before memory is taken, for another number of bytes than the shape needs.
    """
    count = int(np.prod(shape, dtype=object))
    if data.dtype != np.uint8 or data.ndim != 1 or len(data) != packed_bytes(count, code.bits):
        raise DbqError(
            f"{len(data.ravel())} bytes where {shape} in {code.bits} bits needs {packed_bytes(count, code.bits)}", "export the model again"
        )
    if code.bits == 0 and count > LONGEST_CONSTANT:
        raise DbqError(f"{shape} values in 0 bits", "export the model again")
    codes = np.zeros(count, np.int64)
    places = np.int64(1) << np.arange(code.bits, dtype=np.int64)
    for start in range(0, count, BLOCK):
        stop = min(start + BLOCK, count)
        piece = data[start * code.bits // 8 : packed_bytes(stop, code.bits)]  # BLOCK codes end with a byte
        bits = np.unpackbits(piece, bitorder="little")[: (stop - start) * code.bits]
        codes[start:stop] = bits.reshape(stop - start, code.bits) @ places if code.bits else 0
    return (code.low + code.step * codes).reshape(shape)
