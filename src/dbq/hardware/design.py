"""What a ternary dot-product engine (TDPE) is, and the integers that its netlist computes.

    y = sum over branches j of scale_j * sum over i of planes[j, i] * x[i]        planes in {-1, 0, 1}, scales unsigned integers

`evaluate` follows the adders of library.sv one by one, with their inversions, carry-ins and wrap-around. It checks a design without a
simulator.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from dbq.cost.formulas import ceil_log2
from dbq.errors import DbqError

STRUCTURES = ("chain", "tree")
# name of a setting: (lowest, highest)
RANGES = {"length": (1, 8192), "activation_bits": (1, 16), "branches": (1, 8), "scale_bits": (1, 32)}


@dataclass(frozen=True, eq=False)
class Design:
    """One engine.

    A "chain" adds product after product at the final width, as the cost formula counts. A "tree" is balanced, and its adders grow from
    level to level.
    """

    length: int
    activation_bits: int
    branches: int
    signed: bool = False  # activations
    scale_bits: int = 8
    structure: str = "chain"
    accumulator_bits: int | None = None  # width of every ternary sum; None: the width that nothing can overflow
    planes: np.ndarray | None = None  # (branches, length) of -1, 0 and 1, constants of the engine; None: the weights come from a port

    def __post_init__(self):
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not low <= value <= high:
                raise DbqError(f"hardware: {name} {value!r} is out of range", f"pass an integer from {low} to {high}")
        if self.structure not in STRUCTURES:
            raise DbqError(f"hardware: unknown structure {self.structure!r}", f"choose one of {', '.join(STRUCTURES)}")
        if self.accumulator_bits is not None and self.accumulator_bits < self.product_bits:
            raise DbqError(
                f"hardware: an accumulator of {self.accumulator_bits} bits is too narrow for one product of {self.product_bits} bits",
                f"pass accumulator_bits of {self.product_bits} and more, or None for the width that always suffices",
            )
        if self.planes is not None:
            check_planes(self.planes, (self.branches, self.length))
        if self.output_bits() > 63:
            raise DbqError(
                f"hardware: an output of {self.output_bits()} bits doesn't fit the 64-bit integers that it is compared with",
                "pass a smaller length, activation_bits or scale_bits",
            )

    @property
    def kind(self) -> str:
        return "port" if self.planes is None else "constant"

    @property
    def product_bits(self) -> int:
        """Width of a product before its carry: x or its inversion, with a sign bit where x has none."""
        return self.activation_bits + (0 if self.signed else 1)

    def nonzeros(self) -> np.ndarray:
        """Products of each branch (branches,): all for weights from a port, the non-zero ones for constants."""
        return np.full(self.branches, self.length) if self.planes is None else np.count_nonzero(self.planes, 1)

    def natural_bits(self, products: int) -> int:
        """Width of a sum of so many products, its carry not included, that nothing can overflow."""
        return self.product_bits + int(ceil_log2(products))

    def sum_bits(self, products: int) -> int:
        """Width that the sum of so many products has."""
        return min(self.natural_bits(products), self.accumulator_bits or self.natural_bits(products))

    def output_bits(self) -> int:
        used = [int(n) for n in self.nonzeros() if n]
        return max(map(self.sum_bits, used), default=1) + self.scale_bits + int(ceil_log2(max(len(used), 1)))


class Computed(NamedTuple):
    values: np.ndarray  # (n,) int64
    overflow: np.ndarray  # (n,) bool: an addition left the accumulator; the value is right wherever this is False


def load_planes(path) -> np.ndarray:
    """Planes (branches, length) of a .npy file; DbqError where it can't be read."""
    try:
        planes = np.load(path, allow_pickle=False)
    except Exception as error:  # numpy raises many kinds for a damaged header
        raise DbqError(f"{path}: not a readable .npy file ({error})", "write it with numpy.save") from None
    if not isinstance(planes, np.ndarray) or planes.ndim != 2:
        raise DbqError(f"{path}: no array of two dimensions", "it is (branches, length)")
    return planes


def check_planes(planes, shape) -> np.ndarray:
    """planes (n or 1, branches, length) as int64; DbqError unless they have this shape, with or without n, and hold only -1, 0 and 1."""
    planes = np.asarray(planes)
    if planes.shape[-2:] != tuple(shape) or planes.ndim not in (2, 3):
        raise DbqError(
            f"hardware: planes of shape {planes.shape}", f"pass (branches, length) = {tuple(shape)}, or one such array for each row"
        )
    if not np.isin(planes, (-1, 0, 1)).all():
        raise DbqError("hardware: planes hold other values than -1, 0 and 1", "pass the planes of a ternary decomposition")
    return planes.astype(np.int64).reshape(-1, *shape)


