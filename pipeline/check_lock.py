"""Check that the committed dvc.lock belongs to the committed code and params.yaml. Needs no data: `python pipeline/check_lock.py`.

It runs the stage `settings`, which resolves params.yaml for each stage, and asks DVC what it would run then.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import yaml

from dbq.errors import DbqError, main_with_errors

SETTINGS = "settings"  # always runs


def stages_to_run(output: str) -> list[str]:
    """Names of the stages that `dvc repro --dry` says it would run, or can't try for want of an input."""
    found = re.findall(r"(?:Running stage|failed to reproduce) '([^']+)'", output)
    return [name for name in found if name != SETTINGS]


def settings_of(lock: bytes) -> dict:
    """What the lock says of the stage `settings`. Its bytes may differ: DVC orders stages as they were run."""
    return yaml.safe_load(lock)["stages"][SETTINGS]


def repro(*options: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "dvc", "repro", *options], capture_output=True, text=True)


def main() -> None:
    before = Path("dvc.lock").read_bytes()
    first = repro("--single-item", SETTINGS)
    if first.returncode:
        raise DbqError(f"the stage settings failed: {(first.stdout + first.stderr)[-2000:]}", "correct params.yaml")
    after = Path("dvc.lock").read_bytes()
    Path("dvc.lock").write_bytes(before)
    dry = repro("--dry", "--allow-missing")
    stages = stages_to_run(dry.stdout + dry.stderr)
    if stages:
        raise DbqError(f"dvc.lock is older than the tree; it would run {', '.join(stages)}", "run `make reproduce` and commit dvc.lock")
    if dry.returncode:
        raise DbqError(f"`dvc repro --dry` failed: {dry.stderr[-2000:]}", "correct dvc.yaml or params.yaml")
    if settings_of(after) != settings_of(before):
        raise DbqError("dvc.lock is older than params.yaml or the code", "run `make reproduce` and commit dvc.lock")
    print("dvc.lock is up to date")


if __name__ == "__main__":
    os.chdir(Path(__file__).parents[1])
    sys.exit(main_with_errors(main))
