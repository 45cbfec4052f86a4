"""Does an exported file still give the top-1 that it was exported with?"""

import json
from pathlib import Path

import torch

from dbq import datasets
from dbq.datasets.loader import Batches
from dbq.errors import DbqError
from dbq.export import container
from dbq.integer.program import Program

BLOCK = 500  # images at a time
ONNX_BOUND = 0.1  # points of top1 between the ONNX graph and the integers: its float32 sums may round an activation the other way


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


def verify_onnx(path, data=None) -> dict:
    """Run an exported ONNX file in onnxruntime on the test images in `data` (default as for verify); returns `measure`'s result.

    Raises DbqError without onnxruntime, for a file that isn't ours or can't be read, for other images than those of the record, and for a
    top-1 further than ONNX_BOUND (or one image) from that of the integers.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise DbqError(f"{path}: running it needs the package onnxruntime ({error})", "pip install '.[export]'") from None
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises classes of its own for each kind of damage
        reason = str(error).splitlines()[0]
        raise DbqError(f"{path}: no ONNX graph that can be run ({reason})", "export the model again (`python -m dbq.export`)") from None
    properties = session.get_modelmeta().custom_metadata_map
    if "recorded" not in properties:
        raise DbqError(f"{path}: it holds no record of its top1", "name a file that `python -m dbq.export` wrote")
    recorded = json.loads(properties["recorded"])
    data = default_data(properties) if data is None else data
    prepared = datasets.load(data, ("test",))
    if prepared.manifest["content_sha256"] != recorded["data_sha256"]:
        raise DbqError(
            f"{data}: other images than those of {path}",
            f"pass the prepared {properties['dataset']} of the profile {properties['profile']}",
        )
    correct = 0
    for images, labels in Batches(prepared.splits["test"], BLOCK, *(json.loads(properties[name]) for name in ("mean", "std"))).in_order():
        logits = torch.from_numpy(session.run(None, {"image": images.contiguous().numpy()})[0])
        correct += int((logits.argmax(1) == labels).sum())
    count = recorded["images"]
    if abs(correct - recorded["correct"]) > max(1, ONNX_BOUND * count / 100):
        raise DbqError(
            f"{path}: top1 {100 * correct / count:.2f} %, and the integers have {recorded['top1']:.2f} %", "export the model again"
        )
    return {"images": count, "correct": correct, "top1": 100.0 * correct / count, "data_sha256": recorded["data_sha256"]}


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
