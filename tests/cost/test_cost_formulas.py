"""The cost formulas against independent counts, and metamorphic properties."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dbq import networks
from dbq.cost import dense, formulas
from dbq.cost.formulas import LayerWeights
from dbq.errors import DbqError
from dbq.networks.count import LayerShape, layer_shapes

READINGS = st.sampled_from(formulas.READINGS)
TERNARY_READINGS = st.sampled_from(formulas.TERNARY_READINGS)


def sibling_totals(network, size, weight_bits, activation_bits, bias):
    """Written from the description of the published code, with hooks of its own and float logarithms."""
    computational, representational = 0, 0

    def hook(module, inputs, output):
        nonlocal computational, representational
        length = module.weight[0].numel() + bias
        outputs = output.numel()
        adder = activation_bits + weight_bits + math.ceil(math.log2(length)) - 1
        computational += outputs * (length * activation_bits * weight_bits + (length - 1) * adder)
        biases = module.weight.shape[0] * bias
        representational += weight_bits * (module.weight.numel() + biases) + activation_bits * inputs[0].numel()

    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(hook)
    network.eval()(torch.zeros(1, 3, size, size))
    return computational, representational


@pytest.mark.parametrize("count_bias", [False, True])
@pytest.mark.parametrize(("name", "form", "size", "classes"), [("resnet20", "32x32", 32, 10), ("mobilenet_v1", "224x224", 224, 1000)])
def test_fixed_point_equals_the_published_formula(name, form, size, classes, count_bias):
    counted = dense.count(name, form, classes, count_bias=count_bias)
    expected = sibling_totals(networks.build(name, classes, form), size, 8, 8, int(count_bias))
    assert (counted.totals["c_c"], counted.totals["c_r"]) == expected
    assert counted.totals["c_s"] == counted.totals["c_c"]
    assert all(counted.totals[cost] == sum(layer[cost] for layer in counted.layers) for cost in counted.totals)
    assert counted.macs == {"resnet20": 40_551_040, "mobilenet_v1": 568_740_352}[name]


def test_smaller_images_have_fewer_multiply_adds():
    smaller = dense.count("mobilenet_v1", "224x224", 1000, branches=2, pixels=96)
    assert smaller.macs < 568_740_352 / 4


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"network": "resnet21"}, "network: unknown value 'resnet21'"), ({"form": "48x48"}, "form: unknown value"),
        ({"weight_bits": 0}, "weight_bits: 0 is out of range"), ({"classes": 10**9}, "classes: 1000000000 is out of range"),
        ({"reading": "free"}, "cost.reading: unknown value 'free'"), ({"pixels": 0}, "pixels: 0 is out of range"),
    ],
)  # fmt: skip
def test_bad_values_are_one_error(settings, match):
    with pytest.raises(DbqError, match=match):
        dense.count(**({"network": "resnet20", "form": "32x32", "classes": 10} | settings))


def shape_of(length, channels, per_filter=3):
    return LayerShape("layer", "conv", channels * per_filter, length, channels, length * channels, 0, 50)


@st.composite
def ternary_layers(draw):
    length, channels, branches = draw(st.integers(1, 40)), draw(st.integers(1, 5)), draw(st.integers(1, 3))
    counts = draw(st.lists(st.integers(0, length), min_size=branches * channels, max_size=branches * channels))
    return shape_of(length, channels), LayerWeights(
        "ternary", 2 * branches, branches, np.array(counts).reshape(branches, channels), branches
    )


def adders(shape, weights, reading="adder_only", bits=8, count_bias=False):
    return formulas.layer_cost(shape, weights, bits, reading, count_bias, 8)


def with_nonzeros(weights, nonzeros):
    bits = weights.bits // weights.branches * len(nonzeros)
    return LayerWeights(weights.kind, bits, len(nonzeros), np.asarray(nonzeros), weights.scales)


@given(ternary_layers(), READINGS, st.booleans(), st.data())
@settings(deadline=None, max_examples=50)
def test_more_zeros_never_cost_more(layer, reading, count_bias, data):
    shape, weights = layer
    fewer = np.array([[data.draw(st.integers(0, int(count))) for count in row] for row in weights.nonzeros])
    assert (
        adders(shape, with_nonzeros(weights, fewer), reading, 8, count_bias)["c_s"] <= adders(shape, weights, reading, 8, count_bias)["c_s"]
    )


def ternary_by_loop(nonzeros, bits, reading, count_bias, scale_bits):
    """FA of one dot product, the ternary engine of formulas.py in plain integers. nonzeros: one count per branch."""
    total, products = 0, []
    for count in (count for count in nonzeros if count):
        growth = (count - 1).bit_length()
        if reading != "two_bit_multiplier":
            total += (count - 1) * (bits + growth)
        else:
            total += count * 2 * bits + (count - 1) * (bits + 2 + growth - 1)
        total += (bits + 1 + growth) * scale_bits
        products.append(bits + 1 + growth + scale_bits)
    additions = max(len(products) - 1, 0) + count_bias
    return total + additions * max(products, default=bits)


@given(ternary_layers(), READINGS, st.integers(1, 12), st.booleans(), st.integers(1, 12))
@settings(deadline=None, max_examples=50)
def test_ternary_costs_equal_a_loop_over_filters(layer, reading, bits, count_bias, scale_bits):
    shape, weights = layer
    positions = shape.outputs // shape.channels_out
    row = formulas.layer_cost(shape, weights, bits, reading, count_bias, scale_bits)
    filters = [[int(count) for count in column] for column in weights.nonzeros.T]
    assert row["c_s"] == positions * sum(ternary_by_loop(counts, bits, reading, count_bias, scale_bits) for counts in filters)
    full = ternary_by_loop([shape.length] * weights.branches, bits, reading, count_bias, scale_bits)
    assert row["c_c"] == shape.outputs * full
    storage = 2 * weights.branches * (shape.weights + count_bias * shape.channels_out)
    assert row["c_m"] == storage + weights.scales * scale_bits
    assert row["c_r"] == storage + bits * shape.inputs


def test_all_readings_stand_side_by_side():
    shape = shape_of(9, 4)
    layers = [(shape, dense.weights(shape, 2, 2), 8), (shape, dense.weights(shape, 8, 0), 8)]
    rows = formulas.readings(layers, 8)
    assert {(row["reading"], row["count_bias"]) for row in rows} == {(r, b) for r in formulas.READINGS for b in (False, True)}
    for row in rows:
        parts = [formulas.layer_cost(*layer, row["reading"], row["count_bias"], 8) for layer in layers]
        assert all(row[name] == sum(part[name] for part in parts) for name in ("c_c", "c_s", "c_r", "c_m"))
    floating = (shape, LayerWeights("float", 32, 0, np.zeros((1, 4), int), 0), 32)
    total = formulas.readings([*layers, floating], 8)[0]
    assert total["c_c"] is None
    assert total["c_s"] is None
    assert total["c_m"] == rows[0]["c_m"] + 32 * shape.weights


@pytest.mark.parametrize("counts", [[[6]], [[-1]], [[1, 1]], [[]]])
def test_impossible_counts_name_the_layer(counts):
    with pytest.raises(DbqError, match="layer layer: non-zeros"):
        adders(shape_of(5, 1), LayerWeights("ternary", 2, 1, np.array(counts, int), 1))


@given(st.integers(1, 61), st.sampled_from([-1, 0, 1]))
@settings(deadline=None, max_examples=50)
def test_ceil_log2_is_exact_beside_powers_of_two(power, offset):
    value = (1 << power) + offset
    assert int(formulas.ceil_log2(value)) == (value - 1).bit_length()


def test_an_empty_branch_costs_nothing_and_float_has_no_adders():
    shape = shape_of(5, 1)
    one = adders(shape, LayerWeights("ternary", 2, 1, np.array([[5]]), 1))
    two = adders(shape, LayerWeights("ternary", 4, 2, np.array([[5], [0]]), 2))
    assert one["c_s"] == two["c_s"]
    row = adders(shape, LayerWeights("float", 32, 0, np.array([[5]]), 0))
    assert row["c_c"] is None
    assert row["c_s"] is None
    with pytest.raises(DbqError, match="unknown kind"):
        adders(shape, LayerWeights("octal", 8, 1, np.array([[5]]), 1))


@pytest.mark.parametrize("name", networks.NAMES)
def test_dot_products_times_their_length_are_torchs_multiply_adds(name):
    network = networks.build(name, 10, "32x32").eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, 16, 16))
    shapes = layer_shapes(network, (3, 16, 16))
    products = sum(int(dense.weights(shape, 8, 0).nonzeros.sum()) * (shape.outputs // shape.channels_out) for shape in shapes)
    assert products == counter.get_total_flops() / 2


def ripple_sum(values, width):
    """Sum and number of full adders of a chain of ripple-carry adders of `width` bits, bit by bit."""
    total, adders = values[0], 0
    for value in values[1:]:
        carry = result = 0
        for bit in range(width):
            a, b = total >> bit & 1, value >> bit & 1
            result |= (a ^ b ^ carry) << bit
            carry = (a & b) | (carry & (a ^ b))
            adders += 1
        total = result
    return total, adders


@pytest.mark.parametrize("bits", [1, 2, 3])
@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_a_ternary_sum_counts_the_full_adders_that_it_needs(length, bits):
    """Brute force over all inputs: adders of Bx + ceil(log2 D) bits lose no magnitude; one bit less does where D is a power of two."""
    width = bits + (length - 1).bit_length()
    overflows = 0
    for values in itertools.product(range(2**bits), repeat=length):
        total, used = ripple_sum(values, width)
        assert total == sum(values)
        assert used == int(formulas.ternary_adders(length, bits, "adder_only"))
        overflows += ripple_sum(values, width - 1)[0] != sum(values)
    if length in (2, 4):
        assert overflows


def product_by_cells(weight, value, weight_bits, activation_bits):
    """Product and number of cells of an array multiplier: one cell for every pair of bits."""
    cells = [(weight >> i & 1) * (value >> j & 1) << (i + j) for i in range(weight_bits) for j in range(activation_bits)]
    return sum(cells), len(cells)


@pytest.mark.parametrize(("weight_bits", "activation_bits", "length"), [(1, 1, 3), (1, 2, 2), (2, 1, 3), (2, 2, 2), (3, 2, 2), (2, 2, 3)])
def test_a_fixed_point_sum_counts_the_cells_and_full_adders_that_it_needs(weight_bits, activation_bits, length):
    """Brute force over all magnitudes: those of Bw-bit signed weights reach 2^(Bw-1), hence Bw + Bx + ceil(log2 D) - 1 bits of a sum."""
    width = weight_bits + activation_bits + (length - 1).bit_length() - 1
    pairs = list(itertools.product(range(2 ** (weight_bits - 1) + 1), range(2**activation_bits)))
    for chosen in itertools.product(pairs, repeat=length):
        products = [product_by_cells(weight, value, weight_bits, activation_bits) for weight, value in chosen]
        total, used = ripple_sum([product for product, _ in products], width)
        assert total == sum(weight * value for weight, value in chosen)
        counted = used + sum(cells for _, cells in products)
        assert counted == int(formulas.fixed_point_adders(length, weight_bits, activation_bits))


@given(st.integers(1, 60), st.integers(1, 4), READINGS, st.booleans())
@settings(deadline=None, max_examples=50)
def test_binary_planes_cost_the_adders_of_dense_ternary_ones_and_half_of_the_storage(length, branches, reading, count_bias):
    shape = shape_of(length, 4)
    ternary = dense.weights(shape, 2, branches)
    binary = LayerWeights("binary", branches, branches, ternary.nonzeros, ternary.scales)
    one, other = (adders(shape, weights, reading, 8, count_bias) for weights in (binary, ternary))
    assert (one["c_c"], one["c_s"]) == (other["c_c"], other["c_s"])
    assert one["c_s"] == one["c_c"]
    scales = 8 * ternary.scales
    assert 2 * (one["c_m"] - scales) == other["c_m"] - scales
    with pytest.raises(DbqError, match="layer layer: non-zeros"):
        adders(shape, LayerWeights("binary", branches, branches, ternary.nonzeros - 1, ternary.scales))


def test_storage_follows_the_bits_of_the_method():
    """Two planes with one non-zero a weight, as in TTQ, need 2 bits a weight in all."""
    shape = shape_of(5, 1)
    row = adders(shape, LayerWeights("ternary", 2, 2, np.array([[3], [2]]), 2))
    assert row["c_m"] == 5 * 2 + 2 * 8


def test_signed_digits_are_the_fewest_of_all():
    """Brute force over all sums of signed powers of two up to 2^6."""
    powers = 2 ** np.arange(7)
    fewest = {}
    for digits in itertools.product((-1, 0, 1), repeat=7):
        value = int(powers @ digits)
        fewest[value] = min(fewest.get(value, 7), np.count_nonzero(digits))
    integers = np.arange(-64, 64).reshape(2, 64)
    planes = formulas.signed_digit_planes(integers)
    assert planes.shape == (7, 2, 64) and set(np.unique(planes)) == {-1, 0, 1}
    assert (np.tensordot(powers, planes, 1) == integers).all()
    assert np.count_nonzero(planes, 0).ravel().tolist() == [fewest[value] for value in integers.ravel().tolist()]
    assert not (planes[1:] * planes[:-1]).any()
    assert formulas.signed_digit_planes([[0]]).tolist() == [[[0]]]


@given(st.integers(2, 8), st.integers(1, 30), st.integers(1, 3), st.integers(1, 12), st.booleans(), st.integers(0, 999))
@settings(deadline=None, max_examples=50)
def test_signed_digits_cost_what_a_loop_over_digits_says(bits, length, channels, activation_bits, count_bias, seed):
    """Digits by the carry rule of integers in base 2, counted filter by filter and digit by digit in plain integers."""
    integers = np.random.default_rng(seed).integers(-(1 << bits - 1), 1 << bits - 1, (channels, length))
    digits = (formulas.signed_digit_planes(integers) != 0).sum(2)
    shape = shape_of(length, channels)
    weights = LayerWeights("fixed_point", bits, 0, (integers != 0).sum(1)[None], 1, digits)

    def by_loop(counts):
        total, widths = 0, []
        for position, count in enumerate(counts):
            if count:
                total += (count - 1) * (activation_bits + (count - 1).bit_length())
                widths.append(activation_bits + 1 + (count - 1).bit_length() + position)
        return total + (max(len(widths) - 1, 0) + count_bias) * max(widths, default=activation_bits)

    def nonzeros(row):
        """3x XOR x has a 1 beside every non-zero digit of x."""
        found = [(3 * value ^ value) >> 1 for value in row.tolist()]
        return [sum(value >> position & 1 for value in found) for position in range(bits)]

    row = adders(shape, weights, "signed_digits", activation_bits, count_bias)
    assert row["c_s"] == 3 * sum(by_loop(nonzeros(filter_)) for filter_ in integers)
    assert row["c_c"] == 3 * channels * by_loop([length] * bits)
    plain = adders(shape, weights, "adder_only", activation_bits, count_bias)
    assert (row["c_r"], row["c_m"]) == (plain["c_r"], plain["c_m"])


@pytest.mark.parametrize("digits", [None, [[1, 2]], [[6]], [[-1]], [[1]] * 5])
def test_signed_digits_that_do_not_fit_name_the_layer(digits):
    weights = LayerWeights("fixed_point", 4, 0, np.array([[3]]), 1, digits)
    adders(shape_of(5, 1), weights)
    with pytest.raises(DbqError, match="layer layer: its signed digits"):
        adders(shape_of(5, 1), weights, "signed_digits")
