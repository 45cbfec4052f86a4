"""Shapes of the dot products of a network, multiply-adds and parameters."""

from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class LayerShape:
    """One convolution or fully connected layer as dot products."""

    name: str
    kind: str  # first, depthwise, pointwise, conv or classifier
    outputs: int  # number of dot products
    length: int  # of each dot product
    channels_out: int  # dot products with different weights
    weights: int
    biases: int  # parameters of the layer itself; a folded batch norm adds channels_out
    inputs: int  # input activations


def layer_shapes(network: nn.Module, input_shape: tuple[int, int, int]) -> list[LayerShape]:
    """Every Conv2d and Linear in the order of the forward pass, for an image (3, H, W). The network is left as it was."""
    names = {module: name for name, module in network.named_modules() if isinstance(module, (nn.Conv2d, nn.Linear))}
    seen: list[tuple[nn.Module, torch.Size, torch.Size]] = []
    hooks = [
        module.register_forward_hook(lambda module, inputs, output: seen.append((module, inputs[0].shape, output.shape)))
        for module in names
    ]
    parameter = next(network.parameters())
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.no_grad():
            network(torch.zeros(1, *input_shape, device=parameter.device, dtype=parameter.dtype))
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode
    first = next(module for module, _, _ in seen if isinstance(module, nn.Conv2d))
    last = [module for module, _, _ in seen if isinstance(module, nn.Linear)][-1:]
    kinds = {module: _conv_kind(module) for module in names} | {first: "first"} | dict.fromkeys(last, "classifier")
    return [_shape(names[module], kinds[module], module, x, y) for module, x, y in seen]


def _shape(name: str, kind: str, module, x, y) -> LayerShape:
    weights, biases = module.weight, 0 if module.bias is None else module.bias.numel()
    return LayerShape(name, kind, y.numel(), weights[0].numel(), weights.shape[0], weights.numel(), biases, x.numel())


def _conv_kind(module) -> str:
    if isinstance(module, nn.Linear):
        return "conv"
    if module.groups == module.in_channels > 1:
        return "depthwise"
    return "pointwise" if module.kernel_size == (1, 1) else "conv"


def macs(network: nn.Module, input_shape: tuple[int, int, int]) -> int:
    """Multiply-adds of convolutions and fully connected layers for one image."""
    return sum(shape.outputs * shape.length for shape in layer_shapes(network, input_shape))


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
