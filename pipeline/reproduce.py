"""Everything that the profile in params.yaml needs, several stages at a time; what `make reproduce` runs.

    PYTHONPATH=src python pipeline/reproduce.py             # one stage a core
    PYTHONPATH=src python pipeline/reproduce.py --jobs 1

First params.yaml is resolved and checked. Then JOBS processes of DVC reproduce what is out of date, each stage as soon as what it depends
on is done. DVC lets another process work while a stage's command runs ("Parallel stage execution" in
https://dvc.org/doc/command-reference/repro). A stage that fails stops only what depends on it. Each line says whose it is.
"""

import argparse
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

from dbq.errors import DbqError, main_with_errors
from stage import NOT_RUN, Refused, read_profile, settings_file
from warm_dvc import END

SETTINGS = "settings"  # the stage that every other one depends on; it always runs
ALONE = {"overhead"}  # stages that measure time: another one beside them would be measured too
LAST_LINES = 20  # of a failed stage, shown again at the end
BATCH = 16  # stages that aren't run in the profile, given to DVC at once
# the stage's command, which is in dvc.yaml, and DVC's advice about git
CHATTER = r"> |USDT:|Updating lock file|Generating lock|Use `dvc push`|To track the changes|To enable auto staging|\tgit add|\tdvc config"
PRINTING = threading.Lock()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python pipeline/reproduce.py", description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="stages at a time (default: one a core)")
    jobs = parser.parse_args().jobs
    if jobs < 1:
        raise DbqError(f"--jobs: {jobs}", "give a positive number")
    if not Path(".git").exists():
        raise DbqError(f"{Path.cwd()} has no .git, and DVC needs one", "clone the repository, or `git init` here")
    Path("runs").mkdir(exist_ok=True)
    with open("runs/reproduce.pid", "a+", encoding="utf-8") as file:
        _only_one(file)
        if subprocess.run([sys.executable, "pipeline/resolve.py"]).returncode:
            sys.exit(1)
        try:
            profile = read_profile()
        except Refused as refused:
            raise DbqError(*str(refused).split(" -> ", 1)) from None
        exchange_locks(profile)
        _reproduce(profile, jobs)


def _only_one(file) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.seek(0)
        raise DbqError(f"another reproduce runs in this folder (pid {file.read().strip()})", "wait for it") from None
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()


def exchange_locks(profile: str) -> None:
    """Every profile has its own dvc.lock. The one at the top belongs to `profile` afterwards; another's is kept in its results."""
    lock, own = Path("dvc.lock"), Path("results", profile, "dvc.lock")
    found = re.search(r"runs/([^/\s]+)/settings", lock.read_text(encoding="utf-8")) if lock.exists() else None
    if found and found[1] == profile:
        return
    if found:
        other = Path("results", found[1], "dvc.lock")
        other.parent.mkdir(parents=True, exist_ok=True)
        os.replace(lock, other)
        print(f"dvc.lock of the profile {found[1]}: kept as {other}")
    if own.exists():
        shutil.copyfile(own, lock)


def _reproduce(profile: str, jobs: int) -> None:
    first = Worker()
    failed, lines = first.reproduce([SETTINGS], quiet=True)
    if failed:
        raise _dvc_error("\n".join(lines))
    needs = outdated()
    if not needs:
        print("Data, models, tables and reports are up to date.")
        return
    idle = {name for name in needs if _is_idle(profile, name)}
    print(f"{len(needs) - len(idle)} stages to run, {len(idle)} that the profile {profile} leaves out")
    workers = [first, *(Worker() for _ in range(min(jobs, len(needs)) - 1))]
    failures, skipped = side_by_side(needs, idle, workers)
    if not failures:
        return
    for lines in failures.values():
        print("\n" + "\n".join(lines), file=sys.stderr)
    left = f"; not run, because they depend on it: {', '.join(skipped)}" if skipped else ""
    sys.exit(f"error: failed: {', '.join(failures)}{left} -> read the lines above, mend it, run it again: what is done stays done")


