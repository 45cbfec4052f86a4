"""Symmetric uniform weights of 2 to 8 bits: what the layer policy gives to sensitive layers, and the fixed-point row of the tables."""

import torch
from torch import Tensor, nn

from dbq.errors import DbqError


class _RoundToGrid(torch.autograd.Function):
    """The largest weight is on the grid, nothing is clipped: the straight-through gradient is 1 everywhere."""

    @staticmethod
    def forward(ctx, weight, step, largest):
        return (weight / step).round_().clamp_(-largest, largest).mul_(step)

    @staticmethod
    def backward(ctx, grad):
        return grad, None, None


class UniformQuantizer(nn.Module):
    """Weights on the grid step * {-(2^(bits-1)-1) .. 2^(bits-1)-1}; the step follows the largest weight; straight-through gradient."""

    def __init__(self, bits: int):
        super().__init__()
        self.bits = bits
        self.largest = 2 ** (bits - 1) - 1

    def step(self, weight: Tensor) -> Tensor:
        """(1,) the distance of two neighbouring values."""
        return (weight.detach().abs().amax() / self.largest).clamp_min(1e-12).reshape(1)

    def forward(self, weight: Tensor) -> Tensor:
        return _RoundToGrid.apply(weight, self.step(weight), self.largest)

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight

    @torch.no_grad()
    def integers(self, weight: Tensor) -> Tensor:
        """The weights as int32 multiples of the step."""
        return (self.forward(weight) / self.step(weight)).round().to(torch.int32)

    @torch.no_grad()
    def check(self, weight: Tensor, layer: str) -> None:
        if not torch.isfinite(weight).all():
            raise DbqError(f"layer {layer}: weight is not finite", "lower learning_rate")
        if not weight.any():
            raise DbqError(f"layer {layer}: every weight is zero", "lower learning_rate or weight_decay")
