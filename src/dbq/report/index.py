"""Publish a profile: executed notebooks, small metric files and an index page under results/PROFILE."""

import html
import shutil
from pathlib import Path

from dbq.errors import DbqError
from dbq.files import read_csv, write_text
from dbq.report import results

STAGES = ("prepare", "pretrain", "quantize", "engine", "sweep")
SINGLE = ("ablations", "overhead", "hardware", "tables-and-figures")  # stages without keys
LIMIT = 5_000_000  # bytes; larger files don't belong in git
STYLE = """
body {font: 16px/1.5 sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; color: #222}
table {border-collapse: collapse; font-size: 13px; display: block; overflow-x: auto}
td, th {border-bottom: 1px solid #ccc; padding: 3px 8px; text-align: left; white-space: nowrap}
img {max-width: 100%} .smoke {background: #fde9c8; padding: .6rem 1rem; font-weight: bold}
"""


def publish(params: dict, runs_folder, results_folder) -> None:
    """Copy reports and metrics of the declared entries from runs/PROFILE to results/PROFILE/{reports,metrics} and write reports/index.html.

    Entries that aren't run in the profile are listed with their reason. Raises DbqError for a missing report and for one above 5 MB.
    """
    runs, out = Path(runs_folder), Path(results_folder)
    for name in ("reports", "metrics"):
        shutil.rmtree(out / name, ignore_errors=True)  # nothing stays of an entry that params.yaml no longer declares
    reports = []
    for stage in STAGES:
        for key in results.declared(params, stage):
            value = results.read_result(runs / "metrics", stage, key)
            if value.get("status") == "not run":
                reports.append((stage, key, None, value["reason"]))
                continue
            name = f"{stage}-{key}"
            _copy(runs / "html" / f"{name}.html", out / "reports" / f"{name}.html", stage, key)
            _copy(runs / "notebooks" / f"{name}.ipynb", out / "reports" / f"{name}.ipynb", stage, key)
            shutil.copytree(runs / "metrics" / stage / key, out / "metrics" / stage / key)
            reports.append((stage, key, f"{name}.html", ""))
    for stage in SINGLE:
        for folder, suffix in (("html", "html"), ("notebooks", "ipynb")):
            _copy(
                runs / folder / f"{stage}.{suffix}", out / "reports" / f"{stage}.{suffix}", "tables" if stage == SINGLE[-1] else stage, ""
            )
        if (runs / "metrics" / stage).is_dir():
            shutil.copytree(runs / "metrics" / stage, out / "metrics" / stage)
    write_text(out / "reports" / "index.html", index(params["profile"], reports, out))


def _copy(source: Path, target: Path, stage: str, key: str) -> None:
    name = f"{stage}@{key}" if key else stage
    if not source.is_file():
        raise DbqError(f"{source}: no such file", f"run `dvc repro {name}`")
    if source.stat().st_size > LIMIT:
        raise DbqError(
            f"{source}: {source.stat().st_size:,} bytes, the limit is {LIMIT:,}", f"make the outputs of the notebook of {name} smaller"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def index(profile: str, reports: list[tuple], out: Path) -> str:
    """The page: reports by stage, tables, figures; paths are relative to results/PROFILE/reports."""
    parts = [f"<!doctype html><html lang='en'><meta charset='utf-8'><title>DBQ, profile {profile}</title><style>{STYLE}</style>"]
    parts.append(f"<h1>DBQ, profile {profile}</h1>")
    if profile == "smoke":
        parts.append(
            "<p class='smoke'>SMOKE: tiny schedules on stand-in images. It shows that everything runs; its numbers are not evidence.</p>"
        )
    parts.append(
        "<p><a href='tables-and-figures.html'>All tables and figures as a report</a>, "
        "<a href='ablations.html'>what decides the accuracy</a>, "
        "<a href='overhead.html'>what training costs</a>, "
        "<a href='hardware.html'>counted against synthesised</a></p><h2>Reports by stage</h2>"
    )
    for stage in STAGES:
        items = [
            f"<li><a href='{page}'>{html.escape(key)}</a></li>" if page else f"<li>{html.escape(key)}: not run ({html.escape(reason)})</li>"
            for of_stage, key, page, reason in reports
            if of_stage == stage
        ]
        parts.append(f"<h3>{stage}</h3><ul>{''.join(items)}</ul>")
    for name in ("accuracy", "cost"):
        parts.append(f"<h2>{name.capitalize()}</h2>{_table(read_csv(out / 'tables' / f'{name}.csv'))}")
    parts.append("<h2>Figures</h2>")
    for figure in sorted((out / "figures").glob("*.svg")):
        parts.append(
            f"<h3>{html.escape(figure.stem)}</h3><img src='../figures/{html.escape(figure.name)}' alt='{html.escape(figure.stem)}'>"
        )
    return "\n".join(parts) + "\n"


def _table(rows: list[dict]) -> str:
    if not rows:
        return "<p>No rows.</p>"
    head = "".join(f"<th>{html.escape(name)}</th>" for name in rows[0])
    body = "".join("<tr>" + "".join(f"<td>{html.escape(value)}</td>" for value in row.values()) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"
