"""Uniform activations: unsigned where a ReLU decides, signed where the graph says so.

`insert` traces the network once. Every ReLU becomes a quantizer that clips at 0 by itself; a layer with dot products whose input isn't
already on one quantizer's grid (the image, a linear bottleneck, a sum, a concatenation, an average pool) gets a quantizer of its own
input. The clip of a quantizer right behind a batch norm is max over channels of beta + k*|gamma|; any other clip is the largest value
seen on training images.
"""

import operator
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from dbq.errors import DbqError
from dbq.settings.resolve import ActivationSettings

IMAGE_BITS = 8  # the image is an 8-bit signal; fewer bits would quantize the data set, not the network
LAYERS = (nn.Conv2d, nn.Linear)
RELUS = (nn.ReLU, nn.ReLU6)
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)  # of activations
# modules and calls that neither compute nor mix values of different grids
PASSING_MODULES = (nn.Identity, nn.Dropout, nn.MaxPool2d, nn.Flatten)
PASSING_CALLS = {torch.flatten, torch.transpose, torch.reshape, operator.getitem, torch.nn.functional.dropout}
PASSING_METHODS = {"view", "reshape", "transpose", "contiguous", "chunk", "flatten", "permute", "split"}


class ActivationQuantizer(nn.Module):
    """`bits`-wide values between 0 (or -clip if signed) and clip; straight-through gradient inside, none outside.

    A learnt clip gets the gradient of the values beyond it (PACT). gradient: which values say what is inside. "input": those before
    rounding. "output": those after it, which the next layer keeps for its own gradient, so that nothing else has to be kept (as a float
    ReLU does); the two differ for values within half a step of either end, which round to it.
    """

    def __init__(self, bits: int, signed: bool, clip: float, source: str, learnt: bool, gradient: str = "input"):
        super().__init__()
        self.bits, self.signed, self.source, self.learnt, self.gradient = bits, signed, source, learnt, gradient
        self.largest = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
        value = torch.tensor([float(clip)])
        if learnt:
            self.clip = nn.Parameter(value)
        else:
            self.register_buffer("clip", value)
        self.register_load_state_dict_post_hook(lambda module, _: module._remember())
        self._remember()

    def _remember(self) -> None:
        # numbers on the host: reading the tensor at every step would make a GPU wait, and torch.compile can't trace it
        self._clip = float(self.clip.detach())
        self._ends = {dtype: self._ends_in(dtype, self._clip / self.largest) for dtype in DTYPES}

    @property
    def step(self) -> float:
        """The distance of two neighbouring values."""
        return (float(self.clip.detach()) if self.learnt else self._clip) / self.largest

    @property
    def smallest(self) -> int:
        return -self.largest if self.signed else 0

    def _ends_in(self, dtype: torch.dtype, step: float) -> list[float]:
        """The smallest and the largest value as the output has them, rounded to its type, so that comparing with them is exact."""
        return torch.tensor([self.smallest, self.largest], dtype=dtype).mul_(step).tolist()

    def forward(self, x: Tensor) -> Tensor:
        step, by_output = self.step, self.gradient == "output"
        if not by_output:
            low, high = self.smallest * step, self.largest * step
        else:
            low, high = self._ends_in(x.dtype, step) if self.learnt else self._ends[x.dtype]
        return _Quantize.apply(x, self.clip, step, self.smallest, self.largest, low, high, by_output)

    def extra_repr(self) -> str:
        return f"bits={self.bits}, signed={self.signed}, clip={float(self.clip.detach()):.4g} ({self.source})"


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
        # a pool's gradient comes in another memory format and would slow down every batch norm behind it (1.6 times a step)
        grad = (
            grad.contiguous(
                memory_format=torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
            )
            if x.ndim == 4
            else grad
        )
        return torch.ops.aten.hardtanh_backward(grad, x, ctx.low, ctx.high), clip_grad, *6 * (None,)


@dataclass
class Site:
    """A place where a quantizer goes: the ReLU module or the layer of this name."""

    name: str
    at_relu: bool
    signed: bool
    batch_norm: nn.BatchNorm2d | None
    ceiling: float | None  # 6 for a ReLU6


