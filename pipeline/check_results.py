"""Check that committed results are true to the tree. Needs no data: `PYTHONPATH=src python pipeline/check_results.py`

Of every profile that has results: each seed's settings are those of params.yaml, its code is today's or proven equivalent, its commit is
in the history, and every number of the tables accuracy, ablations and cost stands in a committed result file.
"""

import os
import statistics
import subprocess
import sys
from pathlib import Path

from dbq import settings
from dbq.errors import DbqError, main_with_errors
from dbq.files import read_csv, read_json
from dbq.settings import Plan
from dbq.validity import equivalence, identity

STAGES = {"pretrain": "starts", "quantize": "rows"}
# table -> (stage of a row's numbers, column -> what it is of the seeds)
SEEDED = {
    "accuracy": {"n": lambda seeds: len(seeds), "top1_mean": lambda seeds: statistics.fmean(one["top1"] for one in seeds)},
    "ablations": {"n": lambda seeds: len(seeds), "val_top1_mean": lambda seeds: statistics.fmean(one["val_top1"] for one in seeds)},
}  # fmt: skip
COSTS = ("c_c", "c_s", "c_r", "c_m")


def faults(root: Path, plan: Plan) -> list[str]:
    """What is wrong with results/PROFILE below `root`, one line each."""
    folder = root / "results" / plan.profile
    found, known = [], {}
    for stage, section in STAGES.items():
        for path in sorted((folder / "metrics" / stage).glob("*/metrics.json")):
            key, value = path.parent.name, read_json(path)
            if value["status"] != "run":
                continue
            planned = getattr(plan, section).get(key)
            if planned is None:
                found.append(f"{path}: params.yaml has no {section} {key}")
                continue
            known[key] = value["seeds"]
            for seed in value["seeds"]:
                found += [f"{path}: seed {seed['seed']}: {fault}" for fault in _faults_of(seed, planned.settings, root)]
    for table, columns in SEEDED.items():
        for row in _rows(folder / "tables" / f"{table}.csv"):
            if row["n"] != "0":
                found += _differing(
                    f"{table}.csv: {row['key']}",
                    row,
                    {name: of(known[row["key"]]) for name, of in columns.items()} if row["key"] in known else None,
                )
    for row in _rows(folder / "tables" / "cost.csv"):
        path = folder / "metrics" / "engine" / row["key"] / "cost.json"
        if row["c_c"]:
            main = next(one for one in read_json(path)["readings"] if one["main"]) if path.is_file() else None
            found += _differing(f"cost.csv: {row['key']}", row, {name: main[name] for name in COSTS} if main else None)
    return found


def _faults_of(seed: dict, entry, root: Path) -> list[str]:
    found = []
    if seed["identity"]["settings"] != identity.of_settings(entry):
        found.append("measured with other settings than params.yaml has")
    if not equivalence.same(seed["identity"]["code"], identity.code_of(entry), root / "results" / "canary.json"):
        found.append("measured by code that is not proven to compute the same (`python -m dbq canary --record`)")
    if subprocess.run(["git", "merge-base", "--is-ancestor", seed["commit"], "HEAD"], cwd=root, capture_output=True).returncode:
        found.append(f"its commit {seed['commit']} is not in the history")
    return found


def _rows(path: Path) -> list[dict]:
    return read_csv(path) if path.is_file() else []


def _differing(where: str, row: dict, expected: dict | None) -> list[str]:
    if expected is None:
        return [f"{where}: no committed result has its numbers"]
    return [
        f"{where}: {name} is {row[name]}, its result says {value}"
        for name, value in expected.items()
        if abs(float(row[name]) - value) > 1e-4
    ]


def main() -> None:
    root = Path.cwd()
    params = settings.read("params.yaml")
    checked = 0
    for profile in params["profiles"]:
        tracked = subprocess.run(["git", "ls-files", f"results/{profile}/metrics"], cwd=root, capture_output=True, text=True).stdout
        if tracked:  # results of smoke are made again by everybody and not committed
            if found := faults(root, settings.plan(params, profile)):
                raise DbqError(f"results/{profile}: {'; '.join(found)}", "train again, drop them, or take back the change")
            checked += 1
    print(f"the results of {checked} profiles belong to params.yaml, the code and the history")


if __name__ == "__main__":
    os.chdir(Path(__file__).parents[1])
    sys.exit(main_with_errors(main))
