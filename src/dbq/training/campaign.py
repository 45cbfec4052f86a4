"""A time-boxed campaign: the trainings of a profile in order of value, several at once, resumable; needs torch and numpy only.

    python -m dbq.training.campaign cifar10 --minutes 25 --out checkpoints --device cuda --params params.json
    python -m dbq.training.campaign smoke --minutes 5 --out /tmp/campaign --dry-run     # what would run, in which order

Order: float networks, then seed 0 of every experiment and every row of a sweep, seed 1 of each, .., then the ablations and the float
network that they alone start from: one seed of every row is worth more than three of one. OUT has the layout of checkpoints/: give
--out checkpoints, or copy OUT's folders there, and the pipeline's stages adopt what is finished instead of training it.
OUT/campaign.json says of each training where it stands, on what it ran and what it reached.
A GPU runs trainings side by side only under NVIDIA's MPS: `nvidia-cuda-mps-control -d` before, `echo quit | nvidia-cuda-mps-control` after.
On a machine without PyYAML give params as JSON (`python -c "import json, yaml; print(json.dumps(yaml.safe_load(open('params.yaml'))))"`).
"""

import argparse
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from dbq.errors import DbqError, main_with_errors
from dbq.files import read_json, write_json
from dbq.settings import resolve as config
from dbq.training import checkpoints, runs

POLL = 0.5  # seconds
GPU_MEMORY = 6e9  # bytes that one training may need on a GPU, used to choose --parallel


@dataclass(frozen=True)
class Task:
    """One training: a key of pretrain, experiments or ablations or a row of a sweep, and a seed."""

    kind: str
    key: str
    seed: int
    needs: str | None  # the float network that comes first

    @property
    def name(self) -> str:
        return f"{self.key} seed {self.seed}"


def plan(params: dict, profile: str) -> list[Task]:
    """Every training of the profile in order of value."""
    floats = [
        float_task(params, profile, key)
        for key, entry in config.lookup(params, "pretrain").items()
        if profile in config.trained_in(entry["seeds"])
    ]
    rounds: dict[int, list[Task]] = {}
    for key, entry in config.lookup(params, "experiments").items():
        if profile in config.trained_in(entry["seeds"]):
            resolved = config.experiment(params, profile, key)
            for turn, seed in enumerate(resolved.seeds):
                rounds.setdefault(turn, []).append(Task("experiments", key, seed, resolved.start))
    for key, (sweep, row) in config.sweep_rows(params).items():
        if profile in config.trained_in(config.lookup(params, "sweeps", sweep, "seeds")):
            resolved = config.sweep(params, profile, sweep, row)
            for turn, seed in enumerate(resolved.seeds):
                rounds.setdefault(turn, []).append(Task("sweeps", key, seed, resolved.start))
    rows = [task for turn in sorted(rounds) for task in rounds[turn]]
    ablations = []
    for key, entry in config.lookup(params, "ablations").items():
        if profile in config.trained_in(entry["seeds"]):
            resolved = config.ablation(params, profile, key)
            ablations += [Task("ablations", key, seed, resolved.start) for seed in resolved.seeds]
    late = {task.needs for task in ablations} - {task.needs for task in rows}
    first = [task for task in floats if task.key not in late]
    return first + rows + [task for task in floats if task.key in late] + ablations


def float_task(params: dict, profile: str, key: str) -> Task:
    return Task("pretrain", key, config.pretrain(params, profile, key).seed, None)


def resolve(params: dict, profile: str, task: Task) -> config.Start | config.Row:
    return config.training_of(params, profile, task.key)


