"""Every figure of a profile as SVG and PNG, from result files only; a notebook calls the same drawing functions for its own display.

training_curves(history)   weight_histogram(weights)   transfer_curve(annealing)   cost_bars(layers)
accuracy_plot(rows, titles)   pareto(rows, metric, titles)
"""

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
    save(overhead_bars(overhead_figures.table(metrics_folder), smoke), out / "overhead")
    for name, figure in _figures_of_keys(params, metrics_folder, smoke, titles):
        save(figure, out / name)


def _figures_of_keys(params: dict, metrics: Path, smoke: bool, titles: dict[str, str]):
    for stage in ("pretrain", "quantize"):
        for key in results.declared(params, stage):
            if not results.was_run(metrics, stage, key):
                continue
            dataset = params[results.DECLARED_IN[stage]][key]["dataset"]
            stand_in = f", {titles[dataset]}" if titles[dataset] != dataset else ""
            curves = training_curves(results.history(metrics, stage, key), f"Training of {key}{stand_in}", smoke)
            yield f"training_curves-{key}", curves
            if stage == "quantize":
                if annealing := results.annealing(metrics, key):
                    yield f"transfer_curve-{key}", transfer_curve(annealing, f"Quantizer of {key}", smoke)
                if (weights := results.weights(metrics, key))["layers"]:
                    yield f"weight_histogram-{key}", weight_histogram(weights, f"Weights of {key}{stand_in}", smoke)
    for key in results.declared(params, "engine"):
        if results.was_run(metrics, "engine", key):
            yield f"cost_per_layer-{key}", cost_bars(results.layers(metrics, key), f"Cost per layer of {key}", smoke)


def _table(folder, name: str) -> pd.DataFrame:
    path = Path(folder) / f"{name}.csv"
    if not path.is_file():
        raise DbqError(f"{path}: no such file", "run `dvc repro tables`")
    return pd.read_csv(path)
