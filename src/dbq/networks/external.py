"""Float weights that others published."""

from pathlib import Path

import torch
from torch import Tensor, nn

from dbq.errors import DbqError
from dbq.files import sha256_of

REMEDY = "get the file from its source again and write its sha256 into params.yaml, or train the network here"


def load_external(network: nn.Module, path, sha256: str) -> None:
    """Load a state dict whose file has this checksum into the network.

    A `state_dict` wrapper and the prefix `module.` of data-parallel training are taken off. Raises DbqError for a missing file, another
    checksum, a file that is no state dict, values that are not finite, and weights of another network.
    """
    if not Path(path).is_file():
        raise DbqError(f"{path}: no such file", "download it from the source that params.yaml names")
    found = sha256_of(path)
    if found != sha256:
        raise DbqError(f"{path}: sha256 is {found}, expected {sha256}", "delete the file and download it again")
    own, state = network.state_dict(), _state_of(path)
    # files from before torch 0.4.1 lack batch norm's counter, which evaluation doesn't use
    state |= {name: own[name] for name in own if name.endswith("num_batches_tracked") and name not in state}
    expected, given = ({(name, value.shape) for name, value in values.items()} for values in (own, state))
    if expected != given:
        differing = sorted({name for name, _ in expected ^ given})
        raise DbqError(
            f"{path}: weights of another network ({len(differing)} names or shapes differ: {', '.join(differing[:3])})",
            "name the network that these weights belong to",
        )
    for name, value in state.items():
        kind = own[name].dtype
        if value.is_floating_point() != kind.is_floating_point or not bool(torch.isfinite(value.to(kind)).all()):
            raise DbqError(f"{path}: {name} ({value.dtype}) holds values that are not finite, or not of type {kind}", REMEDY)
    network.load_state_dict(state)


def _state_of(path) -> dict[str, Tensor]:
    """The named dense tensors of the file. Only tensors and plain values are unpickled, so no code runs from it."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zip, pickle and torch each raise types of their own; torch's text advises to switch its protection off
        raise DbqError(f"{path}: truncated, or not a file of tensors and plain values ({type(error).__name__})", REMEDY) from None
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(name, str) and _dense(value) for name, value in state.items()):
        raise DbqError(f"{path}: not a state dict of dense tensors", REMEDY)
    return {name.removeprefix("module."): value for name, value in state.items()}


def _dense(value) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_quantized
