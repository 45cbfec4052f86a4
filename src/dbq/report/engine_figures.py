"""The engine and the hardware as figures: multiplier width against accuracy, and counted against synthesised full adders."""

import pandas as pd

from dbq.report.drawing import BLUE, FAINT, INK, ORANGE, VERMILION, Drawing, styled


@styled
def width_plot(widths: list[dict], chosen: int, smoke: bool = False) -> Drawing:
    """Top1 of the engine for each width of the multipliers; the line is the training graph, the ring the smallest that keeps its top1."""
    rows = pd.DataFrame(widths)
    figure = Drawing(6.0, 3.0 + (0.2 if smoke else 0), "Width of the fixed-point multipliers", smoke)
    axes = figure.add_subplot()
    axes.axhline(rows.top1_graph.iloc[0], color=FAINT, linewidth=1.2, label="training graph")
    axes.plot(rows.fixed_point_bits, rows.top1, "o-", color=BLUE, markersize=5, label="integer engine")
    ring = rows[rows.fixed_point_bits == chosen]
    axes.plot(ring.fixed_point_bits, ring.top1, "o", color=VERMILION, label="smallest that keeps top1", markersize=11, fillstyle="none")
    axes.set_xticks(sorted(set(rows.fixed_point_bits)))
    axes.set_xlabel("bits of a multiplier")
    axes.set_ylabel("validation top1 [%]")
    axes.legend(loc="lower right")
    return figure


# (kind, structure) of an engine: (colour, marker)
ENGINES = {
    ("port", "chain"): (BLUE, "o"), ("port", "tree"): (ORANGE, "s"),
    ("constant", "chain"): (VERMILION, "^"), ("constant", "tree"): (FAINT, "D"),
}  # fmt: skip


@styled
def hardware_plot(rows: pd.DataFrame) -> Drawing:
    """Synthesised over counted full adders of each engine, against its length; the band is 10 % around the adder-only reading."""
    figure = Drawing(7.5, 3.4, "Synthesised over counted full adders")
    axes = figure.add_subplot()
    axes.axhspan(0.9, 1.1, color="#eeeeee", zorder=0)
    axes.axhline(1.0, color=FAINT, linewidth=1)
    for (kind, structure), (colour, marker) in ENGINES.items():
        part = rows[(rows.kind == kind) & (rows.structure == structure)]
        if part.empty:
            continue
        axes.plot(part.length, part.ratio, marker, color=colour, markersize=5, label=f"{kind} weights, {structure}", alpha=0.8)
    axes.set_xscale("log")
    ticks = sorted(set(rows.length))
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("length D of the dot product")
    axes.set_ylabel("synthesised / counted (adder-only)")
    axes.legend(loc="lower left")
    return figure


@styled
def hardware_trained_plot(rows: pd.DataFrame) -> Drawing:
    """Full adders of each trained dot product: counted by the adder-only reading (ring) and synthesised (filled), from above in the order
    of the rows; on the right the zero rate of its trained planes and synthesised over counted."""
    figure = Drawing(7.5, 1.0 + 0.24 * len(rows), "Trained dot products, counted and synthesised")
    axes = figure.add_subplot()
    rows = rows.assign(y=range(len(rows) - 1, -1, -1))
    for (kind, structure), (colour, marker) in ENGINES.items():
        part = rows[(rows.kind == kind) & (rows.structure == structure)]
        if len(part):
            axes.hlines(part.y, part.synthesised_full_adders, part.counted_adder_only, color=colour, linewidth=1, alpha=0.6)
            axes.plot(part.counted_adder_only, part.y, "o", color=INK, markersize=7, fillstyle="none")
            label = f"{kind} weights, {structure}"
            axes.plot(part.synthesised_full_adders, part.y, marker, color=colour, markersize=5, linestyle="none", label=label)
    for row in rows.itertuples():
        axes.text(1.01, row.y, f"{row.zero_rate:.2f}   {row.ratio:.2f}", transform=axes.get_yaxis_transform(), va="center", fontsize=8)
    axes.text(1.01, len(rows) - 0.3, "zeros  ratio", transform=axes.get_yaxis_transform(), va="bottom", fontsize=8)
    axes.plot([], [], "o", color=INK, markersize=7, fillstyle="none", label="counted (adder-only)")
    axes.set_yticks(rows.y, [f"{row.row}, {row.layer}, D {row.length}" for row in rows.itertuples()], fontsize=7)
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.set_xscale("log")
    axes.set_xlabel("full adders of one dot product")
    axes.legend(loc="upper center", bbox_to_anchor=(0.2, -0.45 / (0.24 * len(rows))), ncols=2)
    return figure
