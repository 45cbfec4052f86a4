"""The result files of a profile, read and checked: all that tables, figures and pages look at.

runs/PROFILE holds STAGE/KEY/ for the stages prepare, pretrain, quantize and engine. The plan says which keys there are: no folder is
searched. Every reader raises DbqError, naming the file and the stage to run, for a missing or torn file and for one of another key.
"""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from dbq.errors import DbqError
from dbq.files import read_json
from dbq.settings import Plan, Row

COSTS = ("c_c", "c_s", "c_r", "c_m")
COMPARISONS = ("accuracy", *(f"pareto_{metric}" for metric in COSTS), "ablations", "overhead", "overhead-gpu")  # figures of many rows
SIGNED_DIGITS = ("c_c_signed_digits", "c_s_signed_digits")  # columns of the cost table
NOT_RUN = "not run"
MAIN_FILE = {"prepare": "manifest.json", "pretrain": "metrics.json", "quantize": "metrics.json", "engine": "cost.json"}
# what this room needs of each file; top1 of a seed is None where the test images are not read
NEEDED = {
    "manifest.json": ("source", "label", "classes", "counts"),
    "metrics.json": (
        "key", "network", "dataset", "method", "branches", "weight_bits", "activation_bits", "epochs", "judged", "label", "data_source",
        "seeds",
    ),
    "cost.json": ("macs", "readings"),
    "engine.json": ("images", "top1_engine", "disagreeing", "disagreeing_float64", "unexplained", "smallest_width"),
    "a seed": ("seed", "top1", "val_top1", "zero_rate", "identity", "commit", "device", "torch"),
}  # fmt: skip
HISTORY_COLUMNS = ["seed", "epoch", "learning_rate", "temperature", "train_loss", "train_top1", "val_top1", "soft_hard_gap"]
LAYER_COLUMNS = ["layer", "kind", *COSTS, "nonzeros", "weights"]


@dataclass(frozen=True)
class Results:
    """The result files in `folder`, runs/PROFILE, of what `plan` declares."""

    plan: Plan
    folder: Path | str

    @property
    def smoke(self) -> bool:
        """Whether all images are stand-ins: no number of the profile is evidence then."""
        return all(planned.settings.stand_in for planned in self.plan.datasets.values())

    @property
    def titles(self) -> dict[str, str]:
        """Data set -> its name in figures: a stand-in is named as what it is."""
        sets = {name: planned.settings for name, planned in self.plan.datasets.items()}
        return {name: name + f" (stand-in: {entry.source})" * entry.stand_in for name, entry in sets.items()}

    def declared(self, stage: str) -> dict:
        """Key -> Planned of a stage, in the order of params.yaml."""
        return {"prepare": self.plan.datasets, "pretrain": self.plan.starts}.get(stage, self.plan.rows)

    def reason(self, stage: str, key: str) -> str | None:
        """Why STAGE@KEY has no result, None where it has one. A stage that found nothing to do has left its reason in its folder."""
        planned = self.declared(stage)[key]
        if planned.reason:
            return planned.reason
        if stage != "engine":
            return _reason(self.read(stage, key, needed=()))
        if planned.settings.judged == "validation":
            return "judged on the validation images"
        path = self._path(stage, key, "metrics.json")
        return _reason(read_json(path)) if path.is_file() else None

    def running(self, stage: str) -> list[str]:
        """The keys of a stage that have a result."""
        return [key for key in self.declared(stage) if self.reason(stage, key) is None]

    def read(self, stage: str, key: str, name: str | None = None, needed: tuple[str, ...] | None = None) -> dict:
        """A JSON file of STAGE@KEY, MAIN_FILE where none is named. Raises DbqError where it has not what is needed, NEEDED by default."""
        path = self._path(stage, key, name)
        if not path.is_file():
            raise DbqError(f"{path}: no such file", f"run `dvc repro {stage}@{key}`")
        value = read_json(path)
        _demand(value, NEEDED[path.name] if needed is None else needed, path, f"{stage}@{key}")
        return value

    def training(self, key: str) -> dict:
        """metrics.json of a float network or of a row. Raises DbqError where it has other settings than the plan."""
        stage = "pretrain" if key in self.plan.starts else "quantize"
        value, settings, path = self.read(stage, key), self.declared(stage)[key].settings, self._path(stage, key)
        for seed in value["seeds"]:
            _demand(seed, NEEDED["a seed"], path, f"{stage}@{key}")
        found = {name: value[name] for name in ("key", "network", "dataset")}
        if isinstance(settings, Row):
            found |= {name: value[name] for name in ("method", "branches", "weight_bits", "activation_bits", "judged")}
            found["seeds"] = [seed["seed"] for seed in value["seeds"]]
        for name, is_there in found.items():
            if is_there != (wanted := getattr(settings, name)):
                raise odd(path, f"{stage}@{key}", f"{name} {is_there}, params.yaml has {wanted}")
        return value

    def kept(self, key: str, name: str) -> dict:
        """weights.json or annealing.json of a row; {} where a committed result lacks it, because its weights are not kept."""
        path = self._path("quantize", key, name)
        return read_json(path) if path.is_file() else {}

    def history(self, key: str) -> pd.DataFrame:
        """The epochs of all seeds; no rows for external weights. What a method doesn't have (temperature, soft-hard gap) is NaN."""
        stage = "pretrain" if key in self.plan.starts else "quantize"
        return read_frame(self._path(stage, key, "history.csv"), HISTORY_COLUMNS, f"{stage}@{key}", numbers=HISTORY_COLUMNS)

    def layers(self, key: str) -> pd.DataFrame:
        """The cost per layer under the main reading: c_c and c_s in full adders, c_r and c_m in bits."""
        return read_frame(self._path("engine", key, "layers.csv"), LAYER_COLUMNS, f"engine@{key}")

    def _path(self, stage: str, key: str, name: str | None = None) -> Path:
        return Path(self.folder) / stage / key / (name or MAIN_FILE[stage])


def single_reason(folder, stage: str) -> str | None:
    """Why a stage without keys has no result, None where it has one."""
    path = Path(folder) / stage / "metrics.json"
    return _reason(read_json(path)) if path.is_file() else None


def _reason(value: dict) -> str | None:
    return value.get("reason", "it says no reason") if value.get("status") == NOT_RUN else None


def _demand(value, names, path: Path, stage: str) -> None:
    if not isinstance(value, dict):
        raise odd(path, stage, "no JSON object")
    if missing := [name for name in names if name not in value]:
        raise odd(path, stage, f"no {', '.join(missing)}")


def read_frame(path: Path, columns: list[str], stage: str, numbers: list[str] = ()) -> pd.DataFrame:
    """These columns of a CSV file that `stage` wrote; numbers: columns that hold nothing else (an empty cell is NaN)."""
    try:
        return pd.read_csv(path, dtype=dict.fromkeys(numbers, float))[columns]
    except FileNotFoundError:
        raise DbqError(f"{path}: no such file", f"run `dvc repro {stage}`") from None
    except KeyError as error:
        raise odd(path, stage, f"no column: {error.args[0]}") from None
    except ValueError as error:  # what pandas raises for a torn file and for a word in the place of a number
        raise odd(path, stage, f"not valid CSV ({error})") from None


def odd(path: Path, stage: str, problem: str) -> DbqError:
    return DbqError(f"{path}: {problem}", f"run `dvc repro --force {stage}`")
