"""Uniform activations: unsigned where their values can't be negative, signed everywhere else.

`insert` traces the network once. Every ReLU becomes a quantizer, which clips at 0 itself. A layer with dot products needs an input on the
grid of one quantizer. If its input isn't (the image, a linear bottleneck, a sum, a concatenation, an average pool), the layer gets a
quantizer of its own input. Right behind a batch norm the clip of a quantizer is the maximum over the channels of beta + k*|gamma|.
Any other clip is the largest value seen on training images.
"""

from __future__ import annotations

import functools
import math
import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, fx, nn

from dbq.errors import DbqError

if TYPE_CHECKING:
    from dbq.settings.entries import ActivationSettings

IMAGE_BITS = 8  # the image is an 8-bit signal; fewer bits would quantize the data set, not the network
LAYERS = (nn.Conv2d, nn.Linear)
RELUS = (nn.ReLU, nn.ReLU6)
# what hands its input's values on unchanged
PASSING_MODULES = (nn.Identity, nn.Dropout, nn.MaxPool2d, nn.Flatten)
PASSING_CALLS = {torch.flatten, torch.transpose, torch.reshape, operator.getitem, torch.nn.functional.dropout}
PASSING_METHODS = {"view", "reshape", "transpose", "contiguous", "chunk", "flatten", "permute", "split"}
# what makes no negative value of inputs that are not negative
AVERAGING_MODULES = (nn.AdaptiveAvgPool2d, nn.AvgPool2d)
AVERAGING_CALLS = (torch.nn.functional.adaptive_avg_pool2d, torch.nn.functional.avg_pool2d, torch.mean, "mean")
ADDING_CALLS = (operator.add, torch.add, operator.iadd)


class ActivationQuantizer(nn.Module):
    """Values of `bits` bits from 0 (or -clip if signed) to clip; the gradient is straight-through inside this range and 0 outside.

    A learnt clip gets the gradient of the values beyond it (PACT). gradient says which values decide what is inside. "input": those
    before rounding, which must be kept for the backward pass. "output": those after rounding; the next layer keeps them for its own
    gradient, so that nothing else has to be kept. The two differ only for values within half a step of either end, which round to it.
    """

    def __init__(self, bits: int, signed: bool, clip: float, source: str, learnt: bool, gradient: str = "input"):
        super().__init__()
        self.bits, self.signed, self.source, self.learnt, self.gradient = bits, signed, source, learnt, gradient
        self.largest = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
        self.smallest = -self.largest if signed else 0
        value = torch.tensor([float(clip)])
        if learnt:
            self.clip = nn.Parameter(value)
        else:
            self.register_buffer("clip", value)
        # the clip as a number: reading the tensor in every training step would make the host wait for a GPU
        self._clip = float(value)
        self.register_load_state_dict_post_hook(lambda module, _: setattr(module, "_clip", float(module.clip.detach())))

    @property
    def step(self) -> float:
        """The distance of two neighbouring values."""
        return (float(self.clip.detach()) if self.learnt else self._clip) / self.largest

    def forward(self, x: Tensor) -> Tensor:
        step, by_output = self.step, self.gradient == "output"
        low, high = self.smallest * step, self.largest * step
        if by_output:  # in the output's type, rounded as the output is: comparisons with it are exact
            low, high = torch.tensor([self.smallest, self.largest], dtype=x.dtype).mul_(step).tolist()
        return _Quantize.apply(x, self.clip, step, self.smallest, self.largest, low, high, by_output)


class _Quantize(torch.autograd.Function):
    """step * clamp(round(x / step)), ties to even.

    Plain vectorised operations: torch's fake_quantize_per_tensor_affine took 12 ms where these take 1 ms (2 cores, 2 M values).
    """

    @staticmethod
    def forward(ctx, x, clip, step, smallest, largest, low, high, by_output):
        values = torch.mul(x, 1 / step).round_().clamp_(smallest, largest).mul_(step)
        ctx.save_for_backward(values if by_output else x)
        ctx.low, ctx.high = low, high
        return values

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        clip_grad = None
        if ctx.needs_input_grad[1]:
            clip_grad = (grad * (x >= ctx.high)).sum().reshape(1)
            if ctx.low < 0:
                clip_grad = clip_grad - (grad * (x <= ctx.low)).sum()
        if x.ndim == 4:  # a pool's gradient comes in another memory format, with which the batch norms would take 1.6 times as long
            channels_last = x.is_contiguous(memory_format=torch.channels_last)
            grad = grad.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
        return torch.ops.aten.hardtanh_backward(grad, x, ctx.low, ctx.high), clip_grad, *6 * (None,)


@dataclass
class Site:
    """Where a quantizer goes: in the place of the ReLU `name`, or before the layer `name`."""

    name: str
    at_relu: bool
    signed: bool
    batch_norm: nn.BatchNorm2d | None  # whose output is quantized
    ceiling: float | None  # 6 for a ReLU6


