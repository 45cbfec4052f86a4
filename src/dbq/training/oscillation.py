"""Weights that oscillate between levels: they flip back and forth at the end of a training instead of settling.

A weight near a threshold can change its level again and again, and the batch-norm statistics never fit it (Nagel et al., "Overcoming
Oscillations in Quantization-Aware Training", ICML 2022). Here a weight counts as oscillating when, in the last epoch, it returned at least
once to the level that it had left, among samples taken every SAMPLED steps. Of a training of one epoch only its second half counts: in the
first one weights still travel to their places at the highest learning rates.
"""

import torch
from torch import nn

from dbq.insertion.policies import weight_quantizers

SAMPLED = 10  # steps between two samples


class Oscillation:
    """Counts returns to the level of two changes ago."""

    def __init__(self, network: nn.Module):
        self.layers = [(name, quantizer, weight) for name, quantizer, weight in weight_quantizers(network)]
        self.current: list = []
        self.previous: list = []
        self.returned: list = []

    @torch.no_grad()
    def sample(self) -> None:
        codes = [_codes(quantizer, weight) for _, quantizer, weight in self.layers]
        if not self.current:
            self.current, self.previous = codes, [code.clone() for code in codes]
            self.returned = [torch.zeros_like(code, dtype=torch.bool) for code in codes]
            return
        for code, current, previous, returned in zip(codes, self.current, self.previous, self.returned, strict=True):
            changed = code != current
            returned |= changed & (code == previous) & (current != previous)
            previous.copy_(torch.where(changed, current, previous))
            current.copy_(code)

    def rates(self) -> dict[str, float]:
        """Fraction of oscillating weights by layer; empty if nothing was sampled."""
        return {name: float(returned.float().mean()) for (name, *_), returned in zip(self.layers, self.returned, strict=False)}


def _codes(quantizer, weight) -> torch.Tensor:
    """One small number for each level of each weight."""
    if quantizer.coding == "fixed_point":
        return quantizer.integers(weight).flatten(1).to(torch.int16)
    planes = quantizer.decompose(weight).planes.to(torch.int16)
    code = planes[0]
    for plane in planes[1:]:
        code = 3 * code + plane
    return code
