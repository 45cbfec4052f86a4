"""Branch scales that minimise the mean squared error to the float weights.

For one branch the solution is closed. For more branches each weight is assigned to its nearest level, and the scales are solved for by
least squares, in turns and from several starts. The tests compare the result with a brute-force search.
"""

import itertools
import operator

import torch
from torch import Tensor

from dbq.quantizers.levels import assign, levels_and_planes, midpoints, sorted_levels, take

COARSE, SAMPLE = 128, 2048  # quantiles that represent a group's weights: to rank the starts, to refine the best ones
KEPT = 6  # starts that are refined


def least_squares_scales(w: Tensor, branches: int) -> Tensor:
    """Scales (G, B) for weights (G, K), positive and in descending order."""
    w = w.double()
    if branches == 1:
        return _one_branch(w).float()
    coarse, sample = _quantiles(w, COARSE), _quantiles(w, SAMPLE)
    starts = torch.stack(list(_starts(w, branches)))  # (S, G, B)
    errors = torch.stack([squared_error(coarse, start) for start in starts])
    picks = errors.topk(min(KEPT, len(starts)), dim=0, largest=False).indices  # (kept, G)
    refined = [_alternate(sample, starts[pick, torch.arange(len(w), device=w.device)], 40) for pick in picks]
    errors = torch.stack([squared_error(sample, scales) for scales in refined])
    best = torch.stack(refined)[errors.argmin(0), torch.arange(len(w), device=w.device)]
    return _alternate(w, best, 10).sort(dim=1, descending=True).values.float()


def _quantiles(w: Tensor, count: int) -> Tensor:
    picks = torch.linspace(0, w.shape[1] - 1, min(count, w.shape[1]), device=w.device).round().long()
    return w.sort(dim=1).values[:, picks]


def squared_error(w: Tensor, scales: Tensor) -> Tensor:
    """Mean squared error (G,) of the hard quantizer with these scales and g1 = g2 = 1."""
    levels, _ = sorted_levels(scales)
    return (w - take(levels, assign(w, midpoints(levels)))).square().mean(1)


def _one_branch(w: Tensor) -> Tensor:
    """If the n largest magnitudes become a, the best a is their mean, and the best n maximises (their sum)^2 / n."""
    sums = w.abs().sort(dim=1, descending=True).values.cumsum(1)
    counts = torch.arange(1, w.shape[1] + 1, device=w.device)
    best = (sums.square() / counts).argmax(1, keepdim=True)
    return sums.gather(1, best) / (best + 1)


def _starts(w: Tensor, branches: int):
    """Scales (G, B) of several ratios; their sum, the largest level, is one of several fractions of the largest weight."""
    largest = w.abs().amax(1, keepdim=True)
    ratios = torch.linspace(0.2, 0.9, 8 if branches == 2 else 5, dtype=w.dtype).tolist()
    for steps in itertools.product(ratios, repeat=branches - 1):
        shape = torch.tensor((1.0, *itertools.accumulate(steps, operator.mul)), dtype=w.dtype, device=w.device)
        for fraction in torch.linspace(0.3, 1.0, 8, dtype=w.dtype).tolist():
            yield fraction * largest * shape / shape.sum()


def _alternate(w: Tensor, scales: Tensor, iterations: int) -> Tensor:
    """Lloyd's algorithm: assign each weight to its nearest level, then solve for the scales."""
    ridge = 1e-9 * torch.eye(scales.shape[1], dtype=w.dtype, device=w.device)
    smallest = 1e-4 * w.abs().amax(1, keepdim=True).clamp_min(1e-12)
    for _ in range(iterations):
        levels, planes = levels_and_planes(scales)
        index = assign(w, midpoints(levels))
        # the normal equations need of each level only the number and the sum of its weights
        counts = torch.zeros_like(levels).scatter_add_(1, index, torch.ones_like(w))
        sums = torch.zeros_like(levels).scatter_add_(1, index, w)
        gram = torch.einsum("gn,gnb,gnc->gbc", counts, planes, planes) + ridge
        solved = torch.linalg.solve(gram, torch.einsum("gn,gnb->gb", sums, planes))
        updated = torch.maximum(solved.abs(), smallest)
        if torch.allclose(updated, scales, rtol=1e-7, atol=0):
            break
        scales = updated
    return scales
