"""MobileNetV2 (Sandler et al. 2018) from torchvision, and its 32x32 form. torchvision is imported when the network is built."""

from torch import nn

from dbq.networks.torchvision_cpu import import_torchvision


def build(classes: int, form: str) -> nn.Module:
    network = import_torchvision().models.mobilenet_v2(weights=None, num_classes=classes)
    if form == "32x32":
        network.features[0][0].stride = (1, 1)
        network.features[2].conv[1][0].stride = (1, 1)  # first block of the second stage
    return network
