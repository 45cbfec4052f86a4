"""What a prepared data set looks like: pictures by class, images per class, files."""

import numpy as np
import pandas as pd

from dbq.datasets.arrays import SPLITS, Split


def describe(manifest: dict) -> pd.DataFrame:
    """Images per class (rows, with a last row `total`) and split (columns, with a last column `total`)."""
    counts = {split: manifest["counts"][split]["per_class"] for split in SPLITS}
    table = pd.DataFrame(counts, index=pd.Index(manifest["class_names"], name="class"))
    table.loc["total"] = table.sum()
    table["total"] = table.sum(axis=1)
    return table


def files_table(manifest: dict) -> pd.DataFrame:
    """The files that were read, with their sums and the published md5 where there is one."""
    table = pd.DataFrame(manifest["files"], columns=["name", "sha256", "md5", "md5_published"])
    return table.dropna(axis=1, how="all").fillna("").set_index("name")


def grid(split: Split, class_names: list[str], per_class: int = 8, seed: int = 0):
    """A matplotlib Figure: one row per class of class_names (label = position), per_class images drawn by seed."""
    from matplotlib import pyplot

    generator = np.random.Generator(np.random.PCG64(seed))
    sizes = (0.8 * per_class + 1.2, 0.8 * len(class_names))
    figure, axes = pyplot.subplots(len(class_names), per_class, figsize=sizes, squeeze=False, layout="constrained")
    for label, name in enumerate(class_names):
        members = generator.permutation(np.flatnonzero(split.labels.numpy() == label))[:per_class]
        for column, axis in enumerate(axes[label]):
            axis.set(xticks=[], yticks=[], frame_on=False)
            if column < len(members):
                axis.imshow(split.images[int(members[column])].permute(1, 2, 0).numpy(), interpolation="nearest")
        axes[label][0].set_ylabel(name, rotation=0, ha="right", va="center")
    pyplot.close(figure)  # a notebook shows the returned figure; an open one would be shown a second time
    return figure
