"""LQ-Nets (Zhang et al. 2018; checked with microsoft/LQ-Nets): a sum of binary branches whose basis follows the weights.

Each filter (or layer) has a basis b of B numbers. Its 2^B levels are all sums of +-b_j, with thresholds half-way between neighbours. Each
training step assigns the weights to their nearest level and solves for the basis that fits these codes best in the least-squares sense.
This is one iteration of the paper's minimisation of the quantization error. The basis then moves a tenth of the way there. The gradient
is straight-through. Tie rule: a weight on a threshold takes the level above it, as in levels.py; the authors' code takes the one below.
"""

import torch
from torch import Tensor

from dbq.errors import DbqError
from dbq.quantizers.base import Decomposition, StraightThrough, Transfer, WeightQuantizer, from_memory_order, memory_order
from dbq.quantizers.levels import BINARY, assign, midpoints, sorted_levels, take

MOVING_AVERAGE = 0.9  # of the basis, per training step
RIDGE = 1e-4  # of the normal equations, towards the present basis: equal planes would make them singular
QUARTILE = 0.6745  # of the normal distribution: the authors' start is QUARTILE * standard deviation * 2^j / 2^(B-1)
ITERATIONS = 50  # of the fit before training


def planes_of(codes: Tensor, index: Tensor) -> list[Tensor]:
    """B planes (G, K) of the levels' codes (G, N, B) at index (G, K)."""
    return [take(codes[:, :, branch], index) for branch in range(codes.shape[2])]


def least_squares_basis(groups: Tensor, basis: Tensor, codes: Tensor, index: Tensor) -> Tensor:
    """The basis (G, B) that minimises |w - sum_j b_j plane_j|^2 for weights (G, K) whose codes are given."""
    planes = planes_of(codes, index)
    gram = torch.stack([torch.stack([(one * other).sum(1) for other in planes], 1) for one in planes], 1).double()
    right = torch.stack([(plane * groups).sum(1) for plane in planes], 1).double() + RIDGE * basis
    gram = gram + RIDGE * torch.eye(len(planes), dtype=gram.dtype, device=gram.device)
    return torch.linalg.solve_ex(gram, right).result.to(basis.dtype)  # solve_ex: solve would wait for a GPU


def fitted_basis(groups: Tensor, branches: int) -> Tensor:
    """The basis (G, B) before training, largest last: assignment and least squares in turns, from the authors' start."""
    spread = QUARTILE * groups.square().mean(1, keepdim=True).sqrt()
    basis = spread * torch.tensor([2.0 ** (j - branches + 1) for j in range(branches)], dtype=groups.dtype, device=groups.device)
    for _ in range(ITERATIONS):
        levels, codes = sorted_levels(basis, BINARY)
        basis = least_squares_basis(groups, basis, codes, assign(groups, midpoints(levels)))
    return basis


class LqNetsQuantizer(WeightQuantizer):
    """Weights that are sums of B binary branches. The basis (G, B) is a buffer: only training steps change it, without a gradient."""

    coding = "binary"

    def __init__(self, weight: Tensor, config, fit: bool = True):
        super().__init__(config.weight_bits, config.scales)
        groups = self.groups(weight.detach().flatten(1))
        self.register_buffer("basis", fitted_basis(groups, config.branches) if fit else groups.new_ones(len(groups), config.branches))

    def forward(self, weight: Tensor) -> Tensor:
        with torch.no_grad():
            groups = self.groups(memory_order(weight).flatten(1))
            levels, codes = sorted_levels(self.basis, BINARY)
            index = assign(groups, midpoints(levels))
            quantized = from_memory_order(take(levels, index), weight)
        # without gradients (batch-norm re-estimation) a forward pass is no training step
        if self.training and torch.is_grad_enabled():
            with torch.no_grad():
                self.basis.lerp_(least_squares_basis(groups, self.basis, codes, index), 1 - MOVING_AVERAGE)
        return StraightThrough.apply(weight, quantized)

    @torch.no_grad()
    def decompose(self, weight: Tensor) -> Decomposition:
        """Planes in {-1, 1} and positive scales: a negative element of the basis changes the sign of its plane."""
        levels, codes = sorted_levels(self.basis, BINARY)
        index = assign(self.groups(weight.flatten(1)), midpoints(levels))
        signs = torch.where(self.basis < 0, -1.0, 1.0)
        planes = torch.stack([plane * signs[:, j, None] for j, plane in enumerate(planes_of(codes, index))])
        return Decomposition(planes.view(len(planes), len(weight), -1).to(torch.int8), self.basis.abs())

    @torch.no_grad()
    def transfer(self, weight: Tensor) -> Transfer:
        levels, _ = sorted_levels(self.basis[:1], BINARY)
        return Transfer(self.groups(weight.flatten(1))[:1], levels[0], midpoints(levels)[0])

    @torch.no_grad()
    def check(self, weight: Tensor, layer: str) -> None:
        """As for every quantizer; also for a basis that is not finite or all zero."""
        if not torch.isfinite(self.basis).all() or not self.basis.any():
            raise DbqError(f"layer {layer}: the basis is zero or not finite", "lower learning_rate or weight_decay")
        super().check(weight, layer)
