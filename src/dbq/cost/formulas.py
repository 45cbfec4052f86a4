"""The four costs of a network in 1-bit full adders (FA) and bits (DESIGN section 3).

    python -m dbq.cost.formulas mobilenet_v1 --weight-bits 8 --activation-bits 8 --count-bias

prints the totals of any network without training it, in 2 s.

Fixed point is the formula of C. Sakr's evaluation code (SIBLING): D*Bw*Bx products and (D-1)*(Bx+Bw+ceil(log2 D)-1) for their sum.
The ternary engine is an ASSUMPTION: per branch (D-1)*(Bx+ceil(log2 D)), one multiplication of the branch's sum by its scale, and the
addition of the scaled sums. A branch without non-zeros costs nothing, its scale multiplication included. Binary planes ({-1, 1}) run on the
same engine: they have no zeros to leave out, and are stored in 1 bit a weight and plane.

A counted bias is one more product in fixed point (D + 1, SIBLING), also of a filter that is all zero. In the ternary engine it is one
more addition at the width of the scaled sum, or at Bx bits where all branches of the filter are empty (ASSUMPTION).
"""

import argparse
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from dbq.errors import DbqError, main_with_errors
from dbq.networks.count import LayerShape

READINGS = ("adder_only", "two_bit_multiplier")
TERNARY_BITS = 2  # of a ternary weight as a factor
PLANES = ("ternary", "binary")  # kinds of weights that are summed plane by plane
FLOAT_BITS = 32


@dataclass(frozen=True)
class LayerWeights:
    """kind: fixed_point, ternary, binary or float. bits: storage of one weight, all planes together; of a fixed-point weight also its width
    as a factor. nonzeros (max(1, branches), channels_out): non-zero weights of each filter and branch. scales: number of stored scales."""

    kind: str
    bits: int
    branches: int
    nonzeros: np.ndarray
    scales: int


def ceil_log2(values) -> np.ndarray:
    """Exact ceil(log2 D) of positive integers, by comparison with powers of two; 0 for D <= 1."""
    values = np.asarray(values, np.int64)
    return sum((values > (1 << power)).astype(np.int64) for power in range(62))


def fixed_point_adders(length, weight_bits: int, activation_bits: int) -> np.ndarray:
    """FA of dot products of these lengths: D*Bw*Bx + (D-1)*(Bx+Bw+ceil(log2 D)-1), elementwise; 0 for length 0."""
    length = np.asarray(length, np.int64)
    adders = length * weight_bits * activation_bits + (length - 1) * (activation_bits + weight_bits + ceil_log2(length) - 1)
    return np.where(length > 0, adders, 0)


def ternary_adders(length, activation_bits: int, reading: str) -> np.ndarray:
    """FA of the ternary sums of one branch of these lengths, without the scale; 0 for length 0."""
    length = np.asarray(length, np.int64)
    if reading == "two_bit_multiplier":
        return fixed_point_adders(length, TERNARY_BITS, activation_bits)
    _check_reading(reading)
    return np.where(length > 0, (length - 1) * (activation_bits + ceil_log2(length)), 0)


def _check_reading(reading: str) -> None:
    if reading not in READINGS:
        raise DbqError(f"cost.reading: unknown value {reading!r}", f"choose one of {', '.join(READINGS)}")


def scale_adders(lengths: np.ndarray, activation_bits: int, scale_bits: int, count_bias: bool) -> np.ndarray:
    """FA (dot products,) of scaling and adding the branch sums of lengths (branches, dot products).

    A sum of D ternary products of Bx-bit inputs is Bx + 1 + ceil(log2 D) bits wide, and a product with the scale Bscale bits wider; the
    scaled sums of the branches in use, and the bias if it is counted, are added at the width of the widest product.
    """
    widths = activation_bits + 1 + ceil_log2(lengths)
    used = lengths > 0
    products = np.where(used, widths * scale_bits, 0)
    additions = np.maximum(used.sum(0) - 1, 0) + int(count_bias)
    widest = np.where(used, widths + scale_bits, 0).max(0)
    return products.sum(0) + additions * np.where(used.any(0), widest, activation_bits)


def dot_product_adders(lengths, weights: LayerWeights, activation_bits: int, reading: str, count_bias: bool, scale_bits: int) -> np.ndarray:
    """FA (dot products,) for non-zero lengths (max(1, branches), dot products)."""
    if weights.kind == "fixed_point":
        return fixed_point_adders(lengths[0] + int(count_bias), weights.bits, activation_bits)
    sums = sum(ternary_adders(length, activation_bits, reading) for length in lengths)
    return sums + scale_adders(lengths, activation_bits, scale_bits, count_bias)


def layer_cost(shape: LayerShape, weights: LayerWeights, activation_bits: int, reading: str, count_bias: bool, scale_bits: int) -> dict:
    """c_c and c_s in FA (None for float weights: full adders don't define it), c_r and c_m in bits.

    With count_bias each output channel has one bias, of the layer or of its folded batch norm, as wide as a weight. Raises DbqError for an
    unknown reading (also where no weight is ternary), an unknown kind of weights, and non-zeros that don't fit the layer.
    """
    _check_reading(reading)
    per_filter = shape.outputs // shape.channels_out
    biases = shape.channels_out if count_bias else 0
    if weights.kind not in ("float", "fixed_point", *PLANES):
        raise DbqError(f"layer {shape.name}: unknown kind of weights {weights.kind!r}", "it is fixed_point, ternary, binary or float")
    storage = weights.bits * (shape.weights + biases)
    row = {"c_c": None, "c_s": None, "c_r": storage + activation_bits * shape.inputs, "c_m": storage + scale_bits * weights.scales}
    if weights.kind == "float":
        return row
    nonzeros = np.asarray(weights.nonzeros, np.int64)
    expected = (max(1, weights.branches) if weights.kind in PLANES else 1, shape.channels_out)
    smallest = shape.length if weights.kind == "binary" else 0
    if nonzeros.shape != expected or nonzeros.min() < smallest or nonzeros.max() > shape.length:
        found = f"{nonzeros.shape} from {nonzeros.min(initial=shape.length)} to {nonzeros.max(initial=0)}"
        raise DbqError(f"layer {shape.name}: non-zeros {found}", f"pass counts {expected} from {smallest} to {shape.length}")
    dense = np.full_like(nonzeros, shape.length)
    for name, lengths in (("c_c", dense), ("c_s", nonzeros)):
        adders = dot_product_adders(lengths, weights, activation_bits, reading, count_bias, scale_bits)
        row[name] = int(adders.sum()) * per_filter
    return row


