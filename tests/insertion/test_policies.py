"""The layer policy: which layer gets which quantizer, and what the table says of it."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from dbq.errors import DbqError
from dbq.insertion import policies
from dbq.quantizers.dbq import BranchQuantizer
from dbq.quantizers.uniform import UniformQuantizer
from dbq.settings.entries import ActivationSettings
from dbq.settings.quantizers import METHODS

DBQ = {"branches": 2, "forward": "hard", "temperature": 7.0, "scales": "layer", "gradient_scale": "lsq", "initial": "least_squares"}


def row(method="dbq", quantizer=DBQ, activation_bits=4, **policy):
    return SimpleNamespace(
        key="some-row", method=method, quantizer=METHODS[method](**quantizer), activation_bits=activation_bits,
        activations=ActivationSettings(clip="batch_norm", k=4.0, gradient="output"),
        policy=SimpleNamespace(**{"first": 8, "depthwise": 6, "classifier": "float", "other": "method"} | policy),
    )  # fmt: skip


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(), nn.Conv2d(8, 12, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5),
    )  # fmt: skip


def test_each_kind_of_layer_gets_what_the_policy_says():
    model = network()
    table = policies.quantize(model, row(), torch.rand(4, 3, 9, 9))
    assert [(line.layer, line.kind, line.quantizer, line.weight_bits, line.branches, line.activation_bits) for line in table] == [
        ("0", "first", "uniform", 8, 0, 8), ("2", "depthwise", "uniform", 6, 0, 4), ("4", "pointwise", "dbq", 4, 2, 4),
        ("8", "classifier", "float", 32, 0, 4),
    ]  # fmt: skip
    assert [list(line.as_dict()) for line in table] == 4 * [policies.COLUMNS]
    assert [(name, type(quantizer), quantizer.storage_bits) for name, quantizer, _ in policies.weight_quantizers(model)] == [
        ("0", UniformQuantizer, 8), ("2", UniformQuantizer, 6), ("4", BranchQuantizer, 4),
    ]  # fmt: skip
    assert [name for name, _, _ in policies.branch_quantizers(model)] == ["4"]
    assert [name for name, _, _ in policies.method_quantizers(model, "uniform")] == ["0", "2"]


def test_the_state_has_the_quantizers_scales_and_nothing_of_what_they_share():
    model = network()
    before = set(model.state_dict())
    policies.quantize(model, row(activation_bits=32), torch.rand(4, 3, 9, 9))
    model(torch.rand(4, 3, 9, 9))
    added = {name.removeprefix("4.parametrizations.weight.0.") for name in set(model.state_dict()) - before if name.startswith("4.")}
    assert added == {"a", "g1", "g2", "temperature", "4.parametrizations.weight.original"}


def test_a_policy_that_leaves_no_layer_to_the_method_names_the_row():
    with pytest.raises(DbqError, match=r"rows\.some-row\.policy: .*method"):
        policies.quantize(network(), row(other=8), torch.rand(4, 3, 9, 9))


def test_a_layer_that_cannot_be_quantized_is_named():
    model = network()
    nn.init.zeros_(model[4].weight)
    with pytest.raises(DbqError, match="layer 4: all weights are zero"):
        policies.quantize(model, row(), torch.rand(4, 3, 9, 9))
