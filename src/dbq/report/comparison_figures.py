"""Networks and methods side by side: the accuracy of every row, and accuracy against each cost."""

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from dbq.report import labels
from dbq.report.drawing import FAINT, METHODS, METRIC_LABELS, Drawing, amounts, message, method_name, short_key, styled


@styled
def accuracy_plot(rows: pd.DataFrame, titles: dict[str, str], smoke: bool = False) -> Drawing:
    """Test top1 of every row of accuracy.csv, with the standard deviation where n > 1; a panel with a scale of its own per data set.

    titles: data set -> its name in the figure. A row that was not run stands there without a point.
    """
    if not (rows.n > 0).any():
        return message("Nothing was run in this profile.", "Test top1", smoke)
    rows = rows.assign(group=rows.network + " on " + rows.dataset.map(titles))
    panels = [rows[rows.dataset == name] for name in dict.fromkeys(rows.dataset)]
    heights = [0.21 * len(panel) + 0.34 * panel.group.nunique() for panel in panels]
    figure = Drawing(7.5, 0.6 + sum(heights) + 0.3 * len(panels) + (0.2 if smoke else 0), "Test top1 by network and method", smoke)
    drawn = figure.subplots(len(panels), height_ratios=heights, squeeze=False)[:, 0]
    for axes, panel in zip(drawn, panels, strict=True):
        _accuracy_panel(axes, panel)
    drawn[-1].set_xlabel("test top1 [%], last epoch")
    return figure


def _accuracy_panel(axes, rows: pd.DataFrame) -> None:
    run = rows[rows.n > 0]
    if len(run):
        spread = run.top1_std.fillna(0)
        low, high = (run.top1_mean - spread).min(), (run.top1_mean + spread).max()
        room = max(high - low, 4.0)
        axes.set_xlim(max(0, low - 0.06 * room), high + 0.3 * room)
        # the room for the numbers reaches beyond 100 %, the scale doesn't
        axes.set_xticks([tick for tick in axes.get_xticks() if axes.get_xlim()[0] <= tick <= 100])
    else:
        axes.set_xticks([])
    position, ticks, names = 0.0, [], []
    for group in dict.fromkeys(rows.group):
        axes.text(0.0, position, group, transform=axes.get_yaxis_transform(), fontweight="bold", va="center", fontsize=8.5)
        position += 1.1
        own = list(rows[rows.group == group].itertuples())
        for row, name in zip(own, _names(own), strict=True):
            ticks.append(position)
            names.append(name)
            _accuracy_row(axes, row, position)
            position += 1
        position += 0.5
    axes.set_yticks(ticks, names, fontsize=8)
    axes.set_ylim(position - 0.4, -0.8)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)


def _names(rows: list) -> list[str]:
    """Short names of a network's rows on one data set; an experiment and a sweep's row of the same name are told apart."""
    names = [short_key(row.key, row.network, row.dataset) for row in rows]
    return [
        f"{name} (sweep)" if names.count(name) > 1 and row.key.startswith("sweep-") else name for row, name in zip(rows, names, strict=True)
    ]


def _accuracy_row(axes, row, position: float) -> None:
    if row.n == 0:
        axes.text(0.02, position, "not run", transform=axes.get_yaxis_transform(), color=FAINT, va="center", fontsize=8, style="italic")
        return
    colour, marker = METHODS.get(method_name(row.method, row.branches), METHODS["float"])
    spread = row.top1_std if row.n > 1 else None
    axes.errorbar(row.top1_mean, position, xerr=spread, fmt=marker, color=colour, markersize=5.5, capsize=3, elinewidth=1.2)
    deviation = f" ± {row.top1_std:.2f}" if row.n > 1 else ""
    text = f"{row.top1_mean:.2f}{deviation}  n={row.n}"
    axes.annotate(text, (row.top1_mean + (spread or 0), position), (8, 0), textcoords="offset points", va="center", fontsize=8)


def pareto_front(cost, top1) -> np.ndarray:
    """Which points no other point beats: (n,) of booleans. Beaten: another is no dearer and no worse, and better in one of the two."""
    cost, top1 = np.asarray(cost, float), np.asarray(top1, float)
    no_worse = (cost[None] <= cost[:, None]) & (top1[None] >= top1[:, None])
    better = (cost[None] < cost[:, None]) | (top1[None] > top1[:, None])
    return ~(no_worse & better).any(1)


