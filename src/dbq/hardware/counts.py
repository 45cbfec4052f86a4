"""The adders that the formulas expect of a design, in 1-bit full adders (FA), to compare with those that synthesis finds."""

from functools import cache

import numpy as np

from dbq.cost.formulas import TERNARY_BITS, TERNARY_READINGS, LayerWeights, ceil_log2, dot_product_adders, scale_adders
from dbq.hardware.design import Design


@cache
def tree_adders(length: int, activation_bits: int, signed: bool = False) -> int:
    """FA of a balanced tree over `length` ternary products: a branch without its scale. 0 for lengths 0 and 1.

    A node adds its left half of 2^k products, k = ceil(log2 length) - 1, to the rest. The left half is w = Bx + 1 + k bits wide (Bx + k for
    signed activations, which have a sign bit already), and the sum has one bit more. The node takes w full adders: the top bit of its sum
    needs no carry and is a three-input XOR. For D = 2^c and unsigned activations the whole tree has (D-1)*(Bx+2) - c.
    """
    if length <= 1:
        return 0
    power = int(ceil_log2(length)) - 1
    halves = (1 << power, length - (1 << power))
    return sum(tree_adders(half, activation_bits, signed) for half in halves) + activation_bits + (not signed) + power


def counted(design: Design) -> dict:
    """FA of the whole dot product by each formula.

    adder_only and two_bit_multiplier are the readings of dbq.cost; tree has the exact tree for the ternary sums instead. scale is the part
    of each that scales and adds the branches; sum_READING and sum_tree are the ternary sums alone.
    """
    nonzeros, bits = design.nonzeros().astype(np.int64)[:, None], design.activation_bits
    weights = LayerWeights("ternary", TERNARY_BITS * design.branches, design.branches, nonzeros, design.branches)
    scale = int(scale_adders(nonzeros, bits, design.scale_bits, False)[0])
    whole = {name: int(dot_product_adders(nonzeros, weights, bits, name, False, design.scale_bits)[0]) for name in TERNARY_READINGS}
    whole["tree"] = sum(tree_adders(int(n), bits, design.signed) for n in nonzeros[:, 0]) + scale
    return {**whole, "scale": scale, **{f"sum_{name}": value - scale for name, value in whole.items()}}
