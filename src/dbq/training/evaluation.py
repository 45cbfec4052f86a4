"""Top-1 accuracy, and batch-norm statistics that belong to the hard weights."""

import torch
from torch import nn

from dbq.datasets.loader import Batches


@torch.no_grad()
def top1(network: nn.Module, batches: Batches) -> float:
    """Percent of correct predictions in evaluation mode: quantizers are hard."""
    training = network.training
    network.eval()
    correct, count = 0, 0
    for images, labels in batches.in_order():
        correct = correct + (network(images).argmax(1) == labels).sum()
        count += len(labels)
    network.train(training)
    return 100.0 * float(correct) / count


@torch.no_grad()
def reestimate_batch_norm(network: nn.Module, batches: Batches, count: int, seed: int) -> None:
    """Replace running means and variances by plain averages over `count` training batches, with the hard weights."""
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats]
    if not norms or count == 0:
        return
    momenta = [norm.momentum for norm in norms]
    network.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average
        norm.train()
    for index, (images, _) in enumerate(batches.epoch(seed)):
        if index == count:
            break
        network(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.eval()
