"""The count on the real planes of quantized networks, beside the integer program that executes them."""

import json
from types import SimpleNamespace

import pytest
from tests.integer import quantized_networks as make

from dbq.cost import network as counting
from dbq.cost.formulas import LayerWeights, layer_cost
from dbq.cost.network import check_planes, layer_weights
from dbq.files import read_csv
from dbq.integer.compile import compile_network
from dbq.networks.count import layer_shapes


@pytest.mark.parametrize(
    ("method", "kind", "bits", "branches", "scales"),
    [("lq_nets", "binary", 2, 2, 2), ("ttq", "ternary", 2, 2, 2), ("twn", "ternary", 2, 1, 4), ("uniform", "fixed_point", 8, 0, 1)],
)
def test_every_coding_is_counted_through_one_interface(method, kind, bits, branches, scales):
    options = {"lq_nets": {"branches": 2, "scales": "layer"}, "twn": {"scales": "channel"}}.get(method, {})
    network = make.tiny(method=method, policy="everything", **options)
    shape = next(shape for shape in layer_shapes(network, (3, 8, 8)) if shape.name == "conv2")
    weights = layer_weights(network, shape)
    assert (weights.kind, weights.bits, weights.branches, weights.scales) == (kind, bits, branches, scales)
    assert len(check_planes(network)) == (0 if method == "uniform" else 5)


@pytest.mark.parametrize("count_bias", [False, True])
def test_a_network_costs_what_its_program_executes(count_bias, tmp_path):
    """The planes of the integer program, counted layer by layer with the formulas; inputs are as wide as their quantizer."""
    network, settings = make.tiny(bits=4, branches=2), SimpleNamespace(reading="two_bit_multiplier", count_bias=count_bias, scale_bits=6)
    counted = counting.count(network, 8, 4, settings)
    program = compile_network(network, (3, 8, 8)).program
    expected = []
    for shape, operation in zip(layer_shapes(network, (3, 8, 8)), program.dot_products(), strict=True):
        planes = (operation.planes != 0).flatten(2).sum(2).numpy()
        ternary = operation.coding == "ternary"
        weights = LayerWeights(operation.coding, 4 if ternary else 8, 2 if ternary else 0, planes, 2 if ternary else 1)
        bits = 8 if operation.layer == "conv1" else 4
        cost = layer_cost(shape, weights, bits, "two_bit_multiplier", count_bias, 6)
        more = {"nonzeros": planes.sum(), "weights": operation.planes[0].numel(), "accumulator_bits": operation.accumulator_bits}
        expected.append({"layer": operation.layer, "kind": shape.kind, **cost, **more})
    assert counted.layers == expected
    (main,) = [reading for reading in counted.readings if reading["main"]]
    assert (main["reading"], main["count_bias"]) == ("two_bit_multiplier", count_bias)
    assert all(main[name] == sum(layer[name] for layer in expected) for name in ("c_c", "c_s", "c_r", "c_m"))
    row = make.row(bits=4)
    row.network, row.dataset, row.branches, row.weight_bits = "tiny", "random", 2, 4
    counting.write(counted, row, tmp_path)
    written = json.loads((tmp_path / "cost.json").read_text())
    assert (written["key"], written["readings"], written["macs"]) == ("tested", counted.readings, counted.macs)
    assert [line["c_s"] for line in read_csv(tmp_path / "layers.csv")] == [str(layer["c_s"]) for layer in expected]
