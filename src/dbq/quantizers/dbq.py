"""DBQ, the differentiable branch quantizer, as a parametrization of a layer's weight. Its formulas stand in branch_function.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from dbq.errors import DbqError
from dbq.quantizers import branch_function
from dbq.quantizers.base import Decomposition, Transfer, WeightQuantizer, check_usable
from dbq.quantizers.compiled import LARGEST
from dbq.quantizers.initial import least_squares_scales
from dbq.quantizers.levels import assign, levels_and_planes, midpoints, take
from dbq.quantizers.memory_order import from_memory_order, memory_order
from dbq.quantizers.temperature import HostTemperature, temperature

if TYPE_CHECKING:
    from dbq.settings.quantizers import DbqSettings

COLLAPSED = 1e-3  # a branch below this fraction of the largest one adds no level that differs from its neighbours


class BranchQuantizer(WeightQuantizer):
    """Quantizes a weight tensor (C_out, ...) to sums of B ternary branches.

    Parameters: branch scales a (G, B), normalised so that the largest level starts at 1; pre-scale g1 and post-scale g2, scalars.
    In training mode the forward pass is hard or soft as configured; in evaluation mode it is always hard.
    """

    def __init__(self, weight: Tensor, config: DbqSettings, fit: bool = True):
        """fit: fit the scales to the weight as `config.initial` says. False: equally spaced levels, which a saved state will replace."""
        super().__init__()
        self.config = config
        self.storage_bits = config.weight_bits
        rows = weight.detach().flatten(1)
        groups = rows if config.scales == "channel" else rows.reshape(1, -1)
        check_usable(weight)
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
        self.host_temperature = HostTemperature(config.temperature.start)
        self.register_load_state_dict_post_hook(lambda module, _: module.host_temperature.read_back(module.temperature))
        # as in LSQ: a scale sums the gradients of many weights and would otherwise move much faster than they do
        self.gradient_scale = (groups.shape[1] * config.branches) ** -0.5 if config.gradient_scale == "lsq" else 1.0

    def forward(self, weight: Tensor) -> Tensor:
        if (finished := self.finished_weight()) is not None:
            return finished
        rows = memory_order(weight).flatten(1)
        if self.training:
            count = len(self.a)
            g1, g2 = self.g1.expand(count, 1), self.g2.expand(count, 1)
            layer = branch_function.OneLayer(rows, count)
            scale = rows.new_full((count, 1), self.gradient_scale)
            (quantized,) = branch_function.BranchQuantize.apply(
                layer, self.config.forward == "hard", self.compiled, self.a, g1, g2, self.absolute_temperature(), scale, rows
            )
        else:
            quantized = branch_function.hard(rows, self.a, self.g1, self.g2)
        return from_memory_order(quantized, weight)

    def advance(self, progress: float, epoch: int) -> None:
        self.host_temperature.set(temperature(self.config.temperature, progress), self.temperature)

    @property
    def compiled(self) -> bool:
        """Whether the next training step uses compiled kernels: they compute up to a temperature of LARGEST only."""
        return self.joint is not None and self.joint.compiled and self.host_temperature.value <= LARGEST

    def absolute_temperature(self) -> Tensor:
        """(G, 1) the temperature in units of the scaled weight g1 w: `temperature` is relative to the largest level, sum_j a_j."""
        return (self.temperature / self.a.detach().sum(1, keepdim=True)).clamp_max(1e30)

    @torch.no_grad()
    def transfer(self, weight: Tensor) -> Transfer:
        levels = levels_and_planes(self.a[:1])[0]
        rows = weight.flatten(1) if len(self.a) == 1 else weight.flatten(1)[:1]
        return Transfer(self.g1 * rows, levels[0], midpoints(levels)[0])

    @torch.no_grad()
    def soft_hard_gap(self, weight: Tensor) -> Tensor:
        rows = weight.flatten(1)
        soft = branch_function.soft(rows, self.a, self.g1, self.g2, self.absolute_temperature())
        hard = branch_function.hard(rows, self.a, self.g1, self.g2)
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
        if self.g1 == 0 or self.g2 == 0 or (self.a <= COLLAPSED * self.a.amax(1, keepdim=True)).any():
            raise DbqError(
                f"layer {layer}: a branch has collapsed (scales {self.a.tolist()[:3]})", "lower scale_learning_rate or use fewer branches"
            )
        unused = [str(j + 1) for j, plane in enumerate(self.decompose(weight).planes) if not plane.any()]
        if unused:
            raise DbqError(f"layer {layer}: no weight uses branch {', '.join(unused)}", "lower scale_learning_rate or use fewer branches")
