"""Rows of measurements: adders counted by formula beside those of the synthesised engine, and how many simulated results were wrong.

hardware.csv holds a grid of engines with random weights (measure.py). hardware-trained.csv holds engines for dot products of trained
networks (trained.py): its TRAINED_COLUMNS first say which dot product a line is about.
"""

from pathlib import Path

from dbq.errors import DbqError
from dbq.files import read_csv, write_csv
from dbq.hardware import tools
from dbq.hardware.counts import counted
from dbq.hardware.design import Design
from dbq.hardware.synthesis import Synthesised

TEXTS = ("kind", "structure", "reason", "iverilog", "yosys")
REALS = ("zero_rate", "ratio", "ratio_sums", "ratio_tree")
COLUMNS = [
    "kind", "structure", "length", "activation_bits", "branches", "scale_bits", "zero_rate", "nonzeros", "counted_adder_only",
    "counted_two_bit_multiplier", "counted_tree", "counted_scale", "synthesised_full_adders", "synthesised_scale_full_adders",
    "synthesised_xor3", "synthesised_half_adders", "synthesised_cells", "ratio", "ratio_sums", "ratio_tree", "simulated_dot_products",
    "mismatches", "reason", "iverilog", "yosys",
]  # fmt: skip
INTEGERS = ["seed", *(name for name in COLUMNS if name not in TEXTS + REALS)]
GRID_COMMAND = "python -m dbq synthesise --out FILE"
TRAINED_COMMAND = "python -m dbq synthesise --row ROW --out FILE"
# row: key of the trained network. weights: first digits of the sha256 of its weights. channel: the output channel whose weights are the
# constants, or "all" where the weights come from a port
TRAINED_COLUMNS = ["row", "seed", "weights", "data_source", "layer", "channel", *COLUMNS]

# "KIND-STRUCTURE", which the column `reason` holds -> why synthesised and counted adders differ
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


def row(design: Design, zero_rate: float, found: Synthesised, simulated: int, mismatches: int) -> dict:
    """COLUMNS of one engine, of whose `simulated` dot products `mismatches` were wrong."""
    expected = counted(design)
    return {
        "kind": design.kind, "structure": design.structure, "length": design.length, "activation_bits": design.activation_bits,
        "branches": design.branches, "scale_bits": design.scale_bits, "zero_rate": zero_rate, "nonzeros": int(design.nonzeros().sum()),
        **{f"counted_{name}": expected[name] for name in ("adder_only", "two_bit_multiplier", "tree", "scale")},
        **{f"synthesised_{name}": value for name, value in found._asdict().items()},
        "ratio": _ratio(found.full_adders, expected["adder_only"]),
        "ratio_sums": _ratio(found.full_adders - found.scale_full_adders, expected["sum_adder_only"]),
        "ratio_tree": _ratio(found.full_adders, expected["tree"]),
        "simulated_dot_products": simulated, "mismatches": mismatches, "reason": f"{design.kind}-{design.structure}",
        "iverilog": tools.version("iverilog"), "yosys": tools.version("yosys"),
    }  # fmt: skip


def _ratio(found: int, expected: int) -> float:
    return round(found / expected, 4) if expected else 1.0 if found == 0 else float("inf")


def described(measured: dict) -> str:
    """One line for a person."""
    where = f"{measured['row']} {measured['layer']} " if "row" in measured else ""
    return (
        f"{where}{measured['kind']:8s} {measured['structure']:5s} D {measured['length']:3d} Bx {measured['activation_bits']} "
        f"B {measured['branches']} zero rate {measured['zero_rate']:.2f}: {measured['synthesised_full_adders']:6d} FA, "
        f"{measured['ratio']:.3f} of adder_only, {measured['ratio_tree']:.3f} of tree; "
        f"{measured['mismatches']} mismatches in {measured['simulated_dot_products']}"
    )


def demand_no_mismatch(rows: list[dict], path) -> None:
    """Raise DbqError where a simulated dot product was wrong; path: the file that holds the rows."""
    wrong = sum(found["mismatches"] for found in rows)
    if wrong:
        raise DbqError(f"{path}: {wrong} simulated dot products differ from integers", "its lines with mismatches name the engines")


def write(path, rows: list[dict]) -> None:
    """Write the rows of measure_all()."""
    write_csv(path, rows, COLUMNS)


def write_trained(path, rows: list[dict]) -> None:
    """Put the lines of a trained network into the file, in the place of older ones of the same key; the others stay as they are."""
    path, keys = Path(path), {found["row"] for found in rows}
    others = [found for found in read_trained(path)[0] if found["row"] not in keys] if path.exists() else []
    write_csv(path, others + rows, TRAINED_COLUMNS)


def read(path, command: str = GRID_COMMAND, columns: list[str] = COLUMNS) -> tuple[list[dict], str]:
    """(rows with numbers as numbers, where they come from) of a committed file with exactly these columns.

    command: the one that measures the file again, for messages. Raises DbqError for a missing file, other columns, no rows and a damaged
    number.
    """
    path, remedy = Path(path), f"restore the committed file, or run `{command}`"
    if not path.is_file():
        raise DbqError(f"{path}: no such file", remedy)
    rows = read_csv(path)
    if not rows:
        raise DbqError(f"{path}: no rows", remedy)
    if any(list(found) != columns for found in rows):
        raise DbqError(f"{path}: its columns are not those of the hardware table", remedy)
    kinds = dict.fromkeys(INTEGERS, int) | dict.fromkeys(REALS, float)
    try:
        rows = [{name: kinds.get(name, str)(value) for name, value in found.items()} for found in rows]
    except (TypeError, ValueError) as error:
        raise DbqError(f"{path}: a number is damaged ({error})", remedy) from None
    versions = sorted({f"Icarus Verilog {found['iverilog']} and Yosys {found['yosys']}" for found in rows})
    return rows, f"read from the committed {path.name}, measured with {'; '.join(versions)}"


def read_trained(path) -> tuple[list[dict], str]:
    """read() of hardware-trained.csv."""
    return read(path, TRAINED_COMMAND, TRAINED_COLUMNS)
