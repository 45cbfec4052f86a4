"""The engine's description, its generated text and its arithmetic, without any tool."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dbq import hardware
from dbq.errors import DbqError
from dbq.hardware import Design, evaluate, generate, load_planes, tree_adders
from dbq.hardware.measure import random_planes
from dbq.hardware.simulation import checked

HYPOTHESIS = settings(deadline=None, max_examples=80)


def vectors(seed, length, bits, branches, signed, count=40):
    random = np.random.default_rng(seed)
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    activations = random.integers(low, high + 1, (count, length))
    planes = random.integers(-1, 2, (count, branches, length))
    scales = random.integers(0, 256, (count, branches))
    # the corners of the range, where a width that is one bit short shows
    activations[:2], activations[2:4], planes[::2][:2], planes[1::2][:2], scales[:4] = low, high, -1, 1, 255
    return activations, planes, scales


def exact(activations, planes, scales):
    """Python's own integers, one product at a time."""
    return [
        sum(
            int(scale) * sum(int(w) * int(x) for w, x in zip(plane, row, strict=True)) for scale, plane in zip(scale_row, rows, strict=True)
        )
        for row, rows, scale_row in zip(activations, planes, scales, strict=True)
    ]


STRUCTURES = st.sampled_from(hardware.design.STRUCTURES)
designs = st.tuples(st.integers(1, 20), st.integers(1, 8), st.integers(1, 3), st.booleans(), STRUCTURES, st.integers(0, 999))


@HYPOTHESIS
@given(designs, st.booleans())
def test_weights_from_a_port_and_constant_ones_give_exact_integers(parameters, constant):
    length, bits, branches, signed, structure, seed = parameters
    activations, planes, scales = vectors(seed, length, bits, branches, signed)
    if constant:
        planes[:] = planes[-1]
    design = Design(length, bits, branches, signed=signed, structure=structure, planes=planes[-1] if constant else None)
    computed = evaluate(design, activations, None if constant else planes, scales)
    assert computed.values.tolist() == exact(activations, planes, scales)
    assert not computed.overflow.any()
    assert np.abs(computed.values).max() < 1 << design.output_bits() - 1


@HYPOTHESIS
@given(designs, st.integers(0, 6))
def test_a_value_without_overflow_flag_is_right_in_any_accumulator(parameters, missing):
    length, bits, branches, signed, structure, seed = parameters
    narrow = max(bits + 1, bits + 1 + (length - 1).bit_length() - missing)
    design = Design(length, bits, branches, signed=signed, structure=structure, accumulator_bits=narrow)
    activations, planes, scales = vectors(seed, length, bits, branches, signed)
    computed = evaluate(design, activations, planes, scales)
    right = computed.values == np.array(exact(activations, planes, scales))
    assert (right | computed.overflow).all()


@pytest.mark.parametrize("structure", hardware.design.STRUCTURES)
def test_a_narrow_accumulator_is_caught(structure):
    design = Design(16, 4, 1, structure=structure, accumulator_bits=7)
    planes, scales = np.ones((1, 16), int), np.array([1])
    small, large = np.full((1, 16), 1), np.full((1, 16), 15)
    assert evaluate(design, np.concatenate([small, large]), planes, scales).overflow.tolist() == [False, True]
    with pytest.raises(DbqError, match=r"accumulator of 7 bits overflowed in 1 of 2 dot products -> .*9 bits always suffice"):
        checked(design, evaluate(design, np.concatenate([small, large]), planes, scales))


def test_equal_designs_give_equal_text_in_another_process(tmp_path):
    planes = random_planes(np.random.default_rng(5), (2, 30), 0.4)
    np.save(tmp_path / "planes.npy", planes)
    assert np.array_equal(load_planes(tmp_path / "planes.npy"), planes)
    text = "hardware.generate(hardware.Design(30, 6, 2, structure='tree', planes=hardware.load_planes('planes.npy')))"
    environment = {**os.environ, "PYTHONPATH": str(Path(hardware.__file__).parents[2]), "PYTHONHASHSEED": "7"}
    command = [sys.executable, "-c", f"from dbq import hardware; print({text}, end='')"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=tmp_path)
    assert printed.stdout == generate(Design(30, 6, 2, structure="tree", planes=planes))


@pytest.mark.parametrize("content", [None, b"", b"junk", b"\x93NUMPY\x01\x00\x10\x00{'descr': '<i8', 'fo"])
def test_planes_that_cannot_be_read_name_the_file(content, tmp_path):
    path = tmp_path / "planes.npy"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DbqError, match=r"planes.npy: not a readable .npy file"):
        load_planes(path)
    np.save(path, np.zeros(4))
    with pytest.raises(DbqError, match=r"planes.npy: no array of two dimensions"):
        load_planes(path)


