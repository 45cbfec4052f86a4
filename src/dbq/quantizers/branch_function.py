"""The differentiable branch quantizer as one autograd function with a closed-form backward pass (DESIGN section 2).

    hard:  Q(w)   = g2 * ( v_1 + sum_i d_i step(g1 w - t_i) )
    soft:  Q_T(w) = g2 * ( v_1 + sum_i d_i s_i ),   s_i = sigmoid(T (g1 w - t_i)),   d_i = v_{i+1} - v_i

Nothing of the size N x weights is kept (a hard forward pass keeps the index of each weight's level, one byte): the backward pass computes
the sigmoids again from w, a slice of the weights at a time, so that its temporaries stay in the processor's cache. With a hard forward
pass the gradient is that of the hard quantizer with each step's derivative replaced by the sigmoid's: exact in g2 and in the levels, soft
in w, g1 and the thresholds.
"""

import torch
from torch import Tensor

from dbq.quantizers.levels import assign, midpoints, sorted_levels, take

SLICE = 1 << 17  # elements of a temporary: 512 KiB of float32


class BranchQuantize(torch.autograd.Function):
    """apply(w (C, K), a (G, B), g1, g2, T (G, 1), hard_forward, gradient_scale) -> quantized weights (C, K).

    T is the absolute temperature of each group and gets no gradient; gradient_scale multiplies the gradients of a, g1 and g2.
    """

    @staticmethod
    def forward(ctx, w, a, g1, g2, temperature, hard_forward, gradient_scale):
        levels, planes = sorted_levels(a)
        ctx.hard_forward, ctx.gradient_scale = hard_forward, gradient_scale
        if not hard_forward:
            ctx.save_for_backward(w, g1, g2, temperature, levels, planes)
            return _soft(w, levels, g1, g2, temperature)
        index = assign(g1 * w, midpoints(levels))
        ctx.save_for_backward(w, g1, g2, temperature, levels, planes, index.to(torch.uint8))
        return take(g2 * levels, index)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        w, g1, g2, temperature, levels, planes, *index = ctx.saved_tensors
        thresholds, gaps = midpoints(levels), levels.diff(dim=1)
        rows, gradients = w.reshape(len(levels), -1), grad.reshape(len(levels), -1)
        slope = torch.empty_like(rows)  # sum_i d_i s_i (1 - s_i)
        at_threshold, above = torch.zeros_like(gaps), torch.zeros_like(gaps)  # sums of grad s_i (1 - s_i) and of grad s_i
        for part in _slices(rows, gaps):
            g = gradients[:, part, None]
            s = _sigmoids(rows[:, part], thresholds, g1, temperature)  # (G, N-1, part)
            if not ctx.hard_forward:
                above += torch.bmm(s, g)[:, :, 0]
            s.addcmul_(s, s, value=-1)
            at_threshold += torch.bmm(s, g)[:, :, 0]
            slope[:, part] = torch.bmm(gaps[:, None], s)[:, 0]
        if ctx.hard_forward:
            by_level = _sums_by_level(index[0].view_as(gradients), gradients, levels.shape[1])
        else:
            # soft membership of level i is s_{i-1} - s_i, with s_0 = 1 and s_N = 0
            by_level = torch.cat([gradients.sum(1, keepdim=True), above], 1) - torch.nn.functional.pad(above, (0, 1))
        # a threshold half-way between two levels moves by half of what each of them moves
        half = temperature * gaps * at_threshold / 2
        through_levels = by_level.clone()
        through_levels[:, 1:] -= half
        through_levels[:, :-1] -= half
        a_grad = torch.bmm(through_levels[:, None], planes)[:, 0]
        slope.mul_(gradients)
        g1_grad = (torch.linalg.vecdot(slope, rows) * temperature[:, 0]).sum()
        w_grad = slope.mul_(temperature * (g1 * g2)).view_as(w)
        scale = ctx.gradient_scale * g2
        return w_grad, scale * a_grad, scale * g1_grad, ctx.gradient_scale * (by_level * levels).sum(), None, None, None


def _sums_by_level(index: Tensor, gradients: Tensor, count: int) -> Tensor:
    """(G, N) sums of the gradient over the weights of each level."""
    groups, index = len(index), index.int()
    if groups > 1:
        index = index + torch.arange(groups, device=index.device, dtype=torch.int32)[:, None] * count
    by_level = gradients.new_zeros(groups * count)
    return by_level.index_add_(0, index.view(-1), gradients.reshape(-1)).view(groups, count)


def _slices(rows: Tensor, gaps: Tensor):
    width = max(1, SLICE // gaps.numel())
    return [slice(start, start + width) for start in range(0, rows.shape[1], width)]


def _sigmoids(x: Tensor, thresholds: Tensor, g1, temperature: Tensor) -> Tensor:
    """s (G, N-1, K) for weights x (G, K)."""
    return ((g1 * temperature) * x)[:, None].sub((temperature * thresholds)[:, :, None]).sigmoid_()


def hard(w: Tensor, a: Tensor, g1, g2) -> Tensor:
    """Q(w) for weights (C, K); every value is g2 times a level."""
    levels, _ = sorted_levels(a)
    return take(g2 * levels, assign(g1 * w, midpoints(levels)))


def soft(w: Tensor, a: Tensor, g1, g2, temperature: Tensor) -> Tensor:
    """Q_T(w) for weights (C, K) and the absolute temperature (G, 1)."""
    return _soft(w, sorted_levels(a)[0], g1, g2, temperature)


def _soft(w, levels, g1, g2, temperature):
    thresholds, gaps = midpoints(levels), levels.diff(dim=1)
    rows = w.reshape(len(levels), -1)
    result = torch.empty_like(rows)
    for part in _slices(rows, gaps):
        result[:, part] = torch.bmm(gaps[:, None], _sigmoids(rows[:, part], thresholds, g1, temperature))[:, 0]
    return result.add_(levels[:, :1]).mul_(g2).view_as(w)
