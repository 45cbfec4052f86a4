"""The loop: repeatable, resumable after kill -9, guarded; the test split is out of its reach."""

import copy
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from dbq.errors import DbqError
from dbq.settings import datasets
from dbq.settings import resolve as config
from dbq.settings.resolve import DatasetSettings
from dbq.training import checkpoints, loop, results, runs
from dbq.training.checkpoints import Checkpoint, tensors_digest

KEY = "resnet20-cifar10-dbq-2t"
QUIET = {"log": lambda line: None}


@pytest.fixture(scope="module")
def params():
    tree = copy.deepcopy(config.read("params.yaml"))
    tree["schedules"]["finetune"]["smoke"] |= {"epochs": 2, "bn_batches": 2}
    tree["schedules"]["float"]["smoke"] |= {"epochs": 1, "bn_batches": 2, "warmup_epochs": 0}
    return tree


@pytest.fixture(scope="module")
def data(params, tmp_path_factory):
    """300 digits are enough to train on for a few seconds."""
    folder = tmp_path_factory.mktemp("digits")
    entry = config.dataset(params, "smoke", "cifar10")
    entry = DatasetSettings(**{**vars(entry), "validation": 1100})
    datasets.prepare("cifar10", "smoke", entry, folder, log=lambda line: None)
    return folder


@pytest.fixture(scope="module")
def float_run(params, data, tmp_path_factory):
    return runs.train_float(
        config.pretrain(params, "smoke", "resnet20-cifar10"), runs.Setting(data, tmp_path_factory.mktemp("float"), **QUIET)
    )


def quantized(params, data, float_run, folder, seed=0, **changes):
    tree = copy.deepcopy(params)
    tree["experiments"][KEY] |= changes
    experiment = config.experiment(tree, "smoke", KEY)
    return runs.train_quantized(experiment, seed, float_run.network.state_dict(), runs.Setting(data, folder, **QUIET))


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(params, data, float_run, tmp_path):
    digests = [
        tensors_digest(quantized(params, data, float_run, tmp_path / str(i), seed).network.state_dict()) for i, seed in enumerate((0, 0, 1))
    ]
    assert digests[0] == digests[1]
    assert digests[0] != digests[2]


