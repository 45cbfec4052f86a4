"""Simulates the generated SystemVerilog in Icarus Verilog: 10,000 dot products of length 288 with 2 branches take a few seconds."""

import tempfile
from pathlib import Path

import numpy as np

from dbq.errors import DbqError
from dbq.hardware import tools
from dbq.hardware.design import Computed, Design, check_vectors, evaluate, reference
from dbq.hardware.verilog import generate


def simulate(design: Design, activations, planes=None, scales=None) -> np.ndarray:
    """Outputs (n,) int64 of the simulated netlist.

    activations (n, length) integers; planes (branches, length) or (n, branches, length) in {-1, 0, 1}, None for an engine of constant
    weights; scales (branches,) or (n, branches) unsigned integers, None for ones. Raises DbqError for arrays that don't fit, a missing
    tool, a failed simulation, and an accumulator that overflowed.
    """
    computed = simulate_flags(design, activations, planes, scales)
    return checked(design, computed)


def checked(design: Design, computed: Computed) -> np.ndarray:
    """The values, or a DbqError if the accumulator overflowed in any of them."""
    if computed.overflow.any():
        wanted = max(design.natural_bits(int(n)) for n in design.nonzeros())
        raise DbqError(
            f"hardware: the accumulator of {design.accumulator_bits} bits overflowed in {int(computed.overflow.sum())} of "
            f"{len(computed.overflow)} dot products",
            f"widen accumulator_bits; {wanted} bits always suffice",
        )
    return computed.values


def simulate_flags(design: Design, activations, planes=None, scales=None) -> Computed:
    """Like simulate(), but an overflow is a flag of its dot product instead of an error."""
    scales = np.ones(design.branches, np.int64) if scales is None else scales
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

    Raises DbqError as simulate() does, and where evaluate() doesn't give the simulated values and flags bit for bit.
    """
    simulated = simulate_flags(design, activations, planes, scales)
    evaluated = evaluate(design, activations, planes, scales)
    if not (np.array_equal(simulated.values, evaluated.values) and np.array_equal(simulated.overflow, evaluated.overflow)):
        raise DbqError(
            "hardware: the simulated netlist and design.evaluate disagree", "report it with the design and the versions of the tools"
        )
    values = checked(design, simulated)
    return values, values != reference(*check_vectors(design, activations, planes, scales))


def mismatches(design: Design, activations, planes, scales) -> int:
    """Simulated dot products that differ from exact integers; raises DbqError as compare() does."""
    return int(compare(design, activations, planes, scales)[1].sum())


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
    return f"""module bench;
  reg [{x + w + s - 1}:0] vectors[0:{count - 1}];
  reg [{x + w + s - 1}:0] vector;
  wire signed [{design.output_bits() - 1}:0] y;
  wire overflow;
  integer i, file;
  tdpe engine (.x(vector[{x - 1}:0]), {weights}.scales(vector[{x + w}+:{s}]), .y(y), .overflow(overflow));
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


def _outputs(text: str, count: int) -> Computed:
    rows = [line.split() for line in text.splitlines()]
    try:
        values = np.array([int(value) for value, _ in rows], np.int64)
        overflow = np.array([{"0": False, "1": True}[flag] for _, flag in rows], bool)
    except (ValueError, KeyError):
        raise DbqError("hardware: the simulation printed undefined values", "report it with the design that was simulated") from None
    if len(values) != count:
        raise DbqError(
            f"hardware: the simulation printed {len(values)} of {count} outputs", "free some space for temporary files and run it again"
        )
    return Computed(values, overflow)
