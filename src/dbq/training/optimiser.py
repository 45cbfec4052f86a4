"""SGD with momentum, learning-rate schedules, and which parameter is decayed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn, optim

from dbq.insertion.activations import ActivationQuantizer
from dbq.quantizers.base import WeightQuantizer

if TYPE_CHECKING:
    from dbq.settings.entries import TrainingSettings

STEP_FACTOR = 0.1  # of the step schedule at each milestone


def build(network: nn.Module, recipe: TrainingSettings) -> optim.SGD:
    """Three groups: layer weights (decayed), batch norm and biases (not decayed), scales of quantizers (not decayed, own rate)."""
    scales = {
        parameter
        for module in network.modules()
        if isinstance(module, (WeightQuantizer, ActivationQuantizer))
        for parameter in module.parameters()
    }
    decayed, plain, own_rate = [], [], []
    for parameter in network.parameters():
        if parameter in scales:
            own_rate.append(parameter)
        elif parameter.ndim > 1:
            decayed.append(parameter)
        else:
            plain.append(parameter)
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay, "factor": 1.0},
        {"params": plain, "weight_decay": 0.0, "factor": 1.0},
        {"params": own_rate, "weight_decay": 0.0, "factor": recipe.scale_learning_rate},
    ]
    nesterov = recipe.nesterov and recipe.momentum > 0
    groups = [group for group in groups if group["params"]]
    settings = {"lr": recipe.learning_rate, "momentum": recipe.momentum, "nesterov": nesterov}
    device = next(network.parameters()).device
    if device.type != "cuda":
        return optim.SGD(groups, **settings, foreach=True)
    for group in groups:  # a CUDA graph reads the rate from the device at each replay
        group["lr"] = torch.tensor(recipe.learning_rate, device=device)
    return optim.SGD(groups, **settings, fused=True)


def learning_rate(recipe: TrainingSettings, step: int, steps_per_epoch: int) -> float:
    """The rate of step 0, 1, ..: linear warm-up, then cosine to 0 at the last step, tenths at milestones, or constant."""
    warmup, total = recipe.warmup_epochs * steps_per_epoch, recipe.epochs * steps_per_epoch
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    if recipe.schedule == "cosine":
        return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
    if recipe.schedule == "step":
        return recipe.learning_rate * STEP_FACTOR ** sum(step >= milestone * steps_per_epoch for milestone in recipe.milestones)
    return recipe.learning_rate


def set_learning_rate(optimiser: optim.SGD, rate: float) -> None:
    for group in optimiser.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate * group["factor"])
        else:
            group["lr"] = rate * group["factor"]
