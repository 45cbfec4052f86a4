"""TTQ, trained ternary quantization (Zhu et al. 2017; checked with czhu95/ternarynet): one learnt scale for each sign.

The threshold is a fraction of the layer's max |w| at every step. A weight q becomes Wp above the threshold, -Wn below its negative, and 0
between. The gradients are the paper's: dL/dWp = sum of dL/dq over the positive weights, dL/dWn = -sum over the negative ones, and
dL/dw = dL/dq times Wp, 1 or Wn.
The authors' code starts Wp and Wn at 1.0 (`initial: one`) and doesn't scale their gradients (`gradient_scale: none`). The weights of the
float networks here are much smaller than 1. `initial: mean` therefore starts each scale at the mean magnitude of its side. It needs
`gradient_scale: lsq`, a factor of 1 / sqrt(number of weights) as in LSQ: in a trial on ResNet-20, the plain sums drove such small scales
below 0 within ten steps. In the first 150 steps of that trial, `mean` and `one` with `lsq` were alike, and better than the authors' choice.
Tie rule, as in the authors' code: a weight whose magnitude is exactly the threshold becomes 0.
"""

import torch
from torch import Tensor, nn

from dbq.quantizers.base import Decomposition, Transfer, WeightQuantizer


class TrainedTernary(torch.autograd.Function):
    """apply(weight, Wp, Wn, threshold, gradient_scale) -> quantized; the last is a number, which multiplies the gradients of Wp and Wn."""

    @staticmethod
    def forward(ctx, weight, positive, negative, threshold, gradient_scale):
        above, below = weight > threshold, weight < -threshold
        ctx.save_for_backward(above, below, positive, negative)
        ctx.gradient_scale = gradient_scale
        return positive * above - negative * below

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        above, below, positive, negative = ctx.saved_tensors
        upper, lower = grad * above, grad * below
        weight_grad = grad + (positive - 1) * upper + (negative - 1) * lower
        return weight_grad, ctx.gradient_scale * upper.sum(), -ctx.gradient_scale * lower.sum(), None, None


class TtqQuantizer(WeightQuantizer):
    """Weights in {-Wn, 0, Wp}. One plane for each sign: hardware sums each sign on its own and scales the two sums."""

    must_be_positive = {side: f"scale of the {side} weights" for side in ("positive", "negative")}

    def __init__(self, weight: Tensor, config, fit: bool = True):
        super().__init__(config.weight_bits)
        self.fraction = config.threshold
        self.gradient_scale = weight.numel() ** -0.5 if config.gradient_scale == "lsq" else 1.0
        start = self._means(weight.detach()) if fit and config.initial == "mean" else weight.new_ones(2)
        self.positive = nn.Parameter(start[0].clone())
        self.negative = nn.Parameter(start[1].clone())

    def _means(self, weight: Tensor) -> Tensor:
        """(2,) mean magnitude of the positive and of the negative weights beyond the threshold; for a sign without weights that of both."""
        threshold = self.threshold(weight)
        sides = torch.stack([weight > threshold, weight < -threshold]).flatten(1)
        magnitudes, counts = (weight.abs().flatten() * sides).sum(1), sides.sum(1)
        return torch.where(counts > 0, magnitudes / counts.clamp_min(1), magnitudes.sum() / counts.sum())

    def threshold(self, weight: Tensor) -> Tensor:
        return self.fraction * weight.detach().abs().amax()

    def forward(self, weight: Tensor) -> Tensor:
        return TrainedTernary.apply(weight, self.positive, self.negative, self.threshold(weight), self.gradient_scale)

    @torch.no_grad()
    def decompose(self, weight: Tensor) -> Decomposition:
        threshold, rows = self.threshold(weight), weight.flatten(1)
        planes = torch.stack([(rows > threshold).to(torch.int8), -(rows < -threshold).to(torch.int8)])
        return Decomposition(planes, torch.stack([self.positive, self.negative])[None])

    @torch.no_grad()
    def transfer(self, weight: Tensor) -> Transfer:
        threshold = self.threshold(weight)
        levels = torch.stack([-self.negative, torch.zeros_like(self.positive), self.positive])
        return Transfer(weight, levels, torch.stack([-threshold, threshold]))
