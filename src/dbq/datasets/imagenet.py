"""ImageNet (ILSVRC2012): what it takes. Its images don't fit arrays in memory and nobody may pass them on."""

from pathlib import Path

from dbq.datasets import visual_wake_words
from dbq.errors import DbqError

NEEDS = (
    "ImageNet needs the ILSVRC2012 folders train/ and val/ in the ImageFolder layout (train/WNID/*.JPEG, val/WNID/*.JPEG; about 150 GB), "
    "obtained with an account from image-net.org"
)


def read(raw: Path, config, log=print):
    """Raises DbqError: this version reads no ImageNet. It is the first error of profile paper, so it names all that the profile needs."""
    raise DbqError(
        f"source: imagenet is not read by this version, nor is visual_wake_words. {NEEDS}. {visual_wake_words.NEEDS}",
        "set profile to smoke or cifar10, which need neither",
    )
