"""Checkpoints: no flipped bit, no foreign file and no other code is adopted; a full disk keeps the last one."""

import os
import random

import pytest
import tiny
import torch

from dbq.errors import DbqError
from dbq.files import read_sealed, write_sealed
from dbq.training import checkpoints
from dbq.training.checkpoints import Checkpoint
from dbq.validity import canary, equivalence

IDENTITY = {"settings": "s", "data": "d", "code": "c", "start": None}
CONTENT = {"state": {"w": torch.ones(3)}, "optimiser": {}, "history": [], "epoch": 1, "finished": False, "val_top1": 1.0, "provenance": {}}
FINISHED = CONTENT | {"finished": True, "oscillating": {}, "top1": 50.0}


def written(folder, content=CONTENT, identity=IDENTITY):
    checkpoint = Checkpoint(folder, "net", 0, "resnet20", identity)
    checkpoint.write(**content)
    return checkpoint


def read(checkpoint):
    return checkpoint.read(log=lambda line: None)


def test_what_is_written_is_read(tmp_path):
    state = read(written(tmp_path))
    assert torch.equal(state["state"]["w"], torch.ones(3))
    assert state["identity"] == IDENTITY
    assert read(Checkpoint(tmp_path, "net", 1, "resnet20", IDENTITY)) is None


@pytest.mark.parametrize("content", [CONTENT, FINISHED])
def test_any_flipped_bit_is_refused(tmp_path, content):
    checkpoint = written(tmp_path, content)
    whole = checkpoint.path.read_bytes()
    for place in random.Random(0).sample(range(len(whole)), 100):
        checkpoint.path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << place % 8)]) + whole[place + 1 :])
        with pytest.raises(DbqError, match=rf"{checkpoint.path.name}.*->"):
            read(checkpoint)


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"state": {"w": torch.tensor([float("nan")])}}, "w is not a finite tensor"),
        ({"state": {"w": 3}}, "w is not a finite tensor"),
        ({"top1": 150.0}, "top1 is 150"),
        ({"top1": float("nan")}, "top1 is nan"),
        ({"history": None}, "history is missing or of another type"),
        ({"epoch": "3"}, "epoch is missing or of another type"),
        ({"oscillating": None}, "oscillating is missing"),
        ({"format": 1}, "format 1"),
    ],
)
def test_a_checkpoint_with_a_right_sum_and_odd_content_is_refused(tmp_path, change, names):
    checkpoint = written(tmp_path, FINISHED)
    write_sealed(checkpoint.path, read_sealed(checkpoint.path) | change)
    with pytest.raises(DbqError, match=names):
        read(checkpoint)


def test_a_checkpoint_of_another_training_under_its_name_is_refused(tmp_path):
    checkpoint, other = written(tmp_path), written(tmp_path, identity=IDENTITY | {"data": "x"})
    assert checkpoint.path != other.path
    checkpoint.path.write_bytes(other.path.read_bytes())
    with pytest.raises(DbqError, match="of another training"):
        read(checkpoint)


def test_a_checkpoint_of_other_code_is_trained_again_unless_a_canary_proves_it_equal(tmp_path, monkeypatch):
    written(tmp_path)
    later, lines = Checkpoint(tmp_path, "net", 0, "resnet20", IDENTITY | {"code": "later"}), []
    assert later.read(log=lines.append) is None
    assert "other code" in lines[-1]
    monkeypatch.setattr(equivalence, "same", lambda one, other: {one, other} == {"c", "later"})
    assert later.read(log=lines.append)["identity"]["code"] == "c"


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("pwned",)


def test_a_checkpoint_cannot_run_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint = written(tmp_path)
    torch.save({"state": Malicious()}, checkpoint.path)
    with pytest.raises(DbqError) as caught:
        read(checkpoint)
    assert "weights_only" not in str(caught.value)
    assert not (tmp_path / "pwned").exists()


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    checkpoint = written(tmp_path)
    before = checkpoint.path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DbqError, match=r"No space left on device.*free some space"):
        checkpoint.write(**CONTENT | {"epoch": 2})
    assert checkpoint.path.read_bytes() == before
    assert os.listdir(checkpoint.path.parent) == [checkpoint.path.name]


def test_a_committed_result_is_taken_only_for_the_same_identity(tmp_path):
    """The record of one training; then the same row with another schedule, other data and another start."""
    from dbq.training import committed, results, runs

    data = canary.random_images(tmp_path / "data")
    begun, made = tiny.beginning(tmp_path / "float", data), tiny.row()
    run = tiny.train(data, begun, tmp_path / "first", made=made)
    results.write_row([run], made, tmp_path / "results" / "metrics" / "quantize" / "net")
    taken = tiny.train(data, begun, tmp_path / "second", made=made, results=tmp_path / "results")
    assert taken.network is None
    assert (taken.top1, taken.identity, len(taken.past)) == (run.top1, run.identity, 2)
    again = results.write_row([taken], made, tmp_path / "again")
    assert again["seeds"][0] == json_of(results.summary(run))
    assert (tmp_path / "again" / "weights.json").read_bytes() == (tmp_path / "results/metrics/quantize/net/weights.json").read_bytes()
    own = run.identity
    for name in ("settings", "data", "start", "code"):
        assert committed.valid(tmp_path / "results", "quantize", "net", 0, own | {name: "other"}) is None
    assert committed.valid(tmp_path / "results", "quantize", "net", 1, own) is None
    lost = runs.Beginning("canary", "weights not kept", None)
    with pytest.raises(DbqError, match="the weights of its start canary weren't kept"):
        tiny.train(data, lost, tmp_path / "third", made=made)


def json_of(value):
    import json

    return json.loads(json.dumps(value))


def test_a_model_file_of_another_start_is_refused(tmp_path):
    from dbq.training import runs

    write_sealed(tmp_path / "model.pt", {"key": "other", "digest": "x", "state": {}})
    with pytest.raises(DbqError, match=r"not the float network net -> run `dvc repro pretrain@net`"):
        runs.read_beginning(tmp_path / "model.pt", "net")
    assert checkpoints.FORMAT == 2
