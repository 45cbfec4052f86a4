"""What decides a result, as four digests: settings, data, code, and the float network that it starts from.

    {"settings": .., "data": .., "code": .., "start": ..}

Two trainings of one identity and seed may differ by device (a result names it), and by nothing else: the number of threads and the choice
of kernels are settings.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from dbq.validity import closure

if TYPE_CHECKING:
    from dbq.settings import Row, Start

# what of a row or a start decides its result; keys, seeds and what a row is compared with don't
ROW = ("network", "dataset_settings", "method", "quantizer", "activation_bits", "activations", "policy", "training")
START = ("network", "dataset_settings", "training", "seed")
TRAINING = "dbq.training.runs"
ENGINE = ("dbq.integer.verdict", "dbq.cost.network")


def digest(value) -> str:
    """Hex sha256 of a value of plain types."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()).hexdigest()


def of_settings(entry: Row | Start) -> str:
    """The digest of what params.yaml decides of a result. External weights are taken as they are, whatever the schedule says."""
    values = entry.model_dump(mode="json")
    if "start" in values:
        return digest({name: values[name] for name in ROW})
    if entry.weights is not None:
        return digest({"network": entry.network, "dataset_settings": values["dataset_settings"], "weights": entry.weights.sha256})
    return digest({name: values[name] for name in START})


def modules(entry: Row | Start) -> list[str]:
    """The modules that are imported by a name in the settings."""
    chosen = [f"dbq.networks.{entry.network}"]
    if hasattr(entry, "method"):
        chosen += ["dbq.quantizers.uniform", f"dbq.quantizers.{entry.method}"]
    return chosen


def subject(entry: Row | Start) -> str:
    """What a canary has to prove equal for it: a method, or float, on a network."""
    return f"{getattr(entry, 'method', 'float')} {entry.network}"


def code_of(entry: Row | Start) -> str:
    """The digest of the code that trains and tests it. It names the subject, too: equal weights of one prove nothing of another."""
    return digest([subject(entry), closure.digest([TRAINING, *modules(entry)])])


def engine_code_of(row: Row) -> str:
    """The digest of the code that counts it and replays it in integers."""
    return digest([f"engine {subject(row)}", closure.digest([*ENGINE, *modules(row)])])


def fingerprint(kind: str, seed: int, identity: dict) -> str:
    """One number for a training, the code left out: a checkpoint's name. Its file says which code wrote it."""
    return digest({"kind": kind, "seed": seed, **{name: identity[name] for name in ("settings", "data", "start")}})


def provenance(device: str, threads: int, data_source: str) -> dict[str, str]:
    """Where and with what a training ran, as strings."""
    import torch

    on_gpu = device.startswith("cuda")
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else f"cpu ({threads} thread{'s' * (threads != 1)})",
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "commit": commit(),
        "data_source": data_source,
    }


def commit() -> str:
    """The commit of the source tree, and whether src/ differs from it; DBQ_COMMIT or "unknown" outside a repository."""
    here = Path(__file__).parents[3]

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", *arguments], capture_output=True, text=True, cwd=here)
        except OSError:  # no git on this machine
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    head = git("rev-parse", "--verify", "--quiet", "HEAD")  # --verify: plain rev-parse prints HEAD on a branch without commits
    if head is None:
        return os.environ.get("DBQ_COMMIT", "unknown")
    return head + (" with local changes" if git("status", "--porcelain", "src") else "")
