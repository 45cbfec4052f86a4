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


class Together:
    """Quantizes the per-layer BranchQuantizers of a network at once; their forward passes then return what is ready.

    `attach` makes it part of the network's forward pass in training mode. Layers with scales per channel stay on their own.
    Parameters that are replaced, not changed in place, after the first pass (`network.to(device)`) go unseen: attach again.
    """

    def __init__(self, quantizers: list[BranchQuantizer], weights: list[Tensor]):
        self.quantizers, self.weights = quantizers, weights
        sizes = [weight.numel() for weight in weights]
        divisor = math.gcd(*sizes)
        self.length = divisor if divisor >= SHORTEST else PADDED
        self.padding = [-size % self.length for size in sizes]
        self.counts = [-(-size // self.length) for size in sizes]
        device = weights[0].device
        self.rows = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(self.counts)).to(device)
        self.gradient_scale = torch.tensor([[quantizer.gradient_scale] for quantizer in quantizers], device=device)

    def quantize(self) -> list[Tensor]:
        """The quantized weights of each layer, in its shape and memory format."""
        quantizers = self.quantizers
        flat = []
        for weight, padding in zip(self.weights, self.padding, strict=True):
            values = memory_order(weight).reshape(-1)
            flat.append(functional.pad(values, (0, padding)) if padding else values)
        a = torch.cat([quantizer.a for quantizer in quantizers])
        g1 = torch.stack([quantizer.g1 for quantizer in quantizers])[:, None]
        g2 = torch.stack([quantizer.g2 for quantizer in quantizers])[:, None]
        heat = torch.stack([quantizer.temperature for quantizer in quantizers])[:, None]
        temperature = (heat / a.detach().sum(1, keepdim=True)).clamp_max(1e30)
        rows = torch.cat(flat).view(-1, self.length)
        hard_forward = quantizers[0].config.forward == "hard"
        quantized = BranchQuantize.apply(rows, a, g1, g2, temperature, self.rows, hard_forward, self.gradient_scale, quantizers[0].compiled)
        parts = quantized.view(-1).split([count * self.length for count in self.counts])
        return [from_memory_order(part[: weight.numel()], weight) for part, weight in zip(parts, self.weights, strict=True)]


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
