"""Ablations: what decides the accuracy, one change at a time, judged on the validation split; the test images are never read."""

from pathlib import Path

from dbq import config
from dbq.files import write_json
from dbq.training import results, runs

CHANGES = ("quantizer", "training", "policy")


def run(params: dict, profile: str, float_state: dict, setting: runs.Setting) -> list[dict]:
    """One row for each entry of `ablations`: trained (or adopted from its checkpoint), or not run in this profile."""
    rows = []
    for key, entry in config.lookup(params, "ablations").items():
        experiment = config.ablation(params, profile, key)
        row = {"key": key, "base": entry["base"], "branches": experiment.quantizer.branches, "change": describe(params, key)}
        if profile not in entry["profiles"]:
            rows.append({**row, "n": 0, "label": f"not run: its profiles are {', '.join(entry['profiles'])}"})
            continue
        setting.log(f"{key}: {row['change']}")
        done = runs.train_quantized(experiment, experiment.seeds[0], float_state, setting, test=False)
        zero_rate, _ = results.zero_rates(done.network)
        device = done.provenance["device"]
        rows.append({
            **row, "n": 1, "epochs": len(done.fit.history), "val_top1": done.fit.val_top1, "zero_rate": zero_rate,
            "soft_hard_gap": done.fit.history[-1]["soft_hard_gap"], "device": device, "data_source": done.provenance["data_source"],
            "label": results.label(experiment.dataset_config.stand_in, device, experiment.training, len(done.fit.history)),
        })  # fmt: skip
    for row in rows:
        reference = next(other for other in rows if other["base"] == row["base"])
        if row["n"] and reference["n"]:
            row["delta_to_base"] = row["val_top1"] - reference["val_top1"]
    return rows


def describe(params: dict, key: str) -> str:
    """What the entry changes, as text; the first entry of a base experiment is what the others are compared with."""
    entries = config.lookup(params, "ablations")
    entry = entries[key]
    reference = next(other for other in entries.values() if other["base"] == entry["base"])
    parts = []
    for section in CHANGES[:2]:
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
