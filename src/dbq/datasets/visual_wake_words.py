"""Visual Wake Words (Chowdhery et al. 2019): person or not, from COCO; what it takes."""

from pathlib import Path

from dbq.errors import DbqError

NEEDS = (
    "Visual Wake Words needs the COCO 2017 train and val images, instances_train2017.json and instances_val2017.json, and "
    "mscoco_minival_ids.txt (8,059 test ids); label 1 where a person annotation has an area above 0.5 % of the image"
)


def read(raw: Path, config, log=print):
    """Raises DbqError: this version of the project reads no COCO."""
    raise DbqError(f"source: visual_wake_words is not read by this version. {NEEDS}", "set profile to smoke or cifar10, which need no COCO")
