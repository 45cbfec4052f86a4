"""Every table of a profile as CSV and Markdown, from result files only and over the declared keys only. Equal results give equal bytes."""

import math
from pathlib import Path

import pandas as pd

from dbq.files import read_csv, write_text
from dbq.report import overhead_figures
from dbq.report.results import COSTS, LAYER_COLUMNS, NOT_RUN, SIGNED_DIGITS, Results
from dbq.report.show import changes
from dbq.settings import Plan, Row

LITERATURE = "data/reference/literature.csv"
ROW_COLUMNS = ["key", "network", "dataset", "method", "branches", "weight_bits", "activation_bits"]
ACCURACY_COLUMNS = [
    *ROW_COLUMNS, "epochs", "n", "top1_mean", "top1_std", "zero_rate", "device", "data_source", "label", "val_top1_mean",
    "delta_to_float", "weights_source",
]  # fmt: skip
ABLATION_COLUMNS = [
    "key", "base", "start", "change", "method", "branches", "epochs", "n", "val_top1_mean", "val_top1_std", "delta_to_base",
    "soft_hard_gap", "zero_rate", "device", "label",
]  # fmt: skip
# column: its name in engine.json
REPLAY = {
    "engine_top1": "top1_engine", "engine_images": "images", "engine_disagreeing": "disagreeing",
    "engine_disagreeing_float64": "disagreeing_float64", "engine_unexplained": "unexplained", "smallest_multiplier_bits": "smallest_width",
}  # fmt: skip
COST_COLUMNS = [*ROW_COLUMNS, "macs", "reading", "count_bias", *COSTS, *SIGNED_DIGITS, *REPLAY, "label"]
DATASET_COLUMNS = ["key", "source", "label", "md5_identical", "classes", "image_size", "train", "val", "test", "licence"]
PROVENANCE_COLUMNS = ["key", "seed", "top1", "val_top1", "commit", "device", "torch", "settings", "data", "code", "start"]


def write_tables(plan: Plan, runs_folder, out_folder, literature=LITERATURE) -> None:
    """Write all tables of runs/PROFILE to out_folder. `literature`: numbers that others published, in a table of their own.

    Raises DbqError, naming the stage to run, when a declared key has no result.
    """
    out, results = Path(out_folder), Results(plan, Path(runs_folder))
    for table in (accuracy, ablations, cost, cost_readings, datasets):
        write_table(table(results), out / table.__name__)
    overhead = [overhead_figures.read(results.folder / "overhead", name) for name in ("overhead.csv", overhead_figures.GPU)]
    write_table(pd.concat(overhead, ignore_index=True), out / "overhead")
    write_table(pd.DataFrame(read_csv(literature), dtype=str), out / "literature")
    write_text(out / "per_layer_cost.csv", to_csv(per_layer_cost(results)))
    write_text(out / "provenance.csv", to_csv(provenance(results)))


def accuracy(results: Results) -> pd.DataFrame:
    """A line for each start and for each row judged on the test images; top1 and delta_to_float in percent, zero_rate a fraction.

    top1_std is the sample standard deviation, empty for one seed. What was not run has n = 0 and the reason as its label.
    """
    lines = [_line(results, "pretrain", key) for key in results.plan.starts]
    floats = {line["key"]: line.get("top1_mean", math.nan) for line in lines}
    for key in _judged_on(results, "test"):
        line = _line(results, "quantize", key)
        lines.append(line | {"delta_to_float": line.get("top1_mean", math.nan) - floats[results.plan.rows[key].settings.start]})
    return _frame(lines, ACCURACY_COLUMNS)


def ablations(results: Results) -> pd.DataFrame:
    """A line for each row judged on the validation images, with what it changes in the row that it extends and what that does to top1."""
    lines = []
    for key in _judged_on(results, "validation"):
        row = results.plan.rows[key].settings
        base = results.plan.rows[row.compared_with or key].settings
        change = changes(row, base) if base is not row else "as declared"
        line, reference = _line(results, "quantize", key), _line(results, "quantize", base.key)
        delta = line.get("val_top1_mean", math.nan) - reference.get("val_top1_mean", math.nan)
        lines.append(line | {"base": base.key, "start": row.start, "change": change, "delta_to_base": delta})
    return _frame(lines, ABLATION_COLUMNS)


def cost(results: Results) -> pd.DataFrame:
    """A line for each row judged on the test images, under the reading that params.yaml chooses: c_c and c_s in full adders, c_r and c_m
    in bits, and what the replay in integers gave. Beside them c_c and c_s where fixed-point weights are summed as signed digits, like for
    like with ternary planes.

    label: how far the accuracy of the trained weights may be believed, on which c_s depends.
    """
    lines = []
    for key in _judged_on(results, "test"):
        line = _line(results, "quantize", key, "engine")
        if line["n"]:
            replay, counted = results.read("engine", key, "engine.json"), results.read("engine", key)
            main = next(row for row in counted["readings"] if row["main"])
            line |= {"macs": counted["macs"], **main, **{column: replay[name] for column, name in REPLAY.items()}}
            for row in counted["readings"]:
                if (row["reading"], row["count_bias"]) == ("signed_digits", main["count_bias"]):
                    line |= {name: row[metric] for metric, name in zip(COSTS, SIGNED_DIGITS, strict=False)}
        lines.append(line)
    return _frame(lines, COST_COLUMNS)


