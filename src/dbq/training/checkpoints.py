"""Checkpoints: written atomically, loaded safely, and only used for the run that wrote them.

They live outside the pipeline's outputs, so that DVC never deletes an unfinished training. The fingerprint covers everything that
decides the result (settings, data, float weights, seed); a file with another fingerprint is left alone and ignored.
"""

import hashlib
import json
import os
import pickle
import platform
import subprocess
from pathlib import Path

import torch

from dbq.errors import DbqError
from dbq.files import write_atomically

FORMAT = 1


def save(path, content: dict) -> None:
    """Write a dict of tensors, numbers and strings."""
    write_atomically(path, lambda file: torch.save(content, file))


def load(path, device="cpu") -> dict:
    """Read a file of `save`; nothing but tensors and plain values is unpickled.

    Raises DbqError for a missing, truncated or foreign file.
    """
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise DbqError(f"{path}: no such file", "run the stage that writes it (`dvc repro`)") from None
    except (RuntimeError, EOFError, ValueError, KeyError, OSError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DbqError(f"{path}: damaged, or not a file of tensors ({reason})", "delete it and run the same command again") from None


class Checkpoint:
    """The checkpoint file of one run: FOLDER/seed-S-FINGERPRINT.pt."""

    def __init__(self, folder, seed: int, fingerprint: str, network: str):
        self.path = Path(folder) / f"seed-{seed}-{fingerprint[:12]}.pt"
        self.fingerprint, self.network = fingerprint, network

    def read(self, device="cpu", log=print) -> dict | None:
        """The saved state of this run, or None; says which files of other settings it ignores."""
        others = sorted(file.name for file in self.path.parent.glob(f"{self.path.name.rsplit('-', 1)[0]}-*.pt") if file != self.path)
        if others:
            log(f"checkpoints of other settings are ignored: {', '.join(others)}")
        if not self.path.exists():
            return None
        state = load(self.path, device)
        check(state, self.path, self.network, self.fingerprint)
        return state

    def write(self, **content) -> None:
        save(self.path, {"format": FORMAT, "fingerprint": self.fingerprint, "network": self.network, **content})


def check(state: dict, path, network: str, fingerprint: str) -> None:
    """Raise DbqError unless the checkpoint is of this network and of these settings."""
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise DbqError(f"{path}: not a checkpoint of this version", "delete it and run the same command again")
    if state["network"] != network:
        raise DbqError(f"{path}: a checkpoint of {state['network']}, not of {network}", "delete it or name another checkpoint folder")
    if state["fingerprint"] != fingerprint:
        raise DbqError(f"{path}: a checkpoint of other settings or data", "delete it or name another checkpoint folder")


def tensors_digest(tensors: dict) -> str:
    """Hex sha256 of names, shapes, types and values. torch.save embeds the file's stem, so equal tensors give different files."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)};".encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def provenance(device: torch.device, threads: int, data_source: str) -> dict[str, str]:
    """Where and with what a training ran, as strings."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu ({threads} thread{'s' * (threads != 1)})"
    return {
        "device": name,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "commit": _commit(),
        "data_source": data_source,
    }


def _commit() -> str:
    """The commit of the source tree, and whether src/ or params.yaml differ from it; "unknown" outside a repository."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", *arguments], capture_output=True, text=True, cwd=Path(__file__).parents[3])
        except OSError:  # no git on this machine
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # --verify: on a branch without commits plain rev-parse prints "HEAD" and fails
    commit = git("rev-parse", "--verify", "--quiet", "HEAD")
    if commit is None:
        return os.environ.get("DBQ_COMMIT", "unknown")
    return commit + (" with local changes" if git("status", "--porcelain", "src", "params.yaml") else "")


def to_text(value) -> str:
    return json.dumps(value, sort_keys=True)
