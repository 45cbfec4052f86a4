"""Published multiply-adds and parameters, and torch's own counter."""

import builtins
import math
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.utils.flop_counter import FlopCounterMode

from dbq import networks
from dbq.errors import DbqError
from dbq.files import sha256_of
from dbq.networks import torchvision_cpu
from dbq.networks.count import layer_shapes, macs, parameters
from dbq.networks.external import load_external

CASES = [(name, form) for name in networks.NAMES for form in networks.FORMS if (name, form) != ("resnet20", "224x224")]


@pytest.mark.parametrize(("name", "form"), CASES)
def test_multiply_adds_equal_torchs_flop_counter(name, form):
    size = int(form.partition("x")[0])
    network = networks.build(name, 10, form).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, size, size))
    assert macs(network, (3, size, size)) == counter.get_total_flops() / 2


@pytest.mark.parametrize(
    ("name", "form", "classes", "published_macs", "published_parameters"),
    [
        ("mobilenet_v1", "224x224", 1000, 568_740_352, 4_231_976),
        ("mobilenet_v2", "224x224", 1000, 300_774_272, 3_504_872),
        ("shufflenet_v2", "224x224", 1000, None, 2_278_604),
        ("resnet20", "32x32", 10, 40.55e6, 269_722),
    ],
)
def test_published_counts(name, form, classes, published_macs, published_parameters):
    size = int(form.partition("x")[0])
    network = networks.build(name, classes, form)
    assert parameters(network) == published_parameters
    if published_macs is not None:
        assert macs(network, (3, size, size)) == pytest.approx(published_macs, rel=1e-4 if name == "resnet20" else 0)


@pytest.mark.parametrize("name", networks.NAMES)
def test_small_images_and_class_counts(name):
    network = networks.build(name, 7, "32x32").eval()
    for size in (8, 32):
        assert network(torch.zeros(2, 3, size, size)).shape == (2, 7)


@pytest.mark.parametrize(("name", "form"), CASES)
def test_torch_fx_traces_the_network_and_every_convolution_runs_into_a_batch_norm(name, form):
    network = networks.build(name, 10, form).eval()
    traced = torch.fx.symbolic_trace(network)
    x = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(traced(x), network(x))
    modules = dict(traced.named_modules())
    convolutions = [node for node in traced.graph.nodes if isinstance(modules.get(str(node.target)), nn.Conv2d)]
    assert len(convolutions) == sum(isinstance(module, nn.Conv2d) for module in network.modules())
    for node in convolutions:
        assert [type(modules.get(str(user.target))) for user in node.users] == [nn.BatchNorm2d], node.target
    calls = [node.target for node in traced.graph.nodes if node.op in ("call_function", "call_method")]
    assert not {"relu", "relu_", "relu6", "hardtanh"} & {getattr(call, "__name__", call) for call in calls}


@pytest.mark.parametrize("name", networks.NAMES)
def test_every_relu_is_its_own(name):
    network = networks.build(name, 10, "32x32")
    calls = []
    for module in network.modules():
        if isinstance(module, (nn.ReLU, nn.ReLU6)):
            module.register_forward_hook(lambda module, *_: calls.append(module))
    network.eval()(torch.zeros(1, 3, 16, 16))
    assert len(calls) == len(set(calls)) > 0


def test_kinds_of_layers():
    kinds = [shape.kind for shape in layer_shapes(networks.build("mobilenet_v1", 10, "32x32"), (3, 32, 32))]
    assert kinds == ["first", *["depthwise", "pointwise"] * 13, "classifier"]


class Halved(nn.Module):
    def forward(self, weight):
        return weight / 2


@pytest.mark.parametrize("name", networks.NAMES)
def test_layers_with_parametrized_weights_are_counted_alike(name):
    network = networks.build(name, 10, "32x32")
    plain = layer_shapes(network, (3, 32, 32))
    for module in list(network.modules()):
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            parametrize.register_parametrization(module, "weight", Halved())
    assert layer_shapes(network, (3, 32, 32)) == plain


def test_a_network_is_imported_when_it_is_built_and_own_ones_need_torch_only():
    code = (
        "import sys; from dbq import networks; before = set(sys.modules); networks.build('mobilenet_v1', 10, '32x32'); "
        "new = {n for n in sys.modules if n.startswith('dbq.')} - before; "
        "sys.exit(new != {'dbq.networks.mobilenet_v1'} or 'torchvision' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": "src"}).returncode == 0


def test_the_shim_defines_the_missing_operators_once(monkeypatch):
    """A fake torchvision that fails at import as the real one does under CPU torch, until the operators are defined."""
    attempts = []
    real_import = builtins.__import__
    fake = types.SimpleNamespace(models=object(), datasets=object())

    def fake_import(name, *rest):
        if name.partition(".")[0] != "torchvision":
            return real_import(name, *rest)
        attempts.append(name)
        if broken and attempts == ["torchvision"]:
            raise RuntimeError(f"operator {message} does not exist")
        return fake

    defined = []
    monkeypatch.setattr(torchvision_cpu, "_define_missing_operators", lambda: defined.append(True))
    monkeypatch.setattr(builtins, "__import__", fake_import)
    importer = torchvision_cpu.import_torchvision.__wrapped__
    broken, message = True, "torchvision::nms"
    assert importer() is fake
    assert defined == [True]
    attempts.clear()
    broken = False
    assert importer() is fake
    assert defined == [True]  # a healthy torchvision is left alone
    attempts.clear()
    broken, message = True, "elsewhere::nms"
    with pytest.raises(RuntimeError, match="elsewhere"):
        importer()


