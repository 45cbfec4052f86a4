"""Counted adders against synthesised ones, and simulated dot products against integers, over a grid of engines.

The engines of committed_grid() are data/reference/hardware.csv. One core measures them in a quarter of an hour.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product

import numpy as np

from dbq.errors import DbqError
from dbq.hardware import table, tools
from dbq.hardware.design import STRUCTURES, Design
from dbq.hardware.simulation import compare
from dbq.hardware.synthesis import synthesise

LENGTHS = (9, 27, 64)  # 3x3 depthwise; first layer of RGB; pointwise of 64 channels
ACTIVATION_BITS = (4, 8)
BRANCHES = (1, 2, 3)
ZERO_RATES = (0.0, 0.3, 0.6)
VECTORS = 10_000  # for an engine with a weight port; a tenth for an engine of constant weights, of which there are three times as many
Report = Callable[[dict], None] | None
FILTERS = 100  # different weights in the vectors of an engine with a weight port


@dataclass(frozen=True)
class Case:
    kind: str
    structure: str
    length: int
    activation_bits: int
    branches: int
    zero_rate: float

    def design(self) -> Design:
        shape = (self.branches, self.length)
        planes = random_planes(self.random(), shape, self.zero_rate) if self.kind == "constant" else None
        return Design(self.length, self.activation_bits, self.branches, structure=self.structure, planes=planes)

    def random(self) -> np.random.Generator:
        return np.random.default_rng([self.length, self.activation_bits, self.branches, round(100 * self.zero_rate)])


def grid(lengths=LENGTHS, activation_bits=ACTIVATION_BITS, branches=BRANCHES, zero_rates=ZERO_RATES) -> list[Case]:
    """Every combination, the cheap ones first. An engine with a weight port doesn't depend on the zero rate: it is listed at rate 0."""
    cases = [
        Case(kind, structure, *sizes, rate)
        for kind, structure in product(("port", "constant"), STRUCTURES)
        for sizes in product(lengths, activation_bits, branches)
        for rate in (zero_rates if kind == "constant" else (0.0,))
    ]
    return sorted(cases, key=lambda case: case.length * case.branches)


def committed_grid() -> list[Case]:
    """The engines of the committed file: the grid, and the shortest ternary dot product of ResNet-20 at 8 bits."""
    return grid() + grid((144,), (8,), (1, 2))


def random_planes(random: np.random.Generator, shape: tuple[int, int], zero_rate: float) -> np.ndarray:
    """Planes of random signs with exactly round(zero_rate * length) zeros in each branch."""
    planes = random.choice([-1, 1], shape)
    for plane in planes:
        plane[random.permutation(shape[1])[: round(zero_rate * shape[1])]] = 0
    return planes


def vectors(case: Case, count: int) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Random activations, planes (for a weight port) and scales of `count` dot products. The first two are at the ends of the range."""
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
    """One row of the table. `count` vectors for a weight port, a tenth for constants. DbqError without Icarus Verilog and Yosys."""
    design = case.design()
    count = vectors_of(case.kind, count)
    _, wrong = compare(design, *vectors(case, count))
    return table.row(design, case.zero_rate, synthesise(design), count, int(wrong.sum()))


def vectors_of(kind: str, count: int) -> int:
    """Vectors for an engine of this kind, where an engine with a weight port gets `count`."""
    return count if kind == "port" else -(-count // 10)


def measure_all(cases: Iterable[Case], count: int = VECTORS, jobs: int = 1, report: Report = None) -> list[dict]:
    """A row of table.COLUMNS for each case, in order. jobs: processes of the tools at a time. report: called with each row."""
    return in_parallel(lambda case: measure(case, count), cases, jobs, report)


def in_parallel(measure_one: Callable[[object], dict], cases: Iterable, jobs: int, report: Report) -> list[dict]:
    """[measure_one(case), ...] in order. Raises DbqError before the first one where a tool is missing."""
    if jobs < 1:
        raise DbqError(f"jobs: {jobs} is out of range", "it must be 1 or more")
    tools.find(*tools.TOOLS)
    rows = []
    with ThreadPoolExecutor(jobs) as pool:  # threads suffice: all the time is spent in the tools
        for row in pool.map(measure_one, cases):
            rows.append(row)
            if report is not None:
                report(row)
    return rows


def measurements(path, fresh: bool = False) -> tuple[list[dict], str]:
    """(rows, where they come from). path: the committed hardware.csv.

    fresh: measure committed_grid() now if the tools are installed. Otherwise the file is read, and the second value says which tool is
    missing. Raises DbqError as table.read() does.
    """
    missing = tools.missing()
    if fresh and not missing:
        versions = f"Icarus Verilog {tools.version('iverilog')} and Yosys {tools.version('yosys')}"
        return measure_all(committed_grid()), f"simulated and synthesised in this run with {versions}"
    rows, source = table.read(path)
    return rows, source + (f"; {', '.join(missing)} not installed here" if fresh else "")
