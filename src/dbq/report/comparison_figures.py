"""Rows side by side: the accuracy of each, the ablations, and accuracy against each cost."""

import math

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from dbq.report import labels
from dbq.report.drawing import FAINT, METHODS, METRIC_LABELS, Drawing, amounts, message, method_name, name_rows, style_of, styled

FAR = 3.0  # points below its reference from which an ablation stands at the edge of the figure: it would press the others together


@styled
def accuracy_plot(rows: pd.DataFrame, titles: dict[str, str], smoke: bool = False) -> Drawing:
    """Test top1 of every line of accuracy.csv, with the standard deviation where n > 1; a panel with a scale of its own per data set.

    titles: data set -> its name in the figure. A row that was not run stands there without a point.
    """
    if not (rows.n > 0).any():
        return message("Nothing was run in this profile.", "Test top1", smoke)
    deviation = [f" ± {row.top1_std:.2f}" if row.n > 1 else "" for row in rows.itertuples()]
    text = [f"{row.top1_mean:.2f}{spread}  n={row.n}" for row, spread in zip(rows.itertuples(), deviation, strict=True)]
    heading = rows.network + " on " + rows.dataset.map(titles)
    rows = rows.assign(heading=heading, name=short_names(rows), mean=rows.top1_mean, deviation=rows.top1_std, text=text, reference=np.nan)
    panels = [rows[rows.dataset == name] for name in dict.fromkeys(rows.dataset)]
    heights = [0.21 * len(panel) + 0.34 * panel.network.nunique() for panel in panels]
    figure = Drawing(7.5, 0.6 + sum(heights) + 0.3 * len(panels) + (0.2 if smoke else 0), "Test top1 by network and method", smoke)
    drawn = figure.subplots(len(panels), height_ratios=heights, squeeze=False)[:, 0]
    for axes, panel in zip(drawn, panels, strict=True):
        low, high = _limits(panel.top1_mean, panel.top1_std)
        if panel.top1_mean.notna().any():
            width = max(high - low, 4.0)
            axes.set_xlim(max(0, low - 0.06 * width), high + 0.3 * width)
        # the space for the numbers reaches beyond 100 %, the scale doesn't
        axes.set_xticks([tick for tick in axes.get_xticks() if axes.get_xlim()[0] <= tick <= 100 and low <= high])
        _dot_panel(axes, panel)
    drawn[-1].set_xlabel("test top1 [%], last epoch")
    return figure


@styled
def ablation_plot(rows: pd.DataFrame, smoke: bool = False) -> Drawing:
    """Validation top1 of each line of ablations.csv that was run, grouped by the row that it extends; a line marks that row's top1."""
    rows = rows[rows.n > 0]
    if rows.empty:
        return message("No ablation was run in this profile.", "Ablations", smoke)
    mean, several = rows.val_top1_mean, rows.val_top1_std.notna().any()
    rows = rows.assign(heading=rows.base, name=rows.change, mean=mean, deviation=rows.val_top1_std, reference=mean - rows.delta_to_base)
    rows = rows.assign(text=[f"{value:.2f}" for value in mean])
    figure = Drawing(8.0, 0.9 + 0.26 * len(rows) + 0.4 * rows.base.nunique() + (0.2 if smoke else 0), "Ablations: validation top1", smoke)
    axes = figure.add_subplot()
    far = rows.delta_to_base < -FAR
    low, high = _limits(mean[~far], rows.deviation, *rows.reference.dropna())
    width = max(high - low, 0.5)
    axes.set_xlim(low - (0.2 if far.any() else 0.08) * width, high + 0.25 * width)
    _dot_panel(axes, rows)
    axes.set_xlabel("validation top1 [%], last epoch" + (", mean and standard deviation" if several else ", one seed"))
    return figure


