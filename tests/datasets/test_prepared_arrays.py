"""Splits, manifests and the reading of prepared arrays."""

import hashlib
import io
import json
import math
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dbq import datasets
from dbq.datasets import arrays, pictures
from dbq.datasets import digits as digits_source
from dbq.errors import DbqError


def config(**changes):
    values = {"source": "digits", "classes": 10, "validation": 200, "split_seed": 0, "stand_in": True, "normalise": "measured"}
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


def test_a_source_is_imported_when_it_is_read():
    code = (
        "import sys, dbq.datasets, dbq.datasets.loader; "
        "sys.exit(any(f'dbq.datasets.{name}' in sys.modules for name in dbq.datasets.SOURCES))"
    )
    assert subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": "src"}).returncode == 0


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


@pytest.mark.parametrize("count", [1395, 1400, 10**30])
def test_a_split_that_uses_up_a_class(count, tmp_path):
    with pytest.raises(DbqError, match=f"validation: {count} of 1400 images leave none"):
        prepare(tmp_path, validation=count)


def test_only_the_named_splits_are_read(digits):
    assert set(datasets.load(digits[0]).splits) == {"train", "val"}
    assert datasets.load(digits[0], ()).splits == {}
    with pytest.raises(DbqError, match="split 'tset'"):
        datasets.load(digits[0], ("tset",))


def flip_last_bit(file):
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize(
    "name, damage, message",
    [
        ("train_images.npy", lambda file: file.unlink(), "no such file"),
        ("train_images.npy", lambda file: file.write_bytes(file.read_bytes()[:-10]), "sha256 differs"),
        ("train_images.npy", lambda file: file.write_bytes(b""), "sha256 differs"),
        ("val_labels.npy", flip_last_bit, "sha256 differs"),
        ("test_images.npy", flip_last_bit, "sha256 differs"),  # before the training, which reads no test images
        ("test_labels.npy", lambda file: file.unlink(), "no such file"),
        ("manifest.json", lambda file: file.unlink(), "no such file"),
        ("manifest.json", lambda file: file.write_text("{}"), "not the manifest"),
        ("manifest.json", lambda file: file.write_text("[]"), "not the manifest"),
        ("manifest.json", lambda file: file.write_text("{"), "not valid JSON"),
        ("manifest.json", lambda file: file.write_bytes(b"\xff"), "not UTF-8"),
    ],
)  # fmt: skip
def test_damage_names_the_file(name, damage, message, digits, tmp_path):
    folder = shutil.copytree(digits[0], tmp_path / "cifar10")
    damage(folder / name)
    with pytest.raises(DbqError, match=rf"{name}: .*{message}.*dvc repro"):
        datasets.load(folder)


def rewritten(folder, change_manifest=lambda manifest: None, **arrays) -> None:
    """Change arrays and manifest of a folder and make all sums right again: what a program with a fault, or an attacker, could write."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for name, content in arrays.items():
        data = io.BytesIO()
        np.save(data, content, allow_pickle=True) if isinstance(content, np.ndarray) else data.write(content)
        (folder / f"{name}.npy").write_bytes(data.getvalue())
        manifest["arrays"][f"{name}.npy"] = hashlib.sha256(data.getvalue()).hexdigest()
    manifest["content_sha256"] = hashlib.sha256(
        "".join(manifest["arrays"][name] for name in sorted(manifest["arrays"])).encode()
    ).hexdigest()
    change_manifest(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def header_only(shape) -> bytes:
    data = io.BytesIO()
    np.lib.format.write_array_header_1_0(data, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return data.getvalue()


LABELS = np.repeat(np.arange(10), 20)


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("val_labels", np.where(np.arange(200) == 7, 99, LABELS), "labels from 0 to 99"),
        ("val_labels", np.where(np.arange(200) == 7, -1, LABELS), "labels from -1 to 9"),
        ("val_labels", LABELS, "the manifest counts others"),
        ("val_labels", LABELS[1:], "the manifest says"),
        ("val_labels", np.array([{}], object), "not an array"),
        ("train_images", np.zeros((1200, 3, 8, 8), np.int16), "the manifest says"),
        ("train_images", header_only((10**13, 3, 8, 8)), "not an array"),
        ("train_images", header_only((10**30, 3, 8, 8)), "not an array"),
        ("train_images", b"", "not an array"),
    ],
)
def test_arrays_that_contradict_the_manifest_under_a_right_sum(name, content, message, digits, tmp_path):
    folder = shutil.copytree(digits[0], tmp_path / "cifar10")
    rewritten(folder, **{name: content})
    with pytest.raises(DbqError, match=rf"{name}\.npy: .*{message}"):
        datasets.load(folder)


@pytest.mark.parametrize(
    "key, value",
    [("mean", None), ("mean", [0.5, 0.5]), ("std", [0.1, 0.0, 0.1]), ("std", [0.1, math.nan, 0.1]), ("counts", {"train": 1}),
     ("counts", {}), ("image_size", -8), ("image_size", "8"), ("classes", 11), ("class_names", ["0"] * 9), ("arrays", {}),
     ("content_sha256", "0" * 64), ("label", 3), ("files", [1])],
)  # fmt: skip
def test_a_manifest_without_a_field_or_with_a_wrong_one(key, value, digits, tmp_path):
    folder = shutil.copytree(digits[0], tmp_path / "cifar10")
    rewritten(folder, lambda manifest: manifest.update({key: value}))
    with pytest.raises(DbqError, match=rf"manifest\.json: .*{key}"):
        datasets.load(folder)
    rewritten(folder, lambda manifest: manifest.pop(key))
    with pytest.raises(DbqError, match=rf"manifest\.json: .*{key}"):
        datasets.read_manifest(folder)


@pytest.mark.parametrize("wanted", [{"name": "vww"}, {"profile": "small"}, {"name": "cifar10", "profile": "small"}])
def test_the_folder_of_another_data_set(wanted, digits):
    with pytest.raises(DbqError, match=f"data set cifar10 of the profile smoke, not .*{next(reversed(wanted.values()))}"):
        datasets.load(digits[0], **wanted)
    assert datasets.load(digits[0], name="cifar10", profile="smoke").manifest == digits[1]


@pytest.mark.parametrize("label", [-1, 10])
def test_a_source_with_labels_out_of_range_is_refused(label, tmp_path, monkeypatch):
    images, labels = np.zeros((40, 3, 8, 8), np.uint8), np.arange(40) % 10
    source = arrays.Source("Broken", "", "", "", list("0123456789"), images, labels, images, np.where(labels == 3, label, labels), "")
    monkeypatch.setattr(digits_source, "read", lambda raw, settings, log: source)
    with pytest.raises(DbqError, match=r"Broken: labels from .*10 classes"):
        prepare(tmp_path)


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
        ({"source": "mnist"}, "profiles.smoke.datasets.cifar10.source.*digits"),
        ({"classes": 7}, "profiles.smoke.datasets.cifar10.classes: 7"),
        ({"stand_in": False}, "stand_in"),
        ({"source": "imagenet"}, "ILSVRC2012.*image-net.org.*not at hand.*no loader.*smoke or small"),
        ({"source": "visual_wake_words"}, "mscoco_minival_ids.*0.5 %.*not at hand.*no loader.*smoke or small"),
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


@pytest.mark.parametrize("source, at_hand", [("digits", True), ("cifar10", True), ("imagenet", False), ("visual_wake_words", False)])
def test_what_is_at_hand(source, at_hand):
    line = datasets.at_hand(config(source=source))
    assert (line is None) == at_hand
    assert at_hand or ("\n" not in line and "no loader" in line)
