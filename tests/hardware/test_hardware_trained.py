"""Dot products of a layer as vectors of a hardware engine, against torch's own convolution."""

import shutil

import numpy as np
import pytest
import torch
from torch.nn import functional

from dbq.errors import DbqError
from dbq.hardware import evaluate, measure, tools
from dbq.hardware.trained import ENGINES, layer_vectors, layers_by_length, measure_layer, median_channel
from dbq.integer.program import DotProducts, Program, Value


def layer(seed, planes_shape, low, high, input_shape, groups=1, stride=(1, 1), padding=(0, 0), dilation=(1, 1), coding="ternary"):
    """A program of one layer whose outputs are divided by 2^shift and saturated, and its values for random inputs."""
    random = np.random.default_rng(seed)
    branches, channels = planes_shape[:2]
    operation = DotProducts(
        output="y", inputs=("x",), layer="layer", coding=coding, planes=torch.from_numpy(random.integers(-1, 2, planes_shape, np.int8)),
        multipliers=torch.from_numpy(random.integers(-200, 201, (branches, channels))),
        bias=torch.from_numpy(random.integers(-500, 500, channels)), shifts=torch.from_numpy(random.integers(0, 4, channels)),
        low=-1500, high=1500, stride=stride, padding=padding, dilation=dilation, groups=groups, accumulator_bits=32,
        accumulator_limit=None,
    )  # fmt: skip
    x = torch.from_numpy(random.integers(low, high + 1, input_shape))
    program = Program([operation], {"x": Value(1.0, low, high, input_shape[1:])}, input_shape[1:], "y", 8)
    return program, operation, {"x": x, "y": finished(operation, sums(operation, x))}


def sums(operation, x):
    """Scaled sums of all branches at every output, by torch's own layers in float64."""
    column = [1] * (operation.planes.ndim - 2)
    weight = (operation.planes.double() * operation.multipliers.view(*operation.multipliers.shape, *column)).sum(0)
    if operation.planes.ndim == 3:
        return x.double() @ weight.T
    return functional.conv2d(x.double(), weight, None, operation.stride, operation.padding, operation.dilation, operation.groups)


def finished(operation, y):
    """round((y + bias) / 2^shift), ties to even as Python rounds, saturated."""
    shape = [1, -1, *[1] * (y.ndim - 2)]
    exact = (y + operation.bias.view(shape)) / 2.0 ** operation.shifts.view(shape)
    return exact.round().clamp(operation.low, operation.high).long()


CONVOLUTIONS = [
    ((2, 6, 4, 3, 3), (0, 15), {"padding": (1, 1)}),
    ((1, 4, 1, 3, 3), (0, 255), {"groups": 4, "stride": (2, 2), "padding": (1, 1)}),
    ((3, 6, 2, 2, 3), (-8, 7), {"groups": 2, "stride": (1, 2), "dilation": (2, 1), "padding": (0, 2)}),
]


@pytest.mark.parametrize(("shape", "ends", "settings"), CONVOLUTIONS)
def test_rows_are_dot_products_of_the_convolution(shape, ends, settings):
    depth = shape[2] * settings.get("groups", 1)
    program, operation, values = layer(0, shape, *ends, (2, depth, 7, 8), **settings)
    vectors = layer_vectors(program, "layer", values, 60)
    design = vectors.design
    assert (design.length, design.branches, design.signed) == (np.prod(shape[2:]), shape[0], ends[0] < 0)
    assert (design.activation_bits, design.scale_bits, design.kind) == ((ends[1] - ends[0]).bit_length(), 8, "port")
    outputs = sums(operation, values["x"]).long()
    computed = evaluate(*vectors[:4])
    assert not computed.overflow.any() and vectors.scales.min() >= 0
    for index, value in enumerate(computed.values):
        assert vectors.channels[index] == index * shape[1] // 60
        assert value in outputs[:, vectors.channels[index]]
    assert not vectors.disagreeing(computed.values).any()
    assert len(np.unique(vectors.activations, axis=0)) > 20, "images and positions vary"


