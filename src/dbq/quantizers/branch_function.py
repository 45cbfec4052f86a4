"""The differentiable branch quantizer as one autograd function with a closed-form backward pass.

With branch scales a, the sorted levels v_1 .. v_N of levels.py, thresholds t_i between them, pre-scale g1, post-scale g2, temperature T:

    hard:  Q(w)   = g2 * ( v_1 + sum_i d_i step(g1 w - t_i) )                               d_i = v_{i+1} - v_i,  i = 1 .. N-1
    soft:  Q_T(w) = g2 * ( v_1 + sum_i d_i s_i )                                            s_i = sigmoid(T (g1 w - t_i))

    dQ_T/dw   = g1 g2 T sum_i d_i s_i (1 - s_i)
    dQ_T/dg1  = g2 w T sum_i d_i s_i (1 - s_i)
    dQ_T/dg2  = Q_T / g2
    dQ_T/da_j = g2 * ( dv_1/da_j + sum_i dd_i/da_j s_i - T sum_i d_i s_i (1 - s_i) dt_i/da_j )

A hard forward pass has the gradient of Q with each step's derivative replaced by the sigmoid's: it is exact in g2 and in the levels, and
soft in w, g1 and the thresholds.

Weights come as rows of equal length. Each row belongs to one of G groups, which have scales of their own, so that one call serves a
filter, a layer, or all layers of a network (together.py).

No tensor of N values a weight is kept for the backward pass; a hard forward pass keeps the index of each weight's level, one byte. The
backward pass computes the sigmoids again from w, some rows at a time (sigmoids.py).
"""

import torch
from torch import Tensor

from dbq.quantizers import compiled
from dbq.quantizers.levels import assign, count_below, midpoints, sorted_levels, take
from dbq.quantizers.sigmoids import blocks, sigmoids, sum_of_sigmoids


class BranchQuantize(torch.autograd.Function):
    """apply(rows_of, hard_forward, compile, a (G, B), g1 (G, 1), g2 (G, 1), T (G, 1), gradient_scale (G, 1), *weights)
    -> the quantized weights, as rows_of shapes them.

    rows_of: how the weights of one or more layers become rows. It has rows (R,), the group of each row; join(weights) -> (R, K), called
    again in the backward pass; split((R, K)) -> a list like `weights`. T: the absolute temperature of each group; it gets no gradient.
    gradient_scale: multiplies the gradients of a, g1 and g2. compile: do a hard forward pass and its gradient by compiled.py.
    """

    @staticmethod
    def forward(ctx, rows_of, hard_forward, compile, a, g1, g2, temperature, gradient_scale, *weights):
        levels, planes = sorted_levels(a)
        w, rows = rows_of.join(weights), rows_of.rows
        ctx.rows_of, ctx.hard_forward, ctx.compiled, index = rows_of, hard_forward, compile, ()
        if not hard_forward:
            quantized = sum_of_sigmoids(w, levels.diff(dim=1)[rows], *_tables(levels, g1, temperature, rows))
            quantized.add_(levels[rows, :1]).mul_(g2[rows])
        elif compile:
            quantized = compiled.hard(w, levels, g1, g2, rows)
        else:
            index = (count_below(w * g1[rows], midpoints(levels)[rows]),)
            quantized = take((g2 * levels)[rows], index[0].long())
        ctx.save_for_backward(g1, g2, temperature, gradient_scale, levels, planes, *weights, *index)
        ctx.count = len(weights)
        return tuple(rows_of.split(quantized))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *grads):
        g1, g2, temperature, gradient_scale, levels, planes, *others = ctx.saved_tensors
        weights, index = others[: ctx.count], others[ctx.count :]
        w, grad, rows = ctx.rows_of.join(weights), ctx.rows_of.join(grads), ctx.rows_of.rows
        gaps, count = levels.diff(dim=1), len(levels)
        # w_grad is T g1 g2 grad * sum_i d_i s_i (1 - s_i), at_threshold the sums of grad s_i (1 - s_i) over each row
        if ctx.hard_forward and ctx.compiled:
            w_grad, dots, by_level, at_threshold = compiled.gradients(w, grad, levels, g1, g2, temperature, rows)
            by_level = _by_group(by_level, rows, count)
        else:
            w_grad, dots, at_threshold, above = _slopes(w, grad, levels, g1, g2, temperature, rows, not ctx.hard_forward)
            if ctx.hard_forward:
                sums = sums_by_masks if grad.is_cuda else sums_by_adding
                by_level = sums(index[0], grad, rows, count, levels.shape[1])
            else:
                # soft membership of level i is s_{i-1} - s_i, with s_0 = 1 and s_N = 0
                below = torch.cat([grad.sum(1, keepdim=True), above], 1)
                by_level = _by_group(below - torch.nn.functional.pad(above, (0, 1)), rows, count)
        # a threshold half-way between two levels moves by half of what each of them moves
        half = temperature * gaps * _by_group(at_threshold, rows, count) / 2
        through_levels = by_level.clone()
        through_levels[:, 1:] -= half
        through_levels[:, :-1] -= half
        scale = gradient_scale * g2
        a_grad = torch.bmm(through_levels[:, None], planes)[:, 0]
        g1_grad = gradient_scale * _by_group(dots, rows, count) / g1
        g2_grad = gradient_scale * (by_level * levels).sum(1, keepdim=True)
        return None, None, None, scale * a_grad, g1_grad, g2_grad, None, None, *ctx.rows_of.split(w_grad)


