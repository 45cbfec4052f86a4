"""The CIFAR-10 reader on small synthetic files of both published layouts, and on the real files where they are at hand."""

import gzip
import hashlib
import io
import os
import pickle
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from dbq import datasets
from dbq.datasets import cifar10
from dbq.errors import DbqError

PER_BATCH = 30
CONFIG = SimpleNamespace(source="cifar10", classes=10, validation=20, split_seed=0, stand_in=False, normalise="measured")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(cifar10, "IMAGES_PER_BATCH", PER_BATCH)
    monkeypatch.delenv("DBQ_CIFAR10", raising=False)

    def no_network(*arguments):
        raise OSError("no route to host")

    monkeypatch.setattr(cifar10, "_download_url", no_network)


@pytest.fixture
def images():
    """{batch: (pixels (30, 3072), labels (30,))}"""
    generator = np.random.default_rng(1)
    return {
        batch: (generator.integers(0, 256, (PER_BATCH, 3072), np.uint8), generator.permutation(np.arange(PER_BATCH) % 10))
        for batch in cifar10.BATCHES
    }  # fmt: skip


def python_bytes(pixels, labels, protocol=2):
    return pickle.dumps(
        {"batch_label": "a batch", "labels": labels.tolist(), "data": pixels, "filenames": ["a.png"] * len(labels)}, protocol
    )


def binary_bytes(pixels, labels):
    return b"".join(bytes([label]) + row.tobytes() for row, label in zip(pixels, labels, strict=True))


def write_python(folder, images, protocol=2):
    folder = folder / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for batch, (pixels, labels) in images.items():
        (folder / batch).write_bytes(python_bytes(pixels, labels, protocol))
    return folder


def write_binary(folder, images):
    folder = folder / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for batch, (pixels, labels) in images.items():
        (folder / f"{batch}.bin").write_bytes(binary_bytes(pixels, labels))
    return folder


def pack(folder, archive):
    with tarfile.open(archive, "w:gz") as opened:
        opened.add(folder, folder.name)
    return archive


def read(folder, monkeypatch):
    monkeypatch.setenv("DBQ_CIFAR10", str(folder))
    return cifar10.read(Path("nowhere"), CONFIG, log=lambda line: None)


@pytest.mark.parametrize("layout", ["python", "python, protocol 3", "binary", "binary itself", "python archive", "binary archive"])
def test_every_layout_gives_the_same_arrays(layout, images, tmp_path, monkeypatch):
    place = tmp_path / "given"
    write = write_python if layout.startswith("python") else write_binary
    folder = write(place, images, *([3] if "3" in layout else []))
    if "archive" in layout:
        place = tmp_path / "packed"
        place.mkdir()
        pack(folder, place / f"cifar-10-{layout.split()[0]}.tar.gz")
    source = read(folder if "itself" in layout else place, monkeypatch)
    assert np.array_equal(source.train_images.reshape(-1, 3072), np.concatenate([images[batch][0] for batch in cifar10.BATCHES[:5]]))
    assert np.array_equal(source.train_labels, np.concatenate([images[batch][1] for batch in cifar10.BATCHES[:5]]))
    assert np.array_equal(source.test_images.reshape(-1, 3072), images["test_batch"][0])
    assert np.array_equal(source.test_labels, images["test_batch"][1])
    assert source.kind == "mirror, not md5-identical" and source.md5_identical is False


@pytest.mark.parametrize("write", [write_python, write_binary])
def test_published_sums_make_it_identical(write, images, tmp_path, monkeypatch):
    folder = write(tmp_path / "cifar10", images)
    for file in folder.iterdir():
        monkeypatch.setitem(cifar10.MD5, file.name, hashlib.md5(file.read_bytes()).hexdigest())
    source = cifar10.read(tmp_path, CONFIG, log=lambda line: None)
    assert source.md5_identical is True and source.kind == "published files, md5-identical"


def test_wrong_md5_in_raw_is_an_error_unless_declared_a_mirror(images, tmp_path):
    folder = write_binary(tmp_path / "cifar10", images)
    with pytest.raises(DbqError, match=r"md5 of data_batch_1\.bin.*MIRROR"):
        cifar10.read(tmp_path, CONFIG, log=lambda line: None)
    (folder.parent / "MIRROR").touch()
    assert cifar10.read(tmp_path, CONFIG, log=lambda line: None).kind == "mirror, not md5-identical"


