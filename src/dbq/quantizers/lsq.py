"""LSQ, learned step size quantization (Esser et al. 2020; read in zhutmost/lsq-net): a uniform grid whose step is learnt.

The step s starts at 2 * mean |w| / sqrt(Qp). Its gradient, with v = w / s, is round(v) - v inside the grid, -Qn below and Qp above,
times 1 / sqrt(Qp * number of weights); a weight that is clipped gets no gradient. Ties as in uniform.py.
"""

import torch
from torch import Tensor, nn

from dbq.quantizers.uniform import GridQuantizer, nearest


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
    """The grid is symmetric or full, as `config.levels` says."""

    must_be_positive = {"s": "learnt step"}

    def __init__(self, weight: Tensor, config, fit: bool = True):
        super().__init__(config.bits, config.levels == "full")
        start = 2 * weight.detach().abs().mean() / self.largest**0.5 if fit else weight.new_ones(())
        self.s = nn.Parameter(start.clone())
        self.gradient_scale = (self.largest * weight.numel()) ** -0.5

    def step(self, weight: Tensor) -> Tensor:
        return self.s.detach().reshape(1)

    def forward(self, weight: Tensor) -> Tensor:
        return LearntStep.apply(weight, self.s, self.lowest, self.largest, self.gradient_scale)
