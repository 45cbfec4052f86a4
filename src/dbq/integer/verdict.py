"""Is the counted network the trained one? The engine replays the whole test set in integers, and more than a stated disagreement fails.

The smallest width of the multipliers is chosen on validation images; the test images only judge the width that params.yaml sets.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from dbq import datasets, networks
from dbq.datasets.arrays import Split
from dbq.errors import DbqError
from dbq.files import write_json
from dbq.integer import replay as integer
from dbq.integer.compile import Widths, compile_network
from dbq.settings.resolve import EngineSettings, Row
from dbq.training import runs

SPEED_IMAGES = 256
WIDTHS = (4, 8, 12, 16, 24)  # and the one that params.yaml sets


@dataclass(frozen=True)
class Verdict:
    """speed_ratio: images per second of the engine over those of the float network, measured in turns on this machine."""

    agreement: integer.Agreement
    widths: list[dict]
    smallest_width: int
    width_images: int
    bound: float  # points of top1 from the training graph in float64
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


def judge(experiment: Row, network: nn.Module, data, config: EngineSettings) -> Verdict:
    """Replay the network (first seed, evaluation mode) on the prepared data set in the folder `data`."""
    prepared = datasets.load(Path(data), ("val", "test"))
    splits, manifest = prepared.splits, prepared.manifest
    settings = Widths(config.fixed_point_bits, config.accumulator_bits)
    test = runs.batches(splits["test"], manifest, config.batch_size, "cpu")
    compiled = compile_network(network, integer.image_shape(test), settings)
    agreement = integer.replay(network, test, settings, checked=config.checked_images, compiled=compiled)
    part = Split(splits["val"].images[: config.width_images], splits["val"].labels[: config.width_images])
    validation = runs.batches(part, manifest, config.batch_size, "cpu")
    widths = {*WIDTHS, config.fixed_point_bits}
    smallest, table = integer.smallest_width(network, validation, _bound(config, len(part.labels)), widths, settings)
    bound = _bound(config, agreement.images)
    return Verdict(agreement, table, smallest, len(part.labels), bound, _speed_ratio(experiment, compiled.program, test))


def _bound(config: EngineSettings, images: int) -> float:
    """Points of top1; a few hundred images can't show less than one of them."""
    return max(config.top1_bound, 100.0 / images)


def _speed_ratio(experiment: Row, program, batches) -> float:
    images = next(iter(batches.in_order()))[0][:SPEED_IMAGES]
    float_network = networks.build(experiment.network, experiment.dataset_settings.classes, experiment.dataset_settings.form)
    float_network = float_network.eval().to(memory_format=torch.channels_last)
    speeds = integer.interleaved_speed({"float": float_network, "engine": program.run}, images, repeats=3)
    return speeds["engine"] / speeds["float"]


def demand(verdict: Verdict, key: str) -> None:
    """Raise DbqError when the engine isn't the training graph."""
    if not verdict.holds():
        agreement = verdict.agreement
        raise DbqError(
            f"experiments.{key}: the engine gives {agreement.top1_engine:.2f} % and the training graph {agreement.top1_float64:.2f} % "
            f"(bound {verdict.bound:.2f} points), {agreement.unexplained} integers that rounding doesn't explain",
            "raise engine.fixed_point_bits; unexplained integers mean a damaged model or a wrong engine",
        )


def write(verdict: Verdict, folder) -> None:
    write_json(Path(folder) / "engine.json", verdict.as_dict())
