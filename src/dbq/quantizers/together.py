"""Layers of a network that are quantized in one call before each training step's forward pass: those of branches, and uniform ones.

A layer of branches takes some thirty small operations, and a network has dozens of layers: one by one their fixed cost was most of
what DBQ added to a step of ResNet-20. Here the weights of all layers are cut into rows of equal length (the last row of a layer is
padded with zeros, whose gradient is dropped) and each row uses the scales of its layer. Uniform layers, of which a MobileNet has a
small one beside every large one, go through each operation as a list.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from dbq.quantizers.base import WeightQuantizer
from dbq.quantizers.branch_function import BranchQuantize
from dbq.quantizers.dbq import BranchQuantizer, from_memory_order, memory_order
from dbq.quantizers.uniform import RoundToGrid, UniformQuantizer

SHORTEST, PADDED = 512, 1024  # weights in a row: at least so many if the sizes have such a divisor, else so many with padding


class Rows:
    """The weights of layers as rows of one length; rows (R,) says whose a row is. The form that BranchQuantize asks for.

    The weights stay the same parameters, but their values move into one block of memory, so that joining them costs nothing. Should
    something move them out of it again (`network.to(device)`), joining copies.
    """

    def __init__(self, weights: list[Tensor]):
        self.weights = weights
        sizes = [weight.numel() for weight in weights]
        divisor = math.gcd(*sizes)
        self.length = divisor if divisor >= SHORTEST else PADDED
        self.spaces = [-(-size // self.length) * self.length for size in sizes]  # of each layer, padding included
        self.rows = torch.arange(len(sizes)).repeat_interleave(torch.tensor(self.spaces) // self.length).to(weights[0].device)
        self.block = weights[0].new_zeros(sum(self.spaces)).view(-1, self.length)
        self.places = self.split(self.block)
        for weight, place in zip(weights, self.places, strict=True):
            weight.data = place.copy_(weight.data)

    def join(self, tensors) -> Tensor:
        """(R, K) of tensors in the layers' shapes: the weights, or their gradients."""
        if all(tensor.data_ptr() == place.data_ptr() for tensor, place in zip(tensors, self.places, strict=True)):
            return self.block
        flat = []
        for tensor, weight, space in zip(tensors, self.weights, self.spaces, strict=True):
            values = memory_order(tensor, weight).reshape(-1)
            flat.append(functional.pad(values, (0, space - len(values))) if space > len(values) else values)
        return torch.cat(flat).view(-1, self.length)

    def split(self, matrix: Tensor) -> list[Tensor]:
        """Views of it in the shapes and memory formats of the layers."""
        parts = matrix.view(-1).split(self.spaces)
        return [from_memory_order(part[: weight.numel()], weight) for part, weight in zip(parts, self.weights, strict=True)]


class Branches:
    """The BranchQuantizers with scales per layer; those with scales per channel stay on their own."""

    def __init__(self, quantizers: list[BranchQuantizer], weights: list[Tensor]):
        self.quantizers, self.weights = quantizers, weights
        self.rows = Rows(weights)
        self.gradient_scale = torch.tensor([[quantizer.gradient_scale] for quantizer in quantizers], device=weights[0].device)

    @staticmethod
    def has(quantizer: WeightQuantizer) -> bool:
        return isinstance(quantizer, BranchQuantizer) and quantizer.config.scales == "layer"

    def quantize(self) -> tuple[Tensor, ...]:
        """The quantized weights of each layer, in its shape and memory format."""
        quantizers = self.quantizers
        a = torch.cat([quantizer.a for quantizer in quantizers])
        g1 = torch.stack([quantizer.g1 for quantizer in quantizers])[:, None]
        g2 = torch.stack([quantizer.g2 for quantizer in quantizers])[:, None]
        heat = torch.stack([quantizer.temperature for quantizer in quantizers])[:, None]
        temperature = (heat / a.detach().sum(1, keepdim=True)).clamp_max(1e30)
        hard_forward = quantizers[0].config.forward == "hard"
        return BranchQuantize.apply(
            self.rows, hard_forward, quantizers[0].compiled, a, g1, g2, temperature, self.gradient_scale, *self.weights
        )  # fmt: skip


class Uniform:
    """The UniformQuantizers."""

    def __init__(self, quantizers: list[UniformQuantizer], weights: list[Tensor]):
        self.quantizers, self.weights = quantizers, weights
        self.largest = [quantizer.largest for quantizer in quantizers]

    @staticmethod
    def has(quantizer: WeightQuantizer) -> bool:
        return isinstance(quantizer, UniformQuantizer)

    def quantize(self) -> tuple[Tensor, ...]:
        return RoundToGrid.apply(self.largest, *self.weights)


GROUPS = (Branches, Uniform)


def attach(network: nn.Module, wrap: Callable = lambda hook: hook) -> None:
    """Quantize the layers of each of GROUPS together at each forward pass of the network in training mode.

    The forward passes of their quantizers then return what is ready. wrap: around both hooks, in place of those attached before:
    torch.compiler.disable keeps them out of a compiled network.
    """
    for handle in network.__dict__.pop("quantizes_together", ()):
        handle.remove()
    if any(len(layers) > 1 for layers in _layers(network).values()):
        handles = network.register_forward_pre_hook(wrap(_before)), network.register_forward_hook(wrap(_after), always_call=True)
        network.__dict__["quantizes_together"] = handles


def _layers(network: nn.Module) -> dict:
    """The parametrizations of the layers of each group."""
    found = [module.parametrizations.weight for module in network.modules() if parametrize.is_parametrized(module, "weight")]
    return {group: [layer for layer in found if group.has(layer[0])] for group in GROUPS}


def _before(network: nn.Module, inputs) -> None:
    if not network.training:
        return
    if not hasattr(network, "quantized_together"):  # now: the network may move to another device or memory format until its first pass
        network.quantized_together = [
            group([layer[0] for layer in layers], [layer.original for layer in layers])
            for group, layers in _layers(network).items()
            if len(layers) > 1
        ]
    for group in network.quantized_together:
        for quantizer, value in zip(group.quantizers, group.quantize(), strict=True):
            quantizer.ready = value


def _after(network: nn.Module, inputs, outputs) -> None:
    for group in getattr(network, "quantized_together", ()):
        for quantizer in group.quantizers:
            quantizer.ready = None
