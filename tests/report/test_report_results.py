"""Result files: what is accepted, and what each fault is called."""

import json

import pytest
import report_tree
from report_tree import DBQ, NOT_RUN, REASON

from dbq.errors import DbqError
from dbq.report.results import Results


@pytest.fixture
def results(tmp_path):
    plan = report_tree.plan()
    return Results(plan, report_tree.runs(tmp_path, plan))


def change(path, *place, value):
    """Set the value at a place in a JSON file."""
    whole = json.loads(path.read_text())
    inner = whole
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = value
    path.write_text(json.dumps(whole))


def test_reads_every_file_of_a_row(results):
    training = results.training(DBQ)
    written = json.loads((results.folder / "quantize" / DBQ / "metrics.json").read_text())
    assert training.values("top1") == [seed["top1"] for seed in written["seeds"]] and len(training.values("top1")) == 3
    assert len(results.history(DBQ)) == 3 * 4 and len(results.history("held-out")) == 4
    assert results.layers(DBQ).shape == (5, 8)
    assert results.weights(DBQ) == json.loads((results.folder / "quantize" / DBQ / "weights.json").read_text())
    assert len(results.annealing(DBQ)["curves"]) == 3
    assert results.replay(DBQ).top1_engine == 90.0 and results.manifest("vww").classes == 10
    assert results.training("2t").values("top1") == []


def test_a_method_without_branches_has_no_levels_and_no_curve(results):
    key = "resnet20-cifar10-uniform-8"
    assert results.weights(key) == {"layers": []} and results.annealing(key) == {}
    assert results.history(key).soft_hard_gap.isna().all()
    (results.folder / "quantize" / DBQ / "weights.json").unlink()
    assert results.weights(DBQ) == {}  # of a committed result


def test_what_is_not_run_has_its_reason(results):
    assert results.reason("quantize", NOT_RUN) == results.reason("engine", NOT_RUN) == REASON
    assert "validation" in results.reason("engine", "2t") and "2t" in results.running("quantize")
    for stage, name in (("prepare", "manifest.json"), ("quantize", "metrics.json"), ("engine", "metrics.json")):
        key = "cifar10" if stage == "prepare" else DBQ
        (results.folder / stage / key / name).write_text('{"status": "not run", "reason": "no images"}')
        assert results.reason(stage, key) == "no images" and key not in results.running(stage)
    (results.folder / "engine" / DBQ / "metrics.json").write_text('{"status": "not run"}')
    with pytest.raises(DbqError, match="without a reason"):
        results.reason("engine", DBQ)


@pytest.mark.parametrize(
    ("place", "value", "problem"),
    [
        (("seeds",), [], "seeds"),
        (("seeds", 1, "top1"), 101.0, r"seeds\.1\.top1: .*less than or equal to 100"),
        (("seeds", 1, "top1"), float("nan"), r"seeds\.1\.top1"),
        (("seeds", 1, "top1"), None, "a seed has no top1"),
        (("seeds", 0, "zero_rate"), -0.1, r"seeds\.0\.zero_rate"),
        (("seeds", 2, "seed"), 7, r"seeds \[0, 1, 7\], params.yaml has \[0, 1, 2\]"),
        (("key",), "another", "key another"),
        (("weight_bits",), 8, "weight_bits 8, params.yaml has 4"),
        (("label",), None, "label"),
    ],
)
def test_odd_metrics_name_the_file_and_the_stage(results, place, value, problem):
    change(results.folder / "quantize" / DBQ / "metrics.json", *place, value=value)
    with pytest.raises(DbqError, match=problem) as caught:
        results.training(DBQ)
    assert f"quantize/{DBQ}/metrics.json" in str(caught.value) and f"dvc repro --force quantize@{DBQ}" in str(caught.value)


def test_missing_and_torn_files_are_named(results):
    path = results.folder / "engine" / DBQ / "cost.json"
    path.write_text(path.read_text()[:40])
    with pytest.raises(DbqError, match=r"cost\.json: not valid JSON"):
        results.cost(DBQ)
    path.unlink()
    with pytest.raises(DbqError, match=rf"cost\.json: no such file -> run `dvc repro engine@{DBQ}`"):
        results.cost(DBQ)


def test_costs_of_another_reading_are_stale_and_one_reading_is_the_main_one(results):
    path = results.folder / "engine" / DBQ / "cost.json"
    assert results.main_reading(DBQ).reading == "adder_only"
    change(path, "readings", 0, "main", value=False)
    with pytest.raises(DbqError, match="0 main readings"):
        results.cost(DBQ)
    change(path, "readings", 1, "main", value=True)
    with pytest.raises(DbqError, match=f"count_bias True, params.yaml has False .*engine@{DBQ}"):
        results.main_reading(DBQ)


def test_odd_csv_files_are_named(results):
    path = results.folder / "engine" / DBQ / "layers.csv"
    path.write_text(path.read_text().replace("nonzeros", "other"))
    with pytest.raises(DbqError, match=r"layers\.csv: no column nonzeros"):
        results.layers(DBQ)
    path.write_text("")
    with pytest.raises(DbqError, match=r"layers\.csv: not valid CSV"):
        results.layers(DBQ)
    path = results.folder / "quantize" / DBQ / "history.csv"
    path.write_text(path.read_text().replace("12.0", "warm"))
    with pytest.raises(DbqError, match=r"history\.csv: .*warm"):
        results.history(DBQ)


def test_a_profile_is_smoke_when_all_its_images_are_stand_ins(results):
    assert results.smoke and results.titles["vww"] == "vww (stand-in: digits)"
    real = Results(report_tree.plan("real"), "")
    assert not real.smoke and real.titles == {"cifar10": "cifar10", "vww": "vww (stand-in: digits)"}
