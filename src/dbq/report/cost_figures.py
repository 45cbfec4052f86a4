"""Where a network's cost lies, layer by layer."""

import numpy as np
import pandas as pd

from dbq.report.drawing import BLUE, GREEN, INK, METRIC_LABELS, ORANGE, PURPLE, SKY, VERMILION, Drawing, amounts, message, styled

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
def cost_by_kind(layers: pd.DataFrame, title: str = "", smoke: bool = False) -> Drawing:
    """The share of each kind of layer (first, depthwise, pointwise, other convolutions, classifier) in each of the four costs, in percent.

    layers: as of cost_bars. A cost that isn't defined in some layer has no bar.
    """
    if layers.empty:
        return message("No layers were counted.", title, smoke)
    shares = kind_shares(layers)
    figure = Drawing(7.0, 2.6 + 0.2 * smoke, title, smoke)
    axes = figure.add_subplot()
    left = np.zeros(len(shares.columns))
    for kind, colour in zip(shares.index, (SKY, ORANGE, BLUE, GREEN, VERMILION, PURPLE), strict=False):
        values = shares.loc[kind].to_numpy()
        axes.barh(range(len(left)), values, left=left, color=colour, label=kind, height=0.65)
        for row, (start, width) in enumerate(zip(left, values, strict=True)):
            if width >= 5:
                axes.text(start + width / 2, row, f"{width:.0f} %", ha="center", va="center", fontsize=7.5, color="white")
        left = left + np.nan_to_num(values)
    axes.set_yticks(range(len(left)), [METRIC_LABELS[name] for name in shares.columns])
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("share of the network's cost [%]")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(shares), borderaxespad=0.2)
    return figure


def kind_shares(layers: pd.DataFrame) -> pd.DataFrame:
    """Percent of each cost by kind of layer: a row a kind in the order of the network, a column a cost; NaN where a cost isn't defined."""
    columns = [name for _, group in _PANELS for name, _, _ in group]
    values = layers[columns].apply(pd.to_numeric)
    sums = values.groupby(layers.kind, sort=False).sum()
    return 100 * sums / values.sum(skipna=False)


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
