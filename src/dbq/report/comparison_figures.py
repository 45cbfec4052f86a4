"""Rows side by side: the accuracy of each, the ablations, and accuracy against each cost."""

import adjustText
import numpy as np
import pandas as pd

from dbq.report.drawing import FAINT, METHODS, METRIC_LABELS, Drawing, amounts, dots, message, style_of, styled

FAR = 3.0  # points below its reference from which an ablation stands at the edge of the figure: it would press the others together
STEPS = 500  # in which labels are moved apart; no limit of time, which would make the figure depend on the machine


@styled
def accuracy_plot(rows: pd.DataFrame, titles: dict[str, str], smoke: bool = False) -> Drawing:
    """Test top1 of every line of accuracy.csv, with the standard deviation where n > 1; a panel with a scale of its own per data set.

    titles: data set -> its name in the figure. A row that was not run stands there without a point.
    """
    if not (rows.n > 0).any():
        return message("Nothing was run in this profile.", "Test top1", smoke)
    text = [f"{row.top1_mean:.2f}" + f" ± {row.top1_std:.2f}" * (row.n > 1) + f"  n={row.n}" for row in rows.itertuples()]
    heading = rows.network + " on " + rows.dataset.map(titles)
    rows = rows.assign(heading=heading, name=short_names(rows), text=text, reference=np.nan, far=False, **_bar(rows, "top1"))
    panels = [panel for _, panel in rows.groupby("dataset", sort=False)]
    heights = [0.21 * len(panel) + 0.34 * panel.network.nunique() for panel in panels]
    figure = Drawing(7.5, 0.6 + sum(heights) + 0.3 * len(panels), "Test top1 by network and method", smoke)
    for axes, panel in zip(figure.subplots(len(panels), height_ratios=heights, squeeze=False)[:, 0], panels, strict=True):
        dots(axes, panel, 4.0)
        # the space for the numbers reaches beyond 100 %, the scale doesn't
        axes.set_xticks([tick for tick in axes.get_xticks() if axes.get_xlim()[0] <= tick <= 100 and panel.n.any()])
    axes.set_xlabel("test top1 [%], last epoch")
    return figure


@styled
def ablation_plot(rows: pd.DataFrame, smoke: bool = False) -> Drawing:
    """Validation top1 of each line of ablations.csv that was run, grouped by the row that it extends; a line marks that row's top1."""
    rows = rows[rows.n > 0]
    if rows.empty:
        return message("No ablation was run in this profile.", "Ablations", smoke)
    mean, delta = rows.val_top1_mean, rows.delta_to_base
    rows = rows.assign(heading=rows.base, name=rows.change, text=mean.map("{:.2f}".format), **_bar(rows, "val_top1"))
    rows = rows.assign(reference=mean - delta, far=delta < -FAR)
    figure = Drawing(8.0, 0.9 + 0.26 * len(rows) + 0.4 * rows.base.nunique(), "Ablations: validation top1", smoke)
    axes = figure.add_subplot()
    dots(axes, rows, 0.5)
    several = rows.val_top1_std.notna().any()
    axes.set_xlabel("validation top1 [%], last epoch" + (", mean and standard deviation" if several else ", one seed"))
    return figure


def _bar(rows: pd.DataFrame, name: str) -> dict[str, pd.Series]:
    """The mean, and one standard deviation to each side of it."""
    mean, deviation = rows[f"{name}_mean"].astype(float), rows[f"{name}_std"].astype(float)
    return {"mean": mean, "low": mean - deviation, "high": mean + deviation}


def short_names(rows: pd.DataFrame) -> pd.Series:
    """What a key adds to NETWORK-DATASET, "float" where it adds nothing; the whole key where two of a network would have the same name."""
    parts = zip(rows.key, rows.network, rows.dataset, strict=True)
    names = pd.Series([key.removeprefix(f"{network}-{dataset}").strip("-") or "float" for key, network, dataset in parts], rows.index)
    return names.where(~rows[["network", "dataset"]].assign(name=names).duplicated(keep=False), rows.key)


def pareto_front(cost, top1) -> np.ndarray:
    """Which points no other point beats: (n,) of booleans. Beaten: another is no dearer and no worse, and better in one of the two."""
    cost, top1 = np.asarray(cost, float), np.asarray(top1, float)
    no_worse = (cost[None] <= cost[:, None]) & (top1[None] >= top1[:, None])
    better = (cost[None] < cost[:, None]) | (top1[None] > top1[:, None])
    return ~(no_worse & better).any(1)


