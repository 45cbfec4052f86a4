"""Where a network's cost lies, layer by layer."""

import numpy as np
import pandas as pd

from dbq.report.drawing import BLUE, GREEN, INK, ORANGE, SKY, Drawing, amounts, message, styled

_PANELS = (
    ("full adders [FA]", (("c_c", "$C_C$ computational", SKY), ("c_s", "$C_S$ sparsity-aware", BLUE))),
    ("bits", (("c_r", "$C_R$ representational", ORANGE), ("c_m", "$C_M$ model storage", GREEN))),
)


@styled
def cost_bars(layers: pd.DataFrame, title: str = "", smoke: bool = False) -> Drawing:
    """Grouped bars of the four costs of each layer: c_c and c_s in full adders above, c_r and c_m in bits below.

    layers: layer, kind, c_c, c_s, c_r, c_m in the network's order; the kind of a layer stands behind its name. A cost that the reading
    doesn't define (NaN) has no bar and is counted in the note.
    """
    if layers.empty:
        return message("No layers were counted.", title, smoke)
    columns = [name for _, group in _PANELS for name, _, _ in group]
    values = layers[columns].apply(pd.to_numeric)
    undefined = int(values.isna().any(axis=1).sum())
    note = f"{undefined} of {len(layers)} layers have no defined cost in at least one metric" if undefined else ""
    figure = Drawing(min(14.0, max(6.0, 2.2 + 0.21 * len(layers))), 5.6 + 0.2 * smoke, title, smoke, note)
    positions = np.arange(len(layers))
    for axes, (unit, group) in zip(figure.subplots(2, 1, sharex=True), _PANELS, strict=True):
        for side, (column, label, colour) in zip((-0.2, 0.2), group, strict=True):
            axes.bar(positions + side, values[column], width=0.4, color=colour, label=f"{label}: {_total(values[column])}")
        axes.set_ylabel(unit)
        amounts(axes.yaxis)
        axes.grid(axis="x", visible=False)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2)
    names = [f"{row.layer} ({row.kind})" for row in layers.itertuples()]
    axes.set_xticks(positions, names, rotation=90, fontsize=7 if len(layers) <= 40 else 6)
    axes.set_xlim(-0.7, len(layers) - 0.3)
    return figure


def _total(column: pd.Series) -> str:
    return f"{column.sum():.4g}" if column.sum() < 1e4 else f"{column.sum() / 1e6:,.2f} M"


@styled
def readings_plot(readings: pd.DataFrame, title: str = "", smoke: bool = False) -> Drawing:
    """C_C and C_S under every reading of the formula, over the main reading's. readings: reading, count_bias, main, c_c, c_s."""
    main = readings[readings.main.astype(bool)].iloc[0]
    figure = Drawing(6.0, 2.6 + 0.2 * smoke, title, smoke)
    axes = figure.add_subplot()
    positions = np.arange(len(readings))
    for side, (column, label, colour) in zip((-0.2, 0.2), _PANELS[0][1], strict=True):
        ratios = pd.to_numeric(readings[column]) / main[column]
        axes.barh(positions + side, ratios, height=0.4, color=colour, label=label)
        for position, ratio in zip(positions + side, ratios, strict=True):
            axes.text(ratio, position, f" {ratio:.2f}", va="center", fontsize=7.5)
    axes.axvline(1, color=INK, linewidth=0.8)
    names = [f"{row.reading.replace('_', ' ')}, bias {'counted' if row.count_bias else 'not counted'}" for row in readings.itertuples()]
    axes.set_yticks(positions, names)
    axes.invert_yaxis()
    axes.set_xlabel("full adders over those of the main reading")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2)
    return figure
