"""Constants carried through netlists of 1-bit cells, against brute force over all inputs."""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dbq.errors import DbqError
from dbq.hardware.propagate import adders, simplify

GATES = {
    "$_AND_": lambda a, b: a & b,
    "$_OR_": lambda a, b: a | b,
    "$_XOR_": lambda a, b: a ^ b,
    "$_XNOR_": lambda a, b: 1 - (a ^ b),
    "$_NOT_": lambda a: 1 - a,
    "$_MUX_": lambda a, b, s: b if s else a,
}
PORTS = {"FULL_ADDER": ("A", "B", "CI"), "$_NOT_": ("A",), "$_MUX_": ("A", "B", "S")}
FREE = 3  # inputs: nets 2, 3 and 4


def netlist(choices) -> dict:
    """Cells of these (type, inputs); an input is "0", "1" or the index of an earlier net."""
    cells, nets = {}, list(range(2, 2 + FREE))
    for number, (kind, picks) in enumerate(choices):
        bits = [pick if isinstance(pick, str) else nets[pick % len(nets)] for pick in picks]
        connections = {port: [bit] for port, bit in zip(PORTS.get(kind, ("A", "B")), bits, strict=False)}
        for port in ("S", "CO") if kind == "FULL_ADDER" else ("Y",):
            nets.append(100 + 2 * number + (port == "CO"))
            connections[port] = [nets[-1]]
        cells[f"cell_{number}"] = {"type": kind, "connections": connections}
    # last first, so that the order of the file is no help
    return dict(reversed(cells.items()))


def values(cells: dict, inputs) -> dict:
    nets = {"0": 0, "1": 1, **dict(zip(range(2, 2 + FREE), inputs, strict=True))}
    for cell in reversed(cells.values()):
        wires = cell["connections"]
        bits = [nets[wires[port][0]] for port in PORTS.get(cell["type"], ("A", "B"))]
        if cell["type"] == "FULL_ADDER":
            nets[wires["S"][0]], nets[wires["CO"][0]] = sum(bits) & 1, sum(bits) >> 1
        else:
            nets[wires["Y"][0]] = GATES[cell["type"]](*bits)
    return nets


picks = st.one_of(st.sampled_from("01"), st.integers(0, 30))
choices = st.lists(
    st.tuples(st.sampled_from(["FULL_ADDER", "FULL_ADDER", *GATES]), st.tuples(picks, picks, picks)), min_size=1, max_size=25
)


@settings(deadline=None, max_examples=50)
@given(choices)
def test_what_a_net_is_said_to_equal_it_equals_for_every_input(chosen):
    cells = netlist(chosen)
    roots, _, found = simplify(cells)
    for inputs in product((0, 1), repeat=FREE):
        nets = values(cells, inputs)
        for net, root in roots.items():
            assert nets[net] == nets[root]
    assert len(found) <= sum(cell["type"] == "FULL_ADDER" for cell in cells.values())


def module(choices, *outputs) -> dict:
    return {"cells": netlist(choices), "ports": {"y": {"direction": "output", "bits": list(outputs)}}}


def test_an_adder_is_counted_by_its_live_inputs_and_used_outputs():
    full, half, wire = ("FULL_ADDER", (0, 1, 2)), ("FULL_ADDER", (0, "1", 2)), ("FULL_ADDER", (0, "1", "0"))
    assert [adder[1:] for adder in adders(module([full], 100, 101))] == [(3, True, True)]
    assert [adder[1:] for adder in adders(module([full], 100))] == [(3, False, True)]
    assert [adder[1:] for adder in adders(module([half], 100, 101))] == [(2, True, True)]
    assert [adder[1:] for adder in adders(module([full], 2))] == [(3, False, False)]
    assert adders(module([wire], 100, 101)) == []


def test_a_constant_reaches_an_adder_through_gates_and_adders():
    # net 3: 0 & x, net 4, 5: 0 + 0 + x
    chosen = [("$_AND_", ("0", 0, 0)), ("FULL_ADDER", (3, "0", 1)), ("FULL_ADDER", (0, 1, 5))]
    assert [adder[:2] for adder in adders(module(chosen, 104, 105))] == [("cell_2", 2)]


def test_an_unknown_cell_is_an_error():
    with pytest.raises(DbqError, match=r"cell \$_DFF_P_ in the synthesised netlist is not known"):
        adders(module([("$_DFF_P_", (0, 1))], 100))