class Standing:
    """Where trainings stand, by the checkpoints that belong to params.yaml as it is now; those of other settings don't count."""

    def __init__(self, params: dict, profile: str, out: Path, data: Path):
        self.params, self.profile, self.out, self.data = params, profile, out, data

    def path(self, task: Task) -> Path | None:
        """The task's checkpoint; None while the float network that it starts from isn't there."""
        entry = resolve(self.params, self.profile, task)
        manifest = read_json(self.data / self.profile / entry.dataset / "manifest.json")
        if task.kind == "pretrain":
            return runs.checkpoint_of(entry, task.seed, runs.float_identity(entry, manifest), self.out).path
        float_path = self.path(float_task(self.params, self.profile, task.needs))
        if not float_path.exists():
            return None
        identity = runs.quantized_identity(entry, task.seed, checkpoints.load(float_path)["state"], manifest)
        return runs.checkpoint_of(entry, task.seed, identity, self.out).path

    def of(self, task: Task) -> dict:
        """state (waiting, begun, finished), epochs, and what the checkpoint says of results and provenance."""
        row = {"kind": task.kind, "key": task.key, "seed": task.seed, "state": "waiting", "epochs": 0}
        path = self.path(task)
        if path is None:
            return row
        if task.kind == "sweeps" and (outcome := path.with_suffix(".json")).exists():  # it stands for the model too
            told = read_json(outcome)
            results = {name: told["summary"][name] for name in ("epochs", "val_top1", "top1")}
            return row | {"state": "finished", "provenance": told["provenance"]} | results
        if not path.exists():
            return row
        state = checkpoints.load(path)
        row |= {"state": "finished" if state["finished"] else "begun", "epochs": state["epoch"], "val_top1": state["val_top1"]}
        return row | {name: state[name] for name in ("top1", "provenance") if name in state}


