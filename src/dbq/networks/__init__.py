"""The networks, each in its ImageNet form (224x224) and in a form for images of 32x32 pixels and below.

| network       | 32x32 form                                                              | multiply-adds at 224 / 32 |
|---------------|-------------------------------------------------------------------------|---------------------------|
| resnet20      | as published for CIFAR-10 (no ImageNet form was published)                | - / 40.55 M               |
| mobilenet_v1  | stride 1 instead of 2 in the first layer                                  | 568.7 M / 46.4 M          |
| mobilenet_v2  | stride 1 instead of 2 in the first layer and in the second stage          | 300.8 M / 88.0 M          |
| shufflenet_v2 | stride 1 instead of 2 in the first layer, no max pooling                  | 144.9 M / 45.0 M          |

Rules that the quantizers rely on: every activation is a ReLU or ReLU6 module of its own, every convolution is followed by a batch norm,
and torch.fx can trace the network.
"""

from torch import nn

from dbq.errors import DbqError
from dbq.networks.mobilenet_v1 import mobilenet_v1
from dbq.networks.mobilenet_v2 import mobilenet_v2
from dbq.networks.resnet20 import resnet20
from dbq.networks.shufflenet_v2 import shufflenet_v2

FORMS = ("32x32", "224x224")
_BUILDERS = {"resnet20": resnet20, "mobilenet_v1": mobilenet_v1, "mobilenet_v2": mobilenet_v2, "shufflenet_v2": shufflenet_v2}
NAMES = tuple(_BUILDERS)


def build(name: str, classes: int, form: str) -> nn.Module:
    """A network with random weights: (N, 3, H, W) images to (N, classes) logits.

    Raises DbqError for an unknown name or form, and for a form that the network doesn't have.
    """
    if name not in _BUILDERS:
        raise DbqError(f"network: unknown value {name!r}", f"choose one of {', '.join(NAMES)}")
    if form not in FORMS:
        raise DbqError(f"form: unknown value {form!r}", f"choose one of {', '.join(FORMS)}")
    return _BUILDERS[name](classes, form)
