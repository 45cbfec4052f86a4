"""Symmetric uniform weights of 2 to 8 bits: what the layer policy gives to sensitive layers, and the fixed-point row of the tables."""

import math

import torch
from torch import Tensor

from dbq.quantizers.base import Transfer, WeightQuantizer

SMALLEST_STEP = 1e-12


class RoundToGrid(torch.autograd.Function):
    """apply(largest, *weights) -> the rounded weights of one or more layers; largest: a number for each, the end of its grid.

    A layer's largest weight is on the grid, so nothing is clipped: the straight-through gradient is 1 everywhere.
    """

    @staticmethod
    def forward(ctx, largest, *weights):
        steps = _steps(weights, largest)
        values = torch._foreach_div(weights, steps)
        torch._foreach_round_(values)
        torch._foreach_mul_(values, steps)
        return tuple(values)

    @staticmethod
    def backward(ctx, *grads):
        return None, *grads


def _steps(weights, largest) -> tuple[Tensor, ...]:
    steps = torch._foreach_norm(weights, math.inf)
    torch._foreach_div_(steps, [float(value) for value in largest])
    torch._foreach_clamp_min_(steps, SMALLEST_STEP)
    return steps


class UniformQuantizer(WeightQuantizer):
    """Weights on the grid step * {-(2^(bits-1)-1) .. 2^(bits-1)-1}; the step follows the largest weight; straight-through gradient."""

    coding = "fixed_point"

    def __init__(self, weight: Tensor, config, fit: bool = True):
        super().__init__()
        self.bits = self.storage_bits = config.bits
        self.largest = 2 ** (self.bits - 1) - 1
        self.ready: Tensor | None = None

    def step(self, weight: Tensor) -> Tensor:
        return _steps((weight.detach(),), (self.largest,))[0].reshape(1)

    def forward(self, weight: Tensor) -> Tensor:
        if self.ready is not None:  # together.py has quantized all layers in one call
            return self.ready
        return RoundToGrid.apply((self.largest,), weight)[0]

    @torch.no_grad()
    def integers(self, weight: Tensor) -> Tensor:
        values = RoundToGrid.apply((self.largest,), weight)[0]
        return (values / self.step(weight)).round().to(torch.int32)

    @torch.no_grad()
    def transfer(self, weight: Tensor) -> Transfer:
        levels = torch.arange(-self.largest, self.largest + 1, device=weight.device, dtype=weight.dtype)
        return Transfer(weight / self.step(weight), levels, levels[1:] - 0.5)
