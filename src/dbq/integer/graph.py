"""The traced graph of a quantized network: which node is which kind of operation, what reads it, in which shape and with which lsb."""

import operator
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from dbq.errors import DbqError
from dbq.insertion.activations import LAYERS, RELUS, ActivationQuantizer
from dbq.networks.resnet20 import PadShortcut

MODULES = {
    LAYERS: "layer", (nn.BatchNorm1d, nn.BatchNorm2d): "batch_norm", ActivationQuantizer: "quantizer", (nn.Identity, nn.Dropout): "alias",
    PadShortcut: "subsample_and_pad", nn.Flatten: "move", nn.AdaptiveAvgPool2d: "average", nn.MaxPool2d: "max_pool",
}  # fmt: skip
# functions, and names of methods; a move computes nothing
CALLS = {
    **dict.fromkeys((operator.add, operator.iadd, torch.add), "add"),
    **dict.fromkeys((functional.adaptive_avg_pool2d, torch.mean, "mean"), "average"),
    **dict.fromkeys((torch.flatten, torch.transpose, torch.reshape, torch.permute, torch.chunk, torch.split, operator.getitem), "move"),
    **dict.fromkeys(("view", "reshape", "transpose", "contiguous", "chunk", "flatten", "permute", "split"), "move"),
    torch.cat: "concatenate", functional.dropout: "alias",
}  # fmt: skip
FREE = ("layer", "batch_norm", "add", "concatenate")  # kinds of nodes whose lsb is chosen here
USE_KNOWN = "use modules and calls that dbq.networks uses"


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module, name):
        return super().is_leaf_module(module, name) or isinstance(module, (*LAYERS, ActivationQuantizer, PadShortcut))


@dataclass
class Graph:
    """kinds: the kind of each node, one of those in MODULES and CALLS, or image, output, size. results: what a node gives for
    one image; tensors without their values."""

    nodes: list[fx.Node]
    kinds: dict[fx.Node, str]
    results: dict[fx.Node, object]
    traced: fx.GraphModule

    def module(self, node: fx.Node) -> nn.Module:
        return self.traced.get_submodule(node.target)

    def shape(self, node: fx.Node) -> tuple[int, ...]:
        """The shape of a node's tensor, without the batch."""
        return tuple(self.results[node].shape[1:])

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
    """Trace a quantized network in evaluation mode and run one black image through it; DbqError where there is no integer operation."""
    if network.training:
        raise DbqError("the network is in training mode", "call network.eval(): only hard weights can be taken apart")
    try:
        graph = _Tracer().trace(network)
    except (fx.proxy.TraceError, TypeError) as error:
        problem = f"{type(network).__name__}: torch.fx can't trace it ({error})"
        raise DbqError(problem, "write its forward pass without data-dependent branches") from None
    traced = fx.GraphModule(network, graph)
    runner = fx.Interpreter(traced, garbage_collect_values=False)
    with torch.no_grad():
        runner.run(torch.zeros(1, *image_shape, device=next(network.parameters()).device))
    results = {node: result.to("meta") if isinstance(result, Tensor) else result for node, result in runner.env.items()}
    return Graph(list(graph.nodes), {node: _kind(node, traced, results[node]) for node in graph.nodes}, results, traced)


def _kind(node: fx.Node, traced: fx.GraphModule, result) -> str:
    if node.op in ("placeholder", "output"):
        return {"placeholder": "image", "output": "output"}[node.op]
    if isinstance(result, (int, torch.Size)):  # a plain number once the image's size is known
        return "size"
    if node.op == "call_module":
        module = traced.get_submodule(node.target)
        kind = next((kind for types, kind in MODULES.items() if isinstance(module, types)), None)
        odd_pool = kind == "max_pool" and (module.dilation not in (1, (1, 1)) or module.ceil_mode or module.return_indices)
        if kind is None or odd_pool or (kind == "average" and module.output_size not in (1, (1, 1))):
            remedy = "set activation_bits below 32: its output is a float activation" if isinstance(module, RELUS) else USE_KNOWN
            raise DbqError(f"layer {node.target}: no integer operation for {type(module).__name__}", remedy)
        return kind
    kind = CALLS.get(node.target) if node.op in ("call_function", "call_method") else None
    if kind is None:
        raise DbqError(f"node {node.name}: no integer operation for {getattr(node.target, '__name__', node.target)}", USE_KNOWN)
    if kind == "average":
        pooled = node.target is functional.adaptive_avg_pool2d
        size_or_axes = node.args[1] if len(node.args) > 1 else node.kwargs.get("output_size" if pooled else "dim")
        if size_or_axes not in ((1, (1, 1), [1, 1]) if pooled else ((2, 3), [2, 3], (-2, -1), [-2, -1])):
            raise DbqError(f"node {node.name}: averages over anything but the whole picture have no integer operation", "pool to one pixel")
    return kind


