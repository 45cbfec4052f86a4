"""Reading and writing files so that a crash, a full disk or a damaged byte is noticed and loses nothing."""

import contextlib
import csv
import glob
import hashlib
import io
import json
import os
import struct
import tempfile
import time
from pathlib import Path

from dbq.errors import DbqError

STALE = 3600  # seconds after which the temporary file of a killed writer is removed
RERUN = "delete it and run the same command again"
BY_STAGE = "run the stage that writes it (`dvc repro`)"
REWRITE = "delete it and run `dvc repro`"
SEAL = 64  # hex digits at the end of a sealed file


def sha256_of(path) -> str:
    """Hex sha256 of a file, read in blocks."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path, write) -> None:
    """Call write(binary_file) on a temporary neighbour and move it into place; the old file survives any failure, a full disk too."""
    path, temporary = Path(path), None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
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


def _remove_leftovers(path: Path) -> None:
    """Remove the temporary files that killed writers of this path left; a writer that is still at work has a younger one."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*"):
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            if time.time() - leftover.stat().st_mtime > STALE:
                leftover.unlink()


def write_sealed(path, content: dict) -> None:
    """Write a dict of tensors and plain values as a torch file that ends with the sha256 of all bytes before it.

    The sum is the comment of the zip archive that torch writes, so `torch.load` still reads the file. The archive is made in memory:
    torch reports a full disk with a RuntimeError that hides the cause.
    """
    import torch

    memory = io.BytesIO()
    torch.save(content, memory)
    data = memory.getvalue()[:-2] + struct.pack("<H", SEAL)  # a zip archive ends with the length of its comment
    data += hashlib.sha256(data).hexdigest().encode()
    write_atomically(path, lambda file: file.write(data))


def read_sealed(path, device="cpu", missing: str = BY_STAGE) -> dict:
    """The content of a file of write_sealed, its tensors on `device`; no byte is parsed before the sum of all of them is checked.

    Only tensors and plain values are unpickled, so no code runs from the file. missing: the remedy where there is no file.
    """
    import torch

    data = _bytes_of(path, missing)
    if hashlib.sha256(memoryview(data)[:-SEAL]).hexdigest() != data[-SEAL:].decode("latin1"):
        raise DbqError(f"{path}: damaged, or not written by this version ({len(data):,} bytes, their sha256 differs)", RERUN)
    try:
        content = torch.load(io.BytesIO(data), map_location=device, weights_only=True)
    except Exception as error:  # zip, pickle and torch each raise types of their own; torch's text advises to switch its protection off
        raise DbqError(f"{path}: not a file of tensors and plain values ({type(error).__name__})", RERUN) from None
    if not isinstance(content, dict):
        raise DbqError(f"{path}: holds a {type(content).__name__} and not a dict", RERUN)
    return content


def _bytes_of(path, missing: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise DbqError(f"{path}: no such file", missing) from None
    except OSError as error:
        raise DbqError(f"{path}: could not be read ({error.strerror or error})", "make it a readable file, or delete it") from None


def _text_of(path) -> str:
    try:
        return _bytes_of(path, BY_STAGE).decode()
    except UnicodeDecodeError as error:
        raise DbqError(f"{path}: not UTF-8 text (byte {error.start})", REWRITE) from None


def write_text(path, text: str) -> None:
    write_atomically(path, lambda file: file.write(text.encode()))


def write_json(path, value) -> None:
    """Sorted keys, so that equal values give equal bytes (DVC compares bytes)."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")


def read_json(path):
    try:
        return json.loads(_text_of(path))
    except (ValueError, RecursionError) as error:
        raise DbqError(f"{path}: not valid JSON ({error})", REWRITE) from None


def write_csv(path, rows: list[dict], columns: list[str]) -> None:
    """One row per dict; every row must have exactly the given columns."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def read_csv(path) -> list[dict]:
    """Rows as dicts of strings."""
    try:
        return list(csv.DictReader(io.StringIO(_text_of(path), newline="")))
    except csv.Error as error:
        raise DbqError(f"{path}: not a CSV file ({error})", REWRITE) from None
