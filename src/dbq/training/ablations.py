"""Ablations: what decides the accuracy, one change at a time, judged on the validation split; the test images are never read."""

from pathlib import Path
from statistics import fmean

from dbq import config
from dbq.errors import DbqError
from dbq.files import read_json, write_json
from dbq.training import results, runs

CHANGES = ("quantizer", "training", "activations")
RECORDED = "; recorded"
DIGITS = 16  # of the sha256: params.yaml is read by people
MEASURED = ("key", "float", "settings", "seeds", "epochs", "val_top1", "zero_rate", "soft_hard_gap", "device", "data_source")


def run(params: dict, profile: str, float_state: dict, setting: runs.Setting, record: Path | None = None) -> list[dict]:
    """One row for each entry of `ablations`: trained (or adopted from its checkpoints), recorded, or not run in this profile.

    float_state: of the float network `ablation_float`, which must not have seen the validation split.
    val_top1, zero_rate and soft_hard_gap are lists, a value a seed; delta_to_base compares means. record: the file that `write` has made
    before; an entry with `{recorded: DIGEST}` in the place of seeds takes its row from there.
    """
    rows = []
    for key, entry in config.lookup(params, "ablations").items():
        base = config.lookup(params, "experiments", entry["base"])
        settings = {**config.lookup(params, "quantizers", base["method"]), **base["quantizer"], **entry["quantizer"]}
        row = {"key": key, "base": entry["base"], "branches": settings["branches"], "change": describe(params, key), "n": 0}
        if config.is_recorded(entry["seeds"], profile):
            row |= recorded(params, profile, key, record)
        elif profile in entry["seeds"]:
            setting.log(f"{key}: {row['change']}")
            row |= train(config.ablation(params, profile, key), float_state, setting)
        else:
            row["label"] = f"not run: ablations.{key}.seeds has no entry {profile}"
        rows.append(row)
    for row in rows:
        reference = next(other for other in rows if other["base"] == row["base"])
        if row["n"] and reference["n"]:
            row["delta_to_base"] = fmean(row["val_top1"]) - fmean(reference["val_top1"])
    return rows


def train(experiment: config.Experiment, float_state: dict, setting: runs.Setting) -> dict:
    done = [runs.train_quantized(experiment, seed, float_state, setting, test=False) for seed in experiment.seeds]
    device, epochs = done[0].provenance["device"], len(done[0].fit.history)
    return {
        "n": len(done), "seeds": experiment.seeds, "float": experiment.pretrain_key, "epochs": epochs,
        "settings": config.settings_of(experiment),
        "val_top1": [one.fit.val_top1 for one in done], "zero_rate": [results.zero_rates(one.network)[0] for one in done],
        "soft_hard_gap": [one.fit.history[-1]["soft_hard_gap"] for one in done],
        "device": device, "data_source": done[0].provenance["data_source"],
        "label": results.label(experiment.dataset_config.stand_in, device, experiment.training, epochs),
    }  # fmt: skip


def recorded(params: dict, profile: str, key: str, record: Path | None) -> dict:
    """The row of an entry that isn't trained again.

    Raises DbqError when the record has none, another one than params.yaml names, or one of other settings.
    """
    where = f"ablations.{key}.seeds.{profile}"
    found = {row["key"]: row for row in read_json(record)["rows"]} if record is not None and Path(record).is_file() else {}
    if not found.get(key, {}).get("n"):
        raise DbqError(f"{where}: recorded, and {record} has no result of {key}", "write seeds to train it")
    row = {name: value for name, value in found[key].items() if name not in ("base", "branches", "change", "delta_to_base")}
    entry = config.lookup(params, "ablations", key)
    wanted = entry["seeds"][profile]["recorded"]
    if digest(row) != wanted:
        raise DbqError(
            f"{where}: recorded {wanted}, and {record} holds {digest(row)}", f"`git checkout {record}`, or write seeds to train it"
        )
    tree = {**params, "ablations": {key: {**entry, "seeds": {profile: row["seeds"]}}}}
    now = config.ablation(tree, profile, key)
    if (config.settings_of(now), now.pretrain_key) != (row["settings"], row.get("float")):
        raise DbqError(
            f"{where}: recorded, but measured with other settings than params.yaml has now",
            "write seeds to train it with these, or take back the change",
        )
    return row | {"label": row["label"].removesuffix(RECORDED) + RECORDED}


def digest(row: dict) -> str:
    """Of what was measured: what params.yaml names in {recorded: DIGEST}."""
    return config.fingerprint({name: row.get(name) for name in MEASURED})[:DIGITS]


def describe(params: dict, key: str) -> str:
    """What the entry changes, as text; the first entry of a base experiment is what the others are compared with."""
    entries = config.lookup(params, "ablations")
    entry = entries[key]
    reference = next(other for other in entries.values() if other["base"] == entry["base"])
    parts = []
    for section in CHANGES:
        for name, value in entry[section].items():
            if reference[section].get(name) != value:
                parts.append(f"{name} {_text(value)}")
    if entry["policy"] != reference["policy"]:
        parts.append(f"policy {entry['policy']}")
    return ", ".join(parts) or "as the experiment" + (f", {_text(reference['quantizer'])}" if reference["quantizer"] else "")


def _text(value) -> str:
    return ", ".join(f"{name} {_text(inner)}" for name, inner in value.items()) if isinstance(value, dict) else str(value)


def write(rows: list[dict], folder) -> None:
    write_json(Path(folder) / "metrics.json", {"status": "run", "rows": rows})
