"""Levels, thresholds and planes of a sum of ternary branches.

With S the (N, B) matrix of all vectors of {-1, 0, 1}^B and branch scales a = (a_1 .. a_B), the levels are v = sort(S a) and the thresholds
t_i = (v_i + v_{i+1}) / 2. Where two vectors give the same level, the one with fewer non-zeros is its planes, because it costs less.
Shapes: G groups with scales of their own (1 for a layer, C_out for scales per channel), B branches, N = 3^B levels.
Tie rule, everywhere: a weight exactly on a threshold takes the level above it (step(0) = 1).
"""

import functools
import itertools

import torch
from torch import Tensor

TERNARY, BINARY = (-1.0, 0.0, 1.0), (-1.0, 1.0)
BLOCK = 1 << 17  # elements of a temporary: 512 KiB of float32 stay in a processor's cache


@functools.cache
def plane_values(branches: int, device=None, digits: tuple[float, ...] = TERNARY) -> Tensor:
    """(N, B) all vectors of digits^B, those with fewer non-zeros first. The tensor is shared: don't write to it."""
    vectors = sorted(itertools.product(digits, repeat=branches), key=lambda v: (sum(map(abs, v)), v))
    return torch.tensor(vectors, device=device)


def sorted_levels(scales: Tensor, digits: tuple[float, ...] = TERNARY) -> tuple[Tensor, Tensor]:
    """Sorted levels (G, N) of the branch scales (G, B), and the vector of plane values (G, N, B) that gives each level."""
    vectors = plane_values(scales.shape[1], scales.device, digits).to(scales.dtype)
    values = scales[:, :1] * vectors[:, 0]
    for branch in range(1, scales.shape[1]):  # integer replay sums in this order to get the same bits
        values.addcmul_(scales[:, branch : branch + 1], vectors[:, branch])
    levels, order = torch.sort(values, dim=1, stable=True)
    return levels, vectors[order]


def levels_and_planes(scales: Tensor) -> tuple[Tensor, Tensor]:
    """sorted_levels, where equal levels have the same planes: those with the fewest non-zeros."""
    levels, planes = sorted_levels(scales)
    positions = torch.arange(levels.shape[1], device=levels.device).expand_as(levels)
    repeats = torch.nn.functional.pad(levels[:, 1:] == levels[:, :-1], (1, 0))
    first = torch.cummax(positions.masked_fill(repeats, 0), dim=1).values
    return levels, planes.gather(1, first[:, :, None].expand_as(planes))


def midpoints(levels: Tensor) -> Tensor:
    """Thresholds (G, N-1) half-way between neighbouring levels. ASSUMPTION: our choice; the paper's body would decide."""
    return (levels[:, 1:] + levels[:, :-1]) / 2


def assign(x: Tensor, thresholds: Tensor) -> Tensor:
    """Index (C, K) of the level of each x (C, K) for thresholds (G, N-1) with G = 1 or C."""
    return count_below(x, thresholds).long()


def count_below(x: Tensor, thresholds: Tensor) -> Tensor:
    """As `assign`, but uint8. Comparing with each threshold is quicker than a binary search for the 26 that three branches have."""
    index = torch.empty(x.shape, dtype=torch.uint8, device=x.device)
    height = max(1, BLOCK // x.shape[1]) if x.device.type == "cpu" else len(x)
    for start in range(0, len(x), height):
        part = slice(start, start + height)
        limits = thresholds if len(thresholds) == 1 else thresholds[part]
        count = (x[part] >= limits[:, :1]).view(torch.uint8)
        for i in range(1, limits.shape[1]):
            count.add_((x[part] >= limits[:, i : i + 1]).view(torch.uint8))
        index[part] = count
    return index


def take(table: Tensor, index: Tensor) -> Tensor:
    """(C, K) the values of table (G, N) at index (C, K), G = 1 or C."""
    if table.shape[0] == 1:
        return table[0].index_select(0, index.reshape(-1)).view(index.shape)
    return table.gather(1, index)
