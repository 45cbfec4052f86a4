"""What all figures share: palette, sizes, the SMOKE mark, and files whose bytes depend on the data alone.

Figures are no figures of pyplot, so that a notebook's own settings neither decide them nor change.
"""

import io
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullLocator
from PIL import Image

from dbq.files import write_atomically

SMOKE_NOTE = "all images are stand-ins: not evidence"
INK, FAINT = "#333333", "#9a9a9a"
# Okabe and Ito's palette, which colour-blind readers can tell apart
BLUE, ORANGE, GREEN, SKY, VERMILION, PURPLE = "#0072B2", "#E69F00", "#009E73", "#56B4E9", "#D55E00", "#CC79A7"
# method: its name, its colour, and the marker, which repeats what the colour says
METHODS = {
    "float": ("float", "#6b6b6b", "D"), "uniform": ("uniform", VERMILION, "s"), "sawb": ("SAWB", VERMILION, "P"),
    "lsq": ("LSQ", ORANGE, "X"), "twn": ("TWN", ORANGE, "<"), "ttq": ("TTQ", ORANGE, ">"), "lq_nets": ("LQ-Nets", PURPLE, "p"),
    "quantization_networks": ("QuantNets", PURPLE, "h"), "dbq 1": ("DBQ 1T", SKY, "^"), "dbq 2": ("DBQ 2T", BLUE, "o"),
    "dbq 3": ("DBQ 3T", GREEN, "v"),
}  # fmt: skip
METRIC_LABELS = {
    "c_c": "computational cost $C_C$ [FA]", "c_s": "sparsity-aware computational cost $C_S$ [FA]",
    "c_r": "representational cost $C_R$ [bit]", "c_m": "model storage $C_M$ [bit]",
}  # fmt: skip

_OWN = {
    "font.family": "sans-serif", "font.size": 9, "axes.titlesize": 10, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": FAINT, "axes.labelcolor": INK, "text.color": INK,
    "xtick.color": INK, "ytick.color": INK, "axes.grid": True, "grid.color": "#e6e6e6", "grid.linewidth": 0.6, "axes.axisbelow": True,
    "legend.frameon": False, "legend.fontsize": 8, "figure.dpi": 110,
    # text stays text: files of a few KB that can be searched; ids come from the salt instead of from chance
    "svg.fonttype": "none", "svg.hashsalt": "dbq",
}  # fmt: skip


def styled(draw):
    """Decorator: run a drawing function in matplotlib's defaults and our settings, so that a user's matplotlibrc doesn't change a result
    file, and restore the caller's settings."""
    return style.context(["default", _OWN])(draw)


class Drawing(Figure):
    """A figure of width x height inches that a notebook shows as PNG, whichever backend it has set up.

    smoke adds the watermark and the footer; note is a line at the foot.
    """

    def __init__(self, width: float, height: float, title: str = "", smoke: bool = False, note: str = ""):
        super().__init__(figsize=(width, height + 0.2 * smoke), layout="constrained")
        FigureCanvasAgg(self)
        if title:
            self.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
        self.supxlabel("\n".join(filter(None, [note, SMOKE_NOTE * smoke])), x=0.01, ha="left", fontsize=7.5, color="#5a5a5a")
        if smoke:
            size = min(width, 1.6 * height) * 12
            self.text(0.5, 0.5, "SMOKE", fontsize=size, rotation=30, ha="center", va="center", color="#000000", alpha=0.07, zorder=10)

    @styled
    def settle(self) -> None:
        """Lay out once and keep it: saving in two formats would do it again each time."""
        if self.get_layout_engine() is not None:
            self.get_layout_engine().execute(self)
            self.set_layout_engine("none")

    @styled
    def bytes(self, kind: str) -> bytes:
        """The figure as "svg" or "png", without date or version. A PNG has a palette: a third of the bytes, which git keeps for ever."""
        self.settle()
        buffer = io.BytesIO()
        self.savefig(buffer, format=kind, metadata={"Date": None, "Creator": None} if kind == "svg" else None)
        if kind == "svg":
            return buffer.getvalue()
        few, smaller = Image.open(buffer).convert("RGB").quantize(256, dither=Image.Dither.NONE), io.BytesIO()
        few.save(smaller, "png", optimize=True)
        return smaller.getvalue()

    def _repr_png_(self) -> bytes:
        return self.bytes("png")


