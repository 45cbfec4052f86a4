"""The engine and the hardware as figures: multiplier width against accuracy, and counted against synthesised full adders."""

import pandas as pd

from dbq.report.drawing import BLUE, FAINT, ORANGE, VERMILION, Drawing, styled


@styled
def width_plot(widths: list[dict], chosen: int, smoke: bool = False) -> Drawing:
    """Top1 of the engine for each width of the multipliers; the line is the training graph, the ring the smallest that keeps its top1."""
    rows = pd.DataFrame(widths)
    figure = Drawing(6.0, 3.0 + (0.2 if smoke else 0), "Width of the fixed-point multipliers", smoke)
    axes = figure.add_subplot()
    axes.axhline(rows.top1_graph.iloc[0], color=FAINT, linewidth=1.2, label="training graph")
    axes.plot(rows.fixed_point_bits, rows.top1, "o-", color=BLUE, markersize=5, label="integer engine")
    ring = rows[rows.fixed_point_bits == chosen]
    axes.plot(ring.fixed_point_bits, ring.top1, "o", color=VERMILION, markersize=11, fillstyle="none", label="smallest that keeps top1")
    axes.set_xlabel("bits of a multiplier")
    axes.set_ylabel("validation top1 [%]")
    axes.legend(loc="lower right")
    return figure


@styled
def hardware_plot(rows: pd.DataFrame) -> Drawing:
    """Synthesised over counted full adders of each engine, against its length; the band is 10 % around the adder-only reading."""
    figure = Drawing(7.5, 3.4, "Synthesised over counted full adders")
    axes = figure.add_subplot()
    axes.axhspan(0.9, 1.1, color="#eeeeee", zorder=0)
    axes.axhline(1.0, color=FAINT, linewidth=1)
    kinds = list(dict.fromkeys(zip(rows.kind, rows.structure, strict=True)))
    for (kind, structure), (colour, marker) in zip(kinds, [(BLUE, "o"), (ORANGE, "s"), (VERMILION, "^"), (FAINT, "D")], strict=False):
        part = rows[(rows.kind == kind) & (rows.structure == structure)]
        axes.plot(part.length, part.ratio, marker, color=colour, markersize=5, label=f"{kind} weights, {structure}", alpha=0.8)
    axes.set_xscale("log")
    ticks = sorted(set(rows.length))
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("length D of the dot product")
    axes.set_ylabel("synthesised / counted (adder-only)")
    axes.legend(loc="lower left")
    return figure
