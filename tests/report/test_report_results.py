"""Result files: what is accepted, and what each fault is called."""

import json

import pytest
import report_tree

from dbq.errors import DbqError
from dbq.report import results

KEY = "resnet20-cifar10-dbq-2t"


@pytest.fixture
def tree():
    return report_tree.params()


@pytest.fixture
def metrics(tmp_path, tree):
    return report_tree.runs(tmp_path, tree)


def change(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_reads_every_file_of_an_experiment(metrics):
    assert results.read_result(metrics, "quantize", KEY)["seeds"] == [0, 1, 2]
    assert len(results.history(metrics, "quantize", KEY)) == 3 * 4
    assert results.layers(metrics, KEY).shape == (5, 8)
    assert len(results.weights(metrics, KEY)["layers"]) == 5
    assert len(results.annealing(metrics, KEY)["curves"]) == 5


def test_a_method_without_branches_has_no_levels_and_no_curve(metrics):
    key = "resnet20-cifar10-uniform-8"
    assert results.weights(metrics, key) == {"layers": []} and results.annealing(metrics, key) == {}
    assert results.history(metrics, "quantize", key).soft_hard_gap.isna().all()


def test_a_stage_with_nothing_to_do_is_told_by_its_marker(metrics):
    for stage in ("quantize", "engine"):
        assert not results.was_run(metrics, stage, "mobilenet_v1-vww-dbq-3t")


@pytest.mark.parametrize("stage", ["prepare", "pretrain", "quantize", "engine"])
def test_a_missing_folder_names_the_stage(tmp_path, stage):
    with pytest.raises(DbqError, match=f"dvc repro {stage}@nowhere"):
        results.read_result(tmp_path, stage, "nowhere")


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"top1": [90.0]}, "one value per seed"),
        ({"seeds": [], "top1": [], "val_top1": [], "zero_rate": []}, "one value per seed"),
        ({"top1": [90.0, 101.0, 90.0]}, "not between 0 and 100"),
        ({"top1": [90.0, None, 90.0]}, "not between"),
        ({"zero_rate": [0.1, -0.1, 0.1]}, "not between 0 and 1"),
        ({"status": "finished"}, "neither 'run' nor 'not run'"),
        ({"status": "not run"}, "without a reason"),
        ({"key": "another"}, "belongs to another"),
    ],
)
def test_odd_metrics_name_the_file_and_the_stage(metrics, values, problem):
    change(metrics / "quantize" / KEY / "metrics.json", **values)
    with pytest.raises(DbqError, match=problem) as caught:
        results.read_result(metrics, "quantize", KEY)
    assert f"quantize/{KEY}/metrics.json" in str(caught.value) and f"quantize@{KEY}" in str(caught.value)


def test_a_missing_field_is_named(metrics):
    path = metrics / "pretrain" / "resnet20-cifar10" / "metrics.json"
    value = json.loads(path.read_text())
    del value["device"]
    path.write_text(json.dumps(value))
    with pytest.raises(DbqError, match="no key device"):
        results.read_result(metrics, "pretrain", "resnet20-cifar10")


def test_a_torn_file_is_named(metrics):
    path = metrics / "engine" / KEY / "cost.json"
    path.write_text(path.read_text()[:40])
    with pytest.raises(DbqError, match=r"cost\.json: not valid JSON"):
        results.read_result(metrics, "engine", KEY)


@pytest.mark.parametrize("mains", [0, 2])
def test_exactly_one_reading_is_the_main_one(metrics, mains):
    path = metrics / "engine" / KEY / "cost.json"
    readings = json.loads(path.read_text())["readings"]
    change(path, readings=[{**row, "main": index < mains} for index, row in enumerate(readings)])
    with pytest.raises(DbqError, match=f"{mains} main readings"):
        results.read_result(metrics, "engine", KEY)


def test_costs_of_another_reading_are_stale(metrics, tree):
    value = results.read_result(metrics, "engine", KEY)
    assert results.main_reading(value, tree)["reading"] == "adder_only"
    tree["cost"]["count_bias"] = True
    with pytest.raises(DbqError, match=f"engine@{KEY}"):
        results.main_reading(value, tree)


def test_a_csv_without_a_column_is_named(metrics):
    path = metrics / "engine" / KEY / "layers.csv"
    path.write_text(path.read_text().replace("nonzeros", "other"))
    with pytest.raises(DbqError, match=r"layers\.csv: no column nonzeros"):
        results.layers(metrics, KEY)
    path.write_text("")
    with pytest.raises(DbqError, match=r"layers\.csv: not valid CSV"):
        results.layers(metrics, KEY)


def test_text_where_a_number_belongs_is_named(metrics):
    path = metrics / "quantize" / KEY / "history.csv"
    path.write_text(path.read_text().replace("12.0", "warm"))
    with pytest.raises(DbqError, match=r"history\.csv: .*warm"):
        results.history(metrics, "quantize", KEY)


def test_histograms_and_curves_of_unequal_length_are_refused(metrics):
    layer = results.weights(metrics, KEY)["layers"][0]
    change(metrics / "quantize" / KEY / "weights.json", layers=[{**layer, "counts": layer["counts"][1:]}])
    with pytest.raises(DbqError, match=r"weights\.json: lengths of layer layer1\.0\.conv1"):
        results.weights(metrics, KEY)
    change(metrics / "quantize" / KEY / "annealing.json", hard=[0.0])
    with pytest.raises(DbqError, match="curves differ in length"):
        results.annealing(metrics, KEY)


def test_a_stand_in_is_named_so_only_where_it_is_one(tree):
    assert results.dataset_titles(tree) == {"cifar10": "cifar10 (stand-in: digits)", "vww": "vww (stand-in: digits)"}
    assert results.dataset_titles({**tree, "profile": "cifar10"})["vww"] == "vww"
    assert results.dataset_titles({**tree, "profile": "paper"})["vww"] == "vww"
