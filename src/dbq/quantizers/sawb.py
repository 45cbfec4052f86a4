"""SAWB, statistics-aware weight binning (Choi et al., "Accurate and Efficient 2-bit Quantized Neural Networks", MLSys 2019).

The grid is {-(2^(bits-1)-1) .. 2^(bits-1)-1} * alpha / (2^(bits-1)-1). Its largest level follows two statistics of the layer:
alpha = c1 * sqrt(E[w^2]) - c2 * E|w|. The coefficients c1 and c2 come from a regression: of the alpha with the least squared error, for
several standard distributions. The gradient is straight-through. Ties as in uniform.py.

The coefficients for 2, 4 and 8 bits are those of the authors' company for grids with zero (foundation-model-stack/fms-model-optimizer,
fms_mo/quant_refactor/sawb_utils.py, codes 103, 403, 803); the paper's own 2-bit levels are +-alpha and +-alpha/3, without zero. That
source has none for 3 bits with zero. They come from the same regression over the paper's six distributions, which
tests/quantizers/test_rival_sawb.py repeats.
"""

import torch
from torch import Tensor

from dbq.errors import DbqError
from dbq.quantizers.base import StraightThrough
from dbq.quantizers.uniform import GridQuantizer, nearest

COEFFICIENTS = {2: (2.6, 1.71), 3: (6.94, 6.31), 4: (12.035, 12.03), 8: (31.76, 35.04)}  # bits: (c1, c2)
COLLAPSED = "SAWB's largest level is not positive: the weights have nearly equal magnitudes"
REMEDY = "use fewer bits, or leave this kind of layer to `uniform` in the policy"


class SawbQuantizer(GridQuantizer):
    """No parameters and no state: the step follows the weights."""

    def __init__(self, weight: Tensor, config, fit: bool = True):
        super().__init__(config.bits)
        if fit and self.step(weight) <= 0:
            raise DbqError(COLLAPSED, REMEDY)

    def step(self, weight: Tensor) -> Tensor:
        c1, c2 = COEFFICIENTS[self.storage_bits]
        weight = weight.detach()
        return ((c1 * weight.square().mean().sqrt() - c2 * weight.abs().mean()) / self.largest).reshape(1)

    def forward(self, weight: Tensor) -> Tensor:
        with torch.no_grad():
            step = self.step(weight)
            quantized = nearest(weight, step, self.lowest, self.largest).mul_(step)
        return StraightThrough.apply(weight, quantized)

    @torch.no_grad()
    def check(self, weight: Tensor, layer: str) -> None:
        """As for every quantizer; also for a step that is not positive."""
        if self.step(weight) <= 0:
            raise DbqError(f"layer {layer}: {COLLAPSED}", REMEDY)
        super().check(weight, layer)
