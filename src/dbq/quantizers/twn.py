"""TWN, ternary weight networks (Li et al. 2016; checked with Thinklab-SJTU/twns): a ternary plane whose scale follows the weights.

Each filter (or layer) has the threshold 0.75 * mean |w| and the scale mean |w| over the weights beyond it. The gradient is
straight-through.
Tie rule, as in the authors' code: a weight whose magnitude is exactly the threshold becomes 0.
"""

import torch
from torch import Tensor

from dbq.quantizers.base import Decomposition, StraightThrough, Transfer, WeightQuantizer, from_memory_order, memory_order

THRESHOLD = 0.75  # of mean |w|


def planes_and_scales(groups: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Planes (G, K) in {-1, 0, 1}, as floats, scales (G, 1) and thresholds (G, 1) of weights (G, K). A group of zeros has the scale 0."""
    magnitudes = groups.abs()
    threshold = THRESHOLD * magnitudes.mean(1, keepdim=True)
    kept = magnitudes > threshold
    scale = (magnitudes * kept).sum(1, keepdim=True) / kept.sum(1, keepdim=True).clamp_min(1)
    return groups.sign() * kept, scale, threshold


class TwnQuantizer(WeightQuantizer):
    """Weights in {-scale, 0, scale}; no parameters and no state."""

    def __init__(self, weight: Tensor, config, fit: bool = True):
        super().__init__(config.weight_bits, config.scales)

    def forward(self, weight: Tensor) -> Tensor:
        with torch.no_grad():
            planes, scale, _ = planes_and_scales(self.groups(memory_order(weight).flatten(1)))
            quantized = from_memory_order(planes.mul_(scale), weight)
        return StraightThrough.apply(weight, quantized)

    @torch.no_grad()
    def decompose(self, weight: Tensor) -> Decomposition:
        planes, scale, _ = planes_and_scales(self.groups(memory_order(weight).flatten(1)))
        return Decomposition(from_memory_order(planes, weight).flatten(1)[None].to(torch.int8), scale)

    @torch.no_grad()
    def transfer(self, weight: Tensor) -> Transfer:
        group = self.groups(weight.flatten(1))[:1]
        _, scale, threshold = planes_and_scales(group)
        positive = torch.cat([torch.zeros_like(scale[0]), scale[0]])
        return Transfer(group, torch.cat([-scale[0], positive]), torch.cat([-threshold[0], threshold[0]]))
