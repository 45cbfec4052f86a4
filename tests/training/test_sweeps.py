"""Sweeps: other networks under the settings of experiments; a row is trained, certified and tabled like an experiment."""

import copy

import pandas as pd
import pytest
from torch import nn

from dbq import config, datasets
from dbq.config import DatasetConfig
from dbq.errors import DbqError
from dbq.files import read_json, write_json
from dbq.report import results, sweep_report, tables
from dbq.training import certificates, runs, sweeps


@pytest.fixture(scope="module")
def tree():
    tree = copy.deepcopy(config.read("params.yaml"))
    tree["schedules"]["sweep_gpu"]["smoke"] |= {"epochs": 1, "bn_batches": 1}
    tree["schedules"]["float"]["smoke"] |= {"epochs": 1, "bn_batches": 1, "warmup_epochs": 0}
    tree["sweep_rows"] = {row: tree["sweep_rows"][row] for row in ("uniform-4", "dbq-2t", "dbq-2t-depthwise")}
    tree["sweeps"] = {
        f"{network}-cifar10": {
            "network": network,
            "dataset": "cifar10",
            "schedule": "sweep_gpu",
            "rows": list(tree["sweep_rows"]),
            "activations": {},
            "seeds": seeds,
        }
        for network, seeds in (("shufflenet_v2", {"smoke": [0, 1]}), ("mobilenet_v2", {"paper": [0]}))
    }
    return tree


def test_a_row_is_its_experiment_on_another_network(tree):
    row = config.sweep(tree, "smoke", "shufflenet_v2-cifar10", "dbq-2t-depthwise")
    whole = config.experiment(tree, "smoke", "resnet20-cifar10-dbq-2t")
    assert (row.network, row.seeds, row.pretrain_key) == ("shufflenet_v2", [0, 1], "shufflenet_v2-cifar10")
    assert (row.method, row.quantizer, row.activation_bits) == (whole.method, whole.quantizer, whole.activation_bits)
    assert (row.training.bn_batches, whole.training.bn_batches) == (1, 8)  # the sweep's schedule, not the experiment's
    assert (row.policy.depthwise, whole.policy.depthwise) == ("method", 8)
    assert config.training_of(tree, "smoke", row.key) == row


def test_a_sweep_has_the_rows_that_it_names_and_may_have_a_name_of_its_own(tree):
    tree = copy.deepcopy(tree)
    tree["sweeps"]["shufflenet_v2-cifar10-other"] = {**tree["sweeps"]["shufflenet_v2-cifar10"], "rows": ["dbq-2t"]}
    names = [name for name, (sweep, _) in config.sweep_rows(tree).items() if sweep == "shufflenet_v2-cifar10-other"]
    assert names == ["sweep-shufflenet_v2-cifar10-other-dbq-2t"]
    assert config.training_of(tree, "smoke", names[0]).pretrain_key == "shufflenet_v2-cifar10"


def test_mistakes_name_the_key(tree):
    wrong = copy.deepcopy(tree)
    wrong["sweeps"]["shufflenet_v2-cifar10"]["network"] = "mobilenet_v1"
    with pytest.raises(DbqError, match=r"sweeps\.shufflenet_v2-cifar10: the key is neither NETWORK-DATASET"):
        config.sweep(wrong, "smoke", "shufflenet_v2-cifar10", "dbq-2t")
    with pytest.raises(DbqError, match=r"sweeps\.mobilenet_v2-cifar10\.seeds: nothing for the profile smoke"):
        config.sweep(tree, "smoke", "mobilenet_v2-cifar10", "dbq-2t")
    wrong = copy.deepcopy(tree)
    wrong["sweep_rows"]["dbq-2t"]["experiment"] = "resnet20-cifar10-dbq-9t"
    with pytest.raises(DbqError, match=r"no key experiments\.resnet20-cifar10-dbq-9t"):
        config.sweep(wrong, "smoke", "shufflenet_v2-cifar10", "dbq-2t")
    wrong = copy.deepcopy(tree)
    wrong["sweeps"]["shufflenet_v2-cifar10"]["rows"] = ["dbq-2t", "dbq-9t"]
    with pytest.raises(
        DbqError, match=r"sweeps\.shufflenet_v2-cifar10\.rows: no row dbq-9t -> there are uniform-4, dbq-2t, dbq-2t-depthwise"
    ):
        config.check(wrong)
    wrong = copy.deepcopy(tree)
    wrong["pretrain"]["shufflenet_v2-cifar10"]["seeds"] = {"paper": [0]}
    del wrong["experiments"]["shufflenet_v2-cifar10-dbq-2t"]
    with pytest.raises(DbqError, match=r"sweeps\.shufflenet_v2-cifar10\.seeds: smoke has no float network"):
        config.check(wrong)


