"""Sweeps: other networks under the settings of experiments; a row is trained, certified and tabled like an experiment."""

import copy

import pytest

from dbq import config, datasets
from dbq.config import DatasetConfig
from dbq.errors import DbqError
from dbq.files import write_json
from dbq.report import results, tables
from dbq.training import runs, sweeps


@pytest.fixture(scope="module")
def tree():
    tree = copy.deepcopy(config.read("params.yaml"))
    tree["schedules"]["sweep"]["smoke"] |= {"epochs": 1, "bn_batches": 1}
    tree["schedules"]["float"]["smoke"] |= {"epochs": 1, "bn_batches": 1, "warmup_epochs": 0}
    tree["sweep_rows"] = {row: tree["sweep_rows"][row] for row in ("uniform-4", "dbq-2t", "dbq-2t-depthwise")}
    tree["sweeps"] = {
        "shufflenet_v2-cifar10": {"network": "shufflenet_v2", "dataset": "cifar10", "schedule": "sweep", "seeds": {"smoke": [0, 1]}},
        "mobilenet_v2-cifar10": {"network": "mobilenet_v2", "dataset": "cifar10", "schedule": "sweep", "seeds": {"paper": [0]}},
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


def test_mistakes_name_the_key(tree):
    wrong = copy.deepcopy(tree)
    wrong["sweeps"]["shufflenet_v2-cifar10"]["network"] = "mobilenet_v1"
    with pytest.raises(DbqError, match=r"sweeps\.shufflenet_v2-cifar10: the key is not NETWORK-DATASET"):
        config.sweep(wrong, "smoke", "shufflenet_v2-cifar10", "dbq-2t")
    with pytest.raises(DbqError, match=r"sweeps\.mobilenet_v2-cifar10\.seeds: nothing for the profile smoke"):
        config.sweep(tree, "smoke", "mobilenet_v2-cifar10", "dbq-2t")
    wrong = copy.deepcopy(tree)
    wrong["sweep_rows"]["dbq-2t"]["experiment"] = "resnet20-cifar10-dbq-9t"
    with pytest.raises(DbqError, match=r"no key experiments\.resnet20-cifar10-dbq-9t"):
        config.sweep(wrong, "smoke", "shufflenet_v2-cifar10", "dbq-2t")
    wrong = copy.deepcopy(tree)
    wrong["pretrain"]["shufflenet_v2-cifar10"]["seeds"] = {"paper": [0]}
    del wrong["experiments"]["shufflenet_v2-cifar10-dbq-2t"]
    with pytest.raises(DbqError, match=r"sweeps\.shufflenet_v2-cifar10\.seeds: smoke has no float network"):
        config.check(wrong)


def test_a_sweep_is_trained_once_and_stands_in_the_table_of_accuracy(tree, tmp_path):
    tree = copy.deepcopy(tree)
    del tree["sweep_rows"]["dbq-2t-depthwise"]
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
    again = sweeps.run(tree, "smoke", "shufflenet_v2-cifar10", state, setting)
    assert [row["top1"] for row in again] == [row["top1"] for row in rows]
    assert sum("adopted" in line for line in lines) == 2

    metrics = tmp_path / "metrics"
    sweeps.write(rows, metrics / "sweep" / "shufflenet_v2-cifar10")
    write_json(metrics / "sweep" / "mobilenet_v2-cifar10" / "metrics.json", {"status": "not run", "reason": "its profiles are paper"})
    tree["experiments"] = {}
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
