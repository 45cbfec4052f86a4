"""What must not pass: a wrong weight, scale or width is caught, and bad input is one error that names the layer and the remedy."""

import copy
import dataclasses

import pytest
import quantized_networks as make
import torch
from torch import nn
from torch.nn import functional

from dbq.cost import network as replay
from dbq.errors import DbqError
from dbq.insertion.activations import ActivationQuantizer
from dbq.integer import replay as integer
from dbq.integer.compile import Widths, compile_network
from dbq.integer.program import Program, Rescale
from dbq.networks.count import layer_shapes

NETWORK = make.tiny(policy="everything")
BATCHES = make.batches(32)


def compiled(network=NETWORK, **options):
    return compile_network(network, (3, 8, 8), Widths(**options))


@pytest.mark.parametrize("layer", ["conv1", "conv2", "conv3", "conv4", "fc"])
@pytest.mark.parametrize("what", ["weight", "multiplier", "shift", "bias"])
def test_one_wrong_constant_is_not_explained(layer, what):
    whole = compiled()
    program = copy.deepcopy(whole.program)
    operation = next(operation for operation in program.dot_products() if operation.layer == layer)
    channel = int(operation.planes[0].flatten(1).any(1).nonzero()[0])
    if what == "weight":
        row = operation.planes[0, channel].view(-1)
        position = int(row.nonzero()[0])
        row[position] = -row[position]
    elif what == "multiplier":
        operation.multipliers[0, channel] += int(operation.multipliers[0, channel]) // 8 + 1
    elif what == "shift":
        operation.shifts[channel] += 1
    else:
        operation.bias[channel] += int(operation.multipliers[:, channel].abs().max()) * 64
    assert integer.replay(NETWORK, BATCHES, compiled=whole).unexplained == 0
    wrong = integer.replay(NETWORK, BATCHES, compiled=whole, program=program)
    assert wrong.unexplained > 0


def test_a_wrong_rescaling_is_not_explained():
    whole = compiled()
    program = copy.deepcopy(whole.program)
    operation = next(operation for operation in program.operations if isinstance(operation, Rescale))
    operation.multiplier += operation.multiplier // 16
    assert integer.replay(NETWORK, BATCHES, compiled=whole, program=program).unexplained > 0


def test_a_constant_changed_in_place_is_used_at_once():
    program = compiled().program
    images = make.images(4)
    before = program.run(images)
    program.dot_products()[-1].bias[0] += 1 << 30
    after = program.run(images)
    assert torch.equal(after[:, 0], before[:, 0] + (1 << 30))
    assert torch.equal(after, program.run(images, exact=True))


def test_an_accumulator_below_its_worst_case_is_refused():
    needed = {operation.layer: operation.accumulator_bits for operation in compiled().program.dot_products()}
    widest = max(needed.values())
    compiled(accumulator_bits=widest)
    layer = next(layer for layer, bits in needed.items() if bits == widest)
    with pytest.raises(DbqError, match=rf"layer {layer}: engine.accumulator_bits is {widest - 1}, and its worst case needs {widest} bits"):
        compiled(accumulator_bits=widest - 1)


@pytest.mark.parametrize("exact", [False, True])
def test_an_accumulator_that_overflows_is_seen(exact):
    images, seen = make.images(8), {}
    compiled().program.run(images, observe=seen)
    rows = integer.accumulators(compiled().program, seen)
    widest = max(row["observed_bits"] for row in rows)
    enough = compiled(accumulator_bits=widest, overflow="observed").program
    assert torch.equal(enough.run(images, exact), compiled().program.run(images))
    narrow = compiled(accumulator_bits=widest - 1, overflow="observed").program
    with pytest.raises(DbqError, match=rf"layer \w+: accumulators from -?\d+ to \d+ overflow {widest - 1} bits .* at least {widest}"):
        narrow.run(images, exact)


def test_the_worst_case_is_reached_by_the_input_that_it_is_computed_from():
    program = compiled().program
    operation = next(operation for operation in program.dot_products() if operation.layer == "conv1")
    value = program.values[operation.inputs[0]]
    ends = []
    for plane in operation.planes.flatten(0, 1):
        worst = plane.sign().float() * value.high
        ends.append(int(functional.conv2d(worst[None].double(), plane[None].double())))
    assert operation.accumulator_bits == max(ends).bit_length() + 1
    assert operation.accumulator_bits == replay.accumulator_bits(NETWORK, "conv1", 8)


