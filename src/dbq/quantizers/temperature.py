"""How the temperature rises during training (in units of 1 / largest level)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from dbq.settings.quantizers import TemperatureSettings


def temperature(config: TemperatureSettings, progress: float) -> float:
    """The temperature at `progress` (0 at the first step, 1 at the last)."""
    if config.schedule == "constant":
        return config.start
    if config.schedule == "linear":
        return config.start + (config.end - config.start) * progress
    return config.start * (config.end / config.start) ** progress


class HostTemperature:
    """The temperature of one quantizer as a number, beside the buffer that holds it on the device.

    A training step computes with the buffer and a saved state holds it. Reading the buffer would make the host wait for a GPU, so a
    decision in Python, such as which kernel runs, reads `value`. The buffer follows `value`; only a loaded state is read back.
    """

    def __init__(self, value: float):
        self.value = value

    def set(self, value: float, buffer: Tensor) -> None:
        """A new temperature, written to the buffer unless it holds it already."""
        if value != self.value:
            buffer.fill_(value)
        self.value = value

    def read_back(self, buffer: Tensor) -> None:
        """After a saved state was loaded into the buffer."""
        self.value = float(buffer)
