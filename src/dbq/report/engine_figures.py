"""The engine and the hardware as figures: cost by layer, multiplier width against accuracy, counted against synthesised full adders."""

import pandas as pd
from matplotlib.ticker import EngFormatter

from dbq.report.drawing import BLUE, FAINT, GREEN, INK, ORANGE, SKY, VERMILION, Drawing, amounts, message, styled

_PANELS = {
    "full adders [FA]": {"c_c": ("$C_C$ computational", SKY), "c_s": ("$C_S$ sparsity-aware", BLUE)},
    "bits": {"c_r": ("$C_R$ representational", ORANGE), "c_m": ("$C_M$ model storage", GREEN)},
}
# (kind, structure) of an engine: (colour, marker)
ENGINES = {
    ("port", "chain"): (BLUE, "o"), ("port", "tree"): (ORANGE, "s"),
    ("constant", "chain"): (VERMILION, "^"), ("constant", "tree"): (FAINT, "D"),
}  # fmt: skip


@styled
def cost_bars(layers: pd.DataFrame, title: str = "", smoke: bool = False) -> Drawing:
    """Grouped bars of the four costs of each layer: c_c and c_s in full adders above, c_r and c_m in bits below.

    layers: layer, kind, c_c, c_s, c_r, c_m in the network's order; the kind of a layer stands behind its name. A cost that the reading
    doesn't define (NaN) has no bar and is counted in the note.
    """
    if layers.empty:
        return message("No layers were counted.", title, smoke)
    values = layers[["c_c", "c_s", "c_r", "c_m"]].apply(pd.to_numeric).set_axis(layers.layer + " (" + layers.kind + ")")
    undefined = values.isna().any(axis=1).sum()
    note = f"{undefined} of {len(layers)} layers have no defined cost in at least one metric" if undefined else ""
    figure = Drawing(min(14.0, max(6.0, 2.2 + 0.21 * len(layers))), 5.6, title, smoke, note)
    for axes, (unit, bars) in zip(figure.subplots(2, 1, sharex=True), _PANELS.items(), strict=True):
        totals = [f"{label}: {EngFormatter(places=2)(values[name].sum())}" for name, (label, _) in bars.items()]
        values[list(bars)].set_axis(totals, axis=1).plot.bar(ax=axes, color=[colour for _, colour in bars.values()], width=0.8)
        axes.set_ylabel(unit)
        amounts(axes.yaxis)
        axes.grid(axis="x", visible=False)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2)
    axes.tick_params(axis="x", labelsize=7 if len(layers) <= 40 else 6)
    axes.set_xlabel("")
    return figure


@styled
def width_plot(widths: list[dict], chosen: int, smoke: bool = False) -> Drawing:
    """Top1 of the engine for each width of the multipliers; the line is the training graph, the ring the smallest that keeps its top1."""
    rows = pd.DataFrame(widths)
    figure = Drawing(6.0, 3.0, "Width of the fixed-point multipliers", smoke)
    axes = figure.add_subplot()
    axes.axhline(rows.top1_graph.iloc[0], color=FAINT, linewidth=1.2, label="training graph")
    axes.plot(rows.fixed_point_bits, rows.top1, "o-", color=BLUE, markersize=5, label="integer engine")
    ring = rows[rows.fixed_point_bits == chosen]
    axes.plot(ring.fixed_point_bits, ring.top1, "o", color=VERMILION, label="smallest that keeps top1", markersize=11, fillstyle="none")
    axes.set_xticks(sorted(set(rows.fixed_point_bits)))
    axes.set(xlabel="bits of a multiplier", ylabel="validation top1 [%]")
    axes.legend(loc="lower right")
    return figure


def _by_engine(rows: pd.DataFrame):
    for engine, part in rows.groupby(["kind", "structure"], sort=False):
        yield part, "{} weights, {}".format(*engine), *ENGINES[engine]


@styled
def hardware_plot(rows: pd.DataFrame) -> Drawing:
    """Synthesised over counted full adders of each engine, against its length; the band is 10 % around the adder-only reading."""
    figure = Drawing(7.5, 3.4, "Synthesised over counted full adders")
    axes = figure.add_subplot()
    axes.axhspan(0.9, 1.1, color="#eeeeee", zorder=0)
    axes.axhline(1.0, color=FAINT, linewidth=1)
    for part, label, colour, marker in _by_engine(rows):
        axes.plot(part.length, part.ratio, marker, color=colour, markersize=5, label=label, alpha=0.8)
    axes.set_xscale("log")
    ticks = sorted(set(rows.length))
    axes.set_xticks(ticks, ticks)
    axes.minorticks_off()
    axes.set(xlabel="length D of the dot product", ylabel="synthesised / counted (adder-only)")
    axes.legend(loc="lower left")
    return figure


@styled
def hardware_trained_plot(rows: pd.DataFrame) -> Drawing:
    """Full adders of each trained dot product: counted by the adder-only reading (ring) and synthesised (filled), from above in the order
    of the rows; on the right the zero rate of its trained planes and synthesised over counted."""
    figure = Drawing(7.5, 1.0 + 0.24 * len(rows), "Trained dot products, counted and synthesised")
    axes = figure.add_subplot()
    rows = rows.assign(y=range(len(rows) - 1, -1, -1))
    for part, label, colour, marker in _by_engine(rows):
        axes.hlines(part.y, part.synthesised_full_adders, part.counted_adder_only, color=colour, linewidth=1, alpha=0.6)
        axes.plot(part.counted_adder_only, part.y, "o", color=INK, markersize=7, fillstyle="none")
        axes.plot(part.synthesised_full_adders, part.y, marker, color=colour, markersize=5, linestyle="none", label=label)
    for row in rows.itertuples():
        axes.text(1.01, row.y, f"{row.zero_rate:.2f}   {row.ratio:.2f}", transform=axes.get_yaxis_transform(), va="center", fontsize=8)
    axes.text(1.01, len(rows) - 0.3, "zeros  ratio", transform=axes.get_yaxis_transform(), va="bottom", fontsize=8)
    axes.plot([], [], "o", color=INK, markersize=7, fillstyle="none", label="counted (adder-only)")
    axes.set_yticks(rows.y, [f"{row.row}, {row.layer}, D {row.length}" for row in rows.itertuples()], fontsize=7)
    axes.set(xscale="log", xlabel="full adders of one dot product", ylim=(-0.7, len(rows) - 0.3))
    axes.legend(loc="upper center", bbox_to_anchor=(0.2, -0.45 / (0.24 * len(rows))), ncols=2)
    return figure
