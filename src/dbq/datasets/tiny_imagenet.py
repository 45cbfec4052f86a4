"""Tiny-ImageNet-200 (Stanford CS231n) at 32x32: 100,000 train images in 200 classes; its public val set (10,000) is the test split here.

Read from $DBQ_TINY_IMAGENET, else from data/raw/tiny-imagenet: the folder tiny-imagenet-200, the archive tiny-imagenet-200.zip, or a
copy as images.tar.xz with wnids.txt and val_annotations.txt; downloaded (248 MB) where there is none. Images of 64x64 are averaged over
2x2 pixels.
"""

import hashlib
import io
import re
import time
from pathlib import Path

import numpy as np

from dbq.datasets import obtain
from dbq.datasets.arrays import Source
from dbq.errors import DbqError
from dbq.files import md5_of, sha256_of

VARIABLE = "DBQ_TINY_IMAGENET"
URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
ARCHIVE_MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
EXPECTED = "tiny-imagenet-200/, tiny-imagenet-200.zip, or images.tar.xz with wnids.txt and val_annotations.txt"
CLASSES, TRAIN_PER_CLASS, TEST_IMAGES, SIZE = 200, 500, 10_000, 32
TRAIN_NAME = re.compile(r"(?:^|/)train/(n\d{8})/images/\1_(\d+)\.JPEG$")
TEST_NAME = re.compile(r"(?:^|/)val/images/(val_(\d+)\.JPEG)$")
TEXTS = ("wnids.txt", "val_annotations.txt", "words.txt")
AGAIN = "get the data set again from its source"
PROGRESS = 10  # seconds between lines


def read(raw: Path, config, log=print) -> Source:
    """Train images by class (classes in the order of their sorted ids) and number, test images by number.

    Raises DbqError naming what is missing, damaged or unknown.
    """
    folder = Path(raw) / "tiny-imagenet"
    found = obtain.locate(VARIABLE, folder, recognise, EXPECTED)
    if found is None:
        found = obtain.Found(obtain.download(VARIABLE, folder, URL, ARCHIVE_MD5, EXPECTED, log), "zip", mirror=False)
    log(f"Tiny-ImageNet from {found.path.name} ({found.layout} layout)")  # no path: the line ends up in a published report
    texts = _texts(found)
    wnids = sorted(texts["wnids.txt"].split())
    if len(set(wnids)) != CLASSES:
        raise DbqError(f"{found.path}: wnids.txt names {len(set(wnids))} classes, expected {CLASSES}", AGAIN)
    images, digest = _images(found, {wnid: index for index, wnid in enumerate(wnids)}, log)
    wrong, identical, files = [], None, []
    if found.path.is_file():
        files.append({"name": found.path.name, "sha256": sha256_of(found.path), "md5": md5_of(found.path)})
        if found.layout == "zip":
            files[0]["md5_published"] = ARCHIVE_MD5
        identical = found.layout == "zip" and files[0]["md5"] == ARCHIVE_MD5
        wrong = [] if identical else [found.path.name]
    files += [{"name": name, "sha256": hashlib.sha256(texts[name].encode()).hexdigest()} for name in TEXTS if name in texts]
    files.append({"name": f"{len(images):,} images in the order of the arrays", "sha256": digest})
    train = CLASSES * TRAIN_PER_CLASS
    return Source(
        title="Tiny-ImageNet-200 at 32x32", kind=obtain.kind_of(found, identical, wrong, VARIABLE), url=URL,
        licence="ImageNet terms of access: non-commercial research and education",
        class_names=_class_names(wnids, texts.get("words.txt", "")),
        train_images=images[:train], train_labels=np.repeat(np.arange(CLASSES), TRAIN_PER_CLASS),
        test_images=images[train:], test_labels=_test_labels(found, texts["val_annotations.txt"], wnids),
        split_rule="train as published, test: the public val set", md5_identical=identical, files=files,
    )  # fmt: skip


def recognise(folder: Path) -> tuple[Path, str] | None:
    """(path, "folder", "zip" or "tar") of the first known layout in folder."""
    for path in (folder / "tiny-imagenet-200", folder):
        if (path / "train").is_dir() and (path / "wnids.txt").is_file():
            return path, "folder"
    if (folder / "tiny-imagenet-200.zip").is_file():
        return folder / "tiny-imagenet-200.zip", "zip"
    if (folder / "images.tar.xz").is_file():
        return folder / "images.tar.xz", "tar"
    return None