def test_the_sums_are_torchvisions():
    from dbq.networks.torchvision_cpu import import_torchvision

    import_torchvision()
    from torchvision.datasets import CIFAR10

    for name, md5 in CIFAR10.train_list + CIFAR10.test_list:
        assert cifar10.MD5[name] == md5
    assert (CIFAR10.url, CIFAR10.tgz_md5) == (cifar10.URL, cifar10.ARCHIVE_MD5)


def test_nothing_found_and_no_network(tmp_path):
    with pytest.raises(DbqError) as caught:
        cifar10.read(tmp_path, CONFIG, log=lambda line: None)
    for part in ("DBQ_CIFAR10", str(tmp_path / "cifar10"), cifar10.URL, "no route to host"):
        assert part in str(caught.value)


def test_download_is_used_once(images, tmp_path, monkeypatch):
    calls = []

    def fake(url, folder, name, md5):
        calls.append((url, md5))
        Path(folder).mkdir(parents=True, exist_ok=True)
        pack(write_python(tmp_path / "elsewhere", images), Path(folder) / name)

    monkeypatch.setattr(cifar10, "_download_url", fake)
    for batch, (pixels, labels) in images.items():
        monkeypatch.setitem(cifar10.MD5, batch, hashlib.md5(python_bytes(pixels, labels)).hexdigest())
    sources = [cifar10.read(tmp_path / "raw", CONFIG, log=lambda line: None) for _ in range(2)]
    assert calls == [(cifar10.URL, cifar10.ARCHIVE_MD5)]
    assert all(source.md5_identical for source in sources)


@pytest.mark.parametrize("make", [lambda place: None, lambda place: place.mkdir()], ids=["missing", "empty"])
def test_a_named_mirror_is_never_replaced(make, tmp_path, monkeypatch, images):
    write_python(tmp_path / "raw" / "cifar10", images)
    make(tmp_path / "mirror")
    monkeypatch.setenv("DBQ_CIFAR10", str(tmp_path / "mirror"))
    with pytest.raises(DbqError, match="DBQ_CIFAR10"):
        cifar10.read(tmp_path / "raw", CONFIG, log=lambda line: None)


def test_truncated_binary_names_file_and_sizes(images, tmp_path, monkeypatch):
    file = write_binary(tmp_path, images) / "data_batch_3.bin"
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(DbqError, match=r"data_batch_3\.bin: 92,183 bytes, expected 92,190"):
        read(tmp_path, monkeypatch)


@pytest.mark.parametrize("keep", [0, 1, 100, 50_000])
def test_truncated_pickle_names_file_and_sizes(keep, images, tmp_path, monkeypatch):
    file = write_python(tmp_path, images) / "data_batch_2"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(DbqError, match=rf"data_batch_2: {keep:,} bytes, expected"):
        read(tmp_path, monkeypatch)


@pytest.mark.parametrize("write, name", [(write_python, "test_batch"), (write_binary, "test_batch.bin")])
def test_missing_batch(write, name, images, tmp_path, monkeypatch):
    (write(tmp_path, images) / name).unlink()
    with pytest.raises(DbqError, match=rf"{name}: missing"):
        read(tmp_path, monkeypatch)


@pytest.mark.parametrize("write", [write_python, write_binary])
def test_labels_out_of_range(write, images, tmp_path, monkeypatch):
    images["data_batch_4"][1][5] = 10
    write(tmp_path, images)
    with pytest.raises(DbqError, match=r"data_batch_4.*label 10 of image 5"):
        read(tmp_path, monkeypatch)


def test_wrong_shape_in_a_pickle(images, tmp_path, monkeypatch):
    folder = write_python(tmp_path, images)
    pixels, labels = images["data_batch_1"]
    (folder / "data_batch_1").write_bytes(python_bytes(pixels.astype(np.int32), labels))
    with pytest.raises(DbqError, match=r"data_batch_1: images int32"):
        read(tmp_path, monkeypatch)