@pytest.mark.parametrize("structure", hardware.design.STRUCTURES)
def test_the_text_names_its_generator_and_leaves_zeros_out(structure):
    planes = np.array([[0, 1, -1, 0, 0, 1], [0, 0, 0, 0, 0, 0]])
    text = generate(Design(6, 4, 2, structure=structure, planes=planes))
    assert text.startswith("// Generated by dbq.hardware")
    assert re.findall(r"x\[(\d+)\+:4\]", text) == ["20", "8", "4"], "element 5, 2 and 1 of the branch in use"
    assert "3'b010" in text and "branch 1" not in text
    assert text.count("\nmodule ") == text.count("\nendmodule") == 3
    assert max(map(len, text.splitlines())) <= 140


def test_an_engine_of_zeros_has_no_adders():
    design = Design(5, 4, 2, planes=np.zeros((2, 5), int))
    assert "ternary_chain" not in generate(design)
    assert evaluate(design, np.ones((3, 5), int), None, np.array([9, 9])).values.tolist() == [0, 0, 0]


def walked_tree(length, product_bits):
    """Adders of a tree whose levels add neighbours, an odd one passing through: (width of widest operand) per addition."""
    widths, adders = [product_bits] * length, 0
    while len(widths) > 1:
        pairs = [widths[i : i + 2] for i in range(0, len(widths), 2)]
        adders += sum(max(pair) for pair in pairs if len(pair) == 2)
        widths = [max(pair) + len(pair) - 1 for pair in pairs]
    return adders


@pytest.mark.parametrize("signed", [False, True])
def test_tree_adders_equal_a_tree_walked_level_by_level(signed):
    for length in range(1, 300):
        assert tree_adders(length, 8, signed) == walked_tree(length, 8 if signed else 9)
    assert tree_adders(64, 8) == 63 * 10 - 6, "the closed form of a power of two"
    assert tree_adders(0, 8) == 0


PORT = Design(4, 3, 2)
CONSTANT = Design(4, 3, 1, planes=np.array([[1, 0, -1, 1]]))
ROW = np.zeros((1, 4), int)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Design(0, 8, 1), "length 0 is out of range"),
        (lambda: Design(9.0, 8, 1), "length 9.0 is out of range"),
        (lambda: Design(9, 17, 1), "activation_bits 17"),
        (lambda: Design(9, 8, 0), "branches 0"),
        (lambda: Design(9, 8, 1, structure="ring"), "unknown structure 'ring'"),
        (lambda: Design(9, 8, 1, accumulator_bits=8), "too narrow for one product of 9 bits"),
        (lambda: Design(4, 8, 1, planes=np.array([[0, 1, 2, 0]])), "other values than -1, 0 and 1"),
        (lambda: Design(4, 8, 2, planes=np.array([[0, 1, 1, 0]])), "planes of shape"),
        (lambda: evaluate(PORT, ROW - 1, ROW[[0, 0]], [1, 1]), r"from -1 to -1 don't fit 3 unsigned bits \(0 to 7\)"),
        (lambda: evaluate(PORT, ROW + 8, ROW[[0, 0]], [1, 1]), "don't fit 3 unsigned bits"),
        (lambda: evaluate(PORT, ROW * 1.0, ROW[[0, 0]], [1, 1]), "float64, not integers"),
        (lambda: evaluate(PORT, ROW[:, :3], ROW[[0, 0]], [1, 1]), "activations of shape"),
        (lambda: evaluate(PORT, ROW, None, [1, 1]), "no planes"),
        (lambda: evaluate(PORT, ROW, ROW[[0, 0]], [1, 256]), "scales of shape"),
        (lambda: evaluate(PORT, ROW[[0] * 3], np.zeros((2, 2, 4), int), [1, 1]), "2 planes for 3 activations"),
        (lambda: evaluate(CONSTANT, ROW, ROW, [1]), "planes given twice"),
    ],
)
def test_what_does_not_fit_is_an_error(call, message):
    with pytest.raises(DbqError, match=message):
        call()


def test_a_missing_tool_is_named(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DbqError, match=r"iverilog is not installed.*-> .*apt-get install iverilog"):
        hardware.simulate(PORT, ROW, ROW[[0, 0]], [1, 1])
    with pytest.raises(DbqError, match="yosys is not installed"):
        hardware.synthesise(PORT)


def test_an_output_wider_than_the_integers_it_is_compared_with_is_an_error():
    assert Design(8192, 16, 1, scale_bits=32).output_bits() == 62
    with pytest.raises(DbqError, match="output of 64 bits"):
        Design(8192, 16, 4, scale_bits=32)
