"""LSQ, learned step size quantization (Esser et al. 2020; read in zhutmost/lsq-net): a uniform grid whose step is learnt.

The step s starts at 2 * mean |w| / sqrt(Qp). Its gradient, with v = w / s, is round(v) - v inside the grid, -Qn below and Qp above,
times 1 / sqrt(Qp * number of weights); a weight that is clipped gets no gradient. Ties as in grid.py.
"""

import torch
from torch import Tensor, nn

from dbq.errors import DbqError
from dbq.quantizers.base import check_usable
from dbq.quantizers.grid import GridQuantizer, nearest


class LearntStep(torch.autograd.Function):
    """apply(weight, step (scalar), lowest, largest, gradient_scale) -> quantized."""

    @staticmethod
    def forward(ctx, weight, step, lowest, largest, gradient_scale):
        ctx.save_for_backward(weight, step)
        ctx.limits, ctx.gradient_scale = (lowest, largest), gradient_scale
        return nearest(weight, step, lowest, largest).mul_(step)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        weight, step = ctx.saved_tensors
        v = weight / step
        inside = (v >= ctx.limits[0]) & (v <= ctx.limits[1])
        weight_grad = grad * inside
        # a clipped weight has the slope of its integer, any other that of round(v) - v
        slope = v.round().clamp_(*ctx.limits).sub_(v.mul_(inside))
        return weight_grad, (grad * slope).sum() * ctx.gradient_scale, None, None, None


class LsqQuantizer(GridQuantizer):
    """Weights on step * {-Qn .. Qp}: Qn = Qp = 2^(bits-1) - 1 (symmetric), or Qn = 2^(bits-1) (full)."""

    def __init__(self, weight: Tensor, config, fit: bool = True):
        largest = 2 ** (config.bits - 1) - 1
        super().__init__(config.bits, -largest - (config.levels == "full"), largest)
        check_usable(weight)
        start = 2 * weight.detach().abs().mean() / largest**0.5 if fit else torch.ones((), dtype=weight.dtype, device=weight.device)
        self.s = nn.Parameter(start.clone())
        self.gradient_scale = (largest * weight.numel()) ** -0.5

    def step(self, weight: Tensor) -> Tensor:
        return self.s.detach().reshape(1)

    def forward(self, weight: Tensor) -> Tensor:
        return LearntStep.apply(weight, self.s, self.lowest, self.largest, self.gradient_scale)

    @torch.no_grad()
    def check(self, weight: Tensor, layer: str) -> None:
        """As for every quantizer; also for a step that is not positive."""
        if self.s <= 0:
            raise DbqError(f"layer {layer}: the learnt step is {float(self.s):.3g}", "lower scale_learning_rate")
        super().check(weight, layer)
