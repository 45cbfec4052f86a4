"""All layers of ternary branches of a network, quantized in one call before each training step's forward pass.

A layer's quantization is some thirty small operations, and a network has dozens of layers: one by one their fixed cost was most of
what DBQ added to a step of ResNet-20. Here the weights of all layers are cut into rows of equal length (the last row of a layer is
padded with zeros, whose gradient is dropped) and each row uses the scales of its layer.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from dbq.quantizers.branch_function import BranchQuantize
from dbq.quantizers.dbq import BranchQuantizer, from_memory_order, memory_order

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


class Together:
    """Quantizes the per-layer BranchQuantizers of a network at once; their forward passes then return what is ready.

    `attach` makes it part of the network's forward pass in training mode. Layers with scales per channel stay on their own.
    """

    def __init__(self, quantizers: list[BranchQuantizer], weights: list[Tensor]):
        self.quantizers, self.weights = quantizers, weights
        self.rows = Rows(weights)
        self.gradient_scale = torch.tensor([[quantizer.gradient_scale] for quantizer in quantizers], device=weights[0].device)

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


def attach(network: nn.Module, wrap: Callable = lambda hook: hook) -> None:
    """Quantize the network's per-layer DBQ weights together at each of its forward passes in training mode.

    wrap: around both hooks, in place of those attached before: torch.compiler.disable keeps them out of a compiled network.
    """
    for handle in network.__dict__.pop("quantizes_together", ()):
        handle.remove()
    if len(_layers(network)) > 1:
        handles = network.register_forward_pre_hook(wrap(_before)), network.register_forward_hook(wrap(_after), always_call=True)
        network.__dict__["quantizes_together"] = handles


def _layers(network: nn.Module) -> list:
    found = [module.parametrizations.weight for module in network.modules() if parametrize.is_parametrized(module, "weight")]
    return [layer for layer in found if isinstance(layer[0], BranchQuantizer) and layer[0].config.scales == "layer"]


def _before(network: nn.Module, inputs) -> None:
    if not network.training:
        return
    if not hasattr(network, "quantized_together"):  # now: the network may move to another device or memory format until its first pass
        layers = _layers(network)
        network.quantized_together = Together([layer[0] for layer in layers], [layer.original for layer in layers])
    for quantizer, value in zip(network.quantized_together.quantizers, network.quantized_together.quantize(), strict=True):
        quantizer.ready = value


def _after(network: nn.Module, inputs, outputs) -> None:
    for quantizer in network.quantized_together.quantizers if hasattr(network, "quantized_together") else ():
        quantizer.ready = None
