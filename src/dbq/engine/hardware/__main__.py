"""python -m dbq.engine.hardware generate|measure; `--help` lists the arguments."""

import argparse
import sys

import numpy as np

from dbq.engine.hardware import measure as table
from dbq.engine.hardware.design import STRUCTURES, Design
from dbq.engine.hardware.verilog import generate
from dbq.errors import DbqError, main_with_errors
from dbq.files import write_csv


class _Parser(argparse.ArgumentParser):
    """argparse prints its whole usage before the message; here an error is one line."""

    def error(self, message: str):
        raise DbqError(message, f"`{self.prog} --help` lists the arguments")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m dbq.engine.hardware", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    text = commands.add_parser("generate", help="print the SystemVerilog of one engine")
    text.add_argument("--length", type=int, help="of the dot product (default: that of --planes)")
    text.add_argument("--activation-bits", type=int, default=8)
    text.add_argument("--branches", type=int, help="default: that of --planes, else 2")
    text.add_argument("--planes", help="a .npy file (branches, length) of -1, 0 and 1: constant weights instead of a port")
    text.add_argument("--signed", action="store_true", help="activations are signed")
    text.add_argument("--scale-bits", type=int, default=8)
    text.add_argument("--structure", choices=STRUCTURES, default="chain")
    text.add_argument("--accumulator-bits", type=int, help="default: the width that always suffices")
    rows = commands.add_parser("measure", help="simulate and synthesise a grid of engines (needs iverilog and yosys)")
    rows.add_argument("--out", required=True, help="CSV file")
    rows.add_argument("--vectors", type=int, default=table.VECTORS, help="simulated dot products per engine")
    rows.add_argument("--lengths", type=int, nargs="+", default=table.LENGTHS)
    rows.add_argument("--activation-bits", type=int, nargs="+", default=table.ACTIVATION_BITS)
    rows.add_argument("--branches", type=int, nargs="+", default=table.BRANCHES)
    rows.add_argument("--jobs", type=int, default=1, help="tools at a time")
    return parser


def _design(arguments) -> Design:
    planes = None
    if arguments.planes:
        try:
            planes = np.load(arguments.planes, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise DbqError(f"--planes {arguments.planes}: not a readable .npy file ({error})", "write it with numpy.save") from None
        if planes.ndim != 2:
            raise DbqError(f"--planes {arguments.planes}: shape {planes.shape}", "it is (branches, length)")
    length = arguments.length if arguments.length is not None or planes is None else planes.shape[1]
    branches = arguments.branches if arguments.branches is not None else 2 if planes is None else len(planes)
    if length is None:
        raise DbqError("--length is missing", "pass the length of the dot product, or --planes FILE.npy")
    return Design(
        length,
        arguments.activation_bits,
        branches,
        signed=arguments.signed,
        scale_bits=arguments.scale_bits,
        structure=arguments.structure,
        accumulator_bits=arguments.accumulator_bits,
        planes=planes,
    )


def _print_row(row: dict):
    print(
        f"{row['kind']:8s} {row['structure']:5s} D {row['length']:3d} Bx {row['activation_bits']} B {row['branches']} "
        f"zero rate {row['zero_rate']:.1f}: {row['synthesised_full_adders']:6d} FA, {row['ratio']:.3f} of adder_only, "
        f"{row['ratio_tree']:.3f} of tree; {row['mismatches']} mismatches in {row['simulated_dot_products']}",
        file=sys.stderr,
        flush=True,
    )


def main():
    arguments = _parser().parse_args()
    if arguments.command == "generate":
        sys.stdout.write(generate(_design(arguments)))
        return
    for name in ("vectors", "jobs"):
        if getattr(arguments, name) < 1:
            raise DbqError(f"--{name}: {getattr(arguments, name)} is out of range", "it must be 1 or more")
    cases = table.grid(arguments.lengths, arguments.activation_bits, arguments.branches)
    rows = table.measure_all(cases, arguments.vectors, arguments.jobs, _print_row)
    write_csv(arguments.out, rows, table.COLUMNS)
    wrong = sum(row["mismatches"] for row in rows)
    if wrong:
        raise DbqError(f"{arguments.out}: {wrong} simulated dot products differ from integers", "the rows with mismatches name the engines")


if __name__ == "__main__":
    raise SystemExit(main_with_errors(main))