def test_a_run_killed_after_an_epoch_ends_with_the_same_weights(params, data, float_run, tmp_path):
    whole = quantized(params, data, float_run, tmp_path / "whole")
    checkpoints.save(tmp_path / "float.pt", {"state": float_run.network.state_dict()})
    (tmp_path / "params.json").write_text(checkpoints.to_text(params))
    command = [
        sys.executable, "-m", "dbq.training", KEY, "--profile", "smoke", "--params", str(tmp_path / "params.json"), "--data", str(data),
        "--float", str(tmp_path / "float.pt"), "--checkpoints", str(tmp_path / "killed"), "--threads", str(torch.get_num_threads()),
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": "src", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    for line in process.stdout:
        if "epoch 1/2" in line:
            process.send_signal(signal.SIGKILL)
            break
    process.wait()
    (path,) = (tmp_path / "killed" / "smoke" / KEY).glob("*.pt")
    begun = checkpoints.load(path)
    checkpoints.save(path, begun | {"provenance": begun["provenance"] | {"device": "another device"}})
    resumed = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert resumed.returncode == 0, resumed.stderr
    assert "going on after epoch 1" in resumed.stdout
    state = checkpoints.load(path)
    assert state["finished"]
    assert state["provenance"]["device"] == f"another device; {begun['provenance']['device']}"
    assert tensors_digest(state["state"]) == tensors_digest(whole.network.state_dict())
    assert state["top1"] == whole.top1


def test_a_finished_run_is_adopted_without_training(params, data, float_run, tmp_path):
    first = quantized(params, data, float_run, tmp_path)
    lines = []
    experiment = config.experiment(params, "smoke", KEY)
    started = time.monotonic()
    again = runs.train_quantized(experiment, 0, float_run.network.state_dict(), runs.Setting(data, tmp_path, log=lines.append))
    assert any("adopted" in line for line in lines)
    assert time.monotonic() - started < 20
    assert again.top1 == first.top1
    assert tensors_digest(again.network.state_dict()) == tensors_digest(first.network.state_dict())


def test_checkpoints_of_other_settings_are_ignored(params, data, float_run, tmp_path):
    quantized(params, data, float_run, tmp_path)
    lines = []
    experiment = config.experiment(params | {"activations": {**params["activations"], "k": 3.0}}, "smoke", KEY)
    runs.train_quantized(experiment, 0, float_run.network.state_dict(), runs.Setting(data, tmp_path, log=lines.append))
    assert any("other settings are ignored" in line for line in lines)
    assert not any("adopted" in line for line in lines)


def test_the_test_split_is_read_once_and_only_after_the_last_epoch(params, data, float_run, tmp_path, monkeypatch):
    events = []
    load = datasets.load
    monkeypatch.setattr(runs.datasets, "load", lambda folder, splits=("train", "val"): events.append(tuple(splits)) or load(folder, splits))
    experiment = config.experiment(params, "smoke", KEY)
    log = lambda line: events.append(line.split("  ")[0]) if "epoch" in line else None  # noqa: E731
    runs.train_quantized(experiment, 0, float_run.network.state_dict(), runs.Setting(data, tmp_path, log=log))
    assert events == [("train", "val"), "seed 0 epoch 1/2", "seed 0 epoch 2/2", ("test",)]


def test_training_without_a_test_split_on_disk_only_fails_at_the_end(params, data, float_run, tmp_path):
    """The loop itself needs train and val only."""
    for split in ("train", "val"):
        for part in ("images", "labels"):
            (tmp_path / f"{split}_{part}.npy").write_bytes((data / f"{split}_{part}.npy").read_bytes())
    (tmp_path / "manifest.json").write_bytes((data / "manifest.json").read_bytes())
    with pytest.raises(DbqError, match="test_"):
        quantized(params, tmp_path, float_run, tmp_path / "checkpoints")
    (path,) = (tmp_path / "checkpoints").rglob("*.pt")
    assert checkpoints.load(path)["finished"]


def test_result_files_hold_what_the_network_is(params, data, float_run, tmp_path):
    run = quantized(params, data, float_run, tmp_path)
    experiment = config.experiment(params, "smoke", KEY)
    values = results.write_quantized([run], experiment, tmp_path / "metrics", tmp_path / "model.pt")
    weights = [run.network.get_submodule(row.layer).weight.detach().numpy() for row in run.policy]
    zeros = sum(int((weight == 0).sum()) for weight in weights) / sum(weight.size for weight in weights)
    assert values["zero_rate"][0] == pytest.approx(zeros)
    assert values["top1"] == [run.top1]
    saved = checkpoints.load(tmp_path / "model.pt")
    network = runs.rebuild(experiment, saved["states"]["0"], saved["image_size"])
    images = torch.randn(4, 3, 8, 8)
    assert torch.equal(network(images), run.network(images))
    test = datasets.load(data, ("test",)).splits["test"]
    batch = runs.batches(test, datasets.load(data).manifest, 200, "cpu")
    correct = sum(int((network(x).argmax(1) == y).sum()) for x, y in batch.in_order())
    assert run.top1 == pytest.approx(100 * correct / len(test.labels))


def test_a_loss_that_is_not_finite_stops_with_the_key(params, data, float_run, tmp_path):
    state = {name: value.clone() for name, value in float_run.network.state_dict().items()}
    state["linear.bias"][0] = float("nan")
    with pytest.raises(DbqError, match=r"epoch 1, step 1: the loss is nan.*learning_rate"):
        runs.train_quantized(config.experiment(params, "smoke", KEY), 0, state, runs.Setting(data, tmp_path, **QUIET))


def test_scales_that_explode_name_the_layer(params, data, float_run, tmp_path):
    with pytest.raises(DbqError, match=r"layer \S+: (a branch has collapsed|.*not finite)"):
        quantized(params, data, float_run, tmp_path, training={"learning_rate": 1e12})


def test_time_box_stops_before_an_epoch_that_does_not_fit(params, data, float_run, tmp_path):
    from dbq.training.loop import OutOfTime

    experiment = config.experiment(params, "smoke", KEY)
    setting = runs.Setting(data, tmp_path, deadline=time.monotonic() - 1, **QUIET)
    with pytest.raises(OutOfTime, match="goes on from there"):
        runs.train_quantized(experiment, 0, float_run.network.state_dict(), setting)


def checkpoint_of(folder, **content):
    checkpoint = Checkpoint(folder, 0, "f" * 64, "resnet20")
    checkpoint.write(state={}, **content)
    return checkpoint


def test_checkpoint_of_another_network_or_config(tmp_path):
    checkpoint = checkpoint_of(tmp_path)
    state = checkpoints.load(checkpoint.path)
    with pytest.raises(DbqError, match="of resnet20, not of mobilenet_v1"):
        checkpoints.check(state, checkpoint.path, "mobilenet_v1", "f" * 64)
    with pytest.raises(DbqError, match="other settings or data"):
        checkpoints.check(state, checkpoint.path, "resnet20", "e" * 64)


@pytest.mark.parametrize("damage", [lambda content: content[: len(content) // 2], lambda content: b"", lambda content: b"hello" * 50])
def test_damaged_checkpoints_name_the_file(tmp_path, damage):
    checkpoint = checkpoint_of(tmp_path)
    checkpoint.path.write_bytes(damage(checkpoint.path.read_bytes()))
    with pytest.raises(DbqError, match=rf"{checkpoint.path.name}: damaged"):
        checkpoint.read(log=lambda line: None)


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("pwned",)


def test_a_checkpoint_cannot_run_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state": Malicious()}, tmp_path / "model.pt")
    with pytest.raises(DbqError, match="not a file of tensors"):
        checkpoints.load(tmp_path / "model.pt")
    assert not (tmp_path / "pwned").exists()


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    checkpoint = checkpoint_of(tmp_path, epoch=1)
    before = checkpoint.path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DbqError, match=r"No space left on device.*free some space"):
        checkpoint.write(state={}, epoch=2)
    assert checkpoint.path.read_bytes() == before
    assert os.listdir(tmp_path) == [checkpoint.path.name]


def test_unknown_key_and_missing_device():
    command = [sys.executable, "-m", "dbq.training", "resnet20-cifar10-dbq-9t"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": "src"})
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "resnet20-cifar10-dbq-9t" in done.stderr
    if not torch.cuda.is_available():
        with pytest.raises(DbqError, match="device"):
            runs.Setting("data", device="cuda")


def test_missing_external_weights_name_the_remedy(monkeypatch, tmp_path):
    monkeypatch.setenv("DBQ_WEIGHTS", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DbqError, match=r"resnet20.th.*DBQ_WEIGHTS"):
        runs.find_weights("resnet20.th")


def test_batch_norm_statistics_are_those_of_the_hard_weights(params, data, float_run, tmp_path):
    from dbq.training.evaluation import reestimate_batch_norm

    run = quantized(params, data, float_run, tmp_path)
    split = datasets.load(data).splits["train"]
    batches = runs.batches(split, datasets.load(data).manifest, 64, "cpu")
    reestimate_batch_norm(run.network, batches, 3, seed=5)
    inputs = []
    run.network.bn1.register_forward_hook(lambda module, values, _: inputs.append(values[0]))
    for index, (images, _) in enumerate(batches.epoch(5)):
        if index < 3:
            run.network.eval()(images)
    expected = np.mean([float(value[:, 0].detach().mean()) for value in inputs])
    assert float(run.network.bn1.running_mean[0]) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_a_bf16_run_learns_says_so_in_its_label_and_warns_without_hardware(params, data, float_run, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False})
    lines = []
    tree = copy.deepcopy(params)
    tree["schedules"]["finetune"]["smoke"] |= {"precision": "bf16", "epochs": 1}
    experiment = config.experiment(tree, "smoke", KEY)
    run = runs.train_quantized(experiment, 0, float_run.network.state_dict(), runs.Setting(data, tmp_path, log=lines.append))
    assert any("no bfloat16 instructions" in line for line in lines)
    assert run.top1 > 30  # of ten classes
    assert all(value.dtype != torch.bfloat16 for value in run.network.state_dict().values())
    assert results.label(False, "cpu (1 thread)", experiment.training, 1) == "MEASURED: CPU-size schedule (1 epochs, bf16)"
    assert results.label(False, "NVIDIA H200; cpu (1 thread)", experiment.training, 1) == "MEASURED: short schedule (1 epochs, bf16)"


def test_determinism_fills_no_new_memory_and_puts_the_settings_back():
    fill = torch.utils.deterministic
    for enabled in (True, False):
        with pytest.raises(DbqError), loop.determinism(enabled):
            assert torch.are_deterministic_algorithms_enabled() == enabled
            torch.full((1 << 20,), 7.0)  # freed at once
            assert not torch.empty(1 << 20).isnan().all()  # what torch would write
            raise DbqError("stop", "nothing")
        assert not torch.are_deterministic_algorithms_enabled()
        assert fill.fill_uninitialized_memory
