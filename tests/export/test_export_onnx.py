"""The ONNX graph: onnxruntime beside the training graph, qonnx's counts beside ours, and damaged and made-up files."""

import hashlib
import importlib.util
import random
import sys

import export_models as models
import numpy as np
import pytest
import torch
from export_models import KEY, SHAPE, tiny

from dbq import export, networks
from dbq.errors import DbqError
from dbq.export import onnx_file, onnx_graph
from dbq.insertion import policies
from dbq.integer.compile import compile_network
from dbq.networks.count import layer_shapes, macs
from dbq.settings.quantizers import METHODS

ABSENT = {name: importlib.util.find_spec(name) is None for name in ("onnx", "onnxruntime", "qonnx")}
needs_onnx = pytest.mark.skipif(ABSENT["onnx"], reason="onnx is not installed (extra `export`)")
needs_onnxruntime = pytest.mark.skipif(ABSENT["onnx"] or ABSENT["onnxruntime"], reason="onnxruntime is not installed (extra `export`)")
needs_qonnx = pytest.mark.skipif(ABSENT["onnx"] or ABSENT["qonnx"], reason="qonnx is not installed")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return models.make(tmp_path_factory.mktemp("export"))


@pytest.fixture(scope="module")
def file(made):
    path = made.folder / "model.onnx"
    if not ABSENT["onnx"]:
        export.write(path, made.packed)
    return path


def session(model):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    source = model.SerializeToString() if hasattr(model, "SerializeToString") else str(model)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


# ---- what it computes ----


@needs_onnxruntime
def test_onnxruntime_gives_the_classes_of_the_training_graph(made, file):
    ready = session(file)
    differing, differences = 0, []
    for images, _ in made.test.in_order():
        with torch.no_grad():
            graph = made.network(images)
        logits = torch.from_numpy(ready.run(None, {"image": images.contiguous().numpy()})[0])
        differing += int((logits.argmax(1) != graph.argmax(1)).sum())
        differences.append((logits - graph).abs().amax(1) / (graph.max() - graph.min()))
    assert differing <= 1  # none on the machines tried; an image between two classes and an activation on a tie make one possible
    assert float(torch.cat(differences).median()) < 1e-5


@needs_onnxruntime
@pytest.mark.parametrize("name", networks.NAMES)
def test_onnx_of_every_network(name):
    torch.manual_seed(0)
    network = networks.build(name, 10, "32x32")
    images = torch.randn(32, 3, 16, 16)
    network.train()(images)
    policies.quantize(network.eval(), models.row(), images)
    logits = session(onnx_graph.build(compile_network(network, (3, 16, 16)))).run(None, {"image": images.numpy()})[0]
    with torch.no_grad():
        graph = network(images).numpy()
    # an activation on a tie rounds either way, and an untrained network carries that on
    assert np.median(np.abs(logits - graph)) < 0.01 * np.ptp(graph)


@needs_onnxruntime
@pytest.mark.parametrize("method", sorted(METHODS))
def test_onnx_of_every_method(method):
    network, images = tiny(method)
    model = onnx_graph.build(compile_network(network, (3, 16, 16)))
    logits = session(model).run(None, {"image": images.numpy()})[0]
    with torch.no_grad():
        graph = network(images).numpy()
    assert np.median(np.abs(logits - graph)) < 1e-5 * np.ptp(graph)
    onnx_file._check(model, onnx_graph.library().numpy_helper)  # what a reader demands of weights and operators


@needs_onnx
def test_planes_and_types_of_the_onnx_graph(made):
    import onnx

    model = onnx_graph.build(made.packed.compiled)
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    types = {entry.tensor_name: entry.quant_parameter_tensor_names[0].value for entry in model.graph.quantization_annotation}
    for operation in made.packed.compiled.program.dot_products():
        for number, plane in enumerate(operation.planes):
            name = f"{operation.layer}.branch{number + 1}"
            stored = constants[f"{name}.plane"]
            assert np.array_equal(stored if plane.ndim == 4 else stored.T, plane)
            assert types[f"{name}.plane"] == ("TERNARY" if operation.coding == "ternary" else "INT8")
            assert types[f"{name}.dot"] == f"INT{operation.accumulator_bits}"
    assert sum(node.op_type in ("Conv", "MatMul") for node in model.graph.node) == 2 * 18 + 2
    assert {node.domain for node in model.graph.node} == {""}


