"""Every number of the README's table is the one in the committed result files."""

import re
from pathlib import Path

import pytest

from dbq.files import read_csv

ROOT = Path(__file__).parents[2]
ROWS = re.findall(r"^\| `([\w-]+)` \|(.*)\|$", (ROOT / "README.md").read_text(), re.MULTILINE)
SWEEPS = re.search(r"^\| weights \|(.*)\|\n\|[-|]+\|\n((?:\|.*\|\n)+)", (ROOT / "README.md").read_text(), re.MULTILINE)
MEASURED = [row for row in ROWS if row[0].startswith("resnet20-cifar10")]


def table(name):
    return {row["key"]: row for row in read_csv(ROOT / "results" / "cifar10" / "tables" / f"{name}.csv")}


def test_the_readme_has_the_rows():
    assert len(MEASURED) >= 3


@pytest.mark.parametrize(("key", "cells"), MEASURED)
def test_numbers_are_those_of_the_result_files(key, cells):
    _, _, epochs, n, top1, zero_rate, *costs = (cell.strip() for cell in cells.split("|"))
    row = table("accuracy")[key]
    assert (epochs, n) == (row["epochs"], row["n"])
    spread = f" ± {float(row['top1_std']):.2f}" if row["top1_std"] else ""
    assert top1 == f"{float(row['top1_mean']):.2f}{spread}"
    assert zero_rate == f"{float(row['zero_rate']):.2f}"
    expected = table("cost").get(key)
    if expected is None:
        assert costs == ["-"] * 3
    else:
        assert [cost.replace(",", "") for cost in costs] == [expected[name] for name in ("c_c", "c_s", "c_m")]


def test_numbers_of_the_lightweight_networks_are_those_of_the_result_files():
    networks = [cell.strip(" `") for cell in SWEEPS[1].split("|")]
    rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in SWEEPS[2].splitlines()]
    assert len(networks) >= 3 and len(rows) == 8
    for label, *cells in rows:
        for network, cell in zip(networks, cells, strict=True):
            row = table("accuracy")[network if label == "float" else f"sweep-{network}-{label}"]
            assert (row["n"], cell) == ("1", f"{float(row['top1_mean']):.2f}")