def network_cost(layers: Iterable[tuple[LayerShape, LayerWeights, int]], reading: str, count_bias: bool, scale_bits: int) -> dict:
    """Sums over (shape, weights, activation bits) of the layers; c_c and c_s are None when a layer is float."""
    rows = [layer_cost(shape, weights, bits, reading, count_bias, scale_bits) for shape, weights, bits in layers]
    return {
        name: None if any(row[name] is None for row in rows) else sum(row[name] for row in rows) for name in ("c_c", "c_s", "c_r", "c_m")
    }


def readings(layers: list, scale_bits: int) -> list[dict]:
    """The totals under every reading: ternary weight as a select or as a 2-bit multiplier, bias counted or not."""
    return [
        {"reading": reading, "count_bias": count_bias, **network_cost(layers, reading, count_bias, scale_bits)}
        for reading in READINGS
        for count_bias in (False, True)
    ]


def dense_weights(shape: LayerShape, bits: int, branches: int) -> LayerWeights:
    """Weights without a zero: fixed point of this width, or `branches` ternary planes."""
    nonzeros = np.full((max(1, branches), shape.channels_out), shape.length)
    storage = TERNARY_BITS * branches if branches else bits
    return LayerWeights("ternary" if branches else "fixed_point", storage, branches, nonzeros, max(1, branches))


class _Parser(argparse.ArgumentParser):
    """argparse prints its whole usage before the message; here an error is one line."""

    def error(self, message: str):
        raise DbqError(message, f"`{self.prog} --help` lists the arguments")


def main():
    from dbq import networks
    from dbq.networks.count import layer_shapes, macs

    parser = _Parser(prog="python -m dbq.cost.formulas", description="the four costs of a network with dense weights")
    parser.add_argument("network", help=", ".join(networks.NAMES))
    parser.add_argument("--weight-bits", type=int, default=8)
    parser.add_argument("--activation-bits", type=int, default=8)
    parser.add_argument("--branches", type=int, default=0, help="ternary branches instead of fixed-point weights")
    parser.add_argument("--reading", default="adder_only", help="of a ternary weight: " + " or ".join(READINGS))
    parser.add_argument("--count-bias", action="store_true", help="one bias per output channel")
    parser.add_argument("--scale-bits", type=int, default=8)
    parser.add_argument("--form", help="default: 32x32 for resnet20, else 224x224")
    parser.add_argument("--input-size", type=int, help="pixels (default: those of the form)")
    parser.add_argument("--classes", type=int, help="default: 10 in the 32x32 form, else 1000")
    parser.add_argument("--per-layer", action="store_true")
    arguments = parser.parse_args()
    for name, low in (("weight_bits", 1), ("activation_bits", 1), ("scale_bits", 1), ("branches", 0), ("input_size", 1), ("classes", 1)):
        value = getattr(arguments, name)
        if value is not None and not low <= value <= 4096:
            raise DbqError(f"--{name.replace('_', '-')}: {value} is out of range", f"it must be between {low} and 4096")
    form = arguments.form or ("32x32" if arguments.network == "resnet20" else "224x224")
    network = networks.build(arguments.network, arguments.classes or (10 if form == "32x32" else 1000), form)
    size = arguments.input_size or int(form.partition("x")[0])
    shapes = layer_shapes(network, (3, size, size))
    layers = [(shape, dense_weights(shape, arguments.weight_bits, arguments.branches), arguments.activation_bits) for shape in shapes]
    settings = (arguments.reading, arguments.count_bias, arguments.scale_bits)
    if arguments.per_layer:
        for shape, weights, bits in layers:
            row = layer_cost(shape, weights, bits, *settings)
            print(f"{shape.name:28s} {shape.kind:10s} C_C {row['c_c']:>18,} FA  C_R {row['c_r']:>14,} bit  C_M {row['c_m']:>14,} bit")
    total = network_cost(layers, *settings)
    weights = (
        f"{arguments.branches} ternary branches ({arguments.reading})" if arguments.branches else f"{arguments.weight_bits}-bit weights"
    )
    print(
        f"{arguments.network} {form} at {size}x{size}: {weights}, {arguments.activation_bits}-bit activations, "
        f"bias {'' if arguments.count_bias else 'not '}counted"
    )
    print(f"multiply-adds {macs(network, (3, size, size)):>20,}")
    for name, unit in (
        ("c_c", "FA, computational cost"),
        ("c_s", "FA, without zero weights"),
        ("c_r", "bit, representational cost"),
        ("c_m", "bit, model storage"),
    ):
        print(f"{name.upper():13s} {total[name]:>20,} {unit}")


if __name__ == "__main__":
    raise SystemExit(main_with_errors(main))