def test_a_sweep_is_trained_once_and_stands_in_the_table_of_accuracy(tree, tmp_path):
    tree = copy.deepcopy(tree)
    tree["sweeps"]["shufflenet_v2-cifar10"]["rows"].remove("dbq-2t-depthwise")
    tree["sweeps"]["shufflenet_v2-cifar10"]["seeds"]["smoke"] = [0]
    tree["pretrain"] = {}
    folder = tmp_path / "digits"
    entry = DatasetConfig(**{**vars(config.dataset(tree, "smoke", "cifar10")), "validation": 1300})
    datasets.prepare("cifar10", "smoke", entry, folder, log=lambda line: None)
    lines = []
    setting = runs.Setting(folder, tmp_path / "checkpoints", log=lines.append)
    floats = runs.train_float(config.pretrain(config.read("params.yaml"), "smoke", "shufflenet_v2-cifar10"), setting)
    state = floats.network.state_dict()
    rows = sweeps.run(tree, "smoke", "shufflenet_v2-cifar10", state, setting)
    assert [row["row"] for row in rows] == ["uniform-4", "dbq-2t"]
    layers = sweep_report.policy(rows).set_index("layer")
    assert len(layers) == sum(isinstance(module, (nn.Conv2d, nn.Linear)) for module in floats.network.modules())
    assert set(layers.columns) == {"kind", "uniform-4", "dbq-2t"}
    assert set(layers["uniform-4"]) == {"uniform, 4 bits", "uniform, 8 bits"}
    assert (layers["dbq-2t"][layers.kind != "depthwise"] == "dbq, 2T, 4 bits").sum() == (layers["uniform-4"] == "uniform, 4 bits").sum()
    table = sweep_report.certificates(rows).set_index("certificate")
    assert table.holds.all()
    gradient = table.loc["numerical against analytic gradient"]
    assert 0 <= gradient["dbq-2t"] <= gradient.limit == certificates.GRADIENT_ERROR
    assert pd.isna(gradient["uniform-4"])  # its straight-through gradient is the derivative of nothing
    again = sweeps.run(tree, "smoke", "shufflenet_v2-cifar10", state, setting)
    assert again == rows
    assert sum("adopted" in line for line in lines) == 2
    for model in (tmp_path / "checkpoints").rglob("sweep-*/*.pt"):  # a machine with a GPU keeps the models and sends what is said of them
        model.unlink()
    assert sweeps.run(tree, "smoke", "shufflenet_v2-cifar10", state, setting) == rows

    metrics = tmp_path / "metrics"
    sweeps.write(rows, metrics / "sweep" / "shufflenet_v2-cifar10")
    write_json(metrics / "sweep" / "mobilenet_v2-cifar10" / "metrics.json", {"status": "not run", "reason": "its profiles are paper"})
    tree["experiments"] = {}
    stored = read_json(metrics / "sweep" / "shufflenet_v2-cifar10" / "metrics.json")["rows"]
    assert [row["certificates"] for row in stored] == [row["certificates"] for row in rows]
    frame = tables.accuracy(tree, metrics)
    assert frame.key.tolist() == [
        "sweep-shufflenet_v2-cifar10-uniform-4",
        "sweep-shufflenet_v2-cifar10-dbq-2t",
        "sweep-mobilenet_v2-cifar10",
    ]
    assert frame.n.tolist() == [1, 1, 0]
    assert frame.label.iloc[2] == "not run: its profiles are paper"
    (metrics / "sweep" / "shufflenet_v2-cifar10" / "metrics.json").write_text('{"status": "run", "rows": [{"row": "dbq-2t"}]}')
    with pytest.raises(DbqError, match="no key key, network"):
        results.read_result(metrics, "sweep", "shufflenet_v2-cifar10")


def test_the_table_of_certificates_has_the_worst_of_all_seeds_and_layers():
    def one(name, value, limit, holds=True):
        return {"certificate": name, "layer": "a", "value": value, "limit": limit, "holds": holds}

    smallest = "smallest distance of neighbouring levels"
    rows = [
        {"row": "a", "certificates": [[one("gap", 0.1, 0.2), one(smallest, 0.5, 0.0)], [one("gap", 0.15, 0.2), one(smallest, 0.3, 0.0)]]},
        {"row": "b", "certificates": [[one("gap", 0.3, None), one("other", 1.0, 0.5, False)]]},
    ]
    table = sweep_report.certificates(rows).set_index("certificate")
    assert table.loc["gap", ["a", "b"]].tolist() == [0.15, 0.3]
    assert table.loc[smallest, "a"] == 0.3
    assert pd.isna(table.loc["gap", "limit"])  # judged in one row only
    assert table.loc["other", "limit"] == 0.5
    assert table.holds.tolist() == [True, True, False]
