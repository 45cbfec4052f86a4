"""What params.yaml may say, and what it means for one run.

`read` gives the plain tree; `dataset`, `pretrain`, `experiment` resolve one entry for the active profile. The tree may hold only
the keys that a pipeline stage declares: reading another one is an error, so that no result depends on a key that DVC doesn't watch.
"""

import dataclasses
import hashlib
import json
from pathlib import Path

from dbq.errors import DbqError
from dbq.settings.entries import (
    PROFILES,
    AblationEntry,
    ActivationSettings,
    CostSettings,
    DatasetSettings,
    EngineSettings,
    ExperimentEntry,
    ExternalWeights,
    HardwareSettings,
    OverheadSettings,
    PolicySettings,
    PretrainEntry,
    Row,
    Start,
    SweepEntry,
    SweepRow,
    TrainingSettings,
)
from dbq.settings.quantizers import METHODS
from dbq.settings.schema import parse, plain


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


def dataset(params: dict, profile: str, name: str) -> DatasetSettings:
    """The data set `name` in this profile."""
    where = f"datasets.{name}.{check_profile(profile)}"
    mapping = lookup(params, "datasets", name, profile)
    if mapping is None:
        raise DbqError(
            f"{where}: null, so the profile {profile} doesn't prepare this data set", "choose another profile, or write an entry"
        )
    config = parse(DatasetSettings, mapping, where)
    if set(config.augment) != {"pad", "flip"}:
        raise DbqError(f"{where}.augment: expected the keys pad and flip", "write augment: {pad: 4, flip: true}")
    return config


def training(params: dict, profile: str, schedule: str, overrides: dict, where: str) -> TrainingSettings:
    """A schedule of this profile with an experiment's overrides."""
    base = lookup(params, "schedules", schedule, check_profile(profile))
    label = f"{where}.training" if overrides else f"schedules.{schedule}.{profile}"
    return parse(TrainingSettings, {**base, **overrides}, label)


def pretrain(params: dict, profile: str, key: str) -> Start:
    """The float network `key` in this profile."""
    entry = parse(PretrainEntry, lookup(params, "pretrain", key), f"pretrain.{key}")
    _check_key(key, entry, f"pretrain.{key}")
    weights = None
    if profile in entry.weights:
        name = entry.weights[profile]
        weights = parse(ExternalWeights, lookup(params, "external_weights", name), f"external_weights.{name}")
        if weights.network != entry.network:
            raise DbqError(f"pretrain.{key}.weights: {name} holds a {weights.network}", f"name weights of a {entry.network}")
    recipe = training(params, profile, entry.schedule, {}, f"pretrain.{key}")
    seeds = _seeds(entry.seeds, profile, f"pretrain.{key}.seeds")
    if len(seeds) > 1:
        raise DbqError(f"pretrain.{key}.seeds.{profile}: {seeds}", "give one: every quantized row starts from this network")
    return Start(key, profile, entry.network, entry.dataset, dataset(params, profile, entry.dataset), recipe, seeds[0], weights)


def experiment(params: dict, profile: str, key: str) -> Row:
    """The experiment `key` in this profile, with every default resolved."""
    where = f"experiments.{key}"
    entry = parse(ExperimentEntry, lookup(params, "experiments", key), where)
    seeds = _seeds(entry.seeds, profile, f"{where}.seeds")
    quantizer = parse(METHODS[entry.method], {**lookup(params, "quantizers", entry.method), **entry.quantizer}, f"{where}.quantizer")
    policy = parse(PolicySettings, lookup(params, "policies", entry.policy), f"policies.{entry.policy}")
    activations = parse(ActivationSettings, lookup(params, "activations"), "activations")
    recipe = training(params, profile, entry.schedule, entry.training, where)
    data = dataset(params, profile, entry.dataset)
    return Row(
        key, profile, entry.network, entry.dataset, data, entry.method, quantizer,
        entry.activation_bits, activations, policy, recipe, seeds, f"{entry.network}-{entry.dataset}",
    )  # fmt: skip


def _check_key(key: str, entry: PretrainEntry | SweepEntry, where: str) -> None:
    name = f"{entry.network}-{entry.dataset}"
    if key != name and not key.startswith(f"{name}-"):
        raise DbqError(f"{where}: the key is neither NETWORK-DATASET nor NETWORK-DATASET-NAME", f"call it {name}")


def _seeds(by_profile: dict, profile: str, where: str) -> list[int]:
    """The seeds of this profile; raises where there are none, or one is no seed."""
    seeds = by_profile.get(profile)
    if seeds is None:
        raise DbqError(
            f"{where}: nothing for the profile {profile}, so it isn't run there", f"add {profile}: [0], or choose another profile"
        )
    if is_recorded(by_profile, profile):
        raise DbqError(f"{where}.{profile}: recorded, so it isn't trained again", "write seeds, as in [0, 1, 2], to train it")
    if (
        not isinstance(seeds, list)
        or not seeds
        or len(set(map(str, seeds))) != len(seeds)
        or not all(type(s) is int and s >= 0 for s in seeds)
    ):
        raise DbqError(f"{where}.{profile}: {seeds}", "give at least one seed, each once, none below 0, as in [0, 1, 2]")
    return seeds


def is_recorded(seeds: dict, profile: str) -> bool:
    """Whether {recorded: DIGEST} stands in the place of this profile's seeds (pipeline/recorded.py)."""
    entry = seeds.get(profile)
    return isinstance(entry, dict) and set(entry) == {"recorded"}


def trained_in(seeds: dict) -> list[str]:
    """The profiles in which an entry with these seeds is trained."""
    return [profile for profile in seeds if not is_recorded(seeds, profile)]


