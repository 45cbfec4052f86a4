"""Quantization Networks (Yang et al. 2019; checked with aliyun/alibabacloud-quantization-networks): a sum of sigmoids over fixed levels.

    soft (training):    Q_T(w) = alpha * (v_1 + sum_i (v_{i+1} - v_i) * sigmoid(T * (beta * w - t_i)))
    hard (evaluation):  the same with steps

The levels v are fixed integers. Each layer learns an input scale beta, which starts at 1.25 * max |v| / max |w|, and an output scale
alpha, which starts at 1 / beta. The thresholds t are found once by k-means on the scaled float weights and are not trained. The
temperature is temperature_step * (epoch + 1), at most temperature_cap; its unit is 1 / (distance of two neighbouring integers).
The gradient is that of Q_T at the temperature T. The authors' code for binary weights uses the slopes of T = 1, times T, and keeps the
line that is used here as a comment "for the other quantization model".
Tie rule: a weight on a threshold takes the level above it, as in levels.py.
"""

import torch
from torch import Tensor, nn

from dbq.quantizers.base import Transfer, WeightQuantizer, from_memory_order, memory_order
from dbq.quantizers.levels import assign
from dbq.quantizers.sigmoids import sum_of_sigmoids

HEADROOM = 1.25  # the largest scaled weight starts at so many times the largest level
ITERATIONS = 300  # of k-means at most


class SumOfSigmoids(torch.autograd.Function):
    """apply(w (C, K), beta, alpha, T, levels (N,), thresholds (N-1,)) -> Q_T (C, K); beta, alpha and T are scalars, T gets no gradient."""

    @staticmethod
    def forward(ctx, w, beta, alpha, temperature, levels, thresholds):
        result = _sums(w, beta, temperature, levels, thresholds).add_(levels[0]).mul_(alpha)
        ctx.save_for_backward(w, beta, alpha, temperature, levels, thresholds, result)
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        w, beta, alpha, temperature, levels, thresholds, result = ctx.saved_tensors
        slope = _sums(w, beta, temperature, levels, thresholds, derivative=True).mul_(grad * (alpha * temperature))
        return slope * beta, (slope * w).sum(), (grad * result).sum() / alpha, None, None, None


def _sums(w, beta, temperature, levels, thresholds, derivative: bool = False) -> Tensor:
    """sum_i d_i s_i, or sum_i d_i s_i (1 - s_i), of each weight (C, K)."""
    per_row = (value.expand(len(w), -1) for value in (levels.diff(), (temperature * beta).reshape(1), temperature * thresholds))
    return sum_of_sigmoids(w, *per_row, derivative)


def k_means(values: Tensor, clusters: int) -> Tensor:
    """Sorted centres (clusters,) of 1-D values by Lloyd's iteration; the best of three starts: quantiles, equal steps, their mean."""
    values = values.flatten().double().sort().values
    sums = torch.cat([values.new_zeros(1), values.cumsum(0)])
    squares = torch.cat([values.new_zeros(1), values.square().cumsum(0)])
    positions = (torch.arange(clusters, device=values.device, dtype=values.dtype) + 0.5) / clusters
    by_rank = values[(positions * len(values)).long()]
    by_value = values[0] + positions * (values[-1] - values[0])
    best = None
    for centres in (by_rank, by_value, (by_rank + by_value) / 2):
        for _ in range(ITERATIONS):
            edges = _edges(values, centres)
            counts = edges.diff()
            moved = torch.where(counts > 0, sums[edges].diff() / counts.clamp_min(1), centres)
            if torch.equal(moved, centres):
                break
            centres = moved
        edges = _edges(values, centres)
        error = (squares[edges].diff() - 2 * centres * sums[edges].diff() + centres.square() * edges.diff()).sum()
        if best is None or error < best[0]:
            best = (error, centres)
    return best[1]


def _edges(values: Tensor, centres: Tensor) -> Tensor:
    """(clusters + 1,) the index at which each cluster of the sorted values begins, and the number of values."""
    inner = torch.searchsorted(values, (centres[1:] + centres[:-1]) / 2)
    return torch.cat([inner.new_zeros(1), inner, inner.new_full((1,), len(values))])


class QuantizationNetworksQuantizer(WeightQuantizer):
    """Weights in alpha * levels. Parameters: beta and alpha, scalars. Levels, thresholds and temperature are buffers."""

    must_be_positive = {"alpha": "scale alpha", "beta": "scale beta"}

    def __init__(self, weight: Tensor, config, fit: bool = True):
        super().__init__(config.weight_bits)
        self.config = config
        self.coding = "ternary" if config.branches else "fixed_point"
        weight = weight.detach()
        levels = torch.tensor(config.levels, dtype=weight.dtype, device=weight.device)
        beta = HEADROOM * levels.abs().amax() / weight.abs().amax()
        self.beta = nn.Parameter(beta)
        self.alpha = nn.Parameter(1 / beta)
        centres = k_means(beta * weight, len(levels)).to(weight.dtype) if fit else levels
        self.register_buffer("levels", levels)
        self.register_buffer("thresholds", (centres[1:] + centres[:-1]) / 2)
        self.register_buffer("temperature", torch.tensor(config.temperature_step, dtype=weight.dtype))

    def forward(self, weight: Tensor) -> Tensor:
        rows = memory_order(weight).flatten(1)
        return from_memory_order(self._soft(rows) if self.training else self._hard(rows), weight)

    def _soft(self, rows: Tensor) -> Tensor:
        return SumOfSigmoids.apply(rows, self.beta, self.alpha, self.temperature, self.levels, self.thresholds)

    def _index(self, rows: Tensor) -> Tensor:
        return assign(self.beta * rows, self.thresholds[None])

    def _hard(self, rows: Tensor) -> Tensor:
        return (self.alpha * self.levels)[self._index(rows)]

    def advance(self, progress: float, epoch: int) -> None:
        self.temperature.fill_(min(self.config.temperature_step * (epoch + 1), self.config.temperature_cap))

    @torch.no_grad()
    def integers(self, weight: Tensor) -> Tensor:
        return self.levels[self._index(weight.flatten(1))].to(torch.int32).view(weight.shape)

    def step(self, weight: Tensor) -> Tensor:
        return self.alpha.detach().reshape(1)

    @torch.no_grad()
    def transfer(self, weight: Tensor) -> Transfer:
        return Transfer(self.beta * weight, self.levels, self.thresholds)

    @torch.no_grad()
    def soft_hard_gap(self, weight: Tensor) -> Tensor:
        rows = weight.flatten(1)
        return (self._soft(rows) - self._hard(rows)).abs().mean() / (self.alpha * self.levels.abs().amax()).abs()
