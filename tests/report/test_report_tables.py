"""Tables against results whose lines can be worked out by hand."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import report_tree
from report_tree import DBQ, NOT_RUN, REASON

from dbq.errors import DbqError
from dbq.report import tables
from dbq.report.results import Results

LITERATURE = Path(__file__).parents[2] / tables.LITERATURE
TOP1 = {"resnet20-cifar10": [91.73], DBQ: [90.0, 91.0, 92.5], "mobilenet_v1-vww-dbq-1t": [85.0], "2t": [90.0], "2t-temp-6": [91.0, 92.0]}


@pytest.fixture
def plan():
    return report_tree.plan()


@pytest.fixture
def written(tmp_path, plan):
    tables.write_tables(plan, report_tree.runs(tmp_path / "runs", plan, TOP1), tmp_path / "tables", LITERATURE)
    return tmp_path / "tables"


def rows_of(path):
    with open(path, newline="") as file:
        return {row["key"]: row for row in csv.DictReader(file)}


def test_accuracy_has_the_starts_and_the_rows_judged_on_test_in_the_declared_order(written, plan):
    rows = rows_of(written / "accuracy.csv")
    assert list(rows) == [*plan.starts, *(key for key in plan.rows if not key.startswith("2t"))]
    row = rows[DBQ]
    assert (row["method"], row["n"], row["branches"], row["weight_bits"], row["epochs"]) == ("dbq", "3", "2", "4", "4")
    assert float(row["top1_mean"]) == pytest.approx(273.5 / 3, abs=5e-5)
    assert float(row["top1_std"]) == pytest.approx(np.std([90.0, 91.0, 92.5], ddof=1), abs=5e-5)
    assert float(row["delta_to_float"]) == pytest.approx(273.5 / 3 - 91.73, abs=1e-4)
    assert float(row["val_top1_mean"]) == pytest.approx(273.5 / 3 - 1, abs=5e-5)
    assert (row["device"], row["label"]) == ("cpu (1 thread)", "SMOKE: not evidence")
    assert rows["mobilenet_v1-vww-dbq-1t"]["n"] == "1" and rows["mobilenet_v1-vww-dbq-1t"]["top1_std"] == ""  # rather than 0
    assert rows["held-out"]["method"] == "float" and rows["held-out"]["delta_to_float"] == ""


def test_what_was_not_run_has_no_numbers_and_says_why(written):
    for name in ("accuracy", "cost"):
        row = rows_of(written / f"{name}.csv")[NOT_RUN]
        assert row.pop("label") == f"not run: {REASON}" and row["branches"] == "3"
        assert row.pop("n", "0") == "0"
        assert not any(value for column, value in row.items() if column not in tables.ROW_COLUMNS)


def test_ablations_say_what_they_change_and_what_that_does(written):
    rows = rows_of(written / "ablations.csv")
    assert list(rows) == ["2t", "2t-temp-6"]
    assert (rows["2t"]["base"], rows["2t"]["change"], rows["2t"]["start"]) == ("2t", "as declared", "held-out")
    row = rows["2t-temp-6"]
    assert (row["base"], row["change"]) == ("2t", "temperature: 12.0 → 6.0; learning rate: 0.02 → 0.05")
    assert (row["n"], float(row["val_top1_mean"]), float(row["delta_to_base"])) == ("2", 90.5, 1.5)
    assert float(row["val_top1_std"]) == pytest.approx(0.5**0.5, abs=5e-5)  # of 90 and 91, with n - 1
    assert float(row["soft_hard_gap"]) == 0.1


def test_the_cost_is_the_main_reading_and_the_readings_stand_side_by_side(written, tmp_path):
    layers = pd.read_csv(tmp_path / "runs/engine" / DBQ / "layers.csv")
    row = rows_of(written / "cost.csv")[DBQ]
    side = pd.read_csv(written / "cost_readings.csv")
    readings = ["adder_only", "adder_only + bias", "two_bit_multiplier", "signed_digits"]
    assert list(side.columns) == ["key", "metric", "unit", *readings, "label"]
    for metric in ("c_c", "c_s", "c_r", "c_m"):
        assert int(row[metric]) == layers[metric].sum()
        (line,) = side[(side.key == DBQ) & (side.metric == metric)].itertuples(index=False)
        assert [int(value) - int(row[metric]) for value in line[3:7]] == [0, 1, 2, 3]
    assert [int(row[f"{metric}_signed_digits"]) - int(row[metric]) for metric in ("c_c", "c_s")] == [3, 3]
    assert (row["reading"], row["count_bias"], row["macs"]) == ("adder_only", "False", "40000000")
    assert (row["engine_top1"], row["engine_images"], row["engine_disagreeing"], row["smallest_multiplier_bits"]) == (
        "90.0000", "397", "1", "8",
    )  # fmt: skip
    summed = pd.read_csv(written / "per_layer_cost.csv").groupby("key")[["c_c", "c_s", "c_r", "c_m"]].sum()
    costs = {key: row for key, row in rows_of(written / "cost.csv").items() if key != NOT_RUN}
    assert set(summed.index) == set(costs)
    assert all([int(row[name]) for name in summed] == list(summed.loc[key]) for key, row in costs.items())


def test_provenance_has_a_line_for_each_seed(written, tmp_path):
    with open(written / "provenance.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    files = [*(tmp_path / "runs").glob("pretrain/*/metrics.json"), *(tmp_path / "runs").glob("quantize/*/metrics.json")]
    wanted = [
        (value["key"], str(seed["seed"]), seed["commit"], seed["identity"]["code"], seed["identity"]["start"] or "")
        for value in (json.loads(path.read_text()) for path in files)
        for seed in value["seeds"]
    ]
    assert sorted(wanted) == sorted((line["key"], line["seed"], line["commit"], line["code"], line["start"]) for line in lines)
    assert len(lines) == 11 and NOT_RUN not in {line["key"] for line in lines}


def test_literature_is_a_copy_that_no_table_of_ours_holds(written):
    assert not any("SIBLING" in path.read_text() for path in written.iterdir() if path.stem != "literature")
    with open(LITERATURE, newline="") as source, open(written / "literature.csv", newline="") as copy:
        lines = list(csv.DictReader(source))
        assert lines == list(csv.DictReader(copy))
    assert lines and all(line["label"] in ("PAPER", "SIBLING") and line["source"] for line in lines)


def test_equal_results_give_equal_bytes(tmp_path, plan, written):
    tables.write_tables(plan, tmp_path / "runs", tmp_path / "again", LITERATURE)
    files = sorted(path.name for path in written.iterdir())
    assert len(files) == 16
    assert all((written / name).read_bytes() == (tmp_path / "again" / name).read_bytes() for name in files)


def test_tables_follow_the_plan_and_not_the_folders(tmp_path, plan):
    results = Results(plan, report_tree.runs(tmp_path, plan))
    (tmp_path / "quantize" / "undeclared").mkdir()
    assert "undeclared" not in set(tables.accuracy(results).key)
    shutil.rmtree(tmp_path / "quantize" / DBQ)
    with pytest.raises(DbqError, match=f"dvc repro quantize@{DBQ}"):
        tables.accuracy(results)


def test_no_float_network_no_distance_to_it(tmp_path, plan):
    results = Results(plan, report_tree.runs(tmp_path, plan))
    for path in tmp_path.glob("pretrain/*/metrics.json"):
        path.write_text('{"status": "not run", "reason": "none"}')
    frame = tables.accuracy(results)
    assert frame.delta_to_float.isna().all() and (frame.n > 0).sum() == 3


def test_an_undefined_cost_stays_empty(tmp_path, plan):
    results = Results(plan, report_tree.runs(tmp_path, plan))
    path = tmp_path / "engine" / DBQ / "cost.json"
    value = json.loads(path.read_text())
    value["readings"][0]["c_c"] = None
    path.write_text(json.dumps(value))
    frame = tables.cost(results)
    assert frame.set_index("key").loc[DBQ].c_c is pd.NA and "| - |" in tables.to_markdown(frame)


def test_markdown_says_what_there_is_and_escapes_its_own_signs():
    frame = pd.DataFrame({"name": ["a|b", "c\nd"], "count": pd.array([1234567, None], "Int64"), "share": [0.126, None]})
    assert tables.to_markdown(frame) == ("| name | count | share |\n| --- | ---: | ---: |\n| a\\|b | 1,234,567 | 0.13 |\n| c d | - | - |\n")
