"""Every table of a profile as CSV and Markdown, from result files only and over the declared keys only.

write_tables() writes accuracy, cost, cost_readings, per_layer_cost (CSV), ablations, overhead, literature
and datasets. Equal results give equal bytes.
"""

import statistics
from pathlib import Path

import pandas as pd

from dbq.errors import DbqError
from dbq.files import read_csv, write_text
from dbq.report import ablation_report, overhead_figures, results
from dbq.settings.resolve import is_recorded, lookup

LITERATURE = "data/reference/literature.csv"
ACCURACY_COLUMNS = [
    "key", "network", "dataset", "method", "branches", "weight_bits", "activation_bits", "epochs", "n", "top1_mean", "top1_std",
    "zero_rate", "device", "data_source", "label", "val_top1_mean", "delta_to_float", "weights_source",
]  # fmt: skip
COST_COLUMNS = [
    "key", "network", "dataset", "method", "branches", "weight_bits", "activation_bits", "macs", "reading", "count_bias",
    *results.COSTS, "engine_top1", "engine_images", "engine_disagreeing", "engine_disagreeing_float64",
    "engine_unexplained", "smallest_multiplier_bits",
    "label",
]  # fmt: skip
DATASET_COLUMNS = ["key", "source", "label", "md5_identical", "classes", "image_size", "train", "val", "test", "licence"]
UNITS = {"c_c": "FA", "c_s": "FA", "c_r": "bit", "c_m": "bit"}
_INTEGERS = {
    "branches", "weight_bits", "activation_bits", "epochs", "n", "macs", *results.COSTS,
    "engine_images", "engine_disagreeing", "engine_disagreeing_float64",
    "engine_unexplained", "smallest_multiplier_bits",
    "nonzeros", "weights", "classes", "image_size", "train", "val", "test",
}  # fmt: skip


def write_tables(params: dict, metrics_folder, out_folder, literature=LITERATURE) -> None:
    """Write all tables to out_folder. `literature`: CSV of published numbers, copied as it is and never mixed with ours.

    Raises DbqError, naming the stage to run, when a declared key has no result.
    """
    out = Path(out_folder)
    accuracies = accuracy(params, metrics_folder)
    write_table(accuracies, out / "accuracy")
    write_table(cost(params, metrics_folder), out / "cost")
    write_table(cost_readings(params, metrics_folder), out / "cost_readings")
    write_text(out / "per_layer_cost.csv", to_csv(per_layer_cost(params, metrics_folder)))
    write_table(datasets(params, metrics_folder), out / "datasets")
    write_table(ablation_report.table(metrics_folder), out / "ablations")
    write_table(overhead_figures.table(metrics_folder), out / "overhead")
    write_table(published(literature), out / "literature")


def accuracy(params: dict, metrics_folder) -> pd.DataFrame:
    """One row per declared float network, experiment and row of a sweep; top1 and delta_to_float in percent, zero_rate as a fraction
    (mean over seeds).

    top1_std is the sample standard deviation, empty for one seed. What was not run has n = 0, no numbers and the reason as its label; a
    sweep that was not run is one row.
    """
    rows = []
    for stage in ("pretrain", "quantize"):
        for key in results.declared(params, stage):
            value = results.read_result(metrics_folder, stage, key)
            rows.append(_accuracy_row(value) if value["status"] == "run" else _not_run_row(params, stage, key, value["reason"]))
            _mark_recorded(params, stage, key, rows[-1:])
    for key in results.declared(params, "sweep"):
        value = results.read_result(metrics_folder, "sweep", key)
        if value["status"] == "run":
            rows += [_accuracy_row(row) for row in value["rows"]]
            _mark_recorded(params, "sweep", key, rows[-len(value["rows"]) :])
        else:
            count = len(lookup(params, "sweeps", key, "rows"))
            rows.append({**_not_run_row(params, "sweep", key, value["reason"]), "key": f"sweep-{key}", "method": f"{count} rows"})
    floats = {row["key"]: row.get("top1_mean") for row in rows if row["method"] == "float"}
    for row in rows:
        reference = floats.get(f"{row['network']}-{row['dataset']}")
        if row["method"] != "float" and row["n"] and reference is not None:
            row["delta_to_float"] = row["top1_mean"] - reference
    return _frame(rows, ACCURACY_COLUMNS)


def _mark_recorded(params: dict, stage: str, key: str, rows: list[dict]) -> None:
    """Say of rows whose training was recorded that they weren't trained in this run."""
    if is_recorded(lookup(params, results.DECLARED_IN[stage], key).get("seeds", {}), lookup(params, "profile")):
        for row in rows:
            row["label"] += "; recorded"


def sweep(rows: list[dict]) -> pd.DataFrame:
    """The rows of one sweep as in the accuracy table."""
    return _frame([_accuracy_row(row) for row in rows], ACCURACY_COLUMNS)


def _accuracy_row(value: dict) -> dict:
    top1 = value["top1"]
    return {
        **{name: value[name] for name in ACCURACY_COLUMNS if name in value and name != "zero_rate"},
        "n": len(top1),
        "top1_mean": statistics.fmean(top1),
        "top1_std": statistics.stdev(top1) if len(top1) > 1 else None,
        "zero_rate": statistics.fmean(value["zero_rate"]),
        "val_top1_mean": statistics.fmean(value["val_top1"]),
    }


def _not_run_row(params: dict, stage: str, key: str, reason: str) -> dict:
    entry = lookup(params, results.DECLARED_IN[stage], key)
    row = {name: entry[name] for name in ("network", "dataset")}
    return {"key": key, **row, "method": entry.get("method", "float"), "n": 0, "label": f"{results.NOT_RUN}: {reason}"}