class Evil:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "value",
    [
        Evil(os.mkdir, "owned"),
        Evil(eval, "__import__('os').mkdir('owned')"),
        {"data": Evil(np.load, "x"), "labels": []},
        Evil(getattr, "text", "upper"),
    ],
    ids=["os", "eval", "nested numpy function", "getattr"],
)
def test_a_malicious_pickle_is_refused(value, images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = write_python(tmp_path, images)
    (folder / "data_batch_1").write_bytes(pickle.dumps(value, 2))
    with pytest.raises(DbqError, match="data_batch_1: its pickle asks for"):
        read(tmp_path, monkeypatch)
    assert not (tmp_path / "owned").exists()


def test_only_the_latin1_codec(tmp_path):
    import codecs

    with pytest.raises(DbqError, match="codec utf-16"):
        cifar10.decode_python(pickle.dumps(Evil(codecs.encode, "text", "utf-16"), 2), tmp_path)


@pytest.mark.parametrize("name, kind", [("../data_batch_1", None), ("/data_batch_1", None), ("a/../../x", None), ("link", tarfile.SYMTYPE)])
def test_unsafe_archive_members_are_refused(name, kind, tmp_path, monkeypatch):
    with tarfile.open(tmp_path / "cifar-10-python.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo(name)
        member.size = 0 if kind else 4
        member.type = kind or tarfile.REGTYPE
        member.linkname = "/etc/passwd" if kind else ""
        archive.addfile(member, io.BytesIO(b"data"))
    with pytest.raises(DbqError, match="link or leaves the folder"):
        read(tmp_path, monkeypatch)


def test_truncated_archive(images, tmp_path, monkeypatch):
    archive = pack(write_binary(tmp_path / "from", images), tmp_path / "cifar-10-binary.tar.gz")
    archive.write_bytes(archive.read_bytes()[:-1000])
    with pytest.raises(DbqError, match=r"cifar-10-binary\.tar\.gz: damaged or truncated"):
        read(tmp_path, monkeypatch)


def test_members_too_large_to_read_are_refused_at_their_header(tmp_path, monkeypatch):
    """A stream reads over members that nobody wants, so their size counts too; the header claims 1 TB and nothing follows."""
    member = tarfile.TarInfo("unwanted")
    member.size = 1 << 40
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(gzip.compress(member.tobuf(tarfile.GNU_FORMAT)))
    with pytest.raises(DbqError, match="'unwanted' has 1,099,511,627,776 bytes"):
        read(tmp_path, monkeypatch)


def test_files_too_large_to_read_are_refused(images, tmp_path, monkeypatch):
    os.truncate(write_binary(tmp_path, images) / "data_batch_1.bin", 60_000_000_000)  # takes no space on the disk
    with pytest.raises(DbqError, match=r"data_batch_1\.bin' has 60,000,000,000 bytes"):
        read(tmp_path, monkeypatch)


def test_unreadable_files_are_one_error(images, tmp_path, monkeypatch):
    write_binary(tmp_path, images)
    monkeypatch.setenv("DBQ_CIFAR10", str(tmp_path))

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(DbqError, match=r"datasets\.cifar10: .*Permission denied.*data_batch_1\.bin.*readable"):
        datasets.prepare("cifar10", "small", CONFIG, tmp_path / "out", log=lambda line: None)


def test_prepared_with_mirror_in_the_manifest_and_no_paths(images, tmp_path, monkeypatch):
    write_binary(tmp_path, images)
    monkeypatch.setenv("DBQ_CIFAR10", str(tmp_path))
    manifest = datasets.prepare("cifar10", "small", CONFIG, tmp_path / "out", log=lambda line: None)
    assert manifest["label"] == "real" and "mirror" in manifest["source"]
    assert str(tmp_path) not in (tmp_path / "out" / "manifest.json").read_text()


@pytest.mark.skipif(not os.environ.get("DBQ_CIFAR10"), reason="needs the real CIFAR-10 files: set DBQ_CIFAR10")
class TestRealFiles:
    def test_published_counts(self, tmp_path, monkeypatch):
        monkeypatch.undo()
        source = cifar10.read(Path("nowhere"), CONFIG, log=lambda line: None)
        assert np.bincount(source.train_labels).tolist() == [5000] * 10
        assert np.bincount(source.test_labels).tolist() == [1000] * 10
        assert source.train_images.shape == (50_000, 3, 32, 32)
        # the mean that everyone normalises CIFAR-10 with
        assert np.allclose(source.train_images.mean((0, 2, 3)) / 255, [0.4914, 0.4822, 0.4465], atol=2e-4)
