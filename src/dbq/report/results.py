"""The result files of the stages, read and validated: what tables and figures may look at.

A folder METRICS holds STAGE/KEY/ for the stages prepare, pretrain, quantize, engine and sweep. A stage that has nothing to do in a profile
leaves {"status": "not run", "reason": REASON}. Every reader raises DbqError, naming the file and the stage to run, for a missing, torn
or odd file.
"""

import math
from pathlib import Path

import pandas as pd

from dbq.errors import DbqError
from dbq.files import read_json
from dbq.settings.resolve import check_profile, lookup

COSTS = ("c_c", "c_s", "c_r", "c_m")
NOT_RUN = "not run"
# the section of params.yaml that declares the keys of a stage
DECLARED_IN = {"prepare": "datasets", "pretrain": "pretrain", "quantize": "experiments", "engine": "experiments", "sweep": "sweeps"}

_RUN_FIELDS = (
    "key", "network", "dataset", "method", "branches", "weight_bits", "activation_bits", "epochs",
    "seeds", "top1", "val_top1", "zero_rate", "device", "data_source", "label",
)  # fmt: skip
_COST_FIELDS = ("key", "network", "dataset", "method", "branches", "weight_bits", "activation_bits", "readings", "macs")
_MANIFEST_FIELDS = ("name", "profile", "source", "label", "md5_identical", "counts", "classes", "image_size")
_HISTORY_COLUMNS = ["seed", "epoch", "learning_rate", "temperature", "train_loss", "train_top1", "val_top1", "soft_hard_gap"]
_LAYER_COLUMNS = ["layer", "kind", *COSTS, "nonzeros", "weights"]


def declared(params: dict, stage: str) -> list[str]:
    """The keys of a stage in the order of params.yaml."""
    return list(lookup(params, DECLARED_IN[stage]))


def dataset_titles(params: dict) -> dict[str, str]:
    """Data set -> how a figure names it in this profile; a stand-in is named as what it is."""
    profile, titles = check_profile(lookup(params, "profile")), {}
    for name, profiles in lookup(params, "datasets").items():
        entry = lookup(profiles, profile)
        titles[name] = f"{name} (stand-in: {entry['source']})" if entry and entry["stand_in"] else name
    return titles


def is_smoke(params: dict) -> bool:
    return check_profile(lookup(params, "profile")) == "smoke"


def read_result(metrics_folder, stage: str, key: str) -> dict:
    """The main result file of STAGE@KEY: metrics.json, of prepare manifest.json, of engine cost.json.

    {"status": "not run", "reason": REASON} where the stage had nothing to do.
    """
    name = {"prepare": "manifest.json", "engine": "cost.json"}.get(stage, "metrics.json")
    folder = Path(metrics_folder) / stage / key
    # the marker of a stage that has nothing to do is called metrics.json in every stage
    path = next((folder / file for file in (name, "metrics.json") if (folder / file).is_file()), None)
    if path is None:
        raise DbqError(f"{folder / name}: no result of {stage}@{key}", f"run `dvc repro {stage}@{key}`")
    value = read_json(path)
    if isinstance(value, dict) and value.get("status") == NOT_RUN:
        _demand(isinstance(value.get("reason"), str), path, stage, key, "'not run' without a reason")
        return value
    if stage == "prepare":
        _has(value, _MANIFEST_FIELDS, path, stage, key)
        return value
    _demand(isinstance(value, dict) and value.get("status") == "run", path, stage, key, "status is neither 'run' nor 'not run'")
    if stage == "sweep":
        _has(value, ("rows",), path, stage, key)
        for row in value["rows"]:
            _has(row, (*_RUN_FIELDS, "row"), path, stage, key)
            _check_runs(row, path, stage, key)
        return value
    if stage == "engine":
        _has(value, _COST_FIELDS, path, stage, key)
        _check_readings(value, path, key)
    else:
        _has(value, _RUN_FIELDS, path, stage, key)
        _check_runs(value, path, stage, key)
    _demand(value["key"] == key, path, stage, key, f"it belongs to {value['key']}")
    return value


def was_run(metrics_folder, stage: str, key: str) -> bool:
    return read_result(metrics_folder, stage, key).get("status") != NOT_RUN


def main_reading(cost: dict, params: dict) -> dict:
    """The reading of a cost.json that params.cost chooses; DbqError when the file was counted under another choice."""
    chosen = next(row for row in cost["readings"] if row["main"])
    wanted = {name: lookup(params, "cost", name) for name in ("reading", "count_bias")}
    if any(chosen[name] != value for name, value in wanted.items()):
        raise DbqError(
            f"engine/{cost['key']}/cost.json: counted with {chosen['reading']}, count_bias {chosen['count_bias']}; params.yaml differs",
            f"run `dvc repro engine@{cost['key']}`",
        )
    return chosen


