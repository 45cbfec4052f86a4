"""The networks, each in its ImageNet form (224x224) and in a form for images of 32x32 pixels and below.

| network       | 32x32 form                                                              | multiply-adds at 224 / 32 |
|---------------|-------------------------------------------------------------------------|---------------------------|
| resnet20      | as published for CIFAR-10 (no ImageNet form was published)                | - / 40.55 M               |
| mobilenet_v1  | stride 1 instead of 2 in the first layer                                  | 568.7 M / 46.4 M          |
| mobilenet_v2  | stride 1 instead of 2 in the first layer and in the second stage          | 300.8 M / 88.0 M          |
| shufflenet_v2 | stride 1 instead of 2 in the first layer, no max pooling                  | 144.9 M / 45.0 M          |

Each is a module with a function build(classes, form), imported when the network is built: an edit of one network makes no result of
another stale. Rules that the quantizers rely on: every activation is a ReLU or ReLU6 module of its own, every convolution is followed by
a batch norm, and torch.fx can trace the network.
"""

import importlib

from torch import nn

from dbq.errors import DbqError

FORMS = ("32x32", "224x224")
NAMES = ("resnet20", "mobilenet_v1", "mobilenet_v2", "shufflenet_v2")


def build(name: str, classes: int, form: str) -> nn.Module:
    """A network with random weights: (N, 3, H, W) images to (N, classes) logits.

    Raises DbqError for an unknown name or form, and for a form that the network doesn't have.
    """
    for key, value, known in (("network", name, NAMES), ("form", form, FORMS)):
        if value not in known:
            raise DbqError(f"{key}: unknown value {value!r}", f"choose one of {', '.join(known)}")
    return importlib.import_module(f"dbq.networks.{name}").build(classes, form)
