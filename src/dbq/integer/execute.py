"""Runs a Program in one of two arithmetics, which give the same integers.

    logits = execute.run(program, images)

`exact` is int64 throughout: the reference. The default holds integers in floating point, so that torch's fast convolutions form the sums.
A float32 holds every integer up to 2^24 and a float64 every integer up to 2^53. Sums, products and divisions by powers of two are exact as
long as their results stay below these limits. Each operation takes the narrowest of float32, float64 and int64 that its worst case allows,
so only the rounding that it asks for happens. Convolutions of transformed inputs (NNPACK's Winograd and FFT) would not be exact, and are
switched off.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dbq.errors import DbqError
from dbq.integer import program as ops
from dbq.integer.fixed_point import round_shift
from dbq.integer.program import Program

BLOCK = 1 << 16  # elements rescaled at a time: 512 KiB of float64 stay in a processor's cache
ROW = 128  # a scale vector is repeated to rows of so many elements, because short rows are slow


def container(largest: int) -> torch.dtype:
    """The narrowest type that holds every integer up to this magnitude exactly."""
    return torch.float32 if largest <= 1 << 24 else torch.float64 if largest <= 1 << 53 else torch.int64


@torch.inference_mode()
def run(program: Program, images: Tensor, exact: bool = False, observe: dict | None = None, keep: bool = False):
    """Logits (N, classes) int64 of normalised float images, or of uint8 images if the program has their table.

    exact: compute in int64, slowly. observe: a dict that receives {layer: (smallest, largest accumulator)}, widened from call to call.
    keep: return (logits, {name: integers of every value}). Raises DbqError for images of another shape.
    """
    if tuple(images.shape[1:]) != program.image_shape:
        problem = f"images of shape {tuple(images.shape[1:])}, the program is for {program.image_shape}"
        raise DbqError(problem, "compile the network for this image size")
    values: dict[str, Tensor] = {"image": images.cpu()}
    last_use = {name: index for index, operation in enumerate(program.operations) for name in operation.inputs}
    with torch.backends.nnpack.flags(enabled=False):
        for index, operation in enumerate(program.operations):
            inputs = [values[name] for name in operation.inputs]
            kind = torch.int64 if exact else container(program.values[operation.output].largest)
            if isinstance(operation, ops.Quantize):
                result = _quantize(operation, *inputs)
            elif isinstance(operation, ops.DotProducts):
                result = _dot_products(operation, *inputs, kind, exact, observe)
            elif isinstance(operation, ops.Rescale):
                largest = None if exact else program.values[operation.inputs[0]].largest
                result = _rescale(operation, *inputs, largest)
            else:
                result = UNSCALED[type(operation)](operation, *(x.to(kind) for x in inputs))
            values[operation.output] = result.to(kind)
            if not keep:
                for name in operation.inputs:
                    if last_use[name] == index:
                        values.pop(name, None)
    logits = values[program.logits].long()
    if not keep:
        return logits
    del values["image"]
    return logits, values


def _quantize(operation: ops.Quantize, images: Tensor) -> Tensor:
    if images.dtype == torch.uint8:
        if operation.table is None:
            raise DbqError("uint8 images, and the program doesn't know their normalisation", "compile it with mean and std")
        return torch.stack([operation.table[c][images[:, c].long()] for c in range(3)], 1)
    return torch.mul(images, 1 / operation.step).round_().clamp_(operation.low, operation.high)


def _clamp(x: Tensor, operation) -> Tensor:
    return x if operation.low is None else x.clamp_(operation.low, operation.high)


def _rescale(operation: ops.Rescale, x: Tensor, largest: int | None) -> Tensor:
    """largest: magnitude of x; None: compute in int64."""
    odd = operation.multiplier // (operation.multiplier & -operation.multiplier)  # its power of two costs no precision
    kind = torch.int64 if largest is None else container(largest * odd)
    if kind == torch.int64:
        return _clamp(round_shift(x.long() * operation.multiplier, torch.tensor(operation.shift)), operation)
    return _clamp(torch.mul(x.to(kind), float(operation.multiplier) * 2.0**-operation.shift).round_(), operation)


def _sums(operation: ops.DotProducts, x: Tensor) -> list[Tensor]:
    """Accumulators (N, C, ...) of each branch, in the type of x."""
    # the branches of a convolution in groups can't be stacked: its outputs would come in another order
    planes, stacked = operation.planes.to(x.dtype), operation.groups == 1
    weights = [planes.flatten(0, 1)] if stacked else list(planes)
    if planes.ndim == 3:
        parts = [x @ part.T for part in weights]
    else:
        geometry = (operation.stride, operation.padding, operation.dilation, operation.groups)
        parts = [functional.conv2d(x, part.contiguous(memory_format=torch.channels_last), None, *geometry) for part in weights]
    return list(parts[0].split(planes.shape[1], 1)) if stacked else parts


def _dot_products(operation: ops.DotProducts, x: Tensor, kind: torch.dtype, exact: bool, observe: dict | None) -> Tensor:
    """kind: type that holds the results."""
    widest = 1 << (operation.accumulator_bits - 1)
    sums = _sums(operation, x.to(torch.int64 if exact else container(widest)))
    if observe is not None:
        ends = [int(end) for part in sums for end in part.aminmax()] + list(observe.get(operation.layer, ()))
        observe[operation.layer] = (min(ends), max(ends))
    largest = (operation.multipliers.abs().double().sum(0) * float(widest) + operation.bias.abs()).max()
    products = torch.int64 if exact else container(max(int(largest), widest))
    if products == torch.int64:
        column = (1, -1, *[1] * (x.ndim - 2))
        total = sum(part.long() * factors.view(column) for part, factors in zip(sums, operation.multipliers, strict=True))
        return _clamp(round_shift(total + operation.bias.view(column), operation.shifts.view(column)), operation)
    return _scaled(operation, sums, kind, products)


def _rows(x: Tensor, width: int) -> Tensor:
    """(N, C, H, W) in channels_last, or (N, C), as a matrix of rows of C or a multiple of C; a view of a whole tensor."""
    flat = x.permute(0, 2, 3, 1) if x.ndim == 4 else x
    return flat.reshape(-1, width) if flat.is_contiguous() and flat.numel() % width == 0 else flat.flatten(0, -2)


def _scaled(operation: ops.DotProducts, sums: list[Tensor], kind: torch.dtype, products: torch.dtype) -> Tensor:
    """The sums of each branch, scaled, added and rounded block by block. products: the type in which that is exact."""
    memory = torch.channels_last if sums[0].ndim == 4 else torch.contiguous_format
    if sums[0].ndim == 4 and not all(part.stride(1) == 1 for part in sums):
        sums = [part.contiguous(memory_format=memory) for part in sums]
    # in place where the result is as wide as the sums and every branch has its own memory
    reuse = len(sums) == 1 and kind == sums[0].dtype
    result = sums[0] if reuse else torch.empty(sums[0].shape, dtype=kind, memory_format=memory)
    channels = sums[0].shape[1]
    repeat = max(1, ROW // channels) if len(sums) == 1 else 1
    target, *parts = (_rows(part, channels * repeat) for part in (result, *sums))
    width = target.shape[1]
    powers = torch.from_numpy(np.ldexp(1.0, -operation.shifts.numpy()))
    multipliers = (operation.multipliers * powers).to(products).repeat(1, repeat)[:, :width]
    bias = (operation.bias * powers).to(products).repeat(repeat)[:width]
    height = max(1, BLOCK // width)
    buffer, other = (torch.empty(min(height, len(target)), width, dtype=products) for _ in range(2))
    for start in range(0, len(target), height):
        block = slice(start, start + height)
        out = buffer[: len(target[block])].copy_(parts[0][block])
        torch.addcmul(bias, out, multipliers[0], out=out)
        for part, row in zip(parts[1:], multipliers[1:], strict=True):
            out.addcmul_(other[: len(out)].copy_(part[block]), row)
        target[block] = _clamp(out.round_(), operation)
    return result


def _select(operation: ops.SelectChannels, x: Tensor) -> Tensor:
    channels = operation.channels
    first = int(channels[0])
    neighbours = torch.equal(channels, first + torch.arange(len(channels)))  # a slice is no copy
    return x[:, first : first + len(channels)] if neighbours else x.index_select(1, channels)


UNSCALED = {
    ops.Add: lambda operation, x, y: x + y,
    ops.Concatenate: lambda operation, *parts: torch.cat(parts, 1),
    ops.SelectChannels: _select,
    ops.SubsampleAndPad: lambda it, x: functional.pad(x[:, :, :: it.stride, :: it.stride], (0, 0, 0, 0, it.pad, it.pad)),
    ops.MaxPool: lambda operation, x: functional.max_pool2d(x, operation.kernel, operation.stride, operation.padding),
    ops.GlobalSum: lambda operation, x: x.sum((2, 3), keepdim=operation.keep),
    ops.Flatten: lambda operation, x: x.flatten(1),
}