def settings_of(entry: Start | Row) -> str:
    """Fingerprint of everything in params.yaml that decides a result but its seeds; result files carry it."""
    names = ("network", "dataset_settings", "training")
    quantized = ("method", "quantizer", "activation_bits", "activations", "policy")
    names += quantized if isinstance(entry, Row) else ("weights",)
    return fingerprint({name: plain(getattr(entry, name)) for name in names})


def ablation(params: dict, profile: str, key: str) -> Row:
    """The experiment that an ablation makes of its base."""
    where = f"ablations.{key}"
    entry = parse(AblationEntry, lookup(params, "ablations", key), where)
    base = lookup(params, "experiments", entry.base)
    changed = {
        **base, "schedule": entry.schedule, "policy": entry.policy, "training": entry.training,
        "quantizer": {**base["quantizer"], **entry.quantizer}, "seeds": entry.seeds,
    }  # fmt: skip
    _seeds(entry.seeds, profile, f"{where}.seeds")
    changes = {"experiments": {key: changed}, "activations": {**lookup(params, "activations"), **entry.activations}}
    resolved = experiment({**params, **changes}, profile, key)
    start = lookup(params, "ablation_float")
    if start != resolved.start and not start.startswith(f"{resolved.start}-"):
        raise DbqError(
            f"ablation_float: {start}, and {where} is an ablation of {resolved.start}",
            f"name {resolved.start} or one of its variants",
        )
    return dataclasses.replace(resolved, key=f"ablation-{key}", start=start)


def sweep_rows(params: dict) -> dict[str, tuple[str, str]]:
    """Name of every row of every sweep, in the order of value: (sweep, row)."""
    chosen = {key: lookup(params, "sweeps", key, "rows") for key in lookup(params, "sweeps")}
    return {f"sweep-{key}-{row}": (key, row) for row in lookup(params, "sweep_rows") for key, rows in chosen.items() if row in rows}


def sweep(params: dict, profile: str, key: str, row: str) -> Row:
    """The experiment that one row of a sweep is."""
    entry = parse(SweepEntry, lookup(params, "sweeps", key), f"sweeps.{key}")
    _check_key(key, entry, f"sweeps.{key}")
    if unknown := sorted(set(entry.rows) - set(lookup(params, "sweep_rows"))):
        raise DbqError(f"sweeps.{key}.rows: no row {', '.join(unknown)}", f"there are {', '.join(params['sweep_rows'])}")
    chosen = parse(SweepRow, lookup(params, "sweep_rows", row), f"sweep_rows.{row}")
    _seeds(entry.seeds, profile, f"sweeps.{key}.seeds")
    changed = {**lookup(params, "experiments", chosen.experiment), **dataclasses.asdict(entry), "policy": chosen.policy}
    del changed["rows"]
    activations = {**lookup(params, "activations"), **changed.pop("activations")}
    name = f"sweep-{key}-{row}"
    return experiment({**params, "experiments": {name: changed}, "activations": activations}, profile, name)


def training_of(params: dict, profile: str, key: str) -> Start | Row:
    """What is trained under this name: a key of pretrain, experiments or ablations, or a row of a sweep."""
    rows = sweep_rows(params)
    for section, resolve in (("pretrain", pretrain), ("experiments", experiment), ("ablations", ablation)):
        if key in lookup(params, section):
            return resolve(params, profile, key)
    if key in rows:
        return sweep(params, profile, *rows[key])
    known = ", ".join([*params["pretrain"], *params["experiments"], *rows, *params["ablations"]])
    raise DbqError(f"none of pretrain, experiments, sweeps, ablations has the key {key}", f"known keys are {known}")


def cost(params: dict) -> CostSettings:
    return parse(CostSettings, lookup(params, "cost"), "cost")


def engine(params: dict) -> EngineSettings:
    return parse(EngineSettings, lookup(params, "engine"), "engine")


def hardware(params: dict) -> HardwareSettings:
    return parse(HardwareSettings, lookup(params, "hardware"), "hardware")


def overhead(params: dict, profile: str) -> OverheadSettings:
    where = f"overhead.{check_profile(profile)}"
    return parse(OverheadSettings, lookup(params, "overhead", profile), where)


def fingerprint(value) -> str:
    """Hex sha256 of everything that decides a training's result; checkpoints carry it."""
    return hashlib.sha256(json.dumps(plain(value), sort_keys=True).encode()).hexdigest()


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
            parsed = parse(kind, entry, f"{section}.{key}")
            for profile in trained_in(parsed.seeds):
                resolved = resolve(params, check_profile(profile), key)
                if section == "experiments":
                    _check_float(params, profile, resolved.start, f"experiments.{key}")
    for key, row in sweep_rows(params).values():
        for profile in trained_in(lookup(params, "sweeps", key, "seeds")):
            _check_float(params, profile, sweep(params, check_profile(profile), key, row).start, f"sweeps.{key}")
    for key, entry in lookup(params, "ablations").items():
        for profile in trained_in(parse(AblationEntry, entry, f"ablations.{key}").seeds):
            _check_float(params, profile, ablation(params, check_profile(profile), key).start, f"ablations.{key}")


def _check_float(params: dict, profile: str, needed: str, where: str) -> None:
    """Raises DbqError unless the float network that an entry starts from is trained, or its weights taken, in the profile."""
    if profile not in trained_in(lookup(params, "pretrain", needed, "seeds")):
        remedy = f"write pretrain.{needed}.seeds.{profile}: [0]"
        raise DbqError(f"{where}.seeds: {profile} has no float network {needed}", remedy)
