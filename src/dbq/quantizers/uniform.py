"""Symmetric uniform weights of 2 to 8 bits: the fixed-point method of the tables, and what the layer policy gives to sensitive layers."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dbq.quantizers.grid import GridQuantizer

SMALLEST_STEP = 1e-12


@dataclass(frozen=True)
class Width:
    """All that a UniformQuantizer has to know; the settings of the method have a `bits` too."""

    bits: int


class RoundToGrid(torch.autograd.Function):
    """apply(largest, *weights) -> the rounded weights of one or more layers; largest: for each the largest integer of its grid.

    A layer's largest weight is on its grid, so nothing is clipped: the straight-through gradient is 1 everywhere.
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


class UniformQuantizer(GridQuantizer):
    """Weights on the grid step * {-(2^(bits-1)-1) .. 2^(bits-1)-1}, whose step follows the largest weight. config: has `bits`."""

    def __init__(self, weight: Tensor, config, fit: bool = True):
        largest = 2 ** (config.bits - 1) - 1
        super().__init__(config.bits, -largest, largest)
        self.coding = "fixed_point"  # of 2 bits too, so that a layer which a policy leaves to `uniform` is counted as fixed point

    def step(self, weight: Tensor) -> Tensor:
        return _steps((weight.detach(),), (self.largest,))[0].reshape(1)

    def forward(self, weight: Tensor) -> Tensor:
        if (finished := self.finished_weight()) is not None:
            return finished
        return RoundToGrid.apply((self.largest,), weight)[0]
