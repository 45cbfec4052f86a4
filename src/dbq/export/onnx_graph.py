"""KEY.onnx: the quantized network as standard ONNX operators that onnxruntime runs, every layer as B convolutions with ternary planes.

    image --Mul 1/step, Round, Clip--> integers --Conv plane_1--> Mul scale_1 --+
                                               \\-Conv plane_2--> Mul scale_2 --Add--> Mul gain --> Add offset --> real values

Convolutions read integers and sum integers; the scale of each plane is (1 or C), `gain` is step * gamma / sqrt(variance + epsilon) and
`offset` the rest of the folded batch norm. Activations are quantized by the operations of the training graph. All tensors are float32
containers, as QONNX has them; which integers they hold stands in `quantization_annotation` under the key `finn_datatype` (TERNARY, BIPOLAR,
INTn, UINTn, and the accumulators' INTn), which qonnx reads and onnxruntime ignores. The classes are those of the training graph, but for
images on which float32 sums in another order round an activation the other way; the exact integers are those of KEY.safetensors.
"""

import importlib
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.modules.utils import _pair

from dbq.errors import DbqError
from dbq.insertion.activations import ActivationQuantizer
from dbq.integer import fold
from dbq.integer.graph import moved, operands
from dbq.integer.planes import quantizer_of, take_apart

OPSET, IR_VERSION = 17, 8  # of 2022: every onnxruntime since 1.12 runs it
ANNOTATION = "finn_datatype"


def library():
    """The package onnx. Raises DbqError where it isn't installed."""
    try:
        return importlib.import_module("onnx")
    except ImportError as error:
        raise DbqError(f"the ONNX file needs the package onnx ({error})", "pip install '.[export]', or write a .safetensors file") from None


def build(compiled, properties: dict[str, str] | None = None):
    """onnx.ModelProto of a compiled network: `image` (N, 3, H, W) normalised float32 -> `logits` (N, classes) float32."""
    onnx = library()
    writer = _Writer(compiled, onnx)
    for node in compiled.graph.nodes:
        writer.emit(node)
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    shape = compiled.program.image_shape
    classes = compiled.program.values[compiled.program.logits].shape[0]
    graph = helper.make_graph(
        writer.nodes, "dbq",
        [helper.make_tensor_value_info("image", kind, ["N", *shape])],
        [helper.make_tensor_value_info("logits", kind, ["N", classes])],
        writer.constants,
    )  # fmt: skip
    for name, datatype in writer.datatypes.items():
        entry = graph.quantization_annotation.add(tensor_name=name)
        entry.quant_parameter_tensor_names.add(key=ANNOTATION, value=datatype)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="dbq", ir_version=IR_VERSION)
    helper.set_model_props(model, properties or {})
    onnx.checker.check_model(model)
    return model


class _Value(NamedTuple):
    """A tensor of the graph; real value = tensor * lsb (None: it is the real value). datatype: of the integers."""

    name: str
    lsb: float | None = None
    datatype: str | None = None


