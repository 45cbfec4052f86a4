"""The training overhead of every quantizer: step time and peak memory as ratios to the float network."""

from pathlib import Path

import torch

from dbq.benchmark import libraries, memory, subjects, timing
from dbq.errors import DbqError
from dbq.files import write_csv, write_json
from dbq.quantizers import compiled
from dbq.settings import resolve as config
from dbq.settings.resolve import OverheadSettings
from dbq.training import allocator

COLUMNS = [
    "network", "method", "branches", "weight_bits", "activation_bits", "batch_size", "steps", "step_ratio_median",
    "step_ratio_q1", "step_ratio_q3", "memory_ratio", "device", "threads", "torch", "status",
]  # fmt: skip
RUN = "run"
ACTIVATION_BITS = (32, 8)  # 32: float activations, so that what is left is the cost of the weight quantizers


def measure_overhead(
    params: dict, profile: str, settings: OverheadSettings | None = None, device: str = "cpu", log=print, done=lambda rows: None
) -> list[dict]:
    """Rows of COLUMNS, one for each network, method and activation width; settings default to params.overhead.PROFILE.

    All methods of a network are timed in one interleaved run (dbq.benchmark.timing). `float` stands for float weights under quantized
    activations; `..-by-input` for activations whose gradient goes by their input (activations.gradient); `dbq-..` for DBQ with
    `compile: auto`, `..-eager` and `..-compiled` for one kind of kernels. A method that can't be measured has a row whose status says
    why, and no numbers. `done` is given all rows so far after each network: a run takes minutes, and one that is stopped has what it
    measured. Raises DbqError for unknown names and for a GPU that isn't there.
    """
    settings = settings or config.overhead(params, profile)
    subjects.check_names(settings.networks, settings.methods)
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise DbqError(f"device: {device} was asked for and torch finds no GPU", "use --device cpu")
    rows = []
    for network in settings.networks:
        rows += _rows_of(params, profile, network, settings, device, log)
        done(rows)
    return rows


def _rows_of(params: dict, profile: str, network: str, settings: OverheadSettings, device: str, log) -> list[dict]:
    rows = [
        _blank(params, profile, network, name, bits, settings, device)
        for bits in ACTIVATION_BITS
        for name in settings.methods
        if _is_a_row(name, bits)
    ]
    ready = [row for row in rows if row["status"].startswith(RUN)]
    if not ready:
        return rows
    measure_memory = settings.memory and memory.can_measure(device)
    if measure_memory:  # before the timed networks take their share of a GPU
        float_peak = memory.peak(params, profile, network, "float", 32, settings.batch_size, device)
        log(f"{network} float: {float_peak / 2**20:.0f} MiB at the peak of a step")
        for row in ready:
            own = memory.peak(params, profile, network, row["method"], row["activation_bits"], settings.batch_size, device)
            row["memory_ratio"] = own / float_peak
            log(f"{network} {row['method']}, {row['activation_bits']}-bit activations: memory {row['memory_ratio']:.3f}")
    elif settings.memory:
        for row in ready:
            row["status"] += f"; {memory.NOT_MEASURED}"
    allocator.keep_freed_memory()  # as in training; not before: how much memory is live is measured without it, in other processes
    batch = subjects.random_batch(settings.batch_size, device)
    entries = [subjects.experiment(params, profile, network, row["method"], row["activation_bits"]) for row in ready]
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
    only_activations = subject.method is None or subject.gradient is not None  # what it shows is a matter of activations
    return activation_bits < 32 or not only_activations


def _blank(params: dict, profile: str, network: str, name: str, activation_bits: int, settings: OverheadSettings, device: str) -> dict:
    subject = subjects.SUBJECTS[name]
    quantizer = subjects.experiment(params, profile, network, name, activation_bits).quantizer
    status = (subject.library and libraries.why_not(subject.library)) or RUN
    if subject.method == "dbq" and subject.compile and (reason := compiled.why_not(torch.device(device))):
        status = f"{RUN}; eager kernels: {reason}" if subject.compile == "auto" else f"not run: {reason}"
    return {
        **dict.fromkeys(COLUMNS), "network": network, "method": name, "activation_bits": activation_bits,
        "branches": quantizer.branches if subject.method else 0, "weight_bits": quantizer.weight_bits if subject.method else 32,
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
