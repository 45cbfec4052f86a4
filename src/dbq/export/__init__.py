"""Trained networks as files: packed integers that replay without the training code, and an ONNX graph of the ternary convolutions.

    from dbq.export.packed import pack, pack_row

    packed = pack_row(row, seed, network, data, engine_settings, provenance)   # or pack(network, (3, 32, 32), mean, std)
    export.write("model.safetensors", packed)                                  # or model.onnx
    export.verify("model.safetensors", data)["top1"]                           # as recorded in the file, or a DbqError

packed.py needs the quantizers; reading and verifying a file doesn't import them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dbq.errors import DbqError
from dbq.export import container, verification

if TYPE_CHECKING:
    from dbq.export.packed import Packed

__all__ = ["verify", "write"]
SUFFIXES = (".safetensors", ".onnx")


def write(path, packed: Packed) -> None:
    """Write a packed network; the suffix of the path decides the format. An ONNX file needs the package onnx (the extra `export`)."""
    if _suffix(path) == ".onnx":
        from dbq.export import onnx_file

        onnx_file.write(path, packed)
    else:
        container.write(path, packed.compiled.program, packed.weights, packed.metadata)


def verify(path, data=None, key: str | None = None) -> dict:
    """Run a file on the test images in the prepared folder `data` and compare with the record in the file.

    data: by default data/prepared/PROFILE/DATASET of the record. key: the row that the file has to be of. Returns {images, correct, top1 in
    percent, data_sha256}. Raises DbqError for a file that is damaged, crafted or not an export, for other images than those of the record,
    and for another top1.
    """
    if _suffix(path) == ".onnx":
        from dbq.export import onnx_file

        return onnx_file.verify(path, data, key)
    return verification.verify(path, data, key)


def _suffix(path) -> str:
    suffix = Path(path).suffix
    if suffix not in SUFFIXES:
        raise DbqError(f"{path}: no format is called {suffix or 'that'}", f"end the name with {' or '.join(SUFFIXES)}")
    return suffix