def cost_readings(results: Results) -> pd.DataFrame:
    """All readings side by side: a line for each row and cost (with its unit), a column for each reading."""
    lines, names = [], {}
    for key in _judged_on(results, "test"):
        if reason := results.reason("engine", key):
            lines.append({"key": key, "label": f"{NOT_RUN}: {reason}"})
            continue
        readings = {row["reading"] + " + bias" * row["count_bias"]: row for row in results.read("engine", key)["readings"]}
        names |= dict.fromkeys(readings)
        for metric in COSTS:
            values = {name: reading[metric] for name, reading in readings.items()}
            lines.append({"key": key, "metric": metric, "unit": "FA" if metric in ("c_c", "c_s") else "bit", **values})
    return _frame(lines, ["key", "metric", "unit", *names, "label"])


def per_layer_cost(results: Results) -> pd.DataFrame:
    """The layers of every row whose cost was counted, under the main reading."""
    frames = [results.layers(key).convert_dtypes().assign(key=key) for key in results.running("engine")]
    return pd.concat([pd.DataFrame(columns=["key", *LAYER_COLUMNS], dtype=object), *frames])


def datasets(results: Results) -> pd.DataFrame:
    """Where the images of each data set of the profile come from, and how many there are."""
    lines = []
    for name in results.plan.datasets:
        if reason := results.reason("prepare", name):
            lines.append({"key": name, "label": f"{NOT_RUN}: {reason}"})
            continue
        manifest = results.read("prepare", name)
        lines.append({**manifest, "key": name, **{split: manifest["counts"][split]["total"] for split in ("train", "val", "test")}})
    return _frame(lines, DATASET_COLUMNS)


def provenance(results: Results) -> pd.DataFrame:
    """A line for each seed of every start and row that was run: its top1, its commit, its machine, the digests of what it came from."""
    keys = [*results.running("pretrain"), *results.running("quantize")]
    lines = [{**seed, **seed["identity"], "key": key} for key in keys for seed in results.training(key)["seeds"]]
    return _frame(lines, PROVENANCE_COLUMNS)


def _judged_on(results: Results, images: str) -> list[str]:
    return [key for key, planned in results.plan.rows.items() if planned.settings.judged == images]


def _line(results: Results, stage: str, key: str, of: str = "") -> dict:
    """What the settings say of a start or a row, with n, means and sample standard deviations (NaN for one seed) over the seeds of its
    training; n = 0 and the reason where the stage `of` was not run."""
    settings = results.declared(stage)[key].settings
    line = {"key": key, "network": settings.network, "dataset": settings.dataset, "method": "float", "n": 0}
    if isinstance(settings, Row):
        line |= {name: getattr(settings, name) for name in ROW_COLUMNS}
    if reason := results.reason(of or stage, key):
        return line | {"label": f"{NOT_RUN}: {reason}"}
    value = results.training(key)
    seeds = pd.DataFrame(value["seeds"])
    numbers = seeds.reindex(columns=["top1", "val_top1", "zero_rate", "soft_hard_gap"]).astype(float)
    line |= value | {"n": len(seeds), "device": "; ".join(seeds.device.unique())} | numbers.mean().to_dict()
    return line | numbers.mean().add_suffix("_mean").to_dict() | numbers.std().add_suffix("_std").to_dict()


def _frame(lines: list[dict], columns: list[str]) -> pd.DataFrame:
    """Whole numbers stay whole in a column where a value is missing."""
    frame = pd.DataFrame([{column: line.get(column) for column in columns} for line in lines], columns=columns, dtype=object)
    for column in columns:
        kind = pd.api.types.infer_dtype(frame[column], skipna=True)
        if kind in ("integer", "floating", "mixed-integer-float"):
            frame[column] = frame[column].astype("Int64" if kind == "integer" else float)
    return frame


def write_table(frame: pd.DataFrame, path_without_suffix) -> None:
    """The same lines as NAME.csv (4 decimals) and NAME.md (2 decimals)."""
    write_text(f"{path_without_suffix}.csv", to_csv(frame))
    write_text(f"{path_without_suffix}.md", to_markdown(frame))


def to_csv(frame: pd.DataFrame) -> str:
    return frame.to_csv(index=False, float_format="%.4f", lineterminator="\n")


def to_markdown(frame: pd.DataFrame) -> str:
    """A GitHub table: numbers to the right, 2 decimals, thousands separated, "-" where there is no value."""
    right = [pd.api.types.is_numeric_dtype(frame[column]) and not pd.api.types.is_bool_dtype(frame[column]) for column in frame]
    lines = [list(map(str, frame.columns)), ["---:" if side else "---" for side in right]]
    lines += [[cell(value).replace("|", "\\|") for value in row] for row in frame.astype(object).itertuples(index=False)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def cell(value) -> str:
    """A value of a table as a reader wants it."""
    if value is None or value is pd.NA or value == "" or value != value:
        return "-"
    if isinstance(value, float):
        return f"{value:.2f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value).replace("\n", " ")
