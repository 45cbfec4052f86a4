"""Tables against results whose rows can be worked out by hand."""

import csv
import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import report_tree
from hypothesis import given, settings
from hypothesis import strategies as st

from dbq.errors import DbqError
from dbq.report import tables

LITERATURE = Path(__file__).parents[2] / tables.LITERATURE
TOP1 = {"resnet20-cifar10": [91.73], "resnet20-cifar10-dbq-2t": [90.0, 91.0, 92.5], "mobilenet_v1-vww-dbq-1t": [85.0]}
NOT_RUN = "mobilenet_v1-vww-dbq-3t"


@pytest.fixture
def tree():
    return report_tree.params()


@pytest.fixture
def written(tmp_path, tree):
    tables.write_tables(tree, report_tree.runs(tmp_path, tree, TOP1), tmp_path / "tables", LITERATURE)
    return tmp_path / "tables"


def rows_of(path):
    with open(path, newline="") as file:
        return {row["key"]: row for row in csv.DictReader(file)}


def test_accuracy_has_the_declared_rows_and_columns_in_order(written, tree):
    with open(written / "accuracy.csv", newline="") as file:
        header, *rows = csv.reader(file)
    wanted = (
        "key network dataset method branches weight_bits activation_bits epochs n top1_mean top1_std zero_rate device data_source label"
    )
    assert header[:15] == wanted.split()
    assert [row[0] for row in rows] == [*tree["pretrain"], *tree["experiments"]]


def test_mean_sample_deviation_and_distance_to_float(written):
    row = rows_of(written / "accuracy.csv")["resnet20-cifar10-dbq-2t"]
    assert (row["n"], row["branches"], row["weight_bits"]) == ("3", "2", "4")
    assert float(row["top1_mean"]) == pytest.approx(273.5 / 3, abs=5e-5)
    assert float(row["top1_std"]) == pytest.approx(np.std([90.0, 91.0, 92.5], ddof=1), abs=5e-5)
    assert float(row["delta_to_float"]) == pytest.approx(273.5 / 3 - 91.73, abs=1e-4)
    assert float(row["val_top1_mean"]) == pytest.approx(273.5 / 3 - 1, abs=5e-5)


