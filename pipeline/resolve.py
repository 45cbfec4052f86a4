"""The stage `settings`: resolve and check params.yaml, and write a file for every other stage of its profile.

    PYTHONPATH=src python pipeline/resolve.py     # a second; every fault of params.yaml at once, before anything is run

runs/PROFILE/settings/STAGE/KEY.json holds the resolved settings of the stage and the digest of its code; `dbq.settings.stage` reads it. A
stage is out of date when its file has changed.
"""

import os
import shutil
import sys
from pathlib import Path

from dbq import datasets, settings
from dbq.errors import main_with_errors
from dbq.files import write_json
from dbq.settings import Plan, Planned
from dbq.settings.stage import Stage
from dbq.validity import closure, identity

NOTEBOOKS = Path("notebooks")


def main() -> None:
    params = settings.read("params.yaml")
    plan = settings.plan(params, None, datasets.at_hand)
    folder = Path("runs") / plan.profile / "settings"
    shutil.rmtree(folder, ignore_errors=True)
    for stage in stages(plan):
        path = folder / stage.name / f"{stage.key}.json" if stage.key else folder / f"{stage.name}.json"
        write_json(path, stage.to_json())
    for kind in ("datasets", "starts", "rows"):
        for reason in dict.fromkeys(one.reason for one in getattr(plan, kind).values() if one.reason and "not at hand" in one.reason):
            print(f"left out: {sum(one.reason == reason for one in getattr(plan, kind).values())} {kind}: {reason}")


def stages(plan: Plan) -> list[Stage]:
    """Every stage of the profile but `settings` itself."""
    common = {"profile": plan.profile, "smoke": all(planned.settings.stand_in for planned in plan.datasets.values())}
    found = [_prepare(plan, planned, common) for planned in plan.datasets.values()]
    found += [_pretrain(plan, planned, common) for planned in plan.starts.values()]
    for planned in plan.rows.values():
        found += [_quantize(plan, planned, common), _engine(plan, planned, common)]
    found.append(Stage("overhead", **common, overhead=plan.overhead, code=_code("overhead")))
    found.append(Stage("hardware", **common, hardware=plan.hardware, code=_code("hardware")))
    found.append(Stage("tables", **common, plan=plan, cost=plan.cost, inputs={"runs": _runs(plan)}, code=_code("tables")))
    code = {"stage": closure.digest(["dbq.report.index"])}
    found.append(Stage("report", **common, plan=plan, cost=plan.cost, inputs={"runs": _runs(plan)}, code=code))
    return found


def _prepare(plan: Plan, planned: Planned, common: dict) -> Stage:
    modules = [f"dbq.datasets.{planned.settings.source}"] if planned.settings.source in datasets.SOURCES else []
    return Stage(
        "prepare", **common, key=planned.key, reason=planned.reason, dataset=planned.settings, inputs={"data": _data(plan, planned.key)},
        code=_code("prepare", modules),
    )  # fmt: skip


def _pretrain(plan: Plan, planned: Planned, common: dict) -> Stage:
    start = planned.settings
    inputs = {"data": _data(plan, start.dataset), "results": f"results/{plan.profile}"}
    code = _code("pretrain", identity.modules(start)) | {"result": identity.code_of(start)}
    return Stage("pretrain", **common, key=planned.key, reason=planned.reason, start=start, inputs=inputs, code=code)


def _quantize(plan: Plan, planned: Planned, common: dict) -> Stage:
    row = planned.settings
    inputs = {"data": _data(plan, row.dataset), "start": f"{_runs(plan)}/pretrain/{row.start}", "results": f"results/{plan.profile}"}
    code = _code("quantize", identity.modules(row)) | {"result": identity.code_of(row)}
    return Stage("quantize", **common, key=planned.key, reason=planned.reason, row=row, inputs=inputs, code=code)


def _engine(plan: Plan, planned: Planned, common: dict) -> Stage:
    row = planned.settings
    reason = planned.reason or (None if row.judged == "test" else "the row is judged on validation images")
    inputs = {
        "data": _data(plan, row.dataset), "model": f"{_runs(plan)}/quantize/{row.key}", "results": f"results/{plan.profile}",
        "hardware": "data/reference/hardware.csv",
    }  # fmt: skip
    code = _code("engine", identity.modules(row)) | {"result": identity.engine_code_of(row)}
    return Stage(
        "engine", **common, key=planned.key, reason=reason, row=row, cost=plan.cost, engine=plan.engine, inputs=inputs, code=code
    )  # fmt: skip


def _code(notebook: str, modules: list[str] | None = None) -> dict[str, str]:
    return {"stage": closure.digest(modules or [], text=closure.notebook_source(NOTEBOOKS / f"{notebook}.ipynb"))}


def _data(plan: Plan, dataset: str) -> str:
    return f"data/prepared/{plan.profile}/{dataset}"


def _runs(plan: Plan) -> str:
    return f"runs/{plan.profile}"


if __name__ == "__main__":
    os.chdir(Path(__file__).parents[1])
    sys.exit(main_with_errors(main))
