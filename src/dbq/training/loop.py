"""The training loop: seeds, epochs, checkpoints, guards, and one printed line per epoch."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from dbq.datasets.loader import Batches
from dbq.errors import DbqError
from dbq.insertion.policies import use_compiled_kernels, weight_quantizers
from dbq.training import optimiser as optimisers
from dbq.training import precision
from dbq.training.checkpoints import Checkpoint
from dbq.training.evaluation import reestimate_batch_norm, top1
from dbq.training.oscillation import SAMPLED, Oscillation
from dbq.training.step import Step

if TYPE_CHECKING:
    from dbq.settings.entries import TrainingSettings

HISTORY = ["seed", "epoch", "learning_rate", "temperature", "train_loss", "train_top1", "val_top1", "soft_hard_gap"]


class OutOfTime(Exception):
    """The time box of a run is used up; its checkpoint is written."""


@dataclass
class Fit:
    """What a finished training is: the network is changed in place."""

    history: list[dict]
    val_top1: float
    checkpoint: Checkpoint
    oscillating: dict[str, float]  # fraction of the weights by layer


def epoch_seed(seed: int, epoch: int) -> int:
    """One number per run and epoch, so that a resumed run sees what an uninterrupted one sees."""
    return (seed * 1_000_003 + epoch * 7_919 + 17) % (2**63)


@contextlib.contextmanager
def determinism(enabled: bool):
    """Deterministic kernels inside; the former settings come back afterwards.

    With them torch writes NaN into all new memory, which would show code that reads it before anything has been written. No step here does,
    and the writing was a sixth of MobileNetV2's on a CPU.
    """
    before = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    if enabled:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(enabled)
    torch.utils.deterministic.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.utils.deterministic.fill_uninitialized_memory = before[1]


def fit(
    network: nn.Module,
    train: Batches,
    validation: Batches,
    recipe: TrainingSettings,
    seed: int,
    checkpoint: Checkpoint,
    provenance: dict[str, str],
    teacher: nn.Module | None = None,
    deadline: float | None = None,
    log=print,
) -> Fit:
    """Train the network in place, or go on from its checkpoint, or adopt it if it is finished.

    teacher: the float network in evaluation mode, for a recipe with distillation.
    deadline: a time.monotonic() after which no epoch is started; OutOfTime is raised then. Raises DbqError for a loss or a quantizer
    that is not finite, a collapsed branch, and a checkpoint that can't be written.
    """
    optimiser = optimisers.build(network, recipe)
    history, first = [], 0
    state = checkpoint.read(next(network.parameters()).device, log)
    if state is not None:
        network.load_state_dict(state["state"])
        history, first = state["history"], state["epoch"]
        if state["finished"]:
            log(f"{checkpoint.path}: finished after {first} epochs on {state['provenance']['device']}; adopted")
            return Fit(history, state["val_top1"], checkpoint, state["oscillating"])
        optimiser.load_state_dict(state["optimiser"])
    trainee = Trainee(network, optimiser, recipe, seed, teacher, log)
    if state is not None:
        before, now = state["provenance"]["device"], provenance["device"]
        if not f"; {before}".endswith(f"; {now}"):  # a training that was begun on a GPU may end on a CPU
            provenance = provenance | {"device": f"{before}; {now}"}
        log(f"{checkpoint.path}: going on after epoch {first}")
    steps, seconds = len(train), []
    with determinism(recipe.deterministic):
        for epoch in range(first, recipe.epochs):
            if deadline is not None and time.monotonic() + (max(seconds) if seconds else 0) > deadline:
                raise OutOfTime(f"time is up after {epoch} of {recipe.epochs} epochs; the same command goes on from there")
            started = time.monotonic()
            row = trainee.epoch(train, epoch, steps)
            trained = time.monotonic() - started
            for name, quantizer, weight in weight_quantizers(network):
                quantizer.check(weight, name)
            row |= {"val_top1": top1(network, validation), "soft_hard_gap": soft_hard_gap(network)}
            history.append({name: row[name] for name in HISTORY})
            checkpoint.write(
                state=network.state_dict(), optimiser=optimiser.state_dict(), history=history, epoch=epoch + 1,
                finished=False, val_top1=row["val_top1"], provenance=provenance,
            )  # fmt: skip
            seconds.append(time.monotonic() - started)
            _print_line(row, recipe.epochs, train.images_per_epoch / trained, (recipe.epochs - epoch - 1) * seconds[-1], log)
        if recipe.epochs > 0:
            reestimate_batch_norm(network, train, recipe.bn_batches, epoch_seed(seed, recipe.epochs))
        _demand_finite(network, recipe)
        val_top1 = top1(network, validation)
    log(f"validation top1 after batch-norm re-estimation: {val_top1:.2f} %")
    checkpoint.write(
        state=network.state_dict(), history=history, epoch=recipe.epochs, finished=True, val_top1=val_top1,
        oscillating=trainee.oscillation.rates(), provenance=provenance,
    )  # fmt: skip
    return Fit(history, val_top1, checkpoint, trainee.oscillation.rates())


def _demand_finite(network: nn.Module, recipe: TrainingSettings) -> None:
    for name, value in network.state_dict().items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise DbqError(f"{name} is not finite after the training", f"lower learning_rate (now {recipe.learning_rate:g})")


class Trainee:
    """A network with what its steps need: optimiser, quantizers, teacher, and DBQ's kernels compiled if the schedule says so."""

    def __init__(self, network: nn.Module, optimiser, recipe: TrainingSettings, seed: int, teacher: nn.Module | None, log=print):
        self.network, self.optimiser, self.recipe, self.seed, self.teacher = network, optimiser, recipe, seed, teacher
        self.oscillation = Oscillation(network)
        self.device = next(network.parameters()).device
        self.autocast = precision.autocast(network, recipe.precision, log)
        precision.fp32_is_fp32()
        if recipe.kernels == "compiled":
            use_compiled_kernels(network)
        self.step = Step(network, optimiser, self.forward_and_loss, log=log)

    def epoch(self, train: Batches, epoch: int, steps: int) -> dict:
        """One pass over the training images; sums stay on the device until the end."""
        recipe, network, device = self.recipe, self.network, self.device
        torch.manual_seed(epoch_seed(self.seed, epoch))  # dropout
        network.train()
        last = epoch == recipe.epochs - 1
        if epoch >= recipe.epochs - recipe.frozen_bn_epochs:
            for norm in self.step.norms:
                norm.eval()
        self.step.reset_sums()
        rate = 0.0
        for index, (images, labels) in enumerate(train.epoch(epoch_seed(self.seed, epoch))):
            step = epoch * steps + index
            rate = optimisers.learning_rate(recipe, step, steps)
            optimisers.set_learning_rate(self.optimiser, rate)
            for quantizer in self.step.quantizers:
                quantizer.advance(step / max(1, recipe.epochs * steps - 1), epoch)
            if last and index % SAMPLED == 0 and 2 * step >= recipe.epochs * steps:
                self.oscillation.sample()
            loss = self.step(images, labels)
            # on a GPU reading the loss would make the steps wait; the sum of the epoch is checked below
            if device.type == "cpu" and not torch.isfinite(loss):
                raise DbqError(
                    f"epoch {epoch + 1}, step {index + 1}: the loss is {float(loss)}",
                    f"lower learning_rate (now {recipe.learning_rate:g}) or lengthen warmup_epochs; the last finished epoch is kept",
                )
        count = train.images_per_epoch
        loss_sum, correct = self.step.loss_sum, self.step.correct
        if not torch.isfinite(loss_sum):
            raise DbqError(f"epoch {epoch + 1}: the loss is not finite", f"lower learning_rate (now {recipe.learning_rate:g})")
        return {
            "seed": self.seed, "epoch": epoch + 1, "learning_rate": rate, "temperature": self.temperature(),
            "train_loss": float(loss_sum) / count, "train_top1": 100.0 * float(correct) / count,
        }  # fmt: skip

    def forward_and_loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """(mean loss, logits) in the recipe's precision."""
        with self.autocast:
            logits = self.network(images)
            return self.loss(logits, images, labels), logits

    def loss(self, logits: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy, mixed with the distance from the teacher's distribution if the recipe distils (Hinton et al., 2015)."""
        recipe = self.recipe
        loss = functional.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
        if recipe.distillation == 0:
            return loss
        with torch.no_grad():
            target = functional.softmax(self.teacher(images) / recipe.distillation_temperature, 1)
        soft = functional.log_softmax(logits / recipe.distillation_temperature, 1)
        distance = functional.kl_div(soft, target, reduction="batchmean") * recipe.distillation_temperature**2
        return (1 - recipe.distillation) * loss + recipe.distillation * distance

    def temperature(self) -> float | None:
        """Of the first layer that has one, at the last step."""
        return next((float(quantizer.temperature) for quantizer in self.step.quantizers if hasattr(quantizer, "temperature")), None)


def soft_hard_gap(network: nn.Module) -> float | None:
    """Mean over the layers that train with soft weights or soft gradients of mean |Q_T(w) - Q(w)| / v_N; None without such layers."""
    gaps = [quantizer.soft_hard_gap(weight) for _, quantizer, weight in weight_quantizers(network)]
    gaps = [float(gap) for gap in gaps if gap is not None]
    return sum(gaps) / len(gaps) if gaps else None


def _print_line(row, epochs, speed, left, log) -> None:
    gap = "" if row["soft_hard_gap"] is None else f"  gap {row['soft_hard_gap']:.4f}"
    log(
        f"seed {row['seed']} epoch {row['epoch']}/{epochs}  loss {row['train_loss']:.4f}  train {row['train_top1']:.2f} %  "
        f"val {row['val_top1']:.2f} %{gap}  {speed:.0f} images/s  {left / 60:.1f} min left"
    )
