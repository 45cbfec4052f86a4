"""The interface of every weight quantizer: a parametrization of a layer's weight that the engine can take apart."""

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
    """What a figure shows of one layer: inputs (any shape) on the axis of the sorted levels (N,), and the N-1 thresholds between them."""

    inputs: Tensor
    levels: Tensor
    thresholds: Tensor


class WeightQuantizer(nn.Module):
    """Quantizes a weight tensor (C_out, ...), whose rows are the filters flattened to (C, K).

    coding says how the hard weights are taken apart: "ternary" or "binary" planes (`decompose`), or "fixed_point" integers (`integers`
    and `step`). In evaluation mode the forward pass is always hard. Parameters are the method's scales: they are never decayed and
    have a learning rate of their own.
    """

    coding = "ternary"
    storage_bits: int  # of one weight, all planes together

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The master weight at insertion is the float weight itself."""
        return weight

    def advance(self, progress: float, epoch: int) -> None:
        """Called before each training step: progress runs from 0 to 1 over the training, epoch from 0."""

    def prepare(self, weight: Tensor) -> None:
        """Called once, after insertion and before the first step, with the float weight (fits of the method's own)."""

    def decompose(self, weight: Tensor) -> Decomposition:
        """The hard weights as planes and scales (ternary and binary coding)."""
        raise DbqError(f"{type(self).__name__} has no planes", "use `integers` and `step`")

    def integers(self, weight: Tensor) -> Tensor:
        """The hard weights as int32 multiples of `step` (fixed_point coding)."""
        raise DbqError(f"{type(self).__name__} has no integers", "use `decompose`")

    def step(self, weight: Tensor) -> Tensor:
        """(1,) or (C, 1): the distance of two neighbouring integers (fixed_point coding)."""
        raise DbqError(f"{type(self).__name__} has no step", "use `decompose`")

    def transfer(self, weight: Tensor) -> Transfer:
        """The first group's weights, levels and thresholds, for the figures."""
        raise DbqError(f"{type(self).__name__} has no transfer curve", "draw another quantizer")

    def soft_hard_gap(self, weight: Tensor) -> Tensor | None:
        """Mean |soft(w) - hard(w)| over the largest level; None for a method that trains with hard weights only."""
        return None

    @torch.no_grad()
    def check(self, weight: Tensor, layer: str) -> None:
        """Raise DbqError naming the layer when a value is not finite or all weights became zero."""
        for name, value in (("weight", weight), *self.named_parameters()):
            if not torch.isfinite(value).all():
                raise DbqError(f"layer {layer}: {name} is not finite", "lower learning_rate or scale_learning_rate")
        planes = self.integers(weight) if self.coding == "fixed_point" else self.decompose(weight).planes
        if not planes.any():
            raise DbqError(f"layer {layer}: every weight is zero", "lower learning_rate or weight_decay")


def check_usable(weight: Tensor) -> None:
    """Raise DbqError for weights that no quantizer can be fitted to."""
    if not torch.isfinite(weight).all() or not weight.any():
        raise DbqError("all weights are zero or not finite", "start from a trained float network")
