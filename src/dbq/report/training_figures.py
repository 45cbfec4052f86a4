"""One training: its curves, its quantizer through annealing, and where its weights lie."""

import pandas as pd
from matplotlib.ticker import MaxNLocator

from dbq.report.drawing import BLUE, FAINT, GREEN, INK, ORANGE, VERMILION, Drawing, message, styled

_SOFT = ("#bcd9ec", "#8fc0df", "#5ca3d0", "#2f86bf", "#0b5c94")


@styled
def training_curves(history: pd.DataFrame, title: str = "", smoke: bool = False) -> Drawing:
    """Loss, train and validation top1, and the soft-hard gap where the method has one, over the epochs; one line per seed.

    history: seed, epoch, train_loss, train_top1 and val_top1 [%], soft_hard_gap [fraction of the largest level] (NaN or None: no gap).
    """
    if history.empty:
        return message("No epochs are recorded: the weights are external.", title, smoke)
    history = history.apply(pd.to_numeric)
    panels = {
        "training loss": [("train_loss", INK, "-", "train")],
        "top1 [%]": [("train_top1", ORANGE, "--", "train"), ("val_top1", BLUE, "-", "validation")],
    }
    seeds = list(dict.fromkeys(history.seed))
    note = f"n = {len(seeds)} seed{'s' * (len(seeds) > 1)}"
    if history.soft_hard_gap.notna().any():
        panels["soft-hard gap"] = [("soft_hard_gap", GREEN, "-", "gap")]
        note += "; gap: mean |soft - hard weight| / largest level"
    figure = Drawing(3.1 * len(panels), 2.7 + 0.2 * bool(title) + 0.2 * smoke, title, smoke, note)
    for axes, (name, lines) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for column, colour, style, label in lines:
            for seed, run in history.groupby("seed", sort=False):
                axes.plot(
                    run.epoch, run[column], style, color=colour, linewidth=1.4, alpha=1 if len(seeds) == 1 else 0.7,
                    marker="o" if len(run) <= 12 else None, markersize=3, label=label if seed == seeds[0] else None,
                )  # fmt: skip
        axes.set_title(name, fontsize=9)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.margins(y=0.12)
        if len(lines) > 1:
            axes.legend(loc="best", handlelength=1.8)
        else:
            axes.set_ylim(bottom=0)
    return figure


@styled
def transfer_curve(annealing: dict, title: str = "", smoke: bool = False) -> Drawing:
    """The quantizer's output over its input at the temperatures of training (light to dark), and the hard staircase.

    annealing: {layer, inputs, curves: [{epoch, temperature, outputs}], hard}, with the scales that the training ended with.
    """
    if not annealing:
        return message("This method has no transfer curve to anneal.", title, smoke)
    by_temperature: dict[str, list] = {}
    for curve in annealing["curves"]:
        by_temperature.setdefault(f"{curve['temperature']:.4g}", []).append(curve)
    figure = Drawing(
        5.6, 3.9 + 0.2 * smoke, title, smoke, f"layer {annealing['layer']}, final branch scales; T in units of 1 / (largest level)"
    )
    axes = figure.add_subplot()
    axes.plot(annealing["inputs"], annealing["hard"], color=VERMILION, linewidth=2.6, alpha=0.55, label="hard")
    for index, (heat, curves) in enumerate(by_temperature.items()):
        shade = _SOFT[-1] if len(by_temperature) == 1 else _SOFT[round(index * (len(_SOFT) - 1) / (len(by_temperature) - 1))]
        epochs = sorted({curve["epoch"] for curve in curves})
        span = f"epoch {epochs[0]}" if len(epochs) == 1 else f"epochs {epochs[0]} to {epochs[-1]}"
        axes.plot(annealing["inputs"], curves[0]["outputs"], color=shade, linewidth=1.3, label=f"T = {heat} ({span})")
    axes.set_xlabel("pre-scaled weight $g_1 w$")
    axes.set_ylabel("quantized weight / $g_2$")
    axes.legend(loc="upper left")
    return figure


@styled
def weight_histogram(weights: dict, title: str = "", smoke: bool = False, shown: int = 6) -> Drawing:
    """Histograms of the float master weights in units of the levels, for up to `shown` layers spread over the depth.

    weights: {"layers": [{name, edges, counts, levels, thresholds, level_counts}]}. Thick lines: levels; thin dotted lines: thresholds.
    """
    layers = weights["layers"]
    if not layers:
        return message("Only layers of ternary branches have levels to show.", title, smoke)
    count = min(shown, len(layers))
    picked = [layers[round(index * (len(layers) - 1) / max(1, count - 1))] for index in range(count)]
    columns = min(3, count)
    rows = -(-count // columns)
    note = f"{count} of {len(layers)} layers of branches; thick lines: levels, thin dotted lines: thresholds"
    figure = Drawing(max(5.5, 3.1 * columns), 2.2 * rows + 0.6 + 0.2 * smoke, title, smoke, note)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[count:]:
        axes.set_axis_off()
    for axes, layer in zip(grid, picked, strict=False):
        axes.stairs(layer["counts"], layer["edges"], fill=True, color="#a9c9de")
        width = 1.6 if len(layer["levels"]) <= 9 else 0.9
        for level in layer["levels"]:
            axes.axvline(level, color=BLUE, linewidth=width, alpha=0.8)
        for threshold in layer["thresholds"]:
            axes.axvline(threshold, color=VERMILION, linewidth=0.7, linestyle=(0, (1, 2)))
        total = sum(layer["level_counts"])
        zero = layer["level_counts"][len(layer["levels"]) // 2] / total if total else 0.0
        axes.set_title(f"{layer['name']}, {100 * zero:.0f} % zero", fontsize=8.5)
        axes.grid(visible=False)
        axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
        axes.tick_params(labelsize=7.5, color=FAINT)
    for axes in grid[:count][-columns:]:
        axes.set_xlabel("$g_1 w$")
    return figure