def save(figure: Drawing, path_without_suffix) -> None:
    """Write NAME.svg and NAME.png."""
    path = Path(path_without_suffix)
    for kind in ("svg", "png"):
        content = figure.bytes(kind)
        write_atomically(path.with_name(f"{path.name}.{kind}"), lambda file, content=content: file.write(content))


@styled
def message(text: str, title: str = "", smoke: bool = False) -> Drawing:
    """A figure that says why there is nothing to draw."""
    figure = Drawing(6, 1.8, title, smoke)
    axes = figure.add_subplot()
    axes.set_axis_off()
    axes.text(0.5, 0.5, text, ha="center", va="center", wrap=True)
    return figure


def style_of(method: str, branches) -> tuple[str, str, str]:
    """Name, colour and marker of a quantizer in every figure."""
    return METHODS.get(f"dbq {branches:.0f}" if method == "dbq" else method, (method, *METHODS["float"][1:]))


def dots(axes, rows: pd.DataFrame, least: float) -> None:
    """A line of the panel for each row, from above, in groups under their headings: a dot, a bar about it, and its text.

    rows: heading, name, method, branches, mean (NaN: not run), low and high (the ends of the bar; NaN: no bar), text, reference (a line
    beside the group; NaN: no line), far (the dot stands at the edge, because it would press the others together).
    least: the x axis spans no less.
    """
    group = rows.groupby("heading", sort=False).ngroup()
    rows = rows.assign(group=group).sort_values("group", kind="stable")
    rows["y"] = 1 + np.arange(len(rows)) + 1.5 * rows.group
    drawn = rows.loc[~rows.far, ["mean", "low", "high", "reference"]].astype(float)
    left, right = drawn.min().min(), drawn.max().max()
    width = max(right - left, least)
    if np.isfinite(left):
        axes.set_xlim(left - (0.2 if rows.far.any() else 0.08) * width, right + 0.3 * width)
    beside = axes.get_yaxis_transform()
    for heading, own in rows.groupby("heading", sort=False):
        top, bottom = own.y.min(), own.y.max()
        axes.text(0, top - 1, heading, transform=beside, fontweight="bold", va="center", fontsize=8.5)
        axes.vlines(own.reference.dropna().round(4).unique(), top - 0.5, bottom + 0.5, color=FAINT, linewidth=1)
    for row in rows.itertuples():
        if np.isnan(row.mean):
            axes.text(0.02, row.y, "not run", transform=beside, color=FAINT, va="center", fontsize=8, style="italic")
            continue
        (_, colour, marker), end, text = style_of(row.method, row.branches), np.fmax(row.mean, row.high), row.text
        if row.far:
            end, text = left - 0.18 * width, f"{text}, off the axis"
            axes.plot(end, row.y, "<", color=colour, markersize=5.5)
        else:
            spread = [[row.mean - row.low], [row.high - row.mean]]
            axes.errorbar(row.mean, row.y, xerr=spread, fmt=marker, color=colour, markersize=5.5, capsize=3, elinewidth=1.2)
        axes.annotate(text, (end, row.y), (8, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_yticks(rows.y, rows.name, fontsize=8)
    axes.set_ylim(rows.y.max() + 0.6, -0.7)
    axes.grid(axis="y", visible=False)


def amounts(axis, log: bool = False, spread: float = 1.0) -> None:
    """Ticks such as 200M; on a log axis at 1, 2, 5 where the values span more than a factor of 5."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)) if log and spread > 5 else MaxNLocator(4))
    axis.set_major_formatter(EngFormatter(sep=""))
    if log:
        axis.set_minor_locator(NullLocator())
