"""What params.yaml may say, and what it means for one run.

`read` gives the plain tree; `dataset`, `pretrain`, `experiment` resolve one entry for the active profile. The tree may hold only
the keys that a pipeline stage declares: reading another one is an error, so that no result depends on a key that DVC doesn't watch.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from dbq.errors import DbqError
from dbq.quantizers.settings import METHODS
from dbq.schema import parse, setting

PROFILES = ("smoke", "cifar10", "paper")
NETWORKS = ("resnet20", "mobilenet_v1", "mobilenet_v2", "shufflenet_v2")
FORMS = ("32x32", "224x224")
SOURCES = ("digits", "cifar10", "tiny_imagenet", "imagenet", "visual_wake_words")


@dataclass(frozen=True)
class DatasetConfig:
    source: str = setting(choices=SOURCES)
    classes: int = setting(minimum=2)
    form: str = setting(choices=FORMS)  # of the networks that learn it
    validation: int = setting(minimum=1)  # images carved from train
    split_seed: int = setting(minimum=0)
    stand_in: bool = setting()
    augment: dict[str, int | bool] = setting()  # pad in pixels, flip
    normalise: str = setting(choices=("measured", "imagenet"))


@dataclass(frozen=True)
class TrainingConfig:
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
    compile: bool = setting()  # torch.compile
    deterministic: bool = setting()


@dataclass(frozen=True)
class ActivationConfig:
    clip: str = setting(choices=("batch_norm", "learnt"))
    k: float = setting(minimum=0.1)
    calibration_images: int = setting(minimum=1)


@dataclass(frozen=True)
class PolicyConfig:
    first: int | str = setting(choices=(2, 3, 4, 5, 6, 7, 8, "method", "float"))
    depthwise: int | str = setting(choices=(2, 3, 4, 5, 6, 7, 8, "method", "float"))
    classifier: int | str = setting(choices=(2, 3, 4, 5, 6, 7, 8, "method", "float"))
    other: int | str = setting(choices=(2, 3, 4, 5, 6, 7, 8, "method", "float"))


@dataclass(frozen=True)
class CostConfig:
    reading: str = setting(choices=("adder_only", "two_bit_multiplier"))
    count_bias: bool = setting()
    scale_bits: int = setting(minimum=1, maximum=32)


@dataclass(frozen=True)
class EngineConfig:
    fixed_point_bits: int = setting(minimum=2, maximum=32)  # of the multipliers that stand for scales
    accumulator_bits: int = setting(minimum=4, maximum=64)
    checked_images: int = setting(minimum=1)  # whose activations are compared layer by layer
    width_images: int = setting(minimum=1)  # validation images on which the smallest width is looked for
    batch_size: int = setting(minimum=1)
    top1_bound: float = setting(minimum=0.0)  # points of top1 that engine and training graph may differ


@dataclass(frozen=True)
class HardwareConfig:
    measure: bool = setting()


@dataclass(frozen=True)
class OverheadConfig:
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
    seed: int = setting(minimum=0)
    weights: dict[str, str] = setting()  # profile -> key of external_weights
    profiles: list[str] = setting()


@dataclass(frozen=True)
class ExperimentEntry:
    network: str = setting(choices=NETWORKS)
    dataset: str = setting()
    method: str = setting(choices=tuple(METHODS))
    activation_bits: int = setting(minimum=2, maximum=32)  # 32 leaves the activations in float
    policy: str = setting()
    schedule: str = setting()
    seeds: list[int] = setting()
    quantizer: dict = setting()
    training: dict = setting()
    profiles: list[str] = setting()


@dataclass(frozen=True)
class AblationEntry:
    base: str = setting()  # a key of experiments
    schedule: str = setting()
    quantizer: dict = setting()
    training: dict = setting()
    policy: str = setting()
    profiles: list[str] = setting()


@dataclass(frozen=True)
class Pretrain:
    """A float network to train, or to take from external weights."""

    key: str
    profile: str
    network: str
    dataset: str
    dataset_config: DatasetConfig
    training: TrainingConfig
    seed: int
    weights: ExternalWeights | None


@dataclass(frozen=True)
class Experiment:
    """A network to quantize."""

    key: str
    profile: str
    network: str
    dataset: str
    dataset_config: DatasetConfig
    method: str
    quantizer: object  # the method's dataclass of dbq.quantizers.settings
    activation_bits: int
    activations: ActivationConfig
    policy: PolicyConfig
    training: TrainingConfig
    seeds: list[int]

    @property
    def pretrain_key(self) -> str:
        return f"{self.network}-{self.dataset}"


def read(path="params.yaml") -> dict:
    """The tree of params.yaml (or of a JSON file, for machines without PyYAML)."""
    try:
        text = Path(path).read_text()
    except FileNotFoundError:
        raise DbqError(f"{path}: no such file", "run from the root of the repository, or name the file") from None
    if str(path).endswith(".json"):
        return json.loads(text)
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise DbqError(f"{path}: not valid YAML ({error})", "mend the line that it names") from None


def lookup(params: dict, *names: str):
    """params[a][b].. ; an absent key is an error that lists what is there."""
    value = params
    for depth, name in enumerate(names):
        if not isinstance(value, dict) or name not in value:
            known = ", ".join(map(str, value)) if isinstance(value, dict) else repr(value)
            raise DbqError(
                f"params.yaml: no key {'.'.join(map(str, names[: depth + 1]))}",
                f"there is {known}; add the key, or declare it under `params` of the stage in dvc.yaml if it exists",
            )
        value = value[name]
    return value


def check_profile(profile: str) -> str:
    if profile not in PROFILES:
        raise DbqError(f"profile: unknown value {profile!r}", f"choose one of {', '.join(PROFILES)}")
    return profile


def dataset(params: dict, profile: str, name: str) -> DatasetConfig:
    """The data set `name` in this profile."""
    where = f"datasets.{name}.{check_profile(profile)}"
    mapping = lookup(params, "datasets", name, profile)
    if mapping is None:
        raise DbqError(
            f"{where}: null, so the profile {profile} doesn't prepare this data set", "choose another profile, or write an entry"
        )
    config = parse(DatasetConfig, mapping, where)
    if set(config.augment) != {"pad", "flip"}:
        raise DbqError(f"{where}.augment: expected the keys pad and flip", "write augment: {pad: 4, flip: true}")
    return config


def training(params: dict, profile: str, schedule: str, overrides: dict, where: str) -> TrainingConfig:
    """A schedule of this profile with an experiment's overrides."""
    base = lookup(params, "schedules", schedule, check_profile(profile))
    label = f"{where}.training" if overrides else f"schedules.{schedule}.{profile}"
    return parse(TrainingConfig, {**base, **overrides}, label)


