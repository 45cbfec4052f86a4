"""Prepared data: uint8 arrays on disk with a manifest that says what they are.

A folder holds {train,val,test}_images.npy (N, 3, H, W) uint8, {train,val,test}_labels.npy (N,) int64 and manifest.json, which carries
the sha256 of each array. The manifest has no times and no paths, so equal data give equal bytes.
"""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dbq.errors import DbqError
from dbq.files import read_json, sha256_of, write_atomically, write_json

SPLITS = ("train", "val", "test")
MANIFEST = "manifest.json"
# of [0, 1] RGB pixels; torchvision's and most published weights expect them
IMAGENET_MEAN = [0.485, 0.456, 0.406]
IMAGENET_STD = [0.229, 0.224, 0.225]


@dataclass
class Source:
    """A data set as its source publishes it: train and test images, before a validation split is carved.

    Images (N, 3, H, W) uint8, labels (N,) integers. md5_identical: None where there is no published sum to compare with.
    files: [{name, sha256, md5, md5_published}], the last two where they exist.
    """

    title: str
    kind: str
    url: str
    licence: str
    class_names: list[str]
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    split_rule: str
    md5_identical: bool | None = None
    files: list[dict] = field(default_factory=list)


@dataclass
class Split:
    """images (N, 3, H, W) uint8, labels (N,) int64."""

    images: Tensor
    labels: Tensor


@dataclass
class Prepared:
    manifest: dict
    splits: dict[str, Split]


