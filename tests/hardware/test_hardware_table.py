"""The committed table of hardware measurements: counted columns recomputed, claims asserted, damage noticed."""

from pathlib import Path

import numpy as np
import pytest

from dbq.cost.formulas import TERNARY_READINGS, LayerWeights, dot_product_adders
from dbq.errors import DbqError
from dbq.files import read_csv, write_csv
from dbq.hardware import REASONS, measurements
from dbq.hardware.counts import counted
from dbq.hardware.measure import Case, committed_grid
from dbq.hardware.table import COLUMNS

TABLE = Path(__file__).parents[2] / "data/reference/hardware.csv"


@pytest.fixture(scope="module")
def rows():
    return measurements(TABLE)[0]


def case_of(row) -> Case:
    return Case(*(row[name] for name in ("kind", "structure", "length", "activation_bits", "branches", "zero_rate")))


def test_it_is_the_whole_grid(rows):
    assert [case_of(row) for row in rows] == committed_grid()
    assert set(REASONS) == {row["reason"] for row in rows}


def test_counted_columns_are_those_of_the_cost_model(rows):
    for row in rows:
        design = case_of(row).design()
        nonzeros = design.nonzeros()[:, None]
        weights = LayerWeights("ternary", 2 * row["branches"], row["branches"], nonzeros, row["branches"])
        assert row["nonzeros"] == nonzeros.sum()
        for reading in TERNARY_READINGS:
            adders = dot_product_adders(nonzeros, weights, row["activation_bits"], reading, False, row["scale_bits"])
            assert row[f"counted_{reading}"] == adders.item()
        expected = counted(design)
        assert (row["counted_tree"], row["counted_scale"]) == (expected["tree"], expected["scale"])
        sums = row["synthesised_full_adders"] - row["synthesised_scale_full_adders"]
        assert row["ratio"] == pytest.approx(row["synthesised_full_adders"] / row["counted_adder_only"], abs=1e-4)
        assert row["ratio_tree"] == pytest.approx(row["synthesised_full_adders"] / row["counted_tree"], abs=1e-4)
        assert row["ratio_sums"] == pytest.approx(sums / expected["sum_adder_only"], abs=1e-4)


def test_every_simulated_dot_product_was_right(rows):
    assert all(row["mismatches"] == 0 for row in rows)
    assert all(row["simulated_dot_products"] >= (10_000 if row["kind"] == "port" else 1_000) for row in rows)


def test_the_adder_only_reading_is_true_of_a_chain_and_the_tree_formula_of_a_tree(rows):
    port = [row for row in rows if row["kind"] == "port"]
    chain = np.array([row["ratio"] for row in port if row["structure"] == "chain"])
    tree = np.array([row["ratio_tree"] for row in port if row["structure"] == "tree"])
    assert np.abs(chain - 1).max() < 0.1 and np.abs(tree - 1).max() < 0.1
    assert all(row["ratio_sums"] == 1 for row in port if row["structure"] == "chain")
    assert all(row["synthesised_full_adders"] < 0.75 * row["counted_two_bit_multiplier"] for row in port)


def test_more_zeros_never_cost_more(rows):
    groups = {}
    for row in rows:
        if row["kind"] == "constant":
            key = tuple(row[name] for name in ("structure", "length", "activation_bits", "branches"))
            groups.setdefault(key, []).append((row["zero_rate"], row["synthesised_full_adders"]))
    for group in groups.values():
        adders = [found for _, found in sorted(group)]
        assert len(adders) == 3 and adders == sorted(adders, reverse=True)


def test_missing_tools_and_the_source_are_said(monkeypatch):
    monkeypatch.setenv("PATH", "")
    rows, source = measurements(TABLE, fresh=True)
    assert len(rows) == len(committed_grid())
    assert source.startswith("read from the committed hardware.csv, measured with Icarus Verilog") and "yosys not installed here" in source


def test_a_damaged_table_is_an_error(tmp_path):
    path = tmp_path / "hardware.csv"
    with pytest.raises(DbqError, match="no such file"):
        measurements(path)
    rows = read_csv(TABLE)[:2]
    write_csv(path, [{**row, "ratio": ""} for row in rows], COLUMNS)
    with pytest.raises(DbqError, match="a number is damaged"):
        measurements(path)
    write_csv(path, [{name: row[name] for name in COLUMNS[1:]} for row in rows], COLUMNS[1:])
    with pytest.raises(DbqError, match="columns"):
        measurements(path)
    write_csv(path, [], COLUMNS)
    with pytest.raises(DbqError, match="no rows"):
        measurements(path)
