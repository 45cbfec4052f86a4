"""The traced graph of a quantized network: which node is which kind of operation, which nodes read it, and in which shape."""

import operator
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from dbq.errors import DbqError
from dbq.insertion.activations import LAYERS, RELUS, ActivationQuantizer
from dbq.networks.resnet20 import PadShortcut

ALIASES = (nn.Identity, nn.Dropout)
ADDITIONS = (operator.add, operator.iadd, torch.add)
AVERAGES = (functional.adaptive_avg_pool2d, torch.mean, "mean")
# calls and modules that move values and compute nothing
MOVES = {torch.flatten, torch.transpose, torch.reshape, torch.permute, torch.chunk, torch.split, operator.getitem}
MOVE_METHODS = {"view", "reshape", "transpose", "contiguous", "chunk", "flatten", "permute", "split"}


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module, name):
        return super().is_leaf_module(module, name) or isinstance(module, (*LAYERS, ActivationQuantizer, PadShortcut))


@dataclass
class Graph:
    """kinds: the kind of each node, by the names in `_kind`. results: what a node gives for one image: the shape of a tensor, or a size."""

    network: nn.Module
    nodes: list[fx.Node]
    kinds: dict[fx.Node, str]
    results: dict[fx.Node, object]
    traced: fx.GraphModule

    def module(self, node: fx.Node) -> nn.Module:
        return self.traced.get_submodule(node.target)

    def shape(self, node: fx.Node) -> tuple[int, ...]:
        """The shape of a node's tensor, without the batch."""
        return tuple(self.results[node][1:])

    def source(self, node: fx.Node) -> fx.Node:
        """The node whose value this is, behind identities and dropout."""
        while self.kinds[node] == "alias":
            node = node.args[0]
        return node

    def users(self, node: fx.Node) -> list[fx.Node]:
        """The nodes that read this value, through identities and dropout."""
        return [
            reader for user in node.users for reader in (self.users(user) if self.kinds[user] == "alias" else [user])
            if self.kinds[reader] != "size"
        ]  # fmt: skip

    def name(self, node: fx.Node) -> str:
        return node.target if node.op == "call_module" else node.name


def trace(network: nn.Module, image_shape: tuple[int, int, int]) -> Graph:
    """Trace a quantized network in evaluation mode and run one black image through it for the shapes.

    Raises DbqError for a module or a call without an integer operation.
    """
    if network.training:
        raise DbqError("the network is in training mode", "call network.eval(): only hard weights can be taken apart")
    try:
        graph = _Tracer().trace(network)
    except (fx.proxy.TraceError, TypeError) as error:
        raise DbqError(
            f"{type(network).__name__}: torch.fx can't trace it ({error})", "write its forward pass without data-dependent branches"
        ) from None
    traced = fx.GraphModule(network, graph)
    shapes = _Shapes(traced)
    with torch.no_grad():
        parameter = next(network.parameters())
        shapes.run(torch.zeros(1, *image_shape, device=parameter.device))
    nodes = list(graph.nodes)
    return Graph(network, nodes, {node: _kind(node, traced) for node in nodes}, shapes.results, traced)


class _Shapes(fx.Interpreter):
    def __init__(self, traced):
        super().__init__(traced)
        self.results = {}

    def run_node(self, node):
        result = super().run_node(node)
        self.results[node] = result.shape if isinstance(result, Tensor) else result
        return result


def _kind(node: fx.Node, traced) -> str:
    if node.op in ("placeholder", "output"):
        return {"placeholder": "image", "output": "output"}[node.op]
    if node.op == "call_module":
        module = traced.get_submodule(node.target)
        kind = _module_kind(module)
        if kind is None:
            raise DbqError(f"layer {node.target}: no integer operation for {type(module).__name__}", _remedy(module))
        return kind
    if node.op == "call_method" and node.target == "size":
        return "size"
    if node.op == "call_function" and _arithmetic_on_sizes(node):
        return "size"
    if node.target in ADDITIONS:
        return "add"
    if node.target is torch.cat:
        return "concatenate"
    if node.target in AVERAGES:
        _check_average(node)
        return "average"
    if node.target is functional.dropout:
        return "alias"
    if (node.op == "call_function" and node.target in MOVES) or (node.op == "call_method" and node.target in MOVE_METHODS):
        return "move"
    raise DbqError(
        f"node {node.name}: no integer operation for {getattr(node.target, '__name__', node.target)}",
        "use modules and calls that dbq.networks uses",
    )


