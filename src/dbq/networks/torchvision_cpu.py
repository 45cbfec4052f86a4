"""Import torchvision under a CPU build of torch.

The package index serves torchvision for CUDA torch. Beside a CPU torch its C++ operators are missing, and the import fails while it
registers fake versions of them. With their schemas defined, everything but those operators works.
"""

import functools
import sys

import torch

OPERATORS = [f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor" for name in ("nms", "qnms")]
_library = None  # keeps the schemas alive


@functools.cache
def import_torchvision():
    """The torchvision module."""
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        _define_missing_operators()
        import torchvision
    return torchvision


def _define_missing_operators() -> None:
    global _library
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    _library = torch.library.Library("torchvision", "DEF")
    for schema in OPERATORS:
        _library.define(schema)