def _texts(found: obtain.Found) -> dict[str, str]:
    """The text files, from beside the archive or from inside it; words.txt may be missing."""
    places = [found.path, found.path / "val"] if found.path.is_dir() else [found.path.parent]
    texts = {}
    for name in TEXTS:
        for place in places:
            if found.layout != "zip" and name not in texts and (place / name).is_file():
                texts[name] = (place / name).read_text()
    if found.path.is_file() and len(texts) < len(TEXTS):
        for inside, content in obtain.entries(found.path, lambda inside: inside.rsplit("/", 1)[-1] in TEXTS):
            texts.setdefault(inside.rsplit("/", 1)[-1], content.decode())
    for name in TEXTS[:2]:
        if name not in texts:
            raise DbqError(f"{found.path}: {name} is missing", AGAIN)
    return texts


def _images(found: obtain.Found, index: dict[str, int], log) -> tuple[np.ndarray, str]:
    """(110000, 3, 32, 32) uint8, train then test, and a sha256 over the sha256 of each JPEG in that order."""
    train = CLASSES * TRAIN_PER_CLASS
    total = train + TEST_IMAGES
    images = np.zeros((total, 3, SIZE, SIZE), np.uint8)
    digests: list[bytes | None] = [None] * total
    done, said = 0, time.monotonic()
    for inside, content in obtain.entries(found.path, lambda inside: bool(TRAIN_NAME.search(inside) or TEST_NAME.search(inside))):
        if match := TRAIN_NAME.search(inside):
            wnid, number = match[1], int(match[2])
            if wnid not in index or number >= TRAIN_PER_CLASS:
                raise DbqError(f"{found.path}: {inside} is not of a class in wnids.txt, or its number is too high", AGAIN)
            slot = index[wnid] * TRAIN_PER_CLASS + number
        else:
            slot = train + int(TEST_NAME.search(inside)[2])
            if slot >= total:
                raise DbqError(f"{found.path}: {inside} has a number above {TEST_IMAGES - 1}", AGAIN)
        if digests[slot] is not None:
            raise DbqError(f"{found.path}: {inside} is there twice", AGAIN)
        images[slot] = decode(content, found.path / inside)
        digests[slot] = hashlib.sha256(content).digest()
        done += 1
        if time.monotonic() - said > PROGRESS:
            said = time.monotonic()
            log(f"{done:,} of {total:,} images")
    if done < total:
        slot, wnids = digests.index(None), list(index)
        name = f"val_{slot - train}.JPEG" if slot >= train else f"{wnids[slot // TRAIN_PER_CLASS]}_{slot % TRAIN_PER_CLASS}.JPEG"
        raise DbqError(f"{found.path}: {done:,} images, expected {total:,}; the first that is missing is {name}", AGAIN)
    return images, hashlib.sha256(b"".join(digests)).hexdigest()


def decode(content: bytes, where: Path) -> np.ndarray:
    """A 64x64 or 32x32 JPEG as (3, 32, 32) uint8; grey images get three equal channels."""
    from PIL import Image

    try:
        image = Image.open(io.BytesIO(content), formats=["JPEG"])
        if image.size not in ((SIZE, SIZE), (2 * SIZE, 2 * SIZE)):
            raise DbqError(f"{where}: {image.size[0]}x{image.size[1]} pixels, expected 64x64 or 32x32", AGAIN)
        image = image.convert("RGB")
    except (OSError, ValueError) as error:
        raise DbqError(f"{where}: {len(content):,} bytes that are not a whole JPEG ({error})", AGAIN) from error
    if image.size != (SIZE, SIZE):
        image = image.reduce(2)  # rounds once; resize with a box filter rounds rows and columns in turn
    return np.asarray(image).transpose(2, 0, 1)


def _test_labels(found: obtain.Found, annotations: str, wnids: list[str]) -> np.ndarray:
    index = {wnid: label for label, wnid in enumerate(wnids)}
    labels = np.full(TEST_IMAGES, -1, np.int64)
    for line in annotations.splitlines():
        name, wnid = [*line.split("\t"), ""][:2]
        number = re.fullmatch(r"val_(\d+)\.JPEG", name)
        if number is None or wnid not in index or int(number[1]) >= TEST_IMAGES:
            raise DbqError(f"{found.path}: val_annotations.txt has the line {line[:60]!r}", AGAIN)
        labels[int(number[1])] = index[wnid]
    if (labels < 0).any():
        raise DbqError(f"{found.path}: val_annotations.txt says nothing of val_{int(np.argmin(labels))}.JPEG", AGAIN)
    return labels


def _class_names(wnids: list[str], words: str) -> list[str]:
    """The first of the words of each class; the bare id where words.txt is missing."""
    names = dict(line.split("\t", 1) for line in words.splitlines() if "\t" in line)
    return [names.get(wnid, wnid).split(",")[0].strip() for wnid in wnids]
