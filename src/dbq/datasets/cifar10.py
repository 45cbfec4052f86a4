"""CIFAR-10 (Krizhevsky 2009): 50,000 train and 10,000 test images of 32x32 in 10 classes.

Read from $DBQ_CIFAR10, else from data/raw/cifar10, in the python layout (cifar-10-batches-py), the binary layout
(cifar-10-batches-bin), or as the archive of either; downloaded (170 MB) where there is none.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dbq.datasets import obtain
from dbq.datasets.arrays import Source
from dbq.errors import DbqError

if TYPE_CHECKING:
    from dbq.settings import DatasetSettings

VARIABLE = "DBQ_CIFAR10"
URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
ARCHIVE_MD5 = "c58f30108f718f92721af3b95e74349a"
EXPECTED = "cifar-10-batches-py/, cifar-10-batches-bin/, cifar-10-python.tar.gz or cifar-10-binary.tar.gz"
CLASS_NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
BATCHES = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]
IMAGES_PER_BATCH = 10_000
RECORD = 1 + 3 * 32 * 32  # bytes of an image in the binary layout: label, then the red, green and blue planes
# Python layout: torchvision.datasets.CIFAR10. Binary layout: several public readers of cifar-10-binary.tar.gz (md5
# c32a1d4ab5d03f1284b67883e8d87530) carry the same six sums; the authors publish the archive's only.
MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
    "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
    "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
    "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
    "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
    "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
    "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
}
AGAIN = "delete it and run again to download it, or get it again from your mirror"


def read(raw: Path, settings: DatasetSettings, log=print) -> Source:
    """All 60,000 images in the published order. Raises DbqError naming the file that is missing, damaged or not the published one."""
    folder = Path(raw) / "cifar10"
    found = obtain.locate(VARIABLE, folder, recognise, EXPECTED)
    if found is None:
        found = obtain.Found(obtain.download(VARIABLE, folder, URL, ARCHIVE_MD5, EXPECTED, log), "python", mirror=False)
    log(f"CIFAR-10 from {found.path.name} ({found.layout} layout)")  # no path: the line ends up in a published report
    suffix, decode = (".bin", decode_binary) if found.layout == "binary" else ("", decode_python)
    names = [batch + suffix for batch in BATCHES]
    batches, sums = {}, {}
    for inside, content in obtain.entries(found.path, lambda inside: inside.rsplit("/", 1)[-1] in names):
        name = inside.rsplit("/", 1)[-1]
        where = found.path / inside
        if name in batches:
            raise DbqError(f"{where}: a second {name}", "keep one copy of CIFAR-10 in that folder")
        sums[name] = {digest: hashlib.new(digest, content, usedforsecurity=False).hexdigest() for digest in ("sha256", "md5")}
        batches[name] = decode(content, where)
    missing = [name for name in names if name not in batches]
    if missing:
        raise DbqError(f"{found.path / missing[0]}: missing (the {found.layout} layout has {len(names)} batch files)", AGAIN)
    wrong = [name for name in names if sums[name]["md5"] != MD5[name]]
    kind = obtain.kind_of(found, wrong, VARIABLE)
    train = [batches[name] for name in names[:-1]]
    return Source(
        title="CIFAR-10", kind=kind, url="https://www.cs.toronto.edu/~kriz/cifar.html",
        licence="none stated by the authors; they ask for a citation",
        class_names=CLASS_NAMES, train_images=np.concatenate([images for images, _ in train]),
        train_labels=np.concatenate([labels for _, labels in train]), test_images=batches[names[-1]][0], test_labels=batches[names[-1]][1],
        split_rule="train and test as published", md5_identical=not wrong,
        files=[{"name": name, **sums[name], "md5_published": MD5[name]} for name in names],
    )  # fmt: skip


def recognise(folder: Path) -> tuple[Path, str] | None:
    """(path, "python" or "binary") of the first known layout in folder; the folder may itself be the one with the batches."""
    for name, layout in (("cifar-10-batches-py", "python"), ("cifar-10-batches-bin", "binary")):
        if (folder / name).is_dir():
            return folder / name, layout
    for suffix, layout in (("", "python"), (".bin", "binary")):
        if any((folder / f"{batch}{suffix}").is_file() for batch in BATCHES):
            return folder, layout
    for name, layout in (("cifar-10-python.tar.gz", "python"), ("cifar-10-binary.tar.gz", "binary")):
        if (folder / name).is_file():
            return folder / name, layout
    return None


def decode_binary(content: bytes, where: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images (10000, 3, 32, 32) uint8 and labels (10000,) int64 of one file of the binary layout."""
    expected = IMAGES_PER_BATCH * RECORD
    if len(content) != expected:
        raise DbqError(f"{where}: {len(content):,} bytes, expected {expected:,}", AGAIN)
    records = np.frombuffer(content, np.uint8).reshape(-1, RECORD)
    return records[:, 1:].reshape(-1, 3, 32, 32), _checked_labels(records[:, 0].astype(np.int64), where)


def decode_python(content: bytes, where: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images (10000, 3, 32, 32) uint8 and labels (10000,) int64 of one pickle of the python layout."""
    try:
        batch = _ArraysOnly(io.BytesIO(content), encoding="latin1").load()
        images, labels = batch["data"], np.asarray(batch["labels"], np.int64)
    except DbqError as error:
        raise DbqError(f"{where}: {error.problem}", error.remedy) from None
    except Exception as error:  # a damaged pickle can raise almost any type
        expected = f"a pickle of {IMAGES_PER_BATCH:,} images (published: about 31,035,600 bytes)"
        raise DbqError(f"{where}: {len(content):,} bytes, expected {expected}; damaged or truncated ({error})", AGAIN) from error
    shape = (IMAGES_PER_BATCH, RECORD - 1)
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape != shape or labels.shape != shape[:1]:
        found = f"{getattr(images, 'dtype', type(images).__name__)} {getattr(images, 'shape', '')}"
        raise DbqError(f"{where}: images {found} and labels {labels.shape}, expected uint8 {shape} and {shape[:1]}", AGAIN)
    return images.reshape(-1, 3, 32, 32), _checked_labels(labels, where)


def _checked_labels(labels: np.ndarray, where: Path) -> np.ndarray:
    outside = np.flatnonzero((labels < 0) | (labels >= len(CLASS_NAMES)))
    if len(outside):
        raise DbqError(f"{where}: label {labels[outside[0]]} of image {outside[0]} is not one of 0 .. {len(CLASS_NAMES) - 1}", AGAIN)
    return labels


class _ArraysOnly(pickle.Unpickler):
    """Builds numpy arrays and plain Python values; a pickle that asks for anything else is refused before it runs."""

    def find_class(self, module, name):
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return np.ndarray.__reduce__(np.empty(0))[0]  # numpy's own name for it moved between versions
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        if module == "_codecs" and name == "encode":
            return _encode_latin1
        raise DbqError(f"its pickle asks for {module}.{name}, which CIFAR-10 has no use for", "don't use this file; get it from its source")


def _encode_latin1(text, encoding="latin1"):
    """What Python 3 puts in a protocol 2 pickle for bytes; other codecs could decompress without limit."""
    if encoding != "latin1":
        raise DbqError(f"its pickle asks for the codec {encoding}", "don't use this file; get it from its source")
    return text.encode("latin1")
