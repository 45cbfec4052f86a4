"""Every number of a row of the README's tables is the one in the committed tables of results/small."""

import re
from pathlib import Path

import pytest

from dbq.files import read_csv

ROOT = Path(__file__).parents[2]
TABLES = ROOT / "results" / "small" / "tables"
# what a column's heading says -> the column of the CSV file
COLUMNS = {"zero": "zero_rate", "validation": "val_top1"} | {name: name for name in ("epochs", "n", "c_c", "c_s", "c_r", "c_m", "top1")}
NUMBER = re.compile(r"[-+]?[\d,]+(\.\d+)? ?[kMG]?( ± \d+\.\d+)?")
UNITS = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9}


def cells_of(text):
    """(key, heading, cell) of the tables whose first column has `KEY`."""
    headings = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")] if line.startswith("|") else []
        if not headings or not cells:
            headings = cells
        elif key := re.fullmatch(r"`([a-z0-9_.-]+)`", cells[0]):
            yield from ((key[1], heading, cell) for heading, cell in zip(headings[1:], cells[1:], strict=True))


def column_of(heading):
    words = re.findall(r"[a-z0-9_]+", heading.lower())
    return next((column for word, column in COLUMNS.items() if word in words), None)


def says(cell, row, column):
    """Whether a cell such as `765M` or `91.53 ± 0.21` is the row's value at the precision that it shows."""
    shown, unit, spread = re.fullmatch(r"\+?([-\d.]+) ?([kMG]?)(?: ± ([\d.]+))?", cell.replace(",", "")).groups()
    parts = [(shown, float(row.get(f"{column}_mean") or row[column]) / UNITS[unit])]
    parts += [(spread, float(row[f"{column}_std"]))] if spread else []
    return all(f"{value:.{len(text.partition('.')[2])}f}" == text for text, value in parts)


def test_the_check_sees_a_wrong_number():
    text = "| row | weights | test top1 [%] | C_S |\n|---|---|---|---|\n| `a-b` | 4 bits | 91.53 ± 0.21 | 765M |\n| other | 1 | 2 | 3 |\n"
    cells = [(key, column_of(heading), cell) for key, heading, cell in cells_of(text)]
    assert cells == [("a-b", None, "4 bits"), ("a-b", "top1", "91.53 ± 0.21"), ("a-b", "c_s", "765M")]
    row = {"top1_mean": "91.5300", "top1_std": "0.2117", "c_s": "765050374"}
    assert says("91.53 ± 0.21", row, "top1") and says("765M", row, "c_s") and says("765,050,374", row, "c_s") and says("0.77G", row, "c_s")
    assert not says("91.54", row, "top1") and not says("91.53 ± 0.22", row, "top1") and not says("766M", row, "c_s")


@pytest.mark.skipif(not (TABLES / "accuracy.csv").is_file(), reason="results/small has no tables yet")
def test_numbers_are_those_of_the_committed_tables():
    rows: dict[str, dict] = {}
    for name in ("ablations", "accuracy", "cost"):
        for row in read_csv(TABLES / f"{name}.csv"):
            rows.setdefault(row["key"], {}).update({column: value for column, value in row.items() if value})
    cells = [cell for cell in cells_of((ROOT / "README.md").read_text()) if NUMBER.fullmatch(cell[2])]
    assert cells, "the README has no table with rows"
    for key, heading, cell in cells:
        column = column_of(heading)
        assert column and key in rows and says(cell, rows[key], column), f"{key}, {heading}: {cell} is not in results/small/tables"
