"""What each section of params.yaml holds: types, ranges and choices. `dbq.settings.resolve` reads and resolves them.

The settings of a quantization method are in dbq.settings.quantizers.
"""

from dataclasses import dataclass

from dbq.settings.quantizers import METHODS
from dbq.settings.schema import setting

PROFILES = ("smoke", "cifar10", "paper")
NETWORKS = ("resnet20", "mobilenet_v1", "mobilenet_v2", "shufflenet_v2")
FORMS = ("32x32", "224x224")
SOURCES = ("digits", "cifar10", "tiny_imagenet", "imagenet", "visual_wake_words")


@dataclass(frozen=True)
class DatasetSettings:
    source: str = setting(choices=SOURCES)
    classes: int = setting(minimum=2)
    form: str = setting(choices=FORMS)  # of the networks that learn it
    validation: int = setting(minimum=1)  # images carved from train
    split_seed: int = setting(minimum=0)
    stand_in: bool = setting()
    augment: dict[str, int | bool] = setting()  # pad in pixels, flip
    normalise: str = setting(choices=("measured", "imagenet"))


@dataclass(frozen=True)
class TrainingSettings:
    epochs: int = setting(minimum=0)
    batch_size: int = setting(minimum=2)
    learning_rate: float = setting(minimum=0.0)
    schedule: str = setting(choices=("cosine", "step", "constant"))
    milestones: list[int] = setting()
    warmup_epochs: int = setting(minimum=0)
    momentum: float = setting(minimum=0.0, maximum=1.0)
    nesterov: bool = setting()
    weight_decay: float = setting(minimum=0.0)
    label_smoothing: float = setting(minimum=0.0, maximum=1.0)
    scale_learning_rate: float = setting(minimum=0.0)  # of the quantizers' scales, as a multiple of learning_rate
    bn_batches: int = setting(minimum=0)  # batches that re-estimate the batch-norm statistics at the end
    frozen_bn_epochs: int = setting(minimum=0)  # last epochs in which batch norm keeps its statistics
    distillation: float = setting(minimum=0.0, maximum=1.0)  # share of the loss that is the distance from the float network's logits
    distillation_temperature: float = setting(minimum=0.1)
    precision: str = setting(choices=("fp32", "bf16"))
    compile: bool | str = setting(choices=("auto", False, True, "quantizers"), counts_as=False)  # policies.compile_quantizers
    deterministic: bool = setting()


@dataclass(frozen=True)
class ActivationSettings:
    clip: str = setting(choices=("batch_norm", "learnt"))
    k: float = setting(minimum=0.1)
    calibration_images: int = setting(minimum=1)
    gradient: str = setting(choices=("input", "output"), default="input", later=True)


@dataclass(frozen=True)
class PolicySettings:
    first: int | str = setting(choices=(2, 3, 4, 5, 6, 7, 8, "method", "float"))
    depthwise: int | str = setting(choices=(2, 3, 4, 5, 6, 7, 8, "method", "float"))
    classifier: int | str = setting(choices=(2, 3, 4, 5, 6, 7, 8, "method", "float"))
    other: int | str = setting(choices=(2, 3, 4, 5, 6, 7, 8, "method", "float"))


@dataclass(frozen=True)
class CostSettings:
    reading: str = setting(choices=("adder_only", "two_bit_multiplier"))
    count_bias: bool = setting()
    scale_bits: int = setting(minimum=1, maximum=32)


@dataclass(frozen=True)
class EngineSettings:
    fixed_point_bits: int = setting(minimum=2, maximum=32)  # of the multipliers that stand for scales
    accumulator_bits: int = setting(minimum=4, maximum=64)
    checked_images: int = setting(minimum=1)  # whose activations are compared layer by layer
    width_images: int = setting(minimum=1)  # validation images on which the smallest width is looked for
    batch_size: int = setting(minimum=1)
    top1_bound: float = setting(minimum=0.0)  # points of top1 that engine and training graph may differ


@dataclass(frozen=True)
class HardwareSettings:
    measure: bool = setting()


@dataclass(frozen=True)
class OverheadSettings:
    networks: list[str] = setting()
    methods: list[str] = setting()  # names of dbq.benchmark.subjects
    batch_size: int = setting(minimum=2)
    steps: int = setting(minimum=2)  # timed ones of each method
    memory: bool = setting()  # on a CPU: a process for each method


@dataclass(frozen=True)
class ExternalWeights:
    file: str = setting()
    sha256: str = setting()
    network: str = setting(choices=NETWORKS)
    source: str = setting()


@dataclass(frozen=True)
class PretrainEntry:
    network: str = setting(choices=NETWORKS)
    dataset: str = setting()
    schedule: str = setting()
    seeds: dict[str, list | dict] = setting()  # as those of an experiment, but one
    weights: dict[str, str] = setting()  # profile -> key of external_weights


@dataclass(frozen=True)
class ExperimentEntry:
    network: str = setting(choices=NETWORKS)
    dataset: str = setting()
    method: str = setting(choices=tuple(METHODS))
    activation_bits: int = setting(minimum=2, maximum=32)  # 32 leaves the activations in float
    policy: str = setting()
    schedule: str = setting()
    seeds: dict[str, list | dict] = setting()  # profile -> seeds or {recorded: digest}; it isn't run in a profile that is missing
    quantizer: dict = setting()
    training: dict = setting()


@dataclass(frozen=True)
class AblationEntry:
    base: str = setting()  # a key of experiments
    schedule: str = setting()
    quantizer: dict = setting()
    training: dict = setting()
    activations: dict = setting()  # overrides keys of `activations`
    policy: str = setting()
    seeds: dict = setting()


@dataclass(frozen=True)
class SweepRow:
    experiment: str = setting()  # a key of experiments, whose method, settings, schedule and activations it has
    policy: str = setting()


@dataclass(frozen=True)
class SweepEntry:
    network: str = setting(choices=NETWORKS)
    dataset: str = setting()
    schedule: str = setting()  # of every row, instead of the experiments'
    rows: list[str] = setting()  # keys of sweep_rows
    activations: dict = setting()  # overrides keys of `activations`
    seeds: dict[str, list | dict] = setting()  # as those of an experiment


@dataclass(frozen=True)
class Start:
    """A float network to train, or to take from external weights."""

    key: str
    profile: str
    network: str
    dataset: str
    dataset_settings: DatasetSettings
    training: TrainingSettings
    seed: int
    weights: ExternalWeights | None


@dataclass(frozen=True)
class Row:
    """A network to quantize."""

    key: str
    profile: str
    network: str
    dataset: str
    dataset_settings: DatasetSettings
    method: str
    quantizer: object  # the method's dataclass of dbq.settings.quantizers
    activation_bits: int
    activations: ActivationSettings
    policy: PolicySettings
    training: TrainingSettings
    seeds: list[int]
    start: str  # the float network that it starts from
