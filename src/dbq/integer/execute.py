"""Runs a Program in one of two arithmetics, which give the same integers.

    logits = execute.run(program, images)

exact: int64 throughout, written for clarity; the reference.

The default holds integers in floating point. A float32 holds every integer up to 2^24 and a float64 every integer up to 2^53. Sums,
products and divisions by powers of two are exact as long as their results stay below these limits. Each operation takes the narrowest of
float32, float64 and int64 that its worst case allows. So only the rounding that an operation asks for happens, and torch's fast
convolutions can form the sums. Convolutions that work on transformed inputs (NNPACK's Winograd and FFT) would not be exact, and are
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


def container_of(value: ops.Value) -> torch.dtype:
    return container(max(abs(value.low), abs(value.high)))


@torch.inference_mode()
def run(program: Program, images: Tensor, exact: bool = False, observe: dict | None = None, keep: bool = False):
    """Logits (N, classes) int64 of normalised float images, or of uint8 images if the program has their table.

    exact: compute in int64, slowly. observe: a dict that receives {layer: (smallest, largest accumulator)}, widened from call to call.
    keep: return (logits, {name: integers of every value}). Raises DbqError for images of another shape.
    """
    if tuple(images.shape[1:]) != program.image_shape:
        raise DbqError(
            f"images of shape {tuple(images.shape[1:])}, the program is for {program.image_shape}",
            "compile the network for this image size",
        )
    values: dict[str, Tensor] = {"image": images.cpu()}
    last_use = {name: index for index, operation in enumerate(program.operations) for name in operation.inputs}
    with torch.backends.nnpack.flags(enabled=False):
        for index, operation in enumerate(program.operations):
            inputs = [values[name] for name in operation.inputs]
            function = (_EXACT if exact else _FAST).get(type(operation)) or _BOTH[type(operation)]
            values[operation.output] = function(program, operation, inputs, observe)
            if not keep:
                for name in operation.inputs:
                    if last_use[name] == index:
                        values.pop(name, None)
    logits = values[program.logits].long()
    if not keep:
        return logits
    del values["image"]
    return logits, values


def _observe(operation: ops.DotProducts, sums: list[Tensor], observe: dict) -> None:
    ends = [part.aminmax() for part in sums]
    low, high = int(min(end.min for end in ends)), int(max(end.max for end in ends))
    seen = observe.get(operation.layer, (low, high))
    observe[operation.layer] = (min(low, seen[0]), max(high, seen[1]))


def _quantize(program, operation: ops.Quantize, inputs, observe):
    (images,) = inputs
    if images.dtype == torch.uint8:
        if operation.table is None:
            raise DbqError("uint8 images, and the program doesn't know their normalisation", "compile it with mean and std")
        return torch.stack([operation.table[c][images[:, c].long()] for c in range(3)], 1).float()
    return torch.mul(images, 1 / operation.step).round_().clamp_(operation.low, operation.high)


# ---- exact: int64 ----


def _quantize_exact(program, operation, inputs, observe):
    return _quantize(program, operation, inputs, observe).long()


def sums_exact(operation: ops.DotProducts, x: Tensor) -> Tensor:
    """Accumulators (B, N, C, H, W) or (B, N, C) of int64 inputs, window by window in numpy."""
    planes = operation.planes.numpy().astype(np.int64)
    if planes.ndim == 3:
        return torch.from_numpy(np.einsum("nk,bck->bnc", x.numpy(), planes))
    (top, left), (down, right), (dy, dx) = operation.padding, operation.stride, operation.dilation
    branches, channels, depth, height, width = planes.shape
    padded = np.pad(x.numpy(), ((0, 0), (0, 0), (top, top), (left, left)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, ((height - 1) * dy + 1, (width - 1) * dx + 1), axis=(2, 3))
    windows = windows[:, :, ::down, ::right, ::dy, ::dx]  # (N, K, H, W, h, w)
    groups, parts = operation.groups, []
    for group in range(groups):
        part = windows[:, group * depth : (group + 1) * depth].transpose(0, 2, 3, 1, 4, 5)
        n, rows, columns = part.shape[:3]
        matrix = planes[:, group * channels // groups : (group + 1) * channels // groups].reshape(-1, depth * height * width)
        product = part.reshape(n * rows * columns, -1) @ matrix.T
        parts.append(product.reshape(n, rows, columns, branches, channels // groups).transpose(3, 0, 4, 1, 2))
    return torch.from_numpy(np.ascontiguousarray(np.concatenate(parts, 2)))


def _dot_products_exact(program, operation, inputs, observe):
    sums = list(sums_exact(operation, inputs[0]))
    if observe is not None:
        _observe(operation, sums, observe)
    return rescale_exact(operation, sums)


def rescale_exact(operation: ops.DotProducts, sums: list[Tensor]) -> Tensor:
    """The accumulators (N, C, ...) of each branch, scaled, added, shifted and clamped in int64."""
    column = (1, -1, *[1] * (sums[0].ndim - 2))
    total = sum(part * multipliers.view(column) for part, multipliers in zip(sums, operation.multipliers, strict=True))
    return _clamp(round_shift(total + operation.bias.view(column), operation.shifts.view(column)), operation)


def _clamp(x, operation):
    return x if operation.low is None else x.clamp_(operation.low, operation.high)


def _rescale_exact(program, operation: ops.Rescale, inputs, observe):
    return _clamp(round_shift(inputs[0] * operation.multiplier, torch.tensor(operation.shift)), operation)


# ---- fast: integers in floating point ----


class _Prepared:
    """An operation's constants in the types that it runs in."""

    def __init__(self, operation: ops.DotProducts):
        branches, channels = operation.planes.shape[:2]
        self.sums = container(1 << (operation.accumulator_bits - 1))
        widest = operation.multipliers.abs().double().sum(0) * 2.0 ** (operation.accumulator_bits - 1) + operation.bias.abs()
        self.products = container(int(widest.max()))
        # the branches of a convolution in groups can't be stacked: its outputs would come in another order
        self.stacked = operation.groups == 1
        kind = torch.float64 if self.sums == torch.int64 else self.sums
        weights = operation.planes.to(kind)
        parts = [weights.flatten(0, 1)] if self.stacked else list(weights)
        self.weights = [part.contiguous(memory_format=torch.channels_last) if part.ndim == 4 else part for part in parts]
        if self.products != torch.int64:
            repeat = max(1, ROW // channels) if branches == 1 else 1
            powers = torch.from_numpy(np.ldexp(1.0, -operation.shifts.numpy()))
            self.multipliers = (operation.multipliers * powers).to(self.products).repeat(1, repeat)
            self.bias = (operation.bias * powers).to(self.products).repeat(repeat)


def _sums(operation: ops.DotProducts, ready: _Prepared, x: Tensor) -> list[Tensor]:
    """Accumulators (N, C, ...) of each branch."""
    x = x.to(ready.weights[0].dtype)
    if operation.planes.ndim == 3:
        parts = [x @ weights.T for weights in ready.weights]
    else:
        settings = (operation.stride, operation.padding, operation.dilation, operation.groups)
        parts = [functional.conv2d(x, weights, None, *settings) for weights in ready.weights]
    return list(parts[0].split(operation.planes.shape[1], 1)) if ready.stacked else parts


def _rows(x: Tensor, width: int) -> Tensor:
    """(N, C, H, W) in channels_last, or (N, C), as a matrix of rows of C or a multiple of C; a view of a whole tensor."""
    flat = x.permute(0, 2, 3, 1) if x.ndim == 4 else x
    return flat.reshape(-1, width) if flat.is_contiguous() and flat.numel() % width == 0 else flat.flatten(0, -2)


def _dot_products(program, operation: ops.DotProducts, inputs, observe):
    ready = _Prepared(operation)
    if operation.accumulator_bits > 54:
        return _dot_products_exact(program, operation, [inputs[0].long()], observe)
    sums = _sums(operation, ready, inputs[0])
    if observe is not None:
        _observe(operation, sums, observe)
    kind = container_of(program.values[operation.output])
    if ready.products == torch.int64:
        return rescale_exact(operation, [part.long() for part in sums]).to(kind)
    first = sums[0]
    if first.ndim == 4 and not all(part.permute(0, 2, 3, 1).stride(3) == 1 for part in sums):
        sums = [part.contiguous(memory_format=torch.channels_last) for part in sums]
        first = sums[0]
    # in place where the result is as wide as the sums and every branch has its own memory
    reuse = len(sums) == 1 and kind == first.dtype
    memory = torch.channels_last if first.ndim == 4 else torch.contiguous_format
    result = first if reuse else torch.empty(first.shape, dtype=kind, memory_format=memory)
    width = len(ready.bias) if len(sums) == 1 else first.shape[1]
    parts = [_rows(part, width) for part in sums]
    target = _rows(result, width)
    width = target.shape[1]
    multipliers, bias = ready.multipliers[:, :width], ready.bias[:width]
    height = max(1, BLOCK // width)
    buffer = torch.empty(min(height, len(target)), width, dtype=ready.products)
    other = torch.empty_like(buffer) if len(parts) > 1 else None
    for start in range(0, len(target), height):
        block = slice(start, start + height)
        out = buffer[: len(target[block])]
        out.copy_(parts[0][block])
        torch.addcmul(bias, out, multipliers[0], out=out)
        for part, row in zip(parts[1:], multipliers[1:], strict=True):
            more = other[: len(out)]
            more.copy_(part[block])
            out.addcmul_(more, row)
        target[block] = _clamp(out.round_(), operation)
    return result


def _rescale(program, operation: ops.Rescale, inputs, observe):
    source, target = program.values[operation.inputs[0]], program.values[operation.output]
    largest = max(abs(source.low), abs(source.high))
    odd = operation.multiplier // (operation.multiplier & -operation.multiplier)  # its power of two costs no precision
    kind = container(largest * odd)
    if kind == torch.int64:
        return _rescale_exact(program, operation, [inputs[0].long()], observe).to(container_of(target))
    scaled = torch.mul(inputs[0].to(kind), float(operation.multiplier) * 2.0**-operation.shift).round_()
    return _clamp(scaled, operation).to(container_of(target))


# ---- the same in both: nothing is scaled ----


def _wide_enough(program, operation, inputs):
    if inputs[0].dtype == torch.int64:
        return inputs
    kind = container_of(program.values[operation.output])
    return [x.to(kind) for x in inputs]


def _add(program, operation, inputs, observe):
    first, second = _wide_enough(program, operation, inputs)
    return first + second


def _concatenate(program, operation, inputs, observe):
    return torch.cat(_wide_enough(program, operation, inputs), 1)


def _select(program, operation, inputs, observe):
    channels = operation.channels
    if len(channels) == int(channels[-1] - channels[0]) + 1 and bool((channels.diff() == 1).all()):
        return inputs[0][:, int(channels[0]) : int(channels[-1]) + 1]
    return inputs[0].index_select(1, channels)


def _subsample_and_pad(program, operation, inputs, observe):
    return functional.pad(inputs[0][:, :, :: operation.stride, :: operation.stride], (0, 0, 0, 0, operation.pad, operation.pad))


def _max_pool(program, operation, inputs, observe):
    return functional.max_pool2d(inputs[0], operation.kernel, operation.stride, operation.padding)


def _global_sum(program, operation, inputs, observe):
    (x,) = _wide_enough(program, operation, inputs)
    return x.sum((2, 3), keepdim=operation.keep)


def _flatten(program, operation, inputs, observe):
    return inputs[0].flatten(1)


_BOTH = {
    ops.Add: _add,
    ops.Concatenate: _concatenate,
    ops.SelectChannels: _select,
    ops.SubsampleAndPad: _subsample_and_pad,
    ops.MaxPool: _max_pool,
    ops.GlobalSum: _global_sum,
    ops.Flatten: _flatten,
}
_FAST = {ops.Quantize: _quantize, ops.DotProducts: _dot_products, ops.Rescale: _rescale}
_EXACT = {ops.Quantize: _quantize_exact, ops.DotProducts: _dot_products_exact, ops.Rescale: _rescale_exact}
