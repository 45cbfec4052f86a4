"""Exported files: what they replay, what they hold beside C_M, what damage does, and what a made-up file with a right sum does."""

import dataclasses
import json
import subprocess
import sys

import export_models as models
import numpy as np
import pytest
import torch
from export_models import KEY, SHAPE, tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from torch.nn.utils import parametrize

from dbq import export
from dbq.cost import formulas as cost
from dbq.cost.network import layer_weights
from dbq.errors import DbqError
from dbq.export import container
from dbq.export.packed import pack
from dbq.integer import execute, plain
from dbq.integer import replay as integer
from dbq.integer.planes import take_apart
from dbq.networks.count import layer_shapes
from dbq.settings.quantizers import METHODS


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return models.make(tmp_path_factory.mktemp("export"))


# ---- replay ----


def test_the_file_alone_gives_the_top1_of_the_engine_beside_the_training_graph(made):
    agreement = integer.replay(made.network, made.test, checked=50, compiled=made.packed.compiled)
    found = export.verify(made.file, made.data, KEY)
    assert found["top1"] == agreement.top1_engine == made.packed.metadata["recorded"]["top1"]
    assert found["top1"] > 30  # of ten classes: a network that has learnt something
    program = container.read(made.file).program
    images, _ = next(made.test.in_order())
    assert torch.equal(execute.run(program, images), execute.run(made.packed.compiled.program, images))
    assert plain.to_plain(program)[0] == plain.to_plain(made.packed.compiled.program)[0]


