"""The training overhead as a table and a figure: time of a step and peak memory of every quantizer, as ratios to the float network."""

import re
from pathlib import Path

import pandas as pd

from dbq.report.drawing import VERMILION, Drawing, dots, message, styled
from dbq.report.results import read_frame, single_reason

RATIOS = ["step_ratio_q1", "step_ratio_median", "step_ratio_q3"]
COLUMNS = [
    "network", "method", "branches", "weight_bits", "activation_bits", "batch_size", "steps", "step_ratio_median",
    "step_ratio_q1", "step_ratio_q3", "memory_ratio", "device", "threads", "torch", "status",
]  # fmt: skip
TARGET = 1.05
TITLE = "Training overhead: time of a step as a ratio to float"
GPU = "gpu.csv"  # measured on another machine; the stage keeps it beside its own file


def read(folder, name: str = "overhead.csv") -> pd.DataFrame:
    """FOLDER/NAME; a row that was not measured has NaN and a status that says why. No rows where the stage was not run."""
    folder = Path(folder)
    if single_reason(folder.parent, folder.name):
        return pd.DataFrame(columns=COLUMNS)
    return read_frame(folder / name, COLUMNS, "overhead", numbers=[*RATIOS, "memory_ratio"])


@styled
def overhead_bars(rows: pd.DataFrame, smoke: bool = False) -> Drawing:
    """The median ratio of each method with whiskers at the quartiles, by network; lines at 1.0 (the float step) and at TARGET."""
    run = rows[rows.step_ratio_median.notna()]
    if run.empty:
        return message("No overhead was measured in this profile.", TITLE, smoke)
    rows = rows[rows.network.isin(run.network)]
    first, memory = run.iloc[0], rows.memory_ratio.map("  memory {:.2f}".format).where(rows.memory_ratio.notna(), "")
    activations = rows.activation_bits.map(lambda bits: "float activations" if bits == 32 else f"{bits:.0f}-bit activations")
    mean, low, high = rows.step_ratio_median, rows.step_ratio_q1, rows.step_ratio_q3
    rows = rows.assign(heading=rows.network, name=rows.method + ", " + activations, method=rows.method.map(method_of))
    rows = rows.assign(mean=mean, low=low, high=high, text=mean.map("{:.2f}".format) + memory, reference=1.0, far=False)
    threads = f", threads: {first.threads:.0f}" if first.device == "cpu" else ""
    note = f"{first.device}{threads}, batch {first.batch_size:.0f}, {first.steps:.0f} steps of each; whiskers: quartiles; "
    note += f"lines: 1.0 and {TARGET}" + "; memory: ratio of the peaks" * bool(memory.any())
    figure = Drawing(7.5, 1.2 + 0.2 * len(rows) + 0.35 * rows.network.nunique(), TITLE, smoke, note)
    axes = figure.add_subplot()
    dots(axes, rows, 0.2)
    axes.axvline(TARGET, color=VERMILION, linewidth=0.9, linestyle="--", zorder=1)
    axes.set_xlabel("step time / float step time")
    return figure


def method_of(subject: str) -> str:
    """The method of a subject of the benchmark: `lsq-2` and `brevitas-lsq-2` are lsq, `dbq-2t` and `dbq-2t-compiled` are dbq."""
    name = re.sub("-(by-input|compiled|eager)$", "", subject).removeprefix("brevitas-")
    return re.sub(r"-\d+t?$", "", name).replace("-", "_")
