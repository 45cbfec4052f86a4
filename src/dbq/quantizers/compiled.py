"""DBQ's hard forward pass and its surrogate gradient as two loops over the weights, compiled by torch.compile.

Each operation of branch_function.py reads and writes all weights once. In networks with millions of weights this traffic, not the
arithmetic, is what DBQ adds to a training step. A compiled loop reads the weights once.

The loop also takes thresholds in pairs -t, t, because levels are symmetric. With y = T g1 w, p = exp(-|y|), C = 2 cosh(T t),
S = 2 sinh(T t), q = 1 + p^2 + C p and s'(x) = s(x) (1 - s(x)) = 1 / (2 + 2 cosh x), the addition theorems of cosh give:

    s'(y - T t) + s'(y + T t) = (4 p^2 + C p (1 + p^2)) / q^2   for the gradient of a weight
    s'(y - T t) - s'(y + T t) = sign(y) S p (1 - p^2) / q^2     for the gradient of scales, which move t and -t against each other

So a weight needs one exponential, whatever the number of its thresholds. q is at most 2 + C, however large a weight is.

Tie rule, as in levels.py: a weight on a threshold takes the level above it. A weight on -t therefore takes the inner level.
"""

import functools
import os
import shutil
import sysconfig
from pathlib import Path

import torch
from torch import Tensor

from dbq.quantizers.levels import midpoints

LARGEST = 40.0  # temperature in units of 1 / (largest level) up to which q^2 stays within float32's limits
SHAPES = 256  # for so many shapes of weights one process may compile each kernel; torch's own limit of 8 is fewer than a network has


def why_not(device: torch.device) -> str | None:
    """Why kernels can't be compiled for this device; None if they can."""
    if device.type != "cpu":
        return None
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        return "no C++ compiler (g++)"
    header = Path(sysconfig.get_path("include"), "Python.h")  # torch.compile builds an extension module
    return None if header.is_file() else f"no {header} (Python's development files)"


def hard(w: Tensor, levels: Tensor, g1: Tensor, g2: Tensor, rows: Tensor) -> Tensor:
    """Q(w) (R, K), bit for bit as by branch_function.py; levels (G, N); g1 and g2 (G, 1); rows (R,): the group of each row."""
    return _kernel(_hard)(w, g1[rows], midpoints(levels)[rows], (g2 * levels)[rows])


def gradients(w, grad, levels, g1, g2, temperature, rows) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The parts of the surrogate gradient, all but the first summed over K.

    T g1 g2 grad sum_i d_i s'_i (R, K); its dot product with w (R, 1); grad summed by hard level (R, N); and the sums of grad s'_i (R, N-1).
    The two last ones are only the part that is odd under a change of sign of the level or threshold. Sorted levels and planes are odd, so
    the even part adds nothing to the scales' gradients.
    """
    pairs = levels.shape[1] // 2
    thresholds = midpoints(levels)[:, pairs:]  # (G, P), the positive ones
    tau = temperature * thresholds
    cosh = 2 * tau.cosh()
    gaps = levels.diff(dim=1)[:, pairs:] * (temperature * g1 * g2)
    w_grad, dots, beyond, odd = _kernel(_gradients)(
        w, grad, g1[rows], (temperature * g1)[rows], thresholds[rows], cosh[rows], (gaps * cosh)[rows], (4 * gaps)[rows]
    )
    by_level = (beyond - torch.nn.functional.pad(beyond[:, 1:], (0, 1))) / 2
    odd *= tau.sinh()[rows]  # S / 2 for t, and the other half for -t
    zero = w.new_zeros(len(w), 1)
    return w_grad, dots, torch.cat([-by_level.flip(1), zero, by_level], 1), torch.cat([-odd.flip(1), odd], 1)


@functools.cache
def _kernel(function):
    # not a decorator, because importing the compiler takes longer than importing torch
    return torch.compile(function, fullgraph=True, dynamic=False, recompile_limit=SHAPES)


def _hard(w, g1, thresholds, table):
    x = w * g1
    result = table[:, :1].expand_as(w)
    for i in range(thresholds.shape[1]):
        result = torch.where(x >= thresholds[:, i : i + 1], table[:, i + 1 : i + 2], result)
    return result


def _gradients(w, grad, g1, inner, thresholds, cosh, linear, constant):
    """w_grad (R, K); its dot product with w (R, 1); the sum of grad over the weights above t less that over the weights below -t (R, P);
    and the sums of sign(y) grad p (1 - p^2) / q^2 (R, P)."""
    x = w * g1
    signed = torch.where(x >= 0, grad, -grad)
    p = (w * inner).abs().neg().exp()
    square = p * p
    cube, base = p * square, 1 + square
    u, v = p + cube, (p - cube) * signed
    slope, beyond, odd = torch.zeros_like(w), [], []
    for pair, r in enumerate(_reciprocals([base + p * cosh[:, i : i + 1] for i in range(cosh.shape[1])])):
        r = r * r
        slope = slope + (u * linear[:, pair : pair + 1] + square * constant[:, pair : pair + 1]) * r
        odd.append((v * r).sum(1))
        t = thresholds[:, pair : pair + 1]
        beyond.append(torch.where((x >= t) | (x < -t), signed, 0.0).sum(1))
    w_grad = slope * grad
    return w_grad, (w_grad * w).sum(1, keepdim=True), torch.stack(beyond, 1), torch.stack(odd, 1)


def _reciprocals(values: list[Tensor]) -> list[Tensor]:
    """1 / value of each, with one division for two: 1 / a = b / (a b). The product of two stays below e^(2 LARGEST)."""
    result = []
    for first, second in zip(values[::2], values[1::2], strict=False):
        both = 1 / (first * second)
        result += [second * both, first * both]
    return result + [1 / value for value in values[len(result) :]]
