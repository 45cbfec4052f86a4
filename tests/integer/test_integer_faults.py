"""What must not pass: a wrong weight, scale or width is caught, and bad input is one error that names the layer and the remedy."""

import copy
import dataclasses

import pytest
import quantized_networks as make
import torch
from torch import nn
from torch.nn import functional

from dbq.errors import DbqError
from dbq.insertion.activations import ActivationQuantizer
from dbq.integer import plain
from dbq.integer.compile import Widths, compile_network
from dbq.integer.execute import run
from dbq.integer.program import Rescale
from dbq.integer.replay import replay, smallest_width

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
    assert replay(NETWORK, BATCHES, compiled=whole).unexplained == 0
    wrong = replay(NETWORK, BATCHES, compiled=whole, program=program)
    assert wrong.unexplained > 0


def test_a_wrong_rescaling_is_not_explained():
    whole = compiled()
    program = copy.deepcopy(whole.program)
    operation = next(operation for operation in program.operations if isinstance(operation, Rescale))
    operation.multiplier += operation.multiplier // 16
    assert replay(NETWORK, BATCHES, compiled=whole, program=program).unexplained > 0


def test_a_constant_changed_in_place_is_used_at_once():
    program = compiled().program
    images = make.images(4)
    before = run(program, images)
    program.dot_products()[-1].bias[0] += 1 << 30
    after = run(program, images)
    assert torch.equal(after[:, 0], before[:, 0] + (1 << 30))
    assert torch.equal(after, run(program, images, exact=True))


def test_an_accumulator_below_its_worst_case_is_refused():
    needed = {operation.layer: operation.accumulator_bits for operation in compiled().program.dot_products()}
    widest = max(needed.values())
    compiled(accumulator_bits=widest)
    layer = next(layer for layer, bits in needed.items() if bits == widest)
    with pytest.raises(DbqError, match=rf"layer {layer}: engine.accumulator_bits is {widest - 1}, and its worst case needs {widest} bits"):
        compiled(accumulator_bits=widest - 1)


def test_the_worst_case_is_reached_by_the_input_that_it_is_computed_from():
    program = compiled().program
    operation = next(operation for operation in program.dot_products() if operation.layer == "conv1")
    value = program.values[operation.inputs[0]]
    ends = []
    for plane in operation.planes.flatten(0, 1):
        worst = plane.sign().float() * value.high
        ends.append(int(functional.conv2d(worst[None].double(), plane[None].double())))
    assert operation.accumulator_bits == max(ends).bit_length() + 1


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
    return make.quantize(Stack(*layers), make.row(policy="everything"))


def test_operations_without_an_integer_form():
    refused(stack(nn.Sigmoid()), "layer layers.0: no integer operation for Sigmoid")
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
    assert replay(network, BATCHES).unexplained == 0


class Scaled(Stack):
    def forward(self, x):
        return self.fc(torch.flatten(self.pool(torch.mul(self.relu(self.bn(self.conv(x))), 2)), 1))


class Constant(Stack):
    def forward(self, x):
        return self.fc(torch.flatten(self.pool(self.relu(self.bn(self.conv(x))) + 1), 1))


@pytest.mark.parametrize(
    ("kind", "match"), [(Scaled, "node mul: no integer operation for mul"), (Constant, "node add: the sum with a constant")]
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
    make.policies.quantize(network, make.row(policy="everything"), make.images(16))
    refused(network.eval(), "the network's output is not the result of a fully connected layer")


def test_float_weights_and_float_activations():
    torch.manual_seed(0)
    refused(make.quantize(make.Tiny(), make.row(classifier="float")), "layer fc: its weights are float")
    torch.manual_seed(0)
    refused(make.quantize(make.Tiny(), make.row(bits=32)), "layer relu1: no integer operation for ReLU -> set activation_bits below 32")
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
    with pytest.raises(DbqError, match=r"engine\.fixed_point_bits: 2 bits give"):
        smallest_width(make.build("resnet20"), make.batches(32), -60.0, [2])


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
        run(program, make.images(2, 16))
    with pytest.raises(DbqError, match="uint8 images"):
        run(program, make.pixels(2, 8))


DESCRIPTION, ARRAYS = plain.to_plain(compiled().program)
LAYER = next(index for index, operation in enumerate(DESCRIPTION["operations"]) if operation["kind"] == "DotProducts")


@pytest.mark.parametrize(
    ("path", "value", "match"),
    [
        (("operations", 0, "kind"), "Guess", "operation 0: unknown kind 'Guess'"),
        (("operations", 0, "step"), float("nan"), r"operation 0 \(Quantize\): step is nan"),
        (("operations", 0, "guess"), 1, "unexpected keyword"),
        (("operations", LAYER, "stride"), [1], "stride is"),
        (("operations", LAYER, "stride"), [0, 1], "don't give"),
        (("operations", LAYER, "groups"), 3, "don't give"),
        (("operations", LAYER, "low"), "0", "low is '0'"),
        (("operations", LAYER, "accumulator_bits"), 1 << 70, "accumulator_bits is"),
        (("operations", LAYER, "inputs"), ["absent"], "a value that doesn't exist"),
        (("operations", LAYER, "inputs"), ["image"], "the image is read by Quantize"),
        (("operations",), [], "is given by no operation"),
        (("operations",), None, "its description is incomplete"),
        (("image_shape",), [3, 8], "image_shape is"),
        (("image_shape",), [3, 1 << 20, 1 << 20], "don't give"),
        (("logits",), "absent", "its logits"),
        (("values", DESCRIPTION["logits"], "lsb"), 0.0, "lsb 0.0"),
        (("values", DESCRIPTION["logits"], "shape"), [1 << 40], "shape"),
        (("values", DESCRIPTION["logits"], "high"), None, "high is None"),
    ],
)
def test_a_damaged_program_is_one_error(path, value, match):
    description = copy.deepcopy(DESCRIPTION)
    place = description
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    with pytest.raises(DbqError, match=match):
        plain.from_plain(description, ARRAYS)


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("bias", None), ("bias", lambda array: array[:-1]), ("bias", lambda array: array.astype(float)),
        ("planes", lambda array: array[:, :, :1]), ("planes", lambda array: array[0]),
        ("multipliers", lambda array: array.astype("int8")), ("shifts", lambda array: array + 64),
    ],
)  # fmt: skip
def test_damaged_constants_are_one_error(field, change):
    arrays = dict(ARRAYS)
    array = arrays.pop(f"{LAYER}.{field}")
    if change is not None:
        arrays[f"{LAYER}.{field}"] = change(array)
    with pytest.raises(DbqError, match=rf"operation {LAYER} \(DotProducts\)"):
        plain.from_plain(DESCRIPTION, arrays)


def test_inexact_convolutions_are_found(monkeypatch):
    real = functional.conv2d
    monkeypatch.setattr(functional, "conv2d", lambda x, *rest: real(x, *rest) * (1.01 if x.is_floating_point() else 1))
    with pytest.raises(DbqError, match="don't give exact integers"):
        replay(NETWORK, BATCHES)
