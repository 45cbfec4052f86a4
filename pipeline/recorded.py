"""Results that were measured before and are kept: a stage takes them from results/PROFILE instead of training again.

    PYTHONPATH=src python pipeline/recorded.py cifar10                            # every line that could be written into params.yaml
    PYTHONPATH=src python pipeline/recorded.py cifar10 resnet20-cifar10-dbq-1t    # of this key alone

Trainings take hours and models are not in git; what they gave is, under results/. `seeds: {PROFILE: {recorded: DIGEST}}` of a float
network, an experiment or a sweep makes its stages copy the metric files and the report pages that are committed there; of an ablation, it
takes the row from the file of all ablations. DIGEST belongs to the metric files (of an ablation: to what was measured): one changed byte
and the stage stops. So does a change of the settings that the result was measured with. To train
again, write seeds.
"""

import argparse
import hashlib
import shutil
import sys
from pathlib import Path

import not_run
from dbq import config
from dbq.errors import DbqError, main_with_errors
from dbq.files import read_json

STAGES = {"pretrain": ("pretrain",), "experiments": ("quantize", "engine"), "sweeps": ("sweep",)}
DIGITS = 16  # of the sha256: params.yaml is read by people


def digest(profile: str, section: str, key: str) -> str:
    """Of the metric files of all stages of an experiment or a sweep: names and bytes."""
    found = hashlib.sha256()
    for stage in STAGES[section]:
        folder = _metrics(profile, stage, key)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        if not files:
            raise DbqError(f"{folder}: no recorded result", f"run it once with seeds, or `git checkout results/{profile}`")
        for path in files:
            found.update(f"{stage}/{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    return found.hexdigest()[:DIGITS]


def restore(params: dict, stage: str, key: str, wanted: str, outputs: list[str]) -> None:
    """Write the outputs of a stage from the record; a model, which no record has, says "not run".

    Raises DbqError when the record is missing, when it isn't the one that params.yaml names, and when it was measured with other settings.
    """
    profile = params["profile"]
    section = next(name for name, stages in STAGES.items() if stage in stages)
    where = f"{section}.{key}.seeds.{profile}"
    if (found := digest(profile, section, key)) != wanted:
        remedy = f"`git checkout results/{profile}`, or write seeds to train it"
        raise DbqError(f"{where}: recorded {wanted}, and results/{profile} holds {found}", remedy)
    if stage != "engine":
        check_settings(params, section, key)
    for output in outputs:
        if output.endswith("/"):
            shutil.rmtree(output, ignore_errors=True)
            shutil.copytree(_metrics(profile, stage, key), output)
        elif output.endswith((".html", ".ipynb")):
            Path(output).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(Path("results", profile, "reports", Path(output).name), output)
        else:
            not_run.write([output], "its result is recorded, the model isn't kept")


def check_settings(params: dict, section: str, key: str) -> None:
    """Raises DbqError unless the recorded result was measured with the settings that params.yaml has now."""
    profile = params["profile"]
    value = read_json(_metrics(profile, STAGES[section][0], key) / "metrics.json")
    for row in value["rows"] if section == "sweeps" else [value]:
        tree = {**params, section: {key: {**params[section][key], "seeds": {profile: row["seeds"]}}}}
        if section == "sweeps":
            entry = config.sweep(tree, profile, key, row["row"])
        else:
            entry = {"pretrain": config.pretrain, "experiments": config.experiment}[section](tree, profile, key)
        if config.settings_of(entry) != row.get("settings"):
            raise DbqError(
                f"{section}.{key}.seeds.{profile}: recorded, but measured with other settings than params.yaml has now",
                "write seeds to train it with these, or take back the change",
            )


def _metrics(profile: str, stage: str, key: str) -> Path:
    return Path("results", profile, "metrics", stage, key)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python pipeline/recorded.py", description=__doc__.splitlines()[0])
    parser.add_argument("profile", help=", ".join(config.PROFILES))
    parser.add_argument("key", nargs="?", help="of pretrain, experiments, sweeps or ablations; all without it")
    arguments = parser.parse_args()
    profile = config.check_profile(arguments.profile)
    params = {**config.read(), "profile": profile}
    lines = 0
    for section, stages in STAGES.items():
        for key in params[section]:
            if arguments.key not in (None, key) or not _metrics(profile, stages[0], key).is_dir():
                continue
            try:
                check_settings(params, section, key)
            except DbqError as error:
                print(f"{section}.{key}: {error.problem}", file=sys.stderr)
                continue
            print(f"{section}.{key}: {profile}: {{recorded: {digest(profile, section, key)}}}")
            lines += 1
    record = Path("results", profile, "metrics", "ablations", "metrics.json")
    rows = read_json(record)["rows"] if record.is_file() else []
    from dbq.training import ablations  # here: it takes seconds to import, and every stage imports this file

    for row in rows:
        if arguments.key in (None, row["key"]) and row["key"] in params["ablations"] and row["n"]:
            print(f"ablations.{row['key']}: {profile}: {{recorded: {ablations.digest(row)}}}")
            lines += 1
    if not lines:
        raise DbqError(f"results/{profile}: nothing to record", "run the experiments once with seeds")


if __name__ == "__main__":
    sys.exit(main_with_errors(main))
