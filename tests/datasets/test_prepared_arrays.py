"""Splits, manifests and the reading of prepared arrays."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dbq import datasets
from dbq.datasets import arrays, pictures
from dbq.errors import DbqError
from dbq.files import sha256_of


def config(**changes):
    values = {
        "source": "digits", "classes": 10, "form": "32x32", "validation": 200, "split_seed": 0, "stand_in": True,
        "augment": {"pad": 1, "flip": False}, "normalise": "measured",
    }  # fmt: skip
    return SimpleNamespace(**{**values, **changes})


def prepare(folder, **changes):
    return datasets.prepare("cifar10", "smoke", config(**changes), folder, log=lambda line: None)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared") / "cifar10"
    return folder, prepare(folder)


def test_digits_counts_and_label(digits):
    from sklearn.datasets import load_digits

    folder, manifest = digits
    assert [manifest["counts"][split]["total"] for split in arrays.SPLITS] == [1200, 200, 397]
    per_class = np.sum([manifest["counts"][split]["per_class"] for split in arrays.SPLITS], axis=0)
    assert per_class.tolist() == np.bincount(load_digits().target).tolist()
    assert manifest["label"] == "stand-in (scikit-learn digits)" and manifest["image_size"] == 8
    everything = datasets.load(folder, arrays.SPLITS)
    pixels = np.concatenate([split.images[:, 0].numpy() for split in everything.splits.values()])
    assert int(pixels.max()) == 255
    # every published image is in exactly one split
    ours = sorted(image.tobytes() for image in np.rint(pixels / 255 * 16).astype(np.uint8))
    assert ours == sorted(image.astype(np.uint8).tobytes() for image in load_digits().images)


def test_two_classes_are_five_and_above(tmp_path):
    manifest = prepare(tmp_path, classes=2, split_seed=3)
    assert manifest["class_names"] == ["0 to 4", "5 to 9"]
    totals = np.sum([manifest["counts"][split]["per_class"] for split in arrays.SPLITS], axis=0)
    assert totals.tolist() == [901, 896]  # 178+182+177+183+181 and 182+181+179+174+180 in the description of the data set


def test_measured_normalisation_is_that_of_the_training_images(digits):
    folder, manifest = digits
    pixels = datasets.load(folder, ("train",)).splits["train"].images.numpy() / 255
    assert np.allclose(manifest["mean"], pixels.mean((0, 2, 3)), atol=1e-12)
    assert np.allclose(manifest["std"], pixels.std((0, 2, 3)), atol=1e-12)


def test_imagenet_normalisation(tmp_path):
    manifest = prepare(tmp_path, normalise="imagenet")
    assert manifest["mean"] == [0.485, 0.456, 0.406] and manifest["std"] == [0.229, 0.224, 0.225]


def test_the_same_bytes_again_and_others_with_another_seed(digits, tmp_path):
    folder, manifest = digits
    assert prepare(tmp_path / "again") == manifest
    for file in folder.iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()
    assert prepare(tmp_path / "other", split_seed=1)["content_sha256"] != manifest["content_sha256"]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 5), min_size=12, max_size=200), st.floats(0.01, 0.4), st.integers(0, 5))
def test_carved_splits_are_disjoint_complete_and_proportional(labels, fraction, seed):
    labels = np.array(sorted(labels) if seed % 2 else labels)
    sizes = np.bincount(labels)[np.unique(labels)]
    count = int(fraction * len(labels))
    if (np.ceil(count * sizes / len(labels)) >= sizes).any():
        return
    kept, carved = arrays.carve(labels, count, seed)
    assert len(carved) == count
    assert np.array_equal(np.sort(np.concatenate([kept, carved])), np.arange(len(labels)))
    for label, size in zip(np.unique(labels), sizes, strict=True):
        assert abs((labels[carved] == label).sum() - count * size / len(labels)) < 1
    again = arrays.carve(labels, count, seed)
    assert np.array_equal(kept, again[0]) and np.array_equal(carved, again[1])


def test_a_split_that_uses_up_a_class(tmp_path):
    with pytest.raises(DbqError, match="validation: 1400"):
        prepare(tmp_path, validation=1400)


def test_only_the_named_splits_are_read(digits, tmp_path):
    import shutil

    folder = shutil.copytree(digits[0], tmp_path / "cifar10")
    for kind in ("images", "labels"):
        (folder / f"test_{kind}.npy").unlink()
    assert set(datasets.load(folder).splits) == {"train", "val"}
    with pytest.raises(DbqError, match=r"test_images\.npy: no such file.*dvc repro prepare@cifar10"):
        datasets.load(folder, ("test",))


def rewrite(change):
    def damage(file):
        np.save(file, change(np.load(file)))

    return damage


@pytest.mark.parametrize(
    "name, damage, message",
    [
        ("train_images.npy", lambda file: file.unlink(), "no such file"),
        ("train_images.npy", lambda file: file.write_bytes(file.read_bytes()[:-10]), "truncated"),
        ("train_images.npy", lambda file: file.write_bytes(b""), "truncated"),
        ("train_images.npy", rewrite(lambda array: array[:, :1]), "the manifest says"),
        ("train_images.npy", rewrite(lambda array: array.astype(np.int16)), "the manifest says"),
        ("val_labels.npy", rewrite(lambda array: array[1:]), "the manifest says"),
        ("val_labels.npy", rewrite(lambda array: array[::-1].copy()), "sha256 differs"),
        ("val_labels.npy", lambda file: np.save(file, np.array([{}], object), allow_pickle=True), "not an array"),
        ("manifest.json", lambda file: file.unlink(), "no such file"),
        ("manifest.json", lambda file: file.write_text("{}"), "not the manifest"),
        ("manifest.json", lambda file: file.write_text("{"), "not valid JSON"),
    ],
)  # fmt: skip
def test_damage_names_the_file(name, damage, message, digits, tmp_path):
    import shutil

    folder = shutil.copytree(digits[0], tmp_path / "cifar10")
    damage(folder / name)
    with pytest.raises(DbqError, match=rf"{name}: .*{message}.*dvc repro"):
        datasets.load(folder)


def test_a_broken_run_leaves_no_manifest(tmp_path, monkeypatch):
    prepare(tmp_path)

    def full(*arguments, **keywords):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(DbqError, match="No space left"):
        prepare(tmp_path)
    with pytest.raises(DbqError, match="dvc repro"):
        datasets.load(tmp_path)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"source": "mnist"}, "datasets.cifar10.smoke.source.*digits"),
        ({"classes": 7}, "datasets.cifar10.smoke.classes: 7"),
        ({"stand_in": False}, "stand_in"),
        ({"source": "imagenet"}, "ILSVRC2012.*image-net.org.*smoke or cifar10"),
        ({"source": "visual_wake_words"}, "mscoco_minival_ids.*0.5 %.*smoke or cifar10"),
    ],
)
def test_configs_that_fit_no_source(changes, message, tmp_path):
    with pytest.raises(DbqError, match=message):
        prepare(tmp_path, **changes)


def test_tables_and_pictures(digits):
    folder, manifest = digits
    table = pictures.describe(manifest)
    assert table.loc["total"].tolist() == [1200, 200, 397, 1797]
    assert table.loc["3", "total"] == 183
    assert pictures.files_table(manifest).index.tolist() == ["sklearn.datasets.load_digits()"]
    split = datasets.load(folder, ("val",)).splits["val"]
    figure = pictures.grid(split, manifest["class_names"], per_class=3)
    assert len(figure.axes) == 30
    shown = figure.axes[3 * 4 + 1].get_images()[0].get_array()  # the second picture of class 4
    members = split.images[split.labels == 4].permute(0, 2, 3, 1).numpy()
    assert any(np.array_equal(shown, member) for member in members)


def test_command_line(tmp_path):
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-m", "dbq.datasets", "vww", "--profile", "smoke", "--out", str(tmp_path / "vww")]
    subprocess.run(command, cwd=root, env={"PYTHONPATH": "src", "OMP_NUM_THREADS": "1"}, check=True, capture_output=True)
    manifest = json.loads((tmp_path / "vww" / "manifest.json").read_text())
    assert manifest["name"] == "vww" and manifest["classes"] == 2
    assert manifest["arrays"]["val_images.npy"] == sha256_of(tmp_path / "vww" / "val_images.npy")
    command[3] = "nothing"
    failed = subprocess.run(command, cwd=root, env={"PYTHONPATH": "src", "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert failed.returncode == 2 and "nothing" in failed.stderr and len(failed.stderr.splitlines()) == 1
