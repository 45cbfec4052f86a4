"""Does the program classify as the training graph does? It replays all test images, and more than a stated difference is an error.

Validation images choose the smallest width of the multipliers. Test images only judge the width that params.yaml sets.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from dbq.cost import network as cost
from dbq.errors import DbqError
from dbq.files import write_json
from dbq.integer.compile import Widths, compile_network
from dbq.integer.execute import run
from dbq.integer.program import Program
from dbq.integer.replay import Agreement, image_shape, replay, smallest_width

if TYPE_CHECKING:
    from dbq.settings.entries import CostSettings, EngineSettings

SPEED_IMAGES = 256
WIDTHS = (4, 8, 12, 16, 24)  # that are tried beside the one that params.yaml sets


@dataclass(frozen=True)
class Verdict:
    """smallest_width: of the multipliers, found on `width_images` validation images. bound: points of top1 that program and training graph
    (in float64) may differ. speed_ratio: images per second of the program over those of the float network, measured in turns."""

    agreement: Agreement
    widths: list[dict]
    smallest_width: int
    width_images: int
    bound: float
    speed_ratio: float

    def as_dict(self) -> dict:
        """What engine.json holds: of the images that are classified differently only how many there are."""
        found = vars(self) | asdict(self.agreement) | {"unexplained": self.agreement.unexplained}
        del found["agreement"]
        return found | {name: len(found[name]) for name in ("disagreeing", "disagreeing_float64")}


def judge(network: nn.Module, float_network: nn.Module, test, validation, settings: EngineSettings) -> Verdict:
    """Replay a quantized network in evaluation mode on test images, and find the smallest width on validation images.

    float_network: the same network without quantizers, which the speed is compared with; its weights don't matter. test, validation:
    batches as for replay(), of settings.batch_size; validation holds the first settings.width_images images.
    """

    def bound(images: int) -> float:
        return max(settings.top1_bound, 100.0 / images)  # on a few hundred images a single one is more than the bound

    widths = Widths(settings.fixed_point_bits, settings.accumulator_bits)
    compiled = compile_network(network, image_shape(test), widths)
    agreement = replay(network, test, checked=settings.checked_images, compiled=compiled)
    images = sum(len(labels) for _, labels in validation.in_order())
    smallest, table = smallest_width(network, validation, bound(images), {*WIDTHS, settings.fixed_point_bits}, widths)
    ratio = _speed_ratio(compiled.program, float_network, next(iter(test.in_order()))[0][:SPEED_IMAGES])
    return Verdict(agreement, table, smallest, images, bound(agreement.images), ratio)


@torch.inference_mode()
def _speed_ratio(program: Program, float_network: nn.Module, images: Tensor) -> float:
    """Images per second of the program over those of the network: medians of runs in turns, so that a busy machine slows both."""
    float_network = float_network.eval().to(memory_format=torch.channels_last)
    seconds = []
    for _ in range(4):
        started = time.perf_counter()
        float_network(images)
        between = time.perf_counter()
        run(program, images)
        seconds.append((between - started, time.perf_counter() - between))
    network, engine = (statistics.median(times) for times in zip(*seconds[1:], strict=True))  # the first turn warms up
    return network / engine


def demand(verdict: Verdict, key: str) -> None:
    """Raise DbqError, naming the row, where program and training graph differ by more than the bound or more than rounding explains."""
    agreement = verdict.agreement
    if not abs(agreement.top1_engine - agreement.top1_float64) <= verdict.bound + 1e-9 or agreement.unexplained:
        raise DbqError(
            f"rows.{key}: the integers give {agreement.top1_engine:.2f} % and the training graph {agreement.top1_float64:.2f} % "
            f"(bound {verdict.bound:.2f} points), {agreement.unexplained} integers that rounding doesn't explain",
            "raise engine.fixed_point_bits; if integers are unexplained, train the row again",
        )


def write(verdict: Verdict, folder) -> None:
    write_json(Path(folder) / "engine.json", verdict.as_dict())


def fingerprint(network: nn.Module, images: Tensor, activation_bits: int, settings: CostSettings, widths: Widths | None = None) -> str:
    """Hex sha256 of a quantized network's costs under every reading and of its integer logits: equal where it counts and replays the same.

    network: in evaluation mode. images: (N, 3, H, H), normalised. settings: for the costs layer by layer.
    """
    counted = cost.count(network, images.shape[-1], activation_bits, settings)
    program = compile_network(network, tuple(images.shape[1:]), widths).program
    found = {"counted": asdict(counted), "logits": run(program, images).tolist(), "scale": program.scale}
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()
