"""What params.yaml may say of each method: one dataclass a method, with the bits and planes that follow from it."""

from dataclasses import dataclass

from dbq.errors import DbqError
from dbq.settings.schema import setting


@dataclass(frozen=True)
class TemperatureSettings:
    schedule: str = setting(choices=("constant", "linear", "exponential"))
    start: float = setting(minimum=1e-6)  # in units of 1 / (largest level)
    end: float = setting(minimum=1e-6)


@dataclass(frozen=True)
class DbqSettings:
    branches: int = setting(minimum=1, maximum=3)
    forward: str = setting(choices=("hard", "soft"))
    temperature: TemperatureSettings = setting()
    scales: str = setting(choices=("layer", "channel"))
    gradient_scale: str = setting(choices=("lsq", "none"))
    initial: str = setting(choices=("least_squares", "largest"))  # branch scales at the start: least squares, or powers of 1/3 of max |w|

    @property
    def weight_bits(self) -> int:
        return 2 * self.branches  # a ternary plane is stored in 2 bits a weight


@dataclass(frozen=True)
class UniformSettings:
    bits: int = setting(minimum=2, maximum=8)

    @property
    def weight_bits(self) -> int:
        return self.bits

    @property
    def branches(self) -> int:
        return 0


@dataclass(frozen=True)
class TwnSettings:
    scales: str = setting(choices=("layer", "channel"))

    weight_bits = 2
    branches = 1


@dataclass(frozen=True)
class TtqSettings:
    threshold: float = setting(minimum=0.0, maximum=0.99)  # of the largest magnitude
    initial: str = setting(choices=("one", "mean"))  # of the learnt scales: 1.0, or the mean magnitude on their side of 0
    gradient_scale: str = setting(choices=("lsq", "none"))  # of the learnt scales

    weight_bits = 2
    branches = 2  # the positive and the negative weights are summed on their own


@dataclass(frozen=True)
class LsqSettings:
    bits: int = setting(minimum=2, maximum=8)
    levels: str = setting(choices=("symmetric", "full"))  # full: one more level below 0, as published

    @property
    def weight_bits(self) -> int:
        return self.bits

    @property
    def branches(self) -> int:
        return 1 if self.bits == 2 and self.levels == "symmetric" else 0


@dataclass(frozen=True)
class LqNetsSettings:
    branches: int = setting(minimum=1, maximum=4)  # binary ones
    scales: str = setting(choices=("layer", "channel"))

    @property
    def weight_bits(self) -> int:
        return self.branches


@dataclass(frozen=True)
class QuantizationNetworksSettings:
    levels: list[int] = setting()  # in ascending order
    temperature_step: float = setting(minimum=1e-6)  # per epoch
    temperature_cap: float = setting(minimum=1e-6)

    def __post_init__(self):
        if len(self.levels) < 2 or self.levels != sorted(set(self.levels)) or max(map(abs, self.levels)) > 127:
            raise DbqError(f"quantization_networks.levels: {self.levels}", "give two or more ascending integers from -127 to 127")

    @property
    def weight_bits(self) -> int:
        return max(2, max(abs(level) for level in self.levels).bit_length() + 1)

    @property
    def branches(self) -> int:
        return 1 if list(self.levels) == [-1, 0, 1] else 0


@dataclass(frozen=True)
class SawbSettings:
    bits: int = setting(choices=(2, 3, 4, 8))

    @property
    def weight_bits(self) -> int:
        return self.bits

    @property
    def branches(self) -> int:
        return 1 if self.bits == 2 else 0


METHODS = {
    "dbq": DbqSettings,
    "uniform": UniformSettings,
    "twn": TwnSettings,
    "ttq": TtqSettings,
    "lsq": LsqSettings,
    "lq_nets": LqNetsSettings,
    "quantization_networks": QuantizationNetworksSettings,
    "sawb": SawbSettings,
}
