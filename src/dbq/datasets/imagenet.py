"""ImageNet (ILSVRC2012): what it takes. Its images don't fit arrays in memory and nobody may pass them on."""

from pathlib import Path

from dbq.errors import DbqError


def read(raw: Path, config, log=print):
    """Raises DbqError: this version of the project reads no ImageNet."""
    raise DbqError(
        "source: imagenet is not read by this version; it needs the ILSVRC2012 folders train/ and val/ in the ImageFolder layout "
        "(train/WNID/*.JPEG, val/WNID/*.JPEG; about 150 GB), obtained with an account from image-net.org",
        "set profile to smoke or cifar10, which need no ImageNet",
    )
