"""Quantizes all DBQ layers of a network, and all its uniform layers, in one call each before a training step's forward pass.

One DBQ layer takes some thirty small operations, and a network has dozens of layers. Called layer by layer, the fixed cost of these
operations was most of what DBQ added to a training step of ResNet-20. Here the weights of all layers are cut into rows of equal length,
and each row uses the scales of its layer. The last row of a layer is padded with zeros; the gradient of the padding is dropped.
Uniform layers are quantized by operations on lists of tensors: a MobileNet has a small uniform layer beside every large one.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from dbq.quantizers.base import WeightQuantizer
from dbq.quantizers.branch_function import BranchQuantize
from dbq.quantizers.compiled import check_compiler
from dbq.quantizers.dbq import BranchQuantizer
from dbq.quantizers.memory_order import from_memory_order, memory_order
from dbq.quantizers.uniform import RoundToGrid, UniformQuantizer

SHORTEST, PADDED = 512, 1024  # length of a row: the sizes' greatest common divisor if it is at least SHORTEST, else PADDED


class Rows:
    """The weights of several layers as rows of one length; `rows` (R,) holds the layer of each row. BranchQuantize asks for this form.

    The parameters stay the same, but their values move into one block of memory, so that joining them costs nothing. If something moves
    them out of the block again (`network.to(device)`), `join` copies.
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
        """Views of a matrix (R, K) in the shapes and memory formats of the layers."""
        parts = matrix.view(-1).split(self.spaces)
        return [from_memory_order(part[: weight.numel()], weight) for part, weight in zip(parts, self.weights, strict=True)]


class BranchLayers:
    """DBQ layers with one set of scales a layer. Layers with scales per channel are quantized one by one."""

    def __init__(self, quantizers: list[BranchQuantizer], weights: list[Tensor]):
        self.quantizers, self.weights = quantizers, weights
        self.rows = Rows(weights)
        self.gradient_scale = torch.tensor([[quantizer.gradient_scale] for quantizer in quantizers], device=weights[0].device)

    @staticmethod
    def accepts(quantizer: WeightQuantizer) -> bool:
        return isinstance(quantizer, BranchQuantizer) and quantizer.config.scales == "layer"

    def quantize(self) -> tuple[Tensor, ...]:
        """The quantized weights of each layer, in its shape and memory format."""
        quantizers = self.quantizers
        a = torch.cat([quantizer.a for quantizer in quantizers])
        g1 = torch.stack([quantizer.g1 for quantizer in quantizers])[:, None]
        g2 = torch.stack([quantizer.g2 for quantizer in quantizers])[:, None]
        relative = torch.stack([quantizer.temperature for quantizer in quantizers])[:, None]
        temperature = (relative / a.detach().sum(1, keepdim=True)).clamp_max(1e30)
        hard_forward = quantizers[0].config.forward == "hard"
        return BranchQuantize.apply(
            self.rows, hard_forward, quantizers[0].compiled, a, g1, g2, temperature, self.gradient_scale, *self.weights
        )  # fmt: skip


class UniformLayers:
    """Uniform layers of any widths."""

    def __init__(self, quantizers: list[UniformQuantizer], weights: list[Tensor]):
        self.quantizers, self.weights = quantizers, weights
        self.largest = [quantizer.largest for quantizer in quantizers]

    @staticmethod
    def accepts(quantizer: WeightQuantizer) -> bool:
        return isinstance(quantizer, UniformQuantizer)

    def quantize(self) -> tuple[Tensor, ...]:
        """The quantized weights of each layer."""
        return RoundToGrid.apply(self.largest, *self.weights)


class JointQuantization:
    """What the quantizers of one network share: the layers that are quantized in one call, their finished weights, and the kernels.

    `attach` makes one for a network and tells each quantizer of it. In training mode the network's forward pass begins with one call for
    each group of layers. During the pass a quantizer takes its weight from `finished`; after the pass nothing is left there.
    compiled: whether DBQ's layers train with the kernels of compiled.py.
    """

    def __init__(self, network: nn.Module):
        self.layers = [module.parametrizations.weight for module in network.modules() if parametrize.is_parametrized(module, "weight")]
        self.groups: list[BranchLayers | UniformLayers] | None = None
        self.finished: dict[WeightQuantizer, Tensor] = {}
        self.compiled = False
        for layer in self.layers:
            layer[0].join(self)
        network.register_forward_pre_hook(self._before)
        network.register_forward_hook(self._after, always_call=True)

    def use_compiled_kernels(self) -> None:
        """Raises DbqError on a machine that can't compile."""
        check_compiler(self.layers[0].original.device)
        self.compiled = True

    def _before(self, network: nn.Module, inputs) -> None:
        if not network.training:
            return
        if self.groups is None:  # not earlier: until its first pass the network may move to another device or memory format
            self.groups = self._group()
        self.finished = {
            quantizer: weight for group in self.groups for quantizer, weight in zip(group.quantizers, group.quantize(), strict=True)
        }

    def _after(self, network: nn.Module, inputs, outputs) -> None:
        self.finished = {}

    def _group(self) -> list:
        """A layer that is alone in its group isn't joined."""
        groups = []
        for kind in (BranchLayers, UniformLayers):
            layers = [layer for layer in self.layers if kind.accepts(layer[0])]
            if len(layers) > 1:
                groups.append(kind([layer[0] for layer in layers], [layer.original for layer in layers]))
        return groups


def attach(network: nn.Module) -> JointQuantization:
    """Quantize the network's layers together from now on. Called once, when all quantizers are inserted.

    The network keeps the object as `joint_quantization`; a copy of the network has a copy of it.
    """
    network.joint_quantization = JointQuantization(network)
    return network.joint_quantization
