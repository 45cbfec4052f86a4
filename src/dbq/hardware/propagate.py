"""Carries constants through a netlist of 1-bit cells and removes dead cells, so that only the adders remain that hardware would have.

A 1-bit adder with one constant input is a half adder. With two it is a wire or an inverter. A cell that no output depends on is removed.
Bits are written as in Yosys: a number is a net, "0" and "1" are constants. "x" and "z" count as 0, but no generated design has any.
"""

from typing import NamedTuple

from dbq.errors import DbqError

OUTPUTS = {"FULL_ADDER": ("S", "CO")}  # every gate's output is Y
INPUTS = {"FULL_ADDER": ("A", "B", "CI"), "$_MUX_": ("A", "B", "S"), "$_NOT_": ("A",)}  # a gate with two inputs has A and B


class Adder(NamedTuple):
    name: str
    live: int  # inputs that are no constants: 2 or 3
    carried: bool  # something depends on the carry
    used: bool  # something depends on the sum or the carry


def adders(module: dict) -> list[Adder]:
    """The adders that remain of a module of Yosys's JSON made of FULL_ADDER cells and single-bit gates."""
    roots, needs, found = simplify(module["cells"])
    ends = [bit for port in module["ports"].values() if port["direction"] == "output" for bit in port["bits"]]
    alive = _reached([_root(roots, bit) for bit in ends], needs)
    return [Adder(name, live, carry in alive, total in alive or carry in alive) for name, live, total, carry in found]


def simplify(cells: dict) -> tuple[dict, dict, list]:
    """(net -> the net or constant that it equals, net -> the nets that it is computed from, adders [(name, live inputs, sum, carry)])."""
    roots, needs, found = {}, {}, []
    for name, cell in _in_order(cells):
        connections = cell["connections"]
        inputs = [_root(roots, connections[port][0]) for port in _ports(cell)]
        outputs = [connections[port][0] for port in OUTPUTS.get(cell["type"], ("Y",))]
        live = [bit for bit in inputs if not isinstance(bit, str)]
        needs.update(dict.fromkeys(outputs, live))
        if cell["type"] != "FULL_ADDER":
            value = _gate(cell["type"], inputs)
            if value is not None:
                roots[outputs[0]] = value
        elif len(live) >= 2:
            found.append((name, len(live), *outputs))
        else:
            ones = inputs.count("1")
            total, carry = outputs
            roots[carry] = "01"[ones > 1] if not live or ones != 1 else live[0]
            if not live:
                roots[total] = "01"[ones & 1]
            elif ones != 1:  # otherwise the sum is the inverted input: a net of its own
                roots[total] = live[0]
    return roots, needs, found


def _ports(cell: dict) -> tuple[str, ...]:
    return INPUTS.get(cell["type"], ("A", "B"))


def _root(roots: dict, bit):
    # roots never chain: a value is resolved before it is stored
    return roots.get(bit, bit) if not isinstance(bit, str) else "1" if bit == "1" else "0"


def _gate(kind: str, inputs: list):
    """The constant or net that a gate's output equals, or None where it stays a gate."""
    constants = [bit for bit in inputs if isinstance(bit, str)]
    live = [bit for bit in inputs if not isinstance(bit, str)]
    if kind == "$_MUX_":
        low, high, select = inputs
        return (high if select == "1" else low) if isinstance(select, str) or low == high else None
    if kind == "$_NOT_":
        return "10"[int(inputs[0])] if constants else None
    if kind == "$_AND_":
        return "0" if "0" in constants else live[0] if constants and live else None if live else "1"
    if kind == "$_OR_":
        return "1" if "1" in constants else live[0] if constants and live else None if live else "0"
    if kind in ("$_XOR_", "$_XNOR_"):
        odd = (constants.count("1") + (kind == "$_XNOR_")) & 1
        if not live:
            return "01"[odd]
        return live[0] if constants and not odd else None
    raise DbqError(
        f"hardware: cell {kind} in the synthesised netlist is not known", "use a version of Yosys that simplemap gives plain gates"
    )


def _in_order(cells: dict) -> list[tuple[str, dict]]:
    """The cells, each after those that drive it: depth first, without recursion because ripples are long."""
    driver = {cell["connections"][port][0]: name for name, cell in cells.items() for port in OUTPUTS.get(cell["type"], ("Y",))}
    done, order = set(), []
    for start in cells:
        stack = [(start, False)]
        while stack:
            name, expanded = stack.pop()
            if expanded:
                order.append((name, cells[name]))
            elif name not in done:
                done.add(name)
                stack.append((name, True))
                bits = (cells[name]["connections"][port][0] for port in _ports(cells[name]))
                stack += [(driver[bit], False) for bit in bits if bit in driver and driver[bit] not in done]
    return order


def _reached(starts: list, needs: dict) -> set:
    seen, stack = set(starts), list(starts)
    while stack:
        for bit in needs.get(stack.pop(), ()):
            if bit not in seen:
                seen.add(bit)
                stack.append(bit)
    return seen
