"""Adders that formulas expect of a design, to compare with those that synthesis finds. All in 1-bit full adders (FA)."""

from functools import cache

import numpy as np

from dbq.cost import formulas as cost
from dbq.cost.formulas import LayerWeights, ceil_log2
from dbq.hardware.design import Design


@cache
def tree_adders(length: int, activation_bits: int, signed: bool = False) -> int:
    """FA of a balanced tree over `length` ternary products (branch sum without its scale); 0 for lengths 0 and 1.

    A node adds a left half of L = 2^k products, k = ceil(log2 length) - 1, to the rest; its sum is one bit wider than the left half's
    width w = Bx + 1 + k (Bx + k for signed activations, which have a sign bit already). That takes w full adders; the top bit needs no
    carry and is a three-input XOR. For D = 2^c and unsigned activations the sum is (D-1)*(Bx+2) - c.
    """
    if length <= 1:
        return 0
    power = int(ceil_log2(length)) - 1
    rest = length - (1 << power)
    width = activation_bits + (0 if signed else 1) + power
    return tree_adders(1 << power, activation_bits, signed) + tree_adders(rest, activation_bits, signed) + width


def counted(design: Design) -> dict:
    """FA of the whole dot product by each formula: adder_only and two_bit_multiplier as cost.dot_product_adders counts them, tree with the
    exact tree for the ternary sums; scale: the part of each that scales and adds the branches; sum_*: the ternary sums alone."""
    nonzeros = design.nonzeros().astype(np.int64)[:, None]
    bits = design.activation_bits
    weights = LayerWeights("ternary", cost.TERNARY_BITS * design.branches, design.branches, nonzeros, design.branches)
    whole = {
        reading: int(cost.dot_product_adders(nonzeros, weights, bits, reading, False, design.scale_bits)[0]) for reading in cost.READINGS
    }
    scale = int(cost.scale_adders(nonzeros, bits, design.scale_bits, False)[0])
    tree = sum(tree_adders(int(n), bits, design.signed) for n in nonzeros[:, 0])
    return {
        **whole,
        "tree": tree + scale,
        "scale": scale,
        **{f"sum_{name}": value - scale for name, value in whole.items()},
        "sum_tree": tree,
    }
