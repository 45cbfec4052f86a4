"""Training in bfloat16, where it is faster than float32."""

import functools

import torch
from torch import Tensor, nn


def autocast(network: nn.Module, precision: str, log=print) -> torch.autocast:
    """The context of a forward pass in this precision (fp32 or bf16).

    On a CPU depthwise convolutions stay in float32: they have no matrix product that bfloat16 would speed up, and its kernels for them are
    slower. MobileNetV1's step at 32x32 takes 0.6 of an autocast of all layers, and 0.66 of fp32's.
    """
    device = next(network.parameters()).device.type
    if precision == "bf16" and device == "cpu":
        if not torch.cpu.get_capabilities().get("avx512_bf16"):
            log("precision bf16: this processor has no bfloat16 instructions, so that it is slower than fp32 -> set precision: fp32")
        for module in network.modules():
            if isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1:
                module.forward = functools.partial(_in_fp32, module)
    return torch.autocast(device, torch.bfloat16, enabled=precision == "bf16")


def _in_fp32(module: nn.Conv2d, x: Tensor) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        return type(module).forward(module, x.float())


def fp32_is_fp32() -> None:
    """On a GPU convolutions of float32 would have the 10 bits of TF32 otherwise: fewer than an engine that rounds to 8 bits can ignore."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