class _Writer:
    """Emits ONNX nodes for the nodes of the traced network, in order."""

    def __init__(self, compiled, onnx):
        self.graph, self.onnx = compiled.graph, onnx
        self.layers = {operation.layer: operation for operation in compiled.program.dot_products()}
        self.nodes, self.constants, self.datatypes = [], [], {}
        self.values: dict = {}  # fx node -> _Value
        self.reals: dict[str, str] = {}  # tensor of integers -> tensor of real values

    def emit(self, node) -> None:
        kind = self.graph.kinds[node]
        if kind not in ("size", "alias", "move"):
            self._put(node, getattr(self, f"_{kind}")(node))

    # ---- building blocks ----

    def _add_node(self, operator: str, inputs: list[str], output: str, **attributes) -> str:
        self.nodes.append(self.onnx.helper.make_node(operator, inputs, [output], name=f"{output}:{operator}", **attributes))
        return output

    def _constant(self, name: str, values, datatype: str | None = None, kind=np.float32) -> str:
        self.constants.append(self.onnx.numpy_helper.from_array(np.ascontiguousarray(values, kind), name))
        if datatype:
            self.datatypes[name] = datatype
        return name

    def _put(self, node, value: _Value) -> None:
        self.values[node] = value
        if value.datatype:
            self.datatypes[value.name] = value.datatype

    def _value(self, node) -> _Value:
        """The value of an emitted node, with the moves before it written down."""
        node = self.graph.source(node)
        if node not in self.values:
            self._put(node, self._move(node))
        return self.values[node]

    def _real(self, node) -> str:
        """The tensor of real values of a node."""
        value = self._value(node)
        if value.lsb is None:
            return value.name
        if value.name not in self.reals:
            step = self._constant(f"{value.name}.step", value.lsb)
            self.reals[value.name] = self._add_node("Mul", [value.name, step], f"{value.name}.real")
        return self.reals[value.name]

    def _move(self, node) -> _Value:
        source, index = moved(self.graph, node)
        value, name, shape = self._value(source), self.graph.name(node), self.graph.shape(source)
        if index.ndim == 2 and len(shape) == 3:
            self._add_node("Flatten", [value.name], name, axis=1)
        else:  # whole channels: compile_network has refused anything else
            channels = index.flatten(2)[0, :, 0] // (shape[1] * shape[2]) if len(shape) == 3 else index[0]
            if torch.equal(channels, torch.arange(shape[0])):
                return value
            self._add_node("Gather", [value.name, self._constant(f"{name}.channels", channels, kind=np.int64)], name, axis=1)
        return value._replace(name=name)

    def _quantized(self, name: str, source: str, quantizer: ActivationQuantizer) -> _Value:
        low = -quantizer.largest if quantizer.signed else 0
        ends = [self._constant(f"{name}.{end}", value) for end, value in (("low", low), ("high", quantizer.largest))]
        scaled = self._add_node("Mul", [source, self._constant(f"{name}.inverse", 1 / quantizer.step)], f"{name}.scaled")
        rounded = self._add_node("Round", [scaled], f"{name}.rounded")
        self._add_node("Clip", [rounded, *ends], name)
        self.datatypes[name] = f"{'INT' if quantizer.signed else 'UINT'}{quantizer.bits}"
        return _Value(name, quantizer.step, self.datatypes[name])

    # ---- kinds of nodes ----

    def _image(self, node) -> _Value:
        return _Value("image")

    def _output(self, node) -> _Value:
        return _Value(self._add_node("Identity", [self._real(node.args[0])], "logits"))

    def _quantizer(self, node) -> _Value:
        return self._quantized(f"{node.target}.integers", self._real(node.args[0]), self.graph.module(node))

    def _batch_norm(self, node) -> _Value:
        """It is part of the layer before it."""
        return self._value(node.args[0])

    def _layer(self, node) -> _Value:
        layer, name = self.graph.module(node), node.target
        quantizer = getattr(layer, "input_quantizer", None)
        given = self._value(node.args[0]) if quantizer is None else self._quantized(f"{name}.input", self._real(node.args[0]), quantizer)
        users = self.graph.users(node)
        tail = users[0] if users and self.graph.kinds[users[0]] == "batch_norm" else None
        folded = fold.fold(layer, name, None if tail is None else self.graph.module(tail), "" if tail is None else tail.target)
        parts, operation = take_apart(layer, name), self.layers[name]
        total, *rest = (self._branch(operation, parts, number, given, quantizer_of(layer)) for number in range(len(parts.planes)))
        for number, part in enumerate(rest, 1):
            total = self._add_node("Add", [total, part], f"{name}.sum{number}")
        column = (-1, *[1] * (operation.planes.ndim - 3))
        gain = self._constant(f"{name}.gain", (folded.gain * given.lsb).reshape(column))
        offset = self._constant(f"{name}.offset", folded.offset.reshape(column))
        total = self._add_node("Mul", [total, gain], f"{name}.gained")
        return _Value(self._add_node("Add", [total, offset], name))

    def _branch(self, operation, parts, number: int, given: _Value, quantizer) -> str:
        """One plane's sums times its scale."""
        name = f"{operation.layer}.branch{number + 1}"
        datatype = {"ternary": "TERNARY", "binary": "BIPOLAR"}.get(parts.coding, f"INT{quantizer.storage_bits}")
        plane, sums = operation.planes[number].numpy(), f"{name}.dot"
        if plane.ndim == 4:
            weights = self._constant(f"{name}.plane", plane, datatype)
            self._add_node(
                "Conv", [given.name, weights], sums, kernel_shape=list(plane.shape[2:]), strides=list(operation.stride),
                pads=list(operation.padding) * 2, dilations=list(operation.dilation), group=operation.groups,
            )  # fmt: skip
        else:
            self._add_node("MatMul", [given.name, self._constant(f"{name}.plane", plane.T, datatype)], sums)
        self.datatypes[sums] = f"INT{operation.accumulator_bits}"
        scales = parts.scales[number]
        shared = parts.stored_scales == len(parts.planes)
        shape = (-1, *[1] * (plane.ndim - 2))
        scale = self._constant(f"{name}.scale", scales[0] if shared else scales.reshape(shape))
        return self._add_node("Mul", [sums, scale], f"{name}.scaled")

    def _add(self, node) -> _Value:
        return _Value(self._add_node("Add", self._reals(node), self.graph.name(node)))

    def _concatenate(self, node) -> _Value:
        return _Value(self._add_node("Concat", self._reals(node), self.graph.name(node), axis=1))

    def _reals(self, node) -> list[str]:
        return [self._real(part) for part in operands(self.graph, node)]

    def _max_pool(self, node) -> _Value:
        value, pool = self._value(node.args[0]), self.graph.module(node)
        kernel, stride, padding = (list(_pair(size)) for size in (pool.kernel_size, pool.stride, pool.padding))
        self._add_node("MaxPool", [value.name], node.target, kernel_shape=kernel, strides=stride, pads=padding * 2)
        return value._replace(name=node.target)

    def _subsample_and_pad(self, node) -> _Value:
        value, name, pad = self._value(node.args[0]), node.target, self.graph.module(node).pad
        ends = {"starts": [0, 0], "ends": [np.iinfo(np.int32).max] * 2, "axes": [2, 3], "steps": [2, 2], "pads": [0, pad, 0, 0] * 2}
        *slices, pads = (self._constant(f"{name}.{part}", numbers, kind=np.int64) for part, numbers in ends.items())
        rows = self._add_node("Slice", [value.name, *slices], f"{name}.pixels")
        return value._replace(name=self._add_node("Pad", [rows, pads], name))

    def _average(self, node) -> _Value:
        name, keep = self.graph.name(node), len(self.graph.shape(node)) == 3
        pooled = self._add_node("GlobalAveragePool", [self._real(node.args[0])], name if keep else f"{name}.pooled")
        return _Value(pooled if keep else self._add_node("Flatten", [pooled], name, axis=1))
