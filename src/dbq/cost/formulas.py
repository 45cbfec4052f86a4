"""The four costs of a layer and of a network: C_C and C_S in 1-bit full adders (FA), C_R and C_M in bits.

Fixed point follows C. Sakr's published evaluation code: a dot product of length D with Bw-bit weights and Bx-bit inputs takes D*Bw*Bx FA
for its products and (D-1)*(Bx+Bw+ceil(log2 D)-1) FA for their sum.

The ternary engine is our choice (ASSUMPTION: the body of the DBQ paper would decide). A branch takes (D-1)*(Bx+ceil(log2 D)) FA for its
sum. Each sum is multiplied by its scale, and the scaled sums are added. A branch without non-zeros costs nothing, not even the
multiplication by its scale. Binary planes ({-1, 1}) run on the same engine: they have no zeros to leave out, and a weight is stored in 1
bit a plane.

The reading signed_digits counts fixed-point weights on the ternary engine too. In canonical signed digits an integer is a sum of ternary
planes whose scales are powers of two: a shift, which costs nothing. Zero digits cost nothing either. The planes are summed and their sums
added as those of branches are; the sum of plane p is p bits wider (ASSUMPTION, as above). A weight of Bw bits has Bw digits, which c_c
counts all. Ternary and binary weights cost what they cost in adder_only.

A counted bias is one more product in fixed point (D + 1, as in that code), also of a filter that is all zero. In the ternary engine it is
one more addition at the width of the scaled sum, or at Bx bits where all branches of the filter are empty (ASSUMPTION, as above).
"""

from dataclasses import dataclass

import numpy as np

from dbq.errors import DbqError
from dbq.networks.count import LayerShape

TERNARY_READINGS = ("adder_only", "two_bit_multiplier")
READINGS = (*TERNARY_READINGS, "signed_digits")
TERNARY_BITS = 2  # of a ternary weight as a factor
PLANES = ("ternary", "binary")  # kinds of weights that are summed plane by plane
FLOAT_BITS = 32


@dataclass(frozen=True)
class LayerWeights:
    """What the formulas need to know of a layer's weights.

    kind: fixed_point, ternary, binary or float. bits: storage of one weight, all planes together; a fixed-point weight is a factor of the
    same width. nonzeros (max(1, branches), channels_out): the non-zero weights of each branch and filter. scales: number of stored scales.
    digits (planes, channels_out): the non-zero signed digits of fixed-point weights, plane by plane and filter by filter.
    """

    kind: str
    bits: int
    branches: int
    nonzeros: np.ndarray
    scales: int
    digits: np.ndarray | None = None


def ceil_log2(values) -> np.ndarray:
    """Exact ceil(log2 D) of positive integers, by comparison with powers of two; 0 for D <= 1."""
    values = np.asarray(values, np.int64)
    return sum((values > (1 << power)).astype(np.int64) for power in range(62))


def signed_digit_planes(integers) -> np.ndarray:
    """Canonical signed digits (planes, ...) in {-1, 0, 1} of integers (...), which are sum_p 2^p * planes[p]; at least one plane.

    No two neighbouring digits of an integer are both non-zero, so that no sum of signed powers of two has fewer terms.
    """
    rest, planes = np.asarray(integers, np.int64), []
    while rest.any() or not planes:
        planes.append((rest & 1) * (2 - (rest & 3)))  # an odd rest loses 1 or -1 so that the next digit is 0
        rest = (rest - planes[-1]) >> 1
    return np.stack(planes).astype(np.int8)


def fixed_point_adders(length, weight_bits: int, activation_bits: int) -> np.ndarray:
    """FA of dot products of these lengths: D*Bw*Bx + (D-1)*(Bx+Bw+ceil(log2 D)-1), elementwise; 0 for length 0."""
    length = np.asarray(length, np.int64)
    adders = length * weight_bits * activation_bits + (length - 1) * (activation_bits + weight_bits + ceil_log2(length) - 1)
    return np.where(length > 0, adders, 0)


def ternary_adders(length, activation_bits: int, reading: str) -> np.ndarray:
    """FA of sums of so many ternary products of one branch, without the scale; elementwise; 0 for length 0."""
    length = np.asarray(length, np.int64)
    if reading == "two_bit_multiplier":
        return fixed_point_adders(length, TERNARY_BITS, activation_bits)
    return np.where(length > 0, (length - 1) * (activation_bits + ceil_log2(length)), 0)


def _additions(widths: np.ndarray, activation_bits: int, count_bias: bool) -> np.ndarray:
    """FA (dot products,) of adding sums of these widths (branches, dot products), 0 where there is no sum, and a counted bias."""
    used = widths > 0
    count = np.maximum(used.sum(0) - 1, 0) + int(count_bias)
    return count * np.where(used.any(0), widths.max(0), activation_bits)


