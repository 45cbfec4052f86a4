"""Data sets: from their sources to arrays on disk, and from there to batches.

`prepare` writes CIFAR-10 in 4 s from files that are already there; `load` reads what it wrote. Each source is a module with a function
read(raw, settings, log) -> arrays.Source. It is imported when it is read: an edit of a source makes no training stale, because the digest
of the data is in a training's identity.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from dbq.datasets import arrays
from dbq.datasets.arrays import Prepared, Split, load, read_manifest
from dbq.errors import DbqError

if TYPE_CHECKING:
    from dbq.settings import DatasetSettings

__all__ = ["SOURCES", "Prepared", "Split", "at_hand", "load", "prepare", "read_manifest"]

SOURCES = ("digits", "cifar10")  # values of `source` in params.yaml
# sources without a loader, and what they are made of
NO_LOADER = {
    "imagenet": "ImageNet (ILSVRC2012: train/WNID/*.JPEG and val/WNID/*.JPEG, about 150 GB, with an account from image-net.org)",
    "visual_wake_words": "Visual Wake Words (COCO 2017 train and val images, instances_train2017.json, instances_val2017.json and "
    "mscoco_minival_ids.txt from cocodataset.org; label 1 where a person covers more than 0.5 % of the image)",
}


def at_hand(settings: DatasetSettings) -> str | None:
    """None if `prepare` can make the data set (CIFAR-10 may be downloaded for it), else one line that says what it needs."""
    if settings.source in NO_LOADER:
        return f"{NO_LOADER[settings.source]} is not at hand: this version has no loader for it; use the profile smoke or small"
    return None


def prepare(name: str, profile: str, settings: DatasetSettings, folder, raw="data/raw", log=print) -> dict:
    """Read the source, carve the validation split, write arrays and manifest into folder, and return the manifest.

    raw: where files are looked for and downloads go. Raises DbqError for a source that is not at hand or damaged, for settings that don't
    fit it, and for folders that can't be read or written.
    """
    where = f"profiles.{profile}.datasets.{name}"
    if reason := at_hand(settings):
        raise DbqError(f"{where}: {reason}", "leave out the rows of this data set")
    if settings.source not in SOURCES:
        raise DbqError(f"{where}.source: unknown value {settings.source!r}", f"choose one of {', '.join([*SOURCES, *NO_LOADER])}")
    try:
        source = importlib.import_module(f"dbq.datasets.{settings.source}").read(Path(raw), settings, log)
        known = len(source.class_names)
        if known != settings.classes:
            raise DbqError(f"{where}.classes: {settings.classes}, and {source.title} has {known}", f"set classes: {known}")
        manifest = arrays.write(source, name, profile, settings, Path(folder))
    except OSError as error:
        raise DbqError(f"{where}: {error}", "make the file or the folder readable and writable, or name another one") from None
    totals = ", ".join(f"{manifest['counts'][split]['total']:,} {split}" for split in arrays.SPLITS)
    size = manifest["image_size"]
    log(f"{name} ({profile}): {manifest['label']}, {manifest['source']}: {totals} images of {size}x{size}")
    return manifest
