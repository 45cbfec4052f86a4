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


def write(path, packed: Packed) -> None:
    """Write a packed network; the suffix of the path decides the format. An ONNX file needs the package onnx (the extra `export`)."""
    _format(path).write(path, packed)


def verify(path, data=None, key: str | None = None) -> dict:
    """Run a file on the test images in the prepared folder `data` and compare with the record in the file.

    data: by default data/prepared/PROFILE/DATASET of the record. key: the row that the file has to be of. Returns {images, correct, top1 in
    percent, data_sha256}. Raises DbqError for a file that is damaged, crafted or not an export, for other images than those of the record,
    and for another top1.
    """
    return verification.verify(path, _format(path).runnable(path), data, key)


def _format(path):
    """The module that writes and reads files of this suffix."""
    suffix = Path(path).suffix
    if suffix == ".onnx":
        from dbq.export import onnx_file

        return onnx_file
    if suffix != ".safetensors":
        raise DbqError(f"{path}: no format is called {suffix or 'that'}", "end the name with .safetensors or .onnx")
    return container
