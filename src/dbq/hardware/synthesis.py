"""The adders of a design as Yosys finds them.

Yosys elaborates the generated text, flattens it, and turns every addition into a ripple of 1-bit full adders (ripple.v). propagate.py
carries constants through that netlist and removes dead cells. What remains is counted by its inputs and outputs:

    full adder   three inputs that are no constants, and a carry that something uses
    xor3         three inputs and an unused carry: the top bit of an addition
    half adder   two inputs, and a carry that something uses
"""

import json
import re
import tempfile
from pathlib import Path
from typing import NamedTuple

from dbq.hardware import tools
from dbq.hardware.design import Design
from dbq.hardware.propagate import adders
from dbq.hardware.verilog import generate, library_text

COMMANDS = (
    "read_verilog -sv tdpe.sv", "hierarchy -check -top tdpe", "proc", "flatten", "opt_expr", "opt_clean", "techmap -map ripple.v",
    "simplemap", "opt_clean", "write_json adders.json", "techmap -map gates.v", "simplemap", "opt -fast", "abc -fast -g gates", "opt_clean",
    "tee -q -o gates.txt stat",
)  # fmt: skip


class Synthesised(NamedTuple):
    full_adders: int
    scale_full_adders: int  # the part of full_adders outside the ternary sums
    xor3: int
    half_adders: int
    cells: int  # two-input gates of the whole engine after logic optimisation


def synthesise(design: Design) -> Synthesised:
    """Counts of one engine; DbqError where Yosys is missing or fails."""
    with tempfile.TemporaryDirectory(prefix="dbq-hardware-") as folder:
        folder = Path(folder)
        (folder / "tdpe.sv").write_text(generate(design))
        for name in ("ripple.v", "gates.v"):
            (folder / name).write_text(library_text(name))
        (folder / "synthesis.ys").write_text("\n".join(COMMANDS) + "\n")
        tools.run("yosys", ["-q", "-s", "synthesis.ys"], folder)
        found = adders(json.loads((folder / "adders.json").read_text())["modules"]["tdpe"])
        cells = int(re.search(r"Number of cells:\s+(\d+)", (folder / "gates.txt").read_text())[1])
    full = [adder for adder in found if adder.live == 3 and adder.carried]
    return Synthesised(
        full_adders=len(full),
        scale_full_adders=sum(re.search(r"\bternary_\d+\.", adder.name) is None for adder in full),
        xor3=sum(adder.live == 3 and adder.used and not adder.carried for adder in found),
        half_adders=sum(adder.live == 2 and adder.carried for adder in found),
        cells=cells,
    )