def test_the_cost_table_and_the_engine_agree_on_widths_and_zeros():
    network = make.build("resnet20", policy="everything")
    operations = {operation.layer: operation for operation in compile_network(network, (3, 8, 8)).program.dot_products()}
    for shape in layer_shapes(network, (3, 8, 8)):
        assert replay.accumulator_bits(network, shape.name, 8) == operations[shape.name].accumulator_bits
        weights = replay.layer_weights(network, shape)
        assert weights.kind == "ternary"
        assert weights.bits == 4
        assert weights.nonzeros.tolist() == (operations[shape.name].planes != 0).flatten(2).sum(2).tolist()


@pytest.mark.parametrize(
    ("method", "kind", "bits", "branches", "scales"),
    [("lq_nets", "binary", 2, 2, 2), ("ttq", "ternary", 2, 2, 2), ("twn", "ternary", 2, 1, 4), ("uniform", "fixed_point", 8, 0, 1)],
)
def test_every_coding_is_counted_through_one_interface(method, kind, bits, branches, scales):
    options = {"lq_nets": {"branches": 2, "scales": "layer"}, "twn": {"scales": "channel"}}.get(method, {})
    network = make.tiny(method=method, policy="everything", **options)
    shape = next(shape for shape in layer_shapes(network, (3, 8, 8)) if shape.name == "conv2")
    weights = replay.layer_weights(network, shape)
    assert (weights.kind, weights.bits, weights.branches, weights.scales) == (kind, bits, branches, scales)
    assert len(replay.check_planes(network)) == (0 if method == "uniform" else 5)


def refused(network, match, **options):
    with pytest.raises(DbqError, match=match) as error:
        compile_network(network, (3, 8, 8), Widths(**options))
    assert error.value.remedy
    assert "\n" not in str(error.value)


class Stack(nn.Module):
    """Layers one behind the other, with a classifier at the end."""

    def __init__(self, *layers, channels=4):
        super().__init__()
        self.conv, self.bn, self.relu = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()
        self.layers = nn.Sequential(*layers)
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(channels, 4)

    def forward(self, x):
        return self.fc(torch.flatten(self.pool(self.layers(self.relu(self.bn(self.conv(x))))), 1))


def stack(*layers):
    torch.manual_seed(0)
    return make.quantize(Stack(*layers), make.experiment(policy="everything"))


def test_operations_without_an_integer_form():
    refused(stack(nn.Sigmoid()), "layer layers.0: the integer engine has no operation for Sigmoid")
    refused(stack(nn.AvgPool2d(2)), "layer layers.0: .* AvgPool2d")
    refused(stack(nn.AdaptiveAvgPool2d(2)), "layer layers.0: .* AdaptiveAvgPool2d")
    refused(stack(nn.BatchNorm2d(4)), "layer layers.0: a batch norm that isn't right behind a convolution")
    refused(stack(nn.Conv2d(4, 4, 1, bias=False), nn.ReLU(), nn.BatchNorm2d(4)), "layer layers.2: a batch norm that isn't right behind")
    padded = nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")
    refused(stack(padded, nn.BatchNorm2d(4), nn.ReLU()), "layer layers.0: only zero padding")
    free = nn.BatchNorm2d(4, track_running_stats=False)
    network = stack(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU())
    network.layers[1] = free
    refused(network.eval(), r"layer layers.1: a batch norm without running statistics can't be folded into layers.0")


def test_a_layer_without_batch_norm_is_fine():
    network = stack(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())
    assert integer.replay(network, BATCHES).unexplained == 0


class Scaled(Stack):
    def forward(self, x):
        return self.fc(torch.flatten(self.pool(torch.mul(self.relu(self.bn(self.conv(x))), 2)), 1))


class Constant(Stack):
    def forward(self, x):
        return self.fc(torch.flatten(self.pool(self.relu(self.bn(self.conv(x))) + 1), 1))


