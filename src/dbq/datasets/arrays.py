"""Prepared data: uint8 arrays on disk with a manifest that says what they are.

A folder holds {train,val,test}_images.npy (N, 3, H, W) uint8, {train,val,test}_labels.npy (N,) int64 and manifest.json, which carries
the sha256 of each array. The manifest has no times and no paths, so equal data give equal bytes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
from pydantic import BaseModel, Field, ValidationError, model_validator
from torch import Tensor

from dbq.errors import DbqError
from dbq.files import read_json, sha256_of, write_atomically, write_json

SPLITS = ("train", "val", "test")
MANIFEST = "manifest.json"
ARRAYS = [f"{split}_{kind}.npy" for split in SPLITS for kind in ("images", "labels")]
# of [0, 1] RGB pixels; torchvision's and most published weights expect them
IMAGENET_MEAN = [0.485, 0.456, 0.406]
IMAGENET_STD = [0.229, 0.224, 0.225]

if TYPE_CHECKING:
    from dbq.settings import DatasetSettings


@dataclass
class Source:
    """A data set as its source publishes it, before a validation split is carved: images (N, 3, H, W) uint8, labels (N,) integers."""

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
    md5_identical: bool | None = None  # None where there is no published sum to compare with
    files: list[dict] = field(default_factory=list)  # [{name, sha256, md5, md5_published}], the last two where they exist


@dataclass
class Split:
    """images (N, 3, H, W) uint8, labels (N,) int64."""

    images: Tensor
    labels: Tensor


@dataclass
class Prepared:
    manifest: dict
    splits: dict[str, Split]


class _Counts(BaseModel):
    total: Annotated[int, Field(ge=1)]
    per_class: list[Annotated[int, Field(ge=0)]]


class _Manifest(BaseModel):
    """What others read of a manifest. It holds more: licence, files, rules."""

    name: str
    profile: str
    title: str
    source: str
    label: str
    stand_in: bool
    files: list[dict]
    counts: dict[str, _Counts]
    classes: Annotated[int, Field(ge=2)]
    class_names: list[str]
    image_size: Annotated[int, Field(ge=1)]
    mean: Annotated[list[Annotated[float, Field(allow_inf_nan=False)]], Field(min_length=3, max_length=3)]
    std: Annotated[list[Annotated[float, Field(gt=0, allow_inf_nan=False)]], Field(min_length=3, max_length=3)]
    arrays: dict[str, str]
    content_sha256: str

    @model_validator(mode="after")
    def _consistent(self):
        counted = all(len(one.per_class) == self.classes and sum(one.per_class) == one.total for one in self.counts.values())
        complete = sorted(self.counts) == sorted(SPLITS) and sorted(self.arrays) == sorted(ARRAYS) and len(self.class_names) == self.classes
        if not counted or not complete or self.content_sha256 != _joint_sum(self.arrays):
            raise ValueError("classes, class_names, counts, arrays and content_sha256 contradict one another")
        return self


def carve(labels: np.ndarray, count: int, seed: int, key: str = "validation") -> tuple[np.ndarray, np.ndarray]:
    """Draw `count` of the images so that each class keeps its share; the same seed always draws the same ones.

    labels: (N,). Returns (kept, carved), ascending indices that together are 0 .. N-1. Shares are rounded by largest remainder, ties
    to the lower class. Raises DbqError, naming `key`, if a class would be used up.
    """
    problem, remedy = f"{key}: {count} of {len(labels)} images leave none", f"choose a {key} well below {len(labels)} images"
    if count >= len(labels):
        raise DbqError(problem, remedy)
    classes, sizes = np.unique(labels, return_counts=True)
    shares = count * sizes  # in units of 1 / N of an image, so that no rounding decides a tie
    quotas = shares // len(labels)
    order = np.argsort(-(shares % len(labels)), kind="stable")
    quotas[order[: count - quotas.sum()]] += 1
    if (quotas >= sizes).any():
        raise DbqError(f"{problem} of class {classes[quotas >= sizes][0]}", remedy)
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


def write(source: Source, name: str, profile: str, settings: DatasetSettings, folder: Path) -> dict:
    """Carve the validation split, write the arrays and then the manifest, and return the manifest."""
    for labels in (source.train_labels, source.test_labels):
        if labels.min() < 0 or labels.max() >= settings.classes:
            raise DbqError(
                f"{source.title}: labels from {labels.min()} to {labels.max()}, and there are {settings.classes} classes",
                "get the data set again from its source",
            )
    (folder / MANIFEST).unlink(missing_ok=True)  # half-written arrays must not stand beside a manifest of other ones
    kept, carved = carve(source.train_labels, settings.validation, settings.split_seed)
    train, test = (source.train_images, source.train_labels), (source.test_images, source.test_labels)
    counts, arrays, mean, std = {}, {}, IMAGENET_MEAN, IMAGENET_STD
    for split, published, pick in (("train", train, kept), ("val", train, carved), ("test", test, slice(None))):
        images, labels = published[0][pick], published[1][pick].astype(np.int64)
        if split == "train" and settings.normalise == "measured":
            mean, std = channel_statistics(images)
        counts[split] = {"total": len(labels), "per_class": np.bincount(labels, minlength=settings.classes).tolist()}
        for kind, array in (("images", images), ("labels", labels)):
            path = folder / f"{split}_{kind}.npy"
            write_atomically(path, lambda file, array=array: np.save(file, np.ascontiguousarray(array), allow_pickle=False))
            arrays[path.name] = sha256_of(path)
    manifest = {
        "name": name, "profile": profile, "title": source.title, "source_kind": source.kind, "source": f"{source.title}, {source.kind}",
        "label": f"stand-in ({source.title})" if settings.stand_in else "real", "stand_in": settings.stand_in,
        "url": source.url, "licence": source.licence, "files": source.files, "md5_identical": source.md5_identical,
        "counts": counts, "classes": settings.classes, "class_names": source.class_names, "image_size": int(source.train_images.shape[-1]),
        "normalise": settings.normalise, "mean": mean, "std": std,
        "split_rule": f"{source.split_rule}; val: {settings.validation} of the training images, stratified by class, "
        f"numpy PCG64({settings.split_seed}); test is used for nothing but the final evaluation",
        "arrays": arrays, "content_sha256": _joint_sum(arrays),
    }  # fmt: skip
    write_json(folder / MANIFEST, manifest)
    return manifest


def _joint_sum(arrays: dict[str, str]) -> str:
    return hashlib.sha256("".join(arrays[name] for name in sorted(arrays)).encode()).hexdigest()


def read_manifest(folder, name: str | None = None, profile: str | None = None) -> dict:
    """The manifest of a prepared folder, every field that others read checked. name, profile: the data set that it has to be of."""
    path = Path(folder) / MANIFEST
    remedy = f"run `dvc repro prepare@{name or path.parent.name}`"
    if not path.is_file():
        raise DbqError(f"{path}: no such file", remedy)
    manifest = read_json(path)
    try:
        _Manifest.model_validate(manifest, strict=True)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"])) or "it"
        raise DbqError(f"{path}: not the manifest of a prepared data set ({where}: {fault['msg']})", remedy) from None
    found = manifest["name"], manifest["profile"]
    if name not in (None, found[0]) or profile not in (None, found[1]):
        wanted = " of the profile ".join(part for part in (name, profile) if part)
        raise DbqError(f"{path}: data set {found[0]} of the profile {found[1]}, not {wanted}", "name the folder of the right data set")
    return manifest


def load(folder, splits: tuple[str, ...] = ("train", "val"), name: str | None = None, profile: str | None = None) -> Prepared:
    """Read the named splits and no others, so that training code can't see the test images.

    The sha256 of every array of the folder is checked, also of the splits that aren't read: a training must not end at damaged test images.
    """
    folder, manifest = Path(folder), read_manifest(folder, name, profile)
    remedy = f"run `dvc repro prepare@{manifest['name']}`"
    if unknown := set(splits) - set(SPLITS):
        raise DbqError(f"split {min(unknown)!r}: there is {', '.join(SPLITS)}", "name one of them")
    for array, known in manifest["arrays"].items():
        if not (folder / array).is_file():
            raise DbqError(f"{folder / array}: no such file", remedy)
        if sha256_of(folder / array) != known:
            raise DbqError(f"{folder / array}: its content is not what the manifest says (sha256 differs)", remedy)
    result, classes, size = {}, manifest["classes"], manifest["image_size"]
    for split in splits:
        total, per_class = (manifest["counts"][split][name] for name in ("total", "per_class"))
        images = _read(folder / f"{split}_images.npy", np.uint8, (total, 3, size, size), remedy)
        labels = _read(folder / f"{split}_labels.npy", np.int64, (total,), remedy)
        if labels.min() < 0 or labels.max() >= classes or np.bincount(labels, minlength=classes).tolist() != per_class:
            found = f"labels from {labels.min()} to {labels.max()}, and the manifest counts others"
            raise DbqError(f"{folder / split}_labels.npy: {found}", remedy)
        result[split] = Split(torch.from_numpy(images), torch.from_numpy(labels))
    return Prepared(manifest, result)


def _read(path: Path, dtype, shape: tuple[int, ...], remedy: str) -> np.ndarray:
    """The array of a file whose sum is right; a manifest that was changed with it is found here."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)  # mapped: no memory is taken for what the header claims
    except (ValueError, EOFError, OSError, OverflowError) as error:
        raise DbqError(f"{path}: truncated or not an array ({error}), {path.stat().st_size:,} bytes", remedy) from None
    if array.dtype != dtype or array.shape != shape:
        raise DbqError(f"{path}: holds {array.dtype} {array.shape} where the manifest says {np.dtype(dtype)} {shape}", remedy)
    return np.array(array, order="C")
