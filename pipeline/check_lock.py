"""Check that the committed dvc.lock belongs to the committed code and params.yaml. Needs no data: `python pipeline/check_lock.py`."""

import re
import subprocess
import sys

from dbq.errors import DbqError, main_with_errors


def stages_to_run(output: str) -> list[str]:
    """Names of the stages that `dvc repro --dry` says it would run, or can't try for want of an input."""
    return re.findall(r"(?:Running stage|failed to reproduce) '([^']+)'", output)


def main() -> None:
    done = subprocess.run([sys.executable, "-m", "dvc", "repro", "--dry", "--allow-missing"], capture_output=True, text=True)
    if stages := stages_to_run(done.stdout + done.stderr):
        raise DbqError(
            f"dvc.lock is older than the tree; stages that would run: {', '.join(stages)}", "run `dvc repro` and commit dvc.lock"
        )
    if done.returncode:
        raise DbqError(f"`dvc repro --dry` failed: {done.stderr[-2000:]}", "correct dvc.yaml or params.yaml")
    print("dvc.lock is up to date")


if __name__ == "__main__":
    sys.exit(main_with_errors(main))
