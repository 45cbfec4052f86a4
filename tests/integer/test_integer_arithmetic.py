"""Fixed-point arithmetic against Python's integers and fractions."""

import itertools
import operator
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dbq.errors import DbqError
from dbq.integer import fixed_point
from dbq.integer.compile import Widths
from dbq.integer.execute import container

FACTORS = st.floats(1e-9, 1e6).flatmap(lambda x: st.sampled_from([x, -x]))


@given(st.lists(st.integers(-(2**60), 2**60), min_size=1, max_size=20), st.integers(-1, 61))
@settings(deadline=None, max_examples=50)
def test_a_shift_rounds_as_fractions_do(values, shift):
    """Python's round of a Fraction takes the even integer at a tie."""
    if shift < 0:
        values = [value // 4 for value in values]
    found = fixed_point.round_shift(torch.tensor(values), torch.tensor(shift))
    assert found.tolist() == [round(Fraction(value) / Fraction(2) ** shift) for value in values]


@given(st.integers(-(2**20), 2**20), st.integers(1, 20))
@settings(deadline=None, max_examples=50)
def test_a_tie_goes_to_the_even_integer(whole, shift):
    value = (2 * whole + 1) << (shift - 1)  # whole + 1/2
    found = int(fixed_point.round_shift(torch.tensor([value]), torch.tensor([shift])))
    assert found % 2 == 0
    assert abs(2 * found - (2 * whole + 1)) == 1


@given(st.integers(-(2**30), 2**30), st.integers(-(2**16), 2**16), st.integers(-(2**30), 2**30), st.integers(0, 30))
@settings(deadline=None, max_examples=50)
def test_requantization_in_float64_is_that_of_the_integers(total, multiplier, bias, shift):
    """What the fast arithmetic relies on: products below 2^53 and a division by a power of two lose nothing."""
    exact = round(Fraction(total * multiplier + bias, 2**shift))
    scaled = torch.tensor(total, dtype=torch.float64) * (multiplier * 2.0**-shift) + bias * 2.0**-shift
    assert int(scaled.round()) == exact


@given(st.lists(st.lists(FACTORS, min_size=3, max_size=3), min_size=1, max_size=3), st.integers(2, 24))
@settings(deadline=None, max_examples=50)
def test_mantissas_are_normalised_and_near(factors, bits):
    factors = np.array(factors)
    multipliers, shifts = fixed_point.mantissas(factors, bits)
    for channel in range(3):
        largest = int(np.abs(multipliers[:, channel]).max())
        assert 2 ** (bits - 1) <= largest < 2**bits or int(shifts[channel]) == fixed_point.LARGEST_SHIFT
        for multiplier, factor in zip(multipliers[:, channel], factors[:, channel], strict=True):
            difference = abs(Fraction(int(multiplier)) / Fraction(2) ** int(shifts[channel]) - Fraction(float(factor)))
            assert difference <= Fraction(1, 2) / Fraction(2) ** int(shifts[channel])


def test_a_channel_of_zeros_and_the_largest_mantissa():
    multipliers, shifts = fixed_point.mantissas([[0.0, 1 - 2.0**-40, 1.0]], 8)
    assert multipliers.tolist() == [[0, 128, 128]]
    assert shifts.tolist() == [0, 7, 7]


@given(st.integers(-300, 300), st.integers(0, 300))
@settings(deadline=None, max_examples=50)
def test_signed_bits_are_the_fewest(low, span):
    high = low + span
    bits = fixed_point.signed_bits(low, high)
    assert -(2 ** (bits - 1)) <= low <= high < 2 ** (bits - 1)
    narrower = bits - 1
    assert narrower == 0 or not (-(2 ** (narrower - 1)) <= low and high < 2 ** (narrower - 1))


@given(st.lists(st.integers(-2, 2), min_size=4, max_size=4), st.sampled_from([(0, 3), (-1, 1), (0, 1)]))
@settings(deadline=None, max_examples=30)
def test_accumulators_are_as_wide_as_the_worst_input_needs(plane, ends):
    """Brute force over all inputs and all partial sums in any order."""
    inputs = range(ends[0], ends[1] + 1)
    sums = {sum(map(operator.mul, plane, values)) for values in itertools.product(inputs, repeat=4)}
    partial = {
        sum(plane[k] * values[k] for k in range(4) if chosen[k])
        for values in itertools.product(inputs, repeat=4)
        for chosen in itertools.product((0, 1), repeat=4)
    }
    smallest, largest = fixed_point.sum_range([[plane]], *ends)
    assert (int(smallest[0, 0]), int(largest[0, 0])) == (min(sums), max(sums))
    assert fixed_point.accumulator_bits([[plane]], *ends) == fixed_point.signed_bits(min(partial), max(partial))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_containers_hold_their_largest_integer(dtype):
    limit = {torch.float32: 1 << 24, torch.float64: 1 << 53}[dtype]
    assert container(limit) is dtype
    assert container(limit + 1) is not dtype
    assert int(torch.tensor(limit).to(dtype)) == limit
    assert int(torch.tensor(limit + 1).to(dtype)) != limit + 1


@pytest.mark.parametrize("bits", [1, 33, 0, 8.0, "8", True])
def test_a_width_that_cannot_be_used_names_its_key(bits):
    with pytest.raises(DbqError, match=r"engine\.fixed_point_bits"):
        Widths(fixed_point_bits=bits)
