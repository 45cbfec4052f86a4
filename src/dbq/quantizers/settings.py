"""What params.yaml may say of each method: one dataclass a method, with the bits and planes that follow from it."""

from dataclasses import dataclass

from dbq.schema import setting


@dataclass(frozen=True)
class TemperatureConfig:
    schedule: str = setting(choices=("constant", "linear", "exponential"))
    start: float = setting(minimum=1e-6)  # in units of 1 / (largest level)
    end: float = setting(minimum=1e-6)


@dataclass(frozen=True)
class DbqConfig:
    branches: int = setting(minimum=1, maximum=3)
    forward: str = setting(choices=("hard", "soft"))
    temperature: TemperatureConfig = setting()
    scales: str = setting(choices=("layer", "channel"))
    gradient_scale: str = setting(choices=("lsq", "none"))
    initial: str = setting(choices=("least_squares", "largest"))  # branch scales at the start: least squares, or powers of 1/3 of max |w|

    @property
    def weight_bits(self) -> int:
        return 2 * self.branches  # a ternary plane is stored in 2 bits a weight


@dataclass(frozen=True)
class UniformConfig:
    bits: int = setting(minimum=2, maximum=8)

    @property
    def weight_bits(self) -> int:
        return self.bits

    @property
    def branches(self) -> int:
        return 0


METHODS = {"dbq": DbqConfig, "uniform": UniformConfig}