def _limits(mean: pd.Series, deviation: pd.Series, *others: float) -> tuple[float, float]:
    """The least and the greatest of what is drawn: bars of one deviation about the means, and other values."""
    deviation = deviation.astype(float).fillna(0)
    return min((mean - deviation).min(), *others, math.inf), max((mean + deviation).max(), *others, -math.inf)


def _dot_panel(axes, rows: pd.DataFrame) -> None:
    """A line of the panel for each row, from above, in groups under their headings. The limits of x must be set.

    rows: heading, name, mean, deviation, text, and reference, through which a line is drawn beside the group.
    """
    position, ticks, names = 0.0, [], []
    for heading, group in rows.groupby("heading", sort=False):
        axes.text(0.0, position, heading, transform=axes.get_yaxis_transform(), fontweight="bold", va="center", fontsize=8.5)
        for reference in set(group.reference.dropna().round(4)):
            axes.plot([reference] * 2, [position + 0.5, position + len(group) + 0.5], color=FAINT, linewidth=1)
        for row in group.itertuples():
            position += 1
            ticks.append(position)
            names.append(row.name)
            _draw_dot(axes, row, position)
        position += 1.5
    name_rows(axes, ticks, names)


def _draw_dot(axes, row, position: float) -> None:
    (colour, marker), (left, right) = style_of(row.method, row.branches), axes.get_xlim()
    if math.isnan(row.mean):
        axes.text(0.02, position, "not run", transform=axes.get_yaxis_transform(), color=FAINT, va="center", fontsize=8, style="italic")
        return
    end, text = row.mean + (0 if math.isnan(row.deviation) else row.deviation), row.text
    if row.mean < left:
        end, text = left + 0.02 * (right - left), f"{text}, off the axis"
        axes.plot(end, position, "<", color=colour, markersize=5.5)
    else:
        error = None if math.isnan(row.deviation) else row.deviation
        axes.errorbar(row.mean, position, xerr=error, fmt=marker, color=colour, markersize=5.5, capsize=3, elinewidth=1.2)
    axes.annotate(text, (end, position), (8, 0), textcoords="offset points", va="center", fontsize=8)