@needs_qonnx
@pytest.mark.parametrize("sparse", [False, True])
def test_qonnx_counts_the_same_multiply_adds_and_weights(made, sparse):
    from qonnx.analysis.inference_cost import inference_cost
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.transformation.infer_shapes import InferShapes

    model = ModelWrapper(onnx_graph.build(made.packed.compiled))
    model.set_tensor_shape("image", [1, *SHAPE])
    model = model.transform(InferShapes())
    found = inference_cost(model, discount_sparsity=sparse)["total_cost"]
    shapes = {shape.name: shape for shape in layer_shapes(made.network, SHAPE)}
    macs_expected, weights_expected = {}, {}
    for operation in made.packed.compiled.program.dot_products():
        shape, kind = shapes[operation.layer], "TERNARY" if operation.coding == "ternary" else "INT8"
        for plane in operation.planes:
            count = int((plane != 0).sum()) if sparse else shape.weights
            weights_expected[kind] = weights_expected.get(kind, 0) + count
            macs_expected[kind] = macs_expected.get(kind, 0) + count * (shape.outputs // shape.channels_out)
    for kind, count in weights_expected.items():
        assert found[f"mem_w_{kind}"] == count
        operations = {name: value for name, value in found.items() if name.startswith("op_mac_") and name.endswith(f"_{kind}")}
        assert sum(operations.values()) == pytest.approx(macs_expected[kind], rel=1e-12)
        assert not any("FLOAT" in name for name in operations)
    if not sparse:
        ternary = sum(shape.outputs * shape.length for shape in shapes.values() if shape.name not in ("conv1", "linear"))
        assert macs_expected["TERNARY"] == 2 * ternary
        assert macs_expected["TERNARY"] + 2 * macs_expected["INT8"] == 2 * macs(made.network, SHAPE)


# ---- files ----


@needs_onnxruntime
def test_a_file_is_verified_and_its_sum_is_as_documented(made, file):
    found = export.verify(file, made.data, KEY)
    assert abs(found["correct"] - made.packed.metadata["recorded"]["correct"]) <= 1 and found["images"] == 397
    import onnx

    properties = {entry.key: entry.value for entry in onnx.load(file).metadata_props}
    data = file.read_bytes()
    assert data.count(properties["content_sha256"].encode()) == 1
    assert hashlib.sha256(data.replace(properties["content_sha256"].encode(), b"0" * 64)).hexdigest() == properties["content_sha256"]
    assert properties["row"] == KEY and properties["seed"] == "0"
    with pytest.raises(DbqError, match=f"a model of {KEY}, not of another"):
        export.verify(file, made.data, "another")


@needs_onnx
def test_every_flipped_bit_and_every_cut_is_refused(file, tmp_path):
    data, draw, path = file.read_bytes(), random.Random(0), tmp_path / "flipped.onnx"
    start = data.rfind(b"content_sha256")
    places = [*(draw.randrange(8 * len(data)) for _ in range(100)), *(8 * byte + byte % 8 for byte in range(start, start + 80))]
    for place in places:
        changed = bytearray(data)
        changed[place // 8] ^= 1 << place % 8
        path.write_bytes(changed)
        with pytest.raises(DbqError, match=r"flipped\.onnx: damaged"):
            onnx_file.read(path)
    for length in (0, 1, 1000, start + 20, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(DbqError, match=r"flipped\.onnx: damaged"):
            onnx_file.read(path)
    with pytest.raises(DbqError, match=r"none\.onnx: No such file"):
        onnx_file.read(tmp_path / "none.onnx")


def forged(file, path, change):
    """Change the model of a file and make its sum right again."""
    import onnx

    model = onnx.load(file)
    change(model)
    for entry in model.metadata_props:
        if entry.key == "content_sha256":
            entry.value = "0" * 64
    data = model.SerializeToString(deterministic=True)
    path.write_bytes(data.replace(b"0" * 64, hashlib.sha256(data).hexdigest().encode()))


def plane(change):
    """Change the values of one ternary plane."""

    def change_model(model):
        import onnx

        tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "layer1.0.conv1.branch1.plane")
        values = onnx.numpy_helper.to_array(tensor).copy()
        change(values)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))

    return change_model


