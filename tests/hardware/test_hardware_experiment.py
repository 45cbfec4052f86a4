"""The command that measures dot products of a trained network, on a small network; and its committed file, counted again by hand."""

import csv
import dataclasses
import math
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from dbq.datasets import arrays
from dbq.errors import DbqError
from dbq.files import write_csv
from dbq.hardware import __main__ as command
from dbq.hardware import experiment as trained
from dbq.hardware import read_trained
from dbq.hardware.synthesis import Synthesised
from dbq.hardware.table import TRAINED_COLUMNS
from dbq.report import engine_figures
from dbq.settings import networks, policies
from dbq.settings import resolve as config
from dbq.training import checkpoints

TABLE = Path(__file__).parents[2] / "data/reference/hardware-trained.csv"
KEY = "resnet20-cifar10-dbq-2t"
needs_tools = pytest.mark.skipif(
    any(shutil.which(name) is None for name in ("iverilog", "vvp", "yosys")), reason="Icarus Verilog or Yosys is not installed"
)


# ---- the committed file ----


@pytest.fixture(scope="module")
def rows():
    return read_trained(TABLE)[0]


def test_every_simulated_dot_product_is_the_integer_engines(rows):
    assert all(row["mismatches"] == 0 for row in rows)
    assert all(row["simulated_dot_products"] >= (10_000 if row["kind"] == "port" else 1_000) for row in rows)


def test_both_networks_and_every_length_are_there(rows):
    for key, branches in (("resnet20-cifar10-dbq-1t", 1), (KEY, 2)):
        own = [row for row in rows if row["experiment"] == key]
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


def test_the_formula_never_promises_less_than_synthesis_needs(rows):
    for row in rows:
        assert row["ratio"] == pytest.approx(row["synthesised_full_adders"] / row["counted_adder_only"], abs=1e-4)
        assert row["ratio_tree"] == pytest.approx(row["synthesised_full_adders"] / row["counted_tree"], abs=1e-4)
        assert row["synthesised_full_adders"] <= row["counted_adder_only"]


def test_the_figure_shows_every_row_counted_and_synthesised(rows):
    axes = engine_figures.hardware_trained_plot(pd.DataFrame(rows)).axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == [f"{row['experiment']}, {row['layer']}, D {row['length']}" for row in rows]
    drawn = sorted(x for line in axes.lines if len(line.get_xdata()) for x in line.get_xdata())
    assert drawn == sorted(row[name] for row in rows for name in ("counted_adder_only", "synthesised_full_adders"))


def test_a_damaged_file_is_an_error(tmp_path, rows):
    with pytest.raises(DbqError, match=r"hardware-trained.csv: no such file.*dbq.hardware trained"):
        read_trained(tmp_path)
    path = tmp_path / "hardware-trained.csv"
    for column in ("mismatches", "ratio", "seed"):
        write_csv(path, [{**rows[0], column: "?"}], TRAINED_COLUMNS)
        with pytest.raises(DbqError, match="a number is damaged"):
            read_trained(path)
    write_csv(path, [], TRAINED_COLUMNS)
    with pytest.raises(DbqError, match="no rows"):
        read_trained(path)
    path.write_text((TABLE.parent / "hardware.csv").read_text())
    with pytest.raises(DbqError, match="columns"):
        read_trained(path)


# ---- the command ----


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A quantized ResNet-20 with random weights, saved as a training saves it."""
    experiment = config.experiment(config.read("params.yaml"), "smoke", KEY)
    torch.manual_seed(0)
    network = networks.build(experiment.network, 10, "32x32")
    policies.quantize(network, experiment, torch.randn(8, 3, 32, 32))
    path = tmp_path_factory.mktemp("model") / "model.pt"
    states = {str(experiment.seeds[0]): network.state_dict()}
    checkpoints.save(path, {"network": experiment.network, "image_size": 32, "states": states})
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A prepared data set of 10 validation images of random pixels."""
    random = np.random.default_rng(0)
    labels = np.arange(40) % 10
    images = random.integers(0, 256, (40, 3, 32, 32), np.uint8)
    names = [str(label) for label in range(10)]
    source = arrays.Source("random pixels", "generated", "none", "none", names, images, labels, images, labels, "none")
    folder = tmp_path_factory.mktemp("data") / "cifar10"
    smoke = config.dataset(config.read("params.yaml"), "smoke", "cifar10")
    arrays.write(source, "cifar10", "smoke", dataclasses.replace(smoke, validation=10), folder)
    return folder


