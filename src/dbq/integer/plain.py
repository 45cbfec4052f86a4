"""A Program as JSON-compatible data and arrays, and back: `from_plain` lets no damaged or foreign program pass."""

import dataclasses
import math
import types
import typing

import numpy as np
import torch
from torch import Tensor

from dbq.errors import DbqError
from dbq.integer import program as ops
from dbq.integer.program import Program, Value

KINDS = {kind.__name__: kind for kind in ops.Operation.__subclasses__()}
LARGEST = 1 << 62  # magnitude of an integer
LARGEST_VALUE = 1 << 28  # elements of a value for one image
REMEDY = "write the file again from the trained network"


def to_plain(program: Program) -> tuple[dict, dict[str, np.ndarray]]:
    """(JSON-compatible description, integer arrays by name "INDEX.FIELD"): all that a file needs."""
    arrays, operations = {}, []
    for index, operation in enumerate(program.operations):
        plain = {"kind": type(operation).__name__}
        for part in dataclasses.fields(operation):
            value = getattr(operation, part.name)
            if isinstance(value, Tensor):
                arrays[f"{index}.{part.name}"] = value.cpu().numpy()
            else:
                plain[part.name] = list(value) if isinstance(value, tuple) else value
        operations.append(plain)
    values = {name: {**dataclasses.asdict(value), "shape": list(value.shape)} for name, value in program.values.items()}
    description = {
        "operations": operations, "values": values, "image_shape": list(program.image_shape), "logits": program.logits,
        "fixed_point_bits": program.fixed_point_bits,
    }  # fmt: skip
    return description, arrays


def from_plain(description: dict, arrays: dict) -> Program:
    """The inverse of to_plain. Raises DbqError for anything but a program that can be run."""
    given = {}
    for name, array in arrays.items():
        index, _, part = name.partition(".")
        given.setdefault(index, {})[part] = torch.from_numpy(np.array(array))
    try:
        operations = [_operation(index, plain, given.get(str(index), {})) for index, plain in enumerate(description["operations"])]
        values = {name: _made(Value, value, f"value {name}") for name, value in description["values"].items()}
        rest = {name: _plain_value(description[name]) for name in ("image_shape", "logits", "fixed_point_bits")}
    except (KeyError, TypeError, AttributeError) as error:
        raise DbqError(f"program: its description is incomplete ({type(error).__name__}: {error})", REMEDY) from None
    program = Program(operations, values, **rest)
    _check_types(program, "program", skip=("operations", "values"))
    check(program)
    return program


def _operation(index: int, plain: dict, arrays: dict[str, Tensor]) -> ops.Operation:
    kind = KINDS.get(plain["kind"])
    if kind is None:
        raise DbqError(f"operation {index}: unknown kind {plain['kind']!r}", f"one of {', '.join(KINDS)}")
    return _made(kind, {name: value for name, value in plain.items() if name != "kind"} | arrays, f"operation {index} ({plain['kind']})")


def _made(kind, fields: dict, what: str):
    try:
        made = kind(**{name: _plain_value(value) for name, value in fields.items()})
    except TypeError as error:
        raise DbqError(f"{what}: {error}", REMEDY) from None
    _check_types(made, what)
    return made


def _plain_value(value):
    return tuple(value) if isinstance(value, list) else value


def _check_types(made, what: str, skip=()) -> None:
    for name, hint in typing.get_type_hints(type(made)).items():
        value = getattr(made, name)
        if name not in skip and not _fits(value, hint):
            shown = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)[:80]
            raise DbqError(f"{what}: {name} is {shown}", REMEDY)


