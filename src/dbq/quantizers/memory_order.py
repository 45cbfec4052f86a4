"""Weights as rows of filters in the order in which memory holds them: a copy would cost more than the quantization itself."""

import torch
from torch import Tensor


def memory_order(weight: Tensor, like: Tensor | None = None) -> Tensor:
    """The weight (C, ...) with its axes in the order of its memory, so that `flatten(1)` copies nothing.

    like: take the order of this tensor's memory instead.
    """
    like = weight if like is None else like
    channels_last = like.ndim == 4 and like.is_contiguous(memory_format=torch.channels_last)
    return weight.permute(0, 2, 3, 1) if channels_last else weight


def from_memory_order(values: Tensor, weight: Tensor) -> Tensor:
    """Values in the order of `memory_order(weight)`, brought back to the shape and the memory format of the weight."""
    values = values.view(memory_order(weight).shape)
    return values if memory_order(weight) is weight else values.permute(0, 3, 1, 2)
