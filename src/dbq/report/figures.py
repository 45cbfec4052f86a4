"""Every figure of a profile as SVG and PNG, from result files only; a notebook calls the same drawing functions for its own display.

training_curves(history)   weight_histogram(weights)   transfer_curve(annealing)   cost_bars(layers)
accuracy_plot(rows, titles)   pareto(rows, metric, titles)   ablation_plot(rows)
"""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from dbq.report import overhead_figures, tables
from dbq.report.comparison_figures import ablation_plot, accuracy_plot, pareto, pareto_front
from dbq.report.cost_figures import cost_bars
from dbq.report.drawing import Drawing, save
from dbq.report.results import COMPARISONS, COSTS, SIGNED_DIGITS, Results, read_frame
from dbq.report.training_figures import training_curves, transfer_curve, weight_histogram
from dbq.settings import Plan

__all__ = [
    "Drawing", "ablation_plot", "accuracy_plot", "cost_bars", "pareto", "pareto_front", "save",
    "training_curves", "transfer_curve", "weight_histogram", "write_figures",
]  # fmt: skip

MOST_PROCESSES = 4


def write_figures(plan: Plan, runs_folder, tables_folder, out_folder) -> None:
    """Write all figures of runs/PROFILE to out_folder; what was not run has no figure of its own.

    COMPARISONS come from the tables, training_curves-KEY, transfer_curve-KEY, weight_histogram-KEY and cost_per_layer-KEY from the result
    files of KEY. Raises DbqError when a table or a result is missing.
    """
    out, results, tables_folder = Path(out_folder), Results(plan, runs_folder), Path(tables_folder)
    smoke, titles = results.smoke, results.titles
    accuracy = read_frame(tables_folder / "accuracy.csv", tables.ACCURACY_COLUMNS, "tables")
    cost = read_frame(tables_folder / "cost.csv", tables.COST_COLUMNS, "tables")
    points = accuracy.merge(cost[["key", *COSTS, *SIGNED_DIGITS]], on="key", how="inner", validate="one_to_one")
    figures = {"accuracy": accuracy_plot(accuracy, titles, smoke)}
    figures |= {f"pareto_{metric}": pareto(points, metric, titles, smoke) for metric in COSTS}
    figures["ablations"] = ablation_plot(read_frame(tables_folder / "ablations.csv", tables.ABLATION_COLUMNS, "tables"), smoke)
    figures["overhead"] = overhead_figures.overhead_bars(overhead_figures.read(Path(runs_folder) / "overhead"), smoke)
    figures["overhead-gpu"] = overhead_figures.overhead_bars(overhead_figures.read(Path(runs_folder) / "overhead", overhead_figures.GPU))
    for name in COMPARISONS:
        save(figures[name], out / name)
    wanted = [(stage, key) for stage in ("pretrain", "quantize", "engine") for key in results.running(stage)]
    # the figures of a key depend on its own results alone, so that several processes draw them
    with ProcessPoolExecutor(min(MOST_PROCESSES, os.cpu_count() or 1), multiprocessing.get_context("spawn")) as processes:
        for done in [processes.submit(_write_figures_of, stage, key, results, out) for stage, key in wanted]:
            done.result()


def _write_figures_of(stage: str, key: str, results: Results, out: Path) -> None:
    for name, figure in _figures_of(stage, key, results):
        save(figure, out / f"{name}-{key}")


def _figures_of(stage: str, key: str, results: Results):
    smoke = results.smoke
    if stage == "engine":
        yield "cost_per_layer", cost_bars(results.layers(key), f"Cost per layer of {key}", smoke)
        return
    dataset = results.declared(stage)[key].settings.dataset
    stand_in = f", {results.titles[dataset]}" if results.titles[dataset] != dataset else ""
    yield "training_curves", training_curves(results.history(key), f"Training of {key}{stand_in}", smoke)
    if stage == "quantize":
        if annealing := results.annealing(key):
            yield "transfer_curve", transfer_curve(annealing, f"Quantizer of {key}", smoke)
        if (weights := results.weights(key)).get("layers"):
            yield "weight_histogram", weight_histogram(weights, f"Weights of {key}{stand_in}", smoke)
