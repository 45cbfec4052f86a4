"""The interface of every weight quantizer: a parametrization of a layer's weight, and the parts that integer arithmetic needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from dbq.errors import DbqError

if TYPE_CHECKING:
    from dbq.quantizers.together import JointQuantization


@dataclass(frozen=True)
class Decomposition:
    """Hard weights (C, K) = sum_j scales[:, j] * planes[j]: planes (B, C, K) int8 in {-1, 0, 1}, scales (G, B) with G = 1 or C."""

    planes: Tensor
    scales: Tensor


@dataclass(frozen=True)
class Transfer:
    """What a figure shows of one layer: its scaled weights `inputs` (any shape), the sorted levels (N,) and the thresholds (N-1,)."""

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
    storage_bits: int  # of one weight, all planes together
    joint: JointQuantization | None = None  # of the network that the layer belongs to

    def join(self, joint: JointQuantization) -> None:
        """Called once by the JointQuantization of the network."""
        self.joint = joint

    def finished_weight(self) -> Tensor | None:
        """The quantized weight, if this forward pass of the network began with a call that quantized it."""
        return None if self.joint is None else self.joint.finished.get(self)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The master weight at insertion is the float weight itself."""
        return weight

    def advance(self, progress: float, epoch: int) -> None:
        """Called before each training step. progress: 0 at the first step of the training, 1 at the last. epoch: counted from 0."""

    def decompose(self, weight: Tensor) -> Decomposition:
        """The hard weights as planes and scales (ternary and binary coding)."""
        raise DbqError(f"{type(self).__name__} has no planes", "use `integers` and `step`")

    def integers(self, weight: Tensor) -> Tensor:
        """The hard weights as int32 multiples of `step` (fixed_point coding)."""
        raise DbqError(f"{type(self).__name__} has no integers", "use `decompose`")

    def step(self, weight: Tensor) -> Tensor:
        """(1,) or (C, 1): the distance of two neighbouring levels (fixed_point coding)."""
        raise DbqError(f"{type(self).__name__} has no step", "use `decompose`")

    def transfer(self, weight: Tensor) -> Transfer:
        """Weights, levels and thresholds for the figures; where filters have scales of their own, those of the first filter."""
        raise DbqError(f"{type(self).__name__} has no transfer curve", "draw another quantizer")

    def soft_hard_gap(self, weight: Tensor) -> Tensor | None:
        """Mean |soft(w) - hard(w)| divided by the largest level; None for a method that trains with hard weights only."""
        return None

    @torch.no_grad()
    def check(self, weight: Tensor, layer: str) -> None:
        """Raises a DbqError that names the layer if a value is not finite or every hard weight is zero."""
        for name, value in (("weight", weight), *self.named_parameters()):
            if not torch.isfinite(value).all():
                raise DbqError(f"layer {layer}: {name} is not finite", "lower learning_rate or scale_learning_rate")
        planes = self.integers(weight) if self.coding == "fixed_point" else self.decompose(weight).planes
        if not planes.any():
            raise DbqError(f"layer {layer}: every weight is zero", "lower learning_rate or weight_decay")


def check_usable(weight: Tensor) -> None:
    """Raises DbqError for weights to which no quantizer can be fitted."""
    if not torch.isfinite(weight).all() or not weight.any():
        raise DbqError("all weights are zero or not finite", "start from a trained float network")