def pretrain(params: dict, profile: str, key: str) -> Pretrain:
    """The float network `key` in this profile."""
    entry = parse(PretrainEntry, lookup(params, "pretrain", key), f"pretrain.{key}")
    if key != f"{entry.network}-{entry.dataset}":
        raise DbqError(f"pretrain.{key}: the key is not NETWORK-DATASET", f"call it {entry.network}-{entry.dataset}")
    weights = None
    if profile in entry.weights:
        name = entry.weights[profile]
        weights = parse(ExternalWeights, lookup(params, "external_weights", name), f"external_weights.{name}")
        if weights.network != entry.network:
            raise DbqError(f"pretrain.{key}.weights: {name} holds a {weights.network}", f"name weights of a {entry.network}")
    recipe = training(params, profile, entry.schedule, {}, f"pretrain.{key}")
    return Pretrain(key, profile, entry.network, entry.dataset, dataset(params, profile, entry.dataset), recipe, entry.seed, weights)


def experiment(params: dict, profile: str, key: str) -> Experiment:
    """The experiment `key` in this profile, with every default resolved."""
    where = f"experiments.{key}"
    entry = parse(ExperimentEntry, lookup(params, "experiments", key), where)
    if not entry.seeds or len(set(entry.seeds)) != len(entry.seeds) or min(entry.seeds) < 0:
        raise DbqError(f"{where}.seeds: {entry.seeds}", "give at least one seed, each once, none below 0")
    quantizer = parse(METHODS[entry.method], {**lookup(params, "quantizers", entry.method), **entry.quantizer}, f"{where}.quantizer")
    policy = parse(PolicyConfig, lookup(params, "policies", entry.policy), f"policies.{entry.policy}")
    activations = parse(ActivationConfig, lookup(params, "activations"), "activations")
    recipe = training(params, profile, entry.schedule, entry.training, where)
    data = dataset(params, profile, entry.dataset)
    return Experiment(
        key, profile, entry.network, entry.dataset, data, entry.method, quantizer,
        entry.activation_bits, activations, policy, recipe, entry.seeds,
    )  # fmt: skip


def ablation(params: dict, profile: str, key: str) -> Experiment:
    """The experiment that an ablation makes of its base; only its first seed is trained."""
    where = f"ablations.{key}"
    entry = parse(AblationEntry, lookup(params, "ablations", key), where)
    base = lookup(params, "experiments", entry.base)
    changed = {
        **base, "schedule": entry.schedule, "policy": entry.policy, "training": entry.training, "seeds": base["seeds"][:1],
        "quantizer": {**base["quantizer"], **entry.quantizer},
    }  # fmt: skip
    resolved = experiment({**params, "experiments": {key: changed}}, profile, key)
    return dataclasses.replace(resolved, key=f"ablation-{key}")


def cost(params: dict) -> CostConfig:
    return parse(CostConfig, lookup(params, "cost"), "cost")


def engine(params: dict) -> EngineConfig:
    return parse(EngineConfig, lookup(params, "engine"), "engine")


def hardware(params: dict) -> HardwareConfig:
    return parse(HardwareConfig, lookup(params, "hardware"), "hardware")


def overhead(params: dict, profile: str) -> OverheadConfig:
    where = f"overhead.{check_profile(profile)}"
    return parse(OverheadConfig, lookup(params, "overhead", profile), where)


def fingerprint(value) -> str:
    """Hex sha256 of everything that decides a training's result; checkpoints carry it."""
    plain = dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def check(params: dict) -> None:
    """Parse every entry of params.yaml in every profile that it names."""
    check_profile(lookup(params, "profile"))
    cost(params), engine(params), hardware(params)
    for profile in lookup(params, "overhead"):
        overhead(params, profile)
    for name, profiles in lookup(params, "datasets").items():
        for profile in profiles:
            if profiles[profile] is not None:
                dataset(params, profile, name)
    for section, resolve, kind in (("pretrain", pretrain, PretrainEntry), ("experiments", experiment, ExperimentEntry)):
        for key, entry in lookup(params, section).items():
            for profile in parse(kind, entry, f"{section}.{key}").profiles:
                resolved = resolve(params, check_profile(profile), key)
                if section == "experiments" and profile not in lookup(params, "pretrain", resolved.pretrain_key, "profiles"):
                    raise DbqError(
                        f"experiments.{key}.profiles: {profile} has no float network {resolved.pretrain_key}",
                        f"add {profile} to pretrain.{resolved.pretrain_key}.profiles",
                    )
    for key, entry in lookup(params, "ablations").items():
        for profile in parse(AblationEntry, entry, f"ablations.{key}").profiles:
            ablation(params, check_profile(profile), key)
