"""Float weights that others published."""

from pathlib import Path

import torch
from torch import nn

from dbq.errors import DbqError
from dbq.files import sha256_of


def load_external(network: nn.Module, path, sha256: str) -> None:
    """Load a state dict whose file has this checksum into the network.

    A `state_dict` wrapper and the prefix `module.` of data-parallel training are taken off. Raises DbqError for a missing file, another
    checksum, and weights of another network.
    """
    if not Path(path).is_file():
        raise DbqError(f"{path}: no such file", "download it from the source that params.yaml names")
    found = sha256_of(path)
    if found != sha256:
        raise DbqError(f"{path}: sha256 is {found}, expected {sha256}", "delete the file and download it again")
    state = torch.load(path, map_location="cpu", weights_only=True)
    state = {name.removeprefix("module."): value for name, value in state.get("state_dict", state).items()}
    own = network.state_dict()
    # files from before torch 0.4.1 lack batch norm's counter, which evaluation doesn't use
    state |= {name: own[name] for name in own if name.endswith("num_batches_tracked") and name not in state}
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = [name for name in own.keys() & state.keys() if own[name].shape != state[name].shape]
    if missing or unexpected or shapes:
        raise DbqError(
            f"{path}: weights of another network (missing {missing[:3]}, unexpected {unexpected[:3]}, other shapes {sorted(shapes)[:3]})",
            "name the network that these weights belong to",
        )
    network.load_state_dict(state)
