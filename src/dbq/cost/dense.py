"""The four costs of a network with dense weights, which no training is needed for.

    counted = dense.count("mobilenet_v1", "224x224", 1000, weight_bits=8, count_bias=True)

takes 2 s.
"""

from dataclasses import dataclass

import numpy as np

from dbq import networks
from dbq.cost.formulas import TERNARY_BITS, LayerWeights, layer_cost, network_cost
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
    storage = TERNARY_BITS * branches if branches else bits
    digits = None if branches else np.full((bits, shape.channels_out), shape.length)
    return LayerWeights("ternary" if branches else "fixed_point", storage, branches, nonzeros, max(1, branches), digits)


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
    lowest = {"weight_bits": 1, "branches": 0, "activation_bits": 1, "scale_bits": 1, "classes": 1, "pixels": 1}
    asked = (weight_bits, branches, activation_bits, scale_bits, classes, 1 if pixels is None else pixels)
    for (name, low), value in zip(lowest.items(), asked, strict=True):
        if not low <= value <= LARGEST:
            raise DbqError(f"{name}: {value} is out of range", f"it must be between {low} and {LARGEST}")
    built = networks.build(network, classes, form)
    size = int(form.partition("x")[0]) if pixels is None else pixels
    shapes = layer_shapes(built, (3, size, size))
    layers = [(shape, weights(shape, weight_bits, branches), activation_bits) for shape in shapes]
    settings = (reading, count_bias, scale_bits)
    rows = [{"layer": layer[0].name, "kind": layer[0].kind, **layer_cost(*layer, *settings)} for layer in layers]
    return Dense(rows, network_cost(layers, *settings), sum(shape.outputs * shape.length for shape in shapes))
