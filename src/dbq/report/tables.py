"""Every table of a profile as CSV and Markdown, from result files only and over the declared keys only. Equal results give equal bytes."""

import statistics
from pathlib import Path

import pandas as pd

from dbq.files import read_csv, write_text
from dbq.report import overhead_figures
from dbq.report.results import COSTS, NOT_RUN, SIGNED_DIGITS, Results, Training
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
COST_COLUMNS = [
    *ROW_COLUMNS, "macs", "reading", "count_bias", *COSTS, *SIGNED_DIGITS, "engine_top1", "engine_images", "engine_disagreeing",
    "engine_disagreeing_float64", "engine_unexplained", "smallest_multiplier_bits", "label",
]  # fmt: skip
LAYER_COLUMNS = ["key", "layer", "kind", *COSTS, "nonzeros", "weights"]
DATASET_COLUMNS = ["key", "source", "label", "md5_identical", "classes", "image_size", "train", "val", "test", "licence"]
PROVENANCE_COLUMNS = ["key", "seed", "top1", "val_top1", "commit", "device", "torch", "settings", "data", "code", "start"]
UNITS = {"c_c": "FA", "c_s": "FA", "c_r": "bit", "c_m": "bit"}


def write_tables(plan: Plan, runs_folder, out_folder, literature=LITERATURE) -> None:
    """Write all tables of runs/PROFILE to out_folder. `literature`: numbers that others published, in a table of their own.

    Raises DbqError, naming the stage to run, when a declared key has no result.
    """
    out, results = Path(out_folder), Results(plan, runs_folder)
    write_table(accuracy(results), out / "accuracy")
    write_table(ablations(results), out / "ablations")
    write_table(cost(results), out / "cost")
    write_table(cost_readings(results), out / "cost_readings")
    write_table(datasets(results), out / "datasets")
    write_table(overhead_figures.table(runs_folder), out / "overhead")
    write_table(pd.DataFrame(read_csv(literature), dtype=str), out / "literature")
    write_text(out / "per_layer_cost.csv", to_csv(per_layer_cost(results)))
    write_text(out / "provenance.csv", to_csv(provenance(results)))


def accuracy(results: Results) -> pd.DataFrame:
    """A line for each start and for each row judged on the test images; top1 and delta_to_float in percent, zero_rate a fraction.

    top1_std is the sample standard deviation, empty for one seed. What was not run has n = 0 and the reason as its label.
    """
    lines = [_accuracy_line(results, "pretrain", key) for key in results.plan.starts]
    floats = {line["key"]: line.get("top1_mean") for line in lines}
    for key in _judged_on(results, "test"):
        line = _accuracy_line(results, "quantize", key)
        reference = floats[results.plan.rows[key].settings.start]
        if line["n"] and reference is not None:
            line["delta_to_float"] = line["top1_mean"] - reference
        lines.append(line)
    return _frame(lines, ACCURACY_COLUMNS)


def _accuracy_line(results: Results, stage: str, key: str) -> dict:
    line, value = _line(results, stage, key)
    if value is None:
        return line
    named = {name: getattr(value, name) for name in (*ROW_COLUMNS, "epochs", "device", "data_source", "label", "weights_source")}
    means = {"val_top1_mean": _mean(value, "val_top1"), "zero_rate": _mean(value, "zero_rate")}
    return line | named | _moments(value, "top1") | means


def ablations(results: Results) -> pd.DataFrame:
    """A line for each row judged on the validation images, with what it changes in the row that it extends and what that does to top1."""
    lines = []
    for key in _judged_on(results, "validation"):
        row = results.plan.rows[key].settings
        base = results.plan.rows[row.compared_with or key].settings
        line, value = _line(results, "quantize", key)
        change = changes(row, base) if base is not row else "as declared"
        line |= {"base": base.key, "start": row.start, "change": change}
        if value is not None:
            line |= {"epochs": value.epochs, "device": value.device, "label": value.label, **_moments(value, "val_top1")}
            line |= {name: _mean(value, name) for name in ("soft_hard_gap", "zero_rate")}
            if results.reason("quantize", base.key) is None:
                line["delta_to_base"] = line["val_top1_mean"] - _mean(results.training(base.key), "val_top1")
        lines.append(line)
    return _frame(lines, ABLATION_COLUMNS)


