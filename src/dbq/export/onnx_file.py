"""KEY.onnx: written with a sum of all its bytes, and verified on the test images in onnxruntime.

The property `content_sha256` in the file's metadata_props is the sha256 of the file with the 64 digits of that property set to 0. The sum
is checked before anything is parsed. It finds damage; it isn't a signature. So a file with a right sum is checked further: it may hold our
operators only, and every weight of a convolution must be an integer of the type that the file states (-1, 0 or 1 in a ternary plane).
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import torch

from dbq.datasets.arrays import Split
from dbq.datasets.loader import Batches
from dbq.errors import DbqError
from dbq.export.onnx_graph import ANNOTATION, build, library
from dbq.export.packed import Packed
from dbq.export.verification import EXPORT_AGAIN, Runnable
from dbq.files import write_atomically

SUM = "content_sha256"
NO_SUM = "0" * 64
MARK = b"\x0a" + bytes([len(SUM)]) + SUM.encode() + b"\x12\x40"  # the property's key and the length of its value, as protobuf has them
TOP1_BOUND = 0.1  # points of top1 between the graph and the integers: its float32 sums may round an activation the other way
DATATYPE = re.compile("(TERNARY|BIPOLAR|INT|UINT)([0-9]{0,2})")
OPERATORS = {
    "Add", "Clip", "Concat", "Conv", "Flatten", "Gather", "GlobalAveragePool", "Identity", "MatMul", "MaxPool", "Mul", "Pad", "Round",
    "Slice",
}  # fmt: skip


def write(path, packed: Packed) -> None:
    """Write the graph of a packed network, with the metadata of its row as properties: text as it is, all else as JSON."""
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in packed.metadata.items()}
    data = build(packed.compiled, {**texts, SUM: NO_SUM}).SerializeToString(deterministic=True)
    start = data.rindex(MARK) + len(MARK)
    data = data[:start] + hashlib.sha256(data).hexdigest().encode() + data[start + len(NO_SUM) :]
    write_atomically(path, lambda file: file.write(data))


def read(path) -> bytes:
    """The bytes of a file whose sum is right. Raises DbqError for a missing, damaged or foreign file."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise DbqError(f"{path}: {error.strerror or error}", "name an exported file") from None
    start = data.rfind(MARK) + len(MARK)
    stored, zeroed = data[start : start + len(NO_SUM)], data[:start] + NO_SUM.encode() + data[start + len(NO_SUM) :]
    if start < len(MARK) or stored != hashlib.sha256(zeroed).hexdigest().encode():
        raise DbqError(f"{path}: damaged, or not exported by this project (its content and {SUM} differ)", EXPORT_AGAIN)
    return data


def runnable(path) -> Runnable:
    """The file in onnxruntime. Raises DbqError without onnx and onnxruntime too."""
    onnx, content = library(), read(path)
    try:
        import onnxruntime
    except ImportError as error:
        raise DbqError(f"{path}: running it needs the package onnxruntime ({error})", "pip install '.[export]'") from None
    try:
        model = onnx.load_model_from_string(content)
        _check(model, onnx.numpy_helper)
        properties = {entry.key: entry.value for entry in model.metadata_props}
        metadata = {**properties, "recorded": json.loads(properties.get("recorded", "null"))}
        mean, std = (np.array(json.loads(properties.get(name, "[]")), float) for name in ("mean", "std"))
        if not (mean.shape == std.shape == (3,) and np.isfinite(mean).all() and (std > 0).all()):
            raise ValueError("mean and std")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 4  # its errors become ours
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # protobuf and onnxruntime raise types of their own for each kind of damage
        raise DbqError(f"{path}: no ONNX graph of this project ({str(error).splitlines()[0][:200]})", EXPORT_AGAIN) from None

    def logits(images: torch.Tensor) -> torch.Tensor:
        split = Split(images, torch.zeros(len(images), dtype=torch.int64))
        normalised, _ = next(Batches(split, len(images), mean.tolist(), std.tolist()).in_order())
        return torch.from_numpy(session.run(None, {"image": normalised.contiguous().numpy()})[0])

    return Runnable(metadata, logits, TOP1_BOUND)


def _check(model, numpy_helper) -> None:
    """Raise ValueError unless the graph has our operators only, and every weight of a dot product is an integer of its stated type."""
    graph = model.graph
    foreign = {node.op_type for node in graph.node if node.domain or node.op_type not in OPERATORS}
    if foreign:
        raise ValueError(f"operator {sorted(foreign)[0]}")
    if any(tensor.external_data for tensor in graph.initializer):
        raise ValueError("tensors in other files")
    constants = {tensor.name: tensor for tensor in graph.initializer}
    entries = ((one.tensor_name, part) for one in graph.quantization_annotation for part in one.quant_parameter_tensor_names)
    types = {name: part.value for name, part in entries if part.key == ANNOTATION}
    for node in graph.node:
        if node.op_type in ("Conv", "MatMul"):
            name = node.input[1]
            if name not in constants or not _holds(numpy_helper.to_array(constants[name]), types.get(name, "")):
                raise ValueError(f"{name} is not {types.get(name, 'of a stated type')}")


def _holds(values: np.ndarray, datatype: str) -> bool:
    """Whether every value is an integer of a type such as TERNARY, BIPOLAR, INT8 or UINT4."""
    if not (match := DATATYPE.fullmatch(datatype)):
        return False
    kind, bits = match[1], int(match[2] or 1)
    low, high = {"INT": (-(1 << (bits - 1)), (1 << (bits - 1)) - 1), "UINT": (0, (1 << bits) - 1)}.get(kind, (-1, 1))
    return bool(((values >= low) & (values <= high) & (values == np.rint(values))).all() and (kind != "BIPOLAR" or (values != 0).all()))
