"""Does an exported file still give the top-1 that it was exported with?"""

from pathlib import Path

from dbq import datasets
from dbq.engine.program import Program
from dbq.errors import DbqError
from dbq.export import container

BLOCK = 500  # images at a time


def default_data(metadata: dict) -> Path:
    return Path("data/prepared") / metadata["profile"] / metadata["dataset"]


def measure(program: Program, data) -> dict:
    """Run the program on the uint8 test images of a prepared folder: {images, correct, top1 in percent, data_sha256}."""
    prepared = datasets.load(data, ("test",))
    split, correct = prepared.splits["test"], 0
    for images, labels in zip(split.images.split(BLOCK), split.labels.split(BLOCK), strict=True):
        correct += int((program.run(images).argmax(1) == labels).sum())
    count = len(split.labels)
    return {"images": count, "correct": correct, "top1": 100.0 * correct / count, "data_sha256": prepared.manifest["content_sha256"]}


def verify(path, data=None, key: str | None = None) -> dict:
    """Replay a file on the test images in `data` (default: the prepared folder of its profile and data set) and return `measure`'s result.

    Raises DbqError as container.read does, for other images than those of the record, and for another top-1.
    """
    exported = container.read(path, key)
    recorded = exported.metadata["recorded"]
    data = default_data(exported.metadata) if data is None else data
    found = measure(exported.program, data)
    if found["data_sha256"] != recorded["data_sha256"]:
        raise DbqError(
            f"{data}: other images than those of {path} (top1 {found['top1']:.2f} % on these)",
            f"pass the prepared {exported.metadata['dataset']} of the profile {exported.metadata['profile']}",
        )
    if found["correct"] != recorded["correct"]:
        raise DbqError(
            f"{path}: top1 {found['top1']:.2f} %, and {recorded['top1']:.2f} % is recorded",
            "this machine's convolutions don't give exact integers, or the file was changed on purpose: export the model again",
        )
    return found
