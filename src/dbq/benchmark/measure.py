"""The training overhead of every quantizer, and the step time of some rows, as ratios to the float network.

The speed of a machine drifts by more than a quantizer costs, so ratios of total times mean nothing. Steps take turns,

    float, first, float, second, float, ..

and a step's ratio is its time over the mean of its two float neighbours, in which a linear drift cancels.
"""

from __future__ import annotations

import gc
import itertools
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.profiler import ProfilerActivity, profile

from dbq.benchmark import subjects
from dbq.errors import DbqError
from dbq.files import write_csv, write_json
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
WARMUP_ROUNDS = 3
MEMORY_STEPS = 3  # from the second step on, the optimiser's momentum is there


def overhead(settings: OverheadSettings, device: str = "cpu", log=print, done=lambda rows: None) -> list[dict]:
    """Rows of COLUMNS, one for each network, method and activation width.

    All methods of a network take turns in one run. The method `float` has float weights under quantized activations. A method that can't
    be measured has a row whose status says why, and no numbers. `done` is given all rows so far after each network, so that a run that is
    stopped keeps what it has measured. Raises DbqError for unknown names and for a GPU that isn't there.
    """
    names = subjects.names(settings.networks, settings.methods)
    subjects.check_device(device)
    rows = []
    for network in settings.networks:
        found = [_blank(network, name, bits, settings, device) for bits in ACTIVATION_BITS for name in names if _is_a_row(name, bits)]
        _measure([row for row in found if row["status"] == RUN], settings, device, log)
        rows += found
        done(rows)
    return rows


def _measure(rows: list[dict], settings: OverheadSettings, device: str, log) -> None:
    """Write the ratios into the rows, which are of one network."""
    if not rows:
        return
    allocator.keep_freed_memory()  # as in training
    batch = subjects.random_batch(settings.batch_size, device)
    reference = subjects.float_trainee(subjects.row(rows[0]["network"], "float", 32), *batch)
    float_peak = peak_memory(reference, device) if settings.memory else None
    trainees = {}
    for index, row in enumerate(rows):
        step = subjects.trainee(row["method"], subjects.row(row["network"], row["method"], row["activation_bits"]), *batch)
        if settings.memory:
            row["memory_ratio"] = peak_memory(step, device) / float_peak
        if reason := step.why_no_graph():
            row["status"] = f"not run: {reason}"
        else:
            trainees[index] = step
    pairs = paired_steps(reference, trainees, settings.steps, clock_of(device), min(WARMUP_ROUNDS, settings.steps))
    for index in trainees:
        row = rows[index]
        row["step_ratio_q1"], row["step_ratio_median"], row["step_ratio_q3"] = quartiles(pairs[index])
        memory = f", memory {row['memory_ratio']:.3f}" if settings.memory else ""
        log(f"{row['network']} {row['method']}, {row['activation_bits']}-bit activations: step {row['step_ratio_median']:.3f}{memory}")


def _is_a_row(name: str, activation_bits: int) -> bool:
    subject = subjects.SUBJECTS[name]
    if subject.library is not None:
        return activation_bits == 32  # our activations beside another library's weights would compare nothing
    only_activations = subject.quantizer is None or subject.gradient != "output"  # what it shows is a matter of activations
    return activation_bits < 32 or not only_activations


def _blank(network: str, name: str, activation_bits: int, settings: OverheadSettings, device: str) -> dict:
    quantizer = subjects.SUBJECTS[name].quantizer
    reason = subjects.why_not(name, device)
    return {
        **dict.fromkeys(COLUMNS), "network": network, "method": name, "activation_bits": activation_bits,
        "branches": quantizer.branches if quantizer else 0, "weight_bits": quantizer.weight_bits if quantizer else 32,
        "batch_size": settings.batch_size, "steps": settings.steps, "status": f"not run: {reason}" if reason else RUN,
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu", "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }  # fmt: skip


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
    pairs = paired_steps(subjects.float_trainee(first, *batch), trainees, steps, clock_of(device))
    reference = statistics.median(seconds for values in pairs.values() for _, seconds in values)
    measured = [
        {"key": key, "milliseconds": 1e3 * statistics.median(own for own, _ in values), "ratio": quartiles(values)[1]}
        for key, values in pairs.items()
    ]
    return [{"key": "float", "milliseconds": 1e3 * reference, "ratio": 1.0}, *measured]


def clock_of(device: str) -> Callable[[], float]:
    """Seconds; on a GPU after everything that was queued."""
    if not device.startswith("cuda"):
        return time.perf_counter

    def clock() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return clock


def paired_steps(
    reference: Callable[[], None], trainees: dict[str, Callable[[], None]], steps: int, clock: Callable[[], float], warmup=WARMUP_ROUNDS
) -> dict[str, list[tuple[float, float]]]:
    """Per trainee and step (its seconds, mean seconds of the reference's steps before and after it)."""
    pairs = {name: [] for name in trainees}

    def seconds(step) -> float:
        started = clock()
        step()
        return clock() - started

    for index in range(warmup + steps):
        before = seconds(reference)
        for name, step in trainees.items():
            own = seconds(step)
            after = seconds(reference)
            if index >= warmup:
                pairs[name].append((own, (before + after) / 2))
            before = after
    return pairs


def quartiles(pairs: list[tuple[float, float]]) -> tuple[float, float, float]:
    """First quartile, median and third quartile of the ratios of two or more pairs."""
    return tuple(statistics.quantiles([own / reference for own, reference in pairs], n=4, method="inclusive"))


def peak_memory(step: Callable[[], None], device: str = "cpu") -> int:
    """Bytes of tensors at the peak of a trainee's first steps, beyond what it held before them."""
    gc.collect()  # nothing older may be freed during the steps
    if device.startswith("cuda"):
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        for _ in range(MEMORY_STEPS):
            step()
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        for _ in range(MEMORY_STEPS):
            step()
    events = [event for event in found.profiler.kineto_results.events() if event.name() == "[memory]"]
    return max(itertools.accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())))