def check_vectors(design: Design, activations, planes, scales) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """activations (n, length), planes (n or 1, branches, length) and scales (n or 1, branches) of n dot products, as int64.

    planes None: those of the design. Raises DbqError for shapes that don't fit and for values that the bits can't hold.
    """
    activations, scales = _integers("activations", activations), np.atleast_2d(_integers("scales", scales))
    if activations.ndim != 2 or activations.shape[1] != design.length or not len(activations):
        raise DbqError(f"hardware: activations of shape {activations.shape}", f"pass (n, {design.length}) with n of 1 and more")
    bits = design.activation_bits
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if design.signed else (0, (1 << bits) - 1)
    if activations.min() < low or activations.max() > high:
        sign = "signed" if design.signed else "unsigned"
        raise DbqError(
            f"hardware: activations from {activations.min()} to {activations.max()} don't fit {bits} {sign} bits ({low} to {high})",
            "pass quantized activations, and signed=True where the layer's input can be negative",
        )
    if (planes is None) == (design.planes is None):
        raise DbqError(
            f"hardware: planes given twice, or no planes for an engine of kind {design.kind}", "pass planes for a weight port only"
        )
    planes = check_planes(design.planes if planes is None else planes, (design.branches, design.length))
    if scales.shape[1:] != (design.branches,) or scales.min() < 0 or scales.max() >= 1 << design.scale_bits:
        raise DbqError(
            f"hardware: scales of shape {scales.shape} from {scales.min(initial=0)} to {scales.max(initial=0)}",
            f"pass {design.branches} unsigned integers of {design.scale_bits} bits",
        )
    for name, rows in (("planes", len(planes)), ("scales", len(scales))):
        if rows not in (1, len(activations)):
            raise DbqError(f"hardware: {rows} {name} for {len(activations)} activations", "pass one for all, or one for each")
    return activations, planes, scales


def _integers(name: str, values) -> np.ndarray:
    values = np.asarray(values)
    if values.dtype.kind not in "iu":
        raise DbqError(f"hardware: {name} are {values.dtype}, not integers", "quantize them and pass an integer array")
    return values.astype(np.int64)


def reference(activations: np.ndarray, planes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """The dot products (n,) in exact integers, for arrays as check_vectors returns them."""
    sums = np.einsum("nbl,nl->nb", np.broadcast_to(planes, (len(activations), *planes.shape[1:])), activations)
    return (sums * scales).sum(1)


def evaluate(design: Design, activations, planes, scales) -> Computed:
    """What the netlist computes, adder by adder; arguments as for simulate()."""
    activations, planes, scales = check_vectors(design, activations, planes, scales)
    total, overflow = np.zeros(len(activations), np.int64), np.zeros(len(activations), bool)
    add = _chain if design.structure == "chain" else _tree
    for branch in range(design.branches):
        weights = np.broadcast_to(planes[:, branch], activations.shape)
        columns = np.arange(design.length) if design.planes is None else np.flatnonzero(design.planes[branch])
        if not len(columns):
            continue
        negative = weights[:, columns] < 0
        selected = np.where(weights[:, columns] != 0, activations[:, columns], 0)
        value, flag = add(design, np.where(negative, ~selected, selected), negative.astype(np.int64))
        overflow |= flag
        total += (value + negative[:, 0]) * scales[:, branch]
    return Computed(total, overflow)


def _add(a, b, carry, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """A signed addition of this width: the wrapped sum, and whether it left the width."""
    exact = a + b + carry
    wrapped = ((exact + (1 << bits - 1)) & ((1 << bits) - 1)) - (1 << bits - 1)
    return wrapped, wrapped != exact


def _chain(design: Design, terms: np.ndarray, carries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    total, overflow = terms[:, 0], np.zeros(len(terms), bool)
    for i in range(1, terms.shape[1]):
        total, left = _add(total, terms[:, i], carries[:, i], design.sum_bits(terms.shape[1]))
        overflow |= left
    return total, overflow


def _tree(design: Design, terms: np.ndarray, carries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    length = terms.shape[1]
    if length == 1:
        return terms[:, 0], np.zeros(len(terms), bool)
    left = 1 << int(ceil_log2(length)) - 1
    a, flag_a = _tree(design, terms[:, :left], carries[:, :left])
    b, flag_b = _tree(design, terms[:, left:], carries[:, left:])
    total, flag = _add(a, b, carries[:, left], design.sum_bits(length))
    return total, flag | flag_a | flag_b
