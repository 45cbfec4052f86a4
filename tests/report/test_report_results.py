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


def test_reads_every_file_of_a_row(results):
    assert results.training(DBQ) == json.loads((results.folder / "quantize" / DBQ / "metrics.json").read_text())
    assert len(results.history(DBQ)) == 3 * 4 and len(results.history("held-out")) == 4
    assert results.layers(DBQ).shape == (5, 8)
    assert results.kept(DBQ, "weights.json") == json.loads((results.folder / "quantize" / DBQ / "weights.json").read_text())
    assert results.read("engine", DBQ, "engine.json")["top1_engine"] == 90.0 and results.read("prepare", "vww")["classes"] == 10
    assert results.history("resnet20-cifar10-uniform-8").soft_hard_gap.isna().all()
    (results.folder / "quantize" / DBQ / "weights.json").unlink()
    assert results.kept(DBQ, "weights.json") == {}  # of a committed result


def test_what_is_not_run_has_its_reason(results):
    assert results.reason("quantize", NOT_RUN) == results.reason("engine", NOT_RUN) == REASON
    assert "validation" in results.reason("engine", "2t") and "2t" in results.running("quantize")
    for stage, name in (("prepare", "manifest.json"), ("quantize", "metrics.json"), ("engine", "metrics.json")):
        key = "cifar10" if stage == "prepare" else DBQ
        (results.folder / stage / key / name).write_text('{"status": "not run", "reason": "no images"}')
        assert results.reason(stage, key) == "no images" and key not in results.running(stage)


def test_metrics_of_another_row_name_the_file_and_the_stage(results):
    path = results.folder / "quantize" / DBQ / "metrics.json"
    good = json.loads(path.read_text())
    for change, problem in (
        ({"seeds": [*good["seeds"][:2], good["seeds"][2] | {"seed": 7}]}, r"seeds \[0, 1, 7\], params.yaml has \[0, 1, 2\]"),
        ({"seeds": [{"seed": 1}]}, "no top1, val_top1, "),
        ({"key": "another"}, "key another"),
        ({"weight_bits": 8}, "weight_bits 8, params.yaml has 4"),
    ):
        path.write_text(json.dumps(good | change))
        with pytest.raises(DbqError, match=f"quantize/{DBQ}/metrics.json: {problem}.*dvc repro --force quantize@{DBQ}"):
            results.training(DBQ)


def test_missing_torn_and_foreign_files_are_named(results):
    path = results.folder / "engine" / DBQ / "cost.json"
    for content, problem in ((path.read_text()[:40], "not valid JSON"), ("[]", "no JSON object"), ("{}", "no macs, readings")):
        path.write_text(content)
        with pytest.raises(DbqError, match=rf"cost\.json: {problem}"):
            results.read("engine", DBQ)
    path.unlink()
    with pytest.raises(DbqError, match=rf"cost\.json: no such file -> run `dvc repro engine@{DBQ}`"):
        results.read("engine", DBQ)


def test_odd_csv_files_are_named(results):
    layers, history = results.folder / "engine" / DBQ / "layers.csv", results.folder / "quantize" / DBQ / "history.csv"
    layers.write_text(layers.read_text().replace("nonzeros", "other"))
    with pytest.raises(DbqError, match=r"layers\.csv: no column: .*nonzeros"):
        results.layers(DBQ)
    layers.write_text("")
    with pytest.raises(DbqError, match=r"layers\.csv: not valid CSV"):
        results.layers(DBQ)
    history.write_text(history.read_text().replace("12.0", "warm"))
    with pytest.raises(DbqError, match=r"history\.csv: .*warm"):
        results.history(DBQ)


def test_a_profile_is_smoke_when_all_its_images_are_stand_ins(results):
    assert results.smoke and results.titles["vww"] == "vww (stand-in: digits)"
    real = Results(report_tree.plan("real"), "")
    assert not real.smoke and real.titles == {"cifar10": "cifar10", "vww": "vww (stand-in: digits)"}
