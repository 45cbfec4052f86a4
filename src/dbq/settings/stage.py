"""The settings of one stage as a file: all that a stage depends on besides its input files.

The stage `settings` writes one for every other stage (pipeline/resolve.py), DVC compares their bytes, and a notebook begins with
`stage = load(settings_file)`.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

from dbq.errors import DbqError
from dbq.settings.entries import CostSettings, DatasetSettings, EngineSettings, HardwareSettings, OverheadSettings, Row, Start
from dbq.settings.plan import Plan, Planned

NOT_RUN = "not run"
GROUPS = {"cost": CostSettings, "engine": EngineSettings, "hardware": HardwareSettings, "overhead": OverheadSettings}
KINDS = {"dataset": DatasetSettings, "start": Start, "row": Row}


@dataclass(frozen=True)
class Stage:
    """What a stage of a profile has to do. Attributes that its settings don't have are None.

    inputs: paths by name. code: {"stage": digest of all its code, "result": digest of the code that decides its result}.
    """

    name: str
    profile: str
    smoke: bool  # every image of the profile is a stand-in
    key: str | None = None
    reason: str | None = None  # why the stage has nothing to do
    dataset: DatasetSettings | None = None
    start: Start | None = None
    row: Row | None = None
    plan: Plan | None = None
    cost: CostSettings | None = None
    engine: EngineSettings | None = None
    hardware: HardwareSettings | None = None
    overhead: OverheadSettings | None = None
    inputs: dict[str, str] = field(default_factory=dict)
    code: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict:
        """`load` reads it back; "status" lets a runner see without this package whether there is something to do."""
        values = {name: getattr(self, name) for name in ("profile", "smoke", "key", "reason", "inputs", "code")}
        values |= {"stage": self.name, "status": NOT_RUN if self.reason else "run"}
        for name in (*KINDS, *GROUPS):
            if (value := getattr(self, name)) is not None:
                values[name] = value.model_dump(mode="json")
        if self.plan is not None:
            values["plan"] = {
                section: [_planned_json(planned) for planned in getattr(self.plan, section).values()]
                for section in ("datasets", "starts", "rows")
            }
        return values


def _planned_json(planned: Planned) -> dict:
    return {"key": planned.key, "reason": planned.reason, "settings": planned.settings.model_dump(mode="json")}


def load(path) -> Stage:
    """Read a file that the stage `settings` has written. Raises DbqError for a missing or damaged one."""
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        name = values["stage"]
        values = {key: value for key, value in values.items() if key not in ("stage", "status")}
        kinds = {**KINDS, **GROUPS}
        parsed = {key: kinds[key].model_validate(value) if key in kinds else value for key, value in values.items() if key != "plan"}
        stage = Stage(name, **parsed)
        return stage if "plan" not in values else Stage(name, **parsed, plan=_plan(values["plan"], parsed))
    except FileNotFoundError:
        raise DbqError(f"{path}: no such file", "run `dvc repro settings`") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DbqError(f"{path}: damaged ({type(error).__name__})", "run `dvc repro settings`") from None


def _plan(sections: dict, parsed: dict) -> Plan:
    kinds = {"datasets": DatasetSettings, "starts": Start, "rows": Row}
    read = {
        section: {
            one["key"]: Planned(one["key"], kinds[section].model_validate(one["settings"]), one["reason"]) for one in sections[section]
        }
        for section in kinds
    }
    return Plan(parsed["profile"], **read, **{name: parsed.get(name) for name in GROUPS})