def _fits(value, hint) -> bool:
    """Whether a value is what an annotation of program.py says, integers being below LARGEST and numbers finite."""
    parts = typing.get_args(hint)
    if isinstance(hint, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if typing.get_origin(hint) is tuple:
        kinds = [parts[0]] * len(value) if isinstance(value, tuple) and parts[-1] is Ellipsis else parts
        return isinstance(value, tuple) and len(value) == len(kinds) and all(map(_fits, value, kinds))
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < LARGEST
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if hint is Tensor:
        return isinstance(value, Tensor) and value.dtype in (torch.int8, torch.int16, torch.int32, torch.int64)
    return isinstance(value, hint)


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
            shape = _SHAPES[type(operation)](operation, *(shapes[name] for name in operation.inputs))
        except (ValueError, TypeError, IndexError, RuntimeError):
            shape = None  # constants that don't fit each other or the inputs
        if shape != value.shape or min(shape, default=0) < 1:
            raise DbqError(f"{what}: its constants and its inputs don't give {value.shape}", REMEDY)
        shapes[operation.output] = shape
    if len(shapes.get(program.logits, ())) != 1 or not set(program.values) <= set(shapes):
        raise DbqError("program: its logits or another value is given by no operation", REMEDY)


def _fit(*conditions) -> None:
    if not all(conditions):
        raise ValueError


def _quantize(operation: ops.Quantize, image):
    table = operation.table
    _fit(operation.step > 0, operation.low <= operation.high, table is None or table.shape == (image[0], 256))
    return image


def _window(size: int, kernel: int, stride: int, padding: int, dilation: int = 1) -> int:
    _fit(stride > 0, padding >= 0, dilation > 0, kernel > 0)
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def _dot_products(operation: ops.DotProducts, given):
    planes, groups = operation.planes, operation.groups
    branches, channels, depth = planes.shape[:3]
    _fit(operation.multipliers.shape == (branches, channels), operation.bias.shape == (channels,), operation.shifts.shape == (channels,))
    constants = (operation.multipliers, operation.bias, operation.shifts)
    _fit(all(part.dtype == torch.int64 for part in constants), int(operation.shifts.abs().max()) < 62, operation.accumulator_bits >= 1)
    _fit((operation.low is None) == (operation.high is None), groups >= 1, channels % groups == 0, given[0] == depth * groups)
    if planes.ndim == 3:
        _fit(len(given) == 1, groups == 1)
        return (channels,)
    sizes = zip(given[1:], planes.shape[3:], operation.stride, operation.padding, operation.dilation, strict=True)
    return (channels, *(_window(*size) for size in sizes))


def _rescale(operation: ops.Rescale, given):
    _fit(abs(operation.shift) < 62, operation.multiplier != 0, (operation.low is None) == (operation.high is None))
    return given


def _add(operation, first, second):
    _fit(first == second)
    return first


def _concatenate(operation, *given):
    _fit(all(shape[1:] == given[0][1:] for shape in given))
    return (sum(shape[0] for shape in given), *given[0][1:])


def _select_channels(operation: ops.SelectChannels, given):
    channels = operation.channels
    _fit(channels.dtype == torch.int64, channels.ndim == 1, int(channels.min()) >= 0, int(channels.max()) < given[0])
    return (len(channels), *given[1:])


def _subsample_and_pad(operation: ops.SubsampleAndPad, given):
    channels, height, width = given
    _fit(operation.stride > 0, operation.pad >= 0)
    return (channels + 2 * operation.pad, -(-height // operation.stride), -(-width // operation.stride))


def _max_pool(operation: ops.MaxPool, given):
    channels, *sizes = given
    _fit(all(2 * padding <= kernel for padding, kernel in zip(operation.padding, operation.kernel, strict=True)))
    return (channels, *map(_window, sizes, operation.kernel, operation.stride, operation.padding))


def _global_sum(operation: ops.GlobalSum, given):
    channels, _, _ = given
    return (channels, 1, 1) if operation.keep else (channels,)


_SHAPES = {
    ops.Quantize: _quantize, ops.DotProducts: _dot_products, ops.Rescale: _rescale, ops.Add: _add, ops.Concatenate: _concatenate,
    ops.SelectChannels: _select_channels, ops.SubsampleAndPad: _subsample_and_pad, ops.MaxPool: _max_pool, ops.GlobalSum: _global_sum,
    ops.Flatten: lambda operation, given: (math.prod(given),),
}  # fmt: skip