def scale_adders(lengths: np.ndarray, activation_bits: int, scale_bits: int, count_bias: bool) -> np.ndarray:
    """FA (dot products,) of scaling and adding the branch sums of lengths (branches, dot products).

    A sum of D ternary products is Bx + 1 + ceil(log2 D) bits wide, and its product with the scale is Bscale bits wider. The products of
    the branches in use are added at the width of the widest, and so is a counted bias.
    """
    widths = np.where(lengths > 0, activation_bits + 1 + ceil_log2(lengths), 0)
    return widths.sum(0) * scale_bits + _additions(np.where(widths > 0, widths + scale_bits, 0), activation_bits, count_bias)


def dot_product_adders(lengths, weights: LayerWeights, activation_bits: int, reading: str, count_bias: bool, scale_bits: int) -> np.ndarray:
    """FA (dot products,) of dot products with so many non-zero weights or digits: lengths (branches or planes, dot products)."""
    if weights.kind == "fixed_point" and reading != "signed_digits":
        return fixed_point_adders(lengths[0] + int(count_bias), weights.bits, activation_bits)
    sums = sum(ternary_adders(length, activation_bits, reading) for length in lengths)
    if weights.kind != "fixed_point":
        return sums + scale_adders(lengths, activation_bits, scale_bits, count_bias)
    widths = activation_bits + 1 + ceil_log2(lengths) + np.arange(len(lengths))[:, None]
    return sums + _additions(np.where(lengths > 0, widths, 0), activation_bits, count_bias)


def layer_cost(shape: LayerShape, weights: LayerWeights, activation_bits: int, reading: str, count_bias: bool, scale_bits: int) -> dict:
    """c_c and c_s in FA, c_r and c_m in bits; c_c and c_s are None for float weights: no formula here has float products.

    With count_bias each output channel has one bias, of the layer or of its folded batch norm, as wide as a weight. Raises DbqError for an
    unknown reading (even where no weight is ternary), an unknown kind of weights, and non-zeros or digits that don't fit the layer.
    """
    if reading not in READINGS:
        raise DbqError(f"cost.reading: unknown value {reading!r}", f"choose one of {', '.join(READINGS)}")
    if weights.kind not in ("float", "fixed_point", *PLANES):
        raise DbqError(f"layer {shape.name}: unknown kind of weights {weights.kind!r}", "it is fixed_point, ternary, binary or float")
    storage = weights.bits * (shape.weights + (shape.channels_out if count_bias else 0))
    row = {"c_c": None, "c_s": None, "c_r": storage + activation_bits * shape.inputs, "c_m": storage + scale_bits * weights.scales}
    if weights.kind == "float":
        return row
    smallest, planes = (shape.length if weights.kind == "binary" else 0), (max(1, weights.branches) if weights.kind in PLANES else 1)
    sparse = _fitting(shape, "non-zeros", weights.nonzeros, smallest, range(planes, planes + 1))
    if weights.kind == "fixed_point" and reading == "signed_digits":
        planes = weights.bits
        sparse = _fitting(shape, "its signed digits", weights.digits, 0, range(1, planes + 1))
    for name, lengths in (("c_c", np.full((planes, shape.channels_out), shape.length)), ("c_s", sparse)):
        adders = dot_product_adders(lengths, weights, activation_bits, reading, count_bias, scale_bits)
        row[name] = int(adders.sum()) * (shape.outputs // shape.channels_out)
    return row


def _fitting(shape: LayerShape, what: str, counts, smallest: int, planes: range) -> np.ndarray:
    """Counts (planes, channels_out) of a layer as int64; DbqError for another shape, and for counts that no filter can have."""
    counts = np.asarray(() if counts is None else counts, np.int64)
    fits = counts.ndim == 2 and len(counts) in planes and counts.shape[1] == shape.channels_out
    if not fits or counts.min() < smallest or counts.max() > shape.length:
        found = f"{counts.shape} from {counts.min(initial=shape.length)} to {counts.max(initial=0)}"
        remedy = f"pass counts ({planes[-1]}, {shape.channels_out}) from {smallest} to {shape.length}"
        raise DbqError(f"layer {shape.name}: {what} {found} don't fit", remedy)
    return counts


def total(rows: list[dict]) -> dict:
    """The four costs of a network from those of its layers; c_c and c_s are None when a layer is float."""
    columns = {name: [row[name] for row in rows] for name in ("c_c", "c_s", "c_r", "c_m")}
    return {name: None if None in values else sum(values) for name, values in columns.items()}


def readings(layers: list[tuple[LayerShape, LayerWeights, int]], scale_bits: int) -> list[dict]:
    """The totals of layers (shape, weights, activation bits) under every reading, with the bias counted and not."""
    choices = [(reading, count_bias) for reading in READINGS for count_bias in (False, True)]
    costs = [total([layer_cost(*layer, *choice, scale_bits) for layer in layers]) for choice in choices]
    return [{"reading": reading, "count_bias": bias, **cost} for (reading, bias), cost in zip(choices, costs, strict=True)]
