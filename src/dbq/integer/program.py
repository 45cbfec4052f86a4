"""A quantized network as a list of integer operations: plain data that can be run, written to a file, and read by an exporter.

Every value is a tensor of integers with a fixed meaning: real value = integer * lsb. `Value` gives the lsb and the range that no input can
leave (interval arithmetic over the trained weights), so that the width of every register is known before an image is seen.

    image --Quantize--> integers --DotProducts--> integers --...--> logits

Quantize is the only operation that sees a real number. Values come in three kinds:
- activations: integers on the grid of an activation quantizer, lsb = its step;
- streams: sums, concatenations and layer outputs that the training graph leaves unquantized (residual streams, bottlenecks). All values
  that are added or concatenated with one another share one lsb (streams.py). A stream is as wide as its worst case needs; it never
  saturates;
- logits: integers with one common lsb, so that the largest integer decides the class.

Rounding is to the nearest integer, ties to even, everywhere. Saturation happens in one place only, where an activation's grid ends
(`low` and `high` of the operation), as in the training graph.
"""

import dataclasses
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from dbq.errors import DbqError
from dbq.integer.fixed_point import unsigned_aware_bits


@dataclass(frozen=True)
class Value:
    """Real value = integer * lsb; every integer lies in low .. high; shape without the batch."""

    lsb: float
    low: int
    high: int
    shape: tuple[int, ...]

    @property
    def bits(self) -> int:
        return unsigned_aware_bits(self.low, self.high)


@dataclass
class Operation:
    output: str
    inputs: tuple[str, ...]


@dataclass
class Quantize(Operation):
    """clamp(round(float32(image) * float32(1 / lsb)), low, high): the training graph's own input quantizer.

    table (3, 256): the same for the pixels of a uint8 image, channel by channel, if the normalisation is known.
    """

    step: float
    low: int
    high: int
    table: Tensor | None = None


@dataclass
class DotProducts(Operation):
    """clamp(round((sum_j M_jc * (P_jc . x) + b_c) / 2^s_c), low, high) for output channel c and planes j.

    planes: (B, C, K/groups, h, w) int8 of a convolution, (B, C, K) of a fully connected layer: -1, 0, 1 (ternary), -1, 1 (binary), or
    the integer weights themselves (fixed_point, B = 1). multipliers (B, C), bias (C,), shifts (C,): int64. low and high are None where
    nothing saturates. accumulator_bits: worst-case width of the sums P_jc . x; accumulator_limit: the configured width, if any.
    """

    layer: str
    coding: str
    planes: Tensor
    multipliers: Tensor
    bias: Tensor
    shifts: Tensor
    low: int | None
    high: int | None
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    accumulator_bits: int
    accumulator_limit: int | None


@dataclass
class Rescale(Operation):
    """clamp(round(x * multiplier / 2^shift), low, high): another lsb, and saturation where an activation's grid ends."""

    multiplier: int
    shift: int
    low: int | None
    high: int | None


@dataclass
class Add(Operation):
    """The sum of two values with the same lsb."""


@dataclass
class Concatenate(Operation):
    """Channels of all inputs one behind the other; all have the same lsb."""


@dataclass
class SelectChannels(Operation):
    """Output channel i is input channel channels[i]: shuffles, chunks and slices."""

    channels: Tensor


@dataclass
class SubsampleAndPad(Operation):
    """Every `stride`-th pixel of both axes, and `pad` zero channels on both sides: ResNet-20's shortcut without parameters."""

    stride: int
    pad: int


@dataclass
class MaxPool(Operation):
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]


@dataclass
class GlobalSum(Operation):
    """Sum over all pixels; the average is the same integer with an lsb divided by the number of pixels, so nothing is rounded.

    keep: (N, C, 1, 1) instead of (N, C).
    """

    keep: bool


@dataclass
class Flatten(Operation):
    """(N, C, H, W) -> (N, C * H * W)."""


KINDS = {kind.__name__: kind for kind in Operation.__subclasses__()}


@dataclass
class Program:
    """Operations in order; values by name; `logits` names the last one. fixed_point_bits: width of the multipliers' magnitudes."""

    operations: list[Operation]
    values: dict[str, Value]
    image_shape: tuple[int, int, int]
    logits: str
    fixed_point_bits: int
    _prepared: dict = field(default_factory=dict, repr=False, compare=False)

    @property
    def scale(self) -> float:
        """Real value of a logit of 1."""
        return self.values[self.logits].lsb

    def run(self, images: Tensor, exact: bool = False, observe: dict | None = None, keep: bool = False):
        """Logits (N, classes) int64 of normalised float images, or of uint8 images if the program has their table.

        exact: every operation in int64 arithmetic, slowly; the default computes the same integers in floating point where every
        intermediate result is an exactly represented integer. observe: a dict that receives {layer: (smallest, largest accumulator)},
        widened over calls. keep: return (logits, {name: integers of every value}). Raises DbqError for images of another shape and for an
        accumulator that overflows.
        """
        from dbq.integer.execute import run

        return run(self, images, exact, observe, keep)

    def dot_products(self) -> list[DotProducts]:
        return [operation for operation in self.operations if isinstance(operation, DotProducts)]

    def to_plain(self) -> tuple[dict, dict[str, np.ndarray]]:
        """(JSON-compatible description, integer arrays by name "INDEX.FIELD"): all that a file needs."""
        arrays, operations = {}, []
        for index, operation in enumerate(self.operations):
            plain = {"kind": type(operation).__name__}
            for part in dataclasses.fields(operation):
                value = getattr(operation, part.name)
                if isinstance(value, Tensor):
                    arrays[f"{index}.{part.name}"] = value.cpu().numpy()
                else:
                    plain[part.name] = list(value) if isinstance(value, tuple) else value
            operations.append(plain)
        values = {name: {**dataclasses.asdict(value), "shape": list(value.shape)} for name, value in self.values.items()}
        description = {
            "operations": operations, "values": values, "image_shape": list(self.image_shape), "logits": self.logits,
            "fixed_point_bits": self.fixed_point_bits,
        }  # fmt: skip
        return description, arrays

    @classmethod
    def from_plain(cls, description: dict, arrays: dict) -> "Program":
        """The inverse of to_plain. Raises DbqError for an operation that doesn't exist or lacks a field."""
        operations = []
        for index, plain in enumerate(description["operations"]):
            kind = KINDS.get(plain["kind"])
            if kind is None:
                raise DbqError(f"operation {index}: unknown kind {plain['kind']!r}", f"one of {', '.join(KINDS)}")
            fields = {name: tuple(value) if isinstance(value, list) else value for name, value in plain.items() if name != "kind"}
            prefix = f"{index}."
            fields |= {
                name.removeprefix(prefix): torch.from_numpy(np.array(array)) for name, array in arrays.items() if name.startswith(prefix)
            }
            try:
                operations.append(kind(**fields))
            except TypeError as error:
                raise DbqError(f"operation {index} ({plain['kind']}): {error}", "write the program again with to_plain") from None
        values = {
            name: Value(value["lsb"], value["low"], value["high"], tuple(value["shape"])) for name, value in description["values"].items()
        }
        return cls(operations, values, tuple(description["image_shape"]), description["logits"], description["fixed_point_bits"])
