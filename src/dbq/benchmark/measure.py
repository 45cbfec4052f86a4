"""The training overhead of every quantizer, and the step time of some rows, as ratios to the float network."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from dbq.benchmark import libraries, memory, subjects, timing
from dbq.errors import DbqError
from dbq.files import write_csv, write_json
from dbq.quantizers import compiled
from dbq.training import allocator

if TYPE_CHECKING:
    from dbq.settings.entries import OverheadSettings, Row

COLUMNS = [
    "network", "method", "branches", "weight_bits", "activation_bits", "batch_size", "steps", "step_ratio_median",
    "step_ratio_q1", "step_ratio_q3", "memory_ratio", "device", "threads", "torch", "status",
]  # fmt: skip
RUN = "run"
PIXELS = {"32x32": 32, "224x224": 224}  # by form
ACTIVATION_BITS = (32, 8)  # 32: float activations, so that what is left is the cost of the weight quantizers


def overhead(settings: OverheadSettings, device: str = "cpu", log=print, done=lambda rows: None) -> list[dict]:
    """Rows of COLUMNS, one for each network, method and activation width.

    All methods of a network are timed in one interleaved run (dbq.benchmark.timing). The method `float` has float weights under quantized
    activations. A method that can't be measured has a row whose status says why, and no numbers. `done` is given all rows so far after each
    network, so that a run that is stopped keeps what it has measured. Raises DbqError for unknown names and for a GPU that isn't there.
    """
    names = subjects.names(settings.networks, settings.methods)
    subjects.check_device(device)
    rows = []
    for network in settings.networks:
        rows += _rows_of(network, names, settings, device, log)
        done(rows)
    return rows


def _rows_of(network: str, names: list[str], settings: OverheadSettings, device: str, log) -> list[dict]:
    rows = [_blank(network, name, bits, settings, device) for bits in ACTIVATION_BITS for name in names if _is_a_row(name, bits)]
    ready = [row for row in rows if row["status"].startswith(RUN)]
    if not ready:
        return rows
    measure_memory = settings.memory and memory.can_measure(device)
    if measure_memory:  # before the timed networks take their share of a GPU
        float_peak = memory.peak(network, "float", 32, settings.batch_size, device)
        log(f"{network} float: {float_peak / 2**20:.0f} MiB at the peak of a step")
        for row in ready:
            own = memory.peak(network, row["method"], row["activation_bits"], settings.batch_size, device)
            row["memory_ratio"] = own / float_peak
            log(f"{network} {row['method']}, {row['activation_bits']}-bit activations: memory {row['memory_ratio']:.3f}")
    elif settings.memory:
        for row in ready:
            row["status"] += f"; {memory.NOT_MEASURED}"
    allocator.keep_freed_memory()  # as in training; not before: how much memory is live is measured without it, in other processes
    batch = subjects.random_batch(settings.batch_size, device)
    entries = [subjects.row(network, row["method"], row["activation_bits"]) for row in ready]
    trainees = {}
    for index, row in enumerate(ready):
        step = subjects.trainee(row["method"], entries[index], *batch)
        if reason := step.why_no_graph():
            row["status"] = f"not run: {reason}"
        else:
            trainees[index] = step
    warmup = min(timing.WARMUP_ROUNDS, settings.steps)
    pairs = timing.paired_steps(subjects.float_trainee(entries[0], *batch), trainees, settings.steps, timing.clock_of(device), warmup)
    for index in trainees:
        row = ready[index]
        row["step_ratio_q1"], row["step_ratio_median"], row["step_ratio_q3"] = timing.quartiles(pairs[index])
        log(f"{network} {row['method']}, {row['activation_bits']}-bit activations: step {row['step_ratio_median']:.3f}")
    return rows


def _is_a_row(name: str, activation_bits: int) -> bool:
    subject = subjects.SUBJECTS[name]
    if subject.library is not None:
        return activation_bits == 32  # our activations beside another library's weights would compare nothing
    only_activations = subject.quantizer is None or subject.gradient != "output"  # what it shows is a matter of activations
    return activation_bits < 32 or not only_activations


def _blank(network: str, name: str, activation_bits: int, settings: OverheadSettings, device: str) -> dict:
    subject = subjects.SUBJECTS[name]
    quantizer = subject.quantizer
    status = (subject.library and libraries.why_not(subject.library)) or RUN
    if subject.kernels == "compiled" and (reason := compiled.why_not(torch.device(device))):
        status = f"not run: {reason}"
    return {
        **dict.fromkeys(COLUMNS), "network": network, "method": name, "activation_bits": activation_bits,
        "branches": quantizer.branches if quantizer else 0, "weight_bits": quantizer.weight_bits if quantizer else 32,
        "batch_size": settings.batch_size, "steps": settings.steps, "status": status, **machine(device),
    }  # fmt: skip


def machine(device: str) -> dict:
    """What the numbers belong to: device, threads, version of torch."""
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu"
    return {"device": name, "threads": torch.get_num_threads(), "torch": torch.__version__}


def write(rows: list[dict], folder) -> None:
    """FOLDER/overhead.csv and FOLDER/metrics.json."""
    folder = Path(folder)
    write_csv(folder / "overhead.csv", rows, COLUMNS)
    run = [row for row in rows if row["step_ratio_median"] is not None]
    common = {name: rows[0][name] for name in ("device", "threads", "torch", "batch_size", "steps")}
    write_json(folder / "metrics.json", {"status": RUN, "rows": len(rows), "measured": len(run), **common})


def step(rows: list[Row], batch_size: int = 128, steps: int = 15, device: str = "cpu") -> list[dict]:
    """For the float network and then for each row: {key, milliseconds, ratio}, medians over the steps; 20 s for three ResNet-20 rows.

    The images are random. The reference is the float network of the first row, so all rows have to be of one network and data set.
    """
    kinds = {(row.network, row.dataset_settings.form, row.dataset_settings.classes) for row in rows}
    if len(kinds) != 1:
        raise DbqError(f"rows of {len(kinds)} networks or data sets can't be compared", "name rows of one network and one data set")
    subjects.check_device(device)
    first = rows[0]
    batch = subjects.random_batch(batch_size, device, PIXELS[first.dataset_settings.form], first.dataset_settings.classes)
    trainees = {row.key: subjects.quantized_trainee(row, *batch) for row in rows}
    pairs = timing.paired_steps(subjects.float_trainee(first, *batch), trainees, steps, timing.clock_of(device))
    reference = statistics.median(seconds for values in pairs.values() for _, seconds in values)
    measured = [
        {"key": key, "milliseconds": 1e3 * statistics.median(own for own, _ in values), "ratio": timing.quartiles(values)[1]}
        for key, values in pairs.items()
    ]
    return [{"key": "float", "milliseconds": 1e3 * reference, "ratio": 1.0}, *measured]
