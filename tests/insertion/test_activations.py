"""Activation quantizers: where they go, signed or unsigned, and their gradients."""

import pytest
import torch
from torch import nn

from dbq import networks
from dbq.insertion import activations
from dbq.insertion.activations import ActivationQuantizer
from dbq.networks.count import layer_shapes
from dbq.settings.entries import ActivationSettings

CONFIG = ActivationSettings(clip="batch_norm", k=4.0, gradient="output")


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("signed", [False, True])
def test_values_are_on_the_grid_of_an_integer_reference(bits, signed):
    quantizer = ActivationQuantizer(bits, signed, 3.0, "test", False)
    x = torch.linspace(-5, 5, 1001, dtype=torch.float32)
    largest = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
    integers = (x.double() * largest / 3.0).round().clamp(-largest if signed else 0, largest)
    assert torch.allclose(quantizer(x).double(), integers * 3.0 / largest, atol=3.0 / largest * 1.01)
    assert (quantizer(x).double() - integers * 3.0 / largest).abs().gt(1e-5).float().mean() < 0.01  # ties may differ by rounding
    assert len(quantizer(x).unique()) <= 2**bits


@pytest.mark.parametrize("learnt", [False, True])
def test_gradient_passes_inside_and_stops_outside(learnt):
    quantizer = ActivationQuantizer(8, False, 1.0, "test", learnt)
    x = torch.tensor([-0.5, 0.25, 0.75, 1.5, 2.0], requires_grad=True)
    quantizer(x).sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 0, 0]
    if learnt:
        assert float(quantizer.clip.grad) == 2.0  # d clip / d clip for each of the two clipped values


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("learnt", [False, True])
def test_gradient_by_output_differs_within_half_a_step_of_the_ends_alone(dtype, bits, signed, learnt):
    """Inside is what doesn't round to either end; in bfloat16 neighbours of an end may round to it too."""
    clip = 2.9
    x = torch.linspace(-4, 4, 4001).to(dtype)
    grad = torch.randn(len(x), generator=torch.Generator().manual_seed(0)).to(dtype)
    leaves, quantizers = [], []
    for gradient in ("input", "output"):
        quantizer = ActivationQuantizer(bits, signed, clip, "test", learnt, gradient)
        leaf = x.clone().requires_grad_()
        y = quantizer(leaf)
        y.backward(grad)
        leaves.append(leaf)
        quantizers.append(quantizer)
    low, high = quantizer(torch.tensor([-100.0, 100.0], dtype=dtype)).detach()
    inside = (y > low) & (y < high)
    assert torch.equal(leaves[1].grad, torch.where(inside, grad, torch.zeros_like(grad)))
    if learnt:
        expected = grad.float()[y == high].sum() - (grad.float()[y == low].sum() if signed else 0)
        assert float(quantizers[1].clip.grad) == pytest.approx(float(expected), rel=0.02, abs=0.2 if dtype == torch.bfloat16 else 1e-3)
    if dtype == torch.float32:
        integers = (x.double() / quantizer.step).round()
        assert torch.equal(inside, (integers > (-quantizer.largest if signed else 0)) & (integers < quantizer.largest))
        changed = leaves[0].grad != leaves[1].grad
        distance = torch.minimum((x - low).abs(), (x - high).abs())
        assert changed.any() and distance[changed].max() <= 0.5 * quantizer.step * 1.0001


def test_gradient_by_output_keeps_the_output_and_nothing_else():
    kept = {}
    for gradient in ("input", "output"):
        quantizer, x = ActivationQuantizer(8, False, 1.0, "test", False, gradient), torch.rand(4, 3, requires_grad=True)
        y = quantizer(x)
        kept[gradient] = {tensor.data_ptr() for tensor in y.grad_fn.saved_tensors}
        assert (y.data_ptr() in kept[gradient]) == (gradient == "output")
        assert len(kept[gradient]) == 1


class Bottleneck(nn.Module):
    """Linear bottleneck, residual sum, pool and classifier: the cases of the graph."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1, self.relu = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU6()
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.conv3, self.bn3, self.relu3 = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU()
        self.conv4, self.bn4 = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(4, 3)

    def forward(self, x):
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        z = self.bn4(self.conv4(self.relu3(self.bn3(self.conv3(y))))) + y
        return self.fc(torch.flatten(self.pool(z), 1))


def test_the_graph_decides_signs_and_sources():
    torch.manual_seed(0)
    network = Bottleneck()
    nn.init.constant_(network.bn1.weight, 0.5)
    nn.init.constant_(network.bn2.bias, -1.0)
    found = activations.insert(network, 8, CONFIG, torch.randn(16, 3, 8, 8))
    signed = {name: quantizer.signed for name, quantizer in found.items()}
    assert signed == {"conv1": True, "conv2": False, "conv3": True, "conv4": False, "fc": True}
    assert float(found["conv2"].clip) == pytest.approx(2.0)  # beta 0 + 4 * 0.5, below the 6 of ReLU6
    assert float(found["conv3"].clip) == pytest.approx(5.0)  # |-1| + 4 * 1
    assert "training images" in found["fc"].source
    assert isinstance(network.relu, ActivationQuantizer)


@pytest.mark.parametrize("name", networks.NAMES)
def test_every_layer_of_every_network_sees_quantized_inputs(name):
    torch.manual_seed(0)
    network = networks.build(name, 10, "32x32")
    found = activations.insert(network, 4, CONFIG, torch.randn(4, 3, 16, 16))
    assert set(found) == {shape.name for shape in layer_shapes(network, (3, 16, 16))}
    seen = {}
    for layer in found:
        network.get_submodule(layer).register_forward_hook(lambda module, inputs, _, layer=layer: seen.update({layer: inputs[0]}))
    network.eval()(torch.randn(2, 3, 16, 16))
    for layer, quantizer in found.items():
        integers = seen[layer] / quantizer.step
        assert torch.allclose(integers, integers.round(), atol=1e-3), layer
        assert float(integers.detach().max()) <= quantizer.largest + 1e-3
        assert quantizer.signed or float(integers.detach().min()) >= 0
    first = next(iter(found))
    assert found[first].bits == 8  # the image
