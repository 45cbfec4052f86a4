"""Uniform grids; the symmetric one is the fixed-point method of the tables, and what the layer policy gives to sensitive layers."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dbq.quantizers.base import Transfer, WeightQuantizer

SMALLEST_STEP = 1e-12


def nearest(weight: Tensor, step: Tensor, lowest: int, largest: int) -> Tensor:
    """The integers, as floats. Tie rule: half-way between two integers the even one is taken (torch.round)."""
    return (weight / step).round_().clamp_(lowest, largest)


class GridQuantizer(WeightQuantizer):
    """Weights on step * {-Qn .. Qp}: Qn = Qp = 2^(bits-1) - 1, or Qn = 2^(bits-1) (full). The grid {-1, 0, 1} is ternary coding."""

    def __init__(self, bits: int, full: bool = False):
        super().__init__(bits)
        self.largest = 2 ** (bits - 1) - 1
        self.lowest = -self.largest - full
        self.coding = "ternary" if (self.lowest, self.largest) == (-1, 1) else "fixed_point"

    @torch.no_grad()
    def integers(self, weight: Tensor) -> Tensor:
        return nearest(weight, self.step(weight), self.lowest, self.largest).to(torch.int32)

    @torch.no_grad()
    def transfer(self, weight: Tensor) -> Transfer:
        levels = torch.arange(self.lowest, self.largest + 1, device=weight.device, dtype=weight.dtype)
        return Transfer(weight / self.step(weight), levels, levels[1:] - 0.5)


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
    """The symmetric grid whose largest value is the largest weight. config: has `bits`."""

    def __init__(self, weight: Tensor, config, fit: bool = True):
        super().__init__(config.bits)
        self.coding = "fixed_point"  # of 2 bits too, so that a layer which a policy leaves to `uniform` is counted as fixed point

    def step(self, weight: Tensor) -> Tensor:
        return _steps((weight.detach(),), (self.largest,))[0].reshape(1)

    def forward(self, weight: Tensor) -> Tensor:
        return RoundToGrid.apply((self.largest,), weight)[0] if self.finished is None else self.finished
