"""Commands around cost, hardware, export and the cost of training."""

from pathlib import Path
from typing import Annotated

import typer

from dbq.command.training import FILE, KEPT, PREPARED, Checkpoints, Data, Device, Params, Profile, plan_of, trained

Out = Annotated[Path, typer.Option(help="the file or folder to write")]


def cost(
    network: Annotated[str, typer.Argument(help="resnet20, mobilenet_v1, mobilenet_v2 or shufflenet_v2")],
    form: Annotated[str, typer.Option(help="32x32 or 224x224")] = "32x32",
    weight_bits: Annotated[int, typer.Option(help="of fixed-point weights")] = 8,
    branches: Annotated[int, typer.Option(help="ternary branches instead of fixed-point weights")] = 0,
    activation_bits: int = 8,
    reading: Annotated[str, typer.Option(help="adder_only or two_bit_multiplier")] = "adder_only",
    count_bias: bool = False,
    scale_bits: int = 8,
) -> None:
    """The dense costs of a network, layer by layer, in full adders and bits."""
    from dbq.cost import dense

    classes = 1000 if form == "224x224" else 10
    counted = dense.count(network, form, classes, weight_bits, branches, activation_bits, reading, count_bias, scale_bits)
    for layer in counted.layers:
        typer.echo(
            f"{layer['layer']:40s} {layer['kind']:10s} C_C {layer['c_c']:15,d} FA  C_R {layer['c_r']:13,d} bit  C_M {layer['c_m']:12,d} bit"
        )
    totals = counted.totals
    typer.echo(f"{counted.macs:,} multiply-adds; C_C {totals['c_c']:,} FA, C_R {totals['c_r']:,} bit, C_M {totals['c_m']:,} bit")


def hardware(
    length: Annotated[int, typer.Argument(help="of the dot product", min=1)],
    activation_bits: int = 8,
    branches: int = 1,
    signed: bool = False,
    structure: Annotated[str, typer.Option(help="chain or tree")] = "tree",
    planes: Annotated[Path | None, typer.Option(help="constant weights: an .npy file of planes (B, K)")] = None,
) -> None:
    """Print the SystemVerilog of a ternary dot product engine."""
    from dbq.hardware import Design, generate, load_planes

    constant = None if planes is None else load_planes(planes)
    typer.echo(generate(Design(length, activation_bits, branches, signed=signed, structure=structure, planes=constant)))


def synthesise(
    out: Out,
    row: Annotated[str | None, typer.Option(help="a trained row's dot products instead of the grid of random weights")] = None,
    params: Params = FILE, profile: Profile = None, data: Data = PREPARED, checkpoints: Checkpoints = KEPT,
    count: Annotated[int, typer.Option(help="dot products to simulate", min=1)] = 10_000,
    jobs: Annotated[int, typer.Option(min=1)] = 1,
) -> None:  # fmt: skip
    """Simulate and synthesise engines (Icarus Verilog and Yosys): data/reference/hardware.csv and hardware-trained.csv."""
    from dbq import hardware as engines

    if row is None:
        found = engines.measure_all(engines.committed_grid(), count, jobs, report=lambda one: typer.echo(engines.described(one)))
        engines.write(out, found)
        return
    from dbq import datasets
    from dbq.integer.compile import Widths, compile_network
    from dbq.training import runs

    plan = plan_of(params, profile)
    run, _, place = trained(plan, row, None, data, checkpoints)
    prepared = datasets.load(place.data, ("val",))
    images, _ = next(iter(runs.batches(prepared.splits["val"], prepared.manifest, 100, "cpu").in_order()))
    widths = Widths(plan.cost.scale_bits, plan.engine.accumulator_bits)
    program = compile_network(run.network.cpu(), tuple(images.shape[1:]), widths).program
    about = {
        "row": row,
        "seed": run.seed,
        "weights": runs.tensors_digest(run.network.state_dict())[:12],
        "data_source": run.provenance["data_source"],
    }
    found = engines.measure_trained(program, images, about, count=count, jobs=jobs, report=lambda one: typer.echo(engines.described(one)))
    engines.write_trained(out, found)
    engines.demand_no_mismatch(found, out)


def export(
    row: Annotated[str, typer.Argument(help="a trained row")],
    out: Out,
    seed: Annotated[int | None, typer.Option(help="default: the row's first")] = None,
    params: Params = FILE, profile: Profile = None, data: Data = PREPARED, checkpoints: Checkpoints = KEPT,
) -> None:  # fmt: skip
    """Write a trained row as packed planes (.safetensors) or as an ONNX graph (.onnx)."""
    from dbq import export as files
    from dbq.export.packed import pack_row

    plan = plan_of(params, profile)
    run, entry, place = trained(plan, row, seed, data, checkpoints)
    provenance = {name: run.provenance[name] for name in ("commit", "device", "torch")}
    files.write(out, pack_row(entry, run.seed, run.network.cpu(), place.data, plan.engine, provenance))
    typer.echo(f"{out}: {out.stat().st_size:,} bytes")


def verify(
    file: Annotated[Path, typer.Argument(help="a file that `export` has written")],
    data: Annotated[Path | None, typer.Option(help="prepared data set (default: that of its row)")] = None,
    row: Annotated[str | None, typer.Option(help="the row that it has to be of")] = None,
) -> None:
    """Check a file's content and replay the test images in integers: is its top1 the recorded one?"""
    from dbq import export as files

    found = files.verify(file, data, row)
    typer.echo(f"{file}: top1 {found['top1']:.2f} % on {found['images']:,} test images, as recorded")


def overhead(
    out: Out, params: Params = FILE, profile: Profile = None, device: Device = "cpu",
    method: Annotated[list[str] | None, typer.Option(help="instead of the methods in params.yaml; may be repeated")] = None,
) -> None:  # fmt: skip
    """What training with each quantizer costs: time of a step and peak memory beside the float network's."""
    from dbq import benchmark
    from dbq.settings.values import parse

    chosen = plan_of(params, profile).overhead
    if method:
        chosen = parse(type(chosen), {**chosen.model_dump(), "methods": method}, "--method")
    benchmark.write(benchmark.overhead(chosen, device, done=lambda rows: benchmark.write(rows, out)), out)


def step(
    rows: Annotated[list[str], typer.Argument(help="rows of params.yaml")],
    params: Params = FILE, profile: Profile = None, batch_size: int = 128, steps: int = 15, device: Device = "cpu",
) -> None:  # fmt: skip
    """The time of a training step of rows, as a ratio to the float network's in the same run."""
    from dbq import benchmark

    plan = plan_of(params, profile)
    for one in benchmark.step([plan.row(key) for key in rows], batch_size, steps, device):
        typer.echo(f"{one['key']:45s} {one['milliseconds']:8.1f} ms  {one['ratio']:.3f} of float")


COMMANDS = (cost, hardware, synthesise, export, verify, overhead, step)
