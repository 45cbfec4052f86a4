"""The result files of a profile, read and validated: all that tables, figures and pages look at.

results = Results(plan, "runs/smoke")
results.training("resnet20-cifar10-dbq-2t").values("top1")     # one number for each seed

runs/PROFILE holds STAGE/KEY/ for the stages prepare, pretrain, quantize and engine. The plan says which keys there are: no folder is
searched. Every reader raises DbqError, naming the file and the stage to run, for a missing, torn or odd file.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator

from dbq.errors import DbqError
from dbq.files import read_json
from dbq.settings import Plan, Row

COSTS = ("c_c", "c_s", "c_r", "c_m")
COMPARISONS = ("accuracy", *(f"pareto_{metric}" for metric in COSTS), "ablations", "overhead", "overhead-gpu")  # figures of many rows
SIGNED_DIGITS = ("c_c_signed_digits", "c_s_signed_digits")  # columns of the cost table
NOT_RUN = "not run"
MAIN_FILE = {"prepare": "manifest.json", "pretrain": "metrics.json", "quantize": "metrics.json", "engine": "cost.json"}
HISTORY_COLUMNS = ["seed", "epoch", "learning_rate", "temperature", "train_loss", "train_top1", "val_top1", "soft_hard_gap"]
LAYER_COLUMNS = ["layer", "kind", *COSTS, "nonzeros", "weights"]

_NAMES = dict.fromkeys(("key", "network", "dataset", "method", "judged", "label", "data_source"), str)
Percent = Annotated[float, Field(ge=0, le=100)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
_NUMBERS = dict.fromkeys(("branches", "weight_bits", "activation_bits", "epochs"), Count)


class _File(BaseModel):
    """What this room needs of a result file; further keys are left alone."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True, allow_inf_nan=False)


# top1: on the test images, None where they are not read; identity: digests of settings, data, code and start
Seed = create_model(
    "Seed", __base__=_File, seed=Count, top1=Percent | None, val_top1=Percent, zero_rate=Share, soft_hard_gap=(float | None, None),
    identity=dict[str, str | None], commit=str | None, device=str, torch=str | None,
)  # fmt: skip


class Training(create_model("Training", __base__=_File, **_NAMES, **_NUMBERS, weights_source=(str | None, None))):
    """metrics.json of a float network or of a row."""

    seeds: Annotated[list[Seed], Field(min_length=1)]

    @model_validator(mode="after")
    def _complete(self):
        if self.judged == "test" and any(seed.top1 is None for seed in self.seeds):
            raise ValueError("a seed has no top1 and the row is judged on test images")
        return self

    def values(self, name: str) -> list[float]:
        """One number for each seed; seeds without it are left out."""
        return [getattr(seed, name) for seed in self.seeds if getattr(seed, name) is not None]

    @property
    def device(self) -> str:
        return "; ".join(dict.fromkeys(seed.device for seed in self.seeds))


# the costs of a network under one reading of the formulas, None where the reading doesn't define one
Reading = create_model(
    "Reading", __base__=_File, reading=str, count_bias=bool, main=bool, **dict.fromkeys(COSTS, Count | None)
)  # fmt: skip


class Cost(_File):
    key: str
    macs: Count
    readings: list[Reading]

    @model_validator(mode="after")
    def _one_main(self):
        if (mains := sum(reading.main for reading in self.readings)) != 1:
            raise ValueError(f"{mains} main readings instead of one")
        return self