@pytest.fixture
def quick(monkeypatch):
    """A fixed result in the place of synthesis, which has tests of its own and takes a minute here."""
    monkeypatch.setattr(trained, "synthesise", lambda design: Synthesised(1, 1, 0, 0, 1))


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["hardware", "trained", KEY, "--profile", "smoke", *map(str, arguments)])
    command.main()


@needs_tools
def test_rows_of_other_experiments_stay_and_own_ones_are_replaced(monkeypatch, quick, tmp_path, model, data, rows):
    path = tmp_path / "out.csv"
    other = {**rows[0], "experiment": "another"}
    write_csv(path, [other, {**rows[0], "experiment": KEY}], TRAINED_COLUMNS)
    layer = "layer1.0.conv1"
    run(monkeypatch, "--model", model, "--data", data, "--layers", layer, "--vectors", 30, "--images", 5, "--out", path)
    found = read_trained(path)[0]
    assert found[0] == other and len(found) == 1 + len(trained.ENGINES)
    for row, (kind, structure) in zip(found[1:], trained.ENGINES, strict=True):
        assert (row["experiment"], row["layer"], row["kind"], row["structure"], row["length"]) == (KEY, layer, kind, structure, 144)
        assert (row["mismatches"], row["simulated_dot_products"]) == (0, 30 if kind == "port" else 3)
        assert "(stand-in)" in row["data_source"] and "5 validation images" in row["data_source"]
        assert (row["channel"] == "all") == (kind == "port")


@needs_tools
def test_a_difference_from_the_integer_engine_is_a_mismatch_and_an_error(monkeypatch, quick, tmp_path, model, data):
    def shifted(*arguments, **settings):
        vectors = original(*arguments, **settings)
        outputs = vectors.outputs.copy()
        outputs[0] += 1
        return vectors._replace(outputs=outputs)

    original = trained.layer_vectors
    monkeypatch.setattr(trained, "layer_vectors", shifted)
    path = tmp_path / "out.csv"
    with pytest.raises(DbqError, match="3 simulated dot products differ"):
        run(monkeypatch, "--model", model, "--data", data, "--layers", "layer1.0.conv1", "--vectors", 30, "--images", 5, "--out", path)
    with path.open() as file:
        assert [row["mismatches"] for row in csv.DictReader(file)] == ["1", "1", "1"]


@needs_tools
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--layers", "conv1"), "layer conv1: no dot products of ternary planes"),
        (("--layers", "absent"), "layer absent.*choose one of layer1.0.conv1"),
        (("--images", "999999"), "--images: 999999"),
        (("--vectors", "0"), "--vectors: 0 is out of range"),
        (("--model", "absent.pt"), "absent.pt: no such file"),
        (("--data", "absent"), "absent/manifest.json: no such file"),
    ],
)
def test_what_is_wrong_is_named(monkeypatch, tmp_path, model, data, arguments, message):
    out = tmp_path / "out.csv"
    with pytest.raises(DbqError, match=message):
        run(monkeypatch, "--model", model, "--data", data, "--images", 10, "--out", out, *arguments)
    assert not out.exists()


def test_a_missing_tool_is_named_first(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DbqError, match=r"iverilog is not installed.*apt-get install iverilog"):
        run(monkeypatch, "--model", "absent.pt", "--data", "absent", "--out", tmp_path / "out.csv")
