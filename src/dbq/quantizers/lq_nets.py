"""LQ-Nets (Zhang et al. 2018; checked with microsoft/LQ-Nets): a sum of binary branches whose basis follows the weights.

Each filter (or layer) has a basis b of B numbers. Its 2^B levels are all sums of +-b_j, with thresholds half-way between neighbours. Each
training step assigns the weights to their nearest level and solves for the basis that fits these codes best in the least-squares sense.
This is one iteration of the paper's minimisation of the quantization error. The basis then moves a tenth of the way there. The gradient
is straight-through. Tie rule: a weight on a threshold takes the level above it, as in levels.py; the authors' code takes the one below.
"""

import functools
import itertools

import torch
from torch import Tensor

from dbq.errors import DbqError
from dbq.quantizers.base import Decomposition, Transfer, WeightQuantizer, check_usable
from dbq.quantizers.levels import assign, midpoints, take
from dbq.quantizers.memory_order import from_memory_order, memory_order
from dbq.quantizers.straight_through import straight_through

MOVING_AVERAGE = 0.9  # of the basis, per training step
RIDGE = 1e-4  # of the normal equations, towards the present basis: equal planes would make them singular
QUARTILE = 0.6745  # of the normal distribution: the authors' start is QUARTILE * standard deviation * 2^j / 2^(B-1)
ITERATIONS = 50  # of the fit before training


@functools.cache
def binary_vectors(branches: int, device=None) -> Tensor:
    """(N, B) all vectors of {-1, 1}^B. The tensor is shared: don't write to it."""
    return torch.tensor(list(itertools.product((-1.0, 1.0), repeat=branches)), device=device)


def levels_and_codes(basis: Tensor) -> tuple[Tensor, Tensor]:
    """Sorted levels (G, N) of the basis (G, B), and the codes (G, N, B) in {-1, 1} that produce each level."""
    vectors = binary_vectors(basis.shape[1], basis.device).to(basis.dtype)
    values = basis[:, :1] * vectors[:, 0]
    for branch in range(1, basis.shape[1]):  # integer replay sums in this order to get the same bits
        values = values + basis[:, branch : branch + 1] * vectors[:, branch]
    levels, order = torch.sort(values, dim=1, stable=True)
    return levels, vectors[order]


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
        levels, codes = levels_and_codes(basis)
        basis = least_squares_basis(groups, basis, codes, assign(groups, midpoints(levels)))
    return basis


class LqNetsQuantizer(WeightQuantizer):
    """Weights that are sums of B binary branches. The basis (G, B) is a buffer: only training steps change it, without a gradient."""

    coding = "binary"

    def __init__(self, weight: Tensor, config, fit: bool = True):
        super().__init__()
        check_usable(weight)
        self.per_channel = config.scales == "channel"
        self.storage_bits = config.weight_bits
        groups = self._groups(weight.detach().flatten(1))
        self.register_buffer("basis", fitted_basis(groups, config.branches) if fit else groups.new_ones(len(groups), config.branches))

    def _groups(self, rows: Tensor) -> Tensor:
        return rows if self.per_channel else rows.reshape(1, -1)

    def forward(self, weight: Tensor) -> Tensor:
        with torch.no_grad():
            groups = self._groups(memory_order(weight).flatten(1))
            levels, codes = levels_and_codes(self.basis)
            index = assign(groups, midpoints(levels))
            quantized = from_memory_order(take(levels, index), weight)
        # without gradients (batch-norm re-estimation) a forward pass is no training step
        if self.training and torch.is_grad_enabled():
            with torch.no_grad():
                self.basis.lerp_(least_squares_basis(groups, self.basis, codes, index), 1 - MOVING_AVERAGE)
        return straight_through(weight, quantized)

    @torch.no_grad()
    def decompose(self, weight: Tensor) -> Decomposition:
        """Planes in {-1, 1} and positive scales: a negative element of the basis changes the sign of its plane."""
        levels, codes = levels_and_codes(self.basis)
        index = assign(self._groups(weight.flatten(1)), midpoints(levels))
        signs = torch.where(self.basis < 0, -1.0, 1.0)
        planes = torch.stack([plane * signs[:, j, None] for j, plane in enumerate(planes_of(codes, index))])
        return Decomposition(planes.view(len(planes), len(weight), -1).to(torch.int8), self.basis.abs())

    @torch.no_grad()
    def transfer(self, weight: Tensor) -> Transfer:
        levels, _ = levels_and_codes(self.basis[:1])
        return Transfer(self._groups(weight.flatten(1))[:1], levels[0], midpoints(levels)[0])

    @torch.no_grad()
    def check(self, weight: Tensor, layer: str) -> None:
        """As for every quantizer; also for a basis that is not finite or all zero."""
        if not torch.isfinite(self.basis).all() or not self.basis.any():
            raise DbqError(f"layer {layer}: the basis is zero or not finite", "lower learning_rate or weight_decay")
        super().check(weight, layer)
