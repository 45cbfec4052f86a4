"""Measurements of a small quantized network's dot products; and the committed file of trained ones, counted again by hand."""

import math
import shutil
from pathlib import Path

import pandas as pd
import pytest
from tests.integer import quantized_networks as make

from dbq.errors import DbqError
from dbq.files import write_csv
from dbq.hardware import demand_no_mismatch, measure_trained, read_trained, trained, write_trained
from dbq.hardware.synthesis import Synthesised
from dbq.hardware.table import TRAINED_COLUMNS
from dbq.integer.compile import Widths, compile_network
from dbq.report import engine_figures

TABLE = Path(__file__).parents[2] / "data/reference/hardware-trained.csv"
needs_tools = pytest.mark.skipif(
    any(shutil.which(name) is None for name in ("iverilog", "vvp", "yosys")), reason="Icarus Verilog or Yosys is not installed"
)


# ---- the committed file ----


@pytest.fixture(scope="module")
def rows():
    return read_trained(TABLE)[0]


def test_every_simulated_dot_product_is_the_programs_and_no_synthesis_exceeds_the_formula(rows):
    assert all(row["mismatches"] == 0 and row["synthesised_full_adders"] <= row["counted_adder_only"] for row in rows)
    assert all(row["simulated_dot_products"] >= (10_000 if row["kind"] == "port" else 1_000) for row in rows)


def test_both_networks_and_every_length_are_there(rows):
    for key, branches in (("resnet20-cifar10-dbq-1t", 1), ("resnet20-cifar10-dbq-2t", 2)):
        own = [row for row in rows if row["row"] == key]
        assert {row["length"] for row in own} == {144, 288, 576} and {row["branches"] for row in own} == {branches}
        assert len({row["weights"] for row in own}) == 1
        for length in (144, 288, 576):
            engines = [(row["kind"], row["structure"]) for row in own if row["length"] == length]
            assert engines == list(trained.ENGINES)


def test_a_weight_port_is_counted_by_the_formula(rows):
    """(D - 1) additions of Bx + ceil(log2 D) bits a branch; scales of Bscale times Bx + 1 + ceil(log2 D); sums of branches."""
    for row in rows:
        if row["kind"] != "port":
            continue
        length, bits, branches = row["length"], row["activation_bits"], row["branches"]
        growth = math.ceil(math.log2(length))
        scale = branches * row["scale_bits"] * (bits + 1 + growth) + (branches - 1) * (bits + 1 + growth + row["scale_bits"])
        assert row["counted_scale"] == scale
        assert row["counted_adder_only"] == branches * (length - 1) * (bits + growth) + scale
        assert row["nonzeros"] == branches * length
        assert row["ratio_sums"] == 1, "the ternary sums of a chain are the counted ones"


def test_constants_of_one_branch_are_counted_by_their_nonzeros(rows):
    """One plane of n non-zeros costs what a dot product of length n does."""
    single = [row for row in rows if row["kind"] == "constant" and row["branches"] == 1]
    assert single
    for row in single:
        nonzeros, bits = row["nonzeros"], row["activation_bits"]
        growth = math.ceil(math.log2(nonzeros))
        assert nonzeros == round((1 - row["zero_rate"]) * row["length"])
        assert row["counted_scale"] == row["scale_bits"] * (bits + 1 + growth)
        assert row["counted_adder_only"] == (nonzeros - 1) * (bits + growth) + row["counted_scale"]


def test_the_figure_shows_every_row_counted_and_synthesised(rows):
    axes = engine_figures.hardware_trained_plot(pd.DataFrame(rows)).axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == [f"{row['row']}, {row['layer']}, D {row['length']}" for row in rows]
    drawn = sorted(x for line in axes.lines if len(line.get_xdata()) for x in line.get_xdata())
    assert drawn == sorted(row[name] for row in rows for name in ("counted_adder_only", "synthesised_full_adders"))


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(DbqError, match=r"hardware-trained.csv: no such file.*dbq synthesise --row"):
        read_trained(tmp_path / "hardware-trained.csv")


# ---- measuring ----

ABOUT = {"row": "tiny", "seed": 0, "weights": "0123", "data_source": "random pixels"}


@pytest.fixture(scope="module")
def program():
    return compile_network(make.tiny(), (3, 8, 8), Widths(8)).program


@pytest.fixture
def quick(monkeypatch):
    """A fixed result in the place of synthesis, which has tests of its own."""
    monkeypatch.setattr(trained, "synthesise", lambda design: Synthesised(1, 1, 0, 0, 1))


@needs_tools
def test_lines_of_other_networks_stay_and_own_ones_are_replaced(quick, tmp_path, program, rows):
    path = tmp_path / "out.csv"
    other = {**rows[0], "row": "another"}
    write_csv(path, [other, {**rows[0], "row": "tiny"}], TRAINED_COLUMNS)
    measured = measure_trained(program, make.images(5), ABOUT, ["conv2"], count=30)
    demand_no_mismatch(measured, path)
    write_trained(path, measured)
    found = read_trained(path)[0]
    assert found[0] == other and len(found) == 1 + len(trained.ENGINES)
    for row, (kind, structure) in zip(found[1:], trained.ENGINES, strict=True):
        assert (row["row"], row["layer"], row["kind"], row["structure"], row["length"]) == ("tiny", "conv2", kind, structure, 4)
        assert (row["mismatches"], row["simulated_dot_products"]) == (0, 30 if kind == "port" else 3)
        assert (row["channel"] == "all") == (kind == "port")


@needs_tools
def test_a_difference_from_the_program_is_a_mismatch_and_an_error(monkeypatch, quick, program):
    def shifted(*arguments, **settings):
        vectors = original(*arguments, **settings)
        outputs = vectors.outputs.copy()
        outputs[0] += 1
        return vectors._replace(outputs=outputs)

    original = trained.layer_vectors
    monkeypatch.setattr(trained, "layer_vectors", shifted)
    measured = measure_trained(program, make.images(5), ABOUT, ["conv2"], count=30)
    assert [row["mismatches"] for row in measured] == [1, 1, 1]
    with pytest.raises(DbqError, match=r"out.csv: 3 simulated dot products differ"):
        demand_no_mismatch(measured, "out.csv")


@needs_tools
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": ["absent"]}, "layer absent.*choose one of conv2"),
        ({"count": 0}, "count: 0 is out of range"),
        ({"jobs": 0}, "jobs: 0 is out of range"),
    ],
)
def test_what_is_wrong_is_named(program, settings, message):
    with pytest.raises(DbqError, match=message):
        measure_trained(program, make.images(5), ABOUT, **settings)


def test_a_missing_tool_is_named_first(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DbqError, match=r"iverilog is not installed.*apt-get install iverilog"):
        measure_trained(None, None, ABOUT)
