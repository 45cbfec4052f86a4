"""Finding a data set's files: a folder that an environment variable names, then data/raw, then the published archive.

Archives are read as streams and never unpacked to disk; a member that would leave a folder, a link and a device are refused.
"""

import os
import socket
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dbq.errors import DbqError

PUBLISHED = "published files, md5-identical"
MIRROR = "mirror, not md5-identical"
MEMBER_LIMIT = 64 << 20  # bytes; the largest published member is a CIFAR-10 batch of 31 MB
SILENCE = 30  # seconds without a byte after which a download counts as failed


@dataclass
class Found:
    """path: a folder or an archive; layout: the source's name for its shape; mirror: declared as a copy that may differ."""

    path: Path
    layout: str
    mirror: bool


def locate(variable: str, folder: Path, recognise: Callable[[Path], tuple[Path, str] | None], expected: str) -> Found | None:
    """The first of $variable and folder in which `recognise` finds a layout; None if the variable is unset and the folder holds nothing.

    Raises DbqError if the variable is set and its folder holds nothing: data that were asked for are never replaced by others.
    """
    if os.environ.get(variable):
        named = Path(os.environ[variable])
        match = recognise(named) if named.is_dir() else None
        if match is None:
            state = "holds none of the known layouts" if named.is_dir() else "is not a folder"
            raise DbqError(f"{variable}: {named} {state}", f"set {variable} to a folder with {expected}, or unset it")
        return Found(*match, mirror=True)
    match = recognise(folder) if folder.is_dir() else None
    if match is None:
        return None
    return Found(*match, mirror=any((place / "MIRROR").exists() for place in (folder, match[0])))


def download(variable: str, folder: Path, url: str, md5: str, expected: str, log=print) -> Path:
    """Fetch the published archive into folder with torchvision's downloader, which checks its md5.

    Raises DbqError that names the variable, the folder and the url.
    """
    target = folder / url.rsplit("/", 1)[-1]
    partial = target.with_name(target.name + ".part")  # a broken download must not be taken for the archive at the next run
    log(f"{folder}: nothing there; downloading {url}")
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENCE)
    try:
        _download_url(url, folder, partial.name, md5)
        os.replace(partial, target)
    except (OSError, RuntimeError) as error:  # urllib's errors are OSErrors; torchvision raises RuntimeError for a wrong md5
        raise DbqError(
            f"no data in {folder} ({variable} is unset), and {url} could not be downloaded ({error})",
            f"put {expected} into {folder}, or set {variable} to a folder that holds them, or run again with a network",
        ) from error
    finally:
        socket.setdefaulttimeout(before)
    return target


def _download_url(url: str, folder: Path, name: str, md5: str) -> None:
    from dbq.networks.torchvision_cpu import import_torchvision

    import_torchvision()
    from torchvision.datasets.utils import download_url

    download_url(url, str(folder), filename=name, md5=md5)


def kind_of(found: Found, wrong: list[str], variable: str) -> str:
    """How far the files are what was published. wrong: names of those that differ.

    Raises DbqError for files that differ and are not declared as a mirror.
    """
    if not wrong:
        return PUBLISHED
    if not found.mirror:
        raise DbqError(
            f"{found.path}: md5 of {', '.join(wrong)} is not the published one",
            f"delete it and run again to download it; a copy that differs on purpose needs a file MIRROR beside it, or {variable}",
        )
    return MIRROR


def entries(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """(name inside, content) of the wanted regular files of a folder (by name) or of a tar archive (in its order).

    Raises DbqError for a damaged archive, and for a member that is unsafe or too large, whether wanted or not: a stream reads them all.
    """
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            name = file.relative_to(path).as_posix()
            if wanted(name) and file.is_file():
                _check(path, name, file.stat().st_size)
                yield name, file.read_bytes()
        return
    try:
        with tarfile.open(path, "r|*") as archive:
            for member in archive:
                _check(path, member.name, member.size, member.isfile() or member.isdir())
                if member.isfile() and wanted(member.name):
                    yield member.name, archive.extractfile(member).read()
    except DbqError:
        raise
    except Exception as error:  # tarfile, zlib, lzma and EOF each have their own type for a damaged stream
        raise DbqError(
            f"{path}: damaged or truncated archive, {path.stat().st_size:,} bytes ({error})", "delete it and get it again from its source"
        ) from error


def _check(path, name, size, plain=True):
    inside = PurePosixPath(name)
    if inside.is_absolute() or ".." in inside.parts or not plain:
        raise DbqError(f"{path}: its member {name!r} is a link or leaves the folder", "don't use this archive; get it from its source")
    if size > MEMBER_LIMIT:
        raise DbqError(f"{path}: its member {name!r} has {size:,} bytes", "don't use this archive; get it from its source")
