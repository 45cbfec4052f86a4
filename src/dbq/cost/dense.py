"""The four costs of a network with dense weights, which no training is needed for: dense.count("mobilenet_v1", "224x224", 1000)."""

from dataclasses import dataclass

import numpy as np

from dbq import networks
from dbq.cost.formulas import TERNARY_BITS, LayerWeights, layer_cost, total
from dbq.errors import DbqError
from dbq.networks.count import LayerShape, layer_shapes

LARGEST = 4096  # of every number that is asked for


@dataclass(frozen=True)
class Dense:
    """layers: name, kind and the four costs of each layer. totals: the four costs of the network. macs: multiply-adds of one image."""

    layers: list[dict]
    totals: dict
    macs: int


def weights(shape: LayerShape, bits: int, branches: int) -> LayerWeights:
    """Weights without a zero: `branches` ternary planes, or fixed point of this width where branches is 0."""
    nonzeros = np.full((max(1, branches), shape.channels_out), shape.length)
    if branches:
        return LayerWeights("ternary", TERNARY_BITS * branches, branches, nonzeros, branches)
    return LayerWeights("fixed_point", bits, 0, nonzeros, 1, np.repeat(nonzeros, bits, 0))


def count(
    network: str,
    form: str,
    classes: int,
    weight_bits: int = 8,
    branches: int = 0,
    activation_bits: int = 8,
    reading: str = "adder_only",
    count_bias: bool = False,
    scale_bits: int = 8,
    pixels: int | None = None,
) -> Dense:
    """Count a network of dbq.networks whose layers all have the same widths.

    branches: ternary planes instead of weights of weight_bits. pixels: of a side of the image; None: those of the form. Raises DbqError for
    an unknown network, form or reading, and for a number out of range.
    """
    asked = {"weight_bits": weight_bits, "activation_bits": activation_bits, "scale_bits": scale_bits, "classes": classes, "pixels": pixels}
    for name, value in (asked | {"branches": branches}).items():
        low = 0 if name == "branches" else 1
        if value is not None and not low <= value <= LARGEST:
            raise DbqError(f"{name}: {value} is out of range", f"it must be between {low} and {LARGEST}")
    built = networks.build(network, classes, form)
    size = int(form.partition("x")[0]) if pixels is None else pixels
    shapes = layer_shapes(built, (3, size, size))
    costs = [layer_cost(shape, weights(shape, weight_bits, branches), activation_bits, reading, count_bias, scale_bits) for shape in shapes]
    rows = [{"layer": shape.name, "kind": shape.kind, **cost} for shape, cost in zip(shapes, costs, strict=True)]
    return Dense(rows, total(costs), sum(shape.outputs * shape.length for shape in shapes))
