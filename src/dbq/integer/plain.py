"""A Program as JSON-compatible data and arrays, and back: `from_plain` lets no damaged or foreign program pass."""

import json
import math
import types
import typing

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dbq.errors import DbqError
from dbq.integer import program as ops
from dbq.integer.execute import UNSCALED
from dbq.integer.program import Program, Value

KINDS = {kind.__name__: kind for kind in ops.Operation.__subclasses__()}
LARGEST = 1 << 62  # magnitude of an integer
LARGEST_VALUE = 1 << 28  # elements of a value for one image
REMEDY = "write the file again from the trained network"


def to_plain(program: Program) -> tuple[dict, dict[str, np.ndarray]]:
    """(JSON-compatible description, integer arrays by name "INDEX.FIELD"): all that a file needs."""
    arrays, operations = {}, []
    for index, operation in enumerate(program.operations):
        tensors = {name: value for name, value in vars(operation).items() if isinstance(value, Tensor)}
        arrays |= {f"{index}.{name}": tensor.cpu().numpy() for name, tensor in tensors.items()}
        plain = {name: value for name, value in vars(operation).items() if name not in tensors}
        operations.append({"kind": type(operation).__name__, **plain})
    values = {name: vars(value) for name, value in program.values.items()}
    description = {**vars(program), "operations": operations, "values": values}
    return json.loads(json.dumps(description)), arrays  # tuples become lists


def from_plain(description: dict, arrays: dict) -> Program:
    """The inverse of to_plain. Raises DbqError for anything but a program that can be run."""
    given = {}
    for name, array in arrays.items():
        index, _, part = name.partition(".")
        given.setdefault(index, {})[part] = torch.from_numpy(np.array(array))
    try:
        operations = [_operation(index, plain, given.get(str(index), {})) for index, plain in enumerate(description["operations"])]
        values = {name: _made(Value, value, f"value {name}") for name, value in description["values"].items()}
        rest = {name: description[name] for name in ("image_shape", "logits", "fixed_point_bits")}
    except (KeyError, TypeError, AttributeError) as error:
        raise DbqError(f"program: its description is incomplete ({type(error).__name__}: {error})", REMEDY) from None
    program = _made(Program, {"operations": operations, "values": values, **rest}, "program")
    check(program)
    return program


def _operation(index: int, plain: dict, arrays: dict[str, Tensor]) -> ops.Operation:
    kind = KINDS.get(plain["kind"])
    if kind is None:
        raise DbqError(f"operation {index}: unknown kind {plain['kind']!r}", f"one of {', '.join(KINDS)}")
    return _made(kind, {name: value for name, value in plain.items() if name != "kind"} | arrays, f"operation {index} ({plain['kind']})")


def _made(kind, fields: dict, what: str):
    """A dataclass of program.py from plain values; DbqError where one has another type than its annotation says."""
    hints = typing.get_type_hints(kind)
    fields = {name: tuple(value) if isinstance(value, list) and name != "operations" else value for name, value in fields.items()}
    try:
        made = kind(**fields)
    except TypeError as error:
        raise DbqError(f"{what}: {error}", REMEDY) from None
    for name, hint in hints.items():
        value = getattr(made, name)
        if not _fits(value, hint):
            shown = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)[:80]
            raise DbqError(f"{what}: {name} is {shown}", REMEDY)
    return made


def _fits(value, hint) -> bool:
    """Whether a value is what an annotation of program.py says, integers being below LARGEST and numbers finite."""
    parts, origin = typing.get_args(hint), typing.get_origin(hint)
    if origin is types.UnionType:
        return any(_fits(value, part) for part in parts)
    if origin is tuple:
        kinds = [parts[0]] * len(value) if isinstance(value, tuple) and parts[-1] is Ellipsis else parts
        return isinstance(value, tuple) and len(value) == len(kinds) and all(map(_fits, value, kinds))
    if hint is int:
        return type(value) is int and abs(value) < LARGEST
    if hint is float:
        return type(value) in (int, float) and math.isfinite(value)
    if hint is Tensor:
        return isinstance(value, Tensor) and value.dtype in (torch.int8, torch.int16, torch.int32, torch.int64)
    return isinstance(value, origin or hint)


