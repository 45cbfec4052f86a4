"""The campaign: order of value, time box, resume, adoption by the pipeline's runs."""

import copy
import json
import subprocess
import sys
import time

import pytest

from dbq.errors import DbqError
from dbq.settings.resolve import DatasetSettings
from dbq.training import campaign, config, datasets, runs

A, B = "resnet20-cifar10-dbq-1t", "resnet20-cifar10-twn"


@pytest.fixture(scope="module")
def params():
    tree = copy.deepcopy(config.read("params.yaml"))
    tree["schedules"]["finetune"]["smoke"] |= {"epochs": 1, "bn_batches": 1}
    for name in ("float", "float_long"):
        tree["schedules"][name]["smoke"] |= {"epochs": 1, "bn_batches": 1, "warmup_epochs": 0}
    tree["pretrain"] = {key: tree["pretrain"][key] for key in ("resnet20-cifar10", tree["ablation_float"])}
    tree["experiments"] = {A: {**tree["experiments"][A], "seeds": {"smoke": [0, 1]}}, B: tree["experiments"][B]}
    row = {"experiment": B, "policy": "standard"}
    tree |= {
        "sweep_rows": {"twn": row},
        "sweeps": {
            "resnet20-cifar10": {
                "network": "resnet20",
                "dataset": "cifar10",
                "schedule": "finetune",
                "rows": ["twn"],
                "activations": {},
                "seeds": {"smoke": [0]},
            }
        },
    }
    tree["ablations"] = {"1t-base": tree["ablations"]["1t-base"]}
    return tree


@pytest.fixture(scope="module")
def data(params, tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    entry = DatasetSettings(**{**vars(config.dataset(params, "smoke", "cifar10")), "validation": 1200})
    datasets.prepare("cifar10", "smoke", entry, folder / "smoke" / "cifar10", log=lambda line: None)
    return folder


def make(params, data, out, minutes=5.0, parallel=2):
    (out / "params.json").write_text(json.dumps(params))
    standing = campaign.Standing(params, "smoke", out, data)
    return campaign.Campaign(str(out / "params.json"), standing, "cpu", parallel, time.monotonic() + 60 * minutes, log=lambda line: None)


def test_one_seed_of_every_row_comes_before_the_second_seed_of_one(params):
    names = [task.name for task in campaign.plan(params, "smoke")]
    assert names == [
        "resnet20-cifar10 seed 0",
        f"{A} seed 0",
        f"{B} seed 0",
        "sweep-resnet20-cifar10-twn seed 0",
        f"{A} seed 1",
        "resnet20-cifar10-float-held-out seed 0",  # what ablations alone need waits for them
        "1t-base seed 0",
    ]


def test_a_campaign_trains_what_is_chosen_and_a_stage_adopts_it(params, data, tmp_path):
    tasks = campaign.choose(campaign.plan(params, "smoke"), [B])
    rows = make(params, data, tmp_path).run(tasks)
    assert [row["state"] for row in rows] == ["finished", "finished"]
    written = json.loads((tmp_path / "campaign.json").read_text())
    assert written["trainings"] == rows
    assert {"device", "torch", "commit", "data_source"} <= set(rows[1]["provenance"])
    lines = []
    setting = runs.Setting(data / "smoke" / "cifar10", tmp_path, log=lines.append)
    floats = runs.train_float(config.pretrain(params, "smoke", "resnet20-cifar10"), setting)
    run = runs.train_quantized(config.experiment(params, "smoke", B), 0, floats.network.state_dict(), setting)
    assert sum("adopted" in line for line in lines) == 2
    assert run.top1 == rows[1]["top1"]
    # the same command finds nothing left to train
    starter = make(params, data, tmp_path)
    starter._start = lambda *_: pytest.fail("a finished training was started")
    assert [row["state"] for row in starter.run(tasks)] == ["finished", "finished"]


def test_no_time_means_nothing_is_started_and_that_is_said(params, data, tmp_path):
    rows = make(params, data, tmp_path, minutes=0.0).run(campaign.plan(params, "smoke"))
    assert {row["state"] for row in rows} == {"waiting"}


def test_a_checkpoint_of_other_settings_does_not_count(params, data, tmp_path):
    setting = runs.Setting(data / "smoke" / "cifar10", tmp_path, log=lambda line: None)
    runs.train_float(config.pretrain(params, "smoke", "resnet20-cifar10"), setting)
    task = campaign.plan(params, "smoke")[0]
    assert campaign.Standing(params, "smoke", tmp_path, data).of(task)["state"] == "finished"
    changed = copy.deepcopy(params)
    changed["schedules"]["float"]["smoke"]["learning_rate"] = 0.05
    assert campaign.Standing(changed, "smoke", tmp_path, data).of(task)["state"] == "waiting"


def test_a_failed_training_is_reported_and_what_needs_it_is_left_out(params, data, tmp_path):
    broken = copy.deepcopy(params)
    broken["schedules"]["float"]["smoke"]["learning_rate"] = 1e30
    rows = make(broken, data, tmp_path).run(campaign.choose(campaign.plan(broken, "smoke"), [B]))
    assert [row["state"] for row in rows] == ["failed", "waiting"]
    assert "loss" in rows[0]["message"]


def test_bad_arguments_are_one_clear_error(tmp_path):
    def run(*arguments):
        command = [sys.executable, "-m", "dbq.training.campaign", *arguments, "--out", str(tmp_path), "--dry-run"]
        return subprocess.run(command, capture_output=True, text=True, env={**__import__("os").environ, "PYTHONPATH": "src"})

    assert "profile: unknown value 'smok'" in run("smok", "--minutes", "1").stderr
    assert "--minutes: -1.0 is no time" in run("smoke", "--minutes", "-1").stderr
    assert "--only: no training x" in run("smoke", "--minutes", "1", "--only", "x").stderr
    with pytest.raises(DbqError, match="torch finds no GPU"):
        campaign.room("cuda")