def insert(network: nn.Module, bits: int, config: ActivationSettings, images: Tensor) -> dict[str, ActivationQuantizer]:
    """Insert quantizers into the float network. images (N, 3, H, W): normalised training images for the clips.

    Returns for every layer with dot products the quantizer of its input. Raises DbqError where activations have no usable range.
    """
    sites, sources = _find_sites(network)
    clips = _clips(network, sites, config, images)
    quantizers = {}
    first_layer = next(name for name, module in network.named_modules() if isinstance(module, LAYERS))
    for site in sites:
        clip, source = clips[site.name]
        if not 0 < clip < math.inf:
            problem = f"layer {site.name}: its activations have the range {clip}"
            raise DbqError(problem, "check the float network: the layer is dead or diverged")
        width = max(bits, IMAGE_BITS) if site.name == first_layer else bits
        quantizer = ActivationQuantizer(width, site.signed, clip, source, config.clip == "learnt", config.gradient).to(images.device)
        quantizers[site.name] = quantizer
        if site.at_relu:
            network.set_submodule(site.name, quantizer)
        else:
            layer = network.get_submodule(site.name)
            layer.input_quantizer = quantizer
            layer.register_forward_pre_hook(_quantize_input)
    return {layer: quantizers[site] for layer, site in sources.items()}


def _quantize_input(module, inputs):
    return (module.input_quantizer(inputs[0]), *inputs[1:])


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module, name):
        # a module without layers and ReLUs inside (a shortcut, dropout) is one node of the graph
        return super().is_leaf_module(module, name) or not any(isinstance(part, LAYERS + RELUS) for part in module.modules())


def _find_sites(network: nn.Module) -> tuple[list[Site], dict[str, str]]:
    """The sites in forward order, and for each layer the name of the site that quantizes its input."""
    modules = dict(network.named_modules())
    sites, sources = [], {}
    for node in _Tracer().trace(network).nodes:
        module = node.meta["module"] = modules[node.target] if node.op == "call_module" else None
        if isinstance(module, RELUS):
            ceiling = 6.0 if isinstance(module, nn.ReLU6) else None
            sites.append(Site(node.target, True, False, _batch_norm(_origin(node.args[0])), ceiling))
        elif isinstance(module, LAYERS):
            origin = _origin(node.args[0])
            if isinstance(origin.meta["module"], RELUS):
                sources[node.target] = origin.target
            else:
                sources[node.target] = node.target
                signed = not _never_negative(origin)
                sites.append(Site(node.target, False, signed, _batch_norm(origin) if signed else None, None))
    return sites, sources


def _origin(node: fx.Node) -> fx.Node:
    """The node that computed the values which this node passes on."""
    passing = {"call_function": PASSING_CALLS, "call_method": PASSING_METHODS}
    while isinstance(node.meta["module"], PASSING_MODULES) or node.target in passing.get(node.op, ()):
        node = node.args[0]
    return node


def _batch_norm(origin: fx.Node) -> nn.BatchNorm2d | None:
    """The batch norm whose output this is, if it has a scale and a shift."""
    module = origin.meta["module"]
    return module if isinstance(module, nn.BatchNorm2d) and module.affine else None


def _never_negative(node: fx.Node) -> bool:
    """Whether the values are sums, averages or concatenations of ReLUs' outputs only."""
    origin = _origin(node)
    module = origin.meta["module"]
    if isinstance(module, AVERAGING_MODULES) or (module is None and origin.target in AVERAGING_CALLS):
        return _never_negative(origin.args[0])
    if origin.target is torch.cat:
        return all(_never_negative(part) for part in origin.args[0])
    if origin.target in ADDING_CALLS:
        return all(_never_negative(part) for part in origin.args[:2])
    return isinstance(module, RELUS)


@torch.no_grad()
def _clips(network: nn.Module, sites: list[Site], config: ActivationSettings, images: Tensor) -> dict[str, tuple[float, str]]:
    """(clip, where it comes from) of every site."""
    largest = _largest_inputs(network, [site for site in sites if site.batch_norm is None], images)
    clips = {}
    for site in sites:
        if site.batch_norm is None:
            clip, source = largest[site.name], f"largest of {len(images)} training images"
        else:
            beta, gamma = site.batch_norm.bias, site.batch_norm.weight
            centre = beta.abs() if site.signed else beta
            clip, source = float((centre + config.k * gamma.abs()).max()), f"batch norm, k = {config.k:g}"
        clips[site.name] = (clip if site.ceiling is None else min(clip, site.ceiling), source)
    return clips


def _largest_inputs(network: nn.Module, sites: list[Site], images: Tensor) -> dict[str, float]:
    """The largest input of each site, or the largest magnitude where it is signed, and 0 where all inputs are negative."""
    largest = dict.fromkeys((site.name for site in sites), 0.0)

    def record(site, module, inputs):
        largest[site.name] = max(largest[site.name], float(inputs[0].abs().max() if site.signed else inputs[0].max()))

    hooks = [network.get_submodule(site.name).register_forward_pre_hook(functools.partial(record, site)) for site in sites]
    training = network.training
    network.eval()
    for batch in images.split(256):
        network(batch)
    network.train(training)
    for hook in hooks:
        hook.remove()
    return largest
