"""The training overhead as a table and a figure: time of a step and peak memory of every quantizer, as ratios to the float network."""

import re
from pathlib import Path

import pandas as pd

from dbq.errors import DbqError
from dbq.report.drawing import FAINT, INK, VERMILION, Drawing, message, name_rows, style_of, styled
from dbq.report.results import NOT_RUN, odd, read_frame, single_reason

COLUMNS = [
    "network", "method", "branches", "weight_bits", "activation_bits", "batch_size", "steps", "step_ratio_median",
    "step_ratio_q1", "step_ratio_q3", "memory_ratio", "device", "threads", "torch", "status",
]  # fmt: skip
RATIOS = ["step_ratio_q1", "step_ratio_median", "step_ratio_q3"]
WHOLE = ["branches", "weight_bits", "activation_bits", "batch_size", "steps", "threads"]
TARGET = 1.05
TITLE = "Training overhead: time of a step as a ratio to float"
GPU = "gpu.csv"  # measured on another machine; the stage keeps it beside its own file


def table(runs_folder) -> pd.DataFrame:
    """What the stage `overhead` left in RUNS/overhead, the rows of a GPU last."""
    return pd.concat([read(Path(runs_folder) / "overhead", name) for name in ("overhead.csv", GPU)], ignore_index=True)


def read(folder, name: str = "overhead.csv") -> pd.DataFrame:
    """FOLDER/NAME with ratios as numbers; a row that was not measured has NaN and a status that says why. No rows where not run.

    Raises DbqError, naming the file, for a missing or torn file, a measured row without its ratio, and quartiles out of order.
    """
    folder, numbers = Path(folder), [*RATIOS, "memory_ratio", *WHOLE]
    if not (folder / "metrics.json").is_file():
        raise DbqError(f"{folder / 'metrics.json'}: no such file", "run `dvc repro overhead`")
    if single_reason(folder.parent, folder.name):
        return pd.DataFrame(columns=COLUMNS)
    frame = read_frame(folder / name, COLUMNS, "overhead")
    try:
        frame[numbers] = frame[numbers].apply(pd.to_numeric)
    except (ValueError, TypeError) as error:
        raise odd(folder / name, "overhead", str(error)) from None
    for row in frame.itertuples():
        quartiles = [getattr(row, column) for column in RATIOS]
        problem = None
        if str(row.status).startswith(NOT_RUN):
            problem = None if all(map(pd.isna, (*quartiles, row.memory_ratio))) else "was not run and has numbers"
        elif not 0 < quartiles[0] <= quartiles[1] <= quartiles[2] < float("inf"):
            problem = "has no quartiles in ascending order"
        elif not (pd.isna(row.memory_ratio) or 0 < row.memory_ratio < float("inf")):
            problem = f"has the memory ratio {row.memory_ratio}"
        if problem:
            raise odd(folder / name, "overhead", f"{row.method} on {row.network} {problem}")
    return frame


@styled
def overhead_bars(rows: pd.DataFrame, smoke: bool = False) -> Drawing:
    """Bars from 1.0 (the float step) to each method's median ratio, whiskers at the quartiles, a panel per network.

    Pale: float activations, so the weight quantizers alone; full colour: quantized activations too. A second line marks TARGET.
    """
    run = rows[rows.step_ratio_median.notna()]
    if run.empty:
        return message("No overhead was measured in this profile.", TITLE, smoke)
    networks = list(dict.fromkeys(run.network))
    most = max(rows[rows.network == network].method.nunique() for network in networks)
    first = run.iloc[0]
    threads = f", threads: {int(first.threads)}" if first.device == "cpu" else ""
    note = (
        f"{first.device}{threads}, batch {int(first.batch_size)}, {int(first.steps)} steps of each; whiskers: quartiles; "
        f"lines: 1.0 and {TARGET}; pale: float activations" + ("; memory: ratio of the peaks" if run.memory_ratio.notna().any() else "")
    )
    figure = Drawing(max(7.5, 5.2 * len(networks)), 1.4 + 0.42 * most + 0.2 * smoke, TITLE, smoke, note)
    for axes, network in zip(figure.subplots(1, len(networks), squeeze=False)[0], networks, strict=True):
        _panel(axes, rows[rows.network == network])
        axes.set_title(network)
    return figure


def _panel(axes, rows: pd.DataFrame) -> None:
    low, high = min(0.98, rows.step_ratio_q1.min()), max(TARGET, rows.step_ratio_q3.max())
    axes.set_xlim(low - 0.03 * (high - low), high + 0.5 * (high - low))
    methods = list(dict.fromkeys(rows.method))
    for position, method in enumerate(methods):
        measured = rows[(rows.method == method) & rows.step_ratio_median.notna()]
        if measured.empty:
            # the table says why
            axes.text(1.0, position, f"  {NOT_RUN}", ha="left", va="center", fontsize=7, color=FAINT, style="italic", zorder=4)
        for row in measured.itertuples():
            pale, median, y = row.activation_bits == 32, row.step_ratio_median, position
            if len(measured) > 1:
                y += -0.2 if pale else 0.2
            colour = style_of(method_of(row.method), row.branches)[0]
            axes.barh(y, median - 1, left=1, height=0.36, color=colour, alpha=0.4 if pale else 1.0)
            spread = [[median - row.step_ratio_q1], [row.step_ratio_q3 - median]]
            axes.errorbar(median, y, xerr=spread, fmt="none", ecolor=INK, elinewidth=1, capsize=2)
            text = f"{median:.2f}" + ("" if pd.isna(row.memory_ratio) else f"  memory {row.memory_ratio:.2f}")
            place = (max(row.step_ratio_q3, 1.0), y)
            axes.annotate(text, place, (5, 0), textcoords="offset points", va="center", fontsize=6.5)
    axes.axvline(1.0, color=INK, linewidth=0.9, zorder=3)
    axes.axvline(TARGET, color=VERMILION, linewidth=0.9, linestyle="--", zorder=3)
    name_rows(axes, range(len(methods)), methods)
    axes.set_xlabel("step time / float step time")


def method_of(subject: str) -> str:
    """The method of a subject of the benchmark: `lsq-2` and `brevitas-lsq-2` are lsq, `dbq-2t` and `dbq-2t-compiled` are dbq."""
    name = re.sub("-(by-input|compiled|eager)$", "", subject).removeprefix("brevitas-")
    return re.sub(r"-\d+t?$", "", name).replace("-", "_")