def insert(network: nn.Module, bits: int, config: ActivationSettings, images: Tensor) -> dict[str, ActivationQuantizer]:
    """Put quantizers into the float network; images (N, 3, H, W) are normalised training images for the clips.

    Returns, for every layer with dot products, the quantizer that its input comes from. Raises DbqError when a range can't be found.
    """
    sites, sources = _find_sites(network)
    clips = _clips(network, sites, config, images)
    quantizers = {}
    first_layer = next(name for name, module in network.named_modules() if isinstance(module, LAYERS))
    for site in sites:
        clip, source = clips[site.name]
        if not clip > 0 or clip == float("inf"):
            raise DbqError(
                f"layer {site.name}: its activations have the range {clip}", "check the float network: the layer is dead or diverged"
            )
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
        # modules without layers inside (shortcuts, dropout) are one step of the graph
        return super().is_leaf_module(module, name) or not any(isinstance(part, LAYERS + RELUS) for part in module.modules())


def _find_sites(network) -> tuple[list[Site], dict[str, str]]:
    """The sites in forward order, and for each layer the name of the site that its input comes from."""
    graph = _Tracer().trace(network)
    modules = dict(network.named_modules())
    sites, sources = [], {}
    for node in graph.nodes:
        if node.op != "call_module":
            continue
        module = modules[node.target]
        if isinstance(module, RELUS):
            sites.append(Site(node.target, True, False, _batch_norm(node.args[0], modules), 6.0 if isinstance(module, nn.ReLU6) else None))
        elif isinstance(module, LAYERS):
            origin = _origin(node.args[0], modules)
            if origin.op == "call_module" and isinstance(modules[origin.target], RELUS):
                sources[node.target] = origin.target
            else:
                sources[node.target] = node.target
                signed = not _never_negative(node.args[0], modules)
                sites.append(Site(node.target, False, signed, _batch_norm(node.args[0], modules) if signed else None, None))
    return sites, sources


def _passes(node, modules) -> bool:
    if node.op == "call_module":
        return isinstance(modules[node.target], PASSING_MODULES)
    return (node.op == "call_function" and node.target in PASSING_CALLS) or (node.op == "call_method" and node.target in PASSING_METHODS)


def _origin(node, modules):
    """The node whose values arrive here unchanged."""
    while _passes(node, modules):
        node = node.args[0]
    return node


def _batch_norm(node, modules):
    origin = _origin(node, modules)
    module = modules[origin.target] if origin.op == "call_module" else None
    return module if isinstance(module, nn.BatchNorm2d) and module.affine else None


def _never_negative(node, modules) -> bool:
    origin = _origin(node, modules)
    if origin.op == "call_module":
        module = modules[origin.target]
        if isinstance(module, RELUS):
            return True
        pools = isinstance(module, (nn.AdaptiveAvgPool2d, nn.AvgPool2d))
        return pools and _never_negative(origin.args[0], modules)
    averages = (torch.nn.functional.adaptive_avg_pool2d, torch.nn.functional.avg_pool2d, torch.mean, "mean")
    if origin.target in averages:
        return _never_negative(origin.args[0], modules)
    if origin.target is torch.cat:
        return all(_never_negative(part, modules) for part in origin.args[0])
    if origin.target in (operator.add, torch.add, operator.iadd):
        return all(_never_negative(part, modules) for part in origin.args[:2])
    return False


@torch.no_grad()
def _clips(network, sites, config, images) -> dict[str, tuple[float, str]]:
    """(clip, where it comes from) of every site."""
    clips, unknown = {}, {}
    for site in sites:
        if site.batch_norm is None:
            unknown[site.name] = site
            continue
        beta, gamma = site.batch_norm.bias, site.batch_norm.weight
        centre = beta.abs() if site.signed else beta
        clips[site.name] = (float((centre + config.k * gamma.abs()).max()), f"batch norm, k = {config.k:g}")
    largest = dict.fromkeys(unknown, 0.0)
    hooks = []
    for name in unknown:

        def record(module, inputs, name=name):
            largest[name] = max(largest[name], float(inputs[0].abs().max() if unknown[name].signed else inputs[0].max()))

        hooks.append(network.get_submodule(name).register_forward_pre_hook(record))
    training = network.training
    network.eval()
    for batch in images.split(256):
        network(batch)
    network.train(training)
    for hook in hooks:
        hook.remove()
    clips |= {name: (value, f"largest of {len(images)} training images") for name, value in largest.items()}
    ceilings = {site.name: site.ceiling for site in sites if site.ceiling is not None}
    return {name: (min(clip, ceilings.get(name, clip)), source) for name, (clip, source) in clips.items()}
