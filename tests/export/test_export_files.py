"""Exported files: what they replay, what they hold beside C_M, and what damage does."""

import importlib.util
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

from dbq.cost import formulas as cost
from dbq.cost import network as replay
from dbq.errors import DbqError
from dbq.export import __main__ as command
from dbq.export import container, trained, verify
from dbq.integer import fold
from dbq.integer import replay as integer
from dbq.integer.compile import compile_network
from dbq.networks.count import layer_shapes
from dbq.settings import resolve as config
from dbq.settings.quantizers import METHODS

OTHER = "resnet20-cifar10-dbq-3t"
NO_ONNX = importlib.util.find_spec("onnx") is None


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return models.make(tmp_path_factory.mktemp("export"))


# ---- replay ----


def test_the_file_alone_gives_the_top1_of_the_engine_beside_the_training_graph(made):
    agreement = integer.replay(made.found.network, made.test, checked=50, compiled=made.found.compiled)
    found = verify.verify(made.file, made.data, KEY)
    assert found["top1"] == agreement.top1_engine == made.found.metadata["recorded"]["top1"]
    assert found["top1"] > 30  # of ten classes: a network that has learnt something
    program = container.read(made.file).program
    images, _ = next(made.test.in_order())
    assert torch.equal(program.run(images), made.found.compiled.program.run(images))
    assert program.to_plain()[0] == made.found.compiled.program.to_plain()[0]