@styled
def pareto(rows: pd.DataFrame, metric: str, titles: dict[str, str], smoke: bool = False) -> Drawing:
    """Test top1 against one of the costs (log scale), a panel for each network and data set that has a cost.

    rows: key, network, dataset, method, branches, n, top1_mean, top1_std, delta_to_float and the metric. The stairs join the Pareto front,
    the dotted line is the float network that the rows begin from. Where METRIC_signed_digits says that signed digits make a row cheaper or
    dearer, a hollow marker stands there, and the stairs follow the cheaper one: rows are beaten like for like.
    """
    title = f"Accuracy against {METRIC_LABELS[metric].split(' $')[0]}"
    lacking = rows[(rows.n > 0) & rows[metric].isna()]
    rows = rows[(rows.n > 0) & rows[metric].notna()]
    if rows.empty:
        return message("No row of this profile has both an accuracy and this cost.", title, smoke)
    cost, low, high = rows[metric].astype(float), rows.n.min(), rows.n.max()
    digits = rows.get(f"{metric}_signed_digits", cost).astype(float)
    label = short_names(rows) + ("" if low == high else rows.n.map(" (n={})".format))
    rows = rows.assign(cost=cost, digits=digits.where(digits != cost), label=label)
    note = f"n = {low if low == high else f'{low} to {high}'} seed{'s' * bool(high > 1)} per point; dotted: float"
    note += "; bars: sample standard deviation" * bool(high > 1)
    note += "; hollow: counted by signed digits" * bool(rows.digits.notna().any())
    note += f"; without {metric.upper()}: {len(lacking)} rows of the cost table" if len(lacking) else ""
    panels = sorted((panel for _, panel in rows.groupby(["network", "dataset"], sort=False)), key=len, reverse=True)
    heights = [5.0 if len(panel) > 4 else 2.4 for panel in panels]
    figure = Drawing(8.5, 0.4 + sum(heights), title, smoke, note)
    drawn = figure.subplots(len(panels), height_ratios=heights, squeeze=False)[:, 0]
    for axes, panel in zip(drawn, panels, strict=True):
        title = f"{panel.network.iloc[0]} on {titles[panel.dataset.iloc[0]]}"
        axes.set(title=title, xscale="log", xlabel=METRIC_LABELS[metric], ylabel="test top1 [%]")
        _pareto_panel(axes, panel)
    handles = {label: handle for axes in drawn for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles, loc="outside right upper")
    figure.settle()
    for axes, panel in zip(drawn, panels, strict=True):
        texts = [axes.text(row.cost, row.top1_mean, row.label, fontsize=8, zorder=5) for row in panel.itertuples()]
        hollow, line = panel[panel.digits.notna()], {"arrowstyle": "-", "color": FAINT, "linewidth": 0.6}
        markers = axes.scatter([*panel.cost, *hollow.digits], [*panel.top1_mean, *hollow.top1_mean], s=60)  # to keep texts away
        adjustText.adjust_text(texts, objects=markers, ax=axes, expand=(1.1, 1.4), iter_lim=STEPS, arrowprops=line)
        markers.remove()
    return figure


def _pareto_panel(axes, points: pd.DataFrame) -> None:
    for row in points.itertuples():
        name, colour, marker = style_of(row.method, row.branches)
        look = {"color": colour, "markersize": 6.5, "zorder": 3}
        axes.errorbar(row.cost, row.top1_mean, row.top1_std, fmt=marker, capsize=3, label=name, **look)
        if not np.isnan(row.digits):
            axes.plot([row.cost, row.digits], [row.top1_mean] * 2, color=colour, linewidth=0.8, linestyle="--", zorder=2)
            axes.plot(row.digits, row.top1_mean, marker, markerfacecolor="white", **look)
    for value in (points.top1_mean - points.delta_to_float).dropna().round(4).unique():
        axes.axhline(value, color=METHODS["float"][1], linewidth=1, linestyle=":", zorder=1)
    axes.margins(0.18)
    (left, right), bottom = axes.get_xlim(), axes.get_ylim()[0]
    points = points.assign(least=np.fmin(points.cost, points.digits)).sort_values("least", kind="stable")
    front = points[pareto_front(points.least, points.top1_mean)]
    if len(points) > 1:
        # from the bottom to the cheapest point and from the best point to the right: what is below the stairs is beaten
        x, y = [front.least.iloc[0], *front.least, right], [bottom, *front.top1_mean, front.top1_mean.iloc[-1]]
        axes.step(x, y, where="post", color=FAINT, linewidth=1.2, zorder=1, label="Pareto front")
    axes.set(xlim=(left, right), ylim=(bottom, axes.get_ylim()[1]))
    amounts(axes.xaxis, log=True, spread=right / left)
    axes.yaxis.get_major_locator().set_params(nbins=6)