def short_names(rows: pd.DataFrame) -> pd.Series:
    """What a key adds to NETWORK-DATASET, "float" where it adds nothing; the whole key where two of a network would have the same name."""
    parts = zip(rows.key, rows.network, rows.dataset, strict=True)
    names = pd.Series([key.removeprefix(f"{network}-{dataset}").strip("-") or "float" for key, network, dataset in parts], rows.index)
    return names.where(~pd.DataFrame({"network": rows.network, "dataset": rows.dataset, "name": names}).duplicated(keep=False), rows.key)


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
    digits = rows.get(f"{metric}_signed_digits", rows[metric]).astype(float)
    rows = rows.assign(digits=digits.where(digits != rows[metric]))
    if rows.empty:
        return message("No row of this profile has both an accuracy and this cost.", title, smoke)
    low, high = int(rows.n.min()), int(rows.n.max())
    note = f"n = {low if low == high else f'{low} to {high}'} seed{'s' * (high > 1)} per point; dotted: float"
    note += "; bars: sample standard deviation" * (high > 1)
    note += "; hollow: counted by signed digits" * bool(rows.digits.notna().any())
    note += f"; no {metric} under this reading: {', '.join(lacking.key)}" if len(lacking) else ""
    panels = sorted((group for _, group in rows.groupby(["network", "dataset"], sort=False)), key=len, reverse=True)
    # the panel with the most points is the large one, the others stand below it in pairs
    lines = math.ceil((len(panels) - 1) / 2)
    figure = Drawing(8.5, 5.2 + 2.6 * lines, title, smoke, note)
    grid = figure.add_gridspec(1 + lines, 2, height_ratios=[4.4, *[2.2] * lines])
    drawn = [(figure.add_subplot(grid[0, :]), panels[0])]
    for index, panel in enumerate(panels[1:]):
        alone = index == len(panels) - 2 and index % 2 == 0
        drawn.append((figure.add_subplot(grid[1 + index // 2, slice(None) if alone else index % 2]), panel))
    for axes, points in drawn:
        first = points.iloc[0]
        _pareto_panel(axes, points, metric, f"{first.network} on {titles.get(first.dataset, first.dataset)}", axes is drawn[0][0])
    _legend(drawn[0][0], {method_name(row.method, row.branches) for row in rows.itertuples()})
    figure.settle()
    for axes, points in drawn:
        texts = [name + ("" if low == high else f" (n={n})") for name, n in zip(short_names(points), points.n, strict=True)]
        filled, hollow = (list(points[[name, "top1_mean"]].astype(float).itertuples(index=False)) for name in (metric, "digits"))
        hollow = [point for point in hollow if not np.isnan(point[0])]
        labels.place(axes, filled, texts, 8 if axes is drawn[0][0] else 7, hollow)
    return figure


def _pareto_panel(axes, points: pd.DataFrame, metric: str, title: str, large: bool) -> None:
    cost, top1 = points[metric].astype(float).to_numpy(), points.top1_mean.to_numpy()
    floats = sorted(set((points.top1_mean - points.delta_to_float).dropna().round(4)))
    axes.set_xscale("log")
    margin = max((cost.max() / cost.min()) ** 0.22, 1.25)
    least, greatest = np.fmin(cost, points.digits), np.fmax(cost, points.digits)
    axes.set_xlim(least.min() / margin, greatest.max() * margin)
    low, high = _limits(points.top1_mean, points.top1_std, *floats)
    height = max(high - low, 2.0)
    axes.set_ylim(low - 0.15 * height, high + 0.15 * height)
    for value in floats:
        axes.axhline(value, color=METHODS["float"][0], linewidth=1, linestyle=":", zorder=1)
    cheapest = least.to_numpy()
    front = np.flatnonzero(pareto_front(cheapest, top1))
    front = front[np.argsort(cheapest[front], kind="stable")]
    # from the bottom to the cheapest point and from the best point to the right: what is below the stairs is beaten
    x = [cheapest[front[0]], *cheapest[front], axes.get_xlim()[1]]
    y = [axes.get_ylim()[0], *top1[front], top1[front[-1]]]
    if len(points) > 1:
        axes.plot(x, y, drawstyle="steps-post", color=FAINT, linewidth=1.2, zorder=1)
    for x, row in zip(cost, points.itertuples(), strict=True):
        (colour, marker), error = style_of(row.method, row.branches), None if np.isnan(row.top1_std) else row.top1_std
        axes.errorbar(x, row.top1_mean, yerr=error, fmt=marker, color=colour, markersize=6.5, capsize=3, zorder=3)
        if not np.isnan(row.digits):
            axes.plot([x, row.digits], [row.top1_mean] * 2, color=colour, linewidth=0.8, linestyle="--", zorder=2)
            axes.plot(row.digits, row.top1_mean, marker, color=colour, markersize=6.5, markerfacecolor="white", zorder=3)
    amounts(axes.xaxis, log=True, spread=float(axes.get_xlim()[1] / axes.get_xlim()[0]))
    axes.yaxis.get_major_locator().set_params(nbins=6)
    axes.set_title(title, fontsize=10 if large else 8, pad=18 if large else None)  # above the legend
    axes.set_xlabel(METRIC_LABELS[metric] if large else METRIC_LABELS[metric].split("cost ")[-1])
    axes.set_ylabel("test top1 [%]")


def _legend(axes, names: set[str]) -> None:
    """One line between the panel and its title."""
    present = [name for name in METHODS if name in names]
    handles = [Line2D([], [], linestyle="", color=METHODS[name][0], marker=METHODS[name][1], label=name) for name in present]
    handles.append(Line2D([], [], color=FAINT, label="Pareto front"))
    place = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.2, "handletextpad": 0.3, "columnspacing": 1.0}
    axes.legend(handles=handles, ncols=len(handles), fontsize=7, **place)
