"""The lsb of every stream: values that are added or concatenated with one another share one.

The training graph keeps layer outputs, sums and concatenations in float until a quantizer reads them. Here they are integers. Their lsb
is the finest step of the quantizers that read the group, divided by 2^max(fixed_point_bits - bits of that quantizer, 0). So the range of
that quantizer takes as many bits as a multiplier has, and the way from the stream to the quantizer's grid is a shift.
"""

from torch import fx

from dbq.insertion.activations import ActivationQuantizer
from dbq.integer.graph import Graph

FREE = ("layer", "batch_norm", "add", "concatenate")  # kinds of nodes whose lsb is chosen here


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
    """lsb of every free node; None where no quantizer reads the group."""
    parents: dict[fx.Node, fx.Node] = {}

    def find(node):
        while node in parents:
            node = parents[node]
        return node

    for node in graph.nodes:
        for part in operands(graph, node):
            if isinstance(part, fx.Node) and graph.kinds[root(graph, part)] in FREE:
                first, second = find(root(graph, part)), find(node)
                if first is not second:
                    parents[first] = second
    finest: dict[fx.Node, float] = {}
    for node in graph.nodes:
        quantizer = reading_quantizer(graph, node)
        if quantizer is None:
            continue
        origin = root(graph, node.args[0])
        if graph.kinds[origin] == "average":
            origin = root(graph, origin.args[0])
        if graph.kinds[origin] in FREE:
            lsb = quantizer.step * 2.0 ** -max(fixed_point_bits - quantizer.bits, 0)
            finest[find(origin)] = min(lsb, finest.get(find(origin), lsb))
    return {node: finest.get(find(node)) for node in graph.nodes if graph.kinds[node] in FREE}
