"""Symmetric uniform weights of 2 to 8 bits: what the layer policy gives to sensitive layers, and the fixed-point row of the tables."""

import torch
from torch import Tensor

from dbq.quantizers.base import Transfer, WeightQuantizer


class _RoundToGrid(torch.autograd.Function):
    """The largest weight is on the grid, nothing is clipped: the straight-through gradient is 1 everywhere."""

    @staticmethod
    def forward(ctx, weight, step, largest):
        return (weight / step).round_().clamp_(-largest, largest).mul_(step)

    @staticmethod
    def backward(ctx, grad):
        return grad, None, None


class UniformQuantizer(WeightQuantizer):
    """Weights on the grid step * {-(2^(bits-1)-1) .. 2^(bits-1)-1}; the step follows the largest weight; straight-through gradient."""

    coding = "fixed_point"

    def __init__(self, weight: Tensor, config, fit: bool = True):
        super().__init__()
        self.bits = self.storage_bits = config.bits
        self.largest = 2 ** (self.bits - 1) - 1

    def step(self, weight: Tensor) -> Tensor:
        return (weight.detach().abs().amax() / self.largest).clamp_min(1e-12).reshape(1)

    def forward(self, weight: Tensor) -> Tensor:
        return _RoundToGrid.apply(weight, self.step(weight), self.largest)

    @torch.no_grad()
    def integers(self, weight: Tensor) -> Tensor:
        return (self.forward(weight) / self.step(weight)).round().to(torch.int32)

    @torch.no_grad()
    def transfer(self, weight: Tensor) -> Transfer:
        levels = torch.arange(-self.largest, self.largest + 1, device=weight.device, dtype=weight.dtype)
        return Transfer(weight / self.step(weight), levels, levels[1:] - 0.5)
