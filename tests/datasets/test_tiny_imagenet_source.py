"""The Tiny-ImageNet reader on a small synthetic set in each layout."""

import io
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from dbq.datasets import obtain, tiny_imagenet
from dbq.errors import DbqError
from dbq.files import md5_of

WNIDS = ["n00000007", "n00000003"]  # unsorted on purpose
CONFIG = SimpleNamespace(classes=2, validation=2, stand_in=False)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    for name, value in (("CLASSES", 2), ("TRAIN_PER_CLASS", 3), ("TEST_IMAGES", 4)):
        monkeypatch.setattr(tiny_imagenet, name, value)
    monkeypatch.delenv("DBQ_TINY_IMAGENET", raising=False)

    def no_network(*arguments):
        raise OSError("no route to host")

    monkeypatch.setattr(obtain, "_download_url", no_network)


def jpeg(value, size, mode="RGB"):
    content = io.BytesIO()
    Image.new(mode, (size, size), value if mode == "L" else (value, value, 255 - value)).save(content, "JPEG", quality=95)
    return content.getvalue()


def members(size=64):
    """{name inside tiny-imagenet-200: content}: 3 train images of each class, 4 val images; grey level says which."""
    files = {"wnids.txt": "\n".join(WNIDS).encode() + b"\n", "words.txt": b"n00000003\ttench, Tinca tinca\nn00000007\tcock\nn1\tother\n"}
    for index, wnid in enumerate(sorted(WNIDS)):
        for number in (2, 0, 1):
            files[f"train/{wnid}/images/{wnid}_{number}.JPEG"] = jpeg(100 * index + 10 * number, size)
    lines = []
    for number in (3, 0, 2, 1):
        files[f"val/images/val_{number}.JPEG"] = jpeg(200 + 5 * number, size, "L" if number == 2 else "RGB")
        lines.append(f"val_{number}.JPEG\t{WNIDS[number % 2]}\t0\t0\t9\t9\n")
    files["val/val_annotations.txt"] = "".join(lines).encode()
    return files


def write_folder(folder, files):
    for name, content in files.items():
        file = folder / "tiny-imagenet-200" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


def write_zip(folder, files):
    with zipfile.ZipFile(folder / "tiny-imagenet-200.zip", "w") as archive:
        for name, content in files.items():
            archive.writestr(f"tiny-imagenet-200/{name}", content)


def write_tar(folder, files):
    beside = ("wnids.txt", "val/val_annotations.txt")
    with tarfile.open(folder / "images.tar.xz", "w:xz") as archive:
        for name, content in files.items():
            if name not in beside:
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    for name in beside:
        (folder / name.rsplit("/", 1)[-1]).write_bytes(files[name])


def read(folder, monkeypatch):
    monkeypatch.setenv("DBQ_TINY_IMAGENET", str(folder))
    return tiny_imagenet.read(Path("nowhere"), CONFIG, log=lambda line: None)


@pytest.mark.parametrize("write, size", [(write_folder, 64), (write_zip, 64), (write_tar, 32)])
def test_every_layout(write, size, tmp_path, monkeypatch):
    write(tmp_path, members(size))
    source = read(tmp_path, monkeypatch)
    assert source.class_names == ["tench", "cock"]
    assert source.train_labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert np.abs(source.train_images.astype(int)[:, 0].mean((1, 2)) - [0, 10, 20, 100, 110, 120]).max() < 2
    assert np.abs(source.train_images.astype(int)[:, 2].mean((1, 2)) - [255, 245, 235, 155, 145, 135]).max() < 2
    assert np.abs(source.test_images.astype(int)[:, 0].mean((1, 2)) - [200, 205, 210, 215]).max() < 2
    assert source.test_labels.tolist() == [1, 0, 1, 0]
    assert source.train_images.shape == (6, 3, 32, 32)
    assert source.kind.startswith("mirror") and source.md5_identical is (None if write is write_folder else False)


def test_halving_averages_two_by_two_pixels(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG", quality=95)
    decoded = np.asarray(Image.open(io.BytesIO(content.getvalue()))).astype(float)
    means = decoded.reshape(32, 2, 32, 2, 3).mean((1, 3)).transpose(2, 0, 1)
    assert np.abs(tiny_imagenet.decode(content.getvalue(), tmp_path) - means).max() <= 0.5


def test_the_published_zip_is_recognised(tmp_path, monkeypatch):
    (tmp_path / "tiny-imagenet").mkdir()
    write_zip(tmp_path / "tiny-imagenet", members())
    with pytest.raises(DbqError, match=r"md5 of tiny-imagenet-200\.zip.*MIRROR"):
        tiny_imagenet.read(tmp_path, CONFIG, log=lambda line: None)
    monkeypatch.setattr(tiny_imagenet, "ARCHIVE_MD5", md5_of(tmp_path / "tiny-imagenet" / "tiny-imagenet-200.zip"))
    source = tiny_imagenet.read(tmp_path, CONFIG, log=lambda line: None)
    assert source.md5_identical is True and source.kind == "published files, md5-identical"


def test_nothing_found_and_no_network(tmp_path):
    with pytest.raises(DbqError, match=r"DBQ_TINY_IMAGENET.*tiny-imagenet-200\.zip could not be downloaded"):
        tiny_imagenet.read(tmp_path, CONFIG, log=lambda line: None)


def without(name):
    return lambda files: files.pop(name)


def replaced(name, content):
    return lambda files: files.update({name: content})


@pytest.mark.parametrize(
    "change, message",
    [
        (without("train/n00000003/images/n00000003_1.JPEG"), r"9 images, expected 10.*n00000003_1\.JPEG"),
        (without("val/images/val_2.JPEG"), r"val_2\.JPEG"),
        (without("val/val_annotations.txt"), r"val_annotations\.txt is missing"),
        (replaced("wnids.txt", b"n00000003\n"), "names 1 classes, expected 2"),
        (replaced("train/n00000003/images/n00000003_7.JPEG", jpeg(1, 64)), "number is too high"),
        (replaced("train/n00000003/images/n00000003_1.JPEG", jpeg(1, 64)[:-200]), "n00000003_1.JPEG: .*not a whole JPEG"),
        (replaced("train/n00000003/images/n00000003_1.JPEG", jpeg(1, 48)), "48x48 pixels"),
        (replaced("val/val_annotations.txt", b"val_0.JPEG\tn00000003\n"), "says nothing of val_1"),
        (replaced("val/val_annotations.txt", b"val_0.JPEG\tn9\n"), "has the line"),
        (replaced("../outside", b"x"), "leaves the folder"),
    ],
)  # fmt: skip
def test_damage_is_named(change, message, tmp_path, monkeypatch):
    files = members()
    change(files)
    write_zip(tmp_path, files)
    with pytest.raises(DbqError, match=message):
        read(tmp_path, monkeypatch)
