"""Peak memory of training steps.

On a GPU torch counts it. On a CPU each network trains in a fresh process, and the peak is the largest resident memory of that process, less
what it had before the first step. It is read from Linux's VmHWM, which can be reset before that step. ru_maxrss can't be reset: it would
include the fits of the quantizers, and in a child it starts at the peak of the parent (getrusage(2)).

python -m dbq.benchmark.memory < REQUEST.json    # what `peak` runs; prints {"bytes": N}
"""

import ctypes
import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import torch

import dbq
from dbq.benchmark import subjects
from dbq.errors import DbqError

STEPS = 3  # from the second step on, the optimiser's momentum is there
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
NOT_MEASURED = "memory not measured: it needs Linux's /proc"


def can_measure(device: str) -> bool:
    return device.startswith("cuda") or (os.access(RESET, os.W_OK) and "VmHWM" in STATUS.read_text())


def peak(network: str, name: str, activation_bits: int, batch_size: int, device: str = "cpu") -> int:
    """Bytes at the peak of STEPS training steps of one subject ("float" at 32 bits: the float network)."""
    request = {
        "network": network, "name": name, "activation_bits": activation_bits, "batch_size": batch_size, "device": device,
        "threads": torch.get_num_threads(),
    }  # fmt: skip
    if device.startswith("cuda"):
        return _on_gpu(request)
    # the allocator returns freed blocks at once: the peak is that of live tensors
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(dbq.__file__).parents[1]), environment.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    command = [sys.executable, "-m", "dbq.benchmark.memory"]
    done = subprocess.run(command, input=json.dumps(request), capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise DbqError(
            f"overhead: the memory of {name} on {network} was not measured, status {done.returncode}: {last}",
            "lower overhead.batch_size, or set overhead.memory: false",
        )
    return json.loads(done.stdout.splitlines()[-1])["bytes"]


def _trainee(request: dict) -> subjects.Trainee:
    row = subjects.row(request["network"], request["name"], request["activation_bits"])
    return subjects.trainee(request["name"], row, *subjects.random_batch(request["batch_size"], request["device"]))


def _on_gpu(request: dict) -> int:
    step = _trainee(request)
    gc.collect()
    before = torch.cuda.memory_allocated(request["device"])
    torch.cuda.reset_peak_memory_stats(request["device"])
    for _ in range(STEPS):
        step()
    return torch.cuda.max_memory_allocated(request["device"]) - before


def _in_this_process(request: dict) -> int:
    torch.set_num_threads(request["threads"])
    # the first step of a process also loads code, or compiles it: a step on a small batch does that
    warmup = {} if subjects.SUBJECTS[request["name"]].kernels == "compiled" else {"name": "float", "activation_bits": 32}
    _trainee({**request, **warmup, "batch_size": 2})()
    step = _trainee(request)
    gc.collect()
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
    RESET.write_text("5")  # proc(5): sets the peak to what is resident now
    before = _resident("VmRSS")
    for _ in range(STEPS):
        step()
    return _resident("VmHWM") - before


def _resident(field: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    print(json.dumps({"bytes": _in_this_process(json.load(sys.stdin))}))