PUBLISHED = Path(os.environ.get("DBQ_WEIGHTS", "data/raw/weights")) / "resnet20-12fca82f.th"


@pytest.mark.skipif(not PUBLISHED.is_file(), reason="the published weights are not in $DBQ_WEIGHTS or data/raw/weights")
def test_the_published_resnet20_weights_load():
    network = networks.build("resnet20", 10, "32x32")
    load_external(network, PUBLISHED, "12fca82f0bebc4135bf1f32f6e3710e61d5108578464b84fd6d7f5c1b04036c8")
    state = torch.load(PUBLISHED, map_location="cpu", weights_only=True)["state_dict"]
    assert all(torch.equal(value, network.state_dict()[name.removeprefix("module.")]) for name, value in state.items())


def test_counting_leaves_the_network_as_it_was():
    network = networks.build("resnet20", 10, "32x32")
    network.layer1.eval()
    modes = [module.training for module in network.modules()]
    before = {name: value.clone() for name, value in network.state_dict().items()}
    layer_shapes(network, (3, 32, 32))
    assert modes == [module.training for module in network.modules()]
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


@pytest.mark.parametrize(
    ("name", "form", "words"),
    [("resnet19", "32x32", "resnet20"), ("resnet20", "64x64", "32x32"), ("resnet20", "224x224", "no 224x224 form")],
)
def test_unknown_networks_and_forms(name, form, words):
    with pytest.raises(DbqError, match=words):
        networks.build(name, 10, form)


def test_external_weights_are_checked(tmp_path):
    network = networks.build("resnet20", 10, "32x32")
    path = tmp_path / "weights.th"
    torch.save({"state_dict": {f"module.{name}": value for name, value in network.state_dict().items()}}, path)
    other = networks.build("resnet20", 10, "32x32")
    load_external(other, path, sha256_of(path))
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in network.state_dict().items())
    with pytest.raises(DbqError, match=r"weights\.th: sha256 is .*expected 0000"):
        load_external(other, path, "0" * 64)
    with pytest.raises(DbqError, match="weights of another network"):
        load_external(networks.build("mobilenet_v1", 10, "32x32"), path, sha256_of(path))
    with pytest.raises(DbqError, match="no such file"):
        load_external(other, tmp_path / "nothing.th", "0" * 64)


class RunsCode:
    def __reduce__(self):
        return os.mkdir, ("code-ran",)


def first_weight(value, **types):
    """Change one weight of a state dict."""

    def change(state):
        weight = state["conv1.weight"].to(**types)
        weight.view(-1)[0] = value
        return {**state, "conv1.weight": weight}

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (first_weight(math.nan), "conv1.weight.*not finite"),
        (first_weight(-math.inf), "conv1.weight.*not finite"),
        (first_weight(1e300, dtype=torch.float64), "conv1.weight.*not finite"),  # infinite in float32
        (first_weight(1, dtype=torch.int8), "conv1.weight.*not of type torch.float32"),
        (lambda state: {**state, "conv1.weight": state["conv1.weight"].to_sparse()}, "dense tensors"),
        (lambda state: {**state, "conv1.weight": "text"}, "dense tensors"),
        (lambda state: {**state, 3: torch.zeros(1)}, "dense tensors"),
        (lambda state: {"state_dict": [1]}, "dense tensors"),
        (lambda state: torch.zeros(3), "dense tensors"),
        (lambda state: None, "dense tensors"),
        (lambda state: RunsCode(), "not a file of tensors"),
        (lambda state: {**state, "conv1.weight": RunsCode()}, "not a file of tensors"),
    ],
)
def test_files_that_are_no_weights_are_refused_under_a_right_sum(change, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network = networks.build("resnet20", 10, "32x32")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    torch.save(change({name: value.clone() for name, value in before.items()}), "weights.th")
    with pytest.raises(DbqError, match=rf"^weights\.th: .*{words}") as caught:
        load_external(network, "weights.th", sha256_of("weights.th"))
    assert "weights_only" not in str(caught.value) and not Path("code-ran").exists()
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in before.items())


@pytest.mark.parametrize("keep", [0, 1, 100, 5_000, -1])
def test_truncated_weights_are_refused_under_a_right_sum(keep, tmp_path):
    path, network = tmp_path / "weights.th", networks.build("resnet20", 10, "32x32")
    torch.save(network.state_dict(), path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DbqError, match=r"weights\.th: truncated"):
        load_external(network, path, sha256_of(path))


def test_option_a_shortcut():
    """Every other pixel, zero channels on both sides, against a loop."""
    from dbq.networks.resnet20 import PadShortcut

    x = torch.randn(2, 4, 6, 6)
    y = PadShortcut(2)(x)
    assert y.shape == (2, 8, 3, 3)
    for channel in range(8):
        for row in range(3):
            for column in range(3):
                expected = x[:, channel - 2, 2 * row, 2 * column] if 2 <= channel < 6 else torch.zeros(2)
                assert torch.equal(y[:, channel, row, column], expected)
