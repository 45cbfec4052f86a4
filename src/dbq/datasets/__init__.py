"""Data sets: from their sources to arrays on disk, and from there to batches.

    PYTHONPATH=src python -m dbq.datasets cifar10 --profile smoke --out data/prepared/smoke/cifar10

takes 4 s and prints 1,200 train, 200 val and 397 test images; --profile cifar10 takes 4 s from files that are already there.
"""

from pathlib import Path

from dbq.datasets import arrays, cifar10, digits, imagenet, visual_wake_words
from dbq.datasets.arrays import Prepared, Split, load
from dbq.errors import DbqError

__all__ = ["SOURCES", "Prepared", "Split", "load", "prepare"]

# `source` in params.yaml -> read(raw, config, log) -> arrays.Source
SOURCES = {
    "digits": digits.read,
    "cifar10": cifar10.read,
    "imagenet": imagenet.read,
    "visual_wake_words": visual_wake_words.read,
}


def prepare(name: str, profile: str, config, folder, raw="data/raw", log=print) -> dict:
    """Obtain the source, decode it once, carve the validation split and write arrays and manifest into folder; returns the manifest.

    config: a dbq.settings.resolve.DatasetSettings. raw: where downloads go and files are looked for. Raises DbqError for a source that can't be
    had or is damaged, and for a config that doesn't fit it.
    """
    if config.source not in SOURCES:
        raise DbqError(f"datasets.{name}.{profile}.source: unknown value {config.source!r}", f"choose one of {', '.join(SOURCES)}")
    source = SOURCES[config.source](Path(raw), config, log)
    if len(source.class_names) != config.classes:
        raise DbqError(
            f"datasets.{name}.{profile}.classes: {config.classes}, and {source.title} has {len(source.class_names)}",
            f"set classes: {len(source.class_names)}",
        )
    manifest = arrays.write(source, name, profile, config, Path(folder))
    totals = ", ".join(f"{manifest['counts'][split]['total']:,} {split}" for split in arrays.SPLITS)
    size = manifest["image_size"]
    log(f"{name} ({profile}): {manifest['label']}, {manifest['source']}: {totals} images of {size}x{size}")
    return manifest
