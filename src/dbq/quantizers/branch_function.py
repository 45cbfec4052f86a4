"""The differentiable branch quantizer as one autograd function with a closed-form backward pass (DESIGN section 2).

    hard:  Q(w)   = g2 * ( v_1 + sum_i d_i step(g1 w - t_i) )
    soft:  Q_T(w) = g2 * ( v_1 + sum_i d_i s_i ),   s_i = sigmoid(T (g1 w - t_i)),   d_i = v_{i+1} - v_i

Nothing of the size N x weights is kept: the backward pass computes the sigmoids again from w, a slice of the weights at a time, so that
its temporaries stay in the processor's cache. With a hard forward pass the gradient is that of the hard quantizer with each step's
derivative replaced by the sigmoid's: exact in g2 and in the levels, soft in w, g1 and the thresholds.
"""

import torch
from torch import Tensor

from dbq.quantizers.levels import assign, levels_and_planes, midpoints, take

SLICE = 1 << 17  # elements of a temporary: 512 KiB of float32


class BranchQuantize(torch.autograd.Function):
    """apply(w (C, K), a (G, B), g1, g2, T (G, 1), hard_forward, gradient_scale) -> quantized weights (C, K).

    T is the absolute temperature of each group and gets no gradient; gradient_scale multiplies the gradients of a, g1 and g2.
    """

    @staticmethod
    def forward(ctx, w, a, g1, g2, temperature, hard_forward, gradient_scale):
        levels, planes = levels_and_planes(a)
        ctx.save_for_backward(w, g1, g2, temperature, levels, planes)
        ctx.hard_forward, ctx.gradient_scale = hard_forward, gradient_scale
        return _hard(w, levels, g1, g2) if hard_forward else _soft(w, levels, g1, g2, temperature)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        w, g1, g2, temperature, levels, planes = ctx.saved_tensors
        thresholds, gaps = midpoints(levels), levels.diff(dim=1)
        groups = len(levels)
        rows, gradients = w.reshape(groups, -1), grad.reshape(groups, -1)
        slope = torch.empty_like(rows)  # sum_i d_i s_i (1 - s_i)
        at_threshold, above_threshold = torch.zeros_like(gaps), torch.zeros_like(gaps)  # sums of grad s_i (1 - s_i) and of grad s_i
        for part in _slices(rows, gaps):
            x, g = rows[:, part], gradients[:, part]
            s = _sigmoids(x, thresholds, g1, temperature)  # (G, N-1, part)
            above = ((g1 * x)[:, None] >= thresholds[:, :, None]).to(s.dtype) if ctx.hard_forward else s
            above_threshold += torch.bmm(above, g[:, :, None])[:, :, 0]
            s = torch.addcmul(s, s, s, value=-1, out=s if ctx.hard_forward else None)
            at_threshold += torch.bmm(s, g[:, :, None])[:, :, 0]
            slope[:, part] = torch.bmm(gaps[:, None], s)[:, 0]
        slope.mul_(gradients).mul_(temperature)
        total = gradients.sum(1)
        level_share = total[:, None] * planes[:, 0] + torch.einsum("gi,gib->gb", above_threshold, planes.diff(dim=1))
        threshold_planes = (planes[:, 1:] + planes[:, :-1]) / 2  # dt_i / da_j
        threshold_share = torch.einsum("gi,gib->gb", temperature * gaps * at_threshold, threshold_planes)
        g1_grad = g2 * torch.dot(slope.view(-1), rows.reshape(-1))
        g2_grad = (total * levels[:, 0]).sum() + (above_threshold * gaps).sum()
        scale = ctx.gradient_scale
        w_grad = slope.mul_(g1 * g2).view_as(w)
        return w_grad, scale * g2 * (level_share - threshold_share), scale * g1_grad, scale * g2_grad, None, None, None


def _slices(rows: Tensor, gaps: Tensor):
    width = max(1, SLICE // gaps.numel())
    return [slice(start, start + width) for start in range(0, rows.shape[1], width)]


def _sigmoids(x: Tensor, thresholds: Tensor, g1, temperature: Tensor) -> Tensor:
    """s (G, N-1, K) for weights x (G, K)."""
    return ((g1 * temperature) * x)[:, None].sub((temperature * thresholds)[:, :, None]).sigmoid_()


def hard(w: Tensor, a: Tensor, g1, g2) -> Tensor:
    """Q(w) for weights (C, K); every value is g2 times a level."""
    return _hard(w, levels_and_planes(a)[0], g1, g2)


def soft(w: Tensor, a: Tensor, g1, g2, temperature: Tensor) -> Tensor:
    """Q_T(w) for weights (C, K) and the absolute temperature (G, 1)."""
    return _soft(w, levels_and_planes(a)[0], g1, g2, temperature)


def _hard(w, levels, g1, g2):
    return take(g2 * levels, assign(g1 * w, midpoints(levels)))


def _soft(w, levels, g1, g2, temperature):
    thresholds, gaps = midpoints(levels), levels.diff(dim=1)
    rows = w.reshape(len(levels), -1)
    result = torch.empty_like(rows)
    for part in _slices(rows, gaps):
        result[:, part] = torch.bmm(gaps[:, None], _sigmoids(rows[:, part], thresholds, g1, temperature))[:, 0]
    return result.add_(levels[:, :1]).mul_(g2).view_as(w)
