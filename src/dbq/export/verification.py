"""Does an exported file still give the top1 that it was exported with?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field, ValidationError
from torch import Tensor

from dbq import datasets
from dbq.errors import DbqError
from dbq.export import container
from dbq.integer import execute
from dbq.integer.program import Program

BLOCK = 500  # images at a time
EXPORT_AGAIN = "export the row again"


class Recorded(BaseModel):
    """The result on the test images at the time of the export."""

    images: Annotated[int, Field(ge=1)]
    correct: Annotated[int, Field(ge=0)]
    top1: Annotated[float, Field(ge=0, le=100)]  # percent
    data_sha256: str


class Record(BaseModel):
    """What `verify` reads of a file's metadata."""

    row: str
    profile: str
    dataset: str
    recorded: Recorded


def record_of(path, metadata: dict, key: str | None) -> Record:
    """Raises DbqError for a file without a record, and for a file of another row than key."""
    try:
        record = Record.model_validate(metadata, strict=True)
    except ValidationError as error:
        fault = ".".join(map(str, error.errors()[0]["loc"]))
        raise DbqError(f"{path}: it holds no record of its top1 ({fault})", "name a file that was exported from a row") from None
    if key not in (None, record.row):
        raise DbqError(f"{path}: a model of {record.row}, not of {key}", f"export {key}, or name its file")
    return record


def images_of(path, record: Record, data) -> datasets.Prepared:
    """The prepared test images that the record is about; data: their folder, or None for the usual place."""
    data = Path("data/prepared") / record.profile / record.dataset if data is None else data
    prepared = datasets.load(data, ("test",))
    if prepared.manifest["content_sha256"] != record.recorded.data_sha256:
        raise DbqError(f"{data}: other images than those of {path}", f"name the prepared {record.dataset} of the profile {record.profile}")
    return prepared


def result(correct: int, prepared: datasets.Prepared) -> dict:
    count = len(prepared.splits["test"].labels)
    return {"images": count, "correct": correct, "top1": 100.0 * correct / count, "data_sha256": prepared.manifest["content_sha256"]}


def _correct(program: Program, images: Tensor, labels: Tensor) -> int:
    blocks = zip(images.split(BLOCK), labels.split(BLOCK), strict=True)
    return sum(int((execute.run(program, part).argmax(1) == truth).sum()) for part, truth in blocks)


def measure(program: Program, data) -> dict:
    """Run the program on the uint8 test images of a prepared folder: {images, correct, top1 in percent, data_sha256}."""
    prepared = datasets.load(data, ("test",))
    return result(_correct(program, prepared.splits["test"].images, prepared.splits["test"].labels), prepared)


def verify(path, data=None, key: str | None = None) -> dict:
    """Replay a .safetensors file; see dbq.export.verify."""
    exported = container.read(path)
    record = record_of(path, exported.metadata, key)
    prepared = images_of(path, record, data)
    split = prepared.splits["test"]
    try:
        correct = _correct(exported.program, split.images, split.labels)
    except DbqError as error:
        raise DbqError(f"{path}: {error.problem}", error.remedy) from None
    except (RuntimeError, ValueError, TypeError, IndexError, OverflowError, MemoryError) as error:
        raise DbqError(f"{path}: its program can't be run ({type(error).__name__})", EXPORT_AGAIN) from None
    found = result(correct, prepared)
    if found["correct"] != record.recorded.correct or found["images"] != record.recorded.images or found["top1"] != record.recorded.top1:
        raise DbqError(
            f"{path}: top1 {found['top1']:.2f} % ({correct} of {found['images']}), recorded are {record.recorded.top1:.2f} % "
            f"({record.recorded.correct} of {record.recorded.images})",
            f"the file was changed on purpose, or this machine's convolutions don't give exact integers: {EXPORT_AGAIN}",
        )
    return found