# engine.json: the test images in integers
Replay = create_model(
    "Replay", __base__=_File, images=Count, top1_engine=Percent, disagreeing=Count, disagreeing_float64=Count, unexplained=Count,
    smallest_width=Count | None,
)  # fmt: skip
Manifest = create_model(
    "Manifest", __base__=_File, source=str, label=str, counts=dict[str, dict], classes=Count, md5_identical=(bool | None, None),
    image_size=(Count | None, None), licence=(str | None, None),
)  # fmt: skip


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
        settings = {name: planned.settings for name, planned in self.plan.datasets.items()}
        return {name: f"{name} (stand-in: {entry.source})" if entry.stand_in else name for name, entry in settings.items()}

    def declared(self, stage: str) -> dict:
        """Key -> Planned of a stage, in the order of params.yaml."""
        return {"prepare": self.plan.datasets, "pretrain": self.plan.starts}.get(stage, self.plan.rows)

    def reason(self, stage: str, key: str) -> str | None:
        """Why STAGE@KEY has no result, None where it has one. A stage that found nothing to do has left its reason in its folder."""
        planned = self.declared(stage)[key]
        if planned.reason:
            return planned.reason
        if stage == "engine" and planned.settings.judged == "validation":
            return "judged on the validation images"
        name = "manifest.json" if stage == "prepare" else "metrics.json"
        if stage == "engine" and not self._path(stage, key, name).is_file():
            return None
        return _reason(self._json(stage, key, name), self._path(stage, key, name), f"{stage}@{key}")

    def running(self, stage: str) -> list[str]:
        """The keys of a stage that have a result."""
        return [key for key in self.declared(stage) if self.reason(stage, key) is None]

    def training(self, key: str) -> Training:
        """metrics.json of a float network or of a row. Raises DbqError where it has other settings than the plan."""
        stage = "pretrain" if key in self.plan.starts else "quantize"
        value, settings = self._read(Training, stage, key), self.declared(stage)[key].settings
        wanted = {"key": key, "network": settings.network, "dataset": settings.dataset}
        if isinstance(settings, Row):
            wanted |= {name: getattr(settings, name) for name in ("method", "branches", "weight_bits", "activation_bits", "judged")}
            wanted["epochs"] = settings.training.epochs
            self._demand_equal(stage, key, "seeds", [seed.seed for seed in value.seeds], settings.seeds)
        for name, expected in wanted.items():
            self._demand_equal(stage, key, name, getattr(value, name), expected)
        return value

    def cost(self, key: str) -> Cost:
        return self._read(Cost, "engine", key)

    def main_reading(self, key: str) -> Reading:
        """The costs under the reading that params.yaml chooses."""
        chosen, wanted = next(row for row in self.cost(key).readings if row.main), self.plan.cost
        for name in ("reading", "count_bias"):
            self._demand_equal("engine", key, name, getattr(chosen, name), getattr(wanted, name))
        return chosen

    def replay(self, key: str) -> Replay:
        return self._read(Replay, "engine", key, "engine.json")

    def manifest(self, name: str) -> Manifest:
        return self._read(Manifest, "prepare", name)

    def weights(self, key: str) -> dict:
        """{"layers": [{name, edges, counts, levels, thresholds, level_counts}]}, no layers without branches; {} where it is not kept."""
        return self._kept(key, "weights.json")

    def annealing(self, key: str) -> dict:
        """{layer, inputs, curves: [{epoch, temperature, outputs}], hard}; {} for methods without a temperature and where it is not kept."""
        return self._kept(key, "annealing.json")

    def _kept(self, key: str, name: str) -> dict:
        """A file that a committed result may lack, because its weights are not kept."""
        path = self._path("quantize", key, name)
        return read_json(path) if path.is_file() else {}

    def history(self, key: str) -> pd.DataFrame:
        """The epochs of all seeds; no rows for external weights. What a method doesn't have (temperature, soft-hard gap) is NaN."""
        stage = "pretrain" if key in self.plan.starts else "quantize"
        path = self._path(stage, key, "history.csv")
        try:
            return read_frame(path, HISTORY_COLUMNS, f"{stage}@{key}").apply(pd.to_numeric)
        except (ValueError, TypeError) as error:
            raise odd(path, f"{stage}@{key}", str(error)) from None

    def layers(self, key: str) -> pd.DataFrame:
        """The cost per layer under the main reading: c_c and c_s in full adders, c_r and c_m in bits."""
        return read_frame(self._path("engine", key, "layers.csv"), LAYER_COLUMNS, f"engine@{key}")

    def _path(self, stage: str, key: str, name: str) -> Path:
        return Path(self.folder) / stage / key / name

    def _json(self, stage: str, key: str, name: str):
        path = self._path(stage, key, name)
        if not path.is_file():
            raise DbqError(f"{path}: no such file", f"run `dvc repro {stage}@{key}`")
        return read_json(path)

    def _read(self, kind: type[_File], stage: str, key: str, name: str | None = None):
        name = name or MAIN_FILE[stage]
        try:
            return kind.model_validate(self._json(stage, key, name))
        except ValidationError as error:
            fault = error.errors()[0]
            place = ".".join(map(str, fault["loc"])) or "in all"
            problem = f"{place}: {fault['msg'].removeprefix('Value error, ')}"
            raise odd(self._path(stage, key, name), f"{stage}@{key}", problem) from None

    def _demand_equal(self, stage: str, key: str, name: str, found, wanted) -> None:
        if found != wanted:
            raise odd(self._path(stage, key, MAIN_FILE[stage]), f"{stage}@{key}", f"{name} {found}, params.yaml has {wanted}")


def single_reason(folder, stage: str) -> str | None:
    """Why a stage without keys has no result, None where it has one."""
    path = Path(folder) / stage / "metrics.json"
    return _reason(read_json(path), path, stage) if path.is_file() else None


def _reason(value, path: Path, stage: str) -> str | None:
    if not isinstance(value, dict) or value.get("status") != NOT_RUN:
        return None
    if not isinstance(value.get("reason"), str):
        raise odd(path, stage, "'not run' without a reason")
    return value["reason"]


def read_frame(path: Path, columns: list[str], stage: str) -> pd.DataFrame:
    """These columns of a CSV file that `stage` wrote."""
    try:
        frame = pd.read_csv(path)
    except FileNotFoundError:
        raise DbqError(f"{path}: no such file", f"run `dvc repro {stage}`") from None
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise odd(path, stage, f"not valid CSV ({error})") from None
    if missing := [column for column in columns if column not in frame]:
        raise odd(path, stage, f"no column {', '.join(missing)}")
    return frame[columns]


def odd(path: Path, stage: str, problem: str) -> DbqError:
    return DbqError(f"{path}: {problem}", f"run `dvc repro --force {stage}`")
