"""Tables against results whose lines can be worked out by hand."""

import csv
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import report_tree
from report_tree import DBQ, NOT_RUN, REASON

from dbq.errors import DbqError
from dbq.report import tables
from dbq.report.results import Results

LITERATURE = Path(__file__).parents[2] / tables.LITERATURE
PLAN = report_tree.plan()
TOP1 = {"resnet20-cifar10": [91.73], DBQ: [90.0, 91.0, 92.5], "mobilenet_v1-vww-dbq-1t": [85.0], "2t": [90.0], "2t-temp-6": [91.0, 92.0]}


@pytest.fixture
def written(tmp_path):
    tables.write_tables(PLAN, report_tree.runs(tmp_path / "runs", PLAN, TOP1), tmp_path / "tables", LITERATURE)
    return tmp_path / "tables"


def rows_of(path):
    with open(path, newline="") as file:
        return {row["key"]: row for row in csv.DictReader(file)}


def test_accuracy_has_the_starts_and_the_rows_judged_on_test_in_the_declared_order(written):
    rows = rows_of(written / "accuracy.csv")
    assert list(rows) == [*PLAN.starts, *(key for key in PLAN.rows if not key.startswith("2t"))]
    wanted = {"method": "dbq", "n": "3", "branches": "2", "weight_bits": "4", "epochs": "4", "device": "cpu (1 thread)"}
    # 273.5 / 3, the root of 19/12, 273.5 / 3 - 91.73 and 273.5 / 3 - 1
    wanted |= {"top1_mean": "91.1667", "top1_std": "1.2583", "delta_to_float": "-0.5633", "val_top1_mean": "90.1667", "zero_rate": "0.2000"}
    assert wanted.items() <= rows[DBQ].items() and rows[DBQ]["label"] == "SMOKE: not evidence"
    assert rows["mobilenet_v1-vww-dbq-1t"]["n"] == "1" and rows["mobilenet_v1-vww-dbq-1t"]["top1_std"] == ""  # rather than 0
    assert rows["held-out"]["method"] == "float" and rows["held-out"]["delta_to_float"] == ""
    for row in (rows[NOT_RUN], rows_of(written / "cost.csv")[NOT_RUN]):
        assert row.pop("label") == f"not run: {REASON}" and row["branches"] == "3" and row.pop("n", "0") == "0"
        assert not any(value for column, value in row.items() if column not in tables.ROW_COLUMNS)


def test_ablations_say_what_they_change_and_what_that_does(written):
    rows = rows_of(written / "ablations.csv")
    assert list(rows) == ["2t", "2t-temp-6"]
    assert {"base": "2t", "change": "as declared", "start": "held-out"}.items() <= rows["2t"].items()
    wanted = {"base": "2t", "change": "temperature: 12.0 → 6.0; learning rate: 0.02 → 0.05", "n": "2", "val_top1_mean": "90.5000"}
    wanted |= {"delta_to_base": "1.5000", "val_top1_std": "0.7071", "soft_hard_gap": "0.1000"}  # the deviation of 90 and 91, with n - 1
    assert wanted.items() <= rows["2t-temp-6"].items()


def test_the_cost_is_the_main_reading_and_the_readings_stand_side_by_side(written, tmp_path):
    layers = pd.read_csv(tmp_path / "runs/engine" / DBQ / "layers.csv")
    row, side = rows_of(written / "cost.csv")[DBQ], pd.read_csv(written / "cost_readings.csv")
    readings = ["adder_only", "adder_only + bias", "two_bit_multiplier", "signed_digits"]
    assert list(side.columns) == ["key", "metric", "unit", *readings, "label"]
    for metric in ("c_c", "c_s", "c_r", "c_m"):
        assert int(row[metric]) == layers[metric].sum()
        (line,) = side[(side.key == DBQ) & (side.metric == metric)].itertuples(index=False)
        assert [int(value) - int(row[metric]) for value in line[3:7]] == [0, 1, 2, 3]
    assert [int(row[f"{metric}_signed_digits"]) - int(row[metric]) for metric in ("c_c", "c_s")] == [3, 3]
    wanted = {"reading": "adder_only", "count_bias": "False", "macs": "40000000", "engine_top1": "90.0000", "engine_images": "397"}
    assert (wanted | {"engine_disagreeing": "1", "smallest_multiplier_bits": "8"}).items() <= row.items()
    summed = pd.read_csv(written / "per_layer_cost.csv").groupby("key")[["c_c", "c_s", "c_r", "c_m"]].sum()
    costs = {key: row for key, row in rows_of(written / "cost.csv").items() if key != NOT_RUN}
    assert set(summed.index) == set(costs)
    assert all([int(row[name]) for name in summed] == list(summed.loc[key]) for key, row in costs.items())


def test_provenance_has_a_line_for_each_seed(written, tmp_path):
    with open(written / "provenance.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    files = [*tmp_path.glob("runs/pretrain/*/metrics.json"), *tmp_path.glob("runs/quantize/*/metrics.json")]
    values = [json.loads(path.read_text()) for path in files]
    seeds = [(value["key"], seed, seed["identity"]) for value in values for seed in value["seeds"]]
    wanted = [(key, str(seed["seed"]), seed["commit"], made["code"], made["start"] or "") for key, seed, made in seeds]
    assert sorted(wanted) == sorted((line["key"], line["seed"], line["commit"], line["code"], line["start"]) for line in lines)
    assert len(lines) == 11


def test_literature_is_a_copy_that_no_table_of_ours_holds_and_equal_results_give_equal_bytes(written, tmp_path):
    assert not any("SIBLING" in path.read_text() for path in written.iterdir() if path.stem != "literature")
    assert (written / "literature.csv").read_text() == LITERATURE.read_text()
    tables.write_tables(PLAN, tmp_path / "runs", tmp_path / "again", LITERATURE)
    files = sorted(path.name for path in written.iterdir())
    assert len(files) == 16
    assert all((written / name).read_bytes() == (tmp_path / "again" / name).read_bytes() for name in files)


def test_tables_follow_the_plan_and_not_the_folders(tmp_path):
    results = Results(PLAN, report_tree.runs(tmp_path, PLAN))
    (tmp_path / "quantize" / "undeclared").mkdir()
    for path in tmp_path.glob("pretrain/*/metrics.json"):
        path.write_text('{"status": "not run", "reason": "none"}')
    frame = tables.accuracy(results)
    assert "undeclared" not in set(frame.key) and frame.delta_to_float.isna().all() and (frame.n > 0).sum() == 3
    path = tmp_path / "engine" / DBQ / "cost.json"
    value = json.loads(path.read_text())
    value["readings"][0]["c_c"] = None  # a cost that the reading doesn't define
    path.write_text(json.dumps(value))
    frame = tables.cost(results)
    assert frame.set_index("key").loc[DBQ].c_c is pd.NA and "| - |" in tables.to_markdown(frame)
    shutil.rmtree(tmp_path / "quantize" / DBQ)
    with pytest.raises(DbqError, match=f"dvc repro quantize@{DBQ}"):
        tables.accuracy(results)


def test_markdown_says_what_there_is_and_escapes_its_own_signs():
    frame = pd.DataFrame({"name": ["a|b", "c\nd"], "count": pd.array([1234567, None], "Int64"), "share": [0.126, None]})
    assert tables.to_markdown(frame) == ("| name | count | share |\n| --- | ---: | ---: |\n| a\\|b | 1,234,567 | 0.13 |\n| c d | - | - |\n")