def cost(results: Results) -> pd.DataFrame:
    """A line for each row judged on the test images, under the reading that params.yaml chooses: c_c and c_s in full adders, c_r and c_m
    in bits, and what the replay in integers gave. Beside them c_c and c_s where fixed-point weights are summed as signed digits, like for
    like with ternary planes.

    label: how far the accuracy of the trained weights may be believed, on which c_s depends.
    """
    lines = []
    for key in _judged_on(results, "test"):
        line, value = _line(results, "quantize", key, "engine")
        if value is not None:
            replay, counted, main = results.replay(key), results.cost(key), results.main_reading(key)
            line |= {"macs": counted.macs, "label": value.label, **main.model_dump()}
            for row in counted.readings:
                if (row.reading, row.count_bias) == ("signed_digits", main.count_bias):
                    line |= {name: getattr(row, metric) for metric, name in zip(COSTS, SIGNED_DIGITS, strict=False)}
            line |= {
                "engine_top1": replay.top1_engine, "engine_images": replay.images, "engine_disagreeing": replay.disagreeing,
                "engine_disagreeing_float64": replay.disagreeing_float64, "engine_unexplained": replay.unexplained,
                "smallest_multiplier_bits": replay.smallest_width,
            }  # fmt: skip
        lines.append(line)
    return _frame(lines, COST_COLUMNS)


def cost_readings(results: Results) -> pd.DataFrame:
    """All readings side by side: a line for each row and cost (with its unit), a column for each reading."""
    lines, names = [], {}
    for key in _judged_on(results, "test"):
        if reason := results.reason("engine", key):
            lines.append({"key": key, "label": f"{NOT_RUN}: {reason}"})
            continue
        readings = {row.reading + " + bias" * row.count_bias: row for row in results.cost(key).readings}
        names |= dict.fromkeys(readings)
        for metric in COSTS:
            values = {name: getattr(reading, metric) for name, reading in readings.items()}
            lines.append({"key": key, "metric": metric, "unit": UNITS[metric], **values})
    return _frame(lines, ["key", "metric", "unit", *names, "label"])


def per_layer_cost(results: Results) -> pd.DataFrame:
    """The layers of every row whose cost was counted, under the main reading."""
    frames = [results.layers(key).convert_dtypes().assign(key=key) for key in results.running("engine")]
    return _frame([line for frame in frames for line in frame.to_dict("records")], LAYER_COLUMNS)


def datasets(results: Results) -> pd.DataFrame:
    """Where the images of each data set of the profile come from, and how many there are."""
    lines = []
    for name in results.plan.datasets:
        if reason := results.reason("prepare", name):
            lines.append({"key": name, "label": f"{NOT_RUN}: {reason}"})
            continue
        manifest = results.manifest(name)
        counts = {split: manifest.counts[split]["total"] for split in ("train", "val", "test")}
        lines.append({"key": name, **manifest.model_dump(), **counts})
    return _frame(lines, DATASET_COLUMNS)


def provenance(results: Results) -> pd.DataFrame:
    """A line for each seed of every start and row that was run: its top1, its commit, its machine, the digests of what it came from."""
    keys = [*results.running("pretrain"), *results.running("quantize")]
    seeds = [(key, seed) for key in keys for seed in results.training(key).seeds]
    return _frame([{"key": key, **seed.model_dump(), **seed.identity} for key, seed in seeds], PROVENANCE_COLUMNS)


def _judged_on(results: Results, images: str) -> list[str]:
    return [key for key, planned in results.plan.rows.items() if planned.settings.judged == images]


def _line(results: Results, stage: str, key: str, of: str = "") -> tuple[dict, Training | None]:
    """What the settings say of a start or a row, and the training's result; n = 0 and the reason where the stage `of` was not run."""
    settings = results.declared(stage)[key].settings
    line = {"key": key, "network": settings.network, "dataset": settings.dataset, "method": "float", "n": 0}
    if isinstance(settings, Row):
        line |= {name: getattr(settings, name) for name in ROW_COLUMNS}
    if reason := results.reason(of or stage, key):
        return line | {"label": f"{NOT_RUN}: {reason}"}, None
    return line, results.training(key)


def _moments(value: Training, name: str) -> dict:
    """n, mean and sample standard deviation over the seeds."""
    numbers = value.values(name)
    deviation = statistics.stdev(numbers) if len(numbers) > 1 else None
    return {"n": len(numbers), f"{name}_mean": _mean(value, name), f"{name}_std": deviation}


def _mean(value: Training, name: str) -> float | None:
    numbers = value.values(name)
    return statistics.fmean(numbers) if numbers else None


def _frame(lines: list[dict], columns: list[str]) -> pd.DataFrame:
    """Whole numbers stay whole in a column where a value is missing."""
    frame = pd.DataFrame([{column: line.get(column) for column in columns} for line in lines], columns=columns, dtype=object)
    for column in columns:
        kinds = {type(value) for value in frame[column] if not pd.isna(value)}
        if kinds and kinds <= {int, float}:
            frame[column] = frame[column].astype("Int64" if kinds == {int} else float)
    return frame


def write_table(frame: pd.DataFrame, path_without_suffix) -> None:
    """The same lines as NAME.csv (4 decimals) and NAME.md (2 decimals)."""
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
