"""Dot products of a layer as vectors of a hardware engine, against torch's own convolution."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from dbq.engine.hardware import evaluate
from dbq.engine.hardware.trained import layer_vectors
from dbq.engine.program import DotProducts, Program, Value
from dbq.errors import DbqError


def layer(seed, planes_shape, low, high, input_shape, groups=1, stride=(1, 1), padding=(0, 0), dilation=(1, 1), coding="ternary"):
    random = np.random.default_rng(seed)
    branches, channels = planes_shape[:2]
    operation = DotProducts(
        output="y", inputs=("x",), layer="layer", coding=coding, planes=torch.from_numpy(random.integers(-1, 2, planes_shape, np.int8)),
        multipliers=torch.from_numpy(random.integers(-200, 201, (branches, channels))), bias=torch.zeros(channels, dtype=torch.int64),
        shifts=torch.zeros(channels, dtype=torch.int64), low=None, high=None, stride=stride, padding=padding, dilation=dilation,
        groups=groups, accumulator_bits=32, accumulator_limit=None,
    )  # fmt: skip
    values = {"x": torch.from_numpy(random.integers(low, high + 1, input_shape))}
    program = Program([operation], {"x": Value(1.0, low, high, input_shape[1:])}, input_shape[1:], "y", 8)
    return program, operation, values


CONVOLUTIONS = [
    ((2, 6, 4, 3, 3), (0, 15), {"padding": (1, 1)}),
    ((1, 4, 1, 3, 3), (0, 255), {"groups": 4, "stride": (2, 2), "padding": (1, 1)}),
    ((3, 6, 2, 2, 3), (-8, 7), {"groups": 2, "stride": (1, 2), "dilation": (2, 1), "padding": (0, 2)}),
]


@pytest.mark.parametrize(("shape", "ends", "settings"), CONVOLUTIONS)
def test_rows_are_dot_products_of_the_convolution(shape, ends, settings):
    depth = shape[2] * settings.get("groups", 1)
    program, operation, values = layer(0, shape, *ends, (2, depth, 7, 8), **settings)
    design, activations, planes, scales = layer_vectors(program, "layer", values, 60)
    assert (design.length, design.branches, design.signed) == (np.prod(shape[2:]), shape[0], ends[0] < 0)
    assert design.activation_bits == (ends[1] - ends[0]).bit_length()
    weight = (operation.planes.double() * operation.multipliers[:, :, None, None, None]).sum(0)
    outputs = functional.conv2d(values["x"].double(), weight, **settings).long()
    computed = evaluate(design, activations, planes, scales)
    assert not computed.overflow.any() and scales.min() >= 0
    for index, value in enumerate(computed.values):
        assert value in outputs[:, index * shape[1] // 60]
    assert len(np.unique(activations, axis=0)) > 20, "images and positions vary"


def test_rows_of_a_fully_connected_layer():
    program, operation, values = layer(1, (2, 5, 9), 0, 255, (3, 9))
    weight = (operation.planes.long() * operation.multipliers[:, :, None]).sum(0)
    computed = evaluate(*layer_vectors(program, "layer", values, 40, filters=2))
    outputs = set((values["x"] @ weight.T).flatten().tolist())
    assert set(computed.values.tolist()) <= outputs


def test_a_layer_without_planes_is_an_error():
    program, _, values = layer(2, (1, 5, 9), 0, 255, (3, 9), coding="fixed_point")
    for name in ("layer", "absent"):
        with pytest.raises(DbqError, match=f"layer {name}: no dot products of ternary planes"):
            layer_vectors(program, name, values, 10)
