"""Every figure of a profile as SVG and PNG, from result files only; a notebook calls the same drawing functions for its own display."""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from dbq.report import overhead_figures, tables
from dbq.report.comparison_figures import ablation_plot, accuracy_plot, pareto
from dbq.report.drawing import save
from dbq.report.engine_figures import cost_bars
from dbq.report.results import COSTS, SIGNED_DIGITS, Results, read_frame
from dbq.report.training_figures import training_curves, transfer_curve, weight_histogram
from dbq.settings import Plan


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
    ablations = read_frame(tables_folder / "ablations.csv", tables.ABLATION_COLUMNS, "tables")
    overhead = Path(runs_folder) / "overhead"
    save(accuracy_plot(accuracy, titles, smoke), out / "accuracy")
    for metric in COSTS:
        save(pareto(points, metric, titles, smoke), out / f"pareto_{metric}")
    save(ablation_plot(ablations, smoke), out / "ablations")
    save(overhead_figures.overhead_bars(overhead_figures.read(overhead), smoke), out / "overhead")
    save(overhead_figures.overhead_bars(overhead_figures.read(overhead, overhead_figures.GPU)), out / "overhead-gpu")
    wanted = [(stage, key) for stage in ("pretrain", "quantize", "engine") for key in results.running(stage)]
    # the figures of a key depend on its own results alone, so that several processes draw them
    with ProcessPoolExecutor(min(4, os.cpu_count() or 1), multiprocessing.get_context("spawn")) as processes:
        for done in [processes.submit(_write_figures_of, stage, key, results, out) for stage, key in wanted]:
            done.result()


def _write_figures_of(stage: str, key: str, results: Results, out: Path) -> None:
    smoke = results.smoke
    if stage == "engine":
        save(cost_bars(results.layers(key), f"Cost per layer of {key}", smoke), out / f"cost_per_layer-{key}")
        return
    dataset = results.declared(stage)[key].settings.dataset
    stand_in = f", {results.titles[dataset]}" if results.titles[dataset] != dataset else ""
    save(training_curves(results.history(key), f"Training of {key}{stand_in}", smoke), out / f"training_curves-{key}")
    if stage == "quantize":
        if annealing := results.kept(key, "annealing.json"):
            save(transfer_curve(annealing, f"Quantizer of {key}", smoke), out / f"transfer_curve-{key}")
        if (weights := results.kept(key, "weights.json")).get("layers"):
            save(weight_histogram(weights, f"Weights of {key}{stand_in}", smoke), out / f"weight_histogram-{key}")
