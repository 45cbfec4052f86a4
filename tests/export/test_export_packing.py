"""Packed integers come back as they went in, in exactly the bytes that their bits need."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dbq.errors import DbqError
from dbq.export import container, packing
from dbq.export.packing import Code

CODES = st.sampled_from([packing.TERNARY, packing.BINARY, Code(1, 0), Code(1, -1), *(packing.fixed_point(bits) for bits in range(2, 34))])


@settings(deadline=None, max_examples=50)
@given(data=st.data(), code=CODES, shape=st.lists(st.integers(0, 5), min_size=1, max_size=4))
def test_round_trip(data, code, shape):
    codes = data.draw(st.lists(st.integers(0, (1 << code.bits) - 1), min_size=int(np.prod(shape)), max_size=int(np.prod(shape))))
    values = code.low + code.step * np.array(codes, np.int64).reshape(shape)
    packed = packing.pack(values, code)
    assert len(packed) == -(-values.size * code.bits // 8)
    assert np.array_equal(packing.unpack(packed, code, tuple(shape)), values)
    # the documented layout, read off one large integer
    number = int.from_bytes(packed.tobytes(), "little")
    assert [(number >> (i * code.bits)) & ((1 << code.bits) - 1) for i in range(values.size)] == codes


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(-(2**61), 2**61), min_size=1, max_size=20))
def test_the_narrowest_code_holds_its_range_and_no_narrower_one_does(values):
    values = np.array(values, np.int64)
    code = packing.narrowest(values)
    assert np.array_equal(packing.unpack(packing.pack(values, code), code, values.shape), values)
    assert code.bits == 0 or int(values.max()) - int(values.min()) >= 1 << (code.bits - 1)


@pytest.mark.parametrize("values", [[2], [-2]])
def test_a_value_without_a_code(values):
    with pytest.raises(DbqError, match="don't fit 2 bits"):
        packing.pack(np.array(values), Code(2, -1, 1) if values[0] < 0 else packing.fixed_point(2))
    with pytest.raises(DbqError, match="don't fit 1 bits"):
        packing.pack(np.array([0]), packing.BINARY)


def test_another_number_of_bytes():
    with pytest.raises(DbqError, match="3 bytes where"):
        packing.unpack(np.zeros(3, np.uint8), packing.TERNARY, (8,))


@pytest.mark.parametrize(
    ("plane", "coding", "bits", "code"),
    [([-1, 0, 1], "ternary", 2, packing.TERNARY), ([-1, 1], "binary", 1, packing.BINARY), ([0, 1], "ternary", 1, Code(1, 0)),
     ([0, -1], "ternary", 1, Code(1, -1)), ([0, 0], "ternary", 1, Code(1, 0)), ([-127, 127], "fixed_point", 8, Code(8, -128))],
)  # fmt: skip
def test_codes_of_planes(plane, coding, bits, code):
    assert container.plane_code(np.array(plane), coding, bits) == code
    packing.pack(np.array(plane), code)
