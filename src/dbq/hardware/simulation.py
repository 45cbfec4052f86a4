"""Simulates the generated SystemVerilog in Icarus Verilog: 10,000 dot products of length 288 with 2 branches take a few seconds."""

import tempfile
from pathlib import Path

import numpy as np

from dbq.errors import DbqError
from dbq.hardware import tools
from dbq.hardware.design import Computed, Design, check_vectors, evaluate, reference
from dbq.hardware.verilog import generate

BENCH = """module bench;
  reg [{bits}:0] vectors[0:{last}];
  reg [{bits}:0] vector;
  wire signed [{y}:0] y;
  wire overflow;
  integer i, file;
  tdpe engine (.x(vector[{x}:0]), {w}.scales(vector[{scales}]), .y(y), .overflow(overflow));
  initial begin
    $readmemh("vectors.hex", vectors);
    file = $fopen("outputs.txt", "w");
    for (i = 0; i < {count}; i = i + 1) begin
      vector = vectors[i];
      #1 $fdisplay(file, "%0d %b", y, overflow);
    end
    $fclose(file);
    $finish;
  end
endmodule
"""


def simulate(design: Design, activations, planes, scales) -> Computed:
    """What the simulated netlist computes.

    activations (n, length) integers; planes (branches, length) or (n, branches, length) in {-1, 0, 1}, None for an engine of constant
    weights; scales (branches,) or (n, branches) unsigned integers.
    """
    activations, planes, scales = check_vectors(design, activations, planes, scales)
    count = len(activations)
    fields = [_pack(activations, design.activation_bits)]
    if design.kind == "port":
        fields.append(np.broadcast_to(_pack(planes.reshape(len(planes), -1), 2), (count, 2 * design.branches * design.length)))
    fields.append(np.broadcast_to(_pack(scales, design.scale_bits), (count, design.branches * design.scale_bits)))
    with tempfile.TemporaryDirectory(prefix="dbq-hardware-") as folder:
        folder = Path(folder)
        (folder / "tdpe.sv").write_text(generate(design))
        (folder / "bench.sv").write_text(_bench(design, count))
        (folder / "vectors.hex").write_text(_hex_lines(np.concatenate(fields, 1)))
        tools.run("iverilog", ["-g2012", "-s", "bench", "-o", "bench.vvp", "tdpe.sv", "bench.sv"], folder)
        tools.run("vvp", ["-n", "bench.vvp"], folder)
        return _outputs((folder / "outputs.txt").read_text(), count)


def compare(design: Design, activations, planes, scales) -> tuple[np.ndarray, np.ndarray]:
    """(simulated values (n,) int64, which of them differ from exact integers (n,) bool).

    Raises DbqError as simulate() does, where the accumulator overflowed, and where evaluate() gives other values or flags.
    """
    simulated, evaluated = (compute(design, activations, planes, scales) for compute in (simulate, evaluate))
    if not all(np.array_equal(*pair) for pair in zip(simulated, evaluated, strict=True)):
        raise DbqError("hardware: the simulated netlist and design.evaluate disagree", "report the design and the versions of the tools")
    values = checked(design, simulated)
    return values, values != reference(*check_vectors(design, activations, planes, scales))


def checked(design: Design, computed: Computed) -> np.ndarray:
    """The values, or a DbqError if the accumulator overflowed in any of them."""
    if computed.overflow.any():
        raise DbqError(
            f"hardware: the accumulator of {design.accumulator_bits} bits overflowed in {int(computed.overflow.sum())} of "
            f"{len(computed.overflow)} dot products",
            f"widen accumulator_bits; {max(design.natural_bits(int(n)) for n in design.nonzeros())} bits always suffice",
        )
    return computed.values


def _pack(values: np.ndarray, bits: int) -> np.ndarray:
    """(n, k) integers -> (n, k * bits) bits, least significant first."""
    return ((values[:, :, None] >> np.arange(bits)) & 1).astype(np.uint8).reshape(len(values), -1)


def _hex_lines(bits: np.ndarray) -> str:
    """One hexadecimal number a row; bits (n, width), least significant first."""
    packed = np.packbits(bits, axis=1, bitorder="little")
    return "\n".join(row[::-1].tobytes().hex() for row in packed) + "\n"


def _bench(design: Design, count: int) -> str:
    x, s = design.length * design.activation_bits, design.branches * design.scale_bits
    w = 2 * design.branches * design.length if design.kind == "port" else 0
    weights = f".w(vector[{x}+:{w}]), " if w else ""
    return BENCH.format(
        bits=x + w + s - 1, last=count - 1, y=design.output_bits() - 1, x=x - 1, w=weights, scales=f"{x + w}+:{s}", count=count
    )


def _outputs(text: str, count: int) -> Computed:
    try:
        rows = np.array(text.split(), np.int64).reshape(-1, 2)
    except ValueError:
        raise DbqError("hardware: the simulation printed undefined values", "report it with the design that was simulated") from None
    if len(rows) != count:
        remedy = "free some space for temporary files and run it again"
        raise DbqError(f"hardware: the simulation printed {len(rows)} of {count} outputs", remedy)
    return Computed(rows[:, 0], rows[:, 1].astype(bool))
