"""Reading and writing files so that a crash or a full disk loses nothing."""

import csv
import hashlib
import json
import os
import tempfile
from pathlib import Path

from dbq.errors import DbqError


def sha256_of(path) -> str:
    """Hex sha256 of a file, read in blocks of 1 MiB."""
    return _digest(path, hashlib.sha256())


def md5_of(path) -> str:
    """Hex md5 of a file; md5 is what CIFAR-10 and Tiny-ImageNet publish."""
    return _digest(path, hashlib.md5(usedforsecurity=False))


def _digest(path, digest) -> str:
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_atomically(path, write) -> None:
    """Call write(binary_file) on a temporary neighbour and move it into place; the old file survives any failure.

    Raises DbqError when the disk is full or the folder can't be written.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise DbqError(
            f"{path}: could not be written ({error.strerror or error})",
            "free some space or choose another folder, then run the same command again; what was there before is untouched",
        ) from error
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)


def write_text(path, text: str) -> None:
    write_atomically(path, lambda file: file.write(text.encode()))


def write_json(path, value) -> None:
    """Sorted keys, so that equal values give equal bytes (DVC compares bytes)."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")


def read_json(path):
    """Parse a JSON result file; a missing or torn one is an error that names the file."""
    try:
        return json.loads(Path(path).read_text())
    except FileNotFoundError:
        raise DbqError(f"{path}: no such file", "run the stage that writes it (`dvc repro`)") from None
    except json.JSONDecodeError as error:
        raise DbqError(f"{path}: not valid JSON ({error})", "delete it and run `dvc repro`") from None


def write_csv(path, rows: list[dict], columns: list[str]) -> None:
    """One row per dict; every row must have exactly the given columns."""
    import io

    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n", extrasaction="raise")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def read_csv(path) -> list[dict]:
    """Rows as dicts of strings."""
    try:
        with open(path, newline="") as file:
            return list(csv.DictReader(file))
    except FileNotFoundError:
        raise DbqError(f"{path}: no such file", "run the stage that writes it (`dvc repro`)") from None