def _remedy(module) -> str:
    if isinstance(module, RELUS):
        return "set activation_bits below 32: its output is a float activation"
    return "use modules and calls that dbq.networks uses"


def _module_kind(module) -> str | None:
    if isinstance(module, nn.AdaptiveAvgPool2d):
        return "average" if module.output_size in (1, (1, 1)) else None
    if isinstance(module, nn.MaxPool2d):
        return "max_pool" if module.dilation in (1, (1, 1)) and not module.ceil_mode and not module.return_indices else None
    kinds = {
        LAYERS: "layer", nn.BatchNorm2d: "batch_norm", nn.BatchNorm1d: "batch_norm", ActivationQuantizer: "quantizer", ALIASES: "alias",
        PadShortcut: "subsample_and_pad", nn.Flatten: "move",
    }  # fmt: skip
    return next((kind for types, kind in kinds.items() if isinstance(module, types)), None)


def _arithmetic_on_sizes(node) -> bool:
    """Whether a node computes with sizes, which are plain numbers once the image's size is known."""
    first = node.args[0] if node.args else None
    if not isinstance(first, fx.Node):
        return False
    if node.target is operator.getitem:
        return first.op == "call_method" and first.target == "size"
    return node.target in (operator.floordiv, operator.mul) and _is_size(first)


def _is_size(node) -> bool:
    return (node.op == "call_method" and node.target == "size") or (node.op == "call_function" and _arithmetic_on_sizes(node))


def _check_average(node) -> None:
    if node.target is functional.adaptive_avg_pool2d:
        whole = node.args[1] in (1, (1, 1), [1, 1])
    else:
        axes = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
        whole = axes is not None and list(axes) in ([2, 3], [-2, -1])
    if not whole:
        raise DbqError(f"node {node.name}: averages over anything but the whole picture have no integer operation", "pool to one pixel")


def moved(graph: Graph, node: fx.Node) -> tuple[fx.Node, object]:
    """The node that a chain of moves starts from, and an index tensor: which element of it stands where in the result of the chain.

    The chain is run on the numbers 0, 1, .. of the first node's elements, for a batch of one image.
    """
    chain, source = [], node
    while graph.kinds[source] in ("move", "alias"):
        chain.append(source)
        source = source.args[0]
    shape = (1, *graph.shape(source))
    value = torch.arange(torch.Size(shape).numel()).view(shape)
    results = {source: value}
    for step in reversed(chain):
        arguments, keywords = fx.node.map_arg((step.args, step.kwargs), lambda n: results[n] if n in results else graph.results[n])
        if step.op == "call_module":
            results[step] = graph.module(step)(results[step.args[0]]) if graph.kinds[step] == "move" else results[step.args[0]]
        elif graph.kinds[step] == "alias":
            results[step] = results[step.args[0]]
        elif step.op == "call_function":
            results[step] = step.target(*arguments, **keywords)
        else:
            results[step] = getattr(arguments[0], step.target)(*arguments[1:], **keywords)
    return source, results[node]


def whole_channels(index, shape: tuple[int, ...]) -> Tensor | None:
    """The channels (C',) that an index tensor takes of (C, H, W) or of (C,); None if it doesn't take whole channels."""
    if not isinstance(index, Tensor) or index.ndim != len(shape) + 1 or index.shape[0] != 1 or index.shape[2:] != shape[1:]:
        return None
    pixels = torch.Size(shape[1:]).numel()
    flat = index[0].reshape(index.shape[1], pixels)
    channels = flat[:, 0] // pixels
    return channels if torch.equal(flat, channels[:, None] * pixels + torch.arange(pixels)) else None
