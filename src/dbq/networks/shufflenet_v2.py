"""ShuffleNetV2 1.0x (Ma et al. 2018) from torchvision, and its 32x32 form. torchvision is imported when the network is built."""

from torch import nn

from dbq.networks.torchvision_cpu import import_torchvision


def build(classes: int, form: str) -> nn.Module:
    network = import_torchvision().models.shufflenet_v2_x1_0(weights=None, num_classes=classes)
    if form == "32x32":
        network.conv1[0].stride = (1, 1)
        network.maxpool = nn.Identity()
    return network
