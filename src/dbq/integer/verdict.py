"""Does the program classify as the training graph does? It replays all test images, and more than a stated difference is an error.

Validation images choose the smallest width of the multipliers. Test images only judge the width that params.yaml sets.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from dbq.errors import DbqError
from dbq.files import write_json
from dbq.integer.compile import Widths, compile_network
from dbq.integer.execute import run
from dbq.integer.replay import Agreement, image_shape, interleaved_speed, replay, smallest_width

if TYPE_CHECKING:
    from dbq.settings.entries import EngineSettings

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

    def holds(self) -> bool:
        difference = abs(self.agreement.top1_engine - self.agreement.top1_float64)
        return difference <= self.bound + 1e-9 and self.agreement.unexplained == 0

    def as_dict(self) -> dict:
        agreement = self.agreement
        return {
            "images": agreement.images, "fixed_point_bits": agreement.fixed_point_bits, "top1_graph": agreement.top1_graph,
            "top1_float64": agreement.top1_float64, "top1_engine": agreement.top1_engine, "disagreeing": len(agreement.disagreeing),
            "disagreeing_float64": len(agreement.disagreeing_float64), "unexplained": agreement.unexplained,
            "graph_disagreeing_float64": agreement.graph_disagreeing_float64,
            "logit_difference": agreement.logit_difference, "bound": self.bound, "smallest_width": self.smallest_width,
            "width_images": self.width_images, "widths": self.widths, "sites": [asdict(site) for site in agreement.sites],
            "accumulators": agreement.accumulators, "speed_ratio": self.speed_ratio,
        }  # fmt: skip


def judge(network: nn.Module, float_network: nn.Module, test, validation, settings: EngineSettings) -> Verdict:
    """Replay a quantized network in evaluation mode on test images, and find the smallest width on validation images.

    float_network: the same network without quantizers, which the speed is compared with; its weights don't matter. test, validation:
    batches as for replay(), of settings.batch_size; validation holds the first settings.width_images images.
    """
    widths = Widths(settings.fixed_point_bits, settings.accumulator_bits)
    compiled = compile_network(network, image_shape(test), widths)
    agreement = replay(network, test, checked=settings.checked_images, compiled=compiled)
    images = sum(len(labels) for _, labels in validation.in_order())
    tried = {*WIDTHS, settings.fixed_point_bits}
    smallest, table = smallest_width(network, validation, _bound(settings, images), tried, widths)
    part = next(iter(test.in_order()))[0][:SPEED_IMAGES]
    float_network = float_network.eval().to(memory_format=torch.channels_last)
    ways = {"float": float_network, "engine": lambda images: run(compiled.program, images)}
    speeds = interleaved_speed(ways, part, repeats=3)
    ratio = speeds["engine"] / speeds["float"]
    return Verdict(agreement, table, smallest, images, _bound(settings, agreement.images), ratio)


def _bound(settings: EngineSettings, images: int) -> float:
    """Points of top1, at least those of one image: on a few hundred images that is more than the bound."""
    return max(settings.top1_bound, 100.0 / images)


def demand(verdict: Verdict, key: str) -> None:
    """Raise DbqError, naming the row, where program and training graph differ by more than the bound or more than rounding explains."""
    if not verdict.holds():
        agreement = verdict.agreement
        raise DbqError(
            f"rows.{key}: the integers give {agreement.top1_engine:.2f} % and the training graph {agreement.top1_float64:.2f} % "
            f"(bound {verdict.bound:.2f} points), {agreement.unexplained} integers that rounding doesn't explain",
            "raise engine.fixed_point_bits; if integers are unexplained, train the row again",
        )


def write(verdict: Verdict, folder) -> None:
    write_json(Path(folder) / "engine.json", verdict.as_dict())
