"""CIFAR-10 (Krizhevsky 2009): 50,000 train and 10,000 test images of 32x32 in 10 classes.

Read from $DBQ_CIFAR10, else from data/raw/cifar10, in the python layout (cifar-10-batches-py), the binary layout
(cifar-10-batches-bin), or as the archive of either; downloaded (170 MB) where there is none. Archives are read as streams and never
unpacked to disk; a member that would leave a folder, a link and a device are refused.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import socket
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from dbq.datasets.arrays import Source
from dbq.errors import DbqError

if TYPE_CHECKING:
    from dbq.settings import DatasetSettings

VARIABLE = "DBQ_CIFAR10"
URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
ARCHIVE_MD5 = "c58f30108f718f92721af3b95e74349a"
# name of a layout: folder, suffix of a batch file, archive
LAYOUTS = {
    "python": ("cifar-10-batches-py", "", "cifar-10-python.tar.gz"),
    "binary": ("cifar-10-batches-bin", ".bin", "cifar-10-binary.tar.gz"),
}
EXPECTED = "cifar-10-batches-py/, cifar-10-batches-bin/, cifar-10-python.tar.gz or cifar-10-binary.tar.gz"
CLASS_NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
BATCHES = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]
IMAGES_PER_BATCH = 10_000
RECORD = 1 + 3 * 32 * 32  # bytes of an image in the binary layout: label, then the red, green and blue planes
MEMBER_LIMIT = 64 << 20  # bytes; the largest published member is a batch of 31 MB
SILENCE = 30  # seconds without a byte after which a download counts as failed
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
REFUSE = "don't use this archive; get it from its source"


def read(raw: Path, settings: DatasetSettings, log=print) -> Source:
    """All 60,000 images in the published order. Raises DbqError naming the file that is missing, damaged or not the published one."""
    path, layout, mirror = locate(Path(raw) / "cifar10", log)
    log(f"CIFAR-10 from {path.name} ({layout} layout)")  # no path: the line ends up in a published report
    names = [batch + LAYOUTS[layout][1] for batch in BATCHES]
    decode = decode_binary if layout == "binary" else decode_python
    batches, sums = {}, {}
    for inside, content in entries(path, names):
        name = PurePosixPath(inside).name
        if name in batches:
            raise DbqError(f"{path / inside}: a second {name}", "keep one copy of CIFAR-10 in that folder")
        sums[name] = {digest: hashlib.new(digest, content, usedforsecurity=False).hexdigest() for digest in ("sha256", "md5")}
        batches[name] = decode(content, path / inside)
    missing = [name for name in names if name not in batches]
    if missing:
        raise DbqError(f"{path / missing[0]}: missing (the {layout} layout has {len(names)} batch files)", AGAIN)
    wrong = [name for name in names if sums[name]["md5"] != MD5[name]]
    if wrong and not mirror:
        raise DbqError(
            f"{path}: md5 of {', '.join(wrong)} is not the published one",
            f"delete it and run again to download it; a copy that differs on purpose needs a file MIRROR beside it, or {VARIABLE}",
        )
    *train, test = (batches[name] for name in names)
    return Source(
        title="CIFAR-10", kind="mirror, not md5-identical" if wrong else "published files, md5-identical",
        url="https://www.cs.toronto.edu/~kriz/cifar.html", licence="none stated by the authors; they ask for a citation",
        class_names=CLASS_NAMES, train_images=np.concatenate([images for images, _ in train]),
        train_labels=np.concatenate([labels for _, labels in train]), test_images=test[0], test_labels=test[1],
        split_rule="train and test as published", md5_identical=not wrong,
        files=[{"name": name, **sums[name], "md5_published": MD5[name]} for name in names],
    )  # fmt: skip


def locate(folder: Path, log=print) -> tuple[Path, str, bool]:
    """(a folder or an archive, its layout, whether it is declared as a copy that may differ).

    Raises DbqError if the variable is set and its folder holds nothing: data that were asked for are never replaced by others.
    """
    if named := os.environ.get(VARIABLE):
        if match := recognise(Path(named)):
            return *match, True
        raise DbqError(f"{VARIABLE}: {named} is no folder of a known layout", f"set {VARIABLE} to a folder with {EXPECTED}, or unset it")
    if match := recognise(folder):
        return *match, any((place / "MIRROR").exists() for place in (folder, match[0]))
    return download(folder, log), "python", False


def recognise(folder: Path) -> tuple[Path, str] | None:
    """(path, layout) of the first known layout in folder; the folder may itself be the one with the batches."""
    found = [(folder / name, layout) for layout, (name, _, _) in LAYOUTS.items() if (folder / name).is_dir()]
    for layout, (_, suffix, _) in LAYOUTS.items():
        found += [(folder, layout) for batch in BATCHES if (folder / f"{batch}{suffix}").is_file()]
    found += [(folder / archive, layout) for layout, (_, _, archive) in LAYOUTS.items() if (folder / archive).is_file()]
    return found[0] if found else None


def download(folder: Path, log=print) -> Path:
    """Fetch the published archive into folder with torchvision's downloader, which checks its md5."""
    target = folder / LAYOUTS["python"][2]
    partial = target.with_name(target.name + ".part")  # a broken download must not be taken for the archive at the next run
    log(f"{folder}: nothing there; downloading {URL}")
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENCE)
    try:
        _download_url(URL, folder, partial.name, ARCHIVE_MD5)
        os.replace(partial, target)
    except (OSError, RuntimeError) as error:  # urllib's errors are OSErrors; torchvision raises RuntimeError for a wrong md5
        raise DbqError(
            f"no data in {folder} ({VARIABLE} is unset), and {URL} could not be downloaded ({error})",
            f"put {EXPECTED} into {folder}, or set {VARIABLE} to a folder that holds them, or run again with a network",
        ) from error
    finally:
        socket.setdefaulttimeout(before)
    return target


