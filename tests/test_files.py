"""Files: a damaged byte is refused, a failed write keeps the old file, every fault is one line."""

import hashlib
import os
import pickle
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from dbq import files
from dbq.errors import DbqError

CONTENT = {
    "state": {"layer.weight": torch.linspace(-1, 1, 12).reshape(3, 4), "counter": torch.tensor(7)},
    "epoch": 3, "history": [{"epoch": 0, "loss": 1.5, "note": None}], "key": "resnet20",
}  # fmt: skip


@pytest.fixture
def sealed(tmp_path) -> Path:
    files.write_sealed(tmp_path / "model.pt", CONTENT)
    return tmp_path / "model.pt"


def assert_is_content(found: dict) -> None:
    assert {name: found[name] for name in ("epoch", "history", "key")} == {name: CONTENT[name] for name in ("epoch", "history", "key")}
    assert found["state"].keys() == CONTENT["state"].keys()
    assert all(torch.equal(found["state"][name], value) for name, value in CONTENT["state"].items())


def refusal(read, *arguments) -> str:
    with pytest.raises(DbqError) as caught:
        read(*arguments)
    message = str(caught.value)
    assert "\n" not in message and "weights_only" not in message
    return message


def test_a_sealed_file_gives_back_its_content_and_is_a_torch_file_with_a_sum(sealed):
    assert_is_content(files.read_sealed(sealed))
    assert_is_content(torch.load(sealed, weights_only=True))
    data = sealed.read_bytes()
    assert hashlib.sha256(data[:-64]).hexdigest().encode() == data[-64:]


def test_equal_content_gives_equal_bytes_in_files_of_any_name(sealed, tmp_path):
    files.write_sealed(tmp_path / "other-name.pt", CONTENT)
    assert (tmp_path / "other-name.pt").read_bytes() == sealed.read_bytes()


def test_every_flipped_bit_is_refused(sealed):
    data, draw = sealed.read_bytes(), random.Random(0)
    places = {*(draw.randrange(8 * len(data)) for _ in range(500)), *range(8 * (len(data) - 90), 8 * len(data))}  # and the whole end
    for place in places:
        changed = bytearray(data)
        changed[place // 8] ^= 1 << place % 8
        sealed.write_bytes(changed)
        assert "model.pt" in refusal(files.read_sealed, sealed), place


@pytest.mark.parametrize("length", [0, 1, 63, 64, 65, 500, -1])
def test_truncated_files_are_refused(sealed, length):
    sealed.write_bytes(sealed.read_bytes()[:length])
    assert "damaged" in refusal(files.read_sealed, sealed)


class _Runs:
    def __reduce__(self):
        return os.mkdir, ("code-ran",)


def _with_sum(data: bytes) -> bytes:
    return data + hashlib.sha256(data).hexdigest().encode()


@pytest.mark.parametrize(
    "data", [_with_sum(b""), _with_sum(os.urandom(300)), _with_sum(pickle.dumps(_Runs(), 2)), _with_sum(b"PK\x05\x06" + bytes(18))]
)  # fmt: skip
def test_junk_under_a_right_sum_is_refused_and_runs_nothing(tmp_path, monkeypatch, data):
    monkeypatch.chdir(tmp_path)
    Path("junk.pt").write_bytes(data)
    assert "junk.pt" in refusal(files.read_sealed, "junk.pt")
    assert not Path("code-ran").exists()


@pytest.mark.parametrize("content", [_Runs(), [1, 2], torch.zeros(2)])
def test_sealed_files_of_anything_but_a_dict_of_plain_values_are_refused(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    files.write_sealed("other.pt", content)
    assert "other.pt" in refusal(files.read_sealed, "other.pt")
    assert not Path("code-ran").exists()


def test_unsealed_torch_files_missing_ones_and_folders_are_refused(tmp_path):
    torch.save(CONTENT, tmp_path / "plain.pt")
    assert "not written by this version" in refusal(files.read_sealed, tmp_path / "plain.pt")
    assert "train it first" in refusal(files.read_sealed, tmp_path / "none.pt", "cpu", "train it first")
    assert "could not be read" in refusal(files.read_sealed, tmp_path)


def test_a_full_disk_is_one_error_and_keeps_the_old_file(sealed):
    before = sealed.read_bytes()
    script = f"""
import resource, torch
from dbq import files
from dbq.errors import DbqError
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    files.write_sealed({str(sealed)!r}, {{"state": torch.zeros(100_000)}})
except DbqError as error:
    print(error)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(files.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert len(done.stdout.splitlines()) == 1 and f"{sealed}: could not be written" in done.stdout
    assert [path.name for path in sealed.parent.iterdir()] == ["model.pt"] and sealed.read_bytes() == before


def test_what_a_killed_writer_left_is_removed_by_the_next_one(sealed):
    old, young, other = (sealed.parent / name for name in (".model.pt.old", ".model.pt.young", ".model.ptx.old"))
    for path in (old, young, other):
        path.touch()
    for path in (old, other):
        os.utime(path, (time.time() - 2 * files.STALE,) * 2)
    files.write_sealed(sealed, CONTENT)
    assert not old.exists() and young.exists() and other.exists()


@pytest.mark.parametrize("data", [b"{", b"", b"\xff{}", b'{"a": 1' * 3, b"[" * 100_000])
def test_torn_json_is_one_error(tmp_path, data):
    (tmp_path / "metrics.json").write_bytes(data)
    assert "metrics.json" in refusal(files.read_json, tmp_path / "metrics.json")


@pytest.mark.parametrize("data", [b"a,b\n\xff,2\n", b'a,b\n"' + b"x" * 200_000 + b'",2\n'])
def test_a_damaged_table_is_one_error(tmp_path, data):
    (tmp_path / "accuracy.csv").write_bytes(data)
    assert "accuracy.csv" in refusal(files.read_csv, tmp_path / "accuracy.csv")
    assert "no such file" in refusal(files.read_csv, tmp_path / "none.csv")