def moved(graph: Graph, node: fx.Node) -> tuple[fx.Node, object]:
    """The node that a chain of moves starts from, and an index tensor: which element of it stands where in the result of the chain.

    The chain is run on the numbers 0, 1, .. of the first node's elements, for a batch of one image.
    """
    chain, source = [], node
    while graph.kinds[source] in ("move", "alias"):
        chain.append(source)
        source = source.args[0]
    shape = (1, *graph.shape(source))
    runner = fx.Interpreter(graph.traced)
    runner.env = graph.results | {source: torch.arange(torch.Size(shape).numel()).view(shape)}
    for step in reversed(chain):
        runner.env[step] = runner.env[step.args[0]] if graph.kinds[step] == "alias" else runner.run_node(step)
    return source, runner.env[node]


def whole_channels(index, shape: tuple[int, ...]) -> Tensor | None:
    """The channels (C',) that an index tensor takes of (C, H, W) or of (C,); None if it doesn't take whole channels."""
    if not isinstance(index, Tensor) or index.ndim != len(shape) + 1:
        return None
    every = torch.arange(torch.Size(shape).numel()).view(1, *shape)
    channels = index[(0, ..., *[0] * (len(shape) - 1))] // every[0, 0].numel()
    return channels if torch.equal(index, every[:, channels]) else None


def root(graph: Graph, node: fx.Node) -> fx.Node:
    """The node that decides the lsb of this one."""
    while graph.kinds[node] in ("move", "alias", "max_pool", "subsample_and_pad"):
        node = node.args[0]
    return node


def operands(graph: Graph, node: fx.Node) -> tuple:
    """The nodes that a node adds or concatenates; () for other nodes."""
    kind = graph.kinds[node]
    return tuple(node.args[0]) if kind == "concatenate" else tuple(node.args[:2]) if kind == "add" else ()


def reading_quantizer(graph: Graph, node: fx.Node) -> ActivationQuantizer | None:
    """The quantizer through which a node reads its input."""
    kind = graph.kinds[node]
    if kind == "quantizer":
        return graph.module(node)
    return getattr(graph.module(node), "input_quantizer", None) if kind == "layer" else None


def stream_lsbs(graph: Graph, fixed_point_bits: int) -> dict[fx.Node, float | None]:
    """The lsb of every free node; None where no quantizer reads it. Values that are added or concatenated with one another share one.

    The training graph keeps layer outputs, sums and concatenations in float until a quantizer reads them. Here they are integers. Their
    lsb is the finest step of the quantizers that read the group, divided by 2^max(fixed_point_bits - bits of that quantizer, 0). So the
    range of that quantizer takes as many bits as a multiplier has, and the way from the stream to the quantizer's grid is a shift.
    """
    parents: dict[fx.Node, fx.Node] = {}

    def find(node):
        while node in parents:
            node = parents[node]
        return node

    for node in graph.nodes:
        for part in operands(graph, node):
            if isinstance(part, fx.Node) and graph.kinds[root(graph, part)] in FREE and find(root(graph, part)) is not find(node):
                parents[find(root(graph, part))] = find(node)
    finest: dict[fx.Node, float] = {}
    for node in graph.nodes:
        quantizer = reading_quantizer(graph, node)
        if quantizer is not None:
            origin = root(graph, node.args[0])
            if graph.kinds[origin] == "average":
                origin = root(graph, origin.args[0])
            lsb = quantizer.step * 2.0 ** -max(fixed_point_bits - quantizer.bits, 0)
            finest[find(origin)] = min(lsb, finest.get(find(origin), lsb))
    return {node: finest.get(find(node)) for node in graph.nodes if graph.kinds[node] in FREE}
