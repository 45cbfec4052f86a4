"""python -m dbq.hardware generate|measure|trained; `--help` lists the arguments."""

import argparse
import sys
from pathlib import Path

import numpy as np

from dbq.errors import DbqError, main_with_errors
from dbq.files import write_csv
from dbq.hardware import experiment as trained
from dbq.hardware import measure, table
from dbq.hardware.design import STRUCTURES, Design
from dbq.hardware.verilog import generate
from dbq.settings import resolve as config


class _Parser(argparse.ArgumentParser):
    """argparse prints its whole usage before the message; here an error is one line."""

    def error(self, message: str):
        raise DbqError(message, f"`{self.prog} --help` lists the arguments")


def _other(sizes) -> str:
    return f"a grid of these; where only others are given: {', '.join(map(str, sizes))}; without any: the grid of the committed file"


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m dbq.hardware", description=__doc__)
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
    rows.add_argument("--vectors", type=int, default=measure.VECTORS, help="simulated dot products per engine")
    rows.add_argument("--lengths", type=int, nargs="+", help=_other(measure.LENGTHS))
    rows.add_argument("--activation-bits", type=int, nargs="+", help=_other(measure.ACTIVATION_BITS))
    rows.add_argument("--branches", type=int, nargs="+", help=_other(measure.BRANCHES))
    rows.add_argument("--jobs", type=int, default=1, help="tools at a time")
    real = commands.add_parser("trained", help="the same for dot products of a trained network (needs iverilog, yosys, model and data)")
    real.add_argument("experiment", help="a key of experiments in params.yaml")
    real.add_argument("--params", default="params.yaml", help="params.yaml, or the same tree as JSON")
    real.add_argument("--profile", help="instead of the profile in params.yaml")
    real.add_argument("--model", type=Path, help="trained models (default runs/PROFILE/models/quantize-EXPERIMENT.pt)")
    real.add_argument("--data", type=Path, help="prepared data set (default data/prepared/PROFILE/DATASET)")
    real.add_argument("--layers", nargs="+", help="default: for every length of a dot product the first layer that has it")
    real.add_argument("--vectors", type=int, default=measure.VECTORS, help="simulated dot products per engine")
    real.add_argument("--images", type=int, default=trained.IMAGES, help="validation images that they are drawn from")
    real.add_argument("--jobs", type=int, default=1, help="tools at a time")
    real.add_argument("--out", required=True, help="CSV file; rows of other experiments in it stay")
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
    print(table.described(row), file=sys.stderr, flush=True)


def _measure_grid(arguments) -> list[dict]:
    sizes = {name: getattr(arguments, name) for name in ("lengths", "activation_bits", "branches") if getattr(arguments, name)}
    cases = measure.grid(**sizes) if sizes else measure.committed_grid()
    rows = measure.measure_all(cases, arguments.vectors, arguments.jobs, _print_row)
    write_csv(arguments.out, rows, table.COLUMNS)
    return rows


def _measure_trained(arguments) -> list[dict]:
    params = config.read(arguments.params)
    profile = config.check_profile(arguments.profile or config.lookup(params, "profile"))
    experiment = config.experiment(params, profile, arguments.experiment)
    rows = trained.measure_experiment(
        experiment,
        arguments.model or Path("runs") / profile / "models" / f"quantize-{experiment.key}.pt",
        arguments.data or Path("data/prepared") / profile / experiment.dataset,
        config.cost(params),
        config.engine(params),
        layers=arguments.layers,
        count=arguments.vectors,
        images=arguments.images,
        jobs=arguments.jobs,
        report=_print_row,
    )
    trained.write(arguments.out, rows)
    return rows


def main():
    arguments = _parser().parse_args()
    if arguments.command == "generate":
        sys.stdout.write(generate(_design(arguments)))
        return
    for name in ("vectors", "jobs", "images"):
        if getattr(arguments, name, 1) < 1:
            raise DbqError(f"--{name}: {getattr(arguments, name)} is out of range", "it must be 1 or more")
    rows = (_measure_grid if arguments.command == "measure" else _measure_trained)(arguments)
    wrong = sum(row["mismatches"] for row in rows)
    if wrong:
        raise DbqError(f"{arguments.out}: {wrong} simulated dot products differ from integers", "the rows with mismatches name the engines")


if __name__ == "__main__":
    raise SystemExit(main_with_errors(main))
