"""Carries constants through a netlist of 1-bit cells and removes dead cells, so that only the adders remain that hardware would have.

A 1-bit adder with one constant input is a half adder. With two it is a wire or an inverter. A cell that no output depends on is removed.
Bits are written as in Yosys: a number is a net, "0" and "1" are constants. "x" and "z" count as 0, but no generated design has any.
"""

from graphlib import TopologicalSorter
from itertools import product
from typing import NamedTuple

from dbq.errors import DbqError

ADDER = "FULL_ADDER"
# cell: (input ports, {output port: its function})
CELLS = {
    ADDER: (("A", "B", "CI"), {"S": lambda a, b, c: a ^ b ^ c, "CO": lambda a, b, c: int(a + b + c > 1)}),
    "$_AND_": (("A", "B"), {"Y": lambda a, b: a & b}),
    "$_OR_": (("A", "B"), {"Y": lambda a, b: a | b}),
    "$_XOR_": (("A", "B"), {"Y": lambda a, b: a ^ b}),
    "$_XNOR_": (("A", "B"), {"Y": lambda a, b: 1 - (a ^ b)}),
    "$_NOT_": (("A",), {"Y": lambda a: 1 - a}),
    "$_MUX_": (("A", "B", "S"), {"Y": lambda a, b, s: b if s else a}),
}


class Adder(NamedTuple):
    name: str
    live: int  # inputs that are no constants: 2 or 3
    carried: bool  # something depends on the carry
    used: bool  # something depends on the sum or the carry


def adders(module: dict) -> list[Adder]:
    """The adders that remain of a module of Yosys's JSON made of FULL_ADDER cells and single-bit gates."""
    roots, needs, found = simplify(module["cells"])
    waiting = [_root(roots, bit) for port in module["ports"].values() if port["direction"] == "output" for bit in port["bits"]]
    alive = set()  # the nets that an output depends on
    while waiting:
        bit = waiting.pop()
        if bit not in alive:
            alive.add(bit)
            waiting += needs.get(bit, ())
    return [Adder(name, live, carry in alive, total in alive or carry in alive) for name, live, total, carry in found]


def simplify(cells: dict) -> tuple[dict, dict, list]:
    """(net -> the net or constant that it equals, net -> the nets that it is computed from, adders [(name, live inputs, sum, carry)])."""
    foreign = {cell["type"] for cell in cells.values()} - set(CELLS)
    if foreign:
        raise DbqError(f"hardware: cell {min(foreign)} in the synthesised netlist is not known", "use a version of Yosys with plain gates")
    bits = {
        name: [[cell["connections"][port][0] for port in ports] for ports in CELLS[cell["type"]]] for name, cell in cells.items()
    }  # of each cell those of its inputs and of its outputs
    driver = {bit: name for name, (_, outputs) in bits.items() for bit in outputs}
    order = TopologicalSorter({name: [driver[bit] for bit in inputs if bit in driver] for name, (inputs, _) in bits.items()})
    roots, needs, found = {}, {}, []
    for name in order.static_order():
        inputs, outputs = [_root(roots, bit) for bit in bits[name][0]], bits[name][1]
        live = [bit for bit in inputs if not isinstance(bit, str)]
        needs |= dict.fromkeys(outputs, live)
        if cells[name]["type"] == ADDER and len(live) >= 2:
            found.append((name, len(live), *outputs))
            continue
        for output, function in zip(outputs, CELLS[cells[name]["type"]][1].values(), strict=True):
            value = _equal(function, inputs)
            if value is not None:
                roots[output] = value
    return roots, needs, found


def _root(roots: dict, bit):
    # roots never chain: a value is resolved before it is stored
    return roots.get(bit, bit) if not isinstance(bit, str) else "1" if bit == "1" else "0"


def _equal(function, inputs: list):
    """The constant or the input net that the function equals whatever its nets are, or None where it is a net of its own."""
    nets = list(dict.fromkeys(bit for bit in inputs if not isinstance(bit, str)))
    cases = [{"0": 0, "1": 1, **dict(zip(nets, values, strict=True))} for values in product((0, 1), repeat=len(nets))]
    results = [function(*(case[bit] for bit in inputs)) for case in cases]
    return next((bit for bit in ("0", "1", *nets) if [case[bit] for case in cases] == results), None)
