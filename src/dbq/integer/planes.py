"""The hard weights of a trained layer as integer planes and their scales, whatever its method: fixed-point weights are one plane."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrize

from dbq.errors import DbqError
from dbq.quantizers.base import WeightQuantizer


@dataclass(frozen=True)
class Parts:
    """Hard weights (C, K) = sum_j scales[j, :, None] * planes[j]: planes (B, C, K) int64, scales (B, C) float64.

    stored_scales: how many scales a model file holds. largest_difference: between the layer's hard weights and that sum, relative to the
    largest weight.
    """

    coding: str
    planes: np.ndarray
    scales: np.ndarray
    stored_scales: int
    largest_difference: float


def quantizer_of(layer: nn.Module) -> WeightQuantizer | None:
    """The quantizer of a layer's weights; None for float weights."""
    return layer.parametrizations.weight[0] if parametrize.is_parametrized(layer, "weight") else None


@torch.no_grad()
def take_apart(layer: nn.Module, name: str) -> Parts:
    """Planes and scales of a layer's hard weights.

    Raises DbqError for float weights, and for planes that don't give the hard weights. Float rounding is allowed, because
    g2 * (a_1 P_1 + a_2 P_2) and (g2 a_1) P_1 + (g2 a_2) P_2 are rounded differently; a difference of a level is not.
    """
    quantizer = quantizer_of(layer)
    if quantizer is None:
        raise DbqError(f"layer {name}: its weights are float", "give it `method` or a number of bits in the layer policy")
    weight = layer.parametrizations.weight.original
    if quantizer.coding == "fixed_point":
        planes, scales = quantizer.integers(weight).flatten(1)[None], quantizer.step(weight).reshape(-1, 1)
    else:
        parts = quantizer.decompose(weight)
        planes, scales = parts.planes, parts.scales
    planes, stored = planes.cpu().numpy().astype(np.int64), scales.numel()
    scales = np.ascontiguousarray(np.broadcast_to(scales.cpu().double().numpy(), (planes.shape[1], planes.shape[0])).T)
    training = layer.training
    hard = layer.eval().weight.flatten(1).cpu().double().numpy()
    layer.train(training)
    largest = np.abs(hard).max()
    difference = float(np.abs((scales[:, :, None] * planes).sum(0) - hard).max() / largest) if largest > 0 else 0.0
    if not difference < 1e-5:
        problem = f"layer {name}: the planes differ from the hard weights by {difference:.2g}"
        raise DbqError(problem, "the model file is damaged; train it again")
    return Parts(quantizer.coding, planes, scales, stored, difference)