def outdated() -> dict[str, set[str]]:
    """Stages that are out of date or depend on one that is, in an order in which they can run: stage -> those that it waits for."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from networkx import topological_sort

    try:
        repo = Repo()
        graph = repo.index.graph  # edges lead from a stage to what it depends on
        changed = {name for name, state in repo.status().items() if state}
    except DvcException as error:
        raise _dvc_error(str(error)) from None
    needs: dict[str, set[str]] = {}
    for stage in reversed(list(topological_sort(graph))):
        below = {other.addressing for other in graph.successors(stage)}
        if stage.addressing != SETTINGS and (stage.addressing in changed or below & set(needs)):
            needs[stage.addressing] = below & set(needs)
    return needs


def _dvc_error(text: str) -> DbqError:
    """DVC's message as one line with a remedy."""
    text = " ".join(text.replace("ERROR: ", "").split())
    if "acquire lock" in text or "is busy" in text:
        return DbqError("another DVC command runs in this folder", "wait for it, then run this again")
    for name in ("dvc.lock", "dvc.yaml"):
        if name in text:
            return DbqError(f"{name}: {text}", f"`git diff {name}` shows what changed, `git checkout {name}` restores it")
    return DbqError(f"DVC: {text}", "mend what it names")


def _is_idle(profile: str, name: str) -> bool:
    """Whether the profile leaves the stage out."""
    stage, _, key = name.partition("@")
    try:
        return json.loads(settings_file(profile, stage, key or None).read_text(encoding="utf-8"))["status"] == NOT_RUN
    except (OSError, ValueError, KeyError, TypeError):
        return False  # the stage itself says what is wrong


def side_by_side(needs: dict[str, set[str]], idle: set[str], workers: list["Worker"]) -> tuple[dict[str, list[str]], list[str]]:
    """Run each stage when what it depends on is done. Returns the last lines of each that failed, and what was not run because of them."""
    waiting, done = list(needs), set()
    failures: dict[str, list[str]] = {}
    running: dict[Future, tuple[Worker, list[str]]] = {}
    free = list(workers)
    with ThreadPoolExecutor(len(workers)) as threads:
        while True:
            while free and (stages := _next([name for name in waiting if needs[name] <= done], idle, bool(running))):
                waiting = [name for name in waiting if name not in stages]
                worker = free.pop()
                running[threads.submit(worker.reproduce, stages)] = (worker, stages)
                if ALONE & set(stages):
                    break
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                worker, stages = running.pop(future)
                free.append(worker)
                failed, lines = future.result()
                done.update(stages if not failed else stages[: stages.index(failed)])
                if failed:
                    failures[failed] = lines
                    waiting[:0] = stages[stages.index(failed) + 1 :]
    return failures, waiting


def _next(ready: list[str], idle: set[str], running: bool) -> list[str]:
    """The stages that a free worker gets: one, or several that are only marked. One that has to be alone waits until nothing else runs."""
    if marked := [name for name in ready if name in idle]:
        return marked[:BATCH]
    together = [name for name in ready if name not in ALONE]
    return together[:1] or (ready[:1] if not running else [])


class Worker:
    """A process of DVC that waits for stages."""

    def __init__(self):
        command = [sys.executable, "-u", str(Path(__file__).with_name("warm_dvc.py"))]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def reproduce(self, stages: list[str], quiet: bool = False) -> tuple[str | None, list[str]]:
        """Reproduce stages, printing their lines as they come, each behind its stage. Returns the stage that failed, and its last lines."""
        stage, status, lines = stages[0], 1, []
        try:
            self.process.stdin.write(" ".join(stages) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return stage, [f"{stage}: DVC has ended"]
        for line in self.process.stdout:
            if line.startswith(END):
                status = int(line.split()[1])
                break
            if begins := re.match(r"(?:Running s|S)tage '([^']+)'", line):
                stage, lines = begins[1], []
            if not line.strip() or re.match(CHATTER, line):
                continue
            lines.append(line.rstrip() if quiet else f"{stage}: {line.rstrip()}")
            if not quiet:
                with PRINTING:
                    print(lines[-1], flush=True)
        return (stage if stage in stages else stages[0], lines[-LAST_LINES:]) if status else (None, [])


if __name__ == "__main__":
    os.chdir(Path(__file__).parents[1])
    sys.exit(main_with_errors(main))
