"""Publish a profile: its reports, its metric files and an index page under results/PROFILE."""

import re
import shutil
from pathlib import Path

import pandas as pd

from dbq.errors import DbqError
from dbq.files import write_text
from dbq.report import pages, tables
from dbq.report.results import COMPARISONS, Results, single_reason
from dbq.settings import Plan

STAGES = ("prepare", "pretrain", "quantize", "engine")
# stages without keys
SINGLE = {"tables": "All tables and figures", "overhead": "What training costs", "hardware": "Counted against synthesised full adders"}
LIMIT = 5_000_000  # bytes; larger files don't belong in git
# what the page shows of each table
TABLES = {
    "accuracy": ["key", "network", "dataset", "weight_bits", "activation_bits", "n", "top1_mean", "top1_std", "zero_rate", "label"],
    "cost": ["key", "c_c", "c_s", "c_r", "c_m", "engine_top1", "label"],
    "ablations": ["key", "base", "change", "epochs", "n", "val_top1_mean", "val_top1_std", "delta_to_base", "label"],
    "datasets": ["key", "source", "label", "train", "val", "test"],
}  # fmt: skip


def publish(plan: Plan, runs_folder, results_folder) -> None:
    """Copy the reports and metric files of what the plan declares from runs/PROFILE to results/PROFILE/{reports,metrics}, and write
    reports/index.html.

    What was not run stands on the page with its reason. Raises DbqError for a missing report and for a file above 5 MB.
    """
    runs, out, results = Path(runs_folder), Path(results_folder), Results(plan, runs_folder)
    shutil.rmtree(out / "reports", ignore_errors=True)
    for folder in (out / "metrics").glob("*/*"):
        # nothing stays of an entry that params.yaml no longer declares; what another machine has measured of one that isn't run here does
        if folder.is_dir() and folder.name not in results.declared(folder.parent.name):
            shutil.rmtree(folder)
    drawn = sorted(path.stem for path in (out / "figures").glob("*.svg"))
    links: dict[str, list[tuple[str, str]]] = {}
    for stage in STAGES:
        for key in results.running(stage):
            _copy_reports(runs, out, f"{stage}-{key}", f"{stage}@{key}")
            _copy_metrics(runs / stage / key, out / "metrics" / stage / key)
            links.setdefault(key, []).append((stage, f"{stage}-{key}.html"))
    for key, own in links.items():
        own += [(name.split("-")[0], f"../figures/{name}.svg") for name in drawn if re.fullmatch(rf"[a-z_]+-{re.escape(key)}", name)]
    singles = {stage: single_reason(runs, stage) for stage in SINGLE}
    for stage, reason in singles.items():
        if not reason:
            _copy_reports(runs, out, stage, stage)
        _copy_metrics(runs / stage, out / "metrics" / stage)
    page = pages.index_page(
        title=f"DBQ, profile {plan.profile}", smoke=results.smoke, links=links, comparisons=[name for name in COMPARISONS if name in drawn],
        singles=[(stage, SINGLE[stage], reason) for stage, reason in singles.items()],
        tables={name: _table(out / "tables" / f"{name}.csv")[columns] for name, columns in TABLES.items()},
    )  # fmt: skip
    write_text(out / "reports" / "index.html", page)


def _table(path: Path) -> pd.DataFrame:
    """Numbers as a reader wants them; "-" where there is none."""
    return pd.read_csv(path, dtype_backend="numpy_nullable").astype(object).map(tables.cell)


def _copy_reports(runs: Path, out: Path, name: str, stage: str) -> None:
    for ending in ("html", "ipynb"):
        source = runs / "reports" / name / f"report.{ending}"
        if not source.is_file():
            raise DbqError(f"{source}: no such file", f"run `dvc repro {stage}`")
        _copy(source, out / "reports" / f"{name}.{ending}")


def _copy_metrics(folder: Path, target: Path) -> None:
    """JSON and CSV files alone: a model is too large for git and is kept elsewhere."""
    shutil.rmtree(target, ignore_errors=True)
    for source in sorted(folder.glob("*")):
        if source.suffix in (".json", ".csv"):
            _copy(source, target / source.name)


def _copy(source: Path, target: Path) -> None:
    if (size := source.stat().st_size) > LIMIT:
        raise DbqError(f"{source}: {size:,} bytes, the limit is {LIMIT:,}", "make what its stage writes smaller")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
