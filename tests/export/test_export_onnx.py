"""The ONNX graph: onnxruntime beside the training graph, and qonnx's counts beside ours."""

import importlib.util

import export_models as models
import numpy as np
import pytest
import torch
from export_models import KEY, SHAPE, tiny

from dbq.errors import DbqError
from dbq.export import onnx_graph, verify
from dbq.integer.compile import compile_network
from dbq.networks.count import layer_shapes, macs
from dbq.settings import networks, policies
from dbq.settings import resolve as config
from dbq.settings.quantizers import METHODS

ABSENT = {name: importlib.util.find_spec(name) is None for name in ("onnx", "onnxruntime", "qonnx")}
needs_onnx = pytest.mark.skipif(ABSENT["onnx"], reason="onnx is not installed (extra `export`)")
needs_onnxruntime = pytest.mark.skipif(ABSENT["onnx"] or ABSENT["onnxruntime"], reason="onnxruntime is not installed (extra `export`)")
needs_qonnx = pytest.mark.skipif(ABSENT["onnx"] or ABSENT["qonnx"], reason="qonnx is not installed")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return models.make(tmp_path_factory.mktemp("export"))


def session(model):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    source = model.SerializeToString() if hasattr(model, "SerializeToString") else str(model)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


@needs_onnxruntime
def test_onnxruntime_gives_the_classes_of_the_training_graph(made, tmp_path):
    onnx_graph.write(tmp_path / "model.onnx", made.found)
    ready = session(tmp_path / "model.onnx")
    differing, differences = 0, []
    for images, _ in made.test.in_order():
        with torch.no_grad():
            graph = made.found.network(images)
        logits = torch.from_numpy(ready.run(None, {"image": images.contiguous().numpy()})[0])
        differing += int((logits.argmax(1) != graph.argmax(1)).sum())
        differences.append((logits - graph).abs().amax(1) / (graph.max() - graph.min()))
    assert differing <= 1  # none on the machines tried; an image between two classes and an activation on a tie make one possible
    assert float(torch.cat(differences).median()) < 1e-5


@needs_onnxruntime
def test_a_file_is_verified_and_a_damaged_one_is_refused(made, tmp_path):
    import onnx

    path = tmp_path / "model.onnx"
    onnx_graph.write(path, made.found)
    found = verify.verify_onnx(path, made.data)
    assert abs(found["correct"] - made.found.metadata["recorded"]["correct"]) <= 1 and found["images"] == 397
    model = onnx.load(path)
    plane = next(tensor for tensor in model.graph.initializer if tensor.name.startswith("layer1.0.conv1.branch1"))
    plane.CopyFrom(onnx.numpy_helper.from_array(np.zeros_like(onnx.numpy_helper.to_array(plane)), plane.name))
    onnx.save(model, path)
    with pytest.raises(DbqError, match=r"model\.onnx: top1 .* and the integers have"):
        verify.verify_onnx(path, made.data)
    del model.metadata_props[:]
    onnx.save(model, path)
    with pytest.raises(DbqError, match="no record of its top1"):
        verify.verify_onnx(path, made.data)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DbqError, match="no ONNX graph that can be run"):
        verify.verify_onnx(path, made.data)


@needs_onnxruntime
@pytest.mark.parametrize("name", networks.NAMES)
def test_onnx_of_every_network(name):
    torch.manual_seed(0)
    network = networks.build(name, 10, "32x32")
    images = torch.randn(32, 3, 16, 16)
    network.train()(images)
    experiment = config.experiment(config.read("params.yaml"), "smoke", KEY)
    policies.quantize(network.eval(), experiment, images)
    compiled = compile_network(network, (3, 16, 16))
    logits = session(onnx_graph.build(compiled)).run(None, {"image": images.numpy()})[0]
    with torch.no_grad():
        graph = network(images).numpy()
    # an activation on a tie rounds either way, and an untrained network carries that on
    assert np.median(np.abs(logits - graph)) < 0.01 * np.ptp(graph)


@needs_onnxruntime
@pytest.mark.parametrize("method", sorted(METHODS))
def test_onnx_of_every_method(method):
    network, images = tiny(method)
    logits = session(onnx_graph.build(compile_network(network, (3, 16, 16)))).run(None, {"image": images.numpy()})[0]
    with torch.no_grad():
        graph = network(images).numpy()
    assert np.median(np.abs(logits - graph)) < 1e-5 * np.ptp(graph)


@needs_onnx
def test_planes_and_types_of_the_onnx_graph(made):
    import onnx

    model = onnx_graph.build(made.found.compiled)
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    types = {entry.tensor_name: entry.quant_parameter_tensor_names[0].value for entry in model.graph.quantization_annotation}
    for operation in made.found.compiled.program.dot_products():
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

    model = ModelWrapper(onnx_graph.build(made.found.compiled))
    model.set_tensor_shape("image", [1, *SHAPE])
    model = model.transform(InferShapes())
    found = inference_cost(model, discount_sparsity=sparse)["total_cost"]
    shapes = {shape.name: shape for shape in layer_shapes(made.found.network, SHAPE)}
    macs_expected, weights_expected = {}, {}
    for operation in made.found.compiled.program.dot_products():
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
        assert macs_expected["TERNARY"] + 2 * macs_expected["INT8"] == 2 * macs(made.found.network, SHAPE)