def cost(params: dict, metrics_folder) -> pd.DataFrame:
    """One row per declared experiment under the reading that params.cost chooses: c_c and c_s in full adders, c_r and c_m in bits.

    label: how far the accuracy of the trained weights may be believed, on which c_s depends.
    """
    rows = []
    for key in results.declared(params, "engine"):
        value = results.read_result(metrics_folder, "engine", key)
        if value["status"] == results.NOT_RUN:
            rows.append(_not_run_row(params, "engine", key, value["reason"]))
            continue
        label = results.read_result(metrics_folder, "quantize", key).get("label")
        rows.append({**value, **results.main_reading(value, params), "label": label, **_engine_columns(metrics_folder, key)})
    return _frame(rows, COST_COLUMNS)


def _engine_columns(metrics_folder, key: str) -> dict:
    """What the integer engine's replay says: its top1 on the test set, images of another class, integers that nothing explains."""
    value = results.engine(metrics_folder, key)
    columns = {f"engine_{name}": value[name] for name in ("images", "disagreeing", "disagreeing_float64", "unexplained")}
    return {"engine_top1": value["top1_engine"], "smallest_multiplier_bits": value["smallest_width"], **columns}


def cost_readings(params: dict, metrics_folder) -> pd.DataFrame:
    """All readings side by side: a row per experiment and metric (with its unit), a column per reading."""
    rows, names = [], []
    for key in results.declared(params, "engine"):
        value = results.read_result(metrics_folder, "engine", key)
        if value["status"] == results.NOT_RUN:
            rows.append({"key": key, "label": f"{results.NOT_RUN}: {value['reason']}"})
            continue
        by_name = {row["reading"] + (" + bias" if row["count_bias"] else ""): row for row in value["readings"]}
        names += [name for name in by_name if name not in names]
        for metric in results.COSTS:
            rows.append({"key": key, "metric": metric, "unit": UNITS[metric], **{name: row[metric] for name, row in by_name.items()}})
    return _frame(rows, ["key", "metric", "unit", *names, "label"], _INTEGERS | set(names))


def per_layer_cost(params: dict, metrics_folder) -> pd.DataFrame:
    """The layers of every experiment that was run, under the main reading."""
    keys = [key for key in results.declared(params, "engine") if results.was_run(metrics_folder, "engine", key)]
    frames = [results.layers(metrics_folder, key).assign(key=key) for key in keys]
    columns = ["key", "layer", "kind", *results.COSTS, "nonzeros", "weights"]
    return _frame([row for frame in frames for row in frame.to_dict("records")], columns)


def datasets(params: dict, metrics_folder) -> pd.DataFrame:
    """Where the images of each declared data set come from, and how many there are."""
    rows = []
    for name in results.declared(params, "prepare"):
        value = results.read_result(metrics_folder, "prepare", name)
        if value.get("status") == results.NOT_RUN:
            rows.append({"key": name, "label": f"{results.NOT_RUN}: {value['reason']}"})
        else:
            counts = {split: value["counts"][split]["total"] for split in ("train", "val", "test")}
            rows.append({"key": name, **{column: value.get(column) for column in DATASET_COLUMNS[1:]}, **counts})
    return _frame(rows, DATASET_COLUMNS)


def published(literature) -> pd.DataFrame:
    """Numbers of others, as text; DbqError for a row whose label is not PAPER or SIBLING or that names no source."""
    rows = read_csv(literature)
    if not rows:
        raise DbqError(f"{literature}: no rows", "restore the file from git")
    for number, row in enumerate(rows, 2):
        if row.get("label") not in ("PAPER", "SIBLING") or not row.get("source"):
            raise DbqError(
                f"{literature}: line {number} lacks its source, or its label is not PAPER or SIBLING", "name where the number was read"
            )
    return pd.DataFrame(rows, dtype=str)


def write_table(frame: pd.DataFrame, path_without_suffix) -> None:
    """The same rows as NAME.csv (4 decimals) and NAME.md (2 decimals)."""
    path = Path(path_without_suffix)
    write_text(path.with_name(path.name + ".csv"), to_csv(frame))
    write_text(path.with_name(path.name + ".md"), to_markdown(frame))


def to_csv(frame: pd.DataFrame) -> str:
    return frame.to_csv(index=False, float_format="%.4f", lineterminator="\n")


def to_markdown(frame: pd.DataFrame) -> str:
    """A GitHub table: numbers to the right, 2 decimals, thousands separated, "-" where there is no value."""
    right = [pd.api.types.is_numeric_dtype(frame[column]) and not pd.api.types.is_bool_dtype(frame[column]) for column in frame]
    lines = [list(map(str, frame.columns)), ["---:" if side else "---" for side in right]]
    lines += [[_cell(value) for value in row] for row in frame.astype(object).itertuples(index=False)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(value) -> str:
    if value is None or value is pd.NA or value == "" or value != value:
        return "-"
    if isinstance(value, float):
        return f"{value:.2f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value).replace("|", "\\|").replace("\n", " ")


def _frame(rows: list[dict], columns: list[str], integers=frozenset(_INTEGERS)) -> pd.DataFrame:
    """Columns of whole numbers stay whole where a value is missing; a column that is empty altogether keeps its type."""
    frame = pd.DataFrame([{column: row.get(column) for column in columns} for row in rows], columns=columns, dtype=object)
    for column in columns:
        if column in integers:
            frame[column] = frame[column].astype("Int64")
        elif column in ("top1_mean", "top1_std", "zero_rate", "val_top1_mean", "delta_to_float", "engine_top1"):
            frame[column] = frame[column].astype(float)
    return frame
