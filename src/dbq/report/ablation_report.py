"""The ablations as a table and a figure: validation top1 of each change beside what it changes."""

import statistics
from pathlib import Path

import pandas as pd

from dbq.errors import DbqError
from dbq.files import read_json
from dbq.report.drawing import FAINT, METHODS, Drawing, message, method_name, styled

COLUMNS = [
    "key", "base", "float", "change", "branches", "epochs", "n", "val_top1_mean", "val_top1_std", "delta_to_base",
    "soft_hard_gap", "zero_rate", "device", "label",
]  # fmt: skip
WHOLE = ("branches", "epochs", "n")
MEANS = ("soft_hard_gap", "zero_rate")
SHOWN = 3.0  # points below its reference from which a row stands at the edge of the figure: it would press the others together


def table(metrics_folder) -> pd.DataFrame:
    """One row for each declared ablation: means over its seeds; val_top1_std is the sample standard deviation, empty for one seed.

    What was not run has n = 0 and the reason as its label.
    """
    path = Path(metrics_folder) / "ablations" / "metrics.json"
    if not path.is_file():
        raise DbqError(f"{path}: no such file", "run `dvc repro ablations`")
    value = read_json(path)
    if not isinstance(value, dict) or not isinstance(value.get("rows"), list):
        raise DbqError(f"{path}: no rows", "run `dvc repro --force ablations`")
    frame = pd.DataFrame([_line(row) for row in value["rows"]], columns=COLUMNS, dtype=object)
    for name in COLUMNS:
        if name in WHOLE:
            frame[name] = frame[name].astype("Int64")
        elif name in ("val_top1_mean", "val_top1_std", "delta_to_base", *MEANS):
            frame[name] = frame[name].astype(float)
    return frame


def _line(row: dict) -> dict:
    line = {name: row.get(name) for name in COLUMNS}
    if row["n"]:
        top1 = row["val_top1"]
        line |= {"val_top1_mean": statistics.fmean(top1), "val_top1_std": statistics.stdev(top1) if len(top1) > 1 else None}
        line |= {name: statistics.fmean(row[name]) for name in MEANS}
    return line


@styled
def ablation_plot(rows: pd.DataFrame, smoke: bool = False) -> Drawing:
    """Validation top1 of each ablation that was run, grouped by the experiment that it changes; a line marks the reference."""
    run = rows[rows.n > 0]
    if run.empty:
        return message("No ablation was run in this profile.", "Ablations", smoke)
    bases = list(dict.fromkeys(run.base))
    figure = Drawing(8.0, 0.9 + 0.26 * len(run) + 0.4 * len(bases) + (0.2 if smoke else 0), "Ablations: validation top1", smoke)
    axes = figure.add_subplot()
    far = run.delta_to_base < -SHOWN
    shown = run.val_top1_mean[~far]
    room = max(float(shown.max() - shown.min()), 0.5)
    left = shown.min() - (0.2 if far.any() else 0.08) * room
    axes.set_xlim(left, shown.max() + 0.25 * room)
    position, ticks, names = 0.0, [], []
    for base in bases:
        axes.text(0.0, position, base, transform=axes.get_yaxis_transform(), fontweight="bold", va="center", fontsize=8.5)
        group = run[run.base == base]
        first = float(group.val_top1_mean.iloc[0])
        axes.plot([first, first], [position + 0.5, position + len(group) + 0.5], color=FAINT, linewidth=1)
        for row in group.itertuples():
            position += 1
            colour, marker = METHODS.get(method_name("dbq", row.branches), METHODS["float"])
            if row.delta_to_base < -SHOWN:
                x, end, text = left + 0.02 * room, left + 0.02 * room, f"{row.val_top1_mean:.2f}, off the axis"
                axes.plot(x, position, "<", color=colour, markersize=5.5)
            else:
                x, text, deviation = row.val_top1_mean, f"{row.val_top1_mean:.2f}", 0 if pd.isna(row.val_top1_std) else row.val_top1_std
                axes.errorbar(x, position, xerr=deviation or None, fmt=marker, color=colour, markersize=5.5, capsize=2)
                end = x + deviation
            axes.annotate(text, (end, position), (8, 0), textcoords="offset points", va="center", fontsize=8)
            ticks.append(position)
            names.append(row.change)
        position += 1.4
    axes.set_yticks(ticks, names, fontsize=8)
    axes.set_ylim(position - 0.6, -0.8)
    axes.grid(axis="y", visible=False)
    several = run.val_top1_std.notna().any()
    axes.set_xlabel("validation top1 [%], last epoch" + (", mean and standard deviation" if several else ", one seed"))
    axes.tick_params(axis="y", length=0)
    return figure