@pytest.mark.parametrize(
    ("kind", "match"), [(Scaled, "node mul: .* no operation for mul"), (Constant, "node add: the sum with a constant")]
)
def test_calls_without_an_integer_form(kind, match):
    network = stack()
    network.__class__ = kind  # the constant comes in after quantization, which knows no such call either
    refused(network, match)


def test_an_output_that_is_no_classifier():
    class Headless(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn, self.relu = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()

        def forward(self, x):
            return self.relu(self.bn(self.conv(x)))

    torch.manual_seed(0)
    network = Headless()
    make.policies.quantize(network, make.experiment(policy="everything"), make.images(16))
    refused(network.eval(), "the network's output is not the result of a fully connected layer")


def test_float_weights_and_float_activations():
    entry = make.experiment()
    floating = dataclasses.replace(entry, policy=dataclasses.replace(entry.policy, classifier="float"))
    torch.manual_seed(0)
    refused(make.quantize(make.Tiny(), floating), "layer fc: its weights are float")
    torch.manual_seed(0)
    refused(make.quantize(make.Tiny(), make.experiment(bits=32)), "layer relu1: .* no operation for ReLU -> set activation_bits below 32")
    network = make.tiny()
    del network.conv1.input_quantizer
    network.conv1._forward_pre_hooks.clear()
    refused(network, "layer conv1: its inputs are float")


def test_an_unsigned_quantizer_where_the_graph_is_signed():
    network = make.tiny()
    own = network.conv3.input_quantizer
    network.conv3.input_quantizer = ActivationQuantizer(own.bits, False, float(own.clip), "test", False)
    refused(network, "layer conv3: its input quantizer is unsigned, and its inputs may be negative")
    network = make.tiny()
    network.conv1.input_quantizer = ActivationQuantizer(8, False, 2.0, "test", False)
    refused(network, "layer conv1: an unsigned quantizer, and images have negative values")


def test_widths_and_modes_out_of_range():
    refused(NETWORK, r"engine\.fixed_point_bits: 1 ", fixed_point_bits=1)
    refused(NETWORK, r"engine\.fixed_point_bits: 33 ", fixed_point_bits=33)
    refused(NETWORK, r"engine\.accumulator_bits: 1 ", accumulator_bits=1)
    refused(NETWORK, r"engine\.overflow: unknown value 'never'", overflow="never")
    with pytest.raises(DbqError, match=r"engine\.fixed_point_bits: 2 bits give"):
        integer.smallest_width(make.build("resnet20"), make.batches(32), -60.0, [2])


def test_a_network_in_training_mode_and_damaged_planes():
    network = make.tiny()
    network.train()
    refused(network, "the network is in training mode")
    network = make.tiny(policy="everything")
    quantizer = network.conv4.parametrizations.weight[0]
    whole = quantizer.decompose
    quantizer.decompose = lambda weight: dataclasses.replace(whole(weight), scales=whole(weight).scales * 1.01)
    refused(network, "layer conv4: the planes differ from the hard weights by 0.01")


def test_images_that_do_not_fit():
    program = compiled().program
    with pytest.raises(DbqError, match=r"images of shape \(3, 16, 16\), the program is for \(3, 8, 8\)"):
        program.run(make.images(2, 16))
    with pytest.raises(DbqError, match="uint8 images"):
        program.run(make.pixels(2, 8))


def test_a_damaged_file():
    description, arrays = compiled().program.to_plain()
    other = copy.deepcopy(description)
    other["operations"][0]["kind"] = "Guess"
    with pytest.raises(DbqError, match="operation 0: unknown kind 'Guess'"):
        Program.from_plain(other, arrays)
    with pytest.raises(DbqError, match=r"operation 1 \(DotProducts\)"):
        Program.from_plain(description, {name: array for name, array in arrays.items() if name != "1.bias"})


def test_inexact_convolutions_are_found(monkeypatch):
    real = functional.conv2d
    monkeypatch.setattr(functional, "conv2d", lambda *arguments, **options: real(*arguments, **options) * 1.01)
    with pytest.raises(DbqError, match="don't give exact integers"):
        integer.replay(NETWORK, BATCHES)
