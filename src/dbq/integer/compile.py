"""From a quantized network in evaluation mode to a Program of integer operations.

    program = compile_network(network, (3, 32, 32)).program

First every unquantized sum, concatenation and layer output gets its lsb (streams.py). Then the operations are written down in the order of
the traced graph. A layer and its batch norm become one DotProducts. If a single quantizer reads the result, its step and its saturation
are part of the same operation.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from dbq.errors import DbqError
from dbq.insertion.activations import ActivationQuantizer
from dbq.integer import fixed_point, fold
from dbq.integer import program as ops
from dbq.integer.graph import Graph, moved, trace, whole_channels
from dbq.integer.planes import take_apart
from dbq.integer.program import Program, Value
from dbq.integer.streams import operands, reading_quantizer, root, stream_lsbs


@dataclass(frozen=True)
class Widths:
    """fixed_point_bits: width of the multipliers' magnitudes (2 to 32). accumulator_bits: width of every accumulator, which no input may
    overflow; None: each layer has the width of its own worst case."""

    fixed_point_bits: int = 16
    accumulator_bits: int | None = None


@dataclass(frozen=True)
class Compiled:
    """A program, the graph that it comes from, and the distance between the two that rounding explains.

    slack: how far a result of the program can be from that of the training graph on the same inputs, as a real number. It is a Slack for
    each layer, and a number for each Rescale and each activation; the rounding to the activation's own grid is not part of it.
    """

    program: Program
    graph: Graph
    slack: dict[str, fold.Slack | float]


@torch.inference_mode(False)
@torch.no_grad()
def compile_network(network: nn.Module, image_shape: tuple[int, int, int], settings: Widths | None = None, mean=None, std=None) -> Compiled:
    """The integer form of a quantized network for images (3, H, W). mean, std: of [0, 1] pixels; with them uint8 images can be run too.

    Raises DbqError that names the layer for float weights or activations, an operation without an integer form, an unsigned quantizer of
    values that may be negative, an accumulator that is too narrow, and numbers that don't fit 62 bits.
    """
    settings = settings or Widths()
    fixed_point.check_bits(settings.fixed_point_bits)
    limit = settings.accumulator_bits
    if limit is not None and (not isinstance(limit, int) or not 2 <= limit <= 64):
        raise DbqError(f"engine.accumulator_bits: {limit!r} is not a whole number from 2 to 64", "write null for each layer's worst case")
    compiler = _Compiler(trace(network, tuple(image_shape)), settings, (mean, std))
    for node in compiler.graph.nodes:
        compiler.emit(node)
    program = Program(compiler.operations, compiler.values, tuple(image_shape), compiler.logits, settings.fixed_point_bits)
    return Compiled(program, compiler.graph, compiler.slack)


class _Compiler:
    """Emits the operations of one network, node by node."""

    def __init__(self, graph: Graph, settings: Widths, normalisation):
        self.graph, self.settings, self.normalisation = graph, settings, normalisation
        self.bits = settings.fixed_point_bits
        self.operations: list[ops.Operation] = []
        self.values: dict[str, Value] = {}
        self.slack: dict[str, fold.Slack | float] = {}
        self.names: dict = {}  # node -> name of its value
        self.logits: str | None = None
        self.lsbs = stream_lsbs(graph, self.bits)

    def emit(self, node) -> None:
        kind = self.graph.kinds[node]
        if kind == "batch_norm" and self.graph.kinds[self.graph.source(node.args[0])] != "layer":
            problem = f"layer {node.target}: a batch norm that isn't right behind a convolution or a fully connected layer"
            raise DbqError(f"{problem} has no integer form", "put it right behind the layer that it normalises")
        if kind in ("layer", "quantizer", "add", "concatenate", "max_pool", "subsample_and_pad", "average"):
            getattr(self, f"_{kind}")(node)
        elif kind == "output" and self.logits is None:
            raise DbqError("the network's output is not the result of a fully connected layer", "end the network with a classifier")

    def _put(self, operation: ops.Operation, value: Value) -> str:
        self.operations.append(operation)
        self.values[operation.output] = value
        return operation.output

    def value_of(self, node) -> str:
        """Name of the value that a node has. The moves that lead to it are emitted first."""
        node = self.graph.source(node)
        if node in self.names:
            return self.names[node]
        if self.graph.kinds[node] == "image":
            raise DbqError("the image is read without an input quantizer", "set activation_bits below 32")
        if self.graph.kinds[node] != "move":
            raise DbqError(f"node {node.name}: it has no integer value", "use modules and calls that dbq.networks uses")
        source, index = moved(self.graph, node)
        name = self.value_of(source)
        value, label = self.values[name], self.graph.name(node)
        channels = whole_channels(index, value.shape)
        if channels is not None:
            if torch.equal(channels, torch.arange(value.shape[0])):
                self.names[node] = name
                return name
            found = Value(value.lsb, value.low, value.high, (len(channels), *value.shape[1:]))
            self.names[node] = self._put(ops.SelectChannels(label, (name,), channels), found)
        elif index.ndim == 2 and torch.equal(index[0], torch.arange(index.shape[1])):
            found = Value(value.lsb, value.low, value.high, (index.shape[1],))
            self.names[node] = self._put(ops.Flatten(label, (name,)), found)
        else:
            raise DbqError(f"node {node.name}: it moves values in a way that has no integer operation", "move whole channels, or flatten")
        return self.names[node]

    def _layer(self, node) -> None:
        graph, layer, name = self.graph, self.graph.module(node), node.target
        source = self._layer_input(node)
        users, tail, norm = graph.users(node), node, None
        if any(graph.kinds[user] == "batch_norm" for user in users):
            if len(users) != 1:
                raise DbqError(f"layer {name}: its output is read beside its batch norm", "let only the batch norm read it")
            tail, norm = users[0], graph.module(users[0])
        folded = fold.fold(layer, name, norm, tail.target)
        if isinstance(layer, nn.Conv2d) and (layer.padding_mode != "zeros" or isinstance(layer.padding, str)):
            raise DbqError(f"layer {name}: only zero padding of a given number of pixels has an integer form", "use padding_mode zeros")
        output, lsb, quantizer = self._destination(tail)
        parts = take_apart(layer, name)
        given = self.values[source]
        if lsb is None and output != "logits":
            raise DbqError(f"layer {name}: no quantizer reads its output, so its lsb is undefined", "end the network with a classifier")
        found, lsb = fold.constants(name, parts, folded, given.lsb, given.low, given.high, lsb, self.bits)
        self._check_accumulator(name, found.accumulator_bits)
        low, high = _ends(quantizer)
        if quantizer is not None:
            self._check_sign(output, quantizer, found.low)
            self.slack[output] = fold.FLOAT32_ROUNDING * 4 * quantizer.largest * lsb
        conv = isinstance(layer, nn.Conv2d)
        planes = parts.planes.reshape(len(parts.planes), *layer.weight.shape)
        planes = torch.from_numpy(planes.astype(np.int8 if np.abs(planes).max() < 128 else np.int32))
        constants = [torch.from_numpy(array) for array in (found.multipliers, found.bias, found.shifts)]
        geometry = (layer.stride, layer.padding, layer.dilation, layer.groups) if conv else ((1, 1), (0, 0), (1, 1), 1)
        widths = (found.accumulator_bits, self.settings.accumulator_bits)
        operation = ops.DotProducts(output, (source,), name, parts.coding, planes, *constants, low, high, *geometry, *widths)
        ends = (found.low, found.high) if quantizer is None else (min(high, max(low, end)) for end in (found.low, found.high))
        self._put(operation, Value(lsb, *ends, graph.shape(tail)))
        rounding = lsb / 2 if quantizer is None and output != "logits" else 0.0
        self.slack[name] = fold.Slack(found.slack.weights, found.slack.constant + rounding)
        if output == "logits":
            self.logits = output
        self.names[tail] = output

    def _destination(self, tail) -> tuple[str, float | None, ActivationQuantizer | None]:
        """(name, lsb, quantizer) of a layer's result: on the grid of its only reader, logits, or a stream."""
        users = self.graph.users(tail)
        if len(users) == 1 and self.graph.kinds[users[0]] == "output":
            return "logits", None, None
        quantizer = reading_quantizer(self.graph, users[0]) if len(users) == 1 else None
        if quantizer is None:
            return tail.target, self.lsbs[tail], None
        name = users[0].target if self.graph.kinds[users[0]] == "quantizer" else f"{users[0].target}.input"
        return name, quantizer.step, quantizer

    def _layer_input(self, node) -> str:
        """Name of the activations that a layer reads, on the grid of a quantizer."""
        layer, argument = self.graph.module(node), self.graph.source(node.args[0])
        quantizer = getattr(layer, "input_quantizer", None)
        if quantizer is None:
            if self.graph.kinds[root(self.graph, argument)] != "quantizer":
                raise DbqError(f"layer {node.target}: its inputs are float", "set activation_bits below 32")
            return self.value_of(argument)
        name = f"{node.target}.input"
        if name in self.values:
            return name
        if self.graph.kinds[argument] == "image":
            self._quantize_image(name, quantizer)
        else:
            self._requantize(name, self.value_of(argument), quantizer)
        return name

    def _quantize_image(self, name: str, quantizer) -> None:
        if not quantizer.signed:
            raise DbqError(f"layer {name.removesuffix('.input')}: an unsigned quantizer, and images have negative values", "make it signed")
        low, high = _ends(quantizer)
        shape = self.graph.shape(self.graph.nodes[0])
        operation = ops.Quantize(name, ("image",), quantizer.step, low, high)
        mean, std = self.normalisation
        if mean is not None:
            operation.table = fold.pixel_table(quantizer.step, low, high, mean, std)
        self._put(operation, Value(quantizer.step, low, high, shape))
        self.slack[name] = 0.0  # the same float32 operations

    def _quantizer(self, node) -> None:
        if node.target not in self.values:
            self._requantize(node.target, self.value_of(node.args[0]), self.graph.module(node), relu=True)
        self.names[node] = node.target

    def _requantize(self, name: str, source: str, quantizer, relu: bool = False) -> None:
        """An activation from a stream or from another grid. relu: the quantizer stands for a ReLU."""
        if not relu:
            self._check_sign(name, quantizer, self.values[source].low)
        self._rescale(name, source, quantizer.step, *_ends(quantizer))
        self.slack[name] += fold.FLOAT32_ROUNDING * 4 * quantizer.largest * quantizer.step

    def _rescale(self, name: str, source: str, lsb: float, low, high) -> None:
        given = self.values[source]
        factor = given.lsb / lsb
        largest = max(abs(given.low), abs(given.high))
        # a wide stream leaves fewer bits of int64 to its multiplier; those of a float32 are enough
        bits = min(self.bits, 61 - largest.bit_length())
        if bits < min(self.bits, fixed_point.FLOAT32_BITS):
            raise DbqError(f"{name}: a rescaled value needs more than 62 bits", f"lower engine.fixed_point_bits (now {self.bits})")
        multiplier, shift = (int(array.ravel()[0]) for array in fixed_point.mantissas([[factor]], bits))
        ends = fixed_point.round_shift(torch.tensor([given.low, given.high]) * multiplier, torch.tensor(shift))
        if low is not None:
            ends = ends.clamp(low, high)
        self._put(ops.Rescale(name, (source,), multiplier, shift, low, high), Value(lsb, int(ends[0]), int(ends[1]), given.shape))
        self.slack[name] = largest * abs(factor - multiplier * 2.0**-shift) * lsb + (lsb / 2 if low is None else 0.0)

    def _in_stream(self, node, part, position: int) -> str:
        """The operand `part` of node with the lsb of the node's stream."""
        name, lsb = self.value_of(part), self.lsbs[node]
        if lsb is None:
            raise DbqError(f"node {node.name}: no quantizer reads it, so its lsb is undefined", "end the network with a classifier")
        if self.values[name].lsb == lsb:
            return name
        label = f"{self.graph.name(node)}.{position}"
        self._rescale(label, name, lsb, None, None)
        return label

    def _add(self, node) -> None:
        if any(not hasattr(part, "op") for part in node.args[:2]):
            raise DbqError(f"node {node.name}: the sum with a constant has no integer operation", "add two results of layers")
        if self.graph.shape(node.args[0]) != self.graph.shape(node.args[1]):
            raise DbqError(f"node {node.name}: a sum of different shapes has no integer operation", "add results of the same shape")
        first, second = (self._in_stream(node, part, position) for position, part in enumerate(operands(self.graph, node)))
        a, b = self.values[first], self.values[second]
        value = Value(a.lsb, a.low + b.low, a.high + b.high, self.graph.shape(node))
        self.names[node] = self._put(ops.Add(self.graph.name(node), (first, second)), value)

    def _concatenate(self, node) -> None:
        axis = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
        if axis != 1:
            raise DbqError(f"node {node.name}: concatenation of axis {axis} has no integer operation", "concatenate channels")
        parts = [self._in_stream(node, part, position) for position, part in enumerate(operands(self.graph, node))]
        given = [self.values[part] for part in parts]
        value = Value(given[0].lsb, min(v.low for v in given), max(v.high for v in given), self.graph.shape(node))
        self.names[node] = self._put(ops.Concatenate(self.graph.name(node), tuple(parts)), value)

    def _max_pool(self, node) -> None:
        name, pool = self.value_of(node.args[0]), self.graph.module(node)
        given = self.values[name]
        kernel, stride, padding = (_pair(size) for size in (pool.kernel_size, pool.stride, pool.padding))
        value = Value(given.lsb, given.low, given.high, self.graph.shape(node))
        self.names[node] = self._put(ops.MaxPool(node.target, (name,), kernel, stride, padding), value)

    def _subsample_and_pad(self, node) -> None:
        name, pad = self.value_of(node.args[0]), self.graph.module(node).pad
        given = self.values[name]
        value = Value(given.lsb, min(given.low, 0), max(given.high, 0), self.graph.shape(node))
        self.names[node] = self._put(ops.SubsampleAndPad(node.target, (name,), 2, pad), value)

    def _average(self, node) -> None:
        name = self.value_of(node.args[0])
        given = self.values[name]
        pixels = given.shape[1] * given.shape[2]
        shape = self.graph.shape(node)
        value = Value(given.lsb / pixels, given.low * pixels, given.high * pixels, shape)
        self.names[node] = self._put(ops.GlobalSum(self.graph.name(node), (name,), len(shape) == 3), value)

    # ---- checks ----

    def _check_accumulator(self, layer: str, needed: int) -> None:
        limit = self.settings.accumulator_bits
        if limit is not None and limit < needed:
            problem = f"layer {layer}: engine.accumulator_bits is {limit}, and its worst case needs {needed} bits"
            raise DbqError(problem, f"set engine.accumulator_bits to at least {needed}")

    def _check_sign(self, name: str, quantizer, low: int) -> None:
        """Only a ReLU may cut negative values off, so the quantizer of a layer's own input must be signed where they occur."""
        if low < 0 and not quantizer.signed and name.endswith(".input"):
            problem = f"layer {name.removesuffix('.input')}: its input quantizer is unsigned, and its inputs may be negative"
            raise DbqError(problem, "make the quantizer signed, as dbq.insertion does")


def _ends(quantizer) -> tuple[int | None, int | None]:
    if quantizer is None:
        return None, None
    return (-quantizer.largest if quantizer.signed else 0), quantizer.largest


def _pair(size) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)
