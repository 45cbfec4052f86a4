"""The ternary dot-product engine (TDPE) as hardware: generated SystemVerilog, simulated, synthesised, its full adders counted.

    python -m dbq.hardware generate --length 64 --activation-bits 8 --branches 2
    python -m dbq.hardware measure --out data/reference/hardware.csv
    python -m dbq.hardware trained resnet20-cifar10-dbq-2t --profile cifar10 --out data/reference/hardware-trained.csv

The tools (Icarus Verilog, Yosys) are optional: `measurements` and `read_trained` read the committed tables where they are absent.
"""

from dbq.hardware.counts import counted, tree_adders
from dbq.hardware.design import Computed, Design, evaluate
from dbq.hardware.measure import measurements
from dbq.hardware.simulation import compare, mismatches, simulate, simulate_flags
from dbq.hardware.synthesis import Synthesised, synthesise
from dbq.hardware.table import REASONS, read_trained
from dbq.hardware.verilog import generate

__all__ = [
    "REASONS", "Computed", "Design", "Synthesised", "compare", "counted", "evaluate", "generate", "measurements", "mismatches",
    "read_trained", "simulate", "simulate_flags", "synthesise", "tree_adders",
]  # fmt: skip
