"""One training step: forward pass, loss, gradients, update, and the running sums of an epoch.

On a CPU every step calls torch. On a GPU the first steps do, and the later ones replay a CUDA graph of them: some thousand kernels in one
launch. Called one by one, a kernel of a network for 32x32 images ends before Python has asked for the next.
https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs says what a graph asks for: fixed addresses, and nothing that waits for
the device.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from dbq.insertion.activations import ActivationQuantizer
from dbq.insertion.policies import weight_quantizers

EAGER_STEPS = 3  # libraries choose their kernels and make their workspaces before a graph is captured


@functools.cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    # one for all: cuBLAS keeps 32 MiB of workspace for each stream that it has seen, which would count as memory of the step
    return torch.cuda.Stream(device)


class Step:
    """Calling it with images (B, 3, H, W) and labels (B,) does one step and adds to `loss_sum` and `correct`; returns the mean loss.

    loss_of(images, labels) -> (mean loss, logits) is the forward pass of the network. The optimiser is one of optimiser.build. On a GPU the
    returned loss is overwritten by the next step. graph: None captures where it can; False never.
    """

    def __init__(self, network: nn.Module, optimiser, loss_of: Callable, graph: bool | None = None, log=print):
        self.optimiser, self.loss_of = optimiser, loss_of
        self.device = next(network.parameters()).device
        self.loss_sum = torch.zeros((), device=self.device)
        self.correct = torch.zeros((), dtype=torch.long, device=self.device)
        self.quantizers = [quantizer for _, quantizer, _ in weight_quantizers(network)]
        self.norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        self.captures = self.device.type == "cuda" and graph is not False
        if self.captures and any(isinstance(module, ActivationQuantizer) and module.learnt for module in network.modules()):
            self.captures = False
            log("learnt clips of activations are read at every step: no CUDA graph, so that a step waits for the device")
        self.form, self.warm = None, 0  # what the graph was made for; eager steps done in that form
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        if not self.captures:
            return self._eager(images, labels)
        form = self._form(images)
        if form != self.form:
            self.form, self.warm, self.graph = form, 0, None
        if self.warm < EAGER_STEPS:
            self.warm += 1
            return self._on_side_stream(images, labels)
        if self.graph is None:
            self._capture(images, labels)
        self.images.copy_(images)
        self.labels.copy_(labels)
        self.graph.replay()
        return self.loss

    def reset_sums(self) -> None:
        self.loss_sum.zero_()
        self.correct.zero_()

    def _form(self, images: Tensor) -> tuple:
        """What Python decides in a step: another value of it needs another graph."""
        modes = tuple(norm.training for norm in self.norms)
        return images.shape, modes, tuple(getattr(quantizer, "compiled", False) for quantizer in self.quantizers)

    def _eager(self, images: Tensor, labels: Tensor) -> Tensor:
        loss, logits = self.loss_of(images, labels)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        loss = loss.detach()
        self.loss_sum += loss * len(labels)
        self.correct += (logits.detach().argmax(1) == labels).sum()
        return loss

    def _on_side_stream(self, images: Tensor, labels: Tensor) -> Tensor:
        """As the steps before a capture have to be."""
        current, side = torch.cuda.current_stream(self.device), _side_stream(self.device)
        side.wait_stream(current)
        with torch.cuda.stream(side):
            loss = self._eager(images, labels)
        current.wait_stream(side)
        return loss

    def _capture(self, images: Tensor, labels: Tensor) -> None:
        """Records a step without doing it."""
        self.images, self.labels = images.clone(memory_format=torch.preserve_format), labels.clone()
        self.optimiser.zero_grad(set_to_none=True)  # the graph's own gradients lie in its own memory
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.loss = self._eager(self.images, self.labels)