class OneLayer:
    """The weights (C, K) of one layer: all rows belong to one group, or each row is a group."""

    def __init__(self, weight: Tensor, groups: int):
        count, device = len(weight), weight.device
        self.rows = torch.zeros(count, dtype=torch.int64, device=device) if groups == 1 else torch.arange(count, device=device)

    @staticmethod
    def join(weights) -> Tensor:
        return weights[0]

    @staticmethod
    def split(matrix: Tensor) -> list[Tensor]:
        return [matrix]


def _slopes(w, grad, levels, g1, g2, temperature, rows, soft_forward: bool):
    """T g1 g2 grad sum_i d_i s_i (1 - s_i) (R, K); its dot product with w (R, 1); the sums over K of grad s_i (1 - s_i) (R, N-1); and
    for a soft forward pass the sums over K of grad s_i (R, N-1)."""
    gaps = levels.diff(dim=1)[rows][:, None]
    count = gaps.shape[2]
    slope, at_threshold, above = torch.empty_like(w), w.new_empty(len(w), count), w.new_empty(len(w), count)
    others = (grad[:, None].expand(-1, count, -1), gaps, slope[:, None], at_threshold, above)
    for w_, g, gaps_, slope_, at, above_, *tables in blocks(w, count, *others, *_tables(levels, g1, temperature, rows)):
        s = sigmoids(w_, *tables)  # (rows, N-1, K)
        if soft_forward:
            torch.sum(s * g, 2, out=above_)
        s = torch.ops.aten.sigmoid_backward(g, s)  # grad s_i (1 - s_i) in one pass
        torch.sum(s, 2, out=at)
        torch.bmm(gaps_, s, out=slope_)
    w_grad = slope.mul_((temperature * g1 * g2)[rows])
    return w_grad, torch.linalg.vecdot(w_grad, w)[:, None], at_threshold, above


def _by_group(values: Tensor, rows: Tensor, count: int) -> Tensor:
    """(R, M) -> (G, M): sums over the rows of each group."""
    return values.new_zeros(count, values.shape[1]).index_add_(0, rows, values)


def sums_by_adding(index: Tensor, grad: Tensor, rows: Tensor, count: int, levels: int) -> Tensor:
    """(G, N) sums of the gradient over the weights of each level: one scattered addition a weight, which is quick on a CPU."""
    flat = index.int() + (rows * levels).int()[:, None]
    return grad.new_zeros(count * levels).index_add_(0, flat.view(-1), grad.reshape(-1)).view(count, levels)


def sums_by_masks(index: Tensor, grad: Tensor, rows: Tensor, count: int, levels: int) -> Tensor:
    """The same by N-1 masked sums: on a GPU thousands of additions to one address would wait for each other."""
    masks = [(grad * (index >= level)).sum(1) for level in range(1, levels)]
    above = torch.stack([grad.sum(1), *masks, grad.new_zeros(len(grad))], 1)
    return _by_group(above[:, :-1] - above[:, 1:], rows, count)


def _tables(levels: Tensor, g1: Tensor, temperature: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """T g1 (R, 1) and T t_i (R, N-1) of each row."""
    return (temperature * g1)[rows], (temperature * midpoints(levels))[rows]


def one_layer(w, a, g1, g2, temperature, hard_forward: bool, compile: bool = False, gradient_scale: float = 1.0) -> Tensor:
    """BranchQuantize of one layer's weights (C, K); a (G, B) and temperature (G, 1), which is absolute, with G = 1 or C; g1, g2 scalars."""
    scales = (g.expand(len(a), 1) for g in (g1, g2))
    factor = w.new_full((len(a), 1), gradient_scale)
    return BranchQuantize.apply(OneLayer(w, len(a)), hard_forward, compile, a, *scales, temperature, factor, w)[0]


def soft(w: Tensor, a: Tensor, g1: Tensor, g2: Tensor, temperature: Tensor) -> Tensor:
    """Q_T(w); arguments as for `one_layer`."""
    return one_layer(w, a, g1, g2, temperature, hard_forward=False)


def hard(w: Tensor, a: Tensor, g1: Tensor, g2: Tensor) -> Tensor:
    """Q(w); arguments as for `one_layer`. Every value is g2 times a level."""
    levels, _ = sorted_levels(a)
    return take(g2 * levels, assign(w * g1, midpoints(levels)))
