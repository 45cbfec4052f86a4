"""KEY.safetensors: a Program with packed integers, which runs without the network, its weights or the code that trained them.

    exported = container.read("KEY.safetensors")
    logits = execute.run(exported.program, images)      # uint8 (N, 3, H, W), or normalised floats

Tensors (packing.py says how integers lie in the bytes; `tensors` in the metadata gives the code of each):
- LAYER.planes.J: plane J of a layer's weights: 2 bits a weight (ternary), 1 bit (binary), or fixed-point weights at their width;
- LAYER.scales (G, B) float32: the scales of the planes, G = 1 or the number of filters, as the hard weights have them;
- LAYER.multipliers, LAYER.bias, LAYER.shifts: scale, batch norm and step of the activations as the fixed-point constants of the engine;
- NAME.table, NAME.channels: quantized pixels, and the order of channels.

The first two are the model storage C_M with 32-bit scales, no bias counted, each plane rounded up to whole bytes. Beside them a file
holds the engine's constants and the header. The header is 8 bytes of length, then JSON: for each tensor its place, and under
`__metadata__` the one entry `dbq`, again JSON: format, version, what is said of the network (packed.py), the Program's operations and
values, and the sha256 of all of this and of the tensors. One entry, because safetensors writes several in any order, and equal models must
give equal bytes. The sum finds damage; it isn't a signature, because anyone can write a new file with a right sum.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel
from safetensors import safe_open
from safetensors.numpy import save

from dbq.errors import DbqError
from dbq.export import packing
from dbq.export.packing import REMEDY, Code
from dbq.export.verification import Runnable
from dbq.files import write_atomically
from dbq.integer import execute
from dbq.integer.plain import from_plain, to_plain
from dbq.integer.program import Program

if TYPE_CHECKING:
    from dbq.export.packed import Packed

FORMAT, VERSION = "dbq", 1
ENTRY = "dbq"  # of the safetensors metadata
RANGES = {"ternary": (-1, 0, 1), "binary": (-1, 1)}  # of a plane's entries


class StoredWeights(NamedTuple):
    """What the file holds of a layer's weights beside the Program."""

    bits: int  # of one weight, all planes together
    scales: np.ndarray  # (G, B)


class Exported(NamedTuple):
    program: Program
    scales: dict[str, np.ndarray]  # by layer
    metadata: dict


class _Tensor(BaseModel):
    """How the integers of one tensor lie in its bytes, and which field of the program they are."""

    field: str  # INDEX.NAME, or INDEX.NAME.PLANE
    bits: int
    low: int
    step: int
    shape: list[int]
    dtype: Literal["uint8", "int8", "int16", "int32", "int64"]


def plane_code(plane: np.ndarray, coding: str, bits: int) -> Code:
    """The code of one plane in `bits` bits. Ternary planes in one bit are TTQ's two: one of 0 and 1, one of 0 and -1."""
    if coding == "fixed_point":
        return packing.fixed_point(bits)
    if coding == "binary":
        return packing.BINARY
    return packing.TERNARY if bits == 2 else Code(bits, min(int(plane.min()), 0))