def test_it_runs_without_the_training_code(made):
    program = (
        "import sys, numpy as np, torch\n"
        "from dbq.export import container\n"
        f"program = container.read({str(made.file)!r}).program\n"
        f"images = torch.from_numpy(np.load({str(made.data / 'test_images.npy')!r})[:8])\n"
        "print(program.run(images).argmax(1).tolist())\n"
        "loaded = [n for n in sys.modules if n.startswith(('dbq.training', 'dbq.quantizers', 'dbq.networks', 'dbq.insertion.policies'))]\n"
        "assert not loaded, loaded\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env={"PYTHONPATH": "src"}, check=False)
    assert result.returncode == 0, result.stderr
    images, _ = next(made.test.in_order())
    assert json.loads(result.stdout) == made.found.compiled.program.run(images[:8]).argmax(1).tolist()


def test_equal_models_give_equal_bytes(made, tmp_path):
    container.write(tmp_path / "again", made.found.compiled.program, made.found.weights, made.found.metadata)
    assert (tmp_path / "again").read_bytes() == made.file.read_bytes()


def test_metadata_and_scales(made):
    exported = container.read(made.file, KEY)
    metadata = exported.metadata
    assert (metadata["experiment"], metadata["network"], metadata["seed"], metadata["version"]) == (KEY, "resnet20", 0, container.VERSION)
    shapes = {row["layer"]: row for row in metadata["policy"]}
    assert [row["layer"] for row in metadata["policy"]] == [shape.name for shape in layer_shapes(made.found.network, SHAPE)]
    assert shapes["conv1"]["quantizer"] == "uniform" and shapes["conv1"]["weight_bits"] == 8
    for name, module in made.found.network.named_modules():
        if not parametrize.is_parametrized(module, "weight"):
            continue
        if hasattr(module, "input_quantizer"):
            assert shapes[name]["activation_clip"] == pytest.approx(float(module.input_quantizer.clip))
        operation = next(operation for operation in exported.program.dot_products() if operation.layer == name)
        planes, scales = operation.planes.flatten(2).double(), torch.from_numpy(exported.scales[name]).double()
        weights = torch.einsum("bck,cb->ck", planes, scales.expand(planes.shape[1], -1))
        torch.testing.assert_close(weights.float(), module.weight.detach().flatten(1), rtol=1e-5, atol=1e-7)


# ---- size ----


def check_size(path, network, image_shape):
    """Planes and scales of each layer are its C_M (32-bit scales, no bias), planes rounded up to bytes; the rest is as documented."""
    data, tensors = path.read_bytes(), load_file(path)
    for shape in layer_shapes(network, image_shape):
        weights = replay.layer_weights(network, shape)
        c_m = cost.layer_cost(shape, weights, 8, "adder_only", False, container.SCALE_BITS)["c_m"]
        planes = [values.nbytes for name, values in tensors.items() if name.startswith(f"{shape.name}.planes.")]
        bits = weights.bits // len(planes) * shape.weights
        assert planes == [-(-bits // 8)] * len(planes)
        padding = sum(8 * size - bits for size in planes)
        assert 8 * (sum(planes) + tensors[f"{shape.name}.scales"].nbytes) == c_m + padding
    sizes = container.sizes(path)
    header = 8 + int.from_bytes(data[:8], "little")
    assert sizes["header"] == header and sizes["file"] == len(data) == header + sum(values.nbytes for values in tensors.values())
    assert sizes["planes"] + sizes["scales"] + sizes["constants"] == len(data) - header


def test_the_size_is_the_counted_one(made):
    check_size(made.file, made.found.network, SHAPE)


@pytest.mark.parametrize(("method", "scales"), [*((method, None) for method in sorted(METHODS)), ("dbq", "channel")])
def test_every_method(method, scales, tmp_path):
    network, images = tiny(method, scales)
    compiled = compile_network(network, (3, 16, 16))
    weights = trained.stored_weights(network, compiled)
    container.write(tmp_path / "file", compiled.program, weights, {"experiment": method})
    exported = container.read(tmp_path / "file")
    assert torch.equal(exported.program.run(images), compiled.program.run(images))
    for name in weights:
        parts = fold.take_apart(network.get_submodule(name), name)
        assert np.array_equal(np.broadcast_to(exported.scales[name].T, parts.scales.shape), parts.scales)  # float32 loses nothing
    check_size(tmp_path / "file", network, (3, 16, 16))


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


def test_foreign_and_missing_files(made, tmp_path):
    save_file({"x": np.zeros(3, np.float32)}, tmp_path / "foreign")
    for path, message in ((tmp_path / "foreign", "not an exported network"), (tmp_path / "none", "no such file"), (made.model, "damaged")):
        with pytest.raises(DbqError, match=message):
            container.read(path)
    with pytest.raises(DbqError):
        container.read(tmp_path)


def test_another_version(made, tmp_path, monkeypatch):
    monkeypatch.setattr(container, "VERSION", 2)
    with pytest.raises(DbqError, match="format dbq 1, and this is dbq 2"):
        container.read(made.file)


def test_another_record_is_found_by_replay(made, tmp_path):
    """The sum is right, and the numbers are not."""
    recorded = {**made.found.metadata["recorded"], "correct": 396}
    container.write(tmp_path / "lie", made.found.compiled.program, made.found.weights, {**made.found.metadata, "recorded": recorded})
    with pytest.raises(DbqError, match="is recorded"):
        verify.verify(tmp_path / "lie", made.data)
    recorded = {**made.found.metadata["recorded"], "data_sha256": "0"}
    container.write(tmp_path / "other", made.found.compiled.program, made.found.weights, {**made.found.metadata, "recorded": recorded})
    with pytest.raises(DbqError, match="other images"):
        verify.verify(tmp_path / "other", made.data)


def test_another_experiment(made):
    with pytest.raises(DbqError, match=f"a model of {KEY}, not of {OTHER}"):
        container.read(made.file, OTHER)
    params = config.read("params.yaml")
    with pytest.raises(DbqError, match=f"a model of {KEY}, not of {OTHER}"):
        trained.load(config.experiment(params, "smoke", OTHER), made.model, made.data, config.engine(params))


# ---- command line ----


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["export", *map(str, arguments)])
    command.main()


def test_command_line(made, tmp_path, monkeypatch, capsys):
    options = ("--profile", "smoke", "--model", made.model, "--data", made.data, "--out", tmp_path)
    run(monkeypatch, KEY, *options, *(["--without-onnx"] if NO_ONNX else []))
    run(monkeypatch, "--verify", tmp_path / f"{KEY}.safetensors", "--data", made.data)
    top1 = made.found.metadata["recorded"]["top1"]
    assert f"top1 {top1:.2f} %" in capsys.readouterr().out.splitlines()[-1]
    assert (tmp_path / f"{KEY}.onnx").exists() != NO_ONNX
    with pytest.raises(DbqError, match="neither"):
        run(monkeypatch)


def test_without_onnx_installed(made, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(DbqError, match=r"\[export\]"):
        run(monkeypatch, KEY, "--profile", "smoke", "--model", made.model, "--data", made.data, "--out", tmp_path)
    assert not list(tmp_path.iterdir())
    run(monkeypatch, KEY, "--profile", "smoke", "--model", made.model, "--data", made.data, "--out", tmp_path, "--without-onnx")
    assert [path.name for path in tmp_path.iterdir()] == [f"{KEY}.safetensors"]
