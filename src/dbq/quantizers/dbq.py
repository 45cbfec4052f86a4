"""DBQ, the differentiable branch quantizer, as a parametrization of a layer's weight. Its formulas stand in branch_function.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from dbq.errors import DbqError
from dbq.quantizers import branch_function
from dbq.quantizers.base import Decomposition, Transfer, WeightQuantizer, from_memory_order, memory_order
from dbq.quantizers.compiled import LARGEST
from dbq.quantizers.initial import least_squares_scales
from dbq.quantizers.levels import assign, levels_and_planes, midpoints, take

if TYPE_CHECKING:
    from dbq.settings.quantizers import DbqSettings, TemperatureSettings

COLLAPSED = 1e-3  # a branch below this fraction of the largest one adds no level that differs from its neighbours


def temperature(config: TemperatureSettings, progress: float) -> float:
    """The temperature at `progress` (0 at the first step, 1 at the last), in units of 1 / (largest level)."""
    if config.schedule == "constant":
        return config.start
    if config.schedule == "linear":
        return config.start + (config.end - config.start) * progress
    return config.start * (config.end / config.start) ** progress


class BranchQuantizer(WeightQuantizer):
    """Quantizes a weight tensor (C_out, ...) to sums of B ternary branches.

    Parameters: branch scales a (G, B), normalised so that the largest level starts at 1; pre-scale g1 and post-scale g2, scalars.
    In training mode the forward pass is hard or soft as configured; in evaluation mode it is always hard.
    """

    def __init__(self, weight: Tensor, config: DbqSettings, fit: bool = True):
        """fit: fit the scales to the weight as `config.initial` says. False: equally spaced levels, which a saved state will replace."""
        super().__init__(config.weight_bits, config.scales)
        self.config = config
        groups = self.groups(weight.detach().flatten(1))
        if fit and config.initial == "least_squares":
            scales = least_squares_scales(groups, config.branches)
        else:  # equally spaced levels up to the largest weight
            scales = torch.tensor([3.0**-branch for branch in range(config.branches)], device=weight.device)
            scales = groups.abs().amax(1, keepdim=True) * scales / scales.sum()
        largest = scales.sum(1).max()
        self.a = nn.Parameter(scales / largest)
        self.g1 = nn.Parameter(1 / largest)
        self.g2 = nn.Parameter(largest.clone())
        self.register_buffer("temperature", torch.tensor(config.temperature.start))
        # the same number on the host: a decision in Python that reads the buffer would make the host wait for a GPU
        self.host_temperature = config.temperature.start
        self.register_load_state_dict_post_hook(lambda module, _: setattr(module, "host_temperature", float(module.temperature)))
        self.use_compiled = False  # compiled kernels, if the machine has a compiler: policies.use_compiled_kernels
        # as in LSQ: a scale sums the gradients of many weights and would otherwise move much faster than they do
        self.gradient_scale = (groups.shape[1] * config.branches) ** -0.5 if config.gradient_scale == "lsq" else 1.0

    def forward(self, weight: Tensor) -> Tensor:
        if self.finished is not None:
            return self.finished
        values = memory_order(weight).flatten(1), self.a, self.g1, self.g2
        if self.training:
            kernels = self.config.forward == "hard", self.compiled
            quantized = branch_function.one_layer(*values, self.absolute_temperature(), *kernels, self.gradient_scale)
        else:
            quantized = branch_function.hard(*values)
        return from_memory_order(quantized, weight)

    def advance(self, progress: float, epoch: int) -> None:
        value = temperature(self.config.temperature, progress)
        if value != self.host_temperature:
            self.temperature.fill_(value)
        self.host_temperature = value

    @property
    def compiled(self) -> bool:
        """Whether the next training step uses compiled kernels: they compute up to a temperature of LARGEST only."""
        return self.use_compiled and self.host_temperature <= LARGEST

    def absolute_temperature(self) -> Tensor:
        """(G, 1) the temperature in units of the scaled weight g1 w: `temperature` is relative to the largest level, sum_j a_j."""
        return (self.temperature / self.a.detach().sum(1, keepdim=True)).clamp_max(1e30)

    @torch.no_grad()
    def transfer(self, weight: Tensor) -> Transfer:
        levels = levels_and_planes(self.a[:1])[0]
        return Transfer(self.g1 * self.groups(weight.flatten(1))[:1], levels[0], midpoints(levels)[0])

    @torch.no_grad()
    def soft_hard_gap(self, weight: Tensor) -> Tensor:
        values = weight.flatten(1), self.a, self.g1, self.g2
        soft, hard = branch_function.soft(*values, self.absolute_temperature()), branch_function.hard(*values)
        return ((soft - hard).abs() / (self.g2.abs() * self.a.sum(1, keepdim=True))).mean()

    @torch.no_grad()
    def decompose(self, weight: Tensor) -> Decomposition:
        """The hard weights as planes and scales, branches in descending order of their scale."""
        order = self.a.sum(0).argsort(descending=True)
        levels, planes = levels_and_planes(self.a)
        index = assign(self.g1 * weight.flatten(1), midpoints(levels))
        per_branch = [take(planes[:, :, branch], index) for branch in order.tolist()]
        return Decomposition(torch.stack(per_branch).to(torch.int8), self.g2 * self.a[:, order])

    @torch.no_grad()
    def check(self, weight: Tensor, layer: str) -> None:
        """As for every quantizer; also for a branch that has collapsed or that no weight uses."""
        super().check(weight, layer)
        remedy = "lower scale_learning_rate or use fewer branches"
        if self.g1 == 0 or self.g2 == 0 or (self.a <= COLLAPSED * self.a.amax(1, keepdim=True)).any():
            raise DbqError(f"layer {layer}: a branch has collapsed (scales {self.a.tolist()[:3]})", remedy)
        unused = [str(j + 1) for j, plane in enumerate(self.decompose(weight).planes) if not plane.any()]
        if unused:
            raise DbqError(f"layer {layer}: no weight uses branch {', '.join(unused)}", remedy)
