"""A quantized network as a list of integer operations: plain data, which execute.py runs, plain.py writes to files, and export/ reads.

Every value is a tensor of integers: real value = integer * lsb. No input can leave its range (interval arithmetic over the trained
weights), so that the width of every register is known before an image is seen.

    image --Quantize--> integers --DotProducts--> integers --...--> logits

Quantize is the only operation that sees a real number. There are three kinds of values:
- activations: integers on the grid of an activation quantizer, whose step is the lsb;
- streams: the sums, concatenations and layer outputs that the training graph leaves unquantized (graph.stream_lsbs). A stream is as wide
  as its worst case needs, so it never saturates;
- logits: integers with one common lsb, so that the largest integer decides the class.

Rounding is always to the nearest integer, ties to even. Only the end of an activation's grid saturates (`low` and `high` of an operation),
as in the training graph.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Value:
    """Real value = integer * lsb; every integer lies in low .. high; shape without the batch."""

    lsb: float
    low: int
    high: int
    shape: tuple[int, ...]

    @property
    def largest(self) -> int:
        """Magnitude."""
        return max(abs(self.low), abs(self.high))


@dataclass
class Operation:
    output: str
    inputs: tuple[str, ...]


@dataclass
class Quantize(Operation):
    """clamp(round(float32(image) * float32(1 / step)), low, high): the training graph's own input quantizer.

    table (3, 256) int16: the result for every pixel of a uint8 image, channel by channel; None if the normalisation is not known.
    """

    step: float
    low: int
    high: int
    table: Tensor | None = None


@dataclass
class DotProducts(Operation):
    """clamp(round((sum_j M_jc * (P_jc . x) + b_c) / 2^s_c), low, high) for output channel c and planes j.

    planes: (B, C, K/groups, h, w) of a convolution or (B, C, K) of a fully connected layer, int8, or int32 for wide integers. They hold
    -1, 0, 1 (coding ternary), -1, 1 (binary) or the integer weights themselves (fixed_point, B = 1). multipliers (B, C), bias (C,) and
    shifts (C,) are int64. low and high are None where nothing saturates. accumulator_bits: worst-case width of the sums P_jc . x.
    accumulator_limit: the width that the network was compiled for, if any.
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
    """The channels of all inputs, one input after the other; all have the same lsb."""


@dataclass
class SelectChannels(Operation):
    """Output channel i is input channel channels[i], int64: shuffles, chunks and slices."""

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
    """Sum over all pixels: the average, with an lsb divided by their number. keep: it is (N, C, 1, 1) instead of (N, C)."""

    keep: bool


@dataclass
class Flatten(Operation):
    """(N, C, H, W) -> (N, C * H * W)."""


@dataclass
class Program:
    """Operations in order, and values by name; `logits` names the last one. fixed_point_bits: width of the multipliers' magnitudes."""

    operations: list[Operation]
    values: dict[str, Value]
    image_shape: tuple[int, int, int]
    logits: str
    fixed_point_bits: int

    @property
    def scale(self) -> float:
        """Real value of a logit of 1."""
        return self.values[self.logits].lsb

    def dot_products(self) -> list[DotProducts]:
        return [operation for operation in self.operations if isinstance(operation, DotProducts)]
