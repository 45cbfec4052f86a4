"""Everything that the profile in params.yaml needs, several stages at a time; what `make reproduce` runs.

    python pipeline/reproduce.py             # one stage a core
    python pipeline/reproduce.py --jobs 1    # `dvc repro`

DVC runs one stage at a time, but lets another `dvc repro` work while a stage's command runs ("Parallel stage execution" in
https://dvc.org/doc/command-reference/repro). So stages that are out of date are given to JOBS processes of `dvc repro --single-item`
as soon as what they depend on is done, and a last `dvc repro` runs the rest, above all what has to be alone because it measures time.
Each line says whose it is.
"""

import argparse
import math
import os
import re
import subprocess
import sys
import threading
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

from dbq.errors import DbqError, main_with_errors

ALONE = {"overhead"}  # stages that measure time: another one beside them would be measured too
LAST_LINES = 40  # of a failed stage, shown again at the end


def main() -> None:
    parser = argparse.ArgumentParser(prog="python pipeline/reproduce.py", description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="stages at a time (default: one a core)")
    jobs = parser.parse_args().jobs
    if jobs < 1:
        raise DbqError(f"--jobs: {jobs}", "give a positive number")
    needs = outdated()
    if not needs:
        print("Data, models, tables and reports are up to date.")
        return
    if jobs > 1 and len(needs) > 1:
        side_by_side(chains(needs), needs, jobs)
    if subprocess.run(dvc()).returncode:
        sys.exit(1)


def dvc(*stages: str) -> list[str]:
    """The command that reproduces these stages and nothing that they depend on; without stages, everything."""
    options = ["--single-item", *stages] if stages else []
    return [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", *options]


def outdated() -> dict[str, set[str]]:
    """Stages that are out of date, or depend on one that is: stage -> those of them that it depends on."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from networkx import topological_sort

    try:
        repo = Repo()
        graph = repo.index.graph  # edges lead from a stage to what it depends on
        changed = {name for name, state in repo.status().items() if state}
    except DvcException as error:
        raise DbqError(f"dvc.yaml: {error}", "correct the file that it names") from None
    names = {stage: stage.addressing for stage in graph}
    needs: dict[str, set[str]] = {}
    for stage in reversed(list(topological_sort(graph))):
        below = {names[other] for other in graph.successors(stage)}
        if names[stage] in changed or below & set(needs):
            needs[names[stage]] = below & set(needs)
    return needs


def chains(needs: dict[str, set[str]]) -> list[list[str]]:
    """Stages in an order in which they can run, those that only follow on one another together: one start of DVC serves a chain.

    A stage that has to be alone, and what depends on it, is in no chain.
    """
    below: dict[str, set[str]] = {}  # everything that a stage depends on, through others too
    direct: dict[str, set[str]] = {}  # without what it depends on through another one anyway
    users: dict[str, list[str]] = {}
    for name, needed in needs.items():  # what a stage depends on comes before it
        below[name] = needed.union(*(below[other] for other in needed))
        if name in ALONE or below[name] & ALONE:
            continue
        direct[name], users[name] = needed.difference(*(below[other] for other in needed)), []
        for other in direct[name]:
            users[other].append(name)
    result, chain_of = [], {}
    for name, needed in direct.items():
        before = next(iter(needed)) if len(needed) == 1 else None
        if before is not None and users[before] == [name]:
            chain_of[name] = chain_of[before]
            chain_of[name].append(name)
        else:
            chain_of[name] = [name]
            result.append(chain_of[name])
    return result


def side_by_side(waiting: list[list[str]], needs: dict[str, set[str]], jobs: int) -> None:
    """Run each chain when what it depends on is done. Raises DbqError when a stage failed; those that run then are waited for."""
    done: set[str] = set()
    running: dict[Future, list[str]] = {}
    failed: list[str] = []
    threads = max(1, (os.cpu_count() or 1) // jobs)
    with ThreadPoolExecutor(jobs) as lanes:
        while waiting or running:
            ready = [] if failed else [chain for chain in waiting if needed(chain, needs) <= done]
            while ready and len(running) < jobs:
                # DVC takes 2 s to start: several chains at once while many are ready, single ones at the end, so that no lane idles long
                share = math.ceil(len(ready) / (2 * jobs))
                stages = [name for chain in ready[:share] for name in chain]
                waiting = [chain for chain in waiting if chain not in ready[:share]]
                ready = ready[share:]
                running[lanes.submit(run, stages, threads)] = stages
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                done.update(running.pop(future))
                stage, lines = future.result()
                if lines:
                    failed.append(stage)
                    print("\n".join(lines), file=sys.stderr)
    if failed:
        raise DbqError(f"failed: {', '.join(failed)}", "read the lines above, mend it, run it again: what is done stays done")


def needed(chain: list[str], needs: dict[str, set[str]]) -> set[str]:
    return set().union(*(needs[name] for name in chain)) - set(chain)


def run(stages: list[str], threads: int) -> tuple[str, list[str]]:
    """Reproduce stages, printing their lines as they come, each behind its stage.

    Returns the stage that came last, and its last lines if it failed.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    process = subprocess.Popen(
        dvc(*stages), env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    lines, stage = [], stages[0]
    for line in process.stdout:
        if line.startswith("> ") or not line.strip():
            continue  # the stage's command, which is in dvc.yaml
        if begins := re.match(r"(?:Running s|S)tage '([^']+)'", line):
            stage = begins[1]
        lines.append(f"{stage}: {line.rstrip()}")
        with PRINTING:
            print(lines[-1], flush=True)
    return stage, lines[-LAST_LINES:] if process.wait() else []


PRINTING = threading.Lock()

if __name__ == "__main__":
    os.chdir(Path(__file__).parents[1])
    sys.exit(main_with_errors(main))