def engine(metrics_folder, key: str) -> dict:
    """engine.json of an experiment: what the integer engine's replay of the test set gave."""
    path = Path(metrics_folder) / "engine" / key / "engine.json"
    value = _read_of_stage(path, "engine", key)
    _has(value, ("images", "top1_engine", "disagreeing", "disagreeing_float64", "unexplained", "smallest_width"), path, "engine", key)
    return value


def history(metrics_folder, stage: str, key: str) -> pd.DataFrame:
    """Epochs of all seeds; no rows for external weights. What a method doesn't have (temperature, soft-hard gap) is NaN."""
    frame = _read_frame(metrics_folder, stage, key, "history.csv", _HISTORY_COLUMNS)
    path = Path(metrics_folder) / stage / key / "history.csv"
    try:
        return frame.apply(pd.to_numeric)
    except (ValueError, TypeError) as error:
        raise _odd(path, stage, key, str(error)) from None


def layers(metrics_folder, key: str) -> pd.DataFrame:
    """Cost per layer under the main reading: layer, kind, c_c and c_s [FA], c_r and c_m [bit], nonzeros, weights."""
    return _read_frame(metrics_folder, "engine", key, "layers.csv", _LAYER_COLUMNS)


def weights(metrics_folder, key: str) -> dict:
    """weights.json of an experiment: {"layers": [{name, edges, counts, levels, thresholds, level_counts}]}; empty without branches."""
    path = Path(metrics_folder) / "quantize" / key / "weights.json"
    value = _read_of_stage(path, "quantize", key)
    _has(value, ("layers",), path, "quantize", key)
    for layer in value["layers"]:
        _has(layer, ("name", "edges", "counts", "levels", "thresholds", "level_counts"), path, "quantize", key)
        fits = len(layer["edges"]) == len(layer["counts"]) + 1 and len(layer["levels"]) == len(layer["level_counts"])
        _demand(fits, path, "quantize", key, f"lengths of layer {layer['name']} don't fit")
    return value


def annealing(metrics_folder, key: str) -> dict:
    """annealing.json of an experiment: {layer, inputs, curves: [{epoch, temperature, outputs}], hard}, or {} for other methods."""
    path = Path(metrics_folder) / "quantize" / key / "annealing.json"
    value = _read_of_stage(path, "quantize", key)
    if value:
        _has(value, ("layer", "inputs", "curves", "hard"), path, "quantize", key)
        lengths = {len(outputs) for outputs in (value["hard"], *(curve["outputs"] for curve in value["curves"]))}
        _demand(lengths == {len(value["inputs"])}, path, "quantize", key, "the curves differ in length")
    return value


def _read_of_stage(path: Path, stage: str, key: str):
    if not path.is_file():
        raise DbqError(f"{path}: no such file", f"run `dvc repro {stage}@{key}`")
    return read_json(path)


def _read_frame(metrics_folder, stage: str, key: str, name: str, columns: list[str]) -> pd.DataFrame:
    path = Path(metrics_folder) / stage / key / name
    if not path.is_file():
        raise DbqError(f"{path}: no such file", f"run `dvc repro {stage}@{key}`")
    try:
        frame = pd.read_csv(path)
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise _odd(path, stage, key, f"not valid CSV ({error})") from None
    missing = [column for column in columns if column not in frame]
    _demand(not missing, path, stage, key, f"no column {', '.join(missing)}")
    return frame[columns]


def _check_runs(value: dict, path: Path, stage: str, key: str) -> None:
    for name, highest in (("top1", 100.0), ("val_top1", 100.0), ("zero_rate", 1.0)):
        numbers = value[name]
        _demand(len(numbers) == len(value["seeds"]) > 0, path, stage, key, f"{name} doesn't have one value per seed")
        fits = all(isinstance(number, (int, float)) and math.isfinite(number) and 0 <= number <= highest for number in numbers)
        _demand(fits, path, stage, key, f"{name} {numbers} is not between 0 and {highest:g}")


def _check_readings(value: dict, path: Path, key: str) -> None:
    for row in value["readings"]:
        _has(row, ("reading", "count_bias", "main", *COSTS), path, "engine", key)
    mains = sum(bool(row["main"]) for row in value["readings"])
    _demand(mains == 1, path, "engine", key, f"{mains} main readings instead of one")


def _has(value, fields: tuple[str, ...], path: Path, stage: str, key: str) -> None:
    _demand(isinstance(value, dict), path, stage, key, "expected a mapping")
    missing = [field for field in fields if field not in value]
    _demand(not missing, path, stage, key, f"no key {', '.join(missing)}")


def _demand(condition: bool, path: Path, stage: str, key: str, problem: str) -> None:
    if not condition:
        raise _odd(path, stage, key, problem)


def _odd(path: Path, stage: str, key: str, problem: str) -> DbqError:
    return DbqError(f"{path}: {problem}", f"run `dvc repro --force {stage}@{key}`")
