"""Does an exported file still give the top1 that it was exported with?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import BaseModel, Field, ValidationError
from torch import Tensor

from dbq import datasets
from dbq.errors import DbqError

BLOCK = 500  # images at a time
EXPORT_AGAIN = "export the row again"


class Runnable(NamedTuple):
    """An exported file that was read: its metadata, and what it computes."""

    metadata: dict
    logits: Callable[[Tensor], Tensor]  # of uint8 images (N, 3, H, W)
    bound: float = 0.0  # points of top1 by which it may differ from the record, or one image


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


def measure(logits: Callable[[Tensor], Tensor], prepared: datasets.Prepared) -> dict:
    """{images, correct, top1 in percent, data_sha256} on the test images."""
    images, labels = prepared.splits["test"].images, prepared.splits["test"].labels
    blocks = zip(images.split(BLOCK), labels.split(BLOCK), strict=True)
    correct = sum(int((logits(part).argmax(1) == truth).sum()) for part, truth in blocks)
    top1 = 100.0 * correct / len(labels)
    return {"images": len(labels), "correct": correct, "top1": top1, "data_sha256": prepared.manifest["content_sha256"]}


def verify(path, file: Runnable, data, key: str | None) -> dict:
    """See dbq.export.verify."""
    try:
        record = Record.model_validate(file.metadata, strict=True)
    except ValidationError as error:
        fault = ".".join(map(str, error.errors()[0]["loc"]))
        raise DbqError(f"{path}: it holds no record of its top1 ({fault})", "name a file that was exported from a row") from None
    if key not in (None, record.row):
        raise DbqError(f"{path}: a model of {record.row}, not of {key}", f"export {key}, or name its file")
    data = Path("data/prepared") / record.profile / record.dataset if data is None else data
    prepared, recorded = datasets.load(data, ("test",)), record.recorded
    if prepared.manifest["content_sha256"] != recorded.data_sha256:
        raise DbqError(f"{data}: other images than those of {path}", f"name the prepared {record.dataset} of the profile {record.profile}")
    try:
        found = measure(file.logits, prepared)
    except Exception as error:  # each kind of made-up file fails in its own way
        fault = error.problem if isinstance(error, DbqError) else f"{type(error).__name__} {str(error).partition(chr(10))[0][:200]}"
        raise DbqError(f"{path}: its program can't be run ({fault})", EXPORT_AGAIN) from None
    allowed = max(1.0, file.bound * recorded.images / 100) if file.bound else 0
    consistent = recorded.top1 == 100.0 * recorded.correct / recorded.images and recorded.images == found["images"]
    if not consistent or abs(found["correct"] - recorded.correct) > allowed:
        raise DbqError(
            f"{path}: top1 {found['top1']:.2f} % ({found['correct']} of {found['images']}), recorded are {recorded.top1:.2f} % "
            f"({recorded.correct} of {recorded.images})",
            f"the file was changed on purpose, or this machine's convolutions don't give exact integers: {EXPORT_AGAIN}",
        )
    return found
