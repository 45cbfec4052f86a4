"""The differentiable branch quantizer as one autograd function with a closed-form backward pass (DESIGN section 2).

    hard:  Q(w)   = g2 * ( v_1 + sum_i d_i step(g1 w - t_i) )
    soft:  Q_T(w) = g2 * ( v_1 + sum_i d_i s_i ),   s_i = sigmoid(T (g1 w - t_i)),   d_i = v_{i+1} - v_i

Nothing of the size N x weights is kept: the backward pass recomputes the sigmoids from w, one level at a time. With a hard forward
pass the gradient is that of the hard quantizer with each step's derivative replaced by the sigmoid's: exact in g2 and in the levels,
soft in w, g1 and the thresholds.
"""

import torch
from torch import Tensor

from dbq.quantizers.levels import assign, levels_and_planes, midpoints, take


class BranchQuantize(torch.autograd.Function):
    """apply(w (C, K), a (G, B), g1, g2, T (G, 1), hard_forward, gradient_scale) -> quantized weights (C, K).

    T is the absolute temperature of each group and gets no gradient; gradient_scale multiplies the gradients of a, g1 and g2.
    """

    @staticmethod
    def forward(ctx, w, a, g1, g2, temperature, hard_forward, gradient_scale):
        ctx.save_for_backward(w, a, g1, g2, temperature)
        ctx.hard_forward, ctx.gradient_scale = hard_forward, gradient_scale
        return hard(w, a, g1, g2) if hard_forward else soft(w, a, g1, g2, temperature)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        w, a, g1, g2, temperature = ctx.saved_tensors
        levels, planes = levels_and_planes(a)
        thresholds, gaps = midpoints(levels), levels[:, 1:] - levels[:, :-1]
        scaled = (g1 * w).mul_(temperature)
        slope = torch.zeros_like(w)  # sum_i d_i s_i (1 - s_i)
        at_threshold, above_threshold = torch.empty_like(gaps), torch.empty_like(gaps)
        s = torch.empty_like(w)
        for i in range(gaps.shape[1]):
            torch.sub(scaled, temperature * thresholds[:, i : i + 1], out=s).sigmoid_()
            if not ctx.hard_forward:
                above_threshold[:, i] = _group_dot(grad, s, len(a))
            s.addcmul_(s, s, value=-1)
            at_threshold[:, i] = _group_dot(grad, s, len(a))
            slope.addcmul_(s, gaps[:, i : i + 1])
        slope.mul_(temperature)
        levels_share, g2_grad = _through_levels(ctx, grad, (w, a, g1, g2, temperature), levels, planes, thresholds, above_threshold)
        threshold_planes = (planes[:, 1:] + planes[:, :-1]) / 2  # dt_i / da_j
        thresholds_share = torch.einsum("gi,gib->gb", temperature * gaps * at_threshold, threshold_planes)
        slope.mul_(grad)
        g1_grad = g2 * torch.dot(slope.flatten(), w.flatten())
        scale = ctx.gradient_scale
        return slope.mul_(g1 * g2), scale * g2 * (levels_share - thresholds_share), scale * g1_grad, scale * g2_grad, None, None, None


def _through_levels(ctx, grad, inputs, levels, planes, thresholds, above_threshold):
    """The share of da (G, B) that comes through the levels themselves, and dg2."""
    w, a, g1, g2, temperature = inputs
    if not ctx.hard_forward:
        total = _group_dot(grad, torch.ones_like(grad), len(a))
        share = total[:, None] * planes[:, 0] + torch.einsum("gi,gib->gb", above_threshold, planes[:, 1:] - planes[:, :-1])
        return share, torch.dot(grad.flatten(), soft(w, a, g1, g2, temperature).flatten()) / g2
    index = assign(g1 * w, thresholds)
    by_level = torch.zeros_like(levels)  # sum of the gradient over the weights of each level
    if len(levels) == 1:
        by_level[0].index_add_(0, index.flatten(), grad.flatten())
    else:
        by_level.scatter_add_(1, index, grad)
    return torch.einsum("gn,gnb->gb", by_level, planes), (by_level * levels).sum()


def _group_dot(x: Tensor, y: Tensor, groups: int) -> Tensor:
    """Sum of x*y per group: (1,) for a layer, (C,) per channel."""
    if groups == 1:
        return torch.dot(x.reshape(-1), y.reshape(-1))[None]
    return (x * y).sum(1)


def hard(w: Tensor, a: Tensor, g1, g2) -> Tensor:
    """Q(w) for weights (C, K); every value is g2 times a level."""
    levels, _ = levels_and_planes(a)
    return g2 * take(levels, assign(g1 * w, midpoints(levels)))


def soft(w: Tensor, a: Tensor, g1, g2, temperature: Tensor) -> Tensor:
    """Q_T(w) for weights (C, K) and the absolute temperature (G, 1)."""
    levels, _ = levels_and_planes(a)
    thresholds = midpoints(levels)
    scaled = (g1 * w).mul_(temperature)
    result = levels[:, :1].expand_as(w).clone()
    s = torch.empty_like(w)
    for i in range(thresholds.shape[1]):
        torch.sub(scaled, temperature * thresholds[:, i : i + 1], out=s).sigmoid_()
        result.addcmul_(s, levels[:, i + 1 : i + 2] - levels[:, i : i + 1])
    return result.mul_(g2)
