"""The settings of each quantization method. `weight_bits` and `branches` follow from them and stand in every table."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator

from dbq.settings.values import Settings, words

Scales = Literal["layer", "channel"]  # one scale a layer (and branch), or one a filter
Positive = Annotated[float, Field(ge=1e-6, le=1e9)]


def _integers(values):
    """Whole numbers written as text, as numbers."""
    numbers = isinstance(values, list) and all(isinstance(value, str) and value.lstrip("-").isdigit() for value in values)
    return [int(value) for value in values] if numbers else values


class FixedPoint(Settings):
    """Weights of `bits` bits and no planes, unless they are ternary."""

    weight_bits = property(lambda self: self.bits)
    branches = property(lambda self: 0)


class TemperatureSettings(Settings):
    """In units of 1 / (largest level): the same number means the same softness in every layer."""

    schedule: Literal["constant", "linear", "exponential"] = "constant"
    start: Positive
    end: Positive


class DbqSettings(Settings):
    branches: Annotated[int, Field(ge=1, le=3)]
    forward: Literal["hard", "soft"]
    temperature: TemperatureSettings
    scales: Scales
    gradient_scale: Literal["lsq", "none"]  # lsq: gradients of the scales times 1 / sqrt(number of weights)
    initial: Literal["least_squares", "largest"]  # branch scales at the start: least squares, or powers of 1/3 of max |w|

    @field_validator("temperature", mode="before")
    @classmethod
    def _constant(cls, value):
        return {"start": float(value), "end": float(value)} if isinstance(value, (int, float)) and not isinstance(value, bool) else value

    weight_bits = property(lambda self: 2 * self.branches)  # a ternary plane is stored in 2 bits a weight


class UniformSettings(FixedPoint):
    bits: Annotated[int, Field(ge=2, le=8)]


class TwnSettings(Settings):
    scales: Scales

    weight_bits = property(lambda self: 2)
    branches = property(lambda self: 1)


class TtqSettings(Settings):
    threshold: Annotated[float, Field(ge=0.0, le=0.99)]  # of the largest magnitude
    initial: Literal["one", "mean"]  # of the learnt scales: 1.0, or the mean magnitude on their side of 0
    gradient_scale: Literal["lsq", "none"]

    weight_bits = property(lambda self: 2)
    branches = property(lambda self: 2)  # the positive and the negative weights are summed on their own


class LsqSettings(FixedPoint):
    bits: Annotated[int, Field(ge=2, le=8)]
    levels: Literal["symmetric", "full"]  # full: one more level below 0, as published

    branches = property(lambda self: int(self.bits == 2 and self.levels == "symmetric"))


class LqNetsSettings(Settings):
    branches: Annotated[int, Field(ge=1, le=4)]  # binary ones
    scales: Scales

    weight_bits = property(lambda self: self.branches)


class QuantizationNetworksSettings(Settings):
    levels: Annotated[list[Annotated[int, Field(ge=-127, le=127)]], BeforeValidator(lambda value: _integers(words(value)))]
    temperature_step: Positive  # per epoch
    temperature_cap: Positive

    @field_validator("levels")
    @classmethod
    def _ascending(cls, levels):
        if len(levels) < 2 or levels != sorted(set(levels)):
            raise ValueError("give two or more ascending integers from -127 to 127")
        return levels

    weight_bits = property(lambda self: max(2, max(abs(level) for level in self.levels).bit_length() + 1))
    branches = property(lambda self: int(self.levels == [-1, 0, 1]))


class SawbSettings(FixedPoint):
    bits: Literal[2, 3, 4, 8]

    branches = property(lambda self: int(self.bits == 2))


METHODS: dict[str, type[Settings]] = {
    "dbq": DbqSettings,
    "uniform": UniformSettings,
    "twn": TwnSettings,
    "ttq": TtqSettings,
    "lsq": LsqSettings,
    "lq_nets": LqNetsSettings,
    "quantization_networks": QuantizationNetworksSettings,
    "sawb": SawbSettings,
}