def test_one_seed_has_no_deviation_rather_than_zero(written):
    assert rows_of(written / "accuracy.csv")["mobilenet_v1-vww-dbq-1t"]["top1_std"] == ""
    (line,) = [line for line in (written / "accuracy.md").read_text().splitlines() if line.startswith("| mobilenet_v1-vww-dbq-1t |")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[8:11] == ["1", "85.00", "-"]


def test_what_was_not_run_has_no_numbers_and_says_why(written):
    for name in ("accuracy", "cost"):
        row = rows_of(written / f"{name}.csv")[NOT_RUN]
        assert row["label"] == "not run: its profiles are paper" and row["method"] == "dbq"
        assert not any(row[column] for column in ("branches", "weight_bits", "activation_bits"))
    row = rows_of(written / "accuracy.csv")[NOT_RUN]
    assert row["n"] == "0" and not any(row[column] for column in ("top1_mean", "top1_std", "zero_rate", "val_top1_mean", "delta_to_float"))


def test_the_cost_is_the_main_reading_and_the_readings_stand_side_by_side(written, tmp_path):
    layers = pd.read_csv(tmp_path / "metrics/engine/resnet20-cifar10-dbq-2t/layers.csv")
    row = rows_of(written / "cost.csv")["resnet20-cifar10-dbq-2t"]
    side = pd.read_csv(written / "cost_readings.csv")
    side = side[side.key == "resnet20-cifar10-dbq-2t"].set_index("metric")
    for metric in ("c_c", "c_s", "c_r", "c_m"):
        assert int(row[metric]) == layers[metric].sum()
        assert [int(side.loc[metric, name]) - int(row[metric]) for name in side.columns[2:6]] == [0, 1, 2, 3]
    assert list(side.columns[2:6]) == ["adder_only", "adder_only + bias", "two_bit_multiplier", "two_bit_multiplier + bias"]
    assert row["reading"] == "adder_only" and row["count_bias"] == "False"


def test_per_layer_costs_add_up_to_the_cost(written):
    summed = pd.read_csv(written / "per_layer_cost.csv").groupby("key")[["c_c", "c_s", "c_r", "c_m"]].sum()
    for key, row in rows_of(written / "cost.csv").items():
        if key != NOT_RUN:
            assert [int(row[name]) for name in summed] == list(summed.loc[key])
    assert NOT_RUN not in summed.index


def test_literature_is_a_copy_that_no_table_of_ours_holds(written):
    ours = "".join((written / f"{name}.csv").read_text() for name in ("accuracy", "cost", "cost_readings", "per_layer_cost"))
    assert "SIBLING" not in ours
    with open(LITERATURE, newline="") as source, open(written / "literature.csv", newline="") as copy:
        assert list(csv.reader(source)) == list(csv.reader(copy))


@pytest.mark.parametrize("row", ["ResNet-20,92.0,MEASURED,here", "ResNet-20,92.0,PAPER,"])
def test_a_published_number_needs_a_label_and_a_source(tmp_path, row):
    path = tmp_path / "literature.csv"
    path.write_text(f"network,top1_percent,label,source\n{row}\n")
    with pytest.raises(DbqError, match=r"literature\.csv: line 2"):
        tables.published(path)


def test_equal_results_give_equal_bytes(tmp_path, tree, written):
    tables.write_tables(tree, tmp_path / "metrics", tmp_path / "again", LITERATURE)
    files = sorted(path.name for path in written.iterdir())
    assert len(files) == 15
    assert all((written / name).read_bytes() == (tmp_path / "again" / name).read_bytes() for name in files)


def test_tables_follow_the_declared_keys_and_not_the_folders(tmp_path, tree):
    metrics = report_tree.runs(tmp_path, tree)
    del tree["experiments"]["resnet20-cifar10-uniform-8"]
    assert "resnet20-cifar10-uniform-8" not in set(tables.accuracy(tree, metrics).key)
    shutil.rmtree(metrics / "quantize" / "resnet20-cifar10-dbq-2t")
    with pytest.raises(DbqError, match="dvc repro quantize@resnet20-cifar10-dbq-2t"):
        tables.accuracy(tree, metrics)


def test_no_float_network_no_distance_to_it(tmp_path, tree):
    metrics = report_tree.runs(tmp_path, tree)
    for path in (metrics / "pretrain").glob("*/metrics.json"):
        path.write_text('{"status": "not run", "reason": "none"}')
    frame = tables.accuracy(tree, metrics)
    assert frame.delta_to_float.isna().all() and (frame.n > 0).sum() == 3


def test_an_undefined_cost_stays_empty(tmp_path, tree):
    metrics = report_tree.runs(tmp_path, tree)
    path = metrics / "engine/resnet20-cifar10-uniform-8/cost.json"
    lines = path.read_text().splitlines()
    first = next(index for index, line in enumerate(lines) if '"c_c"' in line)
    lines[first] = '   "c_c": null,'
    path.write_text("\n".join(lines))
    frame = tables.cost(tree, metrics).set_index("key")
    assert frame.loc["resnet20-cifar10-uniform-8"].c_c is pd.NA and frame.loc["resnet20-cifar10-dbq-2t"].c_c > 0
    assert "| - |" in tables.to_markdown(frame)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(
        st.tuples(
            st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1).filter(lambda text: text != "-"),
            st.integers(-(10**12), 10**12) | st.none(),
            st.floats(-1e6, 1e6) | st.none(),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_markdown_can_be_read_back(rows):
    frame = pd.DataFrame(rows, columns=["name", "count", "share"]).astype({"name": object, "count": "Int64", "share": float})
    lines = tables.to_markdown(frame).split("\n")[:-1]
    assert lines[1] == "| --- | ---: | ---: |" and len(lines) == len(rows) + 2
    for line, (name, count, share) in zip(lines[2:], rows, strict=True):
        cells = line.replace("\\|", "\0")[2:-2].split(" | ")
        assert cells[0].replace("\0", "|") == name
        assert cells[1] == "-" if count is None else int(cells[1].replace(",", "")) == count
        assert cells[2] == "-" if share is None else math.isclose(float(cells[2]), share, abs_tol=0.00501)


def test_ablations_keep_what_was_not_run_and_say_what_is_wrong(tmp_path, tree):
    from dbq.report import ablation_report

    metrics = report_tree.runs(tmp_path, tree)
    table = ablation_report.table(metrics)
    assert list(table.n) == [1, 2, 0]
    assert table.val_top1_mean.tolist()[:2] == [90.0, 91.5]
    assert table.val_top1_std.tolist()[1] == pytest.approx(0.5**0.5)  # of 91 and 92, with n - 1
    assert table.val_top1_std.isna().tolist() == [True, False, True]
    assert table.zero_rate.tolist()[1] == pytest.approx(0.45)
    assert table.label.iloc[2].startswith("not run")
    assert table.delta_to_base.isna().tolist() == [False, False, True]
    (metrics / "ablations" / "metrics.json").write_text("{}")
    with pytest.raises(DbqError, match=r"ablations.metrics\.json: no rows -> run `dvc repro --force ablations`"):
        ablation_report.table(metrics)


def test_the_cost_table_says_what_the_integer_engine_gave(written):
    frame = pd.read_csv(written / "cost.csv").set_index("key")
    row = frame.loc["resnet20-cifar10-dbq-2t"]
    assert (row.engine_top1, row.engine_images, row.engine_disagreeing, row.engine_unexplained) == (90.0, 397, 0, 0)


def test_a_recorded_row_says_so(tmp_path):
    tree = report_tree.params()
    metrics = report_tree.runs(tmp_path, tree)
    tree["experiments"]["resnet20-cifar10-uniform-8"]["seeds"] = {"smoke": {"recorded": "0123456789abcdef"}}
    labels = tables.accuracy(tree, metrics).set_index("key").label
    assert labels["resnet20-cifar10-uniform-8"].endswith("; recorded")
    assert "recorded" not in labels["resnet20-cifar10-dbq-2t"]
