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

from dbq.quantizers.base import from_memory_order, memory_order
from dbq.quantizers.branch_function import BranchQuantize
from dbq.quantizers.dbq import BranchQuantizer
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

    def __init__(self, layers: list[parametrize.ParametrizationList]):
        self.quantizers, self.weights = [layer[0] for layer in layers], [layer.original for layer in layers]
        self.rows = Rows(self.weights)
        self.gradient_scale = torch.tensor([[quantizer.gradient_scale] for quantizer in self.quantizers], device=self.weights[0].device)

    def quantize(self) -> tuple[Tensor, ...]:
        """The quantized weights of each layer, in its shape and memory format."""
        first = self.quantizers[0]
        a = torch.cat([quantizer.a for quantizer in self.quantizers])
        scalars = ("g1", "g2", "temperature")
        g1, g2, relative = (torch.stack([getattr(quantizer, name) for quantizer in self.quantizers])[:, None] for name in scalars)
        temperature = (relative / a.detach().sum(1, keepdim=True)).clamp_max(1e30)
        factors = (a, g1, g2, temperature, self.gradient_scale)
        return BranchQuantize.apply(self.rows, first.config.forward == "hard", first.compiled, *factors, *self.weights)


class UniformLayers:
    """Uniform layers of any widths."""

    def __init__(self, layers: list[parametrize.ParametrizationList]):
        self.quantizers, self.weights = [layer[0] for layer in layers], [layer.original for layer in layers]

    def quantize(self) -> tuple[Tensor, ...]:
        return RoundToGrid.apply([quantizer.largest for quantizer in self.quantizers], *self.weights)


class JointQuantization:
    """What the quantizers of one network share; made once, when all are inserted.

    In training mode the network's forward pass begins with one call for each group of layers. During the pass each of their quantizers
    has its `finished` weight; after it none has. The network keeps the object, and a copy of the network has a copy.
    """

    def __init__(self, network: nn.Module):
        self.layers = [module.parametrizations.weight for module in network.modules() if parametrize.is_parametrized(module, "weight")]
        self.groups: list[BranchLayers | UniformLayers] | None = None
        network.joint_quantization = self
        network.register_forward_pre_hook(self._before)
        network.register_forward_hook(self._after, always_call=True)

    def _before(self, network: nn.Module, inputs) -> None:
        if not network.training:
            return
        if self.groups is None:  # not earlier: until its first pass the network may move to another device or memory format
            self.groups = self._group()
        for group in self.groups:
            for quantizer, weight in zip(group.quantizers, group.quantize(), strict=True):
                quantizer.finished = weight

    def _after(self, network: nn.Module, inputs, outputs) -> None:
        for layer in self.layers:
            layer[0].finished = None

    def _group(self) -> list[BranchLayers | UniformLayers]:
        """A layer that is alone in its group isn't joined."""
        branches = [layer for layer in self.layers if isinstance(layer[0], BranchQuantizer) and not layer[0].per_channel]
        uniform = [layer for layer in self.layers if isinstance(layer[0], UniformQuantizer)]
        return [kind(layers) for kind, layers in ((BranchLayers, branches), (UniformLayers, uniform)) if len(layers) > 1]