def write(path, packed: Packed) -> None:
    """Write the program, the scales of its layers and the metadata."""
    program = packed.compiled.program
    description, arrays = to_plain(program)
    tensors, codes = {}, {}

    def add(name: str, values: np.ndarray, code: Code, field: str) -> None:
        tensors[name] = packing.pack(values, code)
        codes[name] = {"field": field, **asdict(code), "shape": list(values.shape), "dtype": str(values.dtype)}

    for field, values in arrays.items():
        index, part = field.split(".")
        operation = program.operations[int(index)]
        if part == "planes":
            stored, layer = packed.weights[operation.layer], operation.layer
            for number, plane in enumerate(values):
                code = plane_code(plane, operation.coding, stored.bits // len(values))
                add(f"{layer}.planes.{number}", plane, code, f"{field}.{number}")
            tensors[f"{layer}.scales"] = np.ascontiguousarray(stored.scales, np.float32)
        else:
            add(f"{getattr(operation, 'layer', operation.output)}.{part}", values, packing.narrowest(values), field)
    content = {**packed.metadata, "format": FORMAT, "version": VERSION, "program": description, "tensors": codes}
    content["sha256"] = digest(content, tensors)
    data = save(tensors, metadata={ENTRY: _json(content)})
    write_atomically(path, lambda file: file.write(data))


def _json(value) -> str:
    return json.dumps(value, sort_keys=True, allow_nan=False, separators=(",", ":"))


def digest(content: dict, tensors: dict[str, np.ndarray]) -> str:
    """Hex sha256 of the metadata without its own entry `sha256`, and of names, types, shapes and bytes of the tensors."""
    result = hashlib.sha256(_json({name: value for name, value in content.items() if name != "sha256"}).encode())
    for name in sorted(tensors):
        result.update(f"{name} {tensors[name].dtype} {tensors[name].shape};".encode())
        result.update(tensors[name].tobytes())
    return result.hexdigest()


def load(path) -> tuple[dict, dict[str, np.ndarray]]:
    """Metadata and tensors as they lie in the file, their sum checked. DbqError for a missing, damaged, foreign or newer file."""
    try:
        with safe_open(path, framework="numpy") as file:
            entries, tensors = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it isn't a dict
    except FileNotFoundError:
        raise DbqError(f"{path}: no such file", "name an exported file") from None
    except Exception as error:  # the library has its own type for damage, and others for types that numpy doesn't have
        raise DbqError(f"{path}: damaged, or not a safetensors file ({error})", REMEDY) from None
    if ENTRY not in entries:
        raise DbqError(f"{path}: a safetensors file, and not an exported network of this project", "name one that dbq.export wrote")
    try:
        content = json.loads(entries[ENTRY])
        kind, version, known = content["format"], content["version"], content["sha256"]
        changed = digest(content, tensors) != known
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DbqError(f"{path}: its metadata are damaged ({type(error).__name__})", REMEDY) from None
    if (kind, version) != (FORMAT, VERSION):
        raise DbqError(f"{path}: format {str(kind)[:20]} {str(version)[:20]}, and this is {FORMAT} {VERSION}", REMEDY)
    if changed:
        raise DbqError(f"{path}: its content is not what was exported (sha256 differs)", REMEDY)
    return content, tensors


def read(path) -> Exported:
    """The program of a file. Raises DbqError as `load` does, and for a file with a right sum whose content is no program."""
    content, tensors = load(path)
    try:
        program = from_plain(content["program"], _arrays(content["tensors"], tensors))
        scales = {operation.layer: _checked(operation, tensors) for operation in program.dot_products()}
    except DbqError as error:
        raise DbqError(f"{path}: {error.problem}", REMEDY) from None
    except Exception as error:  # a file that someone made up can be wrong in any way
        raise DbqError(f"{path}: its program is incomplete ({type(error).__name__})", REMEDY) from None
    return Exported(program, scales, {name: value for name, value in content.items() if name not in ("program", "tensors")})


def runnable(path) -> Runnable:
    exported = read(path)
    return Runnable(exported.metadata, lambda images: execute.run(exported.program, images))


def _arrays(codes: dict, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of the program by field, unpacked, the planes of a layer stacked."""
    arrays, planes = {}, {}
    for name, plain in codes.items():
        code = _Tensor.model_validate(plain, strict=True)
        integers = packing.unpack(tensors[name], Code(code.bits, code.low, code.step), tuple(code.shape))
        values = integers.astype(code.dtype)
        if not np.array_equal(values, integers):
            raise DbqError(f"{name}: values that {code.dtype} can't hold", REMEDY)
        index, part, *number = code.field.split(".")
        if number:
            planes.setdefault(f"{index}.{part}", {})[int(number[0])] = values
        else:
            arrays[f"{index}.{part}"] = values
    return arrays | {field: np.stack([parts[number] for number in range(len(parts))]) for field, parts in planes.items()}


def _checked(operation, tensors: dict[str, np.ndarray]) -> np.ndarray:
    """The scales (G, B) of a layer. Raises DbqError unless they fit its planes, and the planes hold what their coding allows."""
    planes, scales = operation.planes.numpy(), tensors[f"{operation.layer}.scales"]
    if operation.coding != "fixed_point" and not np.isin(planes, RANGES[operation.coding]).all():
        raise DbqError(f"layer {operation.layer}: {operation.coding} planes with values from {planes.min()} to {planes.max()}", REMEDY)
    groups = len(scales) if scales.ndim == 2 else 0
    if groups not in (1, planes.shape[1]) or scales.shape != (groups, len(planes)) or not np.isfinite(scales).all():
        raise DbqError(f"layer {operation.layer}: scales {scales.shape} of planes {planes.shape}, or not finite", REMEDY)
    return scales
