"""scikit-learn's digits: 1,797 real 8x8 grey images inside the package, for runs without a network.

They come from the test part of the UCI optical digits set. No order of train and test is published, so both are drawn here.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dbq.datasets.arrays import Source, carve
from dbq.errors import DbqError

if TYPE_CHECKING:
    from dbq.settings import DatasetSettings

TEST_IMAGES = 397


def read(raw: Path, settings: DatasetSettings, log=print) -> Source:
    """10 classes, or 2: digits of 5 and above (class 1) or not. Pixels 0 .. 16 become 0 .. 255 and three equal channels."""
    from sklearn.datasets import load_digits

    if not settings.stand_in:
        raise DbqError("stand_in: false with source digits", "set stand_in: true; digits are never the data set of the paper")
    digits = load_digits()
    grey = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    content = grey.tobytes() + digits.target.astype(np.uint8).tobytes()
    images = np.repeat(grey[:, None], 3, axis=1)
    labels, names = digits.target, [str(digit) for digit in range(10)]
    if settings.classes == 2:
        labels, names = (labels >= 5).astype(np.int64), ["0 to 4", "5 to 9"]
    train, test = carve(labels, TEST_IMAGES, settings.split_seed, "test")
    return Source(
        title="scikit-learn digits", kind="embedded in scikit-learn",
        url="https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits", licence="CC BY 4.0 (UCI)",
        class_names=names, train_images=images[train], train_labels=labels[train], test_images=images[test], test_labels=labels[test],
        split_rule=f"test: {TEST_IMAGES} of 1,797 images, stratified by class, numpy PCG64({settings.split_seed})",
        files=[{"name": "sklearn.datasets.load_digits()", "sha256": hashlib.sha256(content).hexdigest()}],
    )  # fmt: skip
