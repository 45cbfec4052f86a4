"""Checkpoints of trainings: FOLDER/PROFILE/KEY/seed-S-FINGERPRINT.pt, written after every epoch and adopted when they are finished.

They live outside the pipeline's outputs, so that DVC never deletes an unfinished training. The fingerprint covers settings, data, start
and seed; the file also says which code wrote it, and carries the sha256 of its content. A file of other settings is left alone; one of
other code is used only if that code is proven to compute the same (dbq.validity.equivalence).
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from dbq.errors import DbqError
from dbq.files import read_sealed, write_sealed
from dbq.validity import equivalence, identity

FORMAT = 2
RERUN = "delete it and run the same command again"
# what a checkpoint holds: name -> type; those of an unfinished training and those of a finished one besides
COMMON = {
    "format": int,
    "network": str,
    "fingerprint": str,
    "identity": dict,
    "state": dict,
    "history": list,
    "epoch": int,
    "finished": bool,
}
UNFINISHED = {"optimiser": dict}
FINISHED = {"val_top1": float, "oscillating": dict, "provenance": dict}


class Checkpoint:
    """The checkpoint file of one training."""

    def __init__(self, folder, key: str, seed: int, network: str, identity_: dict):
        """folder: of the profile. identity_: settings, data, code and start of the training."""
        self.identity, self.network = identity_, network
        kind = "float" if identity_["start"] is None else "quantized"
        self.fingerprint = identity.fingerprint(kind, seed, identity_)
        self.path = Path(folder) / key / f"seed-{seed}-{self.fingerprint[:16]}.pt"

    def read(self, device="cpu", log=print) -> dict | None:
        """The saved state of this training, or None; says which files of other settings or other code it ignores."""
        others = sorted(file.name for file in self.path.parent.glob(f"{self.path.name.rsplit('-', 1)[0]}-*.pt") if file != self.path)
        if others:
            log(f"checkpoints of other settings are ignored: {', '.join(others)}")
        if not self.path.exists():
            return None
        state = read_sealed(self.path, device)
        check(state, self.path)
        if state["network"] != self.network or state["fingerprint"] != self.fingerprint:
            raise DbqError(f"{self.path}: a checkpoint of another training", RERUN)
        if not equivalence.same(state["identity"]["code"], self.identity["code"]):
            log(f"{self.path}: trained by other code, so it is trained again (`python -m dbq canary` can prove that both compute the same)")
            return None
        return state

    def write(self, **content) -> None:
        values = {"format": FORMAT, "fingerprint": self.fingerprint, "network": self.network, "identity": self.identity}
        write_sealed(self.path, values | content)


def check(state, path) -> None:
    """Raises DbqError unless `state` has everything that a checkpoint needs, with plausible values."""
    expected = COMMON | (FINISHED if isinstance(state, dict) and state.get("finished") else UNFINISHED)
    for name, kind in expected.items():
        value = state.get(name) if isinstance(state, dict) else None
        if not isinstance(value, (int, float) if kind is float else kind):
            raise DbqError(f"{path}: not a checkpoint of this version ({name} is missing or of another type)", RERUN)
    if state["format"] != FORMAT:
        raise DbqError(f"{path}: a checkpoint of format {state['format']}, not {FORMAT}", RERUN)
    for name, value in state["state"].items():
        if not isinstance(value, torch.Tensor) or (value.is_floating_point() and not torch.isfinite(value).all()):
            raise DbqError(f"{path}: {name} is not a finite tensor", RERUN)
    for name in ("val_top1", "top1"):
        value = state.get(name)
        if value is not None and not 0 <= value <= 100:
            raise DbqError(f"{path}: {name} is {value}", RERUN)


def load_state(network: torch.nn.Module, state: dict, what: str) -> None:
    """Strict load_state_dict that also compares types and shapes. `what` says whose weights these are in the error."""
    remedy = "run the stage that trains it again"
    expected = network.state_dict()
    if missing := [*(expected.keys() - state.keys()), *(state.keys() - expected.keys())]:
        raise DbqError(f"{what}: {len(missing)} names differ from {type(network).__name__}'s, {sorted(missing)[0]} first", remedy)
    for name, value in expected.items():
        found = state[name]
        if not isinstance(found, torch.Tensor) or found.shape != value.shape or found.dtype != value.dtype:
            shown = f"{found.dtype} {tuple(found.shape)}" if isinstance(found, torch.Tensor) else type(found).__name__
            raise DbqError(f"{what}: {name} is {shown} instead of {value.dtype} {tuple(value.shape)}", remedy)
    network.load_state_dict(state)


def tensors_digest(tensors: dict) -> str:
    """Hex sha256 of names, shapes, types and values. torch.save embeds the file's stem, so equal tensors give different files."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)};".encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()