@pytest.mark.parametrize("channel", [0, 4])
def test_an_engine_of_constants_has_the_weights_of_one_channel(channel):
    program, operation, values = layer(3, (2, 5, 3, 2, 2), 0, 15, (3, 3, 6, 6))
    vectors = layer_vectors(program, "layer", values, 50, channel=channel, structure="tree")
    assert vectors.planes is None and set(vectors.channels) == {channel} and vectors.design.structure == "tree"
    weight = (vectors.design.planes * vectors.scales[0][:, None]).sum(0)
    trained = operation.planes[:, channel].flatten(1).long() * operation.multipliers[:, channel, None]
    assert (weight == trained.sum(0).numpy()).all() and vectors.scales.min() >= 0
    computed = evaluate(*vectors[:4])
    assert not vectors.disagreeing(computed.values).any()


def test_a_wrong_sum_or_a_wrong_output_is_noticed():
    program, operation, values = layer(4, (1, 5, 3, 2, 2), 0, 15, (3, 3, 6, 6))
    operation.low, operation.high = -(10**6), 10**6  # nothing saturates
    values["y"] = finished(operation, sums(operation, values["x"]))
    vectors = layer_vectors(program, "layer", values, 200)
    right = evaluate(*vectors[:4]).values
    assert not vectors.disagreeing(right).any()
    assert vectors.disagreeing(right + 16).all(), "shifts are below 4 bits"
    assert vectors._replace(outputs=vectors.outputs + 1).disagreeing(right).all()


def test_rows_of_a_fully_connected_layer(monkeypatch):
    monkeypatch.setattr(measure, "FILTERS", 2)
    program, operation, values = layer(1, (2, 5, 9), 0, 255, (3, 9))
    vectors = layer_vectors(program, "layer", values, 40)
    computed = evaluate(*vectors[:4])
    assert set(computed.values.tolist()) <= set(sums(operation, values["x"]).long().flatten().tolist())
    assert len(set(vectors.channels)) == 2 and not vectors.disagreeing(computed.values).any()


def test_the_first_layer_of_each_length_and_the_median_channel():
    operations = [layer(0, shape, 0, 1, (1, 2, 5, 5))[1] for shape in ((1, 3, 2, 3, 3), (2, 4, 2, 3, 3), (1, 2, 2, 1, 1), (1, 3, 2, 2, 2))]
    for name, operation in zip("abcd", operations, strict=True):
        operation.layer = name
    operations[3].coding = "fixed_point"
    assert layers_by_length(Program(operations, {}, (2, 5, 5), "y", 8)) == ["a", "c"]
    planes = torch.ones(2, 5, 10, dtype=torch.int8)
    for channel, zeros in enumerate((0, 9, 5, 2, 10)):  # of 10 in the first plane and none in the second
        planes[0, channel, :zeros] = 0
    operations[0].planes = planes
    assert median_channel(operations[0]) == 2


@pytest.mark.skipif(any(shutil.which(name) is None for name in tools.TOOLS), reason="Icarus Verilog or Yosys is not installed")
@pytest.mark.parametrize(("kind", "structure"), ENGINES)
def test_a_layer_is_simulated_and_synthesised(kind, structure):
    program, operation, values = layer(5, (2, 4, 2, 2, 2), 0, 15, (3, 2, 6, 6))
    row = measure_layer(program, values, "layer", kind, structure, 40)
    assert (row["mismatches"], row["simulated_dot_products"]) == (0, 40 if kind == "port" else 4)
    planes = operation.planes if kind == "port" else operation.planes[:, int(row["channel"])]
    assert row["zero_rate"] == round((planes == 0).sum().item() / planes.numel(), 4)
    assert row["nonzeros"] == (16 if kind == "port" else (planes != 0).sum())
    assert 0 < row["synthesised_full_adders"] <= row["counted_adder_only"]
    values["y"][:] += 1
    assert measure_layer(program, values, "layer", kind, structure, 40)["mismatches"] == row["simulated_dot_products"]


def test_a_layer_without_planes_is_an_error():
    program, _, values = layer(2, (1, 5, 9), 0, 255, (3, 9), coding="fixed_point")
    for name in ("layer", "absent"):
        with pytest.raises(DbqError, match=f"layer {name}: no dot products of ternary planes"):
            layer_vectors(program, name, values, 10)