def check(program: Program) -> None:
    """Raise DbqError unless every operation reads values that exist, and gives the shape that the program says."""
    shapes = {"image": program.image_shape}
    for index, operation in enumerate(program.operations):
        what = f"operation {index} ({type(operation).__name__})"
        value = program.values.get(operation.output)
        if value is None or operation.output in shapes or not operation.inputs or not set(operation.inputs) <= set(shapes):
            raise DbqError(f"{what}: it reads or writes a value that doesn't exist, or writes one twice", REMEDY)
        if not value.lsb > 0 or value.low > value.high or math.prod(value.shape) > LARGEST_VALUE:
            raise DbqError(f"{what}: its result has lsb {value.lsb}, range {value.low} to {value.high}, shape {value.shape}", REMEDY)
        if ("image" in operation.inputs) != isinstance(operation, ops.Quantize):
            raise DbqError(f"{what}: the image is read by Quantize, and by nothing else", REMEDY)
        try:
            shape = _result_shape(operation, *(shapes[name] for name in operation.inputs))
        except (ValueError, TypeError, IndexError, RuntimeError):
            shape = None  # constants that don't fit each other or the inputs
        if shape != value.shape or min(shape, default=0) < 1:
            raise DbqError(f"{what}: its constants and its inputs don't give {value.shape}", REMEDY)
        shapes[operation.output] = shape
    if len(shapes.get(program.logits, ())) != 1 or not set(program.values) <= set(shapes):
        raise DbqError("program: its logits or another value is given by no operation", REMEDY)


def _result_shape(operation: ops.Operation, *given: tuple[int, ...]) -> tuple[int, ...]:
    """What torch makes of tensors without values. Raises ValueError, or what torch raises, where constants or inputs don't fit."""
    inputs, first = [torch.empty(1, *shape, device="meta") for shape in given], given[0]
    if isinstance(operation, (ops.Rescale, ops.DotProducts)):
        _fit((operation.low is None) == (operation.high is None), len(given) == 1)
    if isinstance(operation, ops.DotProducts):
        return _dot_products(operation, inputs[0])
    if isinstance(operation, ops.Rescale):
        _fit(abs(operation.shift) < 62, operation.multiplier != 0)
        return first
    if isinstance(operation, ops.Quantize):
        _fit(operation.step > 0, operation.low <= operation.high, len(given) == 1)
        _fit(operation.table is None or operation.table.shape == (first[0], 256))
        return first
    if isinstance(operation, ops.SelectChannels):
        channels = operation.channels
        _fit(channels.dtype == torch.int64, channels.ndim == 1, int(channels.min()) >= 0, int(channels.max()) < first[0], len(given) == 1)
        return (len(channels), *first[1:])
    if isinstance(operation, ops.SubsampleAndPad):
        _fit(operation.stride > 0, operation.pad >= 0)
    if isinstance(operation, ops.MaxPool):
        _fit(min(operation.stride) > 0, min(operation.padding) >= 0)
    _fit(not isinstance(operation, ops.Add) or first == given[-1])
    return tuple(UNSCALED[type(operation)](operation, *inputs).shape[1:])


def _fit(*conditions) -> None:
    if not all(conditions):
        raise ValueError


def _dot_products(operation: ops.DotProducts, x: Tensor) -> tuple[int, ...]:
    planes, groups = operation.planes, operation.groups
    branches, channels, depth = planes.shape[:3]
    constants = (operation.multipliers, operation.bias, operation.shifts)
    _fit([tuple(part.shape) for part in constants] == [(branches, channels), (channels,), (channels,)])
    _fit(all(part.dtype == torch.int64 for part in constants), int(operation.shifts.abs().max()) < 62, operation.accumulator_bits >= 1)
    _fit(planes.numel() > 0, x.ndim == planes.ndim - 1, groups >= 1, channels % groups == 0, x.shape[1] == depth * groups)
    if planes.ndim == 3:
        _fit(groups == 1)
        return (channels,)
    _fit(min(operation.stride) > 0, min(operation.padding) >= 0, min(operation.dilation) > 0)
    weights = torch.empty(planes.shape[1:], device="meta")
    return tuple(functional.conv2d(x, weights, None, operation.stride, operation.padding, operation.dilation, groups).shape[1:])
