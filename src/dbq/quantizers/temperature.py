"""How the temperature rises during training (in units of 1 / largest level)."""

from dbq.settings.quantizers import TemperatureSettings


def temperature(config: TemperatureSettings, progress: float) -> float:
    """The temperature at `progress` (0 at the first step, 1 at the last)."""
    if config.schedule == "constant":
        return config.start
    if config.schedule == "linear":
        return config.start + (config.end - config.start) * progress
    return config.start * (config.end / config.start) ** progress