def test_it_runs_without_the_training_code(made):
    program = (
        "import sys, numpy as np, torch\n"
        "from dbq.export import container\n"
        "from dbq.integer import execute\n"
        f"program = container.read({str(made.file)!r}).program\n"
        f"images = torch.from_numpy(np.load({str(made.data / 'test_images.npy')!r})[:8])\n"
        "print(execute.run(program, images).argmax(1).tolist())\n"
        "ROOMS = ('training', 'quantizers', 'networks', 'insertion', 'settings')\n"
        "loaded = [name for name in sys.modules if name.startswith(tuple(f'dbq.{room}' for room in ROOMS))]\n"
        "assert not loaded, loaded\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env={"PYTHONPATH": "src"}, check=False)
    assert result.returncode == 0, result.stderr
    images, _ = next(made.test.in_order())
    assert json.loads(result.stdout) == execute.run(made.packed.compiled.program, images[:8]).argmax(1).tolist()


def test_equal_models_give_equal_bytes(made, tmp_path):
    export.write(tmp_path / "again.safetensors", made.packed)
    assert (tmp_path / "again.safetensors").read_bytes() == made.file.read_bytes()


def test_metadata_and_scales(made):
    exported = container.read(made.file)
    metadata = exported.metadata
    assert (metadata["row"], metadata["network"], metadata["seed"], metadata["version"]) == (KEY, "resnet20", 0, container.VERSION)
    assert metadata["provenance"] == {
        "commit": "abc", "device": "cpu", "data": "scikit-learn digits, embedded in scikit-learn",
        "data_label": "stand-in (scikit-learn digits)",
    }  # fmt: skip
    for name, module in made.network.named_modules():
        if not parametrize.is_parametrized(module, "weight"):
            continue
        operation = next(operation for operation in exported.program.dot_products() if operation.layer == name)
        planes, scales = operation.planes.flatten(2).double(), torch.from_numpy(exported.scales[name]).double()
        weights = torch.einsum("bck,cb->ck", planes, scales.expand(planes.shape[1], -1))
        torch.testing.assert_close(weights.float(), module.weight.detach().flatten(1), rtol=1e-5, atol=1e-7)


def test_a_name_without_a_known_format(made):
    with pytest.raises(DbqError, match=r"model\.pb: no format is called \.pb"):
        export.write("model.pb", made.packed)
    with pytest.raises(DbqError, match=r"end the name with \.safetensors or \.onnx"):
        export.verify("model")


# ---- size ----


def check_size(path, network, image_shape):
    """Planes and scales of each layer are its C_M (32-bit scales, no bias), planes rounded up to bytes; the rest is as documented."""
    data, tensors = path.read_bytes(), load_file(path)
    for shape in layer_shapes(network, image_shape):
        weights = layer_weights(network, shape)
        c_m = cost.layer_cost(shape, weights, 8, "adder_only", False, 32)["c_m"]
        planes = [values.nbytes for name, values in tensors.items() if name.startswith(f"{shape.name}.planes.")]
        bits = weights.bits // len(planes) * shape.weights
        assert planes == [-(-bits // 8)] * len(planes)
        padding = sum(8 * size - bits for size in planes)
        assert 8 * (sum(planes) + tensors[f"{shape.name}.scales"].nbytes) == c_m + padding
    assert len(data) == 8 + int.from_bytes(data[:8], "little") + sum(values.nbytes for values in tensors.values())


def test_the_size_is_the_counted_one(made):
    check_size(made.file, made.network, SHAPE)


@pytest.mark.parametrize(("method", "changes"), [*((method, {}) for method in sorted(METHODS)), ("dbq", {"scales": "channel"})])
def test_every_method(method, changes, tmp_path):
    network, images = tiny(method, **changes)
    packed = pack(network, (3, 16, 16))
    path = tmp_path / "file.safetensors"
    export.write(path, packed)
    exported = container.read(path)
    assert torch.equal(execute.run(exported.program, images), execute.run(packed.compiled.program, images))
    for name in packed.weights:
        parts = take_apart(network.get_submodule(name), name)
        assert np.array_equal(np.broadcast_to(exported.scales[name].T, parts.scales.shape), parts.scales)  # float32 loses nothing
    check_size(path, network, (3, 16, 16))
    with pytest.raises(DbqError, match="no record of its top1"):
        export.verify(path)


# ---- damage ----


@settings(deadline=None, max_examples=40)
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_caught(made, where, bit):
    data = bytearray(made.file.read_bytes())
    data[int(where * len(data))] ^= 1 << bit
    path = made.folder / "flipped"
    path.write_bytes(data)
    with pytest.raises(DbqError, match="flipped") as caught:
        container.read(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("length", [0, 4, 100, 60000, -1])
def test_a_truncated_file(made, tmp_path, length):
    (tmp_path / "short").write_bytes(made.file.read_bytes()[:length])
    with pytest.raises(DbqError, match="damaged"):
        container.read(tmp_path / "short")


def test_foreign_and_missing_files(tmp_path):
    save_file({"x": np.zeros(3, np.float32)}, tmp_path / "foreign")
    (tmp_path / "text").write_text("text")
    for name, message in (("foreign", "not an exported network"), ("none", "no such file"), ("text", "damaged"), (".", "damaged")):
        with pytest.raises(DbqError, match=message):
            container.read(tmp_path / name)


def test_another_version(made, monkeypatch):
    monkeypatch.setattr(container, "VERSION", 2)
    with pytest.raises(DbqError, match="format dbq 1, and this is dbq 2"):
        container.read(made.file)


def test_another_row(made):
    with pytest.raises(DbqError, match=f"a model of {KEY}, not of another"):
        export.verify(made.file, made.data, "another")


# ---- made-up files with a right sum ----


def forged(made, path, change=lambda content, tensors: None):
    """Change metadata and tensors of a file and make its sum right again."""
    content, tensors = container.load(made.file)
    content, tensors = json.loads(json.dumps(content)), {name: values.copy() for name, values in tensors.items()}
    change(content, tensors)
    content["sha256"] = container.digest(content, tensors)
    save_file(tensors, path, {container.ENTRY: json.dumps(content)})


def test_the_forger_changes_nothing_by_itself(made, tmp_path):
    forged(made, tmp_path / "same.safetensors")
    assert export.verify(tmp_path / "same.safetensors", made.data)["top1"] == made.packed.metadata["recorded"]["top1"]


def put(**changes):
    """Change entries of the metadata: {"a.b": value} changes content["a"]["b"]; a value None removes it."""

    def change(content, tensors):
        for path, value in changes.items():
            *parents, name = path.split("/")
            target = content
            for parent in parents:
                target = target[int(parent)] if isinstance(target, list) else target[parent]
            if value is None:
                del target[name]
            else:
                target[name] = value

    return change


RECORDED = {
    "recorded/correct": 396, "recorded/images": 400, "recorded/top1": 99.0, "recorded/data_sha256": "0",
    "recorded": None, "dataset": None, "row": 3, "profile": ["x"],
}  # fmt: skip


@pytest.mark.parametrize(("name", "value"), RECORDED.items())
def test_another_record_is_found_by_replay(name, value, made, tmp_path):
    forged(made, tmp_path / "lie.safetensors", put(**{name: value}))
    with pytest.raises(DbqError, match=r"recorded are|other images|no record of its top1"):
        export.verify(tmp_path / "lie.safetensors", made.data)


PLANE, BIAS = "layer1.0.conv1.planes.0", "conv1.bias"
FAULTS = {
    "a plane with a 2": lambda content, tensors: tensors[PLANE].__setitem__(0, 255),
    "10^9 values in 0 bits": lambda content, tensors: (
        content["tensors"][BIAS].update(bits=0, shape=[10**9]), tensors.update({BIAS: np.zeros(0, np.uint8)})
    ),
    "10^30 values in 0 bits": lambda content, tensors: (
        content["tensors"][BIAS].update(bits=0, shape=[10**10] * 3), tensors.update({BIAS: np.zeros(0, np.uint8)})
    ),
    "negative sizes": put(**{f"tensors/{BIAS}/shape": [-1, -16]}),
    "64 bits": put(**{f"tensors/{BIAS}/bits": 64}),
    "a step of 0": put(**{f"tensors/{BIAS}/step": 0}),
    "bits as text": put(**{f"tensors/{BIAS}/bits": "8"}),
    "too low": put(**{f"tensors/{BIAS}/low": 10**30}),
    "objects": put(**{f"tensors/{BIAS}/dtype": "object"}),
    "long text": put(**{f"tensors/{BIAS}/dtype": "S1000000000"}),
    "values too wide for the type": put(**{f"tensors/{BIAS}/dtype": "int8"}),
    "another field": put(**{f"tensors/{BIAS}/field": "0.nonsense"}),
    "no field": put(**{f"tensors/{BIAS}/field": None}),
    "a plane twice": put(**{f"tensors/{PLANE}/field": "1.planes.1"}),
    "a plane far off": put(**{f"tensors/{PLANE}/field": "1.planes.7"}),
    "a tensor less": lambda content, tensors: tensors.pop(BIAS),
    "no scales": lambda content, tensors: tensors.pop("conv1.scales"),
    "scales of another shape": lambda content, tensors: tensors.update({"conv1.scales": np.zeros((2, 7), np.float32)}),
    "scales that are not finite": lambda content, tensors: tensors["conv1.scales"].fill(np.nan),
    "no tensors": put(tensors=None),
    "tensors as a list": put(tensors=[1]),
    "no program": put(program=None),
    "a program as text": put(program="run me"),
    "no operations": put(**{"program/operations": []}),
    "another coding": put(**{"program/operations/1/coding": "quaternary"}),
    "another kind": put(**{"program/operations/1/kind": "System"}),
    "a kind as a list": put(**{"program/operations/1/kind": []}),
    "an operation without inputs": put(**{"program/operations/1/inputs": []}),
    "an input that isn't there": put(**{"program/operations/1/inputs": ["nothing"]}),
    "padding of 10^9": put(**{"program/operations/1/padding": [10**9, 10**9]}),
    "groups as text": put(**{"program/operations/1/groups": "1"}),
    "no values": put(**{"program/values": {}}),
    "logits that aren't there": put(**{"program/logits": "nothing"}),
    "another image": put(**{"program/image_shape": [3, 10**9, 10**9]}),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_made_up_file_is_one_error(fault, made, tmp_path):
    path = tmp_path / "forged.safetensors"
    forged(made, path, FAULTS[fault])
    with pytest.raises(DbqError, match=r"^[^ ]*forged\.safetensors: ") as caught:
        export.verify(path, made.data)
    assert "\n" not in str(caught.value)


def test_metadata_too_deep_to_parse(made, tmp_path):
    save_file({"x": np.zeros(1)}, tmp_path / "deep.safetensors", {container.ENTRY: "[" * 100_000})
    with pytest.raises(DbqError, match="its metadata are damaged"):
        export.verify(tmp_path / "deep.safetensors", made.data)


def test_metadata_of_the_caller_replaces_nothing_of_the_format(made, tmp_path):
    export.write(tmp_path / "own.safetensors", dataclasses.replace(made.packed, metadata={"format": "mine", "program": 1}))
    assert container.read(tmp_path / "own.safetensors").metadata["format"] == container.FORMAT
