"""Import torchvision under a CPU build of torch.

The package index serves torchvision for CUDA torch. Beside a CPU torch its C++ operators are missing and the import fails while
it registers fake versions of them; with their schemas defined, everything but those operators works.
"""

import functools
import sys

import torch

OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_library = None  # keeps the schemas alive


@functools.cache
def import_torchvision():
    """The torchvision module, with `models` and `datasets` imported."""
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        _define_missing_operators()
        import torchvision
    import torchvision.datasets
    import torchvision.models

    return torchvision


def _define_missing_operators() -> None:
    global _library
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    _library = torch.library.Library("torchvision", "DEF")
    for schema in OPERATORS:
        _library.define(schema)
