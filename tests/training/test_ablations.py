"""Ablations: one change to an experiment, judged on validation, and the test images out of reach."""

import copy

import numpy as np
import pytest

from dbq import config, datasets
from dbq.config import DatasetConfig
from dbq.errors import DbqError
from dbq.training import ablations, runs


@pytest.fixture(scope="module")
def tree():
    tree = copy.deepcopy(config.read("params.yaml"))
    tree["schedules"]["ablation"]["smoke"] |= {"epochs": 1, "bn_batches": 1}
    tree["schedules"]["float_long"]["smoke"] |= {"epochs": 1, "bn_batches": 1, "warmup_epochs": 0}
    tree["ablations"] = {key: tree["ablations"][key] for key in ("1t-base", "1t-temperature-10", "2t-base")}
    tree["ablations"]["1t-temperature-10"]["seeds"]["smoke"] = [0, 1]
    return tree


@pytest.fixture(scope="module")
def data(tree, tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    entry = DatasetConfig(**{**vars(config.dataset(tree, "smoke", "cifar10")), "validation": 1200})
    datasets.prepare("cifar10", "smoke", entry, folder, log=lambda line: None)
    return folder


@pytest.fixture(scope="module")
def state(tree, data, tmp_path_factory):
    setting = runs.Setting(data, tmp_path_factory.mktemp("float"), log=lambda line: None)
    return runs.train_float(config.pretrain(tree, "smoke", tree["ablation_float"]), setting).network.state_dict()


def test_rows_say_what_was_changed_and_what_it_gave_without_the_test_images(tree, data, state, tmp_path):
    for file in data.glob("test*"):  # whoever read them now would fail
        file.rename(tmp_path / file.name)
    try:
        rows = ablations.run(tree, "smoke", state, runs.Setting(data, tmp_path, log=lambda line: None))
    finally:
        for file in tmp_path.glob("test*"):
            file.rename(data / file.name)
    by_key = {row["key"]: row for row in rows}
    assert by_key["1t-temperature-10"]["change"] == "temperature schedule constant, start 10.0, end 10.0"
    assert by_key["1t-base"]["delta_to_base"] == 0
    assert by_key["1t-temperature-10"]["delta_to_base"] == pytest.approx(
        sum(by_key["1t-temperature-10"]["val_top1"]) / 2 - by_key["1t-base"]["val_top1"][0]
    )
    assert (by_key["1t-temperature-10"]["n"], by_key["1t-temperature-10"]["seeds"]) == (2, [0, 1])
    assert by_key["2t-base"]["n"] == 0
    assert by_key["2t-base"]["label"] == "not run: ablations.2t-base.seeds has no entry smoke"


def test_a_recorded_row_is_taken_as_it_is_or_stops_the_stage(tree, tmp_path):
    tree, record = copy.deepcopy(tree), tmp_path / "metrics.json"
    settings = config.settings_of(config.ablation(tree, "smoke", "1t-base"))
    measured = {
        "key": "1t-base", "n": 2, "seeds": [0, 1], "float": tree["ablation_float"], "settings": settings, "epochs": 1,
        "val_top1": [90.0, 92.0], "zero_rate": [0.4, 0.5], "soft_hard_gap": [0.1, 0.1], "device": "cpu", "data_source": "digits",
        "label": "SMOKE", "delta_to_base": 7.0,
    }  # fmt: skip
    ablations.write([measured], tmp_path)
    tree["ablations"] = {"1t-base": tree["ablations"]["1t-base"]}
    entry = tree["ablations"]["1t-base"]
    entry["seeds"]["smoke"] = {"recorded": ablations.digest(measured)}
    for turn in range(2):  # the second time from what the first has written
        rows = ablations.run(tree, "smoke", {}, None, record)
        assert rows == [{**measured, **rows[0], "delta_to_base": 0.0, "label": "SMOKE; recorded"}], turn
        ablations.write(rows, tmp_path)
    assert config.trained_in(entry["seeds"]) == ["cifar10", "paper"]
    config.check({**config.read("params.yaml"), "ablations": tree["ablations"]})

    entry["training"] = {"learning_rate": 0.5}
    with pytest.raises(DbqError, match=r"ablations\.1t-base\.seeds\.smoke: recorded, but measured with other settings"):
        ablations.run(tree, "smoke", {}, None, record)
    entry["training"] = {}
    tree["ablation_float"] = "resnet20-cifar10"
    with pytest.raises(DbqError, match=r"ablations\.1t-base\.seeds\.smoke: recorded, but measured with other settings"):
        ablations.run(tree, "smoke", {}, None, record)
    tree["ablation_float"] = measured["float"]
    ablations.write([{**measured, "val_top1": [90.0, 93.0]}], tmp_path)
    with pytest.raises(DbqError, match=rf"recorded {ablations.digest(measured)}, and .*metrics\.json holds"):
        ablations.run(tree, "smoke", {}, None, record)
    ablations.write([{"key": "1t-base", "n": 0}], tmp_path)
    with pytest.raises(DbqError, match=r"has no result of 1t-base -> write seeds"):
        ablations.run(tree, "smoke", {}, None, record)


@pytest.mark.parametrize("profile", config.PROFILES)
def test_the_float_network_has_not_seen_the_validation_images(profile):
    """External weights were trained by others on every training image; what is trained here leaves the validation split out."""
    params = config.read("params.yaml")
    assert config.pretrain(params, profile, params["ablation_float"]).weights is None


def test_ablations_start_from_the_float_network_that_is_named(tree):
    assert config.ablation(tree, "smoke", "1t-base").pretrain_key == tree["ablation_float"]
    assert config.experiment(tree, "smoke", tree["ablations"]["1t-base"]["base"]).pretrain_key == "resnet20-cifar10"
    for wrong in ("mobilenet_v1-cifar10", "resnet20-cifar100"):
        with pytest.raises(DbqError, match=rf"ablation_float: {wrong}, and ablations\.1t-base is an ablation of resnet20-cifar10"):
            config.ablation({**tree, "ablation_float": wrong}, "smoke", "1t-base")
    with pytest.raises(DbqError, match=r"pretrain\.mine: the key is neither NETWORK-DATASET nor NETWORK-DATASET-NAME"):
        config.pretrain({**tree, "pretrain": {"mine": tree["pretrain"]["resnet20-cifar10"]}}, "smoke", "mine")


def test_an_unknown_base_or_key_is_an_error(tree):
    wrong = copy.deepcopy(tree)
    wrong["ablations"]["1t-base"]["base"] = "resnet21"
    with pytest.raises(DbqError, match=r"no key experiments\.resnet21"):
        config.ablation(wrong, "smoke", "1t-base")
    wrong["ablations"]["1t-base"] = {**tree["ablations"]["1t-base"], "temprature": 3}
    with pytest.raises(DbqError, match=r"ablations\.1t-base: unknown key temprature"):
        config.ablation(wrong, "smoke", "1t-base")


def test_training_ends_with_the_same_weights_whatever_the_test_images_are(tree, data, state, tmp_path):
    """Proof that training never sees them: other test images, same bits."""
    from dbq.training.checkpoints import tensors_digest

    experiment = config.ablation(tree, "smoke", "1t-base")
    digests = []
    originals = {file: file.read_bytes() for file in data.glob("test*")}
    assert originals
    for turn in range(2):
        if turn:
            for file in originals:
                array = np.load(file)
                np.save(file, np.zeros_like(array))
        setting = runs.Setting(data, tmp_path / str(turn), log=lambda line: None)
        digests.append(tensors_digest(runs.train_quantized(experiment, 0, state, setting, test=False).network.state_dict()))
    for file, content in originals.items():
        file.write_bytes(content)
    assert digests[0] == digests[1]
