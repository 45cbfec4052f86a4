"""MobileNetV2 and ShuffleNetV2 1.0x from torchvision, and their 32x32 forms.

torchvision is imported when one of them is built: the other networks need torch only.
"""

from torch import nn

from dbq.networks.torchvision_cpu import import_torchvision


def mobilenet_v2(classes: int, form: str) -> nn.Module:
    network = import_torchvision().models.mobilenet_v2(weights=None, num_classes=classes)
    if form == "32x32":
        network.features[0][0].stride = (1, 1)
        network.features[2].conv[1][0].stride = (1, 1)  # first block of the second stage
    return network


def shufflenet_v2(classes: int, form: str) -> nn.Module:
    network = import_torchvision().models.shufflenet_v2_x1_0(weights=None, num_classes=classes)
    if form == "32x32":
        network.conv1[0].stride = (1, 1)
        network.maxpool = nn.Identity()
    return network