def _download_url(url: str, folder: Path, name: str, md5: str) -> None:
    from dbq.networks.torchvision_cpu import import_torchvision

    import_torchvision().datasets.utils.download_url(url, str(folder), filename=name, md5=md5)


def entries(path: Path, names: list[str]) -> Iterator[tuple[str, bytes]]:
    """(path inside, content) of the regular files of these names in a folder (sorted) or in a tar archive (in its order).

    Raises DbqError for a damaged archive, and for a member that is unsafe or too large, whether wanted or not: a stream reads them all.
    """
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            if file.name in names and file.is_file():
                inside = file.relative_to(path).as_posix()
                _check(path, inside, file.stat().st_size)
                yield inside, file.read_bytes()
        return
    try:
        with tarfile.open(path, "r|*") as archive:
            for member in archive:
                _check(path, member.name, member.size, member.isfile() or member.isdir())
                if member.isfile() and PurePosixPath(member.name).name in names:
                    yield member.name, archive.extractfile(member).read()
    except DbqError:
        raise
    except Exception as error:  # tarfile, zlib, lzma and EOF each have their own type for a damaged stream
        raise DbqError(f"{path}: damaged or truncated archive, {path.stat().st_size:,} bytes ({error})", AGAIN) from error


def _check(path: Path, name: str, size: int, plain: bool = True) -> None:
    inside = PurePosixPath(name)
    if inside.is_absolute() or ".." in inside.parts or not plain:
        raise DbqError(f"{path}: its member {name!r} is a link or leaves the folder", REFUSE)
    if size > MEMBER_LIMIT:
        raise DbqError(f"{path}: its member {name!r} has {size:,} bytes", REFUSE)


def decode_binary(content: bytes, where: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images (10000, 3, 32, 32) uint8 and labels (10000,) int64 of one file of the binary layout."""
    expected = IMAGES_PER_BATCH * RECORD
    if len(content) != expected:
        raise DbqError(f"{where}: {len(content):,} bytes, expected {expected:,}", AGAIN)
    records = np.frombuffer(content, np.uint8).reshape(-1, RECORD)
    return _checked(records[:, 1:], records[:, 0].astype(np.int64), where)


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
    return _checked(images, labels, where)


def _checked(images: np.ndarray, labels: np.ndarray, where: Path) -> tuple[np.ndarray, np.ndarray]:
    outside = np.flatnonzero((labels < 0) | (labels >= len(CLASS_NAMES)))
    if len(outside):
        raise DbqError(f"{where}: label {labels[outside[0]]} of image {outside[0]} is not one of 0 .. {len(CLASS_NAMES) - 1}", AGAIN)
    return images.reshape(-1, 3, 32, 32), labels


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
