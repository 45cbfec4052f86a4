"""The interface of every weight quantizer: a parametrization of a layer's weight, and the parts that integer arithmetic needs."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dbq.errors import DbqError


@dataclass(frozen=True)
class Decomposition:
    """Hard weights (C, K) = sum_j scales[:, j] * planes[j]: planes (B, C, K) int8 in {-1, 0, 1}, scales (G, B) with G = 1 or C."""

    planes: Tensor
    scales: Tensor


@dataclass(frozen=True)
class Transfer:
    """What a figure shows of one layer: its scaled weights `inputs` (any shape), the sorted levels (N,) and the thresholds (N-1,).

    Where filters have scales of their own, it is the first filter.
    """

    inputs: Tensor
    levels: Tensor
    thresholds: Tensor


class WeightQuantizer(nn.Module):
    """Quantizes a weight tensor (C_out, ...), whose rows are the filters flattened to (C, K).

    A hard weight is exactly a level. In evaluation mode the forward pass is always hard. coding says what hard weights consist of:
    "ternary" or "binary" planes and their scales (`decompose`), or "fixed_point" integers and their step (`integers`, `step`).
    Parameters are the method's scales. They are never decayed and have a learning rate of their own.
    """

    coding = "ternary"
    must_be_positive: dict[str, str] = {}  # parameter: what an error message calls it
    finished: Tensor | None = None  # the quantized weight, where the network's forward pass began with a call for many layers (together.py)

    def __init__(self, storage_bits: int, scales: str = "layer"):
        """storage_bits: of one weight, all planes together. scales: one set for the "layer", or one for each "channel"."""
        super().__init__()
        self.storage_bits, self.per_channel = storage_bits, scales == "channel"

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The master weight at insertion is the float weight itself."""
        return weight

    def groups(self, rows: Tensor) -> Tensor:
        """(G, ..) the weights (C, K) that share scales: each row, or all of them as one row."""
        return rows if self.per_channel else rows.reshape(1, -1)

    def advance(self, progress: float, epoch: int) -> None:
        """Called before each training step. progress: 0 at the first step of the training, 1 at the last. epoch: counted from 0."""

    def integers(self, weight: Tensor) -> Tensor:
        """The hard weights as int32 multiples of `step`; of methods with fixed-point weights."""
        raise DbqError(f"{type(self).__name__} has no integers", "use `decompose`")

    def step(self, weight: Tensor) -> Tensor:
        """(1,): the distance of two neighbouring integers; of methods with fixed-point weights."""
        raise DbqError(f"{type(self).__name__} has no step", "use `decompose`")

    @torch.no_grad()
    def decompose(self, weight: Tensor) -> Decomposition:
        """The hard weights as planes and scales. Here: integers in {-1, 0, 1} are the one plane, and the step is its scale."""
        if self.coding == "fixed_point":
            raise DbqError(f"{type(self).__name__} has no planes", "use `integers` and `step`")
        return Decomposition(self.integers(weight).flatten(1)[None].to(torch.int8), self.step(weight)[None])

    def transfer(self, weight: Tensor) -> Transfer:
        """The first group's weights, levels and thresholds, for the figures."""
        raise DbqError(f"{type(self).__name__} has no transfer curve", "draw another quantizer")

    def soft_hard_gap(self, weight: Tensor) -> Tensor | None:
        """Mean |soft(w) - hard(w)| divided by the largest level; None for a method that trains with hard weights only."""
        return None

    @torch.no_grad()
    def check(self, weight: Tensor, layer: str) -> None:
        """Raises a DbqError that names the layer if a value is not finite, a scale not positive, or every hard weight zero."""
        for name, value in (("weight", weight), *self.named_parameters()):
            if not torch.isfinite(value).all():
                raise DbqError(f"layer {layer}: {name} is not finite", "lower learning_rate or scale_learning_rate")
        for name, words in self.must_be_positive.items():
            if (value := float(getattr(self, name))) <= 0:
                raise DbqError(f"layer {layer}: the {words} is {value:.3g}", "lower scale_learning_rate")
        planes = self.integers(weight) if self.coding == "fixed_point" else self.decompose(weight).planes
        if not planes.any():
            raise DbqError(f"layer {layer}: every weight is zero", "lower learning_rate or weight_decay")


def memory_order(weight: Tensor, like: Tensor | None = None) -> Tensor:
    """The weight (C, ...) with its axes in the order of its memory, or of `like`'s: then `flatten(1)` copies nothing.

    A copy would cost more than the quantization itself.
    """
    like = weight if like is None else like
    channels_last = like.ndim == 4 and like.is_contiguous(memory_format=torch.channels_last)
    return weight.permute(0, 2, 3, 1) if channels_last else weight


def from_memory_order(values: Tensor, weight: Tensor) -> Tensor:
    """Values in the order of `memory_order(weight)`, brought back to the shape and the memory format of the weight."""
    values = values.view(memory_order(weight).shape)
    return values if memory_order(weight) is weight else values.permute(0, 3, 1, 2)


class StraightThrough(torch.autograd.Function):
    """apply(weight, quantized) -> quantized, with the gradient 1 for the weight (Bengio et al. 2013)."""

    @staticmethod
    def forward(ctx, weight, quantized):
        return quantized.view_as(quantized)

    @staticmethod
    def backward(ctx, grad):
        return grad, None
