"""The ternary dot-product engine (TDPE) as hardware: generated SystemVerilog, simulated, synthesised, its full adders counted.

    print(hardware.generate(hardware.Design(length=64, activation_bits=8, branches=2)))

The tools (Icarus Verilog, Yosys) are optional: where they are missing, `measurements` and `read_trained` read the committed tables.
"""

from dbq.hardware.counts import counted, tree_adders
from dbq.hardware.design import Computed, Design, evaluate, load_planes
from dbq.hardware.measure import committed_grid, grid, measure_all, measurements
from dbq.hardware.simulation import compare, simulate
from dbq.hardware.synthesis import Synthesised, synthesise
from dbq.hardware.table import REASONS, demand_no_mismatch, described, read_trained, write, write_trained
from dbq.hardware.trained import measure_trained
from dbq.hardware.verilog import generate

__all__ = [
    "REASONS", "Computed", "Design", "Synthesised", "committed_grid", "compare", "counted", "demand_no_mismatch", "described", "evaluate",
    "generate", "grid", "load_planes", "measure_all", "measure_trained", "measurements", "read_trained", "simulate", "synthesise",
    "tree_adders", "write", "write_trained",
]  # fmt: skip
