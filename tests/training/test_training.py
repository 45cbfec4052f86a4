"""The loop: repeatable, resumable after kill -9, guarded; the test split is out of its reach."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tiny
import torch

from dbq import datasets
from dbq.errors import DbqError
from dbq.files import read_sealed, write_sealed
from dbq.training import loop, results, runs
from dbq.training.checkpoints import tensors_digest
from dbq.training.evaluation import reestimate_batch_norm
from dbq.validity import canary


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return canary.random_images(tmp_path_factory.mktemp("pixels"))


@pytest.fixture(scope="module")
def begun(data, tmp_path_factory):
    return tiny.beginning(tmp_path_factory.mktemp("float"), data)


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(data, begun, tmp_path):
    digests = [tensors_digest(tiny.train(data, begun, tmp_path / str(i), seed).network.state_dict()) for i, seed in enumerate((0, 0, 1))]
    assert digests[0] == digests[1] != digests[2]


def test_the_settings_decide_the_number_of_threads(data, begun, tmp_path):
    torch.set_num_threads(2)
    tiny.train(data, begun, tmp_path)
    assert torch.get_num_threads() == 1


def test_a_training_killed_after_an_epoch_ends_with_the_same_weights(tmp_path):
    """By the command line, on digits."""
    params = json.loads(json.dumps(tiny.PARAMS))
    params["profiles"]["tiny"]["rows"] = {"net-twn": 1}
    (tmp_path / "params.json").write_text(json.dumps(params))
    command = [sys.executable, "-m", "dbq"]
    environment = {**os.environ, "PYTHONPATH": "src", "PYTHONUNBUFFERED": "1"}

    def run(folder, **options):
        common = ["--params", str(tmp_path / "params.json"), "--data", str(tmp_path / "data")]
        return [*command, "train", "net-twn", *common, "--checkpoints", str(tmp_path / folder)]

    prepared = [*command, "prepare", "cifar10", "--params", str(tmp_path / "params.json"), "--data", str(tmp_path / "data")]
    subprocess.run(prepared, check=True, env=environment, capture_output=True)
    subprocess.run(run("whole"), check=True, env=environment, capture_output=True)
    process = subprocess.Popen(run("killed"), stdout=subprocess.PIPE, text=True, env=environment)
    for line in process.stdout:
        if "epoch 1/2" in line:
            process.send_signal(signal.SIGKILL)
            break
    process.wait()
    (path,) = (tmp_path / "killed" / "tiny" / "net-twn").glob("*.pt")
    unfinished = read_sealed(path)
    write_sealed(path, unfinished | {"provenance": unfinished["provenance"] | {"device": "another device"}})
    resumed = subprocess.run(run("killed"), capture_output=True, text=True, env=environment)
    assert resumed.returncode == 0, resumed.stderr
    assert "going on after epoch 1" in resumed.stdout
    state, (other,) = read_sealed(path), (tmp_path / "whole" / "tiny" / "net-twn").glob("*.pt")
    assert state["finished"]
    assert state["provenance"]["device"] == "another device; cpu (1 thread)"
    assert tensors_digest(state["state"]) == tensors_digest(read_sealed(other)["state"])
    assert state["top1"] == read_sealed(other)["top1"] > 30  # of ten classes, after two epochs


def test_a_finished_training_is_adopted(data, begun, tmp_path, monkeypatch):
    first, lines = tiny.train(data, begun, tmp_path), []
    monkeypatch.setattr(loop.Trainee, "epoch", lambda *_: pytest.fail("it was trained again"))
    again = tiny.train(data, begun, tmp_path, log=lines.append)
    assert any("adopted" in line for line in lines)
    assert again.top1 == first.top1
    assert tensors_digest(again.network.state_dict()) == tensors_digest(first.network.state_dict())


def test_checkpoints_of_other_settings_are_ignored(data, begun, tmp_path):
    tiny.train(data, begun, tmp_path)
    lines = []
    tiny.train(data, begun, tmp_path, made=tiny.row(momentum=0.8), log=lines.append)
    assert any("other settings are ignored" in line for line in lines)
    assert not any("adopted" in line for line in lines)


def test_the_test_split_is_used_once_and_only_after_the_last_epoch(data, begun, tmp_path, monkeypatch):
    events, top1 = [], runs.top1
    monkeypatch.setattr(runs, "top1", lambda network, batches: events.append("test") or top1(network, batches))
    log = lambda line: events.append(line.split("  ")[0]) if "epoch" in line else None  # noqa: E731
    tiny.train(data, begun, tmp_path, log=log)
    assert events == ["seed 0 epoch 1/2", "seed 0 epoch 2/2", "test"]


def test_a_row_judged_on_validation_images_never_sees_the_test_images(data, begun, tmp_path, monkeypatch):
    load = runs.load_data
    monkeypatch.setattr(runs, "load_data", lambda *given, **named: pytest.fail() if "test" in str(given[1:]) else load(*given, **named))
    run = tiny.train(data, begun, tmp_path, made=tiny.row().model_copy(update={"judged": "validation"}))
    assert run.top1 is None


def test_damaged_test_images_are_noticed_before_the_training(begun, tmp_path, monkeypatch):
    folder = canary.random_images(tmp_path / "data")
    (folder / "test_images.npy").write_bytes((folder / "test_images.npy").read_bytes()[:-1] + b"\x00")
    monkeypatch.setattr(loop.Trainee, "epoch", lambda *_: pytest.fail("trained first"))
    with pytest.raises(DbqError, match="test_images"):
        tiny.train(folder, begun, tmp_path)


def test_result_files_hold_what_the_network_is(data, begun, tmp_path):
    made = tiny.row()
    run = tiny.train(data, begun, tmp_path / "checkpoints", made=made)
    values = results.write_row([run], made, tmp_path)
    (seed,) = values["seeds"]
    weights = [run.network.get_submodule(layer.layer).weight.detach().numpy() for layer in run.policy]
    zeros = sum(int((weight == 0).sum()) for weight in weights) / sum(weight.size for weight in weights)
    assert seed["zero_rate"] == pytest.approx(zeros)
    assert seed["top1"] == run.top1
    assert seed["identity"] == {"settings": run.identity["settings"], "data": run.identity["data"], "code": "code", "start": begun.digest}
    saved = read_sealed(tmp_path / "model.pt")
    network = runs.rebuild(made, saved["states"]["0"], saved["image_size"]).to(memory_format=torch.channels_last)
    images = torch.randn(4, 3, 32, 32)
    assert torch.equal(network(images), run.network(images))
    test, manifest = datasets.load(data, ("test",)).splits["test"], datasets.read_manifest(data)
    correct = sum(int((network(x).argmax(1) == y).sum()) for x, y in runs.batches(test, manifest, 20, "cpu").in_order())
    assert run.top1 == pytest.approx(100 * correct / len(test.labels))
    assert json.loads((tmp_path / "certificates.json").read_text())["0"]


def test_a_loss_that_is_not_finite_stops_with_the_key(data, begun, tmp_path):
    state = {name: value.clone() for name, value in begun.state.items()}
    state["linear.bias"][0] = float("nan")
    with pytest.raises(DbqError, match=r"epoch 1, step 1: the loss is nan.*learning_rate"):
        tiny.train(data, runs.Beginning("canary", "nan", state), tmp_path)


def test_scales_that_explode_name_the_layer(data, begun, tmp_path):
    with pytest.raises(DbqError, match=r"layer \S+: (a branch has collapsed|.*not finite)"):
        tiny.train(data, begun, tmp_path, made=tiny.row(learning_rate=999.0, scale_learning_rate=999.0))


def test_weights_of_another_shape_or_type_are_one_error(data, begun, tmp_path):
    for value in (torch.zeros(3), begun.state["conv1.weight"].double(), 5):
        state = begun.state | {"conv1.weight": value}
        with pytest.raises(DbqError, match=r"float weights of canary: conv1\.weight is .* instead of"):
            tiny.train(data, runs.Beginning("canary", "other", state), tmp_path)
    with pytest.raises(DbqError, match="1 names differ"):
        tiny.train(data, runs.Beginning("canary", "fewer", {k: v for k, v in begun.state.items() if k != "linear.bias"}), tmp_path)


def test_the_time_box_stops_before_an_epoch_that_does_not_fit(data, begun, tmp_path):
    with pytest.raises(loop.OutOfTime, match="goes on from there"):
        tiny.train(data, begun, tmp_path, deadline=time.monotonic() - 1)


def test_a_missing_device_is_one_error():
    for device in ("cuda", "foo"):
        if device == "foo" or not torch.cuda.is_available():
            with pytest.raises(DbqError, match=f"device: .?{device}"):
                runs.Place("data", device=device)


def test_missing_external_weights_name_the_remedy(monkeypatch, tmp_path):
    monkeypatch.setenv("DBQ_WEIGHTS", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DbqError, match=r"resnet20.th.*DBQ_WEIGHTS"):
        runs.find_weights("resnet20.th")


def test_batch_norm_statistics_are_those_of_the_hard_weights(data, begun, tmp_path):
    run = tiny.train(data, begun, tmp_path)
    batches = runs.batches(datasets.load(data).splits["train"], datasets.read_manifest(data), 16, "cpu")
    reestimate_batch_norm(run.network, batches, 3, seed=5)
    inputs = []
    run.network.bn1.register_forward_hook(lambda module, values, _: inputs.append(values[0]))
    for index, (images, _) in enumerate(batches.epoch(5)):
        if index < 3:
            run.network.eval()(images)
    expected = np.mean([float(value[:, 0].detach().mean()) for value in inputs])
    assert float(run.network.bn1.running_mean[0]) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_a_bf16_training_says_where_the_processor_lacks_it(data, begun, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False})
    lines = []
    run = tiny.train(data, begun, tmp_path, made=tiny.row(precision="bf16"), log=lines.append)
    assert any("no bfloat16 instructions" in line for line in lines)
    assert all(value.dtype != torch.bfloat16 for value in run.network.state_dict().values())


def test_a_label_says_how_far_a_number_may_be_believed():
    assert results.label(False, ["cpu (1 thread)"], 1, "bf16") == "MEASURED: CPU-size schedule (1 epochs, bf16)"
    assert results.label(False, ["cpu (1 thread)", "NVIDIA H200; cpu (1 thread)"], 1, "bf16") == "MEASURED: short schedule (1 epochs, bf16)"
    assert "not evidence" in results.label(True, ["cpu (1 thread)"], 1, "bf16")


def test_determinism_fills_no_new_memory_and_puts_the_settings_back():
    for enabled in (True, False):
        with pytest.raises(DbqError), loop.determinism(enabled):
            assert torch.are_deterministic_algorithms_enabled() == enabled
            torch.full((1 << 20,), 7.0)  # freed at once
            assert not torch.empty(1 << 20).isnan().all()  # what torch would write
            raise DbqError("stop", "nothing")
        assert not torch.are_deterministic_algorithms_enabled()
