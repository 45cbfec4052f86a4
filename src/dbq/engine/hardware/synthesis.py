"""The adders of a design as Yosys finds them.

Every addition becomes a ripple of 1-bit full adders (ripple.v); constants are then carried through the netlist until nothing changes
(simplify.v) and unused cells are removed. What is left is counted by its live inputs and outputs, not by the source text:

    full adder   three inputs that are no constants, and a carry that something uses
    xor3         three inputs and an unused carry: the top bit of an addition
    half adder   two inputs
"""

import json
import re
import tempfile
from pathlib import Path
from typing import NamedTuple

from dbq.engine.hardware import tools
from dbq.engine.hardware.design import Design
from dbq.engine.hardware.verilog import generate, library_text
from dbq.errors import DbqError

# of constant propagation, tried in this order: a round resolves one adder of a run of constants, and with weights on a port runs are short
ROUNDS = (3, 12, 48)

ADDERS = {"FULL_ADDER": ("A", "B", "CI"), "HALF_ADDER": ("A", "B")}  # cell type: its inputs
GATES = (
    "read_ilang adders.il", "techmap -map gates.v", "techmap", "opt -fast", "abc -fast -g gates", "opt_clean", "tee -q -o gates.txt stat",
)  # fmt: skip


class Synthesised(NamedTuple):
    full_adders: int
    scale_full_adders: int  # the part of full_adders outside the ternary sums
    xor3: int
    half_adders: int
    cells: int | None  # two-input gates of the whole engine after logic optimisation; None if not asked for


def synthesise(design: Design, gates: bool = True) -> Synthesised:
    """Counts of one engine; DbqError where Yosys is missing or fails."""
    with tempfile.TemporaryDirectory(prefix="dbq-hardware-") as folder:
        folder = Path(folder)
        (folder / "tdpe.sv").write_text(generate(design))
        for name in ("ripple.v", "simplify.v", "gates.v"):
            (folder / name).write_text(library_text(name))
        for rounds in ROUNDS[design.kind == "constant" :]:
            (folder / "adders.ys").write_text(_script(rounds))
            tools.run("yosys", ["-q", "-s", "adders.ys"], folder)
            counts = _count(json.loads((folder / "adders.json").read_text())["modules"]["tdpe"])
            if counts is not None:
                break
        else:
            raise DbqError(
                "hardware: adders with constant inputs are left", "add a larger number to ROUNDS in dbq.engine.hardware.synthesis"
            )
        if not gates:
            return Synthesised(*counts, None)
        (folder / "gates.ys").write_text("\n".join(GATES) + "\n")
        tools.run("yosys", ["-q", "-s", "gates.ys"], folder)
        return Synthesised(*counts, int(re.search(r"Number of cells:\s+(\d+)", (folder / "gates.txt").read_text())[1]))


def _script(rounds: int) -> str:
    lines = ["read_verilog -sv tdpe.sv", "hierarchy -check -top tdpe", "proc", "flatten", "opt_expr", "opt_clean", "techmap -map ripple.v"]
    lines += ["opt_clean", *["techmap -map simplify.v", "opt_expr", "opt_clean"] * rounds, "opt_merge", "opt_clean"]
    return "\n".join([*lines, "write_json adders.json", "write_ilang adders.il"]) + "\n"


def _count(netlist: dict) -> tuple[int, int, int, int] | None:
    """full adders, those outside the ternary sums, xor3 cells and half adders; None while an adder has a constant input."""
    used = {bit for port in netlist["ports"].values() if port["direction"] == "output" for bit in port["bits"]}
    for cell in netlist["cells"].values():
        used.update(bit for port, direction in _directions(cell).items() if direction == "input" for bit in cell["connections"][port])
    full = scale = xor3 = half = 0
    for name, cell in netlist["cells"].items():
        if cell["type"] not in ADDERS:
            continue
        inputs = [cell["connections"][port][0] for port in ADDERS[cell["type"]]]
        if any(isinstance(bit, str) for bit in inputs):
            return None
        carried = cell["connections"]["CO"][0] in used
        half += len(inputs) == 2 and carried
        xor3 += len(inputs) == 3 and not carried
        full += len(inputs) == 3 and carried
        scale += len(inputs) == 3 and carried and not re.search(r"\bternary_\d+\.", name)
    return full, scale, xor3, half


def _directions(cell: dict) -> dict[str, str]:
    # Yosys doesn't know the directions of cells that have no module
    if cell["type"] in ADDERS:
        return {**dict.fromkeys(ADDERS[cell["type"]], "input"), "S": "output", "CO": "output"}
    return cell["port_directions"]