@styled
def pareto(rows: pd.DataFrame, metric: str, titles: dict[str, str], smoke: bool = False) -> Drawing:
    """Test top1 against one of the costs (log scale), a panel per data set because accuracies on different images don't compare.

    rows: key, network, dataset, method, branches, n, top1_mean, top1_std and the metric. The stairs join the Pareto front.
    """
    title = f"Accuracy against {METRIC_LABELS[metric].split(' $')[0]}"
    lacking = rows[(rows.n > 0) & rows[metric].isna()]
    rows = rows[(rows.n > 0) & rows[metric].notna()]
    if rows.empty:
        return message("No experiment of this profile has both an accuracy and this cost.", title, smoke)
    note = _counts(rows) + (f"; no {metric} under this reading: {', '.join(lacking.key)}" if len(lacking) else "")
    panels = [(name, rows[rows.dataset == name]) for name in dict.fromkeys(rows.dataset)]
    panels.sort(key=lambda panel: -len(panel[1]))
    # the data set with the most points gets the large panel, the others share a row below it
    rest = panels[1:]
    figure = Drawing(8.5, 5.2 + (2.4 if rest else 0), title, smoke, note)
    grid = figure.add_gridspec(2 if rest else 1, max(1, len(rest)), height_ratios=[4.4, 2.0][: 2 if rest else 1])
    drawn = [(figure.add_subplot(grid[0, :]), panels[0])]
    drawn += [(figure.add_subplot(grid[1, index]), panel) for index, panel in enumerate(rest)]
    for axes, (name, points) in drawn:
        _pareto_panel(axes, points, metric, titles.get(name, name), 10 if axes is drawn[0][0] else 8)
    drawn[0][0].set_ylabel("test top1 [%]")
    figure.settle()
    same_n = rows.n.nunique() == 1
    for axes, (_, points) in drawn:
        texts = [
            f"{row.network} {short_key(row.key, row.network, row.dataset)}" + ("" if same_n else f" (n={row.n})")
            for row in points.itertuples()
        ]
        labels.place(axes, list(zip(points[metric].astype(float), points.top1_mean, strict=True)), texts, 8 if axes is drawn[0][0] else 7)
    return figure


def _pareto_panel(axes, points: pd.DataFrame, metric: str, title: str, title_size: float) -> None:
    cost = points[metric].astype(float).to_numpy()
    top1 = points.top1_mean.to_numpy()
    spread = points.top1_std.fillna(0).to_numpy()
    axes.set_xscale("log")
    margin = max((cost.max() / cost.min()) ** 0.22, 1.25)
    axes.set_xlim(cost.min() / margin, cost.max() * margin)
    low, high = (top1 - spread).min(), (top1 + spread).max()
    room = max(high - low, 2.0)
    axes.set_ylim(low - 0.15 * room, high + 0.15 * room)
    front = np.flatnonzero(pareto_front(cost, top1))
    front = front[np.argsort(cost[front], kind="stable")]
    # from the bottom to the cheapest point and from the best point to the right: what is below the stairs is beaten
    x = [cost[front[0]], *cost[front], axes.get_xlim()[1]]
    y = [axes.get_ylim()[0], *top1[front], top1[front[-1]]]
    if len(points) > 1:
        axes.plot(x, y, drawstyle="steps-post", color=FAINT, linewidth=1.2, zorder=1)
    names = [method_name(row.method, row.branches) for row in points.itertuples()]
    for x, y, error, name in zip(cost, top1, points.top1_std, names, strict=True):
        colour, marker = METHODS.get(name, METHODS["float"])
        axes.errorbar(x, y, yerr=None if np.isnan(error) else error, fmt=marker, color=colour, markersize=6.5, capsize=3, zorder=3)
    amounts(axes.xaxis, log=True, spread=float(axes.get_xlim()[1] / axes.get_xlim()[0]))
    axes.yaxis.get_major_locator().set_params(nbins=6)
    axes.set_title(title, fontsize=title_size)
    axes.set_xlabel(METRIC_LABELS[metric] if len(points) > 1 else METRIC_LABELS[metric].split("cost ")[-1])
    present = [name for name in METHODS if name in names]
    if len(present) > 1:
        handles = [Line2D([], [], linestyle="", color=METHODS[name][0], marker=METHODS[name][1], label=name) for name in present]
        handles.append(Line2D([], [], color=FAINT, label="Pareto front"))
        # one line that leaves room for the panel's title
        narrow = {"fontsize": 7, "columnspacing": 0.7, "handlelength": 1.2} if len(handles) > 6 else {}
        axes.legend(
            handles=handles, ncols=len(handles), loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.2, handletextpad=0.3, **narrow
        )


def _counts(rows: pd.DataFrame) -> str:
    low, high = int(rows.n.min()), int(rows.n.max())
    seeds = f"{low}" if low == high else f"{low} to {high}"
    return f"n = {seeds} seed{'s' if high > 1 else ''} per point" + ("; bars: sample standard deviation" if high > 1 else "")
