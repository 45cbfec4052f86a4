"""Sums of sigmoids over thresholds, some rows of weights at a time: N-1 sigmoids a weight would fill the memory for all rows at once."""

import torch
from torch import Tensor

BLOCK = 1 << 19  # elements of a (rows, N-1, K) temporary: 2 MiB of float32, about a processor's cache


def blocks(w: Tensor, thresholds: int, *others: Tensor):
    """Yields blocks of rows of w (R, K) and of the others (R, ..): so few that (rows, thresholds, K) values fit a processor's cache.

    On a GPU all rows are one block.
    """
    height = max(1, BLOCK // (thresholds * w.shape[1])) if w.device.type == "cpu" else len(w)
    return zip(*(tensor.split(height) for tensor in (w, *others)), strict=True)


def sigmoids(w: Tensor, slopes: Tensor, offsets: Tensor) -> Tensor:
    """sigmoid(slope * w - offset_i) (R, N-1, K) of weights (R, K); slopes (R, 1), offsets (R, N-1)."""
    return (slopes * w)[:, None].sub(offsets[:, :, None]).sigmoid_()


def sum_of_sigmoids(w: Tensor, gaps: Tensor, slopes: Tensor, offsets: Tensor, derivative: bool = False) -> Tensor:
    """sum_i d_i s_i (R, K) of these sigmoids with gaps d (R, N-1), or sum_i d_i s_i (1 - s_i)."""
    result = torch.empty_like(w)
    for w_, gaps_, slopes_, offsets_, result_ in blocks(w, gaps.shape[1], gaps[:, None], slopes, offsets, result[:, None]):
        s = sigmoids(w_, slopes_, offsets_)
        torch.bmm(gaps_, s.mul_(1 - s) if derivative else s, out=result_)
    return result
