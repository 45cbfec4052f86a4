"""Every figure of a profile as SVG and PNG, from result files only; a notebook calls the same drawing functions for its own display.

training_curves(history)   weight_histogram(weights)   transfer_curve(annealing)   cost_bars(layers)
accuracy_plot(rows, titles)   pareto(rows, metric, titles)
"""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pandas as pd

from dbq.errors import DbqError
from dbq.report import ablation_report, overhead_figures, results
from dbq.report.ablation_report import ablation_plot
from dbq.report.comparison_figures import accuracy_plot, pareto, pareto_front
from dbq.report.cost_figures import cost_bars
from dbq.report.drawing import Drawing, save
from dbq.report.overhead_figures import overhead_bars
from dbq.report.training_figures import training_curves, transfer_curve, weight_histogram

__all__ = [
    "Drawing", "accuracy_plot", "cost_bars", "pareto", "pareto_front", "save",
    "training_curves", "transfer_curve", "weight_histogram", "write_figures",
]  # fmt: skip

MOST_PROCESSES = 4
COMPARISONS = ("accuracy", *(f"pareto_{metric}" for metric in results.COSTS))


def write_figures(params: dict, metrics_folder, tables_folder, out_folder) -> None:
    """Write all figures to out_folder; what was not run has no figure of its own.

    accuracy and pareto_METRIC come from the tables, training_curves-KEY, transfer_curve-KEY, weight_histogram-KEY and cost_per_layer-KEY
    from the result files of KEY. Raises DbqError when a table or a result is missing.
    """
    out, smoke, titles = Path(out_folder), results.is_smoke(params), results.dataset_titles(params)
    accuracy, cost = _table(tables_folder, "accuracy"), _table(tables_folder, "cost")
    save(accuracy_plot(accuracy, titles, smoke), out / "accuracy")
    points = accuracy.merge(cost[["key", *results.COSTS]], on="key", how="inner", validate="one_to_one")
    for metric in results.COSTS:
        save(pareto(points, metric, titles, smoke), out / f"pareto_{metric}")
    save(ablation_plot(ablation_report.table(metrics_folder), smoke), out / "ablations")
    overhead = Path(metrics_folder) / "overhead"
    save(overhead_bars(overhead_figures.read(overhead), smoke), out / "overhead")
    save(overhead_bars(overhead_figures.read(overhead, overhead_figures.GPU)), out / "overhead-gpu")
    wanted = [(stage, key) for stage in ("pretrain", "quantize", "engine") for key in results.declared(params, stage)]
    wanted = [(stage, key) for stage, key in wanted if results.was_run(metrics_folder, stage, key)]
    # each key's figures depend on its own results alone: a process a core draws them
    with ProcessPoolExecutor(min(MOST_PROCESSES, os.cpu_count() or 1), multiprocessing.get_context("spawn")) as processes:
        for done in [processes.submit(_write_figures_of, stage, key, params, Path(metrics_folder), out) for stage, key in wanted]:
            done.result()


def _write_figures_of(stage: str, key: str, params: dict, metrics: Path, out: Path) -> None:
    for name, figure in _figures_of(stage, key, params, metrics):
        save(figure, out / f"{name}-{key}")


def _figures_of(stage: str, key: str, params: dict, metrics: Path):
    smoke, titles = results.is_smoke(params), results.dataset_titles(params)
    if stage == "engine":
        yield "cost_per_layer", cost_bars(results.layers(metrics, key), f"Cost per layer of {key}", smoke)
        return
    dataset = params[results.DECLARED_IN[stage]][key]["dataset"]
    stand_in = f", {titles[dataset]}" if titles[dataset] != dataset else ""
    yield "training_curves", training_curves(results.history(metrics, stage, key), f"Training of {key}{stand_in}", smoke)
    if stage == "quantize":
        if annealing := results.annealing(metrics, key):
            yield "transfer_curve", transfer_curve(annealing, f"Quantizer of {key}", smoke)
        if (weights := results.weights(metrics, key))["layers"]:
            yield "weight_histogram", weight_histogram(weights, f"Weights of {key}{stand_in}", smoke)


def _table(folder, name: str) -> pd.DataFrame:
    path = Path(folder) / f"{name}.csv"
    if not path.is_file():
        raise DbqError(f"{path}: no such file", "run `dvc repro tables`")
    return pd.read_csv(path)