def carve(labels: np.ndarray, count: int, seed: int, key: str = "validation") -> tuple[np.ndarray, np.ndarray]:
    """Draw `count` of the images so that each class keeps its share; the same seed always draws the same ones.

    labels: (N,). Returns (kept, carved), ascending indices that together are 0 .. N-1. Shares are rounded by largest remainder, ties
    to the lower class. Raises DbqError, naming `key`, if a class would be used up.
    """
    classes, sizes = np.unique(labels, return_counts=True)
    shares = count * sizes  # in units of 1 / N of an image, so that no rounding decides a tie
    quotas = shares // len(labels)
    order = np.argsort(-(shares % len(labels)), kind="stable")
    quotas[order[: count - quotas.sum()]] += 1
    if (quotas >= sizes).any():
        label = classes[quotas >= sizes][0]
        raise DbqError(
            f"{key}: {count} of {len(labels)} images leave none of class {label}", f"choose a {key} well below {len(labels)} images"
        )
    generator = np.random.Generator(np.random.PCG64(seed))
    drawn = [generator.permutation(np.flatnonzero(labels == label))[:quota] for label, quota in zip(classes, quotas, strict=True)]
    chosen = np.zeros(len(labels), bool)
    chosen[np.concatenate(drawn)] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def channel_statistics(images: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and population standard deviation of [0, 1] pixels per channel, from exact integer sums. images: (N, C, H, W) uint8."""
    means, deviations, values = [], [], np.arange(256)
    for channel in range(images.shape[1]):
        histogram = sum(np.bincount(block[:, channel].reshape(-1), minlength=256) for block in np.array_split(images, 64) if len(block))
        count = int(histogram.sum())
        first, second = int((histogram * values).sum()), int((histogram * values**2).sum())
        means.append(first / count / 255)
        deviations.append((count * second - first**2) ** 0.5 / count / 255)
    if min(deviations) == 0:
        raise DbqError("normalise: a colour channel of the training images is constant", "set normalise: imagenet, or check the images")
    return means, deviations


def write(source: Source, name: str, profile: str, config, folder: Path) -> dict:
    """Carve the validation split, write the arrays and then the manifest, and return the manifest."""
    folder = Path(folder)
    (folder / MANIFEST).unlink(missing_ok=True)  # half-written arrays must not stand beside a manifest of other ones
    kept, carved = carve(source.train_labels, config.validation, config.split_seed)
    picks = {"train": (source.train_images, source.train_labels, kept), "val": (source.train_images, source.train_labels, carved)}
    picks["test"] = (source.test_images, source.test_labels, slice(None))
    counts, arrays, mean, std = {}, {}, IMAGENET_MEAN, IMAGENET_STD
    for split, (images, labels, pick) in picks.items():
        images, labels = images[pick], labels[pick].astype(np.int64)
        if split == "train" and config.normalise == "measured":
            mean, std = channel_statistics(images)
        per_class = np.bincount(labels, minlength=config.classes).tolist()
        counts[split] = {"total": len(labels), "per_class": per_class}
        for kind, array in (("images", images), ("labels", labels)):
            path = folder / f"{split}_{kind}.npy"
            write_atomically(path, lambda file, array=array: np.save(file, np.ascontiguousarray(array), allow_pickle=False))
            arrays[path.name] = sha256_of(path)
    manifest = {
        "name": name, "profile": profile, "title": source.title, "source_kind": source.kind, "source": f"{source.title}, {source.kind}",
        "label": f"stand-in ({source.title})" if config.stand_in else "real", "stand_in": config.stand_in,
        "url": source.url, "licence": source.licence, "files": source.files, "md5_identical": source.md5_identical,
        "counts": counts, "classes": config.classes, "class_names": source.class_names, "image_size": int(source.train_images.shape[-1]),
        "normalise": config.normalise, "mean": mean, "std": std,
        "split_rule": f"{source.split_rule}; val: {config.validation} of the training images, stratified by class, "
        f"numpy PCG64({config.split_seed}); test is used for nothing but the final evaluation",
        "arrays": arrays, "content_sha256": hashlib.sha256("".join(arrays[key] for key in sorted(arrays)).encode()).hexdigest(),
    }  # fmt: skip
    write_json(folder / MANIFEST, manifest)
    return manifest


def load(folder, splits: tuple[str, ...] = ("train", "val")) -> Prepared:
    """Read the named splits and no others, so that training code can't see the test images.

    Raises DbqError, naming the file and the stage to run, for a missing, truncated or changed array.
    """
    folder = Path(folder)
    if not (folder / MANIFEST).is_file():
        raise DbqError(f"{folder / MANIFEST}: no such file", f"run `dvc repro prepare@{folder.name}`")
    manifest = read_json(folder / MANIFEST)
    try:
        remedy = f"run `dvc repro prepare@{manifest['name']}`"
        size, counts, arrays = manifest["image_size"], manifest["counts"], manifest["arrays"]
        shapes = {split: (counts[split]["total"], 3, size, size) for split in SPLITS}
    except (KeyError, TypeError):
        raise DbqError(f"{folder / MANIFEST}: not the manifest of a prepared data set", f"run `dvc repro prepare@{folder.name}`") from None
    result = {}
    for split in splits:
        if split not in SPLITS:
            raise DbqError(f"split {split!r}: there is {', '.join(SPLITS)}", "name one of them")
        names = f"{split}_images.npy", f"{split}_labels.npy"
        images = _read(folder / names[0], np.uint8, shapes[split], arrays.get(names[0]), remedy)
        labels = _read(folder / names[1], np.int64, shapes[split][:1], arrays.get(names[1]), remedy)
        result[split] = Split(torch.from_numpy(images), torch.from_numpy(labels))
    return Prepared(manifest, result)


def _read(path: Path, dtype, shape: tuple[int, ...], sha256: str | None, remedy: str) -> np.ndarray:
    if not path.is_file():
        raise DbqError(f"{path}: no such file", remedy)
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DbqError(f"{path}: truncated or not an array ({error}), {path.stat().st_size:,} bytes", remedy) from error
    if array.dtype != dtype or array.shape != shape:
        expected = f"{np.dtype(dtype)} {shape}"
        raise DbqError(f"{path}: holds {array.dtype} {array.shape} where the manifest says {expected}", remedy)
    if sha256_of(path) != sha256:
        raise DbqError(f"{path}: its content is not what the manifest says (sha256 differs)", remedy)
    return array