def properties(**changes):
    def change(model):
        found = {entry.key: entry.value for entry in model.metadata_props} | changes
        del model.metadata_props[:]
        for name, value in found.items():
            if value is not None:
                model.metadata_props.add(key=name, value=value)

    return change


def first(model, operator):
    return next(node for node in model.graph.node if node.op_type == operator)


def outside(model):
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = 1
    tensor.external_data.add(key="location", value="/etc/passwd")


FAULTS = {
    "a plane with 1.03": (plane(lambda values: values.put(0, 1.03)), "is not TERNARY"),
    "a plane with 2": (plane(lambda values: values.put(0, 2.0)), "is not TERNARY"),
    "a plane with -0.5": (plane(lambda values: values.put(0, -0.5)), "is not TERNARY"),
    "a plane with NaN": (plane(lambda values: values.put(0, np.nan)), "is not TERNARY"),
    "a plane of zeros": (plane(lambda values: values.fill(0)), "top1 .* recorded are"),
    "no stated types": (lambda model: model.graph.ClearField("quantization_annotation"), "not of a stated type"),
    "another operator": (lambda model: setattr(first(model, "Round"), "op_type", "Floor"), "operator Floor"),
    "an operator of others": (lambda model: setattr(first(model, "Round"), "domain", "com.microsoft"), "operator Round"),
    "weights from the input": (lambda model: first(model, "Conv").input.__setitem__(1, "image"), "not of a stated type"),
    "an input that isn't there": (lambda model: first(model, "Mul").input.__setitem__(0, "nothing"), "no ONNX graph"),
    "another image": (lambda model: setattr(model.graph.input[0], "name", "picture"), "no ONNX graph"),
    "10^9 channels": (lambda model: model.graph.initializer[0].dims.insert(0, 10**9), "no ONNX graph"),
    "tensors in other files": (outside, "tensors in other files"),
    "no graph": (lambda model: model.ClearField("graph"), "no ONNX graph"),
    "no record": (properties(recorded=None), "no record of its top1"),
    "a record that isn't JSON": (properties(recorded="{"), "no ONNX graph"),
    "a record of other images": (properties(recorded='{"images": 397, "correct": 9, "top1": 9.0, "data_sha256": "0"}'), "other images"),
    "a record of another kind": (properties(recorded="[1]"), "no record of its top1"),
    "no mean": (properties(mean=None), "no ONNX graph"),
    "a mean of text": (properties(mean='["a", "b", "c"]'), "no ONNX graph"),
    "a deviation of 0": (properties(std="[0.1, 0.0, 0.1]"), "no ONNX graph"),
}


@needs_onnxruntime
@pytest.mark.parametrize("fault", FAULTS)
def test_a_made_up_file_is_one_error(fault, made, file, tmp_path):
    change, message = FAULTS[fault]
    forged(file, tmp_path / "forged.onnx", change)
    with pytest.raises(DbqError, match=rf"forged\.onnx.*{message}|{message}.*forged\.onnx") as caught:
        export.verify(tmp_path / "forged.onnx", made.data)
    assert "\n" not in str(caught.value)


def test_without_onnx_installed(made, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    for action in (lambda path: export.write(path, made.packed), lambda path: export.verify(path, made.data)):
        with pytest.raises(DbqError, match=r"\[export\]"):
            action(tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
