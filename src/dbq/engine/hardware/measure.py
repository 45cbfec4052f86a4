"""Counted adders against synthesised ones, and simulated dot products against integers, over a grid of engines.

    python -m dbq.engine.hardware measure --out data/reference/hardware.csv

writes one row per engine, in 8 minutes on one core;
--lengths, --activation-bits and --branches choose a part of the grid or a larger one.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from dbq.engine.hardware import tools
from dbq.engine.hardware.counts import counted
from dbq.engine.hardware.design import STRUCTURES, Design
from dbq.engine.hardware.simulation import mismatches
from dbq.engine.hardware.synthesis import synthesise
from dbq.errors import DbqError
from dbq.files import read_csv

LENGTHS = (9, 27, 64)  # 3x3 depthwise; first layer of RGB; pointwise of 64 channels
ACTIVATION_BITS = (4, 8)
BRANCHES = (1, 2, 3)
ZERO_RATES = (0.0, 0.3, 0.6)
VECTORS = 10_000  # of an engine with a weight port; a tenth of an engine of constant weights, of which there are three times as many
FILTERS = 100  # sets of weights that the vectors of an engine with a weight port are spread over

INTEGERS = (
    "length", "activation_bits", "branches", "scale_bits", "nonzeros", "counted_adder_only", "counted_two_bit_multiplier", "counted_tree",
    "counted_scale", "synthesised_full_adders", "synthesised_scale_full_adders", "synthesised_xor3", "synthesised_half_adders",
    "synthesised_cells", "simulated_dot_products", "mismatches",
)  # fmt: skip
REALS = ("zero_rate", "ratio", "ratio_sums", "ratio_tree")
COLUMNS = [
    "kind", "structure", "length", "activation_bits", "branches", "scale_bits", "zero_rate", "nonzeros", "counted_adder_only",
    "counted_two_bit_multiplier", "counted_tree", "counted_scale", "synthesised_full_adders", "synthesised_scale_full_adders",
    "synthesised_xor3", "synthesised_half_adders", "synthesised_cells", "ratio", "ratio_sums", "ratio_tree", "simulated_dot_products",
    "mismatches", "reason", "iverilog", "yosys",
]  # fmt: skip

# (kind, structure) -> why synthesised and counted adders differ; the key joined by "-" stands in the column `reason`
REASONS = {
    "port-chain": "The ternary sums equal the adder-only formula exactly; the scale multiplication needs one row of full adders less than "
    "counted, because the first partial product is not added to anything.",
    "port-tree": "The formula charges each addition the final width Bx + ceil(log2 D), which an accumulator or a chain has; in a tree most "
    "adders stand at the narrow leaves, so that a tree costs about Bx + 2 per addition (tree_adders), whatever D is.",
    "constant-chain": "A known sign makes the carry-in and all bits above Bx of a product constants, so that the lowest bit and the bits "
    "above Bx of an addition, which the formula counts as full adders, are half adders.",
    "constant-tree": "As in a port tree most adders are narrower than the formula's, and a known sign leaves half adders at the lowest bit "
    "of each addition and at the sign bit of each product.",
}


@dataclass(frozen=True)
class Case:
    kind: str
    structure: str
    length: int
    activation_bits: int
    branches: int
    zero_rate: float

    def design(self) -> Design:
        planes = None
        if self.kind == "constant":
            planes = random_planes(self.random(), (self.branches, self.length), self.zero_rate)
        return Design(self.length, self.activation_bits, self.branches, structure=self.structure, planes=planes)

    def random(self) -> np.random.Generator:
        return np.random.default_rng([self.length, self.activation_bits, self.branches, round(100 * self.zero_rate)])


def grid(lengths=LENGTHS, activation_bits=ACTIVATION_BITS, branches=BRANCHES, zero_rates=ZERO_RATES) -> list[Case]:
    """Every combination, the cheap ones first. An engine with a weight port is the same for every zero rate and stands once, at rate 0."""
    cases = [
        Case(kind, structure, *sizes, rate)
        for kind, structure in product(("port", "constant"), STRUCTURES)
        for sizes in product(lengths, activation_bits, branches)
        for rate in (zero_rates if kind == "constant" else (0.0,))
    ]
    return sorted(cases, key=lambda case: case.length * case.branches)


def random_planes(random: np.random.Generator, shape: tuple[int, int], zero_rate: float) -> np.ndarray:
    """Planes of random signs with exactly round(zero_rate * length) zeros in each branch."""
    planes = random.choice([-1, 1], shape)
    for plane in planes:
        plane[random.permutation(shape[1])[: round(zero_rate * shape[1])]] = 0
    return planes


def vectors(case: Case, count: int) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Random activations, planes (for a weight port) and scales of `count` dot products; the first ones are the extremes of the range."""
    random = case.random()
    top = (1 << case.activation_bits) - 1
    activations = random.integers(0, top + 1, (count, case.length))
    scales = random.integers(0, 256, (count, case.branches))
    activations[:2], scales[:2] = top, 255
    if case.kind == "constant":
        return activations, None, scales
    filters = [random_planes(random, (case.branches, case.length), rate) for rate in random.uniform(0, 1, min(FILTERS, count))]
    planes = np.stack(filters)[np.arange(count) * len(filters) // count]
    planes[0], planes[1:2] = 1, -1
    return activations, planes, scales


def measure(case: Case, count: int = VECTORS) -> dict:
    """One row of the table, with a tenth of `count` vectors where the weights are constants; needs Icarus Verilog and Yosys (DbqError)."""
    design = case.design()
    expected, found = counted(design), synthesise(design)
    count = count if case.kind == "port" else -(-count // 10)
    sums = expected["sum_adder_only"]
    return {
        **vars(case),
        "scale_bits": design.scale_bits,
        "nonzeros": int(design.nonzeros().sum()),
        "counted_adder_only": expected["adder_only"],
        "counted_two_bit_multiplier": expected["two_bit_multiplier"],
        "counted_tree": expected["tree"],
        "counted_scale": expected["scale"],
        "synthesised_full_adders": found.full_adders,
        "synthesised_scale_full_adders": found.scale_full_adders,
        "synthesised_xor3": found.xor3,
        "synthesised_half_adders": found.half_adders,
        "synthesised_cells": found.cells,
        "ratio": round(found.full_adders / expected["adder_only"], 4),
        "ratio_sums": round((found.full_adders - found.scale_full_adders) / sums, 4) if sums else 1.0,
        "ratio_tree": round(found.full_adders / expected["tree"], 4),
        "simulated_dot_products": count,
        "mismatches": mismatches(design, *vectors(case, count)),
        "reason": f"{case.kind}-{case.structure}",
        "iverilog": tools.version("iverilog"),
        "yosys": tools.version("yosys"),
    }


def measure_all(cases: Iterable[Case], count: int = VECTORS, jobs: int = 1, report: Callable[[dict], None] | None = None) -> list[dict]:
    """Rows in the order of the cases; the tools run in `jobs` processes at a time. report(row) is called for each row."""
    for name in tools.TOOLS:
        tools.find(name)
    rows = []
    # threads suffice: all the time is spent in the tools
    with ThreadPoolExecutor(jobs) as pool:
        for row in pool.map(lambda case: measure(case, count), cases):
            if report is not None:
                report(row)
            rows.append(row)
    return rows


def measurements(path, fresh: bool = False, cases: Iterable[Case] | None = None, count: int = VECTORS) -> tuple[list[dict], str]:
    """(rows, where they come from). path: the committed hardware.csv or its folder.

    fresh=True measures now (cases, default the whole grid) if the tools are installed; otherwise, and where one is missing, the file is
    read, and the second value says so. Raises DbqError when the file is absent or lacks a column.
    """
    missing = tools.missing()
    if fresh and not missing:
        versions = f"Icarus Verilog {tools.version('iverilog')} and Yosys {tools.version('yosys')}"
        return measure_all(grid() if cases is None else cases, count), f"simulated and synthesised in this run with {versions}"
    path = Path(path)
    path = path / "hardware.csv" if path.is_dir() else path
    rows = [_typed(row, path) for row in read_csv(path)]
    if not rows:
        raise DbqError(f"{path}: no rows", "restore the committed file, or run `python -m dbq.engine.hardware measure --out FILE`")
    versions = f"Icarus Verilog {rows[0]['iverilog']} and Yosys {rows[0]['yosys']}"
    why = f"; {', '.join(missing)} not installed here" if fresh else ""
    return rows, f"read from the committed {path.name}, measured with {versions}{why}"


def _typed(row: dict, path: Path) -> dict:
    if list(row) != COLUMNS:
        raise DbqError(f"{path}: its columns are not those of the hardware table", "restore the committed file, or measure it again")
    try:
        numbers = {**{name: int(row[name]) for name in INTEGERS}, **{name: float(row[name]) for name in REALS}}
    except (TypeError, ValueError) as error:
        raise DbqError(f"{path}: a number is damaged ({error})", "restore the committed file, or measure it again") from None
    return {**row, **numbers}
