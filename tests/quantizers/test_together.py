"""All layers in one call give what each layer gives alone."""

import copy
import io

import pytest
import torch
from method_settings import settings_of
from torch import nn
from torch.nn.utils import parametrize

from dbq.quantizers import together
from dbq.quantizers.dbq import BranchQuantizer
from dbq.quantizers.together import JointQuantization
from dbq.quantizers.uniform import UniformQuantizer, Width


def network(branches, forward, widths=(8, 16, 8)):
    """Layers whose sizes have no long common divisor, so that rows are padded, and one in channels_last."""
    torch.manual_seed(branches)
    config = settings_of("dbq", branches=branches, forward=forward)
    layers = [nn.Conv2d(3, widths[0], 3), nn.Conv2d(widths[0], widths[1], 3), nn.Conv2d(widths[1], widths[2], 1)]
    result = nn.Sequential(*layers).to(memory_format=torch.channels_last)
    for layer in layers:
        parametrize.register_parametrization(layer, "weight", BranchQuantizer(layer.weight, config))
    return result


@pytest.mark.parametrize("forward", ["hard", "soft"])
@pytest.mark.parametrize("branches", [1, 2, 3])
@pytest.mark.parametrize("widths", [(8, 16, 8), (64, 64, 512)])
def test_outputs_and_gradients_equal_those_of_single_layers(branches, forward, widths):
    alone = network(branches, forward, widths)
    attached = copy.deepcopy(alone)
    JointQuantization(attached)
    images = torch.randn(2, 3, 9, 9)
    for model in (alone, attached):
        model(images).square().sum().backward()
    # soft weights are sums whose order may differ
    assert torch.equal(alone(images), attached(images)) if forward == "hard" else torch.allclose(alone(images), attached(images), atol=1e-5)
    for one, other in zip(alone.parameters(), attached.parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad, rtol=1e-3, atol=1e-5 * float(one.grad.abs().max()))


def test_uniform_layers_of_any_widths_equal_single_layers_and_stand_beside_branches():
    """Bit for bit, in forward and backward pass: lists of tensors are the same operations."""
    alone = network(1, "hard")
    for index, bits in ((1, 8), (2, 3)):
        parametrize.remove_parametrizations(alone[index], "weight", leave_parametrized=False)
        parametrize.register_parametrization(alone[index], "weight", UniformQuantizer(alone[index].weight, Width(bits)))
    attached = copy.deepcopy(alone)
    JointQuantization(attached)
    images = torch.randn(2, 3, 9, 9)
    outputs = []
    for model in (alone, attached):
        outputs.append(model(images))
        outputs[-1].square().sum().backward()
    # the one layer of branches is quantized on its own
    assert [type(group) for group in attached.joint_quantization.groups] == [together.UniformLayers]
    assert torch.equal(*outputs)
    for one, other in zip(alone.parameters(), attached.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)
        assert one.grad.is_contiguous(memory_format=torch.channels_last) == other.grad.is_contiguous(memory_format=torch.channels_last)
    attached.eval()
    assert torch.equal(alone.eval()(images), attached(images))


def test_no_finished_weight_outlives_the_forward_pass_even_if_it_fails():
    model = network(2, "hard")
    joint = JointQuantization(model)
    seen = []

    def finished():
        return sum(layer[0].finished is not None for layer in joint.layers)

    model[0].register_forward_hook(lambda *_: seen.append(finished()))
    model(torch.randn(2, 3, 9, 9))
    with pytest.raises(RuntimeError):
        model(torch.randn(2, 4, 9, 9))
    assert (seen, finished()) == ([3], 0)
    layer = model[0].parametrizations.weight
    with torch.no_grad():
        layer.original.mul_(-1)
    assert torch.equal(model[0].weight, layer[0](layer.original))  # not the value before
    model.eval()
    model(torch.randn(2, 3, 9, 9))
    assert seen == [3, 0]


def test_a_copy_of_a_network_quantizes_its_own_weights():
    model = network(1, "hard")
    JointQuantization(model)
    images = torch.randn(2, 3, 9, 9)
    before = model(images)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for layer in twin:
            layer.parametrizations.weight.original.mul_(-1)
    assert not torch.allclose(twin(images), before)
    assert torch.equal(model(images), before)
    assert twin.joint_quantization.groups[0].quantizers[0] is twin[0].parametrizations.weight[0]


def test_weights_lie_in_one_block_and_may_leave_it():
    """Joining costs nothing; after a move of the parameters, to another memory format too, the step is still that of single layers."""
    alone = network(2, "hard")
    attached = copy.deepcopy(alone)
    JointQuantization(attached)
    images = torch.randn(2, 3, 9, 9)
    attached(images)
    rows = attached.joint_quantization.groups[0].rows
    weights = [layer.parametrizations.weight.original for layer in attached]
    assert rows.join(weights).data_ptr() == weights[0].data_ptr()
    assert all(torch.equal(one, layer.parametrizations.weight.original) for one, layer in zip(weights, alone, strict=True))
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)
    for model in (alone, attached):
        model.to(memory_format=torch.contiguous_format)
        model[0].parametrizations.weight.original.data *= -1.5
        model(images).square().sum().backward()
    assert rows.join(weights).data_ptr() != weights[0].data_ptr()
    for one, other in zip(alone.parameters(), attached.parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad, rtol=1e-3, atol=1e-5 * float(one.grad.abs().max()))


def test_a_saved_state_is_as_large_as_the_weights():
    model, sizes = network(2, "hard"), []
    JointQuantization(model)
    for _ in range(2):
        file = io.BytesIO()
        torch.save(model.state_dict(), file)
        sizes.append(len(file.getvalue()))
        model(torch.randn(2, 3, 9, 9))
    assert sizes[1] < sizes[0] + 3 * 4 * together.PADDED + 1024
