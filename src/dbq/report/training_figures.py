"""One training: its curves, its quantizer through annealing, and where its weights lie."""

import math

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.ticker import MaxNLocator

from dbq.report.drawing import BLUE, GREEN, INK, ORANGE, VERMILION, Drawing, message, styled


@styled
def training_curves(history: pd.DataFrame, title: str = "", smoke: bool = False) -> Drawing:
    """Loss, train and validation top1, and the soft-hard gap where the method has one, over the epochs; one line per seed.

    history: seed, epoch, train_loss, train_top1 and val_top1 [%], soft_hard_gap [fraction of the largest level] (NaN or None: no gap).
    """
    if history.empty:
        return message("No epochs are recorded: the weights are external.", title, smoke)
    history = history.apply(pd.to_numeric)
    top1 = [("train_top1", ORANGE, "train"), ("val_top1", BLUE, "validation")]
    panels = {"training loss": [("train_loss", INK, "train")], "top1 [%]": top1}
    note = f"n = {history.seed.nunique()} seed{'s' * (history.seed.nunique() > 1)}"
    if history.soft_hard_gap.notna().any():
        panels["soft-hard gap"] = [("soft_hard_gap", GREEN, "gap")]
        note += "; gap: mean |soft - hard weight| / largest level"
    figure = Drawing(3.1 * len(panels), 2.9, title, smoke, note)
    for axes, (name, lines) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for column, colour, label in lines:
            runs = history.pivot(index="epoch", columns="seed", values=column)
            marker = "o" if len(runs) <= 12 else None
            drawn = axes.plot(runs.index, runs, color=colour, linewidth=1.4, alpha=0.8, marker=marker, markersize=3)
            drawn[0].set_label(label)
        axes.set(title=name, xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.margins(y=0.12)
        axes.legend()
    return figure


@styled
def transfer_curve(annealing: dict, title: str = "", smoke: bool = False) -> Drawing:
    """The quantizer's output over its input at the temperatures of training (light to dark), and the hard staircase.

    annealing: {layer, inputs, curves: [{epoch, temperature, outputs}], hard}, with the scales that the training ended with.
    """
    if not annealing:
        return message("This method has no transfer curve to anneal.", title, smoke)
    inputs, curves = annealing["inputs"], pd.DataFrame(annealing["curves"])
    figure = Drawing(5.6, 3.9, title, smoke, f"layer {annealing['layer']}, final branch scales; T in units of 1 / (largest level)")
    axes = figure.add_subplot()
    axes.plot(inputs, annealing["hard"], color=VERMILION, linewidth=2.6, alpha=0.55, label="hard")
    curves = curves[~curves.temperature.map("{:.4g}".format).duplicated()]
    for curve, shade in zip(curves.itertuples(), colormaps["Blues"](np.linspace(0.35, 0.9, len(curves))), strict=True):
        axes.plot(inputs, curve.outputs, color=shade, linewidth=1.3, label=f"T = {curve.temperature:.4g} (from epoch {curve.epoch})")
    axes.set(xlabel="pre-scaled weight $g_1 w$", ylabel="quantized weight / $g_2$")
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
    picked = [layers[index] for index in np.linspace(0, len(layers) - 1, min(shown, len(layers))).round().astype(int)]
    columns, rows = min(3, len(picked)), math.ceil(len(picked) / 3)
    note = f"{len(picked)} of {len(layers)} layers of branches; thick lines: levels, thin dotted lines: thresholds"
    figure = Drawing(max(5.5, 3.1 * columns), 2.2 * rows + 0.6, title, smoke, note)
    for place, layer in enumerate(picked, 1):
        axes = figure.add_subplot(rows, columns, place)
        axes.stairs(layer["counts"], layer["edges"], fill=True, color="#a9c9de")
        for level in layer["levels"]:
            axes.axvline(level, color=BLUE, linewidth=1.6 if len(layer["levels"]) <= 9 else 0.9, alpha=0.8)
        for threshold in layer["thresholds"]:
            axes.axvline(threshold, color=VERMILION, linewidth=0.7, linestyle=(0, (1, 2)))
        zero = layer["level_counts"][len(layer["levels"]) // 2] / max(1, sum(layer["level_counts"]))
        axes.set_title(f"{layer['name']}, {100 * zero:.0f} % zero", fontsize=8.5)
        axes.grid(visible=False)
        axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
        axes.set_xlabel("$g_1 w$" if place > len(picked) - columns else "")
    return figure