@dataclass
class Campaign:
    """Runs tasks as processes of `python -m dbq.training`, at most `parallel` at once, until the deadline."""

    params: str  # the file
    standing: Standing
    device: str
    parallel: int
    deadline: float  # time.monotonic()
    log: object = print

    @property
    def out(self) -> Path:
        return self.standing.out

    @property
    def profile(self) -> str:
        return self.standing.profile

    def run(self, tasks: list[Task]) -> list[dict]:
        """Returns where each task stands afterwards; a failed one is reported with its log, and what needs it is left out."""
        waiting, running, states = [task for task in tasks if not self._done(task)], {}, {}
        (self.out / "logs").mkdir(parents=True, exist_ok=True)
        try:
            while waiting or running:
                for task in [task for task, process in running.items() if process.poll() is not None]:
                    states[task.key, task.seed] = "ended" if running.pop(task).returncode == 0 else "failed"
                    self.log(f"{task.name}: {self._last_line(task)}")
                    self.write(tasks, states)
                if len(running) == self.parallel:
                    time.sleep(POLL)
                    continue
                left = self.deadline - time.monotonic()
                ready = [task for task in waiting if self._ready(task, tasks, states)]
                if left > 0 and ready:
                    waiting.remove(ready[0])
                    running[ready[0]] = self._start(ready[0], left / 60)
                elif not running:
                    break  # no time, or nothing that could start
                else:
                    time.sleep(POLL)
        finally:
            for process in running.values():
                process.terminate()
        return self.write(tasks, states)

    def _done(self, task: Task) -> bool:
        """Trained, and (an ablation apart) tested: the test images aren't looked at again."""
        row = self.standing.of(task)
        if task.kind == "sweeps":
            path = self.standing.path(task)
            return path is not None and path.with_suffix(".json").exists()
        return row["state"] == "finished" and (task.kind == "ablations" or row.get("top1") is not None)

    def _ready(self, task: Task, tasks: list[Task], states: dict) -> bool:
        needed = [other for other in tasks if other.kind == "pretrain" and other.key == task.needs]
        return all(self.standing.of(other)["state"] == "finished" for other in needed) and (task.key, task.seed) not in states

    def _start(self, task: Task, minutes: float) -> subprocess.Popen:
        dataset = resolve(self.standing.params, self.profile, task).dataset
        command = [
            sys.executable, "-u", "-m", "dbq.training", task.key, "--profile", self.profile, "--params", self.params,
            "--device", self.device,
            "--data", str(self.standing.data / self.profile / dataset), "--checkpoints", str(self.out), "--minutes", f"{minutes:.2f}",
            "--seed", str(task.seed), "--threads", str(max(1, (os.cpu_count() or 1) // self.parallel)),
        ]  # fmt: skip
        if task.needs is not None:  # the campaign's own float network, not one that lies in the pipeline's folders
            command += ["--float", str(self.standing.path(float_task(self.standing.params, self.profile, task.needs)))]
        self.log(f"{task.name}: started, {minutes:.1f} minutes left")
        with open(self._log_path(task), "ab") as file:
            return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)

    def _log_path(self, task: Task) -> Path:
        return self.out / "logs" / f"{self.profile}-{task.key}-seed-{task.seed}.log"

    def _last_line(self, task: Task) -> str:
        lines = self._log_path(task).read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "no output"

    def write(self, tasks: list[Task], states: dict) -> list[dict]:
        rows = []
        for task in tasks:
            row = self.standing.of(task)
            if states.get((task.key, task.seed)) == "failed":
                row |= {"state": "failed", "message": self._last_line(task)}
            rows.append(row)
        write_json(self.out / "campaign.json", {"profile": self.profile, "trainings": rows})
        return rows


def room(device: str) -> int:
    """How many trainings run side by side: as many as a GPU's free memory holds, at most 12 and one a CPU core; or one a CPU core
    (single-thread trainings side by side give 1.7 times the throughput of one with all cores)."""
    cores = os.cpu_count() or 1
    if not device.startswith("cuda"):
        return cores
    import torch

    if not torch.cuda.is_available():
        raise DbqError(f"--device: {device} was asked for and torch finds no GPU", "use --device cpu")
    free, _ = torch.cuda.mem_get_info(device)
    return int(max(1, min(12, cores, free // GPU_MEMORY)))


def main():
    parser = argparse.ArgumentParser(
        prog="python -m dbq.training.campaign", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("profile", help=", ".join(config.PROFILES))
    parser.add_argument("--minutes", type=float, required=True, help="time box; no epoch is begun that wouldn't end within it")
    parser.add_argument("--out", type=Path, required=True, help="checkpoints, logs and campaign.json")
    parser.add_argument("--params", default="params.yaml")
    parser.add_argument("--data", type=Path, default=Path("data/prepared"), help="folder of PROFILE/DATASET folders (`dvc repro prepare`)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--parallel", type=int, help="trainings at once (default: as many as the device has room for)")
    parser.add_argument("--only", nargs="+", help="keys of params.yaml to train, with the float networks that they need")
    parser.add_argument("--dry-run", action="store_true", help="print the order and where each training stands")
    arguments = parser.parse_args()
    params = config.read(arguments.params)
    profile = config.check_profile(arguments.profile)
    if arguments.minutes <= 0:
        raise DbqError(f"--minutes: {arguments.minutes} is no time", "give a positive number")
    tasks = choose(plan(params, profile), arguments.only)
    standing = Standing(params, profile, arguments.out, arguments.data)
    if not arguments.dry_run:
        deadline = time.monotonic() + 60 * arguments.minutes
        parallel = arguments.parallel or room(arguments.device)
        campaign = Campaign(arguments.params, standing, arguments.device, parallel, deadline)
        rows = campaign.run(tasks)
    else:
        rows = [standing.of(task) for task in tasks]
    for row in rows:
        result = f"top1 {row['top1']:.2f} %" if row.get("top1") is not None else row.get("message", "")
        print(f"{row['state']:9s} {row['epochs']:4d} epochs  {row['key']} seed {row['seed']}  {result}".rstrip())
    if any(row["state"] == "failed" for row in rows):
        raise DbqError("some trainings failed", f"their logs are in {arguments.out / 'logs'}")


def choose(tasks: list[Task], only: list[str] | None) -> list[Task]:
    """The tasks of these keys and the float networks that they need; all without keys."""
    if only is None:
        return tasks
    unknown = sorted(set(only) - {task.key for task in tasks})
    if unknown:
        raise DbqError(
            f"--only: no training {', '.join(unknown)} in this profile", f"there are {', '.join(sorted({t.key for t in tasks}))}"
        )
    wanted = [task for task in tasks if task.key in only]
    needed = {task.needs for task in wanted}
    return [task for task in tasks if task in wanted or (task.kind == "pretrain" and task.key in needed)]


if __name__ == "__main__":
    raise SystemExit(main_with_errors(main))
