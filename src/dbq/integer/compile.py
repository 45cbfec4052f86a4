"""From a quantized network in evaluation mode to a Program of integer operations.

    program = compile_network(network, (3, 32, 32)).program

A layer and its batch norm become one DotProducts. If a single quantizer reads the result, its step and its saturation are part of the same
operation. Otherwise the result is a stream.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from dbq.errors import DbqError
from dbq.insertion.activations import ActivationQuantizer
from dbq.integer import fixed_point, fold
from dbq.integer import program as ops
from dbq.integer.graph import USE_KNOWN, Graph, moved, operands, reading_quantizer, root, stream_lsbs, trace, whole_channels
from dbq.integer.planes import take_apart
from dbq.integer.program import Program, Value

LOGITS = "logits"  # name of the last value


@dataclass(frozen=True)
class Widths:
    """fixed_point_bits: width of the multipliers' magnitudes; 24 is as fine as float32, and `smallest_width` finds what a network needs.
    accumulator_bits: width of every accumulator, which no input may overflow; None: each layer has the width of its own worst case.

    Raises DbqError for a width out of range.
    """

    fixed_point_bits: int = 16
    accumulator_bits: int | None = None

    def __post_init__(self):
        for name, high in (("fixed_point_bits", 32), ("accumulator_bits", 64)):
            bits = getattr(self, name)
            if (name, bits) != ("accumulator_bits", None) and (type(bits) is not int or not 2 <= bits <= high):
                problem = f"engine.{name}: {bits!r} is not a whole number from 2 to {high}"
                raise DbqError(problem, "16 bits of a multiplier and 32 of an accumulator suit most networks")


@dataclass(frozen=True)
class Compiled:
    """slack: how far a result of the program can be from that of the training graph on the same inputs, as a real number. It is a Slack for
    each layer, and a number for each Rescale and each activation; the rounding to the activation's own grid is not part of it.
    """

    program: Program
    graph: Graph
    slack: dict[str, fold.Slack | float]


@torch.inference_mode(False)
@torch.no_grad()
def compile_network(network: nn.Module, image_shape: tuple[int, int, int], settings: Widths | None = None, mean=None, std=None) -> Compiled:
    """The integer form of a quantized network for images (3, H, W). mean, std: of [0, 1] pixels; with them uint8 images can be run too.

    Raises DbqError that names the layer for anything without an integer form, an accumulator that is too narrow, and numbers that don't
    fit 62 bits.
    """
    settings = settings or Widths()
    program = Program([], {}, tuple(image_shape), LOGITS, settings.fixed_point_bits)
    compiler = _Compiler(trace(network, program.image_shape), program, settings, (mean, std))
    for node in compiler.graph.nodes:
        compiler.emit(node)
    return Compiled(program, compiler.graph, compiler.slack)


class _Compiler:
    """Emits the operations of one network, node by node."""

    def __init__(self, graph: Graph, program: Program, settings: Widths, normalisation):
        self.graph, self.program, self.settings, self.normalisation = graph, program, settings, normalisation
        self.bits, self.values = settings.fixed_point_bits, program.values
        self.slack: dict[str, fold.Slack | float] = {}
        self.names: dict = {}  # node -> name of its value
        self.lsbs = stream_lsbs(graph, self.bits)

    def emit(self, node) -> None:
        kind = self.graph.kinds[node]
        if kind == "batch_norm" and self.graph.kinds[self.graph.source(node.args[0])] != "layer":
            problem = f"layer {node.target}: a batch norm that isn't right behind a convolution or a fully connected layer"
            raise DbqError(f"{problem} has no integer form", "put it right behind the layer that it normalises")
        if kind in ("layer", "quantizer", "add", "concatenate", "max_pool", "subsample_and_pad", "average"):
            getattr(self, f"_{kind}")(node)
        elif kind == "output" and LOGITS not in self.values:
            raise DbqError("the network's output is not the result of a fully connected layer", "end the network with a classifier")

    def _put(self, operation: ops.Operation, value: Value, node=None) -> None:
        """Add an operation; its result is the value of this node."""
        self.program.operations.append(operation)
        self.values[operation.output] = value
        if node is not None:
            self.names[node] = operation.output

    def value_of(self, node) -> str:
        """Name of the value that a node has. The moves that lead to it are emitted first."""
        node = self.graph.source(node)
        if node not in self.names:
            if self.graph.kinds[node] == "image":
                raise DbqError("the image is read without an input quantizer", "set activation_bits below 32")
            if self.graph.kinds[node] != "move":
                raise DbqError(f"node {node.name}: it has no integer value", USE_KNOWN)
            self._move(node)
        return self.names[node]

    def _move(self, node) -> None:
        source, index = moved(self.graph, node)
        name, label = self.value_of(source), self.graph.name(node)
        value = self.values[name]
        channels = whole_channels(index, value.shape)
        if channels is not None and torch.equal(channels, torch.arange(value.shape[0])):
            self.names[node] = name
        elif channels is not None:
            self._put(ops.SelectChannels(label, (name,), channels), replace(value, shape=(len(channels), *value.shape[1:])), node)
        elif index.ndim == 2 and torch.equal(index[0], torch.arange(index.shape[1])):
            self._put(ops.Flatten(label, (name,)), replace(value, shape=(index.shape[1],)), node)
        else:
            raise DbqError(f"node {node.name}: it moves values in a way that has no integer operation", "move whole channels, or flatten")

    def _layer(self, node) -> None:
        graph, layer, name = self.graph, self.graph.module(node), node.target
        source = self._layer_input(node)
        users, tail, norm = graph.users(node), node, None
        if any(graph.kinds[user] == "batch_norm" for user in users):
            if len(users) != 1:
                raise DbqError(f"layer {name}: its output is read beside its batch norm", "let only the batch norm read it")
            tail, norm = users[0], graph.module(users[0])
        folded = fold.fold(layer, name, norm, tail.target)
        conv = isinstance(layer, nn.Conv2d)
        if conv and (layer.padding_mode != "zeros" or isinstance(layer.padding, str)):
            raise DbqError(f"layer {name}: only zero padding of a given number of pixels has an integer form", "use padding_mode zeros")
        output, lsb, quantizer = self._destination(tail)
        if lsb is None and output != LOGITS:
            raise DbqError(f"layer {name}: no quantizer reads its output, so its lsb is undefined", "end the network with a classifier")
        parts, given, limit = take_apart(layer, name), self.values[source], self.settings.accumulator_bits
        found = fold.constants(name, parts, folded, given, lsb, self.bits)
        if limit is not None and limit < found.accumulator_bits:
            problem = f"layer {name}: engine.accumulator_bits is {limit}, and its worst case needs {found.accumulator_bits} bits"
            raise DbqError(problem, f"set engine.accumulator_bits to at least {found.accumulator_bits}")
        low, high, ends = None, None, (found.low, found.high)
        rounding = found.lsb / 2 if quantizer is None and output != LOGITS else 0.0
        if quantizer is not None:
            self._check_sign(output, quantizer, found.low)
            low, high = quantizer.smallest, quantizer.largest
            ends = (min(high, max(low, end)) for end in ends)
            self.slack[output] = fold.FLOAT32_ROUNDING * 4 * high * found.lsb
        planes = parts.planes.reshape(len(parts.planes), *layer.weight.shape)
        planes = torch.from_numpy(planes.astype(np.int8 if np.abs(planes).max() < 128 else np.int32))
        constants = [torch.from_numpy(array) for array in (found.multipliers, found.bias, found.shifts)]
        geometry = (layer.stride, layer.padding, layer.dilation, layer.groups) if conv else ((1, 1), (0, 0), (1, 1), 1)
        operation = ops.DotProducts(
            output, (source,), name, parts.coding, planes, *constants, low, high, *geometry, found.accumulator_bits, limit
        )
        self._put(operation, Value(found.lsb, *ends, graph.shape(tail)), tail)
        self.slack[name] = fold.Slack(found.slack.weights, found.slack.constant + rounding)

    def _destination(self, tail) -> tuple[str, float | None, ActivationQuantizer | None]:
        """(name, lsb, quantizer) of a layer's result: on the grid of its only reader, logits, or a stream."""
        users = self.graph.users(tail)
        if len(users) == 1 and self.graph.kinds[users[0]] == "output":
            return LOGITS, None, None
        quantizer = reading_quantizer(self.graph, users[0]) if len(users) == 1 else None
        if quantizer is None:
            return tail.target, self.lsbs[tail], None
        name = users[0].target if self.graph.kinds[users[0]] == "quantizer" else f"{users[0].target}.input"
        return name, quantizer.step, quantizer

    def _layer_input(self, node) -> str:
        """Name of the activations that a layer reads, on the grid of a quantizer."""
        argument, quantizer = self.graph.source(node.args[0]), reading_quantizer(self.graph, node)
        if quantizer is None:
            if self.graph.kinds[root(self.graph, argument)] != "quantizer":
                raise DbqError(f"layer {node.target}: its inputs are float", "set activation_bits below 32")
            return self.value_of(argument)
        name = f"{node.target}.input"
        if name in self.values:
            return name
        if self.graph.kinds[argument] == "image":
            if not quantizer.signed:
                raise DbqError(f"layer {node.target}: an unsigned quantizer, and images have negative values", "make it signed")
            grid, (mean, std) = (quantizer.step, quantizer.smallest, quantizer.largest), self.normalisation
            table = None if mean is None else fold.pixel_table(*grid, mean, std)
            self._put(ops.Quantize(name, ("image",), *grid, table), Value(*grid, self.graph.shape(argument)))
            self.slack[name] = 0.0  # the same float32 operations
        else:
            self._check_sign(name, quantizer, self.values[self.value_of(argument)].low)
            self._rescale(name, self.value_of(argument), quantizer.step, quantizer)
        return name

    def _quantizer(self, node) -> None:
        if node.target not in self.values:
            quantizer = self.graph.module(node)
            self._rescale(node.target, self.value_of(node.args[0]), quantizer.step, quantizer)
        self.names[node] = node.target

    def _rescale(self, name: str, source: str, lsb: float, quantizer: ActivationQuantizer | None = None) -> None:
        """A value with another lsb, on the grid of a quantizer or in a stream."""
        given = self.values[source]
        factor = given.lsb / lsb
        # a wide stream leaves fewer bits of int64 to its multiplier; those of a float32 are enough
        bits = min(self.bits, 61 - given.largest.bit_length())
        if bits < min(self.bits, fixed_point.FLOAT32_BITS):
            raise DbqError(f"{name}: a rescaled value needs more than 62 bits", f"lower engine.fixed_point_bits (now {self.bits})")
        multiplier, shift = (int(array.item()) for array in fixed_point.mantissas([[factor]], bits))
        ends = fixed_point.round_shift(torch.tensor([given.low, given.high]) * multiplier, torch.tensor(shift))
        low, high, rounding = None, None, lsb / 2
        if quantizer is not None:
            low, high, rounding = quantizer.smallest, quantizer.largest, fold.FLOAT32_ROUNDING * 4 * quantizer.largest * lsb
            ends = ends.clamp(low, high)
        self._put(ops.Rescale(name, (source,), multiplier, shift, low, high), Value(lsb, *ends.tolist(), given.shape))
        self.slack[name] = given.largest * abs(factor - multiplier * 2.0**-shift) * lsb + rounding

    def _in_stream(self, node) -> tuple[list[str], list[Value]]:
        """The operands of a node, with the lsb of the node's stream."""
        lsb, names = self.lsbs[node], []
        for position, part in enumerate(operands(self.graph, node)):
            name = self.value_of(part)
            if lsb is None:
                raise DbqError(f"node {node.name}: no quantizer reads it, so its lsb is undefined", "end the network with a classifier")
            if self.values[name].lsb != lsb:
                source, name = name, f"{self.graph.name(node)}.{position}"
                self._rescale(name, source, lsb)
            names.append(name)
        return names, [self.values[name] for name in names]

    def _add(self, node) -> None:
        if any(not hasattr(part, "op") for part in node.args[:2]):
            raise DbqError(f"node {node.name}: the sum with a constant has no integer operation", "add two results of layers")
        if self.graph.shape(node.args[0]) != self.graph.shape(node.args[1]):
            raise DbqError(f"node {node.name}: a sum of different shapes has no integer operation", "add results of the same shape")
        names, (a, b) = self._in_stream(node)
        self._put(ops.Add(self.graph.name(node), tuple(names)), replace(a, low=a.low + b.low, high=a.high + b.high), node)

    def _concatenate(self, node) -> None:
        axis = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
        if axis != 1:
            raise DbqError(f"node {node.name}: concatenation of axis {axis} has no integer operation", "concatenate channels")
        names, given = self._in_stream(node)
        value = Value(given[0].lsb, min(one.low for one in given), max(one.high for one in given), self.graph.shape(node))
        self._put(ops.Concatenate(self.graph.name(node), tuple(names)), value, node)

    def _max_pool(self, node) -> None:
        name, pool = self.value_of(node.args[0]), self.graph.module(node)
        geometry = ((size, size) if isinstance(size, int) else tuple(size) for size in (pool.kernel_size, pool.stride, pool.padding))
        self._put(ops.MaxPool(node.target, (name,), *geometry), replace(self.values[name], shape=self.graph.shape(node)), node)

    def _subsample_and_pad(self, node) -> None:
        name, pad = self.value_of(node.args[0]), self.graph.module(node).pad
        given = self.values[name]
        value = Value(given.lsb, min(given.low, 0), max(given.high, 0), self.graph.shape(node))
        self._put(ops.SubsampleAndPad(node.target, (name,), 2, pad), value, node)

    def _average(self, node) -> None:
        name, shape = self.value_of(node.args[0]), self.graph.shape(node)
        given = self.values[name]
        pixels = given.shape[1] * given.shape[2]
        value = Value(given.lsb / pixels, given.low * pixels, given.high * pixels, shape)
        self._put(ops.GlobalSum(self.graph.name(node), (name,), len(shape) == 3), value, node)

    @staticmethod
    def _check_sign(name: str, quantizer, low: int) -> None:
        """Only a ReLU may cut negative values off, so the quantizer of a layer's own input must be signed where they occur."""
        if low < 0 and not quantizer.signed and name.endswith(".input"):
            problem = f"layer {name.removesuffix('.input')}: its input quantizer is unsigned, and its inputs may be negative"
            raise DbqError(problem, "make the quantizer signed, as dbq.insertion does")
