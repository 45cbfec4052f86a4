"""The campaign: order of value, time box, resume, adoption by the pipeline's stages."""

import copy
import json
import time

import pytest
import tiny

from dbq import datasets, settings
from dbq.errors import DbqError
from dbq.training import campaign, runs

A, B = "net-dbq-2t", "net-twn"


def changed(**schedule):
    params = copy.deepcopy(tiny.PARAMS)
    params["schedules"]["base"] |= {"epochs": 1, "bn_batches": 1} | schedule
    params["profiles"]["tiny"] |= {"schedules": {"base": {}}, "rows": {A: 2, B: 1, "tried-base": 1}}
    params["starts"] = {"net": params["starts"]["net"], "held-out": params["starts"]["other"] | {"network": "resnet20"}}
    params["profiles"]["large"]["weights"] = {}
    params["rows"] = {key: params["rows"][key] for key in (A, B, "tried-base")}
    params["rows"]["tried-base"]["start"] = "held-out"
    return params


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    entry = settings.plan(changed()).datasets["cifar10"].settings
    datasets.prepare("cifar10", "tiny", entry.model_copy(update={"validation": 1200}), folder / "tiny" / "cifar10", log=lambda line: None)
    return folder


def make(params, data, out, minutes=5.0):
    (out / "params.json").write_text(json.dumps(params))
    deadline = time.monotonic() + 60 * minutes
    return campaign.Campaign(settings.plan(params), out, data, "cpu", 2, deadline, str(out / "params.json"), log=lambda line: None)


def test_one_seed_of_every_row_comes_before_the_second_seed_of_one():
    names = [task.name for task in campaign.tasks_of(settings.plan(changed()))]
    # what rows judged on validation images alone need waits for them
    assert names == ["net seed 0", f"{A} seed 0", f"{B} seed 0", f"{A} seed 1", "held-out seed 5", "tried-base seed 0"]
    assert [task.name for task in campaign.tasks_of(settings.plan(changed()), ["tried-base"])] == ["held-out seed 5", "tried-base seed 0"]
    with pytest.raises(DbqError, match="--only: no training x"):
        campaign.tasks_of(settings.plan(changed()), ["x"])


def test_a_campaign_trains_what_is_chosen_and_a_stage_adopts_it(data, tmp_path):
    params = changed()
    plan = settings.plan(params)
    tasks = campaign.tasks_of(plan, [B])
    rows = make(params, data, tmp_path).run(tasks)
    assert [row["state"] for row in rows] == ["finished", "finished"]
    assert json.loads((tmp_path / "campaign.json").read_text())["trainings"] == rows
    assert {"device", "torch", "commit", "data_source"} <= set(rows[1]["provenance"])
    lines = []
    place = runs.Place(data / "tiny" / "cifar10", tmp_path, log=lines.append)
    from dbq.validity import identity

    start, row = plan.start("net"), plan.row(B)
    begun = runs.beginning_of(runs.train_float(start, place, identity.code_of(start)), "net")
    run = runs.train_row(row, 0, begun, place, identity.code_of(row))
    assert sum("adopted" in line for line in lines) == 2
    assert run.top1 == rows[1]["top1"]
    # the same command finds nothing left to train
    again = make(params, data, tmp_path)
    again._begin = lambda *_: pytest.fail("a finished training was started")
    assert [row["state"] for row in again.run(tasks)] == ["finished", "finished"]
    # a checkpoint of other settings doesn't count, a damaged one counts as begun
    other = make(changed(learning_rate=0.05), data, tmp_path)
    assert other.standing(tasks[0])["state"] == "waiting"
    path = again.path(tasks[0])
    path.write_bytes(path.read_bytes()[:-1] + b"0")
    assert again.standing(tasks[0])["state"] == "begun"


def test_no_time_means_nothing_is_started_and_that_is_said(data, tmp_path):
    rows = make(changed(), data, tmp_path, minutes=0.0).run(campaign.tasks_of(settings.plan(changed())))
    assert {row["state"] for row in rows} == {"waiting"}


def test_a_failed_training_is_reported_and_what_needs_it_is_left_out(data, tmp_path):
    broken = changed(learning_rate=1000.0, warmup_epochs=0)
    rows = make(broken, data, tmp_path).run(campaign.tasks_of(settings.plan(broken), [B]))
    assert [row["state"] for row in rows] == ["failed", "waiting"]
    assert "error: " in rows[0]["message"]


def test_a_gpu_that_is_not_there_is_one_error():
    import torch

    if not torch.cuda.is_available():
        with pytest.raises(DbqError, match="torch finds no GPU"):
            campaign.most_at_once("cuda")
