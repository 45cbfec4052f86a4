"""The trainings of a profile in order of value, several at once, within a time box, resumable.

Order: the float networks, then seed 0 of every row, seed 1 of each, .., then the rows that are judged on validation images with the start
that they alone need: one seed of every row is worth more than three of one. The checkpoints are those that the pipeline's stages adopt.
OUT/campaign.json says of each training where it stands, on what it ran and what it reached.
A GPU runs trainings side by side only under NVIDIA's MPS: `nvidia-cuda-mps-control -d` before, `echo quit | nvidia-cuda-mps-control` after.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dbq.datasets.arrays import read_manifest
from dbq.errors import DbqError
from dbq.files import read_sealed, write_json
from dbq.training.checkpoints import Checkpoint, tensors_digest
from dbq.validity import identity

if TYPE_CHECKING:
    from dbq.settings import Plan

POLL = 0.5  # seconds
GPU_MEMORY = 6e9  # bytes that one training may need on a GPU, used to choose how many run side by side


@dataclass(frozen=True)
class Task:
    """One training: a start or a row, and a seed."""

    key: str
    seed: int
    start: str | None  # the float network that comes first; None for a float network

    @property
    def name(self) -> str:
        return f"{self.key} seed {self.seed}"


def tasks_of(plan: Plan, only: list[str] | None = None) -> list[Task]:
    """Every training of the profile in order of value; `only`: those of these keys and the float networks that they need."""
    floats = [Task(key, planned.settings.seed, None) for key, planned in plan.starts.items() if planned.reason is None]
    rows = [planned.settings for planned in plan.rows.values() if planned.reason is None]
    if only is not None and (unknown := sorted(set(only) - {task.key for task in floats} - {row.key for row in rows})):
        raise DbqError(f"--only: no training {', '.join(unknown)} in the profile {plan.profile}", "`dbq plan` lists them")
    rows = [row for row in rows if only is None or row.key in only]
    wanted = {row.start for row in rows} | set(only or ()) if only is not None else {task.key for task in floats}
    rounds = [(seed, Task(row.key, seed, row.start)) for row in rows if row.judged == "test" for seed in row.seeds]
    tested = [task for _, task in sorted(rounds, key=lambda pair: pair[0])]  # stable: the rows of one seed keep their order
    validated = [Task(row.key, seed, row.start) for row in rows if row.judged == "validation" for seed in row.seeds]
    late = {task.start for task in validated} - {task.start for task in tested} - set(only or ())
    first = [task for task in floats if task.key in wanted and task.key not in late]
    return first + tested + [task for task in floats if task.key in wanted and task.key in late] + validated


@dataclass
class Campaign:
    """Runs tasks as processes of `python -m dbq train`, at most `parallel` at once, until the deadline (time.monotonic())."""

    plan: Plan
    out: Path  # the folder of checkpoints
    data: Path  # folder of PROFILE/DATASET folders
    device: str = "cpu"
    parallel: int = 1
    deadline: float = float("inf")
    params: str = "params.yaml"
    log: object = print

    def path(self, task: Task) -> Path | None:
        """The task's checkpoint; None while the float network that it starts from isn't finished."""
        entry = self.plan.training(task.key)
        manifest = read_manifest(self.data / self.plan.profile / entry.dataset)
        beginning = None
        if task.start is not None:
            state = self.state(Task(task.start, self.plan.start(task.start).seed, None))
            if state is None or not state["finished"]:
                return None
            beginning = state["digest"]
        own = {"settings": identity.of_settings(entry), "data": manifest["content_sha256"], "code": "", "start": beginning}
        return Checkpoint(self.out / self.plan.profile, task.key, task.seed, entry.network, own).path

    def state(self, task: Task) -> dict | None:
        path = self.path(task)
        return None if path is None or not path.exists() else _read(path, path.stat().st_mtime_ns)

    def standing(self, task: Task) -> dict:
        """state (waiting, begun, finished), epochs, and what the checkpoint says of results and provenance."""
        row, state = {"key": task.key, "seed": task.seed, "state": "waiting", "epochs": 0}, self.state(task)
        if state is None:
            return row
        row |= {"state": "finished" if state["finished"] else "begun", "epochs": state["epoch"], "val_top1": state["val_top1"]}
        return row | {name: state[name] for name in ("top1", "provenance") if name in state}

    def run(self, tasks: list[Task]) -> list[dict]:
        """Returns where each task stands afterwards; a failed one is reported with its log, and what needs it is left out."""
        waiting, running, failed = [task for task in tasks if not self._done(task)], {}, set()
        (self.out / "logs").mkdir(parents=True, exist_ok=True)
        try:
            while waiting or running:
                for task in [task for task, process in running.items() if process.poll() is not None]:
                    if running.pop(task).returncode != 0:
                        failed.add(task)
                    self.log(f"{task.name}: {self._last_line(task)}")
                    self.write(tasks, failed)
                left = self.deadline - time.monotonic()
                lost = {task.key for task in failed}
                ready = (
                    [task for task in waiting if task.start not in lost and self._ready(task)]
                    if len(running) < self.parallel and left > 0
                    else []
                )
                if ready:
                    waiting.remove(ready[0])
                    running[ready[0]] = self._begin(ready[0], left / 60)
                elif not running:
                    break  # no time, or nothing that could start
                else:
                    time.sleep(POLL)
        finally:
            for process in running.values():
                process.terminate()
        return self.write(tasks, failed)

    def _done(self, task: Task) -> bool:
        """Trained, and tested if it is judged on test images: they aren't read again."""
        row = self.standing(task)
        validated = task.start is not None and self.plan.row(task.key).judged == "validation"
        return row["state"] == "finished" and (validated or row.get("top1") is not None)

    def _ready(self, task: Task) -> bool:
        return task.start is None or self.path(task) is not None

    def _begin(self, task: Task, minutes: float) -> subprocess.Popen:
        limit = [] if minutes == float("inf") else ["--minutes", f"{minutes:.2f}"]
        command = [
            sys.executable, "-u", "-m", "dbq", "train", task.key, "--profile", self.plan.profile, "--params", self.params,
            "--device", self.device, "--data", str(self.data), "--checkpoints", str(self.out), "--seed", str(task.seed), *limit,
        ]  # fmt: skip
        self.log(f"{task.name}: started, {minutes:.1f} minutes left")
        with open(self._log_path(task), "ab") as file:
            return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)

    def _log_path(self, task: Task) -> Path:
        return self.out / "logs" / f"{self.plan.profile}-{task.key}-seed-{task.seed}.log"

    def _last_line(self, task: Task) -> str:
        lines = self._log_path(task).read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "no output"

    def write(self, tasks: list[Task], failed: set[Task] = frozenset()) -> list[dict]:
        rows = [self.standing(task) | ({"state": "failed", "message": self._last_line(task)} if task in failed else {}) for task in tasks]
        write_json(self.out / "campaign.json", {"profile": self.plan.profile, "trainings": rows})
        return rows


@functools.lru_cache(maxsize=64)
def _read(path: Path, _modified: int) -> dict:
    """What a campaign needs of a checkpoint. A damaged one counts as none: the training itself says so and goes on from there."""
    try:
        state = read_sealed(path)
    except DbqError:
        return {"finished": False, "epoch": 0, "val_top1": None}
    kept = {name: state[name] for name in ("finished", "epoch", "val_top1", "top1", "provenance") if name in state}
    return kept | {"digest": tensors_digest(state["state"]) if state["finished"] else None}


def most_at_once(device: str) -> int:
    """How many trainings run side by side: one a CPU core (two of one thread give 1.7 times the throughput of one with two), on a GPU also
    as many as its free memory holds, at most 14."""
    cores = os.cpu_count() or 1
    if not device.startswith("cuda"):
        return cores
    import torch

    if not torch.cuda.is_available():
        raise DbqError(f"--device: {device} was asked for and torch finds no GPU", "use --device cpu")
    free, _ = torch.cuda.mem_get_info(device)
    return int(max(1, min(14, cores, free // GPU_MEMORY)))
