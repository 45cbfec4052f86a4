"""The values that one training, one data set or one measurement needs. `plan.py` makes them from the presets of params.yaml."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SerializeAsAny, model_validator

from dbq.settings.quantizers import METHODS
from dbq.settings.values import Settings, words

NETWORKS = ("resnet20", "mobilenet_v1", "mobilenet_v2", "shufflenet_v2")
Network = Literal["resnet20", "mobilenet_v1", "mobilenet_v2", "shufflenet_v2"]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Rate = Annotated[float, Field(ge=0.0, le=1e3)]
Count = Annotated[int, Field(ge=0, le=1_000_000)]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]
LayerChoice = Literal[2, 3, 4, 5, 6, 7, 8, "method", "float"]


class Augment(Settings):
    pad: Annotated[int, Field(ge=0, le=32)]  # pixels around the image before a random crop of its own size
    flip: bool


class DatasetSettings(Settings):
    source: Literal["digits", "cifar10", "imagenet", "visual_wake_words"]
    classes: Annotated[int, Field(ge=2, le=100_000)]
    form: Literal["32x32", "224x224"]  # of the networks that learn it
    validation: Annotated[int, Field(ge=1)]  # images carved from train
    split_seed: Seed
    stand_in: bool  # other images in the place of the data set that the name promises
    augment: Augment
    normalise: Literal["measured", "imagenet"]


class TrainingSettings(Settings):
    epochs: Annotated[int, Field(ge=0, le=10_000)]
    batch_size: Annotated[int, Field(ge=2, le=65_536)]
    learning_rate: Rate
    schedule: Literal["cosine", "step", "constant"]
    milestones: list[Annotated[int, Field(ge=1)]]
    warmup_epochs: Count
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)]
    nesterov: bool
    weight_decay: Rate
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)]
    scale_learning_rate: Rate  # of the quantizers' scales, as a multiple of learning_rate
    bn_batches: Count
    frozen_bn_epochs: Count
    distillation: Share
    distillation_temperature: Annotated[float, Field(ge=0.1, le=1e3)]
    precision: Literal["fp32", "bf16"]
    kernels: Literal["eager", "compiled"]
    threads: Annotated[int, Field(ge=1, le=256)]
    deterministic: bool

    @model_validator(mode="after")
    def _fits(self):
        if self.warmup_epochs > self.epochs > 0:
            raise ValueError(f"warmup_epochs {self.warmup_epochs} exceed epochs {self.epochs}: shorten the warm-up")
        return self


class ActivationSettings(Settings):
    clip: Literal["batch_norm", "learnt"]
    k: Annotated[float, Field(ge=0.1, le=1e3)]
    calibration_images: Annotated[int, Field(ge=1, le=100_000)] = 512  # training images that measure a range without batch norm
    gradient: Literal["input", "output"]


class PolicySettings(Settings):
    first: LayerChoice
    depthwise: LayerChoice
    classifier: LayerChoice
    other: LayerChoice

    @model_validator(mode="after")
    def _leaves_something(self):
        if "method" not in (self.first, self.depthwise, self.classifier, self.other):
            raise ValueError("no kind of layer is left to the method: write `method` at one of first, depthwise, classifier, other")
        return self


class ExternalWeights(Settings):
    file: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    network: Network
    source: str


class CostSettings(Settings):
    reading: Literal["adder_only", "two_bit_multiplier"]
    count_bias: bool
    scale_bits: Annotated[int, Field(ge=1, le=32)]


class EngineSettings(Settings):
    fixed_point_bits: Annotated[int, Field(ge=2, le=32)]  # of the multipliers that stand for scales
    accumulator_bits: Annotated[int, Field(ge=4, le=64)]
    checked_images: Annotated[int, Field(ge=1)]  # whose activations are compared layer by layer
    width_images: Annotated[int, Field(ge=1)]  # validation images on which the smallest width is looked for
    batch_size: Annotated[int, Field(ge=1)]
    top1_bound: Annotated[float, Field(ge=0.0, le=100.0)]  # points of top1 that engine and training graph may differ


class HardwareSettings(Settings):
    measure: bool


OVERHEAD_METHODS = (
    "float", "dbq-1t", "dbq-2t", "dbq-3t", "dbq-1t-compiled", "dbq-2t-compiled", "dbq-3t-compiled", "float-by-input", "dbq-2t-by-input",
    "uniform-8", "twn", "ttq", "lsq-2", "lsq-4", "lq-nets-2", "quantization-networks", "sawb-4",
    "brevitas-uniform-8", "brevitas-lsq-2", "brevitas-lsq-4",
)  # fmt: skip


def _known_method(name: str) -> str:
    if name not in OVERHEAD_METHODS:
        raise ValueError(f"choose from {', '.join(OVERHEAD_METHODS)}")
    return name


OverheadMethod = Annotated[str, AfterValidator(_known_method)]


class OverheadSettings(Settings):
    networks: Annotated[list[Network], BeforeValidator(words)]
    methods: Annotated[list[OverheadMethod], BeforeValidator(lambda value: list(OVERHEAD_METHODS) if value == "all" else words(value))]
    batch_size: Annotated[int, Field(ge=2)]
    steps: Annotated[int, Field(ge=2)]  # timed ones of each method
    memory: bool  # peak memory too


class Start(Settings):
    """A float network that rows begin from: trained here, or taken from external weights."""

    key: str
    profile: str
    network: Network
    dataset: str
    dataset_settings: DatasetSettings
    training: TrainingSettings
    seed: Seed
    weights: ExternalWeights | None


class Row(Settings):
    """One training of one network on one data set under one quantizer, activation width, layer policy and schedule, with its seeds."""

    key: str
    profile: str
    start: str  # key of the float network
    network: Network
    dataset: str
    dataset_settings: DatasetSettings
    method: str
    quantizer: SerializeAsAny[Settings]
    weight_bits: int  # of one stored weight
    branches: int  # ternary or binary planes; 0: fixed point
    activation_bits: Annotated[int, Field(ge=2, le=32)]  # 32: activations stay in float
    activations: ActivationSettings
    policy: PolicySettings
    training: TrainingSettings
    seeds: list[Seed]  # none where the profile doesn't run the row
    judged: Literal["test", "validation"]
    compared_with: str | None  # the row that it extends

    @model_validator(mode="before")
    @classmethod
    def _typed_quantizer(cls, values):
        """The settings of the method, when the row comes from a file."""
        if isinstance(values, dict) and isinstance(values.get("quantizer"), dict):
            values = {**values, "quantizer": METHODS[values["method"]].model_validate(values["quantizer"])}
        return values
