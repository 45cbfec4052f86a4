"""Base of the quantizers with a uniform grid: integers from `lowest` to `largest`, times one step for the layer."""

import torch
from torch import Tensor

from dbq.quantizers.base import Decomposition, Transfer, WeightQuantizer


def nearest(weight: Tensor, step: Tensor, lowest: int, largest: int) -> Tensor:
    """The integers, as floats. Tie rule: half-way between two integers the even one is taken (torch.round)."""
    return (weight / step).round_().clamp_(lowest, largest)


class GridQuantizer(WeightQuantizer):
    """Hard weights are integers times `step`. The grid {-1, 0, 1} is ternary coding: one plane, whose scale is the step."""

    def __init__(self, bits: int, lowest: int, largest: int):
        super().__init__()
        self.bits = self.storage_bits = bits
        self.lowest, self.largest = lowest, largest
        self.coding = "ternary" if (lowest, largest) == (-1, 1) else "fixed_point"

    @torch.no_grad()
    def integers(self, weight: Tensor) -> Tensor:
        return nearest(weight, self.step(weight), self.lowest, self.largest).to(torch.int32)

    @torch.no_grad()
    def decompose(self, weight: Tensor) -> Decomposition:
        if self.coding == "fixed_point":
            return super().decompose(weight)
        return Decomposition(self.integers(weight).flatten(1)[None].to(torch.int8), self.step(weight).reshape(1, 1))

    @torch.no_grad()
    def transfer(self, weight: Tensor) -> Transfer:
        levels = torch.arange(self.lowest, self.largest + 1, device=weight.device, dtype=weight.dtype)
        return Transfer(weight / self.step(weight), levels, levels[1:] - 0.5)
